"""Laws of the difference between two rulebases, and of conditions side by side, against naive answers."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from opportune_rulebase import Rulebase, load
from opportune_rulebase.diff import ChangeKind, diff, reach
from opportune_rulebase.diff.conditions import clause, implies
from opportune_rulebase.engine import Facts
from opportune_rulebase.errors import Position
from opportune_rulebase.satisfiable import Possible
from support import expressions_strategy as strategy
from support.campaign_meaning import meaning
from support.oracle import naive_value
from support.rulebases import make_rulebase, make_scope
from support.whole_rulebase import whole_rulebase

_POLICIES = """\
caps: {daily: {limit: %d, period: day, applies_to: {products: [%s]}}}
quiet_hours: {night: {from: "%s", to: "08:00"}}
suppress: {who: {when: sub.brand == "%s" %s}}
"""


@cache
def _loaded(spec: tuple[object, ...]) -> Rulebase:
    texts, limit, product, quiet, brand, also, one, two, comment = spec
    files = whole_rulebase(texts=texts, extra=f"# {comment}")  # type: ignore[arg-type]
    files["policies.yaml"] = (_POLICIES % (limit, product, quiet, brand, also)).encode()
    files["campaigns/two.yaml"] = files["campaigns/two.yaml"].replace(
        b"metric.called >= 2", f"metric.called {two}".encode()
    )
    if one:
        files["campaigns/one.yaml"] += f"{one}\n".encode()
    else:
        del files["campaigns/one.yaml"]
    return load(files)


_SPECS = st.tuples(
    st.sampled_from((2, 3)),
    st.sampled_from((1, 2)),
    st.sampled_from(("p1", "p2", "p1, p2")),
    st.sampled_from(("21:00", "22:00")),
    st.sampled_from(("gold", "tin")),
    st.sampled_from(("", "|| metric.bursts > 3", "// nothing")),
    st.sampled_from(("", "priority: 7", "open_for: 3h", "target: sub.brand != 'tin'")),
    st.sampled_from((">= 2", ">= 3", ">=2")),
    st.sampled_from(("a", "b")),
)


@settings(max_examples=60, deadline=None)
@given(one=_SPECS, other=_SPECS)
def test_laws(one: tuple[object, ...], other: tuple[object, ...]) -> None:
    check_laws(one, other)


def check_laws(one: tuple[object, ...], other: tuple[object, ...]) -> None:
    before, after = _loaded(one), _loaded(other)
    there, back = diff(before, after), diff(after, before)
    contrary = {"added": "removed", "removed": "added", "changed": "changed"}
    assert [(contrary[each.kind], each.element, each.name, each.affected_campaigns) for each in there] == [
        (each.kind, each.element, each.name, each.affected_campaigns) for each in back
    ]
    assert [[(key.key, key.before, key.after) for key in each.keys] for each in there] == [
        [(key.key, key.after, key.before) for key in each.keys] for each in back
    ]
    assert all(change.summary for change in there)
    assert all(bool(change.keys) <= (change.kind is ChangeKind.CHANGED) for change in there)
    named = {name for change in there for name in change.affected_campaigns}
    assert (before.campaigns.keys() ^ after.campaigns.keys()) <= named
    common = before.campaigns.keys() & after.campaigns.keys()
    # Texts that differ in spaces and comments only are told apart by the naive meaning alone.
    assert {each for each in common if _meaning(one, each) != _meaning(other, each)} <= named
    assert diff(before, before) == ()


@cache
def _meaning(spec: tuple[object, ...], campaign: str) -> str:
    spelt = {">=2": ">= 2", "// nothing": ""}
    return meaning(_loaded(tuple(spelt.get(str(each), each) for each in spec)), campaign)


RULEBASE = make_rulebase(**strategy.RULEBASE)
SCOPE = make_scope(RULEBASE)
_THINGS = ("sub.age", "metric.sms_7d", "metric.most", "sub.score", "now.getHours(zone)")


def _leaves() -> st.SearchStrategy[str]:
    compared = st.tuples(
        st.sampled_from(_THINGS), st.sampled_from(("<", "<=", ">", ">=", "==", "!=")), st.integers(0, 3)
    ).map(lambda each: f"{each[0]} {each[1]} {each[2]}{'.0' if each[0] == 'sub.score' else ''}")
    listed = st.lists(st.integers(0, 3), max_size=3).map(lambda each: f"sub.age in {each}")
    return compared | listed | st.sampled_from(("sub.vip", "scene.evening", "behaviour.keen", "true"))


_CONDITIONS = st.recursive(
    _leaves(),
    lambda inner: st.one_of(
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: f"({' && '.join(parts)})"),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: f"({' || '.join(parts)})"),
        inner.map("!({})".format),
    ),
    max_leaves=5,
)


def check_implied(one: str, other: str, some: list[Facts]) -> bool:
    """Whether the first is said to imply the second; wrong if facts show the contrary."""
    left, right = (SCOPE.compile(text, Position("condition", 1, 1)) for text in (one, other))
    if not implies(clause(left), clause(right)):
        return False
    for facts in some:
        before, after = naive_value(RULEBASE, left, facts), naive_value(RULEBASE, right, facts)
        assert before is not True or after is True, f"{one} is true, {other} is not"
        assert after is not False or before is False, f"{other} is false, {one} is not"
    return True


@settings(max_examples=150, deadline=None)
@given(
    one=_CONDITIONS,
    other=_CONDITIONS,
    some=st.lists(strategy.facts(), min_size=4, max_size=4),
    data=st.data(),
)
def test_what_is_said_to_be_narrower_is_narrower(
    one: str, other: str, some: list[Facts], data: st.DataObject
) -> None:
    assert check_implied(one, one, some)
    assert check_implied(f"{one} && {other}", other, some)
    assert check_implied(one, f"({other}) || ({one})", some)
    check_implied(one, other, some)
    third = data.draw(_leaves())
    check_implied(f"({one} || {third})", f"({other} || {third})", some)
    check_implied(f"!({one})", f"!({other} && {third})", some)


def test_a_wrong_implication_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: that only lower bounds are compared is found out."""
    monkeypatch.setattr(Possible, "within", lambda self, other: other.least <= self.least)

    @settings(max_examples=2000, deadline=None, database=None, derandomize=True, phases=[Phase.generate])
    @given(one=_leaves(), other=_leaves(), some=st.lists(strategy.facts(), min_size=5, max_size=5))
    def search(one: str, other: str, some: list[Facts]) -> None:
        check_implied(one, other, some)

    with pytest.raises(AssertionError, match=" is not"):
        search()


def test_a_campaign_that_is_not_named_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: that a policy leads to no campaign is found out."""
    monkeypatch.setattr(reach, "_means", lambda *_: False)

    @settings(max_examples=200, deadline=None, database=None, derandomize=True, phases=[Phase.generate])
    @given(one=_SPECS, other=_SPECS)
    def search(one: tuple[object, ...], other: tuple[object, ...]) -> None:
        check_laws(one, other)

    with pytest.raises(AssertionError):
        search()
