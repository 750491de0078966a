"""What generated source calls: CEL's arithmetic and the reading of metrics, None standing for unknown."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Sequence
from datetime import date, datetime
from typing import Any

from opportune_rulebase.engine import Facts, Truth
from opportune_rulebase.intervals import bounded, is_number
from opportune_rulebase.model import Bound, Campaign

_INT_MIN, _INT_MAX = -(2**63), 2**63 - 1

Figure = tuple[Any, bool]


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


def as_double(figure: Figure) -> Figure:
    value, covered = figure
    return (None if value is None else value * 1.0), covered


def missing(miss: Callable[[str], None]) -> Callable[[str], float]:
    """NaN for a number that is missing, which is noted: no comparison but `!=` holds for it."""

    def noted(name: str) -> float:
        miss(name)
        return math.nan

    return noted


def from_below(miss: Callable[[str], None]) -> Callable[..., tuple[int | float, float]]:
    """For a figure of which at least `value` is known: (what `>=` may look at, what others may look at).

    It is noted as missing if it is too low to tell about comparisons with constants up to `highest`.
    """

    def noted(name: str, value: int | float | None, highest: int | float) -> tuple[int | float, float]:
        if value is None or not value > highest:
            miss(name)
        return (math.nan if value is None else value), math.nan

    return noted


def from_above(miss: Callable[[str], None]) -> Callable[..., tuple[int | float, float]]:
    """As `from_below`, for a figure that is at most `value`: (what `<=` may look at, ...); `lowest`."""

    def noted(name: str, value: int | float | None, lowest: int | float) -> tuple[int | float, float]:
        if value is None or not value < lowest:
            miss(name)
        return (math.nan if value is None else value), math.nan

    return noted


def nobody(facts: Facts) -> tuple[Campaign, ...]:
    """What no campaign asks for."""
    return ()


def in_order(found: Iterable[Campaign]) -> tuple[Campaign, ...]:
    """Campaigns in the order of their names."""
    return tuple(sorted(found, key=lambda campaign: campaign.name))


_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "_<_": operator.lt,
    "_<=_": operator.le,
    "_>_": operator.gt,
    "_>=_": operator.ge,
    "_==_": operator.eq,
    "_!=_": operator.ne,
}


def figure_comparison(
    function: str, bound: Bound, positive: bool | None, miss: Callable[[str], None], name: str
) -> Callable[[Figure, int | float], Truth]:
    """A comparison of a metric with a value, by the rule of `intervals`; unknown is noted for `name`.

    Its truth, or whether it is definitely what `positive` says.
    """
    compare = _OPERATORS[function]

    def compared(figure: Figure, other: int | float) -> Truth:
        value, covered = figure
        truth: Truth = None
        if is_number(value):
            truth = compare(value, other) if covered else bounded(bound, function, value, other)
        if truth is None:
            miss(name)
        return truth if positive is None else truth is positive

    return compared
