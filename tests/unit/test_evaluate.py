"""An expression against given values: both paths give the same, and it is what CEL says."""

from __future__ import annotations

import math
from typing import Any

import pytest
from opportune_rulebase.errors import ExpressionError
from opportune_rulebase.evaluate import Via, evaluate, plain
from opportune_rulebase.expressions import Unknown
from opportune_rulebase.given import BindingError
from opportune_rulebase.model import Calendar
from support.rulebases import attribute, make_rulebase

NOW = {"$timestamp": "2026-11-20T20:00:00+08:00"}
BOTH: tuple[Via, ...] = ("network", "cel")

VALUES: list[tuple[str, dict[str, Any], object]] = [
    ("event.amount * 2 > x", {"event": {"amount": 3}, "x": 5}, True),
    ("event.amount", {"event.amount": 3}, 3),
    ("a.b + a.c", {"a.b": 1, "a.c": 2}, 3),
    ("m.a.b", {"m": {"a": {"b": 1}}}, 1),
    ("has(m.a) && !has(m.b)", {"m": {"a": None}}, True),
    ("peer.x + first.y + previous.z", {"peer": {"x": 1}, "first.y": 2, "previous": {"z": 3}}, 6),
    ("metric.x >= 3 && terminal.mms", {"metric": {"x": 3}, "terminal": {"mms": True}}, True),
    (
        "behaviour.a && !scene.b && fact.c",
        {"behaviour.a": True, "scene": {"b": False}, "fact.c": True},
        True,
    ),
    ("place.name + place.categories[0]", {"place": {"name": "a", "categories": ["b"]}}, "ab"),
    ("calendar.workday || calendar.holiday", {"calendar": {"workday": False, "holiday": False}}, False),
    ("now.getHours(zone)", {"now": NOW, "zone": "Asia/Tokyo"}, 21),
    ("now.getMinutes(zone)", {"now": NOW, "zone": "+05:30"}, 30),
    ("now.getHours('Asia/Kolkata')", {"now": NOW}, 17),
    ("now", {"now": NOW}, "2026-11-20T12:00:00Z"),
    ("t", {"t": {"$timestamp": "2026-11-20T12:00:00.120Z"}}, "2026-11-20T12:00:00.12Z"),
    ("now - t", {"now": NOW, "t": {"$timestamp": "2026-11-20T12:00:00.5Z"}}, "-0.5s"),
    ("d + d", {"d": {"$duration": "1h30m"}}, "10800s"),
    ("u", {"u": {"$uint": "18446744073709551615"}}, 2**64 - 1),
    ("i", {"i": {"$int": -7}}, -7),
    ("d / 0.0", {"d": {"$double": 1}}, "Infinity"),
    ("d * 0.0", {"d": {"$double": "-Infinity"}}, "NaN"),
    ("-d / 0.0", {"d": 1.0}, "-Infinity"),
    ("b + b", {"b": {"$bytes": "/w=="}}, "//8="),
    ("l", {"l": [1, "a", None, 2.5]}, [1, "a", None, 2.5]),
    ("l[0] == 1.0", {"l": [1, "a"]}, True),
    ("type(l[0])", {"l": [{"$uint": 1}]}, "uint"),
    ("l[0] - l[0]", {"l": [NOW]}, "0s"),
    ("type(now)", {"now": NOW}, "google.protobuf.Timestamp"),
    ("{1: true, 2: false}", {}, {"1": True, "2": False}),
    ("{true: 1u}", {}, {"true": 1}),
    ("l == [1]", {"l": []}, False),
    ("[1, 2].map(x, x * y)", {"y": 2}, [2, 4]),
    ("[1, 2].exists(y, y == 1)", {"y": 2}, True),
    ("s.size()", {"s": "e\u0301\U0001f600"}, 3),
    ("x + '!'", {"x": "a\0b"}, "a\0b!"),
    ("['a'].exists(x, x == 'a')", {"x": "\0"}, True),
    ("null", {}, None),
    ("dyn(null)", {}, None),
    ("x > 1 || true", {"x": {"$missing": "int"}}, True),
    ("false && y", {"y": {"$missing": "bool"}}, False),
    ("-7 / 2 * 10 + -7 % 2", {}, -31),
    ("dyn(1) == dyn(1.0) && dyn(2u) < dyn(2.5)", {}, True),
]

UNKNOWN: list[tuple[str, dict[str, Any], str]] = [
    ("x > 1", {"x": {"$missing": "int"}}, "x is missing"),
    ("x == 'a'", {"x": None}, "x is missing"),
    ("true && fact.c", {"fact": {"c": None}}, "fact.c is missing"),
    ("1 / x", {"x": 0}, "divide by zero"),
    ("x + 1", {"x": 2**63 - 1}, "integer overflow"),
    ("m['b']", {"m": {"a": 1}}, "Key not found"),
    ("s.matches('[')", {"s": "a"}, "invalid regular expression"),
    ("now.getHours('Nowhere/Such')", {"now": NOW}, "Invalid timezone"),
    ("dyn(x) > 1", {"x": "a"}, "No matching overload"),
]


@pytest.mark.parametrize("via", BOTH)
@pytest.mark.parametrize(("text", "given", "expected"), VALUES)
def test_values(text: str, given: dict[str, Any], expected: object, via: Via) -> None:
    value = plain(evaluate(text, given, via=via))

    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize("via", BOTH)
@pytest.mark.parametrize(("text", "given", "reason"), UNKNOWN)
def test_what_has_no_value_says_why(text: str, given: dict[str, Any], reason: str, via: Via) -> None:
    value = evaluate(text, given, via=via)

    assert isinstance(value, Unknown)
    assert reason in value.reason


def test_minus_zero_stays() -> None:
    value = plain(evaluate("d * 1.0", {"d": -0.0}))

    assert isinstance(value, float)
    assert math.copysign(1, value) == -1


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"x": ["\ud800"]}, "'x' is not valid Unicode"),
        ({"in": 1}, "'in' cannot be the name"),
        ({"a b": 1}, "'a b' cannot be the name"),
        ({"event": {"x": 2}, "event.x": 1}, "'event.x' is bound twice"),
        ({"event": 5}, "'event' must be an object"),
        ({"metric": None}, "'metric' must be an object"),
        ({"sub": {"$missing": "int"}}, "'sub' must be an object"),
        ({"x": 2**63}, "'x' is no int"),
        ({"x": {"$uint": -1}}, "'x' is no uint"),
        ({"x": {"$int": "1.5"}}, "'x' is no int"),
        ({"x": {"$timestamp": "2026-13-01T00:00:00Z"}}, "'x': $timestamp"),
        ({"x": {"$duration": "1d"}}, "'x': $duration"),
        ({"x": {"$bytes": "?"}}, "'x': $bytes"),
        ({"x": {"$double": "many"}}, "'x': $double"),
        ({"x": {"$nothing": 1}}, "'x': $nothing"),
        ({"x": [{"$missing": "int"}]}, "'x': $missing"),
        ({"x": {"$missing": "integer"}}, "'integer' is not a type"),
        ({"x": [1, {"$uint": 1}]}, "'x' holds values of several types"),
        ({"event.type": 5}, "'event.type' is of type string, this is int"),
        ({"fact": {"f": "yes"}}, "'fact.f' is of type bool"),
        ({"now": NOW, "zone": "Nowhere/Such"}, "'zone'"),
        ({"x": object()}, "'x' is no JSON value"),
    ],
)
def test_bindings_that_are_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(BindingError) as caught:
        evaluate("true", given)

    assert says in str(caught.value)


def test_values_nested_without_end_are_refused() -> None:
    deep: Any = 1
    for _ in range(500):
        deep = [deep]

    with pytest.raises(BindingError, match="too deeply"):
        evaluate("true", {"x": deep})


def test_a_name_that_is_not_bound_is_a_fault() -> None:
    with pytest.raises(ExpressionError, match=r"did you mean 'event\.amount'"):
        evaluate("event.amuont > 1", {"event": {"amount": 1}})


# With a rulebase

RULEBASE = make_rulebase(
    events={"sms": {"amount": "int", "cost": "double", "at": "timestamp", "tags": "list<int>"}},
    subscriber={"age": "int", "brand": attribute("brand", "string", default="gotone")},
    metrics={"least": {"of": ("sms",), "kind": "min", "value": "amount"}},
    definitions={
        "behaviour.low": "metric.least < 3",
        "scene.late": "now.getHours(zone) >= 22",
        "scene.both": "behaviour.low && !scene.late",
    },
    facts={"told": {"on": ("sms",)}},
    imported={"behaviour.mined": 1},
    calendar=Calendar(),
)

DECLARED: list[tuple[str, dict[str, Any], object]] = [
    ("sub.brand", {}, "gotone"),
    ("event.cost", {"event.cost": 3}, 3.0),
    ("event.at", {"event": {"at": "2026-11-20T12:00:00+08:00"}}, "2026-11-20T04:00:00Z"),
    ("event.tags", {"event.tags": []}, []),
    ("behaviour.low", {"metric.least": 2}, True),
    ("scene.both", {"metric": {"least": 2}, "scene.late": False}, True),
    ("scene.both", {"behaviour.low": True, "now": NOW}, True),
    ("scene.both", {"behaviour.low": False, "now": NOW}, False),
    ("scene.late", {"now": NOW, "zone": "Asia/Tokyo"}, False),
    ("scene.late", {"now": NOW, "zone": "Pacific/Auckland"}, False),
    ("now.getHours(zone)", {"now": NOW}, 20),
    ("behaviour.mined || fact.told", {"behaviour": {"mined": True}}, True),
    ("calendar.workday", {"now": NOW}, True),
    ("calendar.workday", {"calendar.workday": False}, False),
    ("peer.age > sub.age", {"peer.age": 3, "sub.age": 2}, True),
]


@pytest.mark.parametrize("via", BOTH)
@pytest.mark.parametrize(("text", "given", "expected"), DECLARED)
def test_a_rulebase_declares_the_names(
    text: str, given: dict[str, Any], expected: object, via: Via
) -> None:
    value = plain(evaluate(text, given, rulebase=RULEBASE, via=via))

    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize("via", BOTH)
@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("sub.age > 1", "sub.age is missing"),
        ("behaviour.low", "behaviour.low is unknown: metric.least is missing"),
        ("behaviour.mined", "behaviour.mined is missing"),
    ],
)
def test_what_is_not_bound_is_missing(text: str, missing: str, via: Via) -> None:
    value = evaluate(text, {}, rulebase=RULEBASE, via=via)

    assert isinstance(value, Unknown)
    assert value.reason == missing


@pytest.mark.parametrize(
    ("text", "given", "says"),
    [
        ("true", {"sub.aeg": 1}, "unknown name 'sub.aeg': did you mean 'sub.age'?"),
        ("true", {"sub.age": "old"}, "'sub.age' is of type int, this is string"),
        ("scene.both", {}, "'now' is needed"),
        ("calendar.workday", {}, "'now' is needed"),
    ],
)
def test_what_does_not_fit_the_rulebase(text: str, given: dict[str, Any], says: str) -> None:
    with pytest.raises(BindingError) as caught:
        evaluate(text, given, rulebase=RULEBASE)

    assert says in str(caught.value)


def test_the_network_path_runs_the_compiled_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: what the engine compiles is broken, and only that path shows it."""
    from opportune_rulebase.network import codegen

    monkeypatch.setitem(codegen.STRICT, "add_int64", "in_range({0} - {1})")

    assert evaluate("x + 1", {"x": 1}, via="network") == 0
    assert evaluate("x + 1", {"x": 1}, via="cel") == 2


def test_a_map_is_said_in_one_order() -> None:
    """CEL keeps none, and differs from one run to the next."""
    keys = "abcdefgh"
    text = "{" + ", ".join(f"'{key}': 1" for key in reversed(keys)) + "}"
    assert list(plain(evaluate(text, {}))) == list(keys)
