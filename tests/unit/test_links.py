"""Links of sequences as functions: the short way says what the engine says."""

from __future__ import annotations

from itertools import product

import pytest
from opportune_rulebase.engine import Facts
from opportune_rulebase.errors import Position
from opportune_rulebase.expressions import Expression
from opportune_rulebase.network import NetworkEngine
from opportune_service.core.links import compilers
from support.rulebases import make_facts, make_rulebase, make_scope

RULEBASE = make_rulebase(
    events={"call": {"caller": "string", "callee": "string", "n": "int", "x": "double"}}
)


class Asked(NetworkEngine):
    """Counts what it is asked."""

    questions = 0

    def truth(self, expression: Expression, facts: Facts) -> bool | None:
        self.questions += 1
        return super().truth(expression, facts)


def compiled(text: str) -> Expression:
    return make_scope(RULEBASE).compile(text, Position("test", 1, 1), expect="bool")


@pytest.mark.parametrize(
    "text",
    [
        "event.callee == first.caller",
        "previous.caller == event.callee",
        "event.n == previous.n",
        "event.callee != first.caller",
        "event.x == first.x",
        "event.n > first.n && event.callee == previous.caller",
        "first.caller == previous.caller",
    ],
)
def test_a_link_says_what_the_engine_says(text: str) -> None:
    engine, expression = NetworkEngine(RULEBASE), compiled(text)
    link = compilers(engine).link(expression)
    known = [
        {},
        {"caller": "1", "callee": "2"},
        {"caller": "2", "callee": "1", "n": 1, "x": 1.0},
        {"n": 2, "callee": "1"},
    ]
    told: set[bool] = set()
    for own, first, previous in product(known, repeat=3):
        others = {f"first.{name}": value for name, value in first.items()}
        others |= {f"previous.{name}": value for name, value in previous.items()}
        truth = engine.truth(expression, make_facts("call", own, others=others))
        assert link(own, first, previous) is (truth is True)
        told.add(truth is True)
    assert told == {True, False}


def test_most_links_are_compared_without_the_engine() -> None:
    engine = Asked(RULEBASE)
    link = compilers(engine).link(compiled("event.callee == first.caller"))
    assert link({"callee": "1"}, {"caller": "1"}, {})
    assert engine.questions == 0
    assert not link({}, {"caller": "1"}, {})
    assert engine.unknowns() == {"event.callee": 1}, "what was missing is counted"
