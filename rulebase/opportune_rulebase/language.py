"""The keys of the rulebase language, once: what loading accepts, what editors complete, what the docs list.

`SECTIONS` has every mapping of the language by name, with its keys in the order in which people write them.
`FILES` says which mapping a file holds. `schema.py` makes JSON Schema of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from opportune_rulebase.model import TouchKind
from opportune_rulebase.policies import (
    CalendarPeriod,
    CoolDownScope,
    DayKind,
    Dimension,
    Fate,
    Fit,
    Mode,
    OutcomeKind,
)
from opportune_rulebase.shapes import (
    ANY,
    ATTRIBUTE_NAME,
    ATTRIBUTES,
    CLOCK,
    CONDITION,
    DATE,
    DURATION,
    EVENT,
    EVENT_TYPE,
    EVENT_TYPES,
    EXPRESSION,
    FLAG,
    INSTANT,
    INSTANT_OR_AFTER,
    LABEL,
    NAME,
    NUMBER,
    SHARE,
    STEP,
    TEXT,
    TYPE,
    Key,
    Shape,
    by_name,
    either,
    listed,
    one_of,
    section,
    several,
    whole,
)

WEEKDAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def _selected(what: str) -> Key:
    return Key(listed(NAME), f"only these {what}", default="any")


def _otherwise(what: str) -> Key:
    return Key(one_of(*Fate), what, default="`drop`")


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
        "touch": Key(one_of(*TouchKind), "what it is in the contact view", default="nothing"),
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
        "per_second": Key(whole(1, 100_000), "pace, over all its clients", default="any"),
        "per_day": Key(
            whole(1, 1_000_000_000),
            "capacity of a day of the rulebase's zone, over all its clients",
            default="any",
        ),
        "otherwise": _otherwise("what becomes of an offer that finds no capacity"),
        "cost": Key(whole(0, 1_000_000_000), "of one contact, in the unit of budgets", default="0"),
        "bulk": Key(FLAG, "whether it takes interface files, many contacts in each", default="`false`"),
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
        "open_for": Key(
            DURATION, "how long its offer stands after the contact", default="as `expires_after`"
        ),
        "exclusive_group": Key(NAME, "of such a group only the best is decided", default="none"),
        "quota": Key(section("quota"), "how many, over all subscribers", default="any number"),
        "alarm": Key(section("alarm"), "when it pauses itself", default="that of the policies"),
        "control_group": Key(
            either(SHARE, one_of("exempt")),
            "share held back to compare with; `exempt`: nobody is",
            default="none of its own",
        ),
        "conversion": Key(section("conversion"), "what counts as success"),
        "baseline": Key(NAME, "the campaign of plain mass sending to compare with", default="none"),
        "exempt": Key(listed(NAME), "caps that do not bind it", default="none"),
        "branches": Key(listed(TEXT), "values of `sub.branch` that it serves", default="all"),
    },
    "valid": {
        "from": Key(DATE, "the first day"),
        "to": Key(DATE, "the last day"),
    },
    "quota": {
        "per_day": Key(whole(0, 1_000_000_000), "contacts a day of the rulebase's zone", default="any"),
        "total": Key(whole(0, 1_000_000_000), "contacts in its whole life", default="any"),
        "budget": Key(
            whole(0, 1_000_000_000_000), "what all of them may cost, in the unit of `cost`", default="any"
        ),
        "otherwise": _otherwise("what becomes of an offer beyond it; only `per_day` can `defer`"),
    },
    "alarm": {
        "complaint_rate": Key(SHARE, "pause when more of its contacts are complained of", default="never"),
        "at_least": Key(whole(1, 1_000_000), "contacts before a rate counts", default="50"),
        "within": Key(DURATION, "over how long, up to `30d`", default="`24h`"),
        "per_hour": Key(
            whole(1, 1_000_000_000), "pause when more are decided in a clock hour", default="never"
        ),
    },
    "conversion": {
        "event": Key(EVENT_TYPE, "event type that shows it", required=True),
        "when": Key(
            CONDITION, "which such events, over `event`, `sub`, `terminal`, `place`", default="all"
        ),
        "within": Key(DURATION, "after the contact, up to `400d`", required=True),
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
        "fit": Key(
            by_name(by_name(one_of(*Fit))),
            "product: {channel: preferred, fits, does not fit}",
            default="`BB`",
        ),
        "preference": Key(section("preference"), "which channel a customer likes better"),
        "deferral": Key(section("deferral"), "how what waits comes back"),
        "control": Key(section("control"), "the control group of all campaigns"),
        "alarm": Key(section("alarm"), "when campaigns without one of their own pause themselves"),
        "replies": Key(section("replies"), "what customers' answers mean"),
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
        "counts": Key(
            section("selector"),
            "which contacts count toward it",
            default="those it applies to, of either mode",
        ),
        "headroom": Key(section("headroom"), "the last contacts are for the important", default="none"),
        "otherwise": _otherwise("what becomes of an offer that it stops"),
    },
    "headroom": {
        "last": Key(whole(1, 100_000), "so many contacts", required=True),
        "priority": Key(
            whole(-1_000_000, 1_000_000), "are for campaigns of this priority or more", required=True
        ),
    },
    "period": {"rolling": Key(DURATION, "up to `400d`", required=True)},
    "quiet_window": {
        "label": LABEL,
        "from": Key(CLOCK, "when it begins", required=True),
        "to": Key(CLOCK, "when it ends; before `from`: on the next day", required=True),
        "days": Key(
            listed(one_of(*WEEKDAYS, *DayKind)), "days on which it begins, also by calendar", default="all"
        ),
        "applies_to": Key(section("selector"), "which contacts", default="all"),
        "otherwise": _otherwise("what becomes of an offer that it stops"),
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
        "settle": Key(
            DURATION, "how long automatic candidates wait for better ones, up to `24h`", default="not"
        ),
        "no_channel": Key(
            one_of(Fate.DROP, Fate.NEXT), "what becomes of a winner without a channel", default="`drop`"
        ),
    },
    "deferral": {
        "jitter": Key(DURATION, "over how long it is spread, up to `24h`; `0m`: not", default="`30m`"),
    },
    "control": {
        "share": Key(SHARE, "of all subscribers: no campaign contacts them", default="none"),
        "salt": Key(TEXT, "another text draws other people", default="the rulebase's name"),
    },
    "preference": {
        "from_contacts": Key(whole(1, 1_000), "with so many contacts, their own habit", default="10"),
        "within": Key(DURATION, "contacts of that time, up to `400d`", default="`180d`"),
        "scores": Key(by_name(EXPRESSION), "for the others: channel: number, more is better"),
        "segment": Key(EXPRESSION, "text that names the customer's class"),
        "segments": Key(by_name(listed(NAME)), "class: channels in order"),
    },
    "replies": {
        "event": Key(EVENT_TYPE, "event type of what they write", required=True),
        "text": Key(ATTRIBUTE_NAME, "attribute with the text", required=True),
        "channel": Key(ATTRIBUTE_NAME, "attribute with the channel; or"),
        "on_channel": Key(NAME, "the channel of all of them"),
        "accepted": Key(listed(TEXT), "words that say yes"),
        "refused": Key(listed(TEXT), "words that say no"),
        "opt_out": Key(
            listed(TEXT), "words after which the channel is closed, besides those that always do so"
        ),
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
        "given": Key(
            ATTRIBUTES, "metrics, facts, the handset; `control`, `paused`, `spent`: before the first event"
        ),
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
        "campaign": Key(NAME, "of which campaign; its offer is open for `open_for`"),
        "origin": Key(TEXT, "or which other system made it"),
        "product": Key(NAME, "of another system: what was offered"),
        "category": Key(TEXT, "of another system: its category", default="the product's"),
        "channel": Key(NAME, "on which channel", default="the campaign's first"),
        "before": Key(DURATION, "how long before `now`", required=True),
    },
    "past_outcome": {
        "campaign": Key(NAME, "to the newest contact of which campaign", required=True),
        "outcome": Key(one_of(*OutcomeKind), "what was answered", required=True),
        "before": Key(DURATION, "how long before `now`", required=True),
    },
    "expectation": {
        "campaign": Key(NAME, "which campaign", required=True),
        "reason": Key(TEXT, "how it ends", default="`decided`"),
        "fate": Key(one_of(*Fate), "what becomes of it then"),
        "due": Key(INSTANT_OR_AFTER, "when it is decided again, the jitter apart"),
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


__all__ = ["FILES", "SECTIONS", "WEEKDAYS", "keys_in"]
