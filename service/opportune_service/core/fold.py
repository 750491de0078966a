"""Step 4: fold events into metrics, and read metrics as of an instant.

The state of a metric is a function of the set of its events (their times and amounts), not of the
order in which they came, so late input converges to what sorted input gives.
"""

from __future__ import annotations

import sys
from bisect import bisect_left, bisect_right, insort_right
from collections.abc import Mapping
from datetime import tzinfo

from opportune_rulebase.model import Bound, Fact, Metric, MetricKind

from opportune_service.core.calendars import DAY_US, local_day
from opportune_service.core.events import MAX_LATENESS_US, MAX_SKEW_US
from opportune_service.core.state import Series, SubscriberState

_MAX_INT = 2**63 - 1
_MAX_DOUBLE = sys.float_info.max

MAX_RETAINED = 10_000
"""Events that one sliding window keeps of one subscriber; more are a machine, and the count stays there."""


def fold_metric(
    metric: Metric, state: SubscriberState, at_us: int, attributes: Mapping[str, object], zone: tzinfo
) -> None:
    """Add one event that the metric counts. A sum ignores an event without its attribute."""
    amount: int | float = 1
    if metric.value is not None:
        value = attributes.get(metric.value)
        if not isinstance(value, int | float):
            return
        amount = value
    series = state.series.get(metric.key)
    if series is None:
        series = state.series[metric.key] = Series()
    if metric.days is not None:
        _fold_day(series, local_day(at_us, zone), amount, metric.days)
    elif metric.last_us is not None:
        _fold_instant(series, at_us, amount, metric)


def _fold_day(series: Series, day: int, amount: int | float, days: int) -> None:
    at = series.at
    if at and at[-1] == day:
        series.amount[-1] = _bounded(series.amount[-1] + amount)
        return
    place = bisect_left(at, day)
    if place < len(at) and at[place] == day:
        series.amount[place] = _bounded(series.amount[place] + amount)
        return
    at.insert(place, day)
    series.amount.insert(place, amount)
    # One day more than the window: an event that comes late is still read as of yesterday.
    stale = bisect_right(at, at[-1] - days - 1)
    if stale:
        del at[:stale], series.amount[:stale]


def _fold_instant(series: Series, at_us: int, amount: int | float, metric: Metric) -> None:
    at = series.at
    if metric.kind is MetricKind.COUNT:
        if not at or at_us >= at[-1]:
            at.append(at_us)
        else:
            insort_right(at, at_us)
    else:
        place = bisect_right(at, at_us)
        # Equal times are kept in order of amount: the order of arrival must not show.
        while place and at[place - 1] == at_us and series.amount[place - 1] > amount:
            place -= 1
        at.insert(place, at_us)
        series.amount.insert(place, amount)
    assert metric.last_us is not None  # noqa: S101 - chosen by the caller
    # The newest may be ahead of the clock, and the oldest that is read is as late as may be.
    stale = bisect_right(at, at[-1] - metric.last_us - MAX_LATENESS_US - MAX_SKEW_US)
    stale = max(stale, len(at) - MAX_RETAINED)
    if stale > 0:
        del at[:stale]
        if series.amount:
            del series.amount[:stale]


def _bounded(total: int | float) -> int | float:
    """A sum that would leave what stores and expressions can hold stops at the bound."""
    if isinstance(total, int):
        return min(max(total, -_MAX_INT), _MAX_INT)
    return min(max(total, -_MAX_DOUBLE), _MAX_DOUBLE)


def read_metric(
    metric: Metric, since_us: int | None, state: SubscriberState, at_us: int, zone: tzinfo
) -> tuple[int | float | None, bool]:
    """The metric as of `at_us`, and whether its whole window is covered.

    `since_us` is the instant since when the definition has been folded; None means never. A figure
    whose window is not covered is a lower bound if the metric is non-negative, else nothing (None).
    """
    series = state.series.get(metric.key)
    value: int | float = 0
    if metric.days is not None:
        today = local_day(at_us, zone)
        if series is not None:
            first, end = bisect_right(series.at, today - metric.days), bisect_right(series.at, today)
            value = sum(series.amount[first:end])
        covered = since_us is not None and _covers_days(since_us, at_us, today, metric.days, zone)
    else:
        window_us = metric.last_us or 0
        if series is not None:
            first, end = bisect_right(series.at, at_us - window_us), bisect_right(series.at, at_us)
            value = end - first if metric.kind is MetricKind.COUNT else sum(series.amount[first:end])
        covered = since_us is not None and since_us <= at_us - window_us
    if covered or metric.bound is not Bound.NONE:
        return _bounded(value), covered
    return None, False


def _covers_days(since_us: int, at_us: int, today: int, days: int, zone: tzinfo) -> bool:
    """Whether folding began before the first day of the window: the day on which it began is not whole."""
    if at_us - since_us >= (days + 2) * DAY_US:
        return True  # in any zone; saves most readings the look at the calendar
    return local_day(since_us, zone) <= today - days


def fold_fact(fact: Fact, state: SubscriberState, at_us: int) -> None:
    """Remember that the fact held at `at_us`."""
    raise NotImplementedError


def read_fact(fact: Fact, since_us: int | None, state: SubscriberState, at_us: int) -> bool | None:
    """Whether the fact is remembered as of `at_us`; None if it is not, and its time is not covered."""
    raise NotImplementedError
