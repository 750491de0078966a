"""Step 4: fold events into metrics and remembered facts, and read both as of an instant.

What is kept is a function of the set of events (their times and values), not of the order in which they
came, so late input converges to what sorted input gives. By kind and window, `Series.at` and `.amount` are:

| | `last` | `days` |
|---|---|---|
| count | instants, nothing | days, how many |
| sum | instants, values | days, the day's sum; of doubles as an exact expansion (`exact.py`) |
| min, max | instants, values | days, the day's least or greatest |
| latest | instants, values | the same |
| distinct | instants, values as text, long ones hashed | days, the same: each pair once |

A remembered fact keeps the instants at which it held. LATEST and facts are asked for the newest only: of
what lies before everything that may still be asked for, the newest is kept and no more.
"""

from __future__ import annotations

import operator
import sys
from bisect import bisect_left, bisect_right, insort_right
from collections.abc import Callable, Mapping
from datetime import tzinfo
from itertools import chain
from typing import Any, NamedTuple, Protocol

from opportune_rulebase.model import Bound, Fact, Metric, MetricKind
from xxhash import xxh3_64_hexdigest

from opportune_service.core.calendars import DAY_US, local_day
from opportune_service.core.events import MAX_LATENESS_US, MAX_SKEW_US
from opportune_service.core.exact import add, total
from opportune_service.core.state import Seed, Series, SubscriberState

# Members of an enumeration are slow to look up in its class, and every event asks.
_COUNT, _SUM, _MIN, _MAX, _LATEST, _DISTINCT = MetricKind
_MAX_INT = 2**63 - 1
_TOKEN_LENGTH = 16
_MAX_DOUBLE = sys.float_info.max

MAX_RETAINED = 10_000
"""Items that one metric or fact keeps of one subscriber. Whoever needs more is a machine; the oldest are
then forgotten, and counts stay there."""

HORIZON_US = MAX_LATENESS_US + MAX_SKEW_US
"""So far before the newest event may lie what is still read: the newest may be ahead of the clock, and an
event that comes late is read as of its own time. (Slow sources fold later events still, but nothing reads
then.)"""

SLACK_DAYS = 2
"""Days that are kept beyond a window, for the same reason: the newest day may be that of an event ahead of
the clock, and the day that is read that of a late one."""


Fold = Callable[[SubscriberState, int, int, Mapping[str, object]], None]
"""Adds one event to a metric: (state, when it occurred, its local day, its attributes)."""


def metric_fold(metric: Metric) -> Fold:
    """How events that are of the metric's types and pass its filter are added; made once, for every event
    asks. An event without the attribute that the metric looks at does not take part."""
    if metric.days is None or metric.kind is _LATEST:
        return _fold_of_instants(metric)
    return _fold_of_different(metric) if metric.kind is _DISTINCT else _fold_of_days(metric)


def fold_metric(
    metric: Metric, state: SubscriberState, at_us: int, attributes: Mapping[str, object], zone: tzinfo
) -> None:
    """Add one event, as `metric_fold` does."""
    metric_fold(metric)(state, at_us, local_day(at_us, zone), attributes)


def _fold_of_instants(metric: Metric) -> Fold:
    key, name, value_of = metric.key, metric.value, _value_of(metric)
    # Of what lies before everything that may still be asked for, the newest may be.
    spare, kept_us = (1, HORIZON_US) if metric.kind is _LATEST else (0, (metric.last_us or 0) + HORIZON_US)

    def count(state: SubscriberState, at_us: int, _: int, attributes: Mapping[str, object]) -> None:
        try:
            at = state.series[key].at
        except KeyError:  # the first one
            at = _new_series(state, key).at
        if not at or at_us > at[-1]:  # in order, as most come
            at.append(at_us)
            if at[0] > at_us - kept_us and len(at) <= MAX_RETAINED:
                return
        else:
            insort_right(at, at_us)
        _drop(state.series[key], at[-1] - kept_us)

    if name is None:
        return count

    def fold(state: SubscriberState, at_us: int, _: int, attributes: Mapping[str, object]) -> None:
        value: Any = attributes.get(name)
        if value is None:
            return
        if value_of is not None:
            value = value_of(value)
        try:
            series = state.series[key]
        except KeyError:
            series = _new_series(state, key)
        at = series.at
        if not at or at_us > at[-1]:
            amount = series.amount
            at.append(at_us)
            amount.append(value)
            size = len(at)
            if size <= spare:
                return
            horizon = at_us - kept_us
            if size <= MAX_RETAINED:
                if at[spare] > horizon:
                    return
                if at[spare + 1] > horizon:  # most: one goes
                    del at[0], amount[0]
                    return
        else:
            _insert(series, at_us, value)
            horizon = at[-1] - kept_us
        _drop(series, horizon, spare)

    return fold


def _new_series(state: SubscriberState, key: str) -> Series:
    series = state.series[key] = Series()
    return series


def _value_of(metric: Metric) -> Callable[[Any], Any] | None:
    """What is kept of a value; None: the value itself."""
    if metric.kind is _DISTINCT:
        return _token
    # -0.0 is 0.0: which of them came first must not show.
    return _without_sign if metric.type == "double" else None


def _without_sign(value: Any) -> Any:
    return value + 0.0 if isinstance(value, float) else value


def _fold_of_days(metric: Metric) -> Fold:
    key, name, counts = metric.key, metric.value or "", metric.kind is _COUNT
    plain = metric.type != "double"
    exact = _is_expansion(metric)
    joins = {_COUNT: operator.add, _SUM: add if exact else _sum, _MIN: min, _MAX: max}
    joined: Callable[[Any, Any], Any] = joins[metric.kind]
    kept_days = (metric.days or 0) + SLACK_DAYS

    def fold(state: SubscriberState, _: int, day: int, attributes: Mapping[str, object]) -> None:
        value: Any = 1
        if not counts:
            value = attributes.get(name)
            if value is None:
                return
            if not plain:
                value = _without_sign(value)
        try:
            series = state.series[key]
        except KeyError:
            series = _new_series(state, key)
        at, amount = series.at, series.amount
        if at and at[-1] == day:  # most: the day is there, nothing to drop
            amount[-1] = joined(amount[-1], value)
            return
        place = bisect_left(at, day)
        if place < len(at) and at[place] == day:
            amount[place] = joined(amount[place], value)
        else:
            at.insert(place, day)
            amount.insert(place, add((), value) if exact else value)
        _drop(series, at[-1] - kept_days)

    return fold


def _fold_of_different(metric: Metric) -> Fold:
    key, name, kept_days = metric.key, metric.value or "", (metric.days or 0) + SLACK_DAYS

    def fold(state: SubscriberState, _: int, day: int, attributes: Mapping[str, object]) -> None:
        value = attributes.get(name)
        if value is None:
            return
        token = value if isinstance(value, str) and len(value) <= _TOKEN_LENGTH else _token(value)
        try:
            series = state.series[key]
        except KeyError:
            series = _new_series(state, key)
        at, amount = series.at, series.amount
        place = bisect_left(at, day)
        end = len(at) if at and at[-1] == day else bisect_right(at, day, place)
        place = bisect_left(amount, token, place, end)
        if place == end or amount[place] != token:
            at.insert(place, day)
            amount.insert(place, token)
            _drop(series, at[-1] - kept_days)

    return fold


def _sum(amount: Any, value: Any) -> Any:
    figure = amount + value
    return figure if -_MAX_INT <= figure <= _MAX_INT else bounded(figure)


def _is_expansion(metric: Metric) -> bool:
    return metric.kind is _SUM and metric.type == "double"


def _insert(series: Series, at_us: int, value: Any) -> None:
    """Put an instant into its place; `value` None for those that keep no values."""
    at = series.at
    in_order = not at or at_us > at[-1]
    if value is None:
        if in_order:
            at.append(at_us)
        else:
            insort_right(at, at_us)
        return
    amount = series.amount
    if in_order:
        at.append(at_us)
        amount.append(value)
        return
    place = bisect_right(at, at_us)
    # Equal times are kept in order of value: the order of arrival must not show.
    while place and at[place - 1] == at_us and amount[place - 1] > value:
        place -= 1
    at.insert(place, at_us)
    amount.insert(place, value)


def _drop(series: Series, horizon: int, spare: int = 0) -> None:
    """Forget what lies at or before the horizon but for the newest `spare`, and whatever is too much."""
    at = series.at
    stale = bisect_right(at, horizon) - spare
    if len(at) - stale > MAX_RETAINED:
        stale = len(at) - MAX_RETAINED
    if stale > 0:
        del at[:stale], series.amount[:stale]


def _token(value: object) -> str:
    """What tells values of one type apart, and is short: most are."""
    text = value if isinstance(value, str) else str(value)
    return text if len(text) <= _TOKEN_LENGTH else xxh3_64_hexdigest(text.encode())


def bounded(figure: int | float) -> int | float:
    """A sum that would leave what stores and expressions can hold stops at the bound."""
    most = _MAX_INT if isinstance(figure, int) else _MAX_DOUBLE
    return figure if -most <= figure <= most else min(max(figure, -most), most)


def seed_metric(metric: Metric, state: SubscriberState, as_of_us: int, days: Mapping[int, Any]) -> None:
    """Keep what an import says that local days of a `seedable` metric came to, in place of what an earlier
    one said. Nothing is said of days that were not over as of then, and nothing is needed of days after the
    one on which folding began: both are left out whenever the metric is read."""
    at = sorted(days)
    state.seeds = (state.seeds or {}) | {metric.key: Seed(as_of_us, at, [days[day] for day in at])}


def seedable(metric: Metric) -> bool:
    """Whether imports may bring figures of earlier days: only where those of single days can be added
    up."""
    return metric.days is not None and metric.kind in (_COUNT, _SUM)


class AsOf(Protocol):
    """What metrics are read of: a state, as of an instant, in the subscriber's zone. Facts are such."""

    @property
    def state(self) -> SubscriberState: ...

    @property
    def now_us(self) -> int: ...

    @property
    def zone(self) -> tzinfo: ...


class _AsOf(NamedTuple):
    state: SubscriberState
    now_us: int
    zone: tzinfo


Read = Callable[[AsOf], tuple[object, bool]]
"""Reads a metric."""


def metric_read(metric: Metric, since_us: int | None) -> Read:
    """How the metric is read that has been folded since then, made once: nearly every event asks.
    `read_metric` says what is read."""
    key, last_us = metric.key, metric.last_us

    def read(of: AsOf) -> tuple[object, bool]:
        return _read(metric, since_us, of.state, of.now_us, of.zone)

    if metric.kind is not _LATEST or last_us is None or since_us is None:
        return read
    first_us = since_us - MAX_SKEW_US

    def read_latest(of: AsOf) -> tuple[object, bool]:
        try:
            series = of.state.series[key]
        except KeyError:
            return read(of)
        if at := series.at:
            newest_us = at[-1]
            if first_us <= newest_us <= of.now_us < newest_us + last_us:
                return series.amount[-1], True  # most: nothing newer than what is asked for
        return read(of)

    return read_latest


def read_metric(
    metric: Metric, since_us: int | None, state: SubscriberState, at_us: int, zone: tzinfo
) -> tuple[object, bool]:
    """The metric as of `at_us`, and whether its whole window is covered.

    `since_us` is the instant since when the definition has been folded; None means never. Of a figure whose
    window is not covered only `metric.bound` holds, and None says that nothing is known. A LATEST that was
    seen since is covered, for what lies before does not matter; a MIN, MAX or LATEST of nothing is None.

    Up to the day on which folding began, a day that an import seeded counts as that says, and whatever was
    folded of it does not count: the window is covered if all such days in it were seeded.
    """
    return metric_read(metric, since_us)(_AsOf(state, at_us, zone))


def _read(
    metric: Metric, since_us: int | None, state: SubscriberState, at_us: int, zone: tzinfo
) -> tuple[object, bool]:
    series = state.series.get(metric.key)
    if metric.kind is _LATEST:
        found = _latest(metric, series, since_us, at_us, zone) if series is not None else None
        if found is not None:
            return found, True
    if metric.days is None:
        figure = None if series is None else _figure(metric, series, at_us - (metric.last_us or 0), at_us)
        covered = since_us is not None and since_us <= at_us - (metric.last_us or 0)
        covered = covered and not _overflowed(series, at_us - (metric.last_us or 0))
    else:
        today = local_day(at_us, zone)
        if state.seeds and since_us is not None and (seed := state.seeds.get(metric.key)):
            return _seeded(metric, seed, series, since_us, today, zone)
        figure = None if series is None else _figure(metric, series, today - metric.days, today)
        covered = since_us is not None and _covers_days(since_us, at_us, today, metric.days, zone)
        covered = covered and not _overflowed(series, today - metric.days)
    return _known(metric, figure, covered)


def _overflowed(series: Series | None, after: int) -> bool:
    """Whether some of the window may have been given up, for more than is retained came in it."""
    return series is not None and len(series.at) >= MAX_RETAINED and series.at[0] > after


def _known(metric: Metric, figure: Any, covered: bool) -> tuple[object, bool]:
    if not covered and metric.bound is Bound.NONE:
        return None, False
    if figure is None and metric.kind in (_COUNT, _SUM, _DISTINCT):
        return (0.0 if metric.type == "double" else 0), covered
    return figure, covered


def _figure(metric: Metric, series: Series, after: int, until: int) -> Any:
    """What lies in (after, until] comes to; None for nothing."""
    first, end = bisect_right(series.at, after), bisect_right(series.at, until)
    if first >= end or metric.kind is _LATEST:
        return None
    if metric.kind is _COUNT and metric.days is None:
        return end - first
    values = series.amount[first:end]
    if metric.kind is _MIN:
        return min(values)
    if metric.kind is _MAX:
        return max(values)
    if metric.kind is _DISTINCT:
        return len(set(values))
    if metric.type != "double":
        return bounded(sum(values))
    return total(values if metric.days is None else chain.from_iterable(values))


def _latest(metric: Metric, series: Series, since_us: int | None, at_us: int, zone: tzinfo) -> Any:
    at = series.at
    if not at or at[0] > at_us:
        return None
    place = -1 if at[-1] <= at_us else bisect_right(at, at_us) - 1
    seen_us = at[place]
    if since_us is not None and seen_us < since_us - MAX_SKEW_US:
        return None  # it came late, and a newer one may have come before folding began
    if metric.days is None:
        inside = seen_us > at_us - (metric.last_us or 0)
    else:
        inside = local_day(seen_us, zone) > local_day(at_us, zone) - metric.days
    return series.amount[place] if inside else None


def _seeded(
    metric: Metric, seed: Seed, series: Series | None, since_us: int, today: int, zone: tzinfo
) -> tuple[object, bool]:
    """The metric of a subscriber of whom an import says what earlier days came to."""
    window = range(today - (metric.days or 0) + 1, today + 1)
    began = local_day(since_us, zone)
    # Of a day that was not over when the data were drawn, or that folding saw whole, the seed says nothing.
    last = min(local_day(seed.as_of_us, zone) - 1, began)
    said = {day: figure for day, figure in zip(seed.at, seed.amount, strict=True) if day <= last}
    values = [figure for day, figure in said.items() if day in window]
    covered = len([day for day in said if day in window and day <= began]) == max(0, began - window[0] + 1)
    if series is not None:
        for day, amount in zip(series.at, series.amount, strict=True):
            if day in window and day not in said:
                values += amount if _is_expansion(metric) else [amount]
    figure = total(values) if metric.type == "double" else bounded(sum(values))
    return _known(metric, figure, covered)


def _covers_days(since_us: int, at_us: int, today: int, days: int, zone: tzinfo) -> bool:
    """Whether folding began before the first day of the window: the day on which it began is not whole."""
    if at_us - since_us >= (days + 2) * DAY_US:
        return True  # in any zone; saves most readings the look at the calendar
    return local_day(since_us, zone) <= today - days


def fact_fold(fact: Fact) -> Fold:
    """How it is remembered that the fact held."""
    key = fact.key

    def fold(state: SubscriberState, at_us: int, _: int, attributes: Mapping[str, object]) -> None:
        series = state.series.get(key)
        if series is None:
            series = state.series[key] = Series()
        _insert(series, at_us, None)
        _drop(series, series.at[-1] - HORIZON_US, 1)

    return fold


def fold_fact(fact: Fact, state: SubscriberState, at_us: int) -> None:
    """Remember that the fact held at `at_us`."""
    fact_fold(fact)(state, at_us, 0, {})


def read_fact(fact: Fact, since_us: int | None, state: SubscriberState, at_us: int) -> bool | None:
    """Whether the fact is remembered as of `at_us`; None if it is not, and its time is not covered."""
    if remembered_until(fact, state, at_us) is not None:
        return True
    return False if since_us is not None and since_us <= at_us - fact.for_us else None


def remembered_until(fact: Fact, state: SubscriberState, at_us: int) -> int | None:
    """The instant at which a fact that is remembered as of `at_us` will be forgotten; None if it is not."""
    series = state.series.get(fact.key)
    place = -1 if series is None else bisect_right(series.at, at_us) - 1
    if series is None or place < 0 or series.at[place] <= at_us - fact.for_us:
        return None
    return series.at[place] + fact.for_us
