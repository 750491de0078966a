"""Problems of a rulebase for people: the place, what is wrong, the line with a caret, what to do."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from opportune_rulebase.errors import Problem, Severity
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

_SHOWN = 160
"""Columns of a line at fault that are shown; the caret stays in sight."""


def show_problems(console: Console, problems: Iterable[Problem]) -> None:
    """Each problem in two to four lines."""
    for problem in problems:
        colour = "red" if problem.severity is Severity.ERROR else "yellow"
        console.print(
            Text.assemble(
                (f"{problem.position}", "bold"),
                ": ",
                (f"{problem.severity}", f"bold {colour}"),
                f": {problem.message} ",
                (f"[{problem.code}]", "dim"),
            )
        )
        if problem.snippet:
            line, caret = _with_caret(problem.snippet, problem.position.column)
            console.print(Text(f"    {line}"))
            console.print(Text(f"    {caret}", style=colour))
        if problem.hint:
            console.print(Text(f"    hint: {problem.hint}", style="cyan"))


def problem_text(problem: Problem) -> str:
    """The problem as plain text."""
    lines = [f"{problem.position}: {problem.severity}: {problem.message} [{problem.code}]"]
    if problem.snippet:
        lines += [f"    {line}" for line in _with_caret(problem.snippet, problem.position.column)]
    if problem.hint:
        lines.append(f"    hint: {problem.hint}")
    return "\n".join(lines)


def problem_record(problem: Problem) -> dict[str, Any]:
    """The problem for programs."""
    return {
        "file": problem.position.file,
        "line": problem.position.line,
        "column": problem.position.column,
        "severity": problem.severity.value,
        "code": str(problem.code),
        "message": problem.message,
        "hint": problem.hint,
        "snippet": problem.snippet,
    }


def _with_caret(snippet: str, column: int) -> tuple[str, str]:
    """The line at fault and, below it, a caret under its column; wide characters take two columns."""
    begin = max(0, column - _SHOWN // 2)
    line = snippet[begin : begin + _SHOWN]
    before = line[: max(0, column - 1 - begin)]
    pad = "".join("\t" if character == "\t" else " " * cell_len(character) for character in before)
    return line, f"{pad}^"
