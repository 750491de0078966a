"""More cases for every engine: metrics of all kinds, other subscribers, facts, calendars, earlier steps."""

from __future__ import annotations

from datetime import date

from opportune_rulebase.model import Calendar
from support.engine_cases import SPLIT, case
from support.rulebases import NOON_US

FIGURE_CASES = [
    case(
        "a partly covered minimum is at most what it shows",
        {
            "le": "metric.least <= 20",
            "lt": "metric.least < 21",
            "lt_same": "metric.least < 20",
            "gt": "metric.least > 19",
            "eq": "metric.least == 21",
            "not_eq": "!(metric.least == 21)",
            "ne": "metric.least != 21",
            "ne_below": "metric.least != 3",
            "not_more": "!(metric.least > 20)",
            "mirror": "20 >= metric.least",
        },
        "le lt not_eq ne not_more mirror",
        metrics={"least": (20, False)},
    ),
    case(
        "a covered minimum is exact",
        {"a": "metric.least == 20", "b": "metric.least > 19", "c": "metric.least < 20"},
        "a b",
        metrics={"least": 20},
    ),
    case(
        "a covered minimum or maximum of nothing is missing",
        {
            "a": "metric.least < 20",
            "b": "!(metric.least < 20)",
            "c": "metric.dearest >= 0.0 || true",
            "d": "metric.dearest >= 0.0",
            "e": "metric.least == 0 || metric.least != 0",
        },
        "c",
        metrics={"least": (None, True), "dearest": (None, True)},
    ),
    case(
        "a partly covered maximum is at least what it shows",
        {"a": "metric.dearest >= 2.5", "b": "metric.dearest < 2.5", "c": "!(metric.dearest < 2.5)"},
        "a c",
        metrics={"dearest": (2.5, False)},
    ),
    case(
        "distinct counts",
        {"a": "metric.callees >= 3", "b": "metric.callees < 3"},
        "a",
        metrics={"callees": (3, False)},
    ),
    case(
        "latest values of any type",
        {
            "a": "metric.last_to == 'x'",
            "b": "metric.last_flag",
            "c": "!metric.last_flag",
            "d": "metric.last_to.startsWith('y')",
            "e": "metric.last_cost > 1.0",
            "f": "metric.last_to in ['x', 'y']",
        },
        "a c e f",
        metrics={"last_to": "x", "last_flag": False, "last_cost": 2},
    ),
    case(
        "a latest value that was not seen",
        {"a": "metric.last_to == 'x'", "b": "metric.last_to != 'x'", "c": "!metric.last_flag", "d": "true"},
        "d",
        metrics={"last_to": (None, True), "last_flag": (None, False)},
    ),
    case(
        "two metrics compared",
        {
            "a": "metric.sms_7d >= metric.callees",
            "b": "metric.least <= metric.callees * 3",
            "c": "metric.least < metric.callees",
            "both_uncovered": "metric.least <= metric.sms_7d",
        },
        "a b",
        metrics={"sms_7d": (9, False), "callees": 3, "least": (9, False)},
    ),
    case(
        "dyn gives up what a bound tells",
        {"a": "metric.sms_7d >= dyn(3)", "b": "metric.sms_7d >= 3", "c": "dyn(metric.sms_7d) >= 3"},
        "b",
        metrics={"sms_7d": (9, False)},
    ),
    case(
        "numbers of different types",
        {
            "a": "dyn(event.amount) < 2.5",
            "b": "dyn(event.amount) == dyn(2u)",
            "c": "metric.sms_7d == dyn('x')",
            "d": "metric.sms_7d != dyn(true)",
            "e": "metric.sms_7d >= dyn('x')",
        },
        "a b d",
        event={"amount": 2},
        metrics={"sms_7d": 3},
    ),
    case(
        "another subscriber",
        {
            "a": "peer.age > sub.age",
            "b": "peer.brand == 'gotone'",
            "c": "peer.ends > now",
            "d": "event.callee == '138'",
            "e": "'mms' in peer.products",
        },
        "a c d",
        event={"callee": "138"},
        sub={"age": 20},
        peer={"age": 30, "ends": NOON_US + 1},
    ),
    case("nobody else", {"a": "peer.age > 1 || true", "b": "peer.age > 1", "c": "!(peer.age > 1)"}, "a"),
    case(
        "remembered facts",
        {"a": "fact.told", "b": "!fact.told", "c": "fact.told && event.amount > 3"},
        "a c",
        event={"amount": 4},
        facts={"told": True},
    ),
    case("a forgotten fact", SPLIT, "f either", {"scene.s": "fact.told"}, facts={"told": False}),
    case("a fact of which nothing is known", SPLIT, "", {"scene.s": "fact.told"}),
    case(
        "imported behaviours",
        {"a": "behaviour.mined", "b": "!behaviour.mined", "c": "scene.s"},
        "a c",
        {"scene.s": "behaviour.mined && sub.age > 1"},
        sub={"behaviour.mined": True, "age": 2},
    ),
    case("an imported behaviour that is not valid", SPLIT, "", {"scene.s": "behaviour.mined"}),
    case(
        "the calendar",
        {
            "a": "calendar.workday",
            "b": "calendar.holiday",
            "c": "!calendar.holiday",
            "d": "!calendar.workday",
        },
        "b d",
        calendar=Calendar("XX", {date(2026, 11, 20): "a day off"}, first=date(2026, 1, 1)),
    ),
    case(
        "the calendar's day is the subscriber's",
        {"a": "calendar.workday", "b": "!calendar.workday"},
        "a",
        now_us=NOON_US + 2 * 86_400_000_000 + 43_200_000_000,
    ),
    case(
        "a day that the calendar does not know",
        {"a": "calendar.workday", "b": "!calendar.workday", "c": "calendar.holiday || true"},
        "c",
        calendar=Calendar("XX", first=date(2027, 1, 1)),
    ),
    case(
        "events of earlier steps",
        {
            "a": "event.amount == first.amount",
            "b": "event.amount > previous.amount",
            "c": "previous.at < now",
            "d": "first.to == event.to",
        },
        "a c",
        event={"amount": 4, "to": "a"},
        others={"first.amount": 4, "previous.amount": 4, "previous.at": NOON_US - 1},
    ),
    case(
        "dates are text",
        {"a": "event.due == '2026-11-20'", "b": "event.due < '2027'", "c": "event.due > '2026-11-20'"},
        "a b",
        event={"due": "2026-11-20"},
    ),
    case(
        "instants that the calendar cannot hold are missing",
        {"a": "sub.ends > now", "b": "!(sub.ends > now)", "c": "event.at < now || true"},
        "c",
        event={"at": -62_135_596_800_000_000},
        sub={"ends": 2**62},
    ),
    case(
        "time zones by name, by offset, and unusable",
        {
            "a": "now.getHours('Asia/Kolkata') == 9 && now.getMinutes('Asia/Kolkata') == 30",
            "b": "now.getHours('-03:30') == 0",
            "c": "now.getHours('Nowhere/Such') == 4",
            "d": "!(now.getHours('Nowhere/Such') == 4)",
        },
        "a b",
    ),
    case(
        "many campaigns on a minimum",
        {f"c{n:03}": f"metric.least {'<' if n % 2 else '>='} {n}" for n in range(130)},
        " ".join(f"c{n:03}" for n in range(61, 130, 2)),
        metrics={"least": (60, False)},
    ),
    case(
        "many campaigns on a minimum of nothing",
        {f"c{n:03}": f"metric.least {'<' if n % 2 else '>='} {n}" for n in range(130)},
        "",
        metrics={"least": (None, True)},
    ),
    case(
        "many campaigns on a latest value",
        {f"c{n:03}": f"metric.last_to == 'n{n % 70}' && metric.last_cost > {n}.0" for n in range(140)},
        "c007 c077",
        metrics={"last_to": "n7", "last_cost": 80.0},
    ),
]
