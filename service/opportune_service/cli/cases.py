"""`opportune test`: run the tests that a rulebase brings with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer
from opportune_rulebase import load
from rich.text import Text

from opportune_service.adapters.files.rulebase_dir import read_rulebase
from opportune_service.app.read_cases import read_cases
from opportune_service.app.try_cases import CaseResult, try_case
from opportune_service.bootstrap import engine_factory
from opportune_service.cli.options import JsonOption, RulebaseArgument
from opportune_service.cli.terminal import ExitCode, out, print_json, stop
from opportune_service.settings import EngineName


def cases_command(
    directory: RulebaseArgument,
    wanted: Annotated[
        str, typer.Option("--filter", metavar="TEXT", help="Only cases whose name or file contains it.")
    ] = "",
    engine: Annotated[EngineName, typer.Option(help="The matching engine.")] = EngineName.NETWORK,
    json: JsonOption = False,
) -> None:
    """Run the tests of a rulebase: tests/*_test.yaml, each case on a clock and a subscriber of its own.

    Ends with 0 if every case passes, 1 if one fails or the files have errors, 2 for a wrong command line.

    Example: opportune test rulebase/packs/gprs-precision --filter evening
    """
    files = read_rulebase(directory)
    rulebase = load(files)
    cases = [
        case for case in read_cases(rulebase, files) if wanted in case.name or wanted in case.position.file
    ]
    if not cases:
        stop(ExitCode.NO, "There are no such cases; tests stand in tests/NAME_test.yaml.")
    matcher = engine_factory(engine)(rulebase)
    try:
        results = [try_case(rulebase, matcher, case) for case in cases]
    finally:
        matcher.close()
    if json:
        print_json(_record(results))
    else:
        _show(results)
    raise typer.Exit(ExitCode.NO if any(result.failures for result in results) else ExitCode.OK)


def _show(results: Sequence[CaseResult]) -> None:
    console = out()
    file = ""
    for result in results:
        if result.case.position.file != file:
            file = result.case.position.file
            console.print(Text(file, style="bold"))
        mark = ("  FAILED  ", "bold red") if result.failures else ("  ok      ", "green")
        console.print(Text.assemble(mark, result.case.name))
        for failure in result.failures:
            console.print(Text(f"          {result.case.position}: {failure}", style="red"))
    failed = sum(bool(result.failures) for result in results)
    summary = f"{len(results) - failed} of {len(results)} cases pass"
    console.print(Text(summary, style="bold red" if failed else "bold green"))


def _record(results: Sequence[CaseResult]) -> dict[str, object]:
    failed = sum(bool(result.failures) for result in results)
    return {
        "ok": not failed,
        "passed": len(results) - failed,
        "failed": failed,
        "cases": [
            {
                "file": result.case.position.file,
                "line": result.case.position.line,
                "name": result.case.name,
                "passed": not result.failures,
                "failures": list(result.failures),
                "decisions": [
                    {
                        "campaign": decision.campaign,
                        "reason": decision.reason.value,
                        "mode": decision.mode.value,
                        "channel": decision.channel,
                        "content": decision.content,
                    }
                    for decision in result.decisions
                ],
            }
            for result in results
        ],
    }
