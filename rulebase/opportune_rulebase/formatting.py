"""One shape for the YAML files of a rulebase. Comments and meaning stay."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.resolver import VersionedResolver

from opportune_rulebase.errors import RulebaseError
from opportune_rulebase.loading.problems import Report
from opportune_rulebase.loading.source import (
    MAX_YAML_BYTES,
    Budget,
    ListNode,
    MapNode,
    Node,
    ScalarNode,
    decode,
    documents,
)

WIDTH = 120
"""Columns of a line; what is longer is broken where YAML allows it."""

_ROUNDS = 4
"""Comments may take a second round to come to rest; what moves on after a few never will."""

_MARKER = re.compile(r"^(---(?:[ \t].*)?\n)", re.MULTILINE)
_COMMENT = re.compile(r"(?:(?<=\s)|\A)#[^\n]*")


class FormatError(Exception):
    """The file cannot be formatted without changing what it says; the message says why."""


def format_yaml(name: str, data: bytes) -> str:
    """The text of a YAML file in its one shape.

    Two columns a level, list items under their key, one space where YAML wants any, no spaces at the ends
    of lines, a line end at the end of the file. Quotes, blank lines, the order of keys and the choice
    between `{a: 1}` and lines of their own stay as written. Formatting what it gives changes nothing, and
    the loader reads the same in both. Raises `RulebaseError` for what the loader cannot read, `FormatError`
    where a comment or the meaning would be lost.
    """
    report = Report()
    source = decode(name, data, MAX_YAML_BYTES, report)
    nodes = documents(source, Budget(), report) if source else None
    if source is None or nodes is None or report.failed:
        raise RulebaseError(report.problems({name: source.lines} if source else {}))
    text = re.sub("\r\n?", "\n", source.text)
    before = text
    for _ in range(_ROUNDS):
        after = _once(before)
        if after == before:
            break
        before = after
    else:
        raise FormatError("its comments do not come to rest; put them onto lines of their own")
    if _comments(after) != _comments(text):
        raise FormatError(
            "a comment would be lost or moved; take it out of the brackets, onto a line of its own"
        )
    if _shapes(name, after) != [_shape(node) for node in nodes]:
        raise FormatError("what it says would change")
    return after


def _once(text: str) -> str:
    parts = _MARKER.split(text if text.endswith("\n") else f"{text}\n")
    formatted = "".join(
        f"{part.rstrip()}\n" if number % 2 else _part(part) for number, part in enumerate(parts)
    )
    return f"{formatted.rstrip()}\n" if formatted.strip() else ""


def _part(text: str) -> str:
    """One document. What holds comments only stays as it is: there is nothing to hang them on."""
    out = io.StringIO()
    try:
        if next(_scalars(text), None) is None:
            return text
        yaml = _round_trip()
        content = yaml.load(text)
        yaml.dump(content, out)
        # The indent of lists under their keys is that of a list at the top, too: there it is taken back.
        indent = re.compile("^  " if isinstance(content, list) else "^", re.MULTILINE)
        return _tidy(text, indent.sub("", out.getvalue()))
    except YAMLError as error:
        raise FormatError(f"it is unusual YAML: {str(error).splitlines()[0]}") from error


class _AllText(VersionedResolver):
    """Sees text in every scalar, so that each is written as it was: `0123`, `21:00`, `1.50`."""

    @property
    def versioned_resolver(self) -> Any:
        return {}


def _round_trip() -> YAML:
    yaml = YAML()
    yaml.Resolver = _AllText
    yaml.preserve_quotes = True
    yaml.width = WIDTH
    yaml.brace_single_entry_mapping_in_flow_sequence = True
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml


def _tidy(before: str, after: str) -> str:
    """`after` without spaces at the ends of lines, comments moved along with what they are about."""
    lines, kept = after.split("\n"), _lines_of_blocks(after)
    lines = [line if number in kept else line.rstrip() for number, line in enumerate(lines)]
    moved = [number for number, _ in _own_lines(before)]
    aligned = {place for place, number in enumerate(moved) if _stands_with_next(before.split("\n"), number)}
    for place, (number, _) in enumerate(_own_lines(after)):
        follower = _next_content(lines, number)
        if place in aligned and follower is not None:
            lines[number] = " " * _indent(lines[follower]) + lines[number].lstrip()
    return "\n".join(lines)


def _stands_with_next(lines: list[str], number: int) -> bool:
    follower = _next_content(lines, number)
    return follower is not None and _indent(lines[follower]) == _indent(lines[number])


def _next_content(lines: list[str], number: int) -> int | None:
    """The next line that is neither blank nor a comment."""
    rest = range(number + 1, len(lines))
    return next((n for n in rest if lines[n].strip() and not lines[n].lstrip().startswith("#")), None)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _scalars(text: str) -> Iterator[tuple[int, int, bool]]:
    """Begin and end of each scalar, and whether it is a block; of a block, without the line of its sign."""
    for event in YAML(typ="safe", pure=True).parse(text):
        if type(event).__name__ == "ScalarEvent":
            begin, end, block = event.start_mark.index, event.end_mark.index, event.style in {"|", ">"}
            yield (text.find("\n", begin, end) + 1 or end if block else begin), end, block


def _comment_places(text: str) -> Iterator[tuple[int, str]]:
    at = 0
    for begin, end, _ in [*_scalars(text), (len(text), len(text), False)]:
        for match in _COMMENT.finditer(text, at, begin):
            yield match.start(), match[0].rstrip()
        at = end


def _comments(text: str) -> list[str]:
    return [comment for _, comment in _comment_places(text)]


def _own_lines(text: str) -> list[tuple[int, str]]:
    """The comments that have a line of their own: its number, counted from 0, and the comment."""
    places = (
        (text.count("\n", 0, at), text.rfind("\n", 0, at) + 1, at, said)
        for at, said in _comment_places(text)
    )
    return [(number, said) for number, begin, at, said in places if not text[begin:at].strip()]


def _lines_of_blocks(text: str) -> set[int]:
    """Numbers of the lines of block scalars, in which spaces at the end are content."""
    found: set[int] = set()
    for begin, end, block in _scalars(text):
        if block:
            found.update(range(text.count("\n", 0, begin), text.count("\n", 0, end)))
    return found


def _shapes(name: str, text: str) -> list[object]:
    report = Report()
    source = decode(name, text.encode(), MAX_YAML_BYTES, report)
    nodes = documents(source, Budget(), report) if source else None
    return [_shape(node) for node in nodes or ()]


def _shape(node: Node) -> object:
    """What a node says to the loader: quoted text is not plain text, where it stands does not matter."""
    match node:
        case ScalarNode():
            return node.text, bool(node.style)
        case ListNode():
            return [_shape(item) for item in node.items]
        case MapNode():
            return [(key, bool(node.keys[key].style), _shape(value)) for key, value in node.values.items()]
