"""What is dropped of metrics and remembered facts because nobody can read it any more.

Folding does the same for its own metric, but nobody folds anything where the events have stopped.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Any

from opportune_rulebase.model import Fact, Metric, MetricKind

from opportune_service.core.calendars import DAY_US
from opportune_service.core.fold import SLACK_DAYS
from opportune_service.core.state import Series

# Members of an enumeration are slow to look up in its class.
_, _, _MIN, _MAX, _LATEST, _DISTINCT = MetricKind


def forget_unread(metric: Metric | Fact, series: Series, read_from_us: int) -> bool:
    """Drop what nobody can read any more as of `read_from_us` or later; whether nothing is left."""
    at = series.at
    if isinstance(metric, Fact):
        return not at or at[-1] <= read_from_us - metric.for_us
    if metric.days is not None:
        # Days of the subscriber begin and end up to a day before or after those of the world.
        return not at or _day_of(metric, at[-1]) < read_from_us // DAY_US - metric.days - SLACK_DAYS
    window_us = metric.last_us or 0
    if metric.kind is _LATEST:
        return not at or at[-1] <= read_from_us - window_us
    stale = bisect_right(at, read_from_us - window_us)
    del at[:stale], series.amount[:stale]
    if metric.kind in (_MIN, _MAX, _DISTINCT):
        _keep_telling(metric, series, bisect_right(at, read_from_us))
    return not at


def _day_of(metric: Metric, at: int) -> int:
    return at // DAY_US if metric.kind is _LATEST else at


def _keep_telling(metric: Metric, series: Series, end: int) -> None:
    """Of the first `end` items, which all readings see but for the oldest of them, keep those that make a
    difference: with which no later one of them is equal, or beyond it."""
    at, amount = series.at, series.amount
    kept: list[int] = []
    told: Any = None
    for place in range(end - 1, -1, -1):
        value = amount[place]
        if metric.kind is _DISTINCT:
            told = told or set()
            if value in told:
                continue
            told.add(value)
        elif told is not None and (value <= told if metric.kind is _MAX else value >= told):
            continue
        else:
            told = value
        kept.append(place)
    if len(kept) < end:
        kept.reverse()
        at[:end], amount[:end] = [at[place] for place in kept], [amount[place] for place in kept]
