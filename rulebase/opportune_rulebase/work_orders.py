"""Work orders: an approved order of the planning system becomes one more campaign of a rulebase.

An order is a campaign in the rulebase language, in which scenes and behaviours may have the planning
system's names. Such a name is written ``${NAME}``, with any characters but line breaks and `}`, wherever
`on`, `when`, `target`, `propensity` or `conversion` would have one of ours:

    campaign: evening-reading
    on: data_session
    when: ${闲时} && !${Scene 12}

Bindings say what it is called here: ``闲时`` is ``scene.idle_evening``; under `on` and `conversion.event`,
where event types and patterns stand, it is bound to their plain names. The order is kept as it was written,
but for the names, below a comment that says where it comes from.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from opportune_rulebase.errors import Position, Problem, RulebaseError, Severity
from opportune_rulebase.loading.fields import MAX_NAME, is_identifier
from opportune_rulebase.loading.load import load
from opportune_rulebase.loading.problems import Code, Report, clip
from opportune_rulebase.loading.source import (
    MAX_YAML_BYTES,
    Budget,
    ListNode,
    MapNode,
    Node,
    ScalarNode,
    SourceFile,
    documents,
    yaml_source,
)
from opportune_rulebase.model import Rulebase

DOCUMENT: Final = "work-order.yaml"
"""The name of the order's document in problems."""

MAX_ORDER_ID: Final = 64
MAX_BINDINGS: Final = 10_000
"""All that a planning system has; an order uses some of them."""

_FOLDER: Final = "campaigns/"
_NAMING: Final = ("on", "when", "target", "propensity", "conversion")
_EVENTS: Final = ("on", "event")
"""Keys under which event types stand, and not expressions."""
_HEADER: Final = "# Work order {}"
_EXTERNAL = re.compile(r"\$\{([^}\n]*)\}")
_PLAIN = re.compile(r"[a-z0-9][a-z0-9_-]*")
_SLUG = re.compile(r"[^a-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class WorkOrderDraft:
    """What comes of an order.

    `files`: those of the base with the order's campaign; none if the order cannot be read. `campaign`: its
    name, "" if it has none. `unbound`: names that no binding gives, sorted; with any of them the files do
    not load. `problems`: errors and warnings, sorted by place; those of the order are placed in `DOCUMENT`.
    An unbound name is none of them. `rulebase`: what the files load to, if all names are bound and there is
    no error.
    """

    files: Mapping[str, bytes]
    campaign: str
    unbound: tuple[str, ...]
    problems: tuple[Problem, ...]
    rulebase: Rulebase | None


@dataclass(frozen=True, slots=True)
class _Use:
    """A name of the planning system, as it is written and where: line and column of the document, from 0.
    `event`: it stands for an event type, and not in an expression."""

    name: str
    written: str
    line: int
    column: int
    event: bool


@dataclass(slots=True)
class _Order:
    """The order as it was read."""

    source: SourceFile
    campaign: str
    uses: list[_Use] = field(default_factory=list)


def apply_work_order(
    base_files: Mapping[str, bytes], order_id: str, document: str, bindings: Mapping[str, str]
) -> WorkOrderDraft:
    """The base with the order's campaign, in a file of its own.

    The same order gives the same files. An order that the base has already takes the place of what it said
    before; its campaign must not be anywhere else. Bindings that the order does not use are passed over.
    While names are unbound the rest is checked as if each of them held; only if one of them stands for an
    event type, that waits until it is bound. Pure; never raises.
    """
    report = Report()
    _check_words(order_id, bindings, report)
    order = _read(document, report)
    if order is None or report.failed:
        lines = {DOCUMENT: order.source.lines} if order else {}
        return WorkOrderDraft({}, order.campaign if order else "", (), report.problems(lines), None)
    path = _path(order_id)
    heading = _HEADER.format(order_id)
    if path in base_files and not _is_of(base_files[path], heading):
        report.error(
            Position(DOCUMENT),
            Code.DUPLICATE_NAME,
            f"the base has a file {path} that is not of this order",
            "rename that file, or give the order another number",
        )
    unbound = {use for use in order.uses if use.name not in bindings}
    files = {**base_files, path: _written(order, heading, bindings)}
    rulebase, found = _loaded(files, path, order, heading, bindings, unbound)
    problems = (*report.problems({}), *found)
    if any(each.severity is Severity.ERROR for each in problems):
        rulebase = None
    names = tuple(sorted({use.name for use in unbound}))
    return WorkOrderDraft(files, order.campaign, names, tuple(sorted(problems)), rulebase)


def unbound_names(files: Mapping[str, bytes]) -> tuple[str, ...]:
    """The planning system's names that stay in the files of a draft, sorted; none in those of a rulebase
    that loads. Files that are no orders are passed over."""
    found: set[str] = set()
    for path, content in files.items():
        if path.startswith(_FOLDER) and content.startswith(_HEADER.format("").encode()):
            order = _read(content.decode("utf-8", "replace"), Report())
            found.update(use.name for use in (order.uses if order else ()))
    return tuple(sorted(found))


def _check_words(order_id: str, bindings: Mapping[str, str], report: Report) -> None:
    """Refuse a number that cannot be written down, and bindings to what can be no name."""
    at = Position(DOCUMENT)
    if not (1 <= len(order_id) <= MAX_ORDER_ID and order_id.isprintable() and order_id.strip() == order_id):
        hint = f"use 1 to {MAX_ORDER_ID} visible characters"
        report.error(at, Code.BAD_NAME, f"{clip(order_id)!r} is no number of an order", hint)
    if len(bindings) > MAX_BINDINGS:
        message = f"the order has {len(bindings)} bindings; at most {MAX_BINDINGS} are allowed"
        report.error(at, Code.TOO_MANY, message, "leave out those that it does not use")
        return
    for external, name in sorted(bindings.items()):
        space, dot, plain = name.partition(".")
        if dot and space in ("scene", "behaviour") and is_identifier(plain):
            continue
        if not dot and _PLAIN.fullmatch(name) and len(name) <= MAX_NAME:
            continue
        report.error(
            at,
            Code.BAD_NAME,
            f"{clip(external)!r} is bound to {clip(name)!r}, which can be no name in a rulebase",
            "bind it to scene.NAME or behaviour.NAME; under 'on', to an event type or a pattern",
        )


def _read(document: str, report: Report) -> _Order | None:
    """The one campaign of a document; None if it cannot be read, with the reason in `report`."""
    try:
        data = document.encode()
    except UnicodeEncodeError:
        report.error(Position(DOCUMENT), Code.NOT_UTF8, "this text has half a character", "mend the escape")
        return None
    budget = Budget()
    # Room for the comment and for names that are longer than those they stand for.
    if len(data) > MAX_YAML_BYTES // 2:
        message = f"the order has {len(data)} bytes; at most {MAX_YAML_BYTES // 2} are allowed"
        report.error(Position(DOCUMENT), Code.TOO_LARGE, message, "make it shorter")
        return None
    source = yaml_source(DOCUMENT, data, budget, report)
    nodes = documents(source, budget, report) if source else None
    if source is None or nodes is None:
        return None
    order = _Order(source, "")
    if len(nodes) != 1 or not isinstance(nodes[0], MapNode):
        at = nodes[1].at if len(nodes) > 1 else Position(DOCUMENT, 1, 1)
        hint = "write one mapping that begins with 'campaign: <name>'"
        report.error(at, Code.WRONG_TYPE, "an order is one campaign", hint)
        return order
    campaign = nodes[0].values.get("campaign")
    if not isinstance(campaign, ScalarNode) or campaign.is_null or "template" in nodes[0].values:
        hint = "add 'campaign: <name>'; an order brings no template"
        report.error(nodes[0].at, Code.MISSING_KEY, "the order has no campaign", hint)
        return order
    order.campaign = campaign.text
    for key in _NAMING:
        if key in nodes[0].values:
            order.uses.extend(_uses(nodes[0].values[key], key, report))
    return order


def _uses(node: Node, key: str, report: Report) -> Iterator[_Use]:
    """The planning system's names below a key."""
    match node:
        case MapNode():
            for inner, value in node.values.items():
                yield from _uses(value, inner, report)
        case ListNode():
            for item in node.items:
                yield from _uses(item, key, report)
        case ScalarNode():
            for found in _EXTERNAL.finditer(node.text):
                at, name = node.locate(found.start()), found[1].strip()
                line = node.source.lines[at.line - 1]
                if not line.startswith(found[0], at.column - 1):
                    hint = "write it in one line, without escapes"
                    report.error(at, Code.BAD_NAME, f"the name {clip(name)!r} is not written out", hint)
                elif not name or not name.isprintable() or len(name) > MAX_NAME:
                    hint = f"use 1 to {MAX_NAME} visible characters"
                    report.error(at, Code.BAD_NAME, f"{clip(name)!r} is no name of a scene", hint)
                else:
                    yield _Use(name, found[0], at.line - 1, at.column - 1, key in _EVENTS)


def _path(order_id: str) -> str:
    """The file of an order. One whose number cannot be part of a path has a hash of it there."""
    if _PLAIN.fullmatch(order_id):
        return f"{_FOLDER}order-{order_id}.yaml"
    slug = _SLUG.sub("-", order_id.lower()).strip("-")
    short = hashlib.sha256(order_id.encode()).hexdigest()[:12]
    return f"{_FOLDER}order-{f'{slug}-' if slug else ''}{short}.yaml"


def _is_of(content: bytes, heading: str) -> bool:
    """Whether a file is that of the order with this heading."""
    return content.partition(b"\n")[0] == heading.encode()


def _heading(order: _Order, heading: str, bindings: Mapping[str, str]) -> list[str]:
    """The comment above an order: its number, and what its names were bound to."""
    bound = sorted({(use.name, bindings[use.name]) for use in order.uses if use.name in bindings})
    return [heading, *(f"# {name} is {ours} here." for name, ours in bound)]


def _written(order: _Order, heading: str, bindings: Mapping[str, str]) -> bytes:
    """The file of an order: its document with our names for the planning system's."""
    text, starts = order.source.text, _line_starts(order.source)
    for use in sorted(order.uses, key=lambda use: (-use.line, -use.column)):
        if use.name in bindings:
            begin = starts[use.line] + use.column
            text = f"{text[:begin]}{bindings[use.name]}{text[begin + len(use.written) :]}"
    above = "".join(f"{line}\n" for line in _heading(order, heading, bindings))
    end = "" if text.endswith("\n") else "\n"
    return f"{above}{text}{end}".encode()


def _line_starts(source: SourceFile) -> list[int]:
    """Where each line begins in the text, whichever line breaks it has."""
    starts = [0]
    for line in source.lines[:-1]:
        end = starts[-1] + len(line)
        starts.append(end + (2 if source.text.startswith("\r\n", end) else 1))
    return starts


def _loaded(
    files: Mapping[str, bytes],
    path: str,
    order: _Order,
    heading: str,
    bindings: Mapping[str, str],
    unbound: set[_Use],
) -> tuple[Rulebase | None, tuple[Problem, ...]]:
    """What the files load to, and every problem; while names are unbound, of files in which they hold."""
    if any(use.event for use in unbound):
        return None, ()
    assumed = {**bindings, **{use.name: "true" for use in unbound}}
    above = len(_heading(order, heading, assumed))
    try:
        rulebase = load({**files, path: _written(order, heading, assumed)})
    except RulebaseError as error:
        return None, tuple(_placed(each, path, above, order, assumed) for each in error.problems)
    problems = tuple(_placed(each, path, above, order, assumed) for each in rulebase.warnings)
    return (None if unbound else rulebase), problems


def _placed(problem: Problem, path: str, above: int, order: _Order, bindings: Mapping[str, str]) -> Problem:
    """A problem of the order's file as one of its document."""
    at = problem.position
    if at.file != path:
        return problem
    row = at.line - 1 - above
    if not 0 <= row < len(order.source.lines):
        return replace(problem, position=Position(DOCUMENT))
    column = at.column - 1
    for use in sorted(order.uses, key=lambda use: use.column):
        if use.line == row and use.column < column:
            # Within a name that was put in there is no place of the document but its beginning.
            grown = len(bindings[use.name]) - len(use.written)
            column = max(use.column, column - grown)
    snippet = problem.snippet and order.source.lines[row]
    return replace(problem, position=Position(DOCUMENT, row + 1, column + 1), snippet=snippet)
