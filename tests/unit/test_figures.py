"""Metrics of which only a bound is known, by the network engine: what a comparison with one tells."""

from __future__ import annotations

import pytest
from opportune_rulebase.errors import Position
from opportune_rulebase.network import NetworkEngine
from support.oracle import naive_value
from support.rulebases import make_facts, make_rulebase, make_scope

HERE = Position("x", 1, 1)
BASE = make_rulebase(
    events={"sms_sent": {"amount": "int"}},
    metrics={
        "sms": {"of": ("sms_sent",), "days": 7},
        "least": {"of": ("sms_sent",), "value": "amount", "kind": "min"},
    },
)
SCOPE = make_scope(BASE)


@pytest.mark.parametrize(
    ("text", "figure", "expected"),
    [
        ("metric.sms >= 3", (3, False), True),
        ("metric.sms > 3", (3, False), None),
        ("3 <= metric.sms", (3, False), True),
        ("metric.sms < 3", (3, False), False),
        ("metric.sms <= 3", (3, False), None),
        ("metric.sms == 2", (3, False), False),
        ("metric.sms == 3", (3, False), None),
        ("metric.sms != 2", (3, False), True),
        ("metric.sms == 0", (0, False), None),
        ("!(metric.sms < 3)", (3, False), True),
        ("metric.sms + 0 >= 3", (3, False), None),
        ("(metric.sms >= 3) == true", (3, False), None),
        ("metric.sms >= 3 ? true : false", (3, False), True),
        ("metric.sms >= event.amount", (3, False), True),
        ("metric.sms >= 3", (None, False), None),
        ("metric.sms == 0", (0, True), True),
    ],
)
def test_a_figure_known_only_from_below(
    text: str, figure: tuple[int | None, bool], expected: bool | None
) -> None:
    facts = make_facts("sms_sent", {"amount": 3}, metrics={"sms": figure})
    expression = SCOPE.compile(text, HERE)

    assert NetworkEngine(BASE).truth(expression, facts) is expected
    assert naive_value(BASE, expression, facts) is expected


@pytest.mark.parametrize(
    ("text", "figure", "expected"),
    [
        ("metric.least <= 3", (3, False), True),
        ("metric.least < 3", (3, False), None),
        ("3 >= metric.least", (3, False), True),
        ("metric.least > 3", (3, False), False),
        ("metric.least >= 3", (3, False), None),
        ("metric.least == 4", (3, False), False),
        ("metric.least == 3", (3, False), None),
        ("metric.least != 4", (3, False), True),
        ("!(metric.least > 3)", (3, False), True),
        ("metric.least + 0 <= 3", (3, False), None),
        ("metric.least <= dyn(3)", (3, False), None),
        ("metric.least <= event.amount", (3, False), True),
        ("metric.least <= 3", (None, False), None),
        ("metric.least <= 3", (None, True), None),
        ("metric.least <= 3 || true", (None, True), True),
        ("metric.least == 3", (3, True), True),
    ],
)
def test_a_figure_known_only_from_above(
    text: str, figure: tuple[int | None, bool], expected: bool | None
) -> None:
    facts = make_facts("sms_sent", {"amount": 3}, metrics={"least": figure})
    expression = SCOPE.compile(text, HERE)

    assert NetworkEngine(BASE).truth(expression, facts) is expected
    assert naive_value(BASE, expression, facts) is expected


def test_a_covered_figure_of_nothing_is_missing_and_counted() -> None:
    texts = ("metric.least < 3", "metric.least >= 3", "metric.last == 'a'", "metric.last != 'b'")
    rulebase = make_rulebase(
        events={"sms_sent": {"amount": "int", "name": "string"}},
        metrics={
            "least": {"of": ("sms_sent",), "value": "amount", "kind": "min"},
            "last": {"of": ("sms_sent",), "value": "name", "kind": "latest"},
        },
        campaigns={f"c{number}": {"when": text} for number, text in enumerate(texts)},
    )
    engine = NetworkEngine(rulebase)

    nothing = make_facts("sms_sent", metrics={"least": (None, True), "last": (None, True)})
    assert list(engine.match(nothing)) == []
    assert set(engine.unknowns()) == {"metric.least", "metric.last"}
    known = make_facts("sms_sent", metrics={"least": (2, False), "last": "a"})
    assert [each.name for each in engine.match(known)] == ["c0", "c2", "c3"]
