"""Rulebases and what loading them gives: every problem in order, or the whole model.

A case is `load/NAME.txtar`: files after lines `-- path --`, laid over those of `_base.txtar` (all but
`whole`, which shows every key in use and stands alone). Expectations stand in `load/NAME.expected`;
run with OPPORTUNE_UPDATE_GOLDEN=1 to write them anew, then read the difference.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
from opportune_rulebase import Position, Problem, Rulebase, RulebaseError, load
from opportune_rulebase.expressions import Expression

CASES = Path(__file__).parent / "load"
_HIDDEN = {"revision", "files", "warnings"}
_FILE = re.compile(r"^-- (\S+) --\n", re.MULTILINE)


def read_case(name: str) -> dict[str, bytes]:
    _, *parts = _FILE.split((CASES / f"{name}.txtar").read_text(encoding="utf-8"))
    return {path: text.encode() for path, text in zip(parts[::2], parts[1::2], strict=True)}


def show_problem(problem: Problem) -> Iterator[str]:
    yield f"{problem.position}: {problem.severity} [{problem.code}] {problem.message}"
    if problem.snippet:
        yield f"    {problem.snippet}"
        # One column is one character; wide ones make the caret look early, not wrong.
        yield f"    {' ' * (problem.position.column - 1)}^"
    if problem.hint:
        yield f"    hint: {problem.hint}"


def show_value(value: object, depth: int = 0) -> Iterator[str]:
    """A value of the model as indented lines; expressions by their text, sets sorted."""
    pad = "  " * depth
    items: list[tuple[str, object]]
    if isinstance(value, Expression):
        yield f"{pad}`{value.text}` at {value.position}"
        return
    if isinstance(value, Position) or not (
        is_dataclass(value) or isinstance(value, Mapping | tuple | frozenset)
    ):
        yield f"{pad}{value!s}" if isinstance(value, Position) else f"{pad}{value!r}"
        return
    if is_dataclass(value):
        hidden = {"revision", "files", "warnings"}
        items = [
            (each.name, getattr(value, each.name)) for each in fields(value) if each.name not in hidden
        ]
    elif isinstance(value, Mapping):
        items = [(str(key), each) for key, each in value.items()]
    else:
        items = [("-", each) for each in (sorted(value) if isinstance(value, frozenset) else value)]
    yield f"{pad}{type(value).__name__}"
    for key, each in items:
        lines = list(show_value(each, depth + 2))
        if len(lines) == 1:
            yield f"{pad}  {key}: {lines[0].strip()}"
        else:
            yield f"{pad}  {key}:"
            yield from lines


def outcome(files: Mapping[str, bytes], *, whole: bool) -> Iterator[str]:
    try:
        rulebase: Rulebase = load(files)
    except RulebaseError as error:
        for problem in error.problems:
            yield from show_problem(problem)
        return
    for problem in rulebase.warnings:
        yield from show_problem(problem)
    if whole:
        yield from show_value(rulebase)


@pytest.mark.parametrize("name", sorted(p.stem for p in CASES.glob("[!_]*.txtar")))
def test_load_gives_what_is_expected(name: str) -> None:
    files = read_case("_base") | read_case(name) if name != "whole" else read_case(name)
    found = "".join(f"{line}\n" for line in outcome(files, whole=name == "whole"))
    expected = CASES / f"{name}.expected"
    if os.environ.get("OPPORTUNE_UPDATE_GOLDEN"):
        expected.write_text(found, encoding="utf-8")
    assert found == expected.read_text(encoding="utf-8")
