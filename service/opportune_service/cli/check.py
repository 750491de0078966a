"""`opportune check`: everything that is wrong with a rulebase, at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from opportune_rulebase.errors import Problem, Severity
from opportune_rulebase.model import Rulebase

from opportune_service.app.rulebases import CheckReport, check
from opportune_service.cli.junit import Entry, junit
from opportune_service.cli.options import JsonOption
from opportune_service.cli.problems import problem_record, problem_text, show_problems
from opportune_service.cli.rulebase_files import RulebasePath, read_files, write_text
from opportune_service.cli.terminal import ExitCode, out, print_json

JunitOption = Annotated[
    Path | None,
    typer.Option("--junit", metavar="FILE", dir_okay=False, help="Also write a JUnit report there."),
]


def check_command(
    path: RulebasePath,
    strict: Annotated[
        bool, typer.Option("--strict", help="Do not be content with warnings either.")
    ] = False,
    json: JsonOption = False,
    junit_file: JunitOption = None,
) -> None:
    """Check a rulebase: every error and warning with its place, at once.

    Each problem has its file, line and column, a code, the line at fault and what to do. Nothing is changed
    and no service is needed.

    Ends with 0 if it can be loaded, 1 if it has errors, 4 if it has warnings and --strict is given, 5 if
    there is no rulebase that can be read, 2 for a wrong command line.

    Example: opportune check my-rulebase --strict --junit check.xml
    """
    files = read_files(path)
    report = check(files, datetime.now(UTC).date())
    if json:
        print_json(_record(report))
    else:
        _show(report)
    if junit_file is not None:
        write_text(junit_file, junit("opportune check", _entries(files, report.problems, strict=strict)))
    if report.rulebase is None:
        raise typer.Exit(ExitCode.NO)
    raise typer.Exit(ExitCode.SHORT if strict and report.problems else ExitCode.OK)


def _count(report: CheckReport, severity: Severity) -> int:
    return sum(problem.severity is severity for problem in report.problems)


def _show(report: CheckReport) -> None:
    console = out()
    show_problems(console, report.problems)
    errors, warnings = _count(report, Severity.ERROR), _count(report, Severity.WARNING)
    if report.rulebase is None:
        console.print(f"{errors} error(s), {warnings} warning(s)", style="bold red")
        return
    style = "yellow" if warnings else "green"
    console.print(f"{_summary(report.rulebase)}; {warnings} warning(s)", style=style, markup=False)


def _summary(rulebase: Rulebase) -> str:
    counts = [
        ("campaign", rulebase.campaigns),
        ("definition", {**rulebase.definitions, **rulebase.imported}),
        ("metric", rulebase.metrics),
        ("pattern", rulebase.patterns),
        ("fact", rulebase.facts),
    ]
    said = ", ".join(f"{len(of)} {what}{'s' if len(of) > 1 else ''}" for what, of in counts if of)
    return f"{rulebase.name}: {said or 'nothing in it'}; revision {rulebase.revision[:12]}"


def _record(report: CheckReport) -> dict[str, object]:
    return {
        "ok": report.rulebase is not None,
        "revision": report.rulebase.revision if report.rulebase else "",
        "errors": _count(report, Severity.ERROR),
        "warnings": _count(report, Severity.WARNING),
        "problems": [problem_record(problem) for problem in report.problems],
    }


def _entries(files: Iterable[str], problems: Iterable[Problem], *, strict: bool) -> Iterator[Entry]:
    """A test for each file that is sound, and one for each problem. Warnings fail if `strict` only."""
    at_fault = set()
    for problem in problems:
        at_fault.add(problem.position.file)
        failed = strict or problem.severity is Severity.ERROR
        said = problem_text(problem)
        place = problem.position.file or "rulebase"
        name = f"{problem.code} {problem.position}"
        yield Entry(place, name, said if failed else "", "" if failed else said)
    for name in sorted(set(files) - at_fault):
        yield Entry(name, "sound")
