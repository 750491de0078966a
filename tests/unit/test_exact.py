"""Exact sums of doubles: each part is what is left, rounded once."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import example, given
from hypothesis import strategies as st
from opportune_service.core.exact import add

NUMBERS = st.one_of(
    st.integers(-1_000, 1_000).map(float),
    st.floats(-1e300, 1e300),
    st.floats(-1e-300, 1e-300),
    st.integers(-99_999, 99_999).map(lambda cents: cents / 100),
)


@given(st.lists(NUMBERS, max_size=8))
@example([0.1, 0.2, -0.3])
@example([1e300, 1.0, -1e300])
@example([-0.0])
@example([5e-324, -5e-324])
def test_an_expansion_is_the_exact_sum(values: list[float]) -> None:
    parts: list[float] = []
    for value in values:
        parts = add(parts, value)
    left = sum(map(Fraction, values), Fraction(0))
    expected = []
    while left:
        expected.append(float(left))
        left -= Fraction(expected[-1])
    assert parts == expected


@given(NUMBERS, NUMBERS)
def test_the_order_of_two_does_not_show(one: float, other: float) -> None:
    assert add(add((), one), other) == add(add((), other), one)
