"""Filters that are decided by the value of one attribute: the parts of a plan fold what the whole does."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from opportune_rulebase.errors import Position
from opportune_rulebase.expressions import Expression
from opportune_rulebase.network import NetworkEngine
from opportune_service.core import plans
from opportune_service.core.events import Event
from opportune_service.core.narrowing import MAX_VALUES, decided, told_apart
from opportune_service.core.observe import observe
from opportune_service.core.revision import Revision
from opportune_service.core.state import SubscriberState
from support.rulebases import NOON_US, make_rulebase, make_scope

MINUTE_US = 60_000_000
KINDS = ("a", "b", "c", None)
"""None: the event does not tell."""


def where(of: str, condition: str) -> dict[str, str]:
    return {"of": of, "where": condition}


RULEBASE = make_rulebase(
    events={name: {"kind": "string", "site": "string", "n": "int"} for name in ("seen", "done")},
    metrics={
        "all": {"kind": "count", "of": ("seen",), "days": 3},
        "a": {
            "kind": "count",
            **where("seen", "event.kind == 'a'"),
            "last_us": 60 * MINUTE_US,
            "of": ("seen",),
        },
        "a_or_b": {
            "kind": "sum",
            "value": "n",
            "of": ("seen", "done"),
            "where": "event.kind in ['a', 'b']",
            "days": 3,
        },
        "not_a": {"kind": "max", "value": "n", "of": ("seen",), "where": "event.kind != 'a'", "days": 3},
        "big_a": {
            "kind": "latest",
            "value": "n",
            "of": ("seen",),
            "where": "event.n > 3 && 'a' == event.kind",
            "last_us": 60 * MINUTE_US,
        },
        "either": {
            "kind": "count",
            "of": ("seen",),
            "where": "event.kind == 'b' || event.site == 'x'",
            "days": 3,
        },
    },
    patterns={
        "twice": {"count": where("seen", "event.kind == 'a'"), "at_least": 2, "within_us": 30 * MINUTE_US},
        "turns": {
            "sequence": [
                where("seen", "event.kind == 'a'"),
                {**where("seen", "event.kind == 'b'"), "link": "event.site == first.site"},
            ],
            "without": where("seen", "event.kind == 'c'"),
            "within_us": 30 * MINUTE_US,
        },
        "waits": {
            "after": where("seen", "event.kind == 'a'"),
            "absent": where("seen", "event.kind in ['b', 'c']"),
            "for_us": 20 * MINUTE_US,
        },
        "more": {
            "change": where("seen", "event.kind == 'b' && event.n > 1"),
            "days": 1,
            "rises_to": 1.5,
            "at_least": 1,
        },
        "again": {"count": where("twice", "event.kind == 'a'"), "at_least": 2, "within_us": 90 * MINUTE_US},
    },
    campaigns={name: {"on": (name,)} for name in ("seen", "twice", "turns", "again", "more")},
)


def expression(text: str) -> Expression:
    return make_scope(RULEBASE).compile(text, Position("test", 1, 1), expect="bool")


@pytest.mark.parametrize(
    ("text", "a", "other"),
    [
        ("event.kind == 'a'", True, False),
        ("'a' == event.kind", True, False),
        ("event.kind in ['a', 'b']", True, False),
        ("event.kind == 'b'", False, False),
        ("event.kind == 'a' && event.n > 3", None, False),
        ("event.n > 3 && (event.site == 'x' && event.kind == 'a')", None, False),
        ("event.kind == 'a' && event.kind == 'b'", False, False),
        ("event.kind != 'a'", None, None),
        ("event.kind == 'a' || event.n > 3", None, None),
        ("event.site == 'a'", None, None),
        ("event.kind == event.site", None, None),
        ("event.n == 3", None, None),
    ],
)
def test_what_a_value_decides(text: str, a: bool | None, other: bool | None) -> None:
    assert decided(expression(text), "kind", "a") is a
    assert decided(expression(text), "kind", None) is other


def test_the_attribute_that_most_filters_ask_for_tells_them_apart() -> None:
    texts = ("event.site == 'x'", "event.kind == 'a'", "event.n > 3 && event.kind in ['b', 'c']")
    assert told_apart(map(expression, texts)) == ("kind", {"a", "b", "c"})
    assert told_apart([expression("event.n > 3")]) is None


def test_an_attribute_with_very_many_values_tells_nothing_apart() -> None:
    many = expression(f"event.kind in {[str(n) for n in range(MAX_VALUES + 1)]}")
    assert told_apart([many, many]) is None
    assert told_apart([many, many, expression("event.site == 'x'")]) == ("site", {"x"})


def revision() -> Revision:
    every = (*RULEBASE.metrics.values(), *RULEBASE.patterns.values())
    return Revision(RULEBASE, NetworkEngine(RULEBASE), {each.key: 0 for each in every})


def undivided() -> Revision:
    whole = revision()
    whole.plans = {name: replace(plan, by=None) for name, plan in whole.plans.items()}
    return whole


def events(seed: int) -> list[tuple[Event, dict[str, Any]]]:
    rnd = random.Random(seed)
    found = []
    for n in range(200):
        at_us = NOON_US + n * 12 * MINUTE_US - rnd.choice((0, 0, 0, rnd.randrange(60) * MINUTE_US))
        attributes = {"kind": rnd.choice(KINDS), "site": rnd.choice("xy"), "n": rnd.randrange(6)}
        told = {name: value for name, value in attributes.items() if value is not None}
        found.append((Event(f"{n}", "8613800000001", rnd.choice(("seen", "done")), at_us), told))
    return found


def come_to(make: Callable[[], Revision], given: Sequence[tuple[Event, dict[str, Any]]]) -> object:
    ready, states = make(), {"8613800000001": SubscriberState()}
    moments = observe(ready, "test", given, states, 1, None).moments
    for noted in (noted for state in states.values() for noted in state.journal):
        # In any order; and of who is no part of a pattern, nothing is kept that it might need of others.
        noted.marks = tuple(sorted(zip(noted.marks[::2], noted.marks[1::2], strict=True)))
        noted.attributes = None
    return moments, states, ready.engine.unknowns().get("event.kind")


@pytest.mark.parametrize("seed", range(20))
def test_parts_come_to_what_the_whole_comes_to(seed: int) -> None:
    assert {name: plan.by for name, plan in revision().plans.items()}["seen"] == "kind"
    given = events(seed)
    assert come_to(revision, given) == come_to(undivided, given)


def test_a_filter_that_is_decided_wrongly_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    given = events(0)
    right = come_to(undivided, given)
    monkeypatch.setattr(plans, "decided", lambda where, name, value: True)
    assert come_to(revision, given) != right
