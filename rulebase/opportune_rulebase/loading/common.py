"""What metrics, patterns and facts have in common: event types, their attributes, and content keys."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping
from datetime import date
from typing import Final

from opportune_rulebase.errors import Position
from opportune_rulebase.expressions import Expression
from opportune_rulebase.loading.fields import HOUR_US, Fields
from opportune_rulebase.loading.problems import Code, Report, clip
from opportune_rulebase.model import ValueType, Vocabulary

USUAL_LATENESS_US: Final = HOUR_US
"""A source with a longer one is slow."""

WHERE_READS: Final = ("event", "sub", "terminal", "place")
NUMBERS: Final = frozenset({ValueType.INT, ValueType.DOUBLE})
TOLD_APART: Final = frozenset(
    {ValueType.INT, ValueType.BOOL, ValueType.STRING, ValueType.DATE, ValueType.SUBSCRIBER}
)
SCALARS: Final = NUMBERS | TOLD_APART | {ValueType.TIMESTAMP}

_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def parse_date(text: str) -> date | None:
    """A day like `2026-11-01`; None if it is not written so, or no month has it."""
    try:
        return date.fromisoformat(text) if _DATE.fullmatch(text) else None
    except ValueError:
        return None


def exactly_one(fields: Fields, keys: Collection[str]) -> str | None:
    """The one of `keys` that is there; an error unless it is one. Of several, the first of `keys`."""
    present = [key for key in keys if fields.node(key) is not None]
    if len(present) > 1:
        message = f"{fields.what} has both {present[0]!r} and {present[1]!r}"
        fields.report.error(fields.key_at(present[1]), Code.CONFLICTING_KEYS, message, "keep one of them")
    elif not present:
        message = f"{fields.what} has none of {', '.join(map(repr, keys))}"
        if len(keys) == 2:
            message = f"{fields.what} has neither {' nor '.join(map(repr, keys))}"
        fields.report.error(fields.at, Code.MISSING_KEY, message, "add one of them")
    return present[0] if present else None


def event_types(
    fields: Fields, key: str, known: Collection[str], vocabulary: Vocabulary, *, moment: bool = True
) -> tuple[str, ...]:
    """The event types that a key lists, each one of `known`. An empty list is an error.

    `moment`: whether what is declared needs events as they happen, which slow sources do not give.
    """
    of = fields.choices(key, "event type", known)
    if fields.node(key) is not None and not fields.scalars(key, "an event type"):
        fields.report.error(
            fields.place(key), Code.BAD_VALUE, f"{key!r} is empty", "name at least one event type"
        )
    if moment:
        refuse_slow(fields.place(key), of, fields.what, vocabulary, fields.report)
    return of


def refuse_slow(at: Position, of: Iterable[str], what: str, vocabulary: Vocabulary, report: Report) -> None:
    """Refuse event types that come from slow sources alone: they can bring nothing about."""
    for name in of:
        sources = [each for each in vocabulary.sources.values() if name in each.events]
        if sources and all(each.max_lateness_us > USUAL_LATENESS_US for each in sources):
            slow = " and ".join(each.name for each in sources)
            report.error(
                at,
                Code.SLOW_SOURCE,
                f"{what} needs events as they happen, but {name!r} comes from the slow source {slow} alone",
                "events of a source with more than 1h of 'max_lateness' feed metrics in 'days' only",
            )


def attribute_of(
    fields: Fields,
    key: str,
    of: Collection[str],
    vocabulary: Vocabulary,
    types: Collection[ValueType],
) -> str | None:
    """The attribute of `sum: event.amount`: each event type in `of` must have it, of one of `types`.

    None if there is none, or if it is wrong (then it is in the report).
    """
    node = fields.scalar(key, "an attribute of the event")
    if node is None or not of:
        return None
    report = fields.report
    prefix, _, name = node.text.partition(".")
    if prefix != "event" or not name:
        message = f"{key!r} cannot be {clip(node.text)!r}"
        hint = "name one attribute of the event, such as event.amount"
        report.error(node.at, Code.BAD_VALUE, message, hint)
        return None
    for event in of:
        declared = vocabulary.events[event].attributes
        if name not in declared:
            message = f"event type {event!r} has no attribute {clip(name)!r}"
            report.error(node.at, Code.ATTRIBUTE_NOT_ON_EVENT, message, report.suggest(name, declared))
            return None
        if declared[name].type not in types:
            allowed = ", ".join(each for each in ValueType if each in types)
            message = f"{key!r} cannot take {node.text!r}, which is of type {declared[name].type}"
            report.error(node.at, Code.BAD_VALUE, message, f"it takes one of the types {allowed}")
            return None
    return name


def check_reads(
    expression: Expression | None,
    what: str,
    spaces: Mapping[str, Collection[str]],
    vocabulary: Vocabulary,
    report: Report,
) -> None:
    """Refuse attributes that none of the event types has that stand behind a space (`event`, `first`).

    A space behind which no event types stand is not checked: what is wrong with it is reported already.
    """
    for variable in sorted(expression.reads if expression else ()):
        space, _, name = variable.partition(".")
        declared = [vocabulary.events[each].attributes for each in spaces.get(space, ())]
        known = any(name in attributes for attributes in declared) or variable == "event.type"
        if expression and declared and not known:
            every = {f"{space}.{each}" for attributes in declared for each in attributes}
            message = f"{what} reads {variable}, which none of its event types has"
            hint = report.suggest(variable, every)
            report.error(expression.position, Code.ATTRIBUTE_NOT_ON_EVENT, message, hint)


def content_key(*content: object) -> str:
    """What state is kept under: a hash of all that it depends on, in ten letters, digits, `-` and `_`.

    Snapshots of every subscriber hold dozens of them, so they are short: 60 bits. Among 10,000 definitions,
    those of all revisions that an operator ever has, two are alike with a chance of 1 in 20 billion.
    """
    canonical = json.dumps(content, ensure_ascii=False).encode()
    return base64.urlsafe_b64encode(hashlib.sha256(canonical).digest())[:10].decode()


def refuse_same(kind: str, keys: Mapping[str, str], at: Mapping[str, Position], report: Report) -> None:
    """Refuse a second definition of the same content: they would share one state. `keys`: by name."""
    first: dict[str, str] = {}
    for name, key in keys.items():
        other = first.setdefault(key, name)
        if other != name:
            message = f"{kind} {name!r} says the same as {other!r}"
            report.error(at[name], Code.DUPLICATE_DEFINITION, message, f"keep one of them; see {at[other]}")


def by_content(of: Iterable[str], keys: Mapping[str, str]) -> list[str]:
    """Event types for a content key: patterns by what they are, not by name."""
    return sorted(keys.get(name, name) for name in of)
