"""What generated source calls: CEL's arithmetic and the reading of metrics, None standing for unknown."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from datetime import date, datetime
from typing import Any

from opportune_rulebase.engine import Truth
from opportune_rulebase.intervals import at_least

_INT_MIN, _INT_MAX = -(2**63), 2**63 - 1

Figure = tuple[int | float | None, bool]


def in_range(value: int) -> int | None:
    """`value`, unless a 64-bit integer cannot hold it."""
    return value if _INT_MIN <= value <= _INT_MAX else None


def divide_int(left: int, right: int) -> int | None:
    """Truncated division."""
    if right == 0:
        return None
    quotient = abs(left) // abs(right)
    return in_range(quotient if (left < 0) == (right < 0) else -quotient)


def modulo_int(left: int, right: int) -> int | None:
    """The remainder of truncated division: it has the sign of `left`."""
    if right == 0 or (left == _INT_MIN and right == -1):
        return None
    remainder = abs(left) % abs(right)
    return -remainder if left < 0 else remainder


def divide_double(left: float, right: float) -> float:
    """IEEE division, where Python would raise."""
    if right != 0.0:
        return left / right
    if left == 0.0 or math.isnan(left):
        return math.nan
    return math.copysign(math.inf, left) * math.copysign(1.0, right)


def item(values: Sequence[object], index: int) -> object:
    return values[index] if 0 <= index < len(values) else None


def day_of_year(moment: datetime) -> int:
    """Days since the first of January."""
    return moment.toordinal() - date(moment.year, 1, 1).toordinal()


def exact(figure: Figure) -> int | float | None:
    """The value of a metric if it is covered."""
    return figure[0] if figure[1] else None


def as_double(figure: Figure) -> Figure:
    value, covered = figure
    return (None if value is None else value * 1.0), covered


_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "_<_": operator.lt,
    "_<=_": operator.le,
    "_>_": operator.gt,
    "_>=_": operator.ge,
    "_==_": operator.eq,
    "_!=_": operator.ne,
}


def figure_comparison(function: str, non_negative: bool) -> Callable[[Figure, int | float], Truth]:
    """A comparison of a metric with a value, by the rule of `intervals`."""
    compare = _OPERATORS[function]

    def covered_or_bounded(figure: Figure, other: int | float) -> Truth:
        value, covered = figure
        if value is None:
            return None
        if covered:
            return compare(value, other)
        return at_least(function, value, other) if non_negative else None

    return covered_or_bounded
