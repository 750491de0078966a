"""Shares and differences against the figures that their authors published, and against laws."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opportune_service.core.estimates import difference, share


def rounded(estimate: object) -> tuple[float, ...]:
    return tuple(round(getattr(estimate, name), 4) for name in ("value", "low", "high"))


def test_shares_are_those_that_were_published() -> None:
    """Newcombe, Two-sided confidence intervals for the single proportion (1998), table I, score method."""
    assert rounded(share(81, 263)) == (0.308, 0.2553, 0.3662)
    assert rounded(share(15, 148)) == (0.1014, 0.0624, 0.1605)
    assert rounded(share(0, 20)) == (0.0, 0.0, 0.1611)
    assert rounded(share(1, 29)) == (0.0345, 0.0061, 0.1718)


def test_differences_are_those_that_were_published() -> None:
    """Newcombe, Interval estimation for the difference between independent proportions (1998), table II,
    method 10."""
    assert rounded(difference(share(56, 70), share(48, 80))) == (0.2, 0.0524, 0.3339)
    assert rounded(difference(share(9, 10), share(3, 10))) == (0.6, 0.1705, 0.8090)
    assert rounded(difference(share(10, 10), share(0, 10))) == (1.0, 0.6075, 1.0)


def test_nothing_is_said_of_nothing() -> None:
    assert share(0, 0) is None
    assert difference(share(1, 2), None) is None
    assert difference(None, share(1, 2)) is None


counts = st.integers(0, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(counts, counts)
def test_intervals_hold_their_figure_and_turn_with_the_sides(
    one: tuple[int, int], other: tuple[int, int]
) -> None:
    first, second = share(*one), share(*other)
    for each in (first, second):
        if each is not None:
            assert 0.0 <= each.low <= each.value <= each.high <= 1.0
    there, back = difference(first, second), difference(second, first)
    if there is None or back is None:
        assert first is None or second is None
        return
    assert -1.0 - 1e-12 <= there.low <= there.value <= there.high <= 1.0 + 1e-12
    assert (back.value, back.low, back.high) == pytest.approx((-there.value, -there.high, -there.low))
