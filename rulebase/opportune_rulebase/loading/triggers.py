"""What triggers a campaign: event types, dates of the subscriber, and schedules.

A date or a schedule gives events of a type of its own, which is named by what it says: campaigns with the
same one share it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from opportune_rulebase.language import keys_in
from opportune_rulebase.loading.clock import WEEKDAYS, minute_of_day, write_minute
from opportune_rulebase.loading.common import parse_date, refuse_slow
from opportune_rulebase.loading.fields import DAY_US, Fields, describe, parse_int, write_duration
from opportune_rulebase.loading.problems import Code, Report, clip
from opportune_rulebase.loading.source import ListNode, MapNode, ScalarNode
from opportune_rulebase.model import DateTrigger, EventType, ScheduleTrigger, Trigger, ValueType, Vocabulary

MAX_OFFSET_US: Final = 400 * DAY_US

_RHYTHMS: Final = ("daily", "weekly", "monthly", "once")
_OF_RHYTHM: Final = {"weekly": "days", "monthly": "days", "once": "date"}


def read_on(fields: Fields, vocabulary: Vocabulary, triggers: dict[str, Trigger]) -> tuple[str, ...]:
    """The event types under `on`; those of dates and schedules are added to `triggers`.

    `vocabulary` without them: they cannot be named, only written out. Errors go to the report of `fields`.
    """
    report = fields.report
    node = fields.node("on")
    items = node.items if isinstance(node, ListNode) else (node,) if node else ()
    if node and not items:
        message = "'on' is empty"
        report.error(node.at, Code.BAD_VALUE, message, "name at least one event type")
    found: dict[str, None] = {}
    for item in items:
        name = None
        if isinstance(item, MapNode):
            trigger = _trigger(item, vocabulary, report)
            if trigger is not None:
                name = trigger.name
                triggers.setdefault(name, trigger)
        elif not isinstance(item, ScalarNode) or item.is_null:
            message = f"expected an event type, a date or a schedule, got {describe(item)}"
            hint = "write an event type, {date: sub.x, at: ..} or {schedule: daily, at: ..}"
            report.error(item.at, Code.WRONG_TYPE, message, hint)
        elif item.text not in vocabulary.events:
            report.unknown(item.at, "event type", item.text, vocabulary.events)
        else:
            name = item.text
            refuse_slow(item.at, [name], fields.what, vocabulary, report)
        if name is not None and name in found:
            report.error(item.at, Code.DUPLICATE_NAME, f"event type {name!r} is listed twice")
        elif name is not None:
            found[name] = None
    return tuple(found)


def with_triggers(vocabulary: Vocabulary, triggers: Mapping[str, Trigger]) -> Vocabulary:
    """The vocabulary with the event types of dates and schedules."""
    types = {name: EventType(name, name, MappingProxyType({}), derived=True) for name in sorted(triggers)}
    return replace(vocabulary, events=MappingProxyType({**vocabulary.events, **types}))


def _trigger(node: MapNode, vocabulary: Vocabulary, report: Report) -> Trigger | None:
    if "schedule" in node.values:
        return _schedule(node, report)
    if "date" in node.values:
        return _date(node, vocabulary, report)
    hint = "write {date: sub.x, at: ..} or {schedule: daily, at: ..}; conditions belong under 'when'"
    report.error(node.at, Code.MISSING_KEY, "this trigger has neither 'date' nor 'schedule'", hint)
    return None


def _date(node: MapNode, vocabulary: Vocabulary, report: Report) -> DateTrigger | None:
    fields = Fields(report, node, "the date trigger", keys_in("date_trigger"))
    fields.require("at")
    attribute = _attribute(fields, vocabulary)
    offset_days = _offset_days(fields)
    yearly = fields.choice("every", "rhythm of a date", ("year",)) is not None
    minute = minute_of_day(fields, "at")
    if attribute is None or minute is None:
        return None
    offset = f"{offset_days:+}d" if offset_days else ""
    name = f"date/{'yearly/' if yearly else ''}{attribute}{offset}@{write_minute(minute)}"
    return DateTrigger(name, attribute, offset_days, yearly, minute)


def _attribute(fields: Fields, vocabulary: Vocabulary) -> str | None:
    node = fields.scalar("date", "an attribute of the subscriber")
    if node is None:
        return None
    report = fields.report
    dated = (ValueType.DATE, ValueType.TIMESTAMP)
    # Imported behaviours have qualified names, and are no dates.
    known = {f"sub.{a.name}": a for a in vocabulary.subscriber.values() if "." not in a.name}
    if node.text not in known:
        dates = [name for name, each in known.items() if each.type in dated]
        report.unknown(node.at, "date", node.text, dates)
        return None
    attribute = known[node.text]
    if attribute.type not in dated:
        message = f"{node.text!r} is of type {attribute.type}, not a date"
        report.error(node.at, Code.BAD_VALUE, message, "declare it as date or timestamp")
        return None
    return attribute.name


def _offset_days(fields: Fields) -> int:
    """Days after the date; negative before it."""
    days = {}
    for key in ("before", "after"):
        if fields.node(key) is None:
            continue
        offset_us = fields.duration(key, DAY_US, most=MAX_OFFSET_US)
        if offset_us % DAY_US:
            message = f"{key!r} must be whole days, not {write_duration(offset_us)}"
            fields.report.error(
                fields.place(key), Code.BAD_VALUE, message, "the time of the day is under 'at'"
            )
        days[key] = offset_us // DAY_US
    if len(days) == 2:
        message = f"{fields.what} has both 'before' and 'after'"
        fields.report.error(fields.key_at("after"), Code.CONFLICTING_KEYS, message, "keep one of them")
    return days.get("after", 0) - days.get("before", 0)


def _schedule(node: MapNode, report: Report) -> ScheduleTrigger | None:
    fields = Fields(report, node, "the schedule", keys_in("schedule_trigger"))
    rhythm = fields.choice("schedule", "rhythm", _RHYTHMS)
    fields.require("at")
    minute = minute_of_day(fields, "at")
    if rhythm is None:
        return None
    needed = _OF_RHYTHM.get(rhythm)
    if needed:
        fields.require(needed)
    for key in ("days", "date"):
        if key != needed and fields.node(key) is not None:
            message = f"{key!r} does not go with 'schedule: {rhythm}'"
            report.error(fields.key_at(key), Code.CONFLICTING_KEYS, message, "leave it out")
    weekdays, month_days, on_date = _weekdays(fields, rhythm), _month_days(fields, rhythm), None
    node_of_date = fields.scalar("date", "a date") if rhythm == "once" else None
    if node_of_date:
        on_date = parse_date(node_of_date.text)
        if on_date is None:
            message = f"{clip(node_of_date.text)!r} is not a date"
            report.error(node_of_date.at, Code.BAD_VALUE, message, "write it as 2026-12-01")
    if minute is None or (needed and not (weekdays or month_days or on_date)):
        return None
    when = {
        "weekly": "/" + ",".join(WEEKDAYS[day] for day in sorted(weekdays)),
        "monthly": "/" + ",".join(map(str, sorted(month_days))),
        "once": f"/{on_date}",
    }.get(rhythm, "")
    name = f"schedule/{rhythm}{when}@{write_minute(minute)}"
    return ScheduleTrigger(name, weekdays, month_days, on_date, minute)


def _weekdays(fields: Fields, rhythm: str) -> frozenset[int]:
    if rhythm != "weekly":
        return frozenset()
    if fields.node("days") is not None and not fields.scalars("days", "a weekday"):
        _no_days(fields)
    return frozenset(map(WEEKDAYS.index, fields.choices("days", "weekday", WEEKDAYS)))


def _month_days(fields: Fields, rhythm: str) -> frozenset[int]:
    if rhythm != "monthly":
        return frozenset()
    nodes = fields.scalars("days", "a day of the month")
    if fields.node("days") is not None and not nodes:
        _no_days(fields)
    found = set()
    for node in nodes:
        day = None if node.style else parse_int(node.text)
        if day is None or not 1 <= day <= 31:
            message = f"{clip(node.text)!r} is not a day of the month"
            hint = "write 1 to 31; what a month does not have counts as its last day"
            fields.report.error(node.at, Code.BAD_VALUE, message, hint)
        elif day in found:
            fields.report.error(node.at, Code.DUPLICATE_NAME, f"day {day} is listed twice")
        else:
            found.add(day)
    return frozenset(found)


def _no_days(fields: Fields) -> None:
    hint = "name at least one, or write 'schedule: daily'"
    fields.report.error(fields.place("days"), Code.BAD_VALUE, "'days' is empty", hint)
