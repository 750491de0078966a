"""Shares and their differences with 95 % intervals. Pure arithmetic.

Shares: the score interval of Wilson (1927), which holds its level for small numbers and shares near 0 or 1,
where the textbook interval fails. Differences of two independent shares: method 10 of Newcombe (Statistics
in Medicine 17, 1998), made of two score intervals.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

METHOD = "Wilson score intervals; for differences Newcombe's method 10; 95 %"

_Z = 1.959963984540054
"""The 97.5 % point of the normal distribution."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and the ends of its 95 % interval."""

    value: float
    low: float
    high: float


def share(successes: int, trials: int) -> Estimate | None:
    """`successes` of `trials`, 0 to 1; None without trials."""
    if trials <= 0:
        return None
    observed = successes / trials
    spread = _Z * _Z / trials
    centre = (observed + spread / 2) / (1 + spread)
    half = _Z / (1 + spread) * sqrt(observed * (1 - observed) / trials + spread / (4 * trials))
    # At 0 and 1 the interval ends there; rounding must not say otherwise.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == trials else min(1.0, centre + half)
    return Estimate(observed, low, high)


def difference(one: Estimate | None, other: Estimate | None) -> Estimate | None:
    """`one` less `other`, -1 to 1, of two shares that are independent; None if either is."""
    if one is None or other is None:
        return None
    value = one.value - other.value
    below = sqrt((one.value - one.low) ** 2 + (other.high - other.value) ** 2)
    above = sqrt((one.high - one.value) ** 2 + (other.value - other.low) ** 2)
    return Estimate(value, value - below, value + above)
