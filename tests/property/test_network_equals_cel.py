"""Whatever the network engine compiles to Python means exactly what CEL's own evaluator says."""

from __future__ import annotations

import math

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from opportune_rulebase.engine import Facts
from opportune_rulebase.errors import Position
from opportune_rulebase.network import NetworkEngine, functions
from support import expressions_strategy as strategy
from support.oracle import naive_value
from support.rulebases import make_rulebase, make_scope

RULEBASE = make_rulebase(
    events=strategy.EVENTS,
    subscriber=strategy.SUBSCRIBER,
    terminal=strategy.TERMINAL,
    metrics=strategy.METRICS,
    definitions=strategy.DEFINITIONS,
)
SCOPE = make_scope(RULEBASE)


def same(left: object, right: object) -> bool:
    if isinstance(left, float) and isinstance(right, float):
        return (math.isnan(left) and math.isnan(right)) or (
            left == right and math.copysign(1, left) == math.copysign(1, right)
        )
    return type(left) is type(right) and left == right


def compare(text: str, facts: Facts) -> None:
    expression = SCOPE.compile(text, Position("expression", 1, 1))
    engine = NetworkEngine(RULEBASE)
    try:
        got, wanted = engine.value(expression, facts), naive_value(RULEBASE, expression, facts)
        assert same(got, wanted), f"{text}: {got!r}, but CEL says {wanted!r}"
        assert (engine.truth(expression, facts) is True) is (wanted is True)
    finally:
        engine.close()


@settings(max_examples=300, deadline=None)
@given(text=strategy.expressions("bool", 3), facts=strategy.facts())
def test_truths_are_those_of_cel(text: str, facts: Facts) -> None:
    compare(text, facts)


@settings(max_examples=150, deadline=None)
@given(
    text=st.sampled_from(("int", "double", "string")).flatmap(lambda type_: strategy.expressions(type_, 2)),
    facts=strategy.facts(),
)
def test_values_are_those_of_cel(text: str, facts: Facts) -> None:
    compare(text, facts)


def test_the_comparison_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: floor division, which is Python's and not CEL's, is found out."""

    def divide_int(left: int, right: int) -> int | None:
        return left // right if right else None

    monkeypatch.setattr(functions, "divide_int", divide_int)

    @settings(max_examples=500, deadline=None, database=None, derandomize=True, phases=[Phase.generate])
    @given(
        text=st.tuples(strategy.literals("int"), strategy.literals("int")).map(
            lambda each: "({} / {})".format(*each)
        ),
        facts=strategy.facts(),
    )
    def search(text: str, facts: Facts) -> None:
        compare(text, facts)

    with pytest.raises(AssertionError, match="but CEL says"):
        search()
