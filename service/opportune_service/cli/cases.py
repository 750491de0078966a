"""`opportune test`: run the tests that a rulebase brings with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from opportune_rulebase import load
from opportune_rulebase.errors import RulebaseError
from opportune_rulebase.model import Rulebase

from opportune_service.adapters.files.rulebase_dir import read_rulebase, watch_rulebase
from opportune_service.app.coverage import Coverage, coverage
from opportune_service.app.read_cases import Case, read_cases
from opportune_service.app.try_cases import CaseResult, try_case
from opportune_service.bootstrap import engine_factory
from opportune_service.cli.cases_report import coverage_record, junit_entries, record, show
from opportune_service.cli.check import JunitOption
from opportune_service.cli.junit import Entry, junit
from opportune_service.cli.options import JsonOption
from opportune_service.cli.problems import problem_record, problem_text, show_problems
from opportune_service.cli.rulebase_files import RulebasePath, read_files, write_text
from opportune_service.cli.terminal import ExitCode, err, print_json, stop
from opportune_service.settings import EngineName


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What was asked for on the command line."""

    path: Path
    only: str
    engine: EngineName
    json: bool
    junit_file: Path | None
    coverage_file: Path | None
    min_coverage: float | None


def cases_command(
    path: RulebasePath,
    only: Annotated[
        str,
        typer.Option(metavar="TEXT", help="Only cases whose name, file or expected campaign contains it."),
    ] = "",
    watch: Annotated[
        bool, typer.Option("--watch", help="Run them again whenever a file changes, until Ctrl-C.")
    ] = False,
    min_coverage: Annotated[
        float | None,
        typer.Option(metavar="PERCENT", min=0, max=100, help="Not content with less coverage than that."),
    ] = None,
    coverage_json: Annotated[
        Path | None, typer.Option(metavar="FILE", dir_okay=False, help="Also write the coverage there.")
    ] = None,
    junit_file: JunitOption = None,
    engine: Annotated[EngineName, typer.Option(help="The matching engine.")] = EngineName.NETWORK,
    json: JsonOption = False,
) -> None:
    """Run the tests of a rulebase: tests/*_test.yaml, each case on a clock and a subscriber of its own.

    A case says who the subscriber is, what happens, and what must come of it; any other decision fails it.
    The table at the end says what the cases exercise: which campaigns were decided, which definitions held
    and did not hold, which patterns were completed and which facts were set.

    Ends with 0 if every case passes, 1 if one fails or the files have errors, 4 if all pass but cover less
    than --min-coverage, 5 if there is no rulebase that can be read, 2 for a wrong command line.

    Example: opportune test my-rulebase --only evening --watch
    """
    wanted = _Wanted(path, only, engine, json, junit_file, coverage_json, min_coverage)
    if not watch:
        raise typer.Exit(_run(wanted, read_files(path)))
    if not path.is_dir():
        stop(ExitCode.USAGE, "Only a directory can be watched.")
    try:
        asyncio.run(_again_and_again(lambda: _try_once(wanted), watch_rulebase(path)))
    except KeyboardInterrupt:
        raise typer.Exit(ExitCode.OK) from None


async def _again_and_again(once: Callable[[], None], changes: AsyncIterator[None]) -> None:
    # It looks at the files before the first run, so that a change during that is not missed.
    change = asyncio.ensure_future(anext(changes))
    await asyncio.sleep(0)
    while True:
        once()
        await change
        change = asyncio.ensure_future(anext(changes))


def _try_once(wanted: _Wanted) -> None:
    """As `_run`, while somebody is in the middle of writing the files."""
    try:
        _run(wanted, read_rulebase(wanted.path))
    except RulebaseError as error:
        show_problems(err(), error.problems)
    except typer.Exit:
        pass  # it said why
    err().print("waiting for changes; Ctrl-C ends", style="dim")


def _run(wanted: _Wanted, files: dict[str, bytes]) -> ExitCode:
    try:
        rulebase = load(files)
        cases = [case for case in read_cases(rulebase, files) if _is_wanted(case, wanted.only)]
    except RulebaseError as error:
        _say_in_reports(wanted, error)
        raise
    if not cases:
        stop(ExitCode.NO, "There are no such cases; tests stand in tests/NAME_test.yaml.")
    results = _results(rulebase, wanted.engine, cases)
    covered = coverage(rulebase, [result.seen for result in results])
    least = wanted.min_coverage
    if wanted.json:
        print_json(record(results, covered))
    else:
        show(results, covered if not wanted.only or least is not None else None)
    if wanted.junit_file is not None:
        write_text(wanted.junit_file, junit("opportune test", junit_entries(results)))
    if wanted.coverage_file is not None:
        write_text(wanted.coverage_file, _pretty(covered))
    if any(result.failures for result in results):
        return ExitCode.NO
    if least is not None and covered.percent < least:
        err().print(f"The coverage of {covered.percent:.1f} % is less than {least:g} %.", style="red")
        return ExitCode.SHORT
    return ExitCode.OK


def _say_in_reports(wanted: _Wanted, error: RulebaseError) -> None:
    """A build server must see why there are no results."""
    if wanted.json:
        print_json({"ok": False, "problems": [problem_record(each) for each in error.problems]})
    if wanted.junit_file is not None:
        entries = [
            Entry(each.position.file, f"{each.code} {each.position}", problem_text(each))
            for each in error.problems
        ]
        write_text(wanted.junit_file, junit("opportune test", entries))


def _results(rulebase: Rulebase, engine: EngineName, cases: Sequence[Case]) -> list[CaseResult]:
    matcher = engine_factory(engine)(rulebase)
    try:
        return [try_case(rulebase, matcher, case) for case in cases]
    finally:
        matcher.close()


def _is_wanted(case: Case, text: str) -> bool:
    names = [case.name, case.position.file, *(expected.campaign for expected in case.expect)]
    return any(text in name for name in names)


def _pretty(covered: Coverage) -> str:
    return msgspec.json.format(msgspec.json.encode(coverage_record(covered)), indent=2).decode() + "\n"
