"""Whatever an engine makes of an expression means exactly what CEL's own evaluator says."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from opportune_rulebase.durable import DurableEngine
from opportune_rulebase.engine import Engine, Facts
from opportune_rulebase.errors import Position
from opportune_rulebase.expressions import MAX_LENGTH
from opportune_rulebase.network import NetworkEngine, functions
from opportune_rulebase.unparse import unparse
from support import expressions_strategy as strategy
from support.oracle import naive_value
from support.rulebases import make_rulebase, make_scope

RULEBASE = make_rulebase(**strategy.RULEBASE)
SCOPE = make_scope(RULEBASE)
ENGINES: tuple[Engine, ...] = (NetworkEngine(RULEBASE), DurableEngine(RULEBASE))


def same(left: object, right: object) -> bool:
    if isinstance(left, float) and isinstance(right, float):
        return (math.isnan(left) and math.isnan(right)) or (
            left == right and math.copysign(1, left) == math.copysign(1, right)
        )
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    return type(left) is type(right) and left == right


def compare(text: str, facts: Facts, engines: Iterable[Engine] = ENGINES) -> None:
    expression = SCOPE.compile(text, Position("expression", 1, 1))
    wanted = naive_value(RULEBASE, expression, facts)
    for engine in engines:
        facts.memo.clear()
        got = engine.value(expression, facts)
        assert same(got, wanted), f"{text}: {got!r}, but CEL says {wanted!r}"
        facts.memo.clear()
        assert (engine.truth(expression, facts) is True) is (wanted is True)


@settings(max_examples=300, deadline=None)
@given(text=strategy.expressions("bool", 3), facts=strategy.facts())
def test_truths_are_those_of_cel(text: str, facts: Facts) -> None:
    compare(text, facts)


@settings(max_examples=150, deadline=None)
@given(
    text=st.sampled_from(strategy.TYPES).flatmap(lambda type_: strategy.expressions(type_, 2)),
    facts=strategy.facts(),
)
def test_values_are_those_of_cel(text: str, facts: Facts) -> None:
    compare(text, facts)


@settings(max_examples=200, deadline=None)
@given(text=st.sampled_from(strategy.TYPES).flatmap(lambda type_: strategy.expressions(type_, 3)))
def test_what_is_written_back_is_the_same_expression(text: str) -> None:
    """The durable engine evaluates conditions from their text, many at once."""
    tree = SCOPE.compile(text, Position("expression", 1, 1)).tree
    written = unparse(tree)
    if written is not None and len(written) <= MAX_LENGTH:
        assert SCOPE.compile(written, Position("written", 1, 1)).tree == tree


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
        compare(text, facts, [NetworkEngine(RULEBASE)])

    with pytest.raises(AssertionError, match="but CEL says"):
        search()
