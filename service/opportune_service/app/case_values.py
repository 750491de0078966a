"""Values of test cases, from YAML nodes: instants, and values of attributes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from opportune_rulebase.loading.fields import parse_bool, parse_duration, parse_float, parse_int
from opportune_rulebase.loading.source import ListNode, MapNode, Node
from opportune_rulebase.model import Attribute, ValueType

from opportune_service.core.admit import AttributeReader, IgnoredAttributes

MOST_US = 800 * 86_400_000_000
"""A case looks back, and lasts, no longer: no window of the language is as long."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TEXTS = {ValueType.STRING, ValueType.DATE, ValueType.SUBSCRIBER, ValueType.TIMESTAMP, ValueType.STRINGS}


def parse_instant(text: str) -> int | None:
    """An instant with its offset, such as ``2026-11-20T20:00:00+08:00``; None if it is not written so."""
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        return None
    return None if instant.tzinfo is None else (instant - _EPOCH) // timedelta(microseconds=1)


def parse_at(text: str, now_us: int) -> int | None:
    """An instant, or a duration after `now` (`10m`) or before it (`-10m`)."""
    duration_us = parse_duration(text.removeprefix("-"))
    if duration_us is None:
        return parse_instant(text)
    return now_us - duration_us if text.startswith("-") else now_us + duration_us


def plain(node: Node, attribute: Attribute) -> object:
    """The value as JSON has it. Texts stay as they are written; whether the type fits is checked later."""
    if isinstance(node, ListNode):
        return [plain(item, attribute) for item in node.items]
    if isinstance(node, MapNode):
        return {key: plain(value, attribute) for key, value in node.values.items()}
    if node.is_null:
        return None
    if node.style or attribute.type in _TEXTS:
        return node.text
    for parse in (parse_bool, parse_int, parse_float):
        if (value := parse(node.text)) is not None:
            return value
    return node.text


def checked(node: Node, attribute: Attribute) -> object:
    """The value as rules will read it, None for null. Raises `AttributesError` if the attribute does not
    take it."""
    reader = AttributeReader("given", {attribute.name: attribute}, IgnoredAttributes())
    return reader.check({attribute.name: plain(node, attribute)}).get(attribute.name)
