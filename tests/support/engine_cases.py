"""Cases for every engine: what a rulebase says of one event, by the meaning of the language alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from opportune_rulebase.model import Place
from support.rulebases import NOON_US, attribute

VOCABULARY: dict[str, Any] = {
    "events": {
        "sms": {
            "amount": "int",
            "to": "string",
            "flag": "bool",
            "at": "timestamp",
            "cost": "double",
            "callee": "subscriber",
            "due": "date",
        },
        "call": {"amount": "int", "to": "string", "seconds": "int"},
    },
    "subscriber": {
        "age": "int",
        "brand": attribute("brand", "string", default="gotone"),
        "products": "list<string>",
        "ends": "timestamp",
        "flags": "map<string, bool>",
    },
    "terminal": {"mms": "bool"},
    "metrics": {
        "sms_7d": {"of": ("sms",), "days": 7},
        "spend": {"of": ("sms",), "value": "amount", "bound": "none"},
        "least": {"of": ("sms",), "value": "amount", "kind": "min"},
        "dearest": {"of": ("sms",), "value": "cost", "kind": "max"},
        "callees": {"of": ("sms",), "value": "callee", "kind": "distinct"},
        "last_to": {"of": ("sms",), "value": "to", "kind": "latest"},
        "last_flag": {"of": ("sms",), "value": "flag", "kind": "latest"},
        "last_cost": {"of": ("sms",), "value": "cost", "kind": "latest"},
    },
    "facts": {"told": {"on": ("sms",)}},
    "imported": {"behaviour.mined": 1},
}


@dataclass(frozen=True)
class Case:
    """`when` texts of campaigns by name, and of those the ones that must match the facts."""

    what: str
    when: Mapping[str, str | None]
    expect: frozenset[str]
    definitions: Mapping[str, str] = field(default_factory=dict)
    type: str = "sms"
    facts: Mapping[str, Any] = field(default_factory=dict)


def case(
    what: str,
    when: Mapping[str, str | None],
    expect: str,
    definitions: Mapping[str, str] | None = None,
    type: str = "sms",
    **facts: Any,
) -> Case:
    return Case(what, when, frozenset(expect.split()), definitions or {}, type, facts)


SPLIT = {"t": "scene.s", "f": "!scene.s", "either": "scene.s || !scene.s"}
"""Tells the three truths of a scene apart: t, or f, or, for unknown, nothing."""
COLLIDING = ("48600462789", "48600679192")
"""Two numbers with one FNV-1a hash."""

CASES = [
    case("no condition", {"a": None}, "a"),
    case("constants", {"a": "true", "b": "false", "c": "!false && (true || 1 / 0 > 1)"}, "a c"),
    case(
        "conjunction",
        {"a": "event.amount > 3 && sub.age < 30", "b": "event.amount > 4 && sub.age < 30"},
        "a",
        event={"amount": 4},
        sub={"age": 20},
    ),
    case(
        "disjunction",
        {"a": "event.amount > 3 || sub.age > 30", "b": "event.amount > 4 || sub.age > 30"},
        "a",
        event={"amount": 4},
        sub={"age": 20},
    ),
    case(
        "both sides of a disjunction",
        {"a": "event.amount > 3 || event.amount > 2"},
        "a",
        event={"amount": 4},
    ),
    case(
        "disjunctions below conjunctions",
        {
            "a": "(event.amount == 1 || event.amount == 4) && (sub.age == 20 || event.flag) && !event.flag",
            "b": "(event.amount == 1 || event.amount == 5) && (sub.age == 20 || event.flag) && !event.flag",
        },
        "a",
        event={"amount": 4, "flag": False},
        sub={"age": 20},
    ),
    case("negation", {"a": "!(event.amount > 3)", "b": "!(event.amount > 5)"}, "b", event={"amount": 4}),
    case("negation of the unknown", {"a": "!(event.amount > 3)", "b": "event.amount > 3"}, ""),
    case(
        "false && unknown is false",
        SPLIT,
        "f either",
        {"scene.s": "sub.age > 30 && event.amount > 3"},
        sub={"age": 20},
    ),
    case(
        "unknown && false is false",
        SPLIT,
        "f either",
        {"scene.s": "event.amount > 3 && sub.age > 30"},
        sub={"age": 20},
    ),
    case(
        "true && unknown is unknown",
        SPLIT,
        "",
        {"scene.s": "sub.age > 10 && event.amount > 3"},
        sub={"age": 20},
    ),
    case(
        "true || unknown is true",
        SPLIT,
        "t either",
        {"scene.s": "sub.age > 10 || event.amount > 3"},
        sub={"age": 20},
    ),
    case(
        "unknown || true is true",
        SPLIT,
        "t either",
        {"scene.s": "event.amount > 3 || sub.age > 10"},
        sub={"age": 20},
    ),
    case(
        "false || unknown is unknown",
        SPLIT,
        "",
        {"scene.s": "sub.age > 30 || event.amount > 3"},
        sub={"age": 20},
    ),
    case(
        "conditional, first",
        SPLIT,
        "f either",
        {"scene.s": "sub.age > 10 ? event.amount > 3 : 1 / 0 > 1"},
        sub={"age": 20},
        event={"amount": 1},
    ),
    case(
        "conditional, second",
        SPLIT,
        "t either",
        {"scene.s": "sub.age > 30 ? 1 / 0 > 1 : event.amount > 0"},
        sub={"age": 20},
        event={"amount": 1},
    ),
    case(
        "conditional on the unknown",
        SPLIT,
        "",
        {"scene.s": "sub.age > 10 ? event.amount > 0 : event.amount > 0"},
        event={"amount": 1},
    ),
    case(
        "chained definitions",
        {"a": "behaviour.two", "b": "!behaviour.two", "c": "behaviour.one && event.amount == 4"},
        "a c",
        {
            "scene.zero": "sub.age < 30",
            "behaviour.one": "scene.zero && event.amount > 3",
            "behaviour.two": "behaviour.one || scene.zero",
        },
        event={"amount": 4},
        sub={"age": 20},
    ),
    case(
        "a definition compared",
        {"a": "behaviour.one == scene.zero", "b": "behaviour.one != scene.zero"},
        "b",
        {"scene.zero": "sub.age < 30", "behaviour.one": "event.amount > 30"},
        event={"amount": 4},
        sub={"age": 20},
    ),
    case(
        "more derived facts than one rule can join",
        {
            "all": " && ".join(f"scene.s{n}" for n in range(20)),
            "one": " && ".join(["!scene.s3", *(f"scene.s{n}" for n in range(20))]),
        },
        "all",
        {f"scene.s{n}": f"event.amount > {n}" for n in range(20)},
        event={"amount": 50},
    ),
    case("a metric", {"a": "metric.sms_7d >= 20", "b": "metric.sms_7d < 20"}, "a", metrics={"sms_7d": 20}),
    case("a metric of which nothing is known", {"a": "metric.sms_7d >= 0", "b": "metric.sms_7d < 0"}, ""),
    case(
        "a partly covered count is at least what it shows",
        {
            "ge": "metric.sms_7d >= 20",
            "more": "metric.sms_7d >= 21",
            "le": "metric.sms_7d <= 19",
            "none": "metric.sms_7d == 0",
            "some": "metric.sms_7d != 3",
            "not_none": "!(metric.sms_7d == 0)",
            "mirror": "20 <= metric.sms_7d",
        },
        "ge some not_none mirror",
        metrics={"sms_7d": (20, False)},
    ),
    case(
        "nothing seen yet proves nothing",
        {"a": "metric.sms_7d == 0", "b": "!(metric.sms_7d == 0)", "c": "metric.sms_7d >= 0"},
        "c",
        metrics={"sms_7d": (0, False)},
    ),
    case(
        "a partly covered figure of either sign is unknown",
        {"a": "metric.spend >= 1", "b": "!(metric.spend >= 1)"},
        "",
        metrics={"spend": (20, False)},
    ),
    case(
        "an uncovered metric among known conditions",
        {"a": "metric.sms_7d >= 9 && sub.age == 20", "b": "metric.sms_7d >= 99 || sub.age == 20"},
        "a b",
        metrics={"sms_7d": (20, False)},
        sub={"age": 20},
    ),
    case(
        "arithmetic on an uncovered metric is unknown",
        {"a": "metric.sms_7d + 1 >= 9"},
        "",
        metrics={"sms_7d": (20, False)},
    ),
    case(
        "strings",
        {
            "a": "event.to == 'ab'",
            "b": "event.to < 'ab c'",
            "c": "event.to.startsWith('a')",
            "d": "event.to == 'AB'",
            "e": "'true' == event.to",
        },
        "a b c",
        event={"to": "ab"},
    ),
    case(
        "strings beyond ASCII",
        {
            "a": "event.to == '常关机'",
            "b": "event.to.size() == 3",
            "c": "event.to.contains('关')",
            "d": r"event.to == '\"'",
        },
        "a b c",
        event={"to": "常关机"},
    ),
    case(
        "regular expressions",
        {"a": "event.to.matches('^1[0-9]+$')", "b": "event.to.matches('^2')"},
        "a",
        event={"to": "138"},
    ),
    case("a default for absent context", {"a": "sub.brand == 'gotone'", "b": "sub.brand == 'mzone'"}, "a"),
    case(
        "lists",
        {
            "a": "'mms' in sub.products",
            "b": "'wap' in sub.products",
            "c": "sub.products.size() == 2",
            "d": "sub.products[0] == 'sms'",
            "e": "event.to in ['x', 'y']",
        },
        "a c d e",
        event={"to": "y"},
        sub={"products": ["sms", "mms"]},
    ),
    case(
        "comprehensions",
        {
            "a": "sub.products.exists(p, p == 'mms')",
            "b": "sub.products.exists(p, p == 'wap')",
            "c": "sub.products.all(p, p.size() == 3) && event.amount == 4",
        },
        "a c",
        event={"amount": 4},
        sub={"products": ["sms", "mms"]},
    ),
    case(
        "flags",
        {"a": "event.flag", "b": "!event.flag", "c": "terminal.mms && event.flag"},
        "a c",
        event={"flag": True},
        terminal={"mms": True},
    ),
    case(
        "errors are unknown",
        {
            "a": "event.amount / 0 == 1",
            "b": "!(event.amount / 0 == 1)",
            "c": "event.amount + 9223372036854775807 > 0",
            "d": "event.amount == 4",
        },
        "d",
        event={"amount": 4},
    ),
    case(
        "integers past 2^53 are exact",
        {"a": "event.amount == 9007199254740993", "b": "event.amount == 9007199254740992"},
        "a",
        event={"amount": 9007199254740993},
    ),
    case(
        "doubles",
        {"a": "event.cost > 0.1", "b": "event.cost == 1e16", "c": "event.cost < 1e-5"},
        "a b",
        event={"cost": 1e16},
    ),
    case(
        "the hour is the zone's",
        {"a": "now.getHours(zone) == 12", "b": "now.getHours() == 4", "c": "now.getHours(zone) == 4"},
        "a b",
    ),
    case(
        "the hour over daylight saving",
        {"a": "now.getHours(zone) == 3", "b": "now.getHours(zone) == 2"},
        "a",
        now_us=1_774_746_000_000_000,
        zone=ZoneInfo("Europe/Berlin"),
    ),
    case(
        "timestamps",
        {
            "a": "sub.ends - now < duration('240h')",
            "b": "sub.ends < now",
            "c": "event.at == timestamp('2026-11-20T04:00:00Z')",
        },
        "a c",
        event={"at": NOON_US},
        sub={"ends": datetime.fromtimestamp(NOON_US / 1e6, UTC) + timedelta(days=9)},
    ),
    case(
        "the place",
        {
            "a": "'airport' in place.categories",
            "b": "place.name == 'PVG'",
            "c": "'station' in place.categories",
        },
        "a b",
        place=Place("PVG", "PVG", ("airport",)),
    ),
    case("no place", {"a": "'airport' in place.categories", "b": "!('airport' in place.categories)"}, ""),
    case(
        "event types",
        {"a": "event.type == 'call'", "b": "event.seconds > 3"},
        "a b",
        type="call",
        event={"seconds": 4},
    ),
    case(
        "numbers whose hashes collide",
        {"a": f"event.to == '{COLLIDING[0]}'", "b": f"event.to == '{COLLIDING[1]}'"},
        "b",
        event={"to": COLLIDING[1]},
    ),
    case(
        "more than 64 campaigns at once",
        {f"c{n:03}": f"event.amount > {n}" for n in range(130)},
        " ".join(f"c{n:03}" for n in range(120)),
        event={"amount": 120},
    ),
    case(
        "more than 64 campaigns on one condition",
        {f"c{n:03}": "event.amount == 4" for n in range(300)},
        " ".join(f"c{n:03}" for n in range(300)),
        event={"amount": 4},
    ),
    case(
        "many conditions in one campaign",
        {"a": " && ".join(f"event.amount != {n}" for n in range(200))},
        "a",
        event={"amount": 200},
    ),
]
