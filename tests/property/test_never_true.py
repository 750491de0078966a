"""A condition of which is said that it can never be true is true of nothing, by CEL's own evaluator."""

from __future__ import annotations

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from opportune_rulebase import satisfiable as module
from opportune_rulebase.engine import Facts
from opportune_rulebase.errors import Position
from opportune_rulebase.satisfiable import open_definitions, satisfiable
from support import expressions_strategy as strategy
from support.oracle import naive_value
from support.rulebases import make_rulebase, make_scope

RULEBASE = make_rulebase(**strategy.RULEBASE)
SCOPE = make_scope(RULEBASE)
OPENED = open_definitions({name: each.when.tree for name, each in RULEBASE.definitions.items()})

_WHOLE = ("-1", "0", "1", "2", "3", "9223372036854775807")
_COMPARED = {
    "sub.age": _WHOLE,
    "metric.sms_7d": _WHOLE,
    "metric.least": _WHOLE,
    "size(sub.products)": _WHOLE,
    "uint(sub.age)": ("0u", "1u", "9223372036854775806u", "9223372036854775807u"),
    "dyn(sub.age)": ("1", "1.5", "2u", "true", "'a'"),
    "dyn(sub.vip)": ("1", "true"),
    "sub.score": ("-1.5", "0.0", "-0.0", "1.0", "2.5", "1e308"),
    "metric.spend": ("0.0", "1.0", "2.5"),
    "sub.brand": ("'a'", "'b'", "'gotone'"),
    "sub.vip": ("true", "false"),
    "now.getHours(zone)": ("0", "19", "23", "24"),
    "now.getDayOfWeek()": ("-1", "0", "6", "7"),
    "(now - sub.ends).getHours()": ("-1", "0", "23", "24"),
    "(now - sub.ends).getMinutes()": ("0", "59", "60"),
    "event.read_at.getMonth()": ("0", "11", "12"),
}
_SIGNS = ("<", "<=", ">", ">=", "==", "!=")


def _comparisons() -> st.SearchStrategy[str]:
    things = st.sampled_from(sorted(_COMPARED))
    return things.flatmap(
        lambda thing: st.one_of(
            st.tuples(st.sampled_from(_SIGNS), st.sampled_from(_COMPARED[thing])).map(
                lambda each: f"{thing} {each[0]} {each[1]}"
            ),
            st.tuples(st.sampled_from(_SIGNS), st.sampled_from(_COMPARED[thing])).map(
                lambda each: f"{each[1]} {each[0]} {thing}"
            ),
            st.lists(st.sampled_from(_COMPARED[thing]), max_size=3).map(
                lambda each: f"{thing} in [{', '.join(each)}]"
            ),
        )
    )


def _conditions() -> st.SearchStrategy[str]:
    """Few things compared with few constants: a good part of them contradict themselves."""
    leaves = _comparisons() | st.sampled_from(
        ("true", "false", "sub.vip", *strategy.DEFINITIONS, "fact.told", "sub.score < event.ratio")
    )
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.tuples(inner, inner).map("({0[0]} && {0[1]})".format),
            st.tuples(inner, inner).map("({0[0]} && {0[1]})".format),
            st.tuples(inner, inner).map("({0[0]} || {0[1]})".format),
            st.tuples(inner, inner, inner).map("({0[0]} ? {0[1]} : {0[2]})".format),
            inner.map("!({})".format),
        ),
        max_leaves=6,
    )


def check(text: str, some: list[Facts]) -> None:
    expression = SCOPE.compile(text, Position("condition", 1, 1))
    if satisfiable([expression.tree], OPENED, lambda name: None):
        return
    for facts in some:
        assert naive_value(RULEBASE, expression, facts) is not True, f"{text} is true after all"


@settings(max_examples=300, deadline=None)
@given(text=_conditions(), some=st.lists(strategy.facts(), min_size=5, max_size=5))
def test_what_is_said_to_be_never_true_is_never_true(text: str, some: list[Facts]) -> None:
    check(text, some)


def test_the_comparison_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: that the contrary of `<` is `>`, and not `>=`, is found out."""
    monkeypatch.setitem(module._CONTRARY, "_<_", "_>_")

    @settings(max_examples=2000, deadline=None, database=None, derandomize=True, phases=[Phase.generate])
    @given(
        text=st.sampled_from(_WHOLE[1:3]).map(lambda each: f"!(sub.age < {each}) && sub.age <= {each}"),
        some=st.lists(strategy.facts(), min_size=5, max_size=5),
    )
    def search(text: str, some: list[Facts]) -> None:
        check(text, some)

    with pytest.raises(AssertionError, match="is true after all"):
        search()
