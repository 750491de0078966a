"""`opportune check`: everything that is wrong with a rulebase, at once."""

from __future__ import annotations

import typer
from opportune_rulebase.errors import RulebaseError, Severity
from opportune_rulebase.model import Rulebase

from opportune_service.adapters.files.rulebase_dir import read_rulebase
from opportune_service.app.rulebases import CheckReport, check
from opportune_service.cli.options import JsonOption, RulebaseArgument
from opportune_service.cli.problems import problem_record, show_problems
from opportune_service.cli.terminal import ExitCode, out, print_json


def check_command(directory: RulebaseArgument, json: JsonOption = False) -> None:
    """Check a rulebase: every error and warning with its place, at once.

    Ends with 0 if it can be loaded (warnings do not count), 1 if it has errors, 2 for a wrong command
    line.

    Example: opportune check rulebase/packs/gprs-precision
    """
    try:
        report = check(read_rulebase(directory))
    except RulebaseError as error:  # the directory itself: no rulebase.yaml, a file too large
        report = CheckReport(None, error.problems)
    if json:
        print_json(_record(report))
    else:
        _show(report)
    raise typer.Exit(ExitCode.OK if report.rulebase else ExitCode.NO)


def _count(report: CheckReport, severity: Severity) -> int:
    return sum(problem.severity is severity for problem in report.problems)


def _show(report: CheckReport) -> None:
    console = out()
    show_problems(console, report.problems)
    errors, warnings = _count(report, Severity.ERROR), _count(report, Severity.WARNING)
    if report.rulebase is None:
        console.print(f"{errors} error(s), {warnings} warning(s)", style="bold red")
        return
    console.print(f"{_summary(report.rulebase)}; {warnings} warning(s)", style="green", markup=False)


def _summary(rulebase: Rulebase) -> str:
    return (
        f"{rulebase.name}: {len(rulebase.campaigns)} campaigns, {len(rulebase.definitions)} definitions, "
        f"{len(rulebase.metrics)} metrics; revision {rulebase.revision[:12]}"
    )


def _record(report: CheckReport) -> dict[str, object]:
    return {
        "ok": report.rulebase is not None,
        "revision": report.rulebase.revision if report.rulebase else "",
        "errors": _count(report, Severity.ERROR),
        "warnings": _count(report, Severity.WARNING),
        "problems": [problem_record(problem) for problem in report.problems],
    }
