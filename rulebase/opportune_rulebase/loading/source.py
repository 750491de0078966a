"""YAML text to positioned nodes, within bounds and without opinions on what the text means.

Scalars stay text: what `0123`, `21:00` or `yes` is depends on the key it stands under, so the reader of
that key decides (`fields`). Anchors, aliases, tags and duplicate keys are refused. Bounds are kept
while the parser runs, one event at a time, so hostile text is given up early.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML, __with_libyaml__
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.reader import ReaderError

from opportune_rulebase.errors import Position
from opportune_rulebase.loading.problems import Code, Report, clip

if __with_libyaml__:
    from ruamel.yaml.cyaml import CParser  # type: ignore[attr-defined]

MAX_YAML_BYTES = 1 << 19
MAX_LINE = 1 << 16
MAX_DEPTH = 32
MAX_FILE_NODES = 50_000
MAX_NODES = 200_000
"""Nodes of all files together: three thousand campaigns need about two thirds of it."""

MAX_YAML_IN_ALL = 16 << 20
"""Bytes of all YAML files together: three thousand campaigns have about one megabyte and a half."""

_LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
_BLANK_ESCAPES = frozenset("nrt ")  # after a backslash in double quotes: these stand for white space


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One decoded file. `lines` are without their line ends."""

    name: str
    text: str
    lines: list[str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class ScalarNode:
    """A scalar as written. `style` is its quote or block sign, empty for a plain one."""

    text: str
    at: Position
    style: str
    source: SourceFile = field(repr=False)

    @property
    def is_null(self) -> bool:
        """Whether this is YAML's null: a plain scalar, absent or so spelt."""
        return not self.style and self.text in {"", "~", "null", "Null", "NULL"}

    def locate(self, offset: int) -> Position:
        """Where the character at `offset` of `text` stands in the file.

        Exact for plain, quoted and block scalars, folded ones included, because folding changes white
        space only; escapes other than quotes, backslashes and white space make it approximate.
        """
        start = self.at.column - 1 + (self.style in {"'", '"'})
        raw = self.source.lines[self.at.line - 1] if self.at.line <= len(self.source.lines) else ""
        if raw.startswith(self.text, start) and self.style not in {"|", ">"}:
            return Position(self.at.file, self.at.line, start + offset + 1)
        before = sum(not c.isspace() for c in self.text[:offset])
        total = sum(not c.isspace() for c in self.text)
        for line, column, ordinal in self._solid_characters():
            if ordinal == before:
                return Position(self.at.file, line, column)
            if ordinal == total - 1:  # the place just past the end
                return Position(self.at.file, line, column + 1)
        return self.at

    def _solid_characters(self) -> Iterator[tuple[int, int, int]]:
        """(line, column, ordinal) of each character of the text that is not white space."""
        row, column = self.at.line - 1, self.at.column - 1
        if self.style in {"|", ">"}:
            row, column = row + 1, 0
        elif self.style:
            column += 1
        escape = {'"': "\\", "'": "'"}.get(self.style)
        ordinal = 0
        for number in range(row, len(self.source.lines)):
            line = self.source.lines[number]
            while column < len(line):
                if escape and line[column] == escape and column + 1 < len(line):
                    column += 1
                    if escape == "\\" and line[column] in _BLANK_ESCAPES:
                        column += 1
                        continue
                if not line[column].isspace():
                    yield number + 1, column + 1, ordinal
                    ordinal += 1
                column += 1
            column = 0


@dataclass(frozen=True, slots=True)
class ListNode:
    items: tuple[Node, ...]
    at: Position


@dataclass(frozen=True, slots=True)
class MapNode:
    """A mapping, in the order written. `keys` holds each key's own node, for its position."""

    keys: dict[str, ScalarNode]
    values: dict[str, Node]
    at: Position


Node = ScalarNode | ListNode | MapNode


class Budget:
    """How many nodes, and bytes of text, may still be read over all files of a load."""

    def __init__(self, nodes: int = MAX_NODES) -> None:
        self.nodes = nodes
        self.bytes = MAX_YAML_IN_ALL


class _GivenUpError(Exception):
    """This file is not read any further; the problem is in the report already."""


def decode(name: str, data: bytes, limit: int, report: Report) -> SourceFile | None:
    """The text of a file, or None with the reason in `report`: too large, not UTF-8."""
    if len(data) > limit:
        report.error(
            Position(name),
            Code.TOO_LARGE,
            f"the file has {len(data)} bytes; at most {limit} are allowed",
            "split it",
        )
        return None
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8")
        report.error(
            _end_of(name, before),
            Code.NOT_UTF8,
            f"byte 0x{data[error.start]:02x} is not UTF-8 text",
            "save the file as UTF-8",
        )
        return None
    return SourceFile(name, text, _LINE_BREAK.split(text))


def yaml_source(name: str, data: bytes, budget: Budget, report: Report) -> SourceFile | None:
    """Like `decode`, for a YAML file: within what is left for all of them."""
    budget.bytes -= len(data)
    if budget.bytes < 0:
        message = f"the YAML files have more than {MAX_YAML_IN_ALL} bytes in all, this one included"
        report.error(Position(name), Code.TOO_LARGE, message, "make them smaller")
        return None
    return decode(name, data, MAX_YAML_BYTES, report)


def documents(source: SourceFile, budget: Budget, report: Report) -> list[Node] | None:
    """The YAML documents of a file; None if it cannot be read, with the reason in `report`."""
    for number, line in enumerate(source.lines, 1):
        if len(line) > MAX_LINE:
            report.error(
                Position(source.name, number, 1),
                Code.TOO_LARGE,
                f"the line has {len(line)} characters; at most {MAX_LINE} are allowed",
                "break it",
            )
            return None
    if __with_libyaml__:
        # Ten times as fast, but YAML 1.1: it refuses some of 1.2, such as `{from: 21:00}`. What it
        # refuses is parsed again, so the same text is accepted, and the same error given, without it.
        nodes = budget.nodes
        try:
            return _Composer(source, budget, report, pure=False).documents()
        except _GivenUpError:
            return None
        except YAMLError:
            budget.nodes = nodes
    try:
        return _Composer(source, budget, report, pure=True).documents()
    except _GivenUpError:
        return None
    except YAMLError as error:
        _report_syntax(source, error, report)
        return None


def _report_syntax(source: SourceFile, error: YAMLError, report: Report) -> None:
    at, hint = Position(source.name), clip(str(error), 200)
    if isinstance(error, ReaderError):
        at, hint = _end_of(source.name, source.text[: error.position]), "remove the control character"
    elif isinstance(error, MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        at = Position(source.name, mark.line + 1, mark.column + 1) if mark else at
        hint = clip(str(error.problem), 200)
    report.error(at, Code.BAD_YAML, "this is not valid YAML", hint)


def _end_of(name: str, text: str) -> Position:
    lines = _LINE_BREAK.split(text.removeprefix("\ufeff"))
    return Position(name, len(lines), len(lines[-1]) + 1)


def _events(text: str) -> Iterator[Any]:
    """As `YAML(typ="safe").parse` gives them, which makes classes for every text: they hold each other, and
    the text, until they are collected."""
    parser = CParser(text)
    while parser.check_event():
        yield parser.get_event()


class _Composer:
    """Builds nodes from the parser's events."""

    def __init__(self, source: SourceFile, budget: Budget, report: Report, *, pure: bool) -> None:
        self.source = source
        self.budget = budget
        self.left = MAX_FILE_NODES
        self.report = report
        # Events only: ruamel resolves and constructs nothing.
        self.events: Iterator[Any] = (
            iter(YAML(typ="safe", pure=True).parse(source.text)) if pure else _events(source.text)
        )

    def documents(self) -> list[Node]:
        found: list[Node] = []
        for event in self.events:
            kind = type(event).__name__
            if kind not in {"StreamStartEvent", "StreamEndEvent", "DocumentStartEvent", "DocumentEndEvent"}:
                found.append(self.node(event, 1))
        return found

    def node(self, event: Any, depth: int) -> Node:
        at = Position(self.source.name, event.start_mark.line + 1, event.start_mark.column + 1)
        self.budget.nodes -= 1
        self.left -= 1
        if self.budget.nodes < 0 or self.left < 0:
            message = f"more than {MAX_FILE_NODES} YAML nodes in a file, or {MAX_NODES} in all"
            self.report.error(at, Code.TOO_MANY, message, "make it smaller, or several files of it")
            raise _GivenUpError
        kind = type(event).__name__
        if kind == "AliasEvent":
            self.report.error(at, Code.ALIAS, "aliases are not allowed", "write the value out")
            return ScalarNode("", at, "", self.source)
        if event.anchor is not None:
            self.report.error(at, Code.ALIAS, "anchors are not allowed", "remove it")
        if event.tag is not None:
            self.report.error(
                at, Code.TAG, "YAML tags are not allowed", "remove it; quote the value if it is text"
            )
        if kind == "ScalarEvent":
            # Escapes can write half a character, which no store and no wire takes.
            if any(0xD800 <= ord(each) <= 0xDFFF for each in event.value):
                self.report.error(at, Code.NOT_UTF8, "this text has half a character", "mend the escape")
            return ScalarNode(event.value, at, event.style or "", self.source)
        if depth > MAX_DEPTH:
            self.report.error(at, Code.TOO_DEEP, f"more than {MAX_DEPTH} levels of nesting")
            raise _GivenUpError
        return self.mapping(at, depth) if kind == "MappingStartEvent" else self.sequence(at, depth)

    def sequence(self, at: Position, depth: int) -> ListNode:
        items: list[Node] = []
        while type(event := next(self.events)).__name__ != "SequenceEndEvent":
            items.append(self.node(event, depth + 1))
        return ListNode(tuple(items), at)

    def mapping(self, at: Position, depth: int) -> MapNode:
        keys: dict[str, ScalarNode] = {}
        values: dict[str, Node] = {}
        while type(event := next(self.events)).__name__ != "MappingEndEvent":
            key = self.node(event, depth + 1)
            value = self.node(next(self.events), depth + 1)
            if not isinstance(key, ScalarNode):
                self.report.error(key.at, Code.BAD_YAML, "a key must be plain text")
            elif key.text in keys:
                first = keys[key.text].at
                self.report.error(
                    key.at,
                    Code.DUPLICATE_KEY,
                    f"the key {clip(key.text)!r} stands here a second time",
                    f"the first is in line {first.line}; keep one of them",
                )
            else:
                keys[key.text], values[key.text] = key, value
        return MapNode(keys, values, at)
