"""Results of test cases, and what they cover, for people and for programs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.table import Table
from rich.text import Text

from opportune_service.app.coverage import Coverage
from opportune_service.app.try_cases import CaseResult
from opportune_service.cli.junit import Entry
from opportune_service.cli.terminal import instant_text, out

_NAMED = 8
"""Names that are listed of what is not covered; the rest is in the JSON."""


def show(results: Sequence[CaseResult], covered: Coverage | None) -> None:
    """Each case on a line, what failed below it, then the table of coverage, then the summary."""
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
    if covered is not None:
        console.print(_table(covered))
    failed = sum(bool(result.failures) for result in results)
    summary = f"{len(results) - failed} of {len(results)} cases pass"
    console.print(Text(summary, style="bold red" if failed else "bold green"))


def _table(covered: Coverage) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("coverage")
    table.add_column("covered", justify="right")
    table.add_column("of", justify="right")
    table.add_column("%", justify="right")
    table.add_column("not covered")
    rows = covered.rows()
    for what, count, total, lacking in rows:
        if total:
            names = ", ".join(lacking[:_NAMED])
            more = f" and {len(lacking) - _NAMED} more" if len(lacking) > _NAMED else ""
            percent = f"{100 * count // total}"
            table.add_row(what, str(count), str(total), percent, Text(names + more, style="yellow"))
    count, total = sum(row[1] for row in rows), sum(row[2] for row in rows)
    table.add_row("all", str(count), str(total), f"{int(covered.percent)}", "", style="bold")
    return table


def record(results: Sequence[CaseResult], covered: Coverage) -> dict[str, object]:
    """Everything, for programs."""
    failed = sum(bool(result.failures) for result in results)
    return {
        "ok": not failed,
        "passed": len(results) - failed,
        "failed": failed,
        "cases": [_case_record(result) for result in results],
        "coverage": coverage_record(covered),
    }


def _case_record(result: CaseResult) -> dict[str, object]:
    return {
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
                "fate": decision.fate.value if decision.fate else None,
                "due": instant_text(decision.due_us) if decision.due_us else None,
            }
            for decision in result.decisions
        ],
    }


def coverage_record(covered: Coverage) -> dict[str, object]:
    return {
        "percent": round(covered.percent, 1),
        "campaigns": {name: reached.value for name, reached in covered.campaigns.items()},
        "definitions": {
            name: {"held": held, "not_held": not_held}
            for name, (held, not_held) in covered.definitions.items()
        },
        "patterns": dict(covered.patterns),
        "facts": dict(covered.facts),
    }


def junit_entries(results: Sequence[CaseResult]) -> Iterator[Entry]:
    for result in results:
        failures = [f"{result.case.position}: {failure}" for failure in result.failures]
        yield Entry(result.case.position.file, result.case.name, "\n".join(failures))
