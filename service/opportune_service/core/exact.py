"""Sums of doubles that do not depend on the order of addition.

A sum is kept as an expansion: doubles whose exact sum is the exact sum of everything added. The expansion
of a number is unique here (each part is the rounded sum of what is left), so that equal sums are equal
lists.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from fractions import Fraction

_MAX = sys.float_info.max


def add(parts: Sequence[float], value: float) -> list[float]:
    """The expansion of the sum and `value`. What leaves the range of doubles stops at its bound."""
    if len(parts) <= 1 and isinstance(value, float):
        before = parts[0] if parts else 0.0
        after = before + value
        step = after - before
        # What rounding lost, exactly (Knuth's two-sum): mostly nothing. Not a number beyond the range.
        if (before - (after - step)) + (value - step) == 0:
            return [after] if after else []
    left = [*parts, value]
    expansion: list[float] = []
    while True:
        part = total(left)
        if part == 0:
            return expansion
        expansion.append(part)
        if abs(part) == _MAX:
            return expansion
        left.append(-part)


def total(parts: Iterable[float]) -> float:
    """The exact sum, rounded once."""
    given = list(parts)
    try:
        return math.fsum(given)
    except OverflowError:  # perhaps on the way only
        exact = sum(map(Fraction, given), Fraction(0))
        return float(min(max(exact, Fraction(-_MAX)), Fraction(_MAX)))
