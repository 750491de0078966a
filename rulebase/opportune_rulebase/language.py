"""The keys of the rulebase language, once: what loading accepts, what editors complete, what the docs list.

`SECTIONS` has every mapping of the language by name, with its keys in the order in which people write them.
`FILES` says which mapping a file holds. `schema.py` makes JSON Schema of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from opportune_rulebase.model import ValueType
from opportune_rulebase.policies import CalendarPeriod, CoolDownScope, Dimension, Mode, OutcomeKind

WEEKDAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


@dataclass(frozen=True, slots=True)
class Shape:
    """What a value looks like: as JSON Schema, and in words."""

    schema: Mapping[str, Any]
    words: str


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a mapping. `text` is one line for people; `default` is in words, "" if there is none."""

    shape: Shape
    text: str
    required: bool = False
    default: str = ""


def one_of(*values: str) -> Shape:
    """One of a few words."""
    return Shape({"enum": list(values)}, " or ".join(f"`{value}`" for value in values))


def whole(least: int, most: int) -> Shape:
    """A whole number within bounds."""
    return Shape({"type": "integer", "minimum": least, "maximum": most}, f"{least} to {most}")


def listed(shape: Shape) -> Shape:
    """A list; a single value stands for a list of one."""
    return Shape(
        {"anyOf": [shape.schema, {"type": "array", "items": shape.schema}]}, f"{shape.words}, or a list"
    )


def section(name: str) -> Shape:
    """A mapping with keys of its own."""
    return Shape({"$ref": f"#/$defs/{name}"}, f"[{name}](#{name.replace('_', '-')})")


def by_name(shape: Shape) -> Shape:
    """A mapping from names that are being declared."""
    return Shape({"type": "object", "additionalProperties": shape.schema}, f"name: {shape.words}")


def several(shape: Shape) -> Shape:
    """A list, even of one."""
    return Shape({"type": "array", "items": shape.schema}, f"list of {shape.words}")


def either(*shapes: Shape) -> Shape:
    """One of several shapes."""
    return Shape({"anyOf": [each.schema for each in shapes]}, "; or ".join(each.words for each in shapes))


TEXT: Final = Shape({"type": ["string", "number"]}, "text")
NAME: Final = Shape({"type": "string", "pattern": "^[a-z][a-z0-9_-]{0,63}$"}, "name")
FLAG: Final = Shape({"type": "boolean"}, "`true` or `false`")
NUMBER: Final = Shape({"type": "number"}, "number")
DURATION: Final = Shape({"type": "string", "pattern": "^[0-9]{1,9}[smhd]$"}, "duration")
DATE: Final = Shape({"type": "string", "pattern": "^20[0-9]{2}-[0-9]{2}-[0-9]{2}$"}, "date")
CLOCK: Final = Shape(
    {"type": "string", "pattern": "^([01][0-9]|2[0-3]):[0-5][0-9]$|^24:00$"}, "time of day"
)
EXPRESSION: Final = Shape({"type": ["string", "boolean", "number"]}, "expression")
CONDITION: Final = Shape({"type": ["string", "boolean"]}, "condition")
ANY: Final = Shape({}, "any value")
EVENT_TYPE: Final = Shape(NAME.schema, "event type")
EVENT_TYPES: Final = listed(EVENT_TYPE)
ATTRIBUTE_NAME: Final = Shape(
    {"type": "string", "pattern": r"^event\.[a-z][a-z0-9_]*$"}, "`event.ATTRIBUTE`"
)
TYPE: Final = Shape(
    {"enum": [*ValueType, "map<string,bool>"]}, ", ".join(f"`{each}`" for each in ValueType)
)
LABEL: Final = Key(TEXT, "for people, in any language", default="the name")
INSTANT: Final = Shape({"type": "string"}, "instant with its offset")
INSTANT_OR_AFTER: Final = either(INSTANT, DURATION)
ATTRIBUTES: Final = Shape({"type": "object"}, "name: value")
EVENT: Final = Shape(
    {"type": "object", "required": ["type"], "properties": {"type": NAME.schema}}, "`type`, attributes"
)
STEP: Final = either(EVENT_TYPES, section("step"))


def _selected(what: str) -> Key:
    return Key(listed(NAME), f"only these {what}", default="any")


SECTIONS: Final[Mapping[str, Mapping[str, Key]]] = {
    "rulebase": {
        "rulebase": Key(NAME, "its name", required=True),
        "label": LABEL,
        "time_zone": Key(
            TEXT, "IANA name; for validity dates, and for subscribers without a zone", required=True
        ),
        "calendar": Key(
            either(TEXT, section("calendar")), "workdays and holidays", default="Monday to Friday"
        ),
    },
    "calendar": {
        "country": Key(TEXT, "ISO code of a country whose holidays are known"),
        "holidays": Key(by_name(TEXT), "more days off: `2026-12-24: name`"),
        "workdays": Key(listed(DATE), "days at weekends or holidays that are worked"),
    },
    "vocabulary": {
        "sources": Key(by_name(section("source")), "who sends what, and how late it may come"),
        "events": Key(by_name(section("event_type")), "event types that collectors send"),
        "subscriber": Key(
            by_name(either(TYPE, section("attribute"))), "attributes of the subscriber context"
        ),
        "channels": Key(by_name(section("channel")), "touch points"),
        "products": Key(by_name(section("product")), "what is offered"),
        "places": Key(section("places"), "cells and what is there"),
        "terminals": Key(section("terminals"), "handsets and what they can do"),
    },
    "source": {
        "label": LABEL,
        "events": Key(EVENT_TYPES, "event types that it sends"),
        "subscriber": Key(listed(NAME), "subscriber attributes that it fills"),
        "max_lateness": Key(
            DURATION,
            "how old its events may be; more than 1h: they feed metrics in `days` only",
            default="1h",
        ),
    },
    "event_type": {
        "label": LABEL,
        "attributes": Key(by_name(either(TYPE, section("attribute"))), "what such an event tells"),
    },
    "attribute": {
        "type": Key(TYPE, "its type", required=True),
        "label": LABEL,
        "values": Key(listed(TEXT), "closes a `string` to a list"),
        "min": Key(NUMBER, "lowest value of an `int` or `double`"),
        "default": Key(
            ANY, "stands in for an absent value; subscriber attributes only, no timestamps or maps"
        ),
    },
    "channel": {
        "label": LABEL,
        "mode": Key(one_of(*Mode), "who carries the offer", required=True),
        "needs": Key(CONDITION, "what the handset must be able to do, over `terminal.*`"),
        "max_segments": Key(whole(1, 10), "how many SMS a text may take", default="not counted"),
    },
    "product": {
        "label": LABEL,
        "category": Key(TEXT, "for caps, consent and cool-downs"),
        "needs": Key(CONDITION, "what the handset must be able to do, over `terminal.*`"),
        "requires": Key(listed(NAME), "products that must be held"),
        "excludes": Key(listed(NAME), "products that must not be held"),
    },
    "places": {"table": Key(TEXT, "CSV file: cell, place, label, categories", required=True)},
    "terminals": {
        "table": Key(TEXT, "CSV file: tac, and a column for each attribute", required=True),
        "attributes": Key(
            by_name(either(TYPE, section("attribute"))), "columns of the table", required=True
        ),
    },
    "behaviours": {
        "metrics": Key(by_name(section("metric")), "figures folded from events"),
        "patterns": Key(by_name(section("pattern")), "what happens over time"),
        "facts": Key(by_name(section("fact")), "what is remembered for a time"),
        "behaviours": Key(by_name(section("behaviour")), "habits"),
        "scenes": Key(by_name(section("scene")), "situations"),
    },
    "scenes": {"scenes": Key(by_name(section("scene")), "situations")},
    "metric": {
        "label": LABEL,
        "count": Key(EVENT_TYPES, "how many events of these types"),
        "sum": Key(ATTRIBUTE_NAME, "the sum of a number"),
        "min": Key(ATTRIBUTE_NAME, "the least of a number"),
        "max": Key(ATTRIBUTE_NAME, "the greatest of a number"),
        "latest": Key(ATTRIBUTE_NAME, "the value of the newest event"),
        "distinct": Key(ATTRIBUTE_NAME, "how many different values"),
        "of": Key(EVENT_TYPES, "the event types, for all but `count`"),
        "days": Key(whole(1, 400), "calendar days of the subscriber, today included"),
        "last": Key(DURATION, "up to `24h`, exact, the current event included"),
        "where": Key(CONDITION, "which events take part, over `event`, `sub`, `terminal`, `place`"),
    },
    "pattern": {
        "label": LABEL,
        "count": Key(EVENT_TYPES, "so many events within a time"),
        "distinct": Key(ATTRIBUTE_NAME, "count different values, not events"),
        "at_least": Key(NUMBER, "how many; of a change: what the earlier period must come to"),
        "sequence": Key(several(STEP), "steps in order"),
        "without": Key(STEP, "what must not come between the steps"),
        "within": Key(DURATION, "from the first to the last, up to `7d`"),
        "after": Key(STEP, "what opens the wait"),
        "absent": Key(STEP, "what must not come"),
        "dwell": Key(TEXT, "category of places in which the subscriber stays"),
        "for": Key(DURATION, "how long nothing comes, up to `30d`; how long the stay is, up to `24h`"),
        "change": Key(either(one_of("count"), ATTRIBUTE_NAME), "the figure that rises or falls"),
        "of": Key(EVENT_TYPES, "the event types of a change"),
        "days": Key(whole(1, 100), "the length of the two periods of a change"),
        "rises_to": Key(NUMBER, "times the earlier period, 1 or more"),
        "falls_to": Key(NUMBER, "share of the earlier period, less than 1"),
        "where": Key(CONDITION, "which events take part"),
    },
    "step": {
        "event": Key(EVENT_TYPES, "event types", required=True),
        "where": Key(CONDITION, "which of them, over `event`, `sub`, `terminal`, `place`"),
        "link": Key(CONDITION, "how it fits earlier steps, over `event`, `first`, `previous`"),
    },
    "fact": {
        "label": LABEL,
        "on": Key(EVENT_TYPES, "event types that tell it", required=True),
        "when": Key(CONDITION, "when such an event tells it", default="always"),
        "for": Key(DURATION, "how long it is remembered, up to `400d`", required=True),
    },
    "behaviour": {
        "label": LABEL,
        "when": Key(CONDITION, "when it holds; or"),
        "imported": Key(section("imported"), "it was found elsewhere and is imported"),
    },
    "imported": {"valid_for": Key(DURATION, "after its as-of time; then it is unknown", required=True)},
    "scene": {"label": LABEL, "when": Key(CONDITION, "when it holds", required=True)},
    "campaign": {
        "campaign": Key(NAME, "its name", required=True),
        "like": Key(NAME, "template that gives what is not written here"),
        "label": LABEL,
        "product": Key(NAME, "what is offered", required=True),
        "on": Key(
            listed(either(EVENT_TYPE, section("date_trigger"), section("schedule_trigger"))),
            "what triggers it",
            default="the matrix",
        ),
        "when": Key(CONDITION, "the moment", default="any"),
        "target": Key(CONDITION, "who may get it", default="anyone"),
        "mode": Key(one_of(*Mode), "who carries it; all channels must have it", required=True),
        "channels": Key(listed(NAME), "in order of preference", required=True),
        "content": Key(by_name(TEXT), "channel: text; `default` for channels not named", required=True),
        "priority": Key(whole(-1_000_000, 1_000_000), "higher goes first", default="500"),
        "value": Key(NUMBER, "not negative; orders equal priorities, times `propensity`", default="1"),
        "propensity": Key(EXPRESSION, "gives an `int` or `double`", default="`default_propensity`"),
        "valid": Key(section("valid"), "whole days of the rulebase's zone", default="always"),
        "fresh_for": Key(DURATION, "how old the event may be when it is decided", default="`5m`"),
        "expires_after": Key(DURATION, "how long the offer may wait", default="`2h`"),
        "allow_unknown": Key(FLAG, "whether subscribers without context may get it", default="`false`"),
        "exempt": Key(listed(NAME), "caps that do not bind it", default="none"),
        "branches": Key(listed(TEXT), "values of `sub.branch` that it serves", default="all"),
    },
    "valid": {
        "from": Key(DATE, "the first day"),
        "to": Key(DATE, "the last day"),
    },
    "date_trigger": {
        "date": Key(
            Shape({"type": "string", "pattern": r"^sub\.[a-z][a-z0-9_]*$"}, "`sub.ATTRIBUTE`"),
            "a `date` or `timestamp`",
            required=True,
        ),
        "before": Key(DURATION, "whole days before it"),
        "after": Key(DURATION, "whole days after it"),
        "every": Key(one_of("year"), "on that day of every year"),
        "at": Key(CLOCK, "time of the subscriber's day", required=True),
    },
    "schedule_trigger": {
        "schedule": Key(one_of("daily", "weekly", "monthly", "once"), "how often", required=True),
        "days": Key(listed(either(one_of(*WEEKDAYS), whole(1, 31))), "weekdays, or days of the month"),
        "date": Key(DATE, "the day, for `once`"),
        "at": Key(CLOCK, "time of the subscriber's day", required=True),
    },
    "matrix": {
        "columns": Key(EVENT_TYPES, "event types", required=True),
        "rows": Key(by_name(by_name(listed(NAME))), "behaviour: {event type: campaigns}", required=True),
    },
    "policies": {
        "caps": Key(by_name(section("cap")), "how often"),
        "quiet_hours": Key(by_name(section("quiet_window")), "when not"),
        "cool_downs": Key(by_name(section("cool_down")), "how long to stay away after an answer"),
        "suppress": Key(by_name(section("suppression")), "who not"),
        "consent": Key(section("consent"), "what absent consent means"),
        "normal_status": Key(
            listed(TEXT), "values of `sub.status` that may be contacted", default="`[active]`"
        ),
        "arbitration": Key(section("arbitration"), "which of several"),
    },
    "cap": {
        "label": LABEL,
        "limit": Key(whole(0, 100_000), "contacts, this one included; 0 blocks", required=True),
        "period": Key(
            either(one_of(*CalendarPeriod), section("period")),
            "of the subscriber's calendar",
            required=True,
        ),
        "per": Key(listed(one_of(*Dimension)), "count apart"),
        "applies_to": Key(section("selector"), "which contacts obey it", default="all"),
        "counts": Key(section("selector"), "which contacts count toward it", default="those it applies to"),
    },
    "period": {"rolling": Key(DURATION, "up to `400d`", required=True)},
    "quiet_window": {
        "label": LABEL,
        "from": Key(CLOCK, "when it begins", required=True),
        "to": Key(CLOCK, "when it ends; before `from`: on the next day", required=True),
        "days": Key(listed(one_of(*WEEKDAYS)), "days on which it begins", default="all"),
        "applies_to": Key(section("selector"), "which contacts", default="all"),
    },
    "cool_down": {
        "label": LABEL,
        "after": Key(listed(one_of(*OutcomeKind)), "which outcomes", required=True),
        "for": Key(DURATION, "how long", required=True),
        "scope": Key(one_of(*CoolDownScope), "what to stay away from", default="`product`"),
    },
    "suppression": {
        "label": LABEL,
        "when": Key(
            CONDITION, "true or unknown suppresses; not over `event`, `peer`, `place`", required=True
        ),
        "applies_to": Key(section("selector"), "which contacts", default="all"),
    },
    "consent": {
        "channels": Key(by_name(one_of("opt_in", "opt_out")), "channel: what absent means"),
        "categories": Key(by_name(one_of("opt_in", "opt_out")), "category: what absent means"),
    },
    "arbitration": {
        "max_automatic": Key(whole(0, 100), "automatic decisions an event", default="1"),
        "max_prompts": Key(whole(0, 100), "prompts an event", default="3"),
        "default_propensity": Key(NUMBER, "where none is known", default="0.1"),
    },
    "selector": {
        "campaigns": _selected("campaigns"),
        "products": _selected("products"),
        "categories": _selected("categories"),
        "channels": _selected("channels"),
        "modes": Key(listed(one_of(*Mode)), "only these modes", default="any"),
    },
    "test_file": {
        "now": Key(INSTANT, "when its cases take place"),
        "cases": Key(several(section("case")), "the cases", required=True),
    },
    "case": {
        "name": Key(TEXT, "what it shows", required=True),
        "now": Key(INSTANT, "when it takes place", default="the file's"),
        "subscriber": Key(ATTRIBUTES, "what is known: context attributes, `id`, `known`"),
        "given": Key(ATTRIBUTES, "metrics, facts and the handset before the first event"),
        "peers": Key(by_name(ATTRIBUTES), "other subscribers: number: attributes"),
        "history": Key(section("history"), "earlier contacts and answers"),
        "events": Key(several(EVENT), "what happens"),
        "until": Key(INSTANT_OR_AFTER, "how long time goes on, so that timers and dates fall due"),
        "expect": Key(several(section("expectation")), "all that is decided, nothing else", required=True),
    },
    "history": {
        "contacts": Key(several(section("past_contact")), "who contacted the customer"),
        "outcomes": Key(several(section("past_outcome")), "what the customer answered"),
    },
    "past_contact": {
        "campaign": Key(NAME, "of which campaign", required=True),
        "channel": Key(NAME, "on which channel", default="its first"),
        "before": Key(DURATION, "how long before `now`", required=True),
    },
    "past_outcome": {
        "campaign": Key(NAME, "to which campaign", required=True),
        "outcome": Key(one_of(*OutcomeKind), "what was answered", required=True),
        "before": Key(DURATION, "how long before `now`", required=True),
    },
    "expectation": {
        "campaign": Key(NAME, "which campaign", required=True),
        "reason": Key(TEXT, "how it ends", default="`decided`"),
        "mode": Key(one_of(*Mode), "who carries it"),
        "channel": Key(NAME, "on which channel"),
        "content": Key(TEXT, "part of what is said"),
    },
}

FILES: Final[Mapping[str, str]] = {
    "rulebase.yaml": "rulebase",
    "vocabulary.yaml": "vocabulary",
    "behaviours.yaml": "behaviours",
    "scenes.yaml": "scenes",
    "matrix.yaml": "matrix",
    "policies.yaml": "policies",
    "campaigns/*.yaml": "campaign",
    "tests/*_test.yaml": "test_file",
}
"""File -> the section that it holds. A file of campaigns holds one, a list of them, or several documents; a
document may be a template, which has all keys of a campaign but its name."""


def keys_in(name: str) -> tuple[str, ...]:
    """The keys of a section, in the order in which people write them."""
    return tuple(SECTIONS[name])


__all__ = ["FILES", "SECTIONS", "Key", "Shape", "keys_in"]
