"""Metrics and remembered facts against a naive oracle that recomputes each from the full history."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opportune_rulebase.model import Bound, Fact, Metric, MetricKind
from opportune_service.core import fold, forgetting
from opportune_service.core.events import MAX_LATENESS_US, MAX_SKEW_US
from opportune_service.core.fold import (
    fold_fact,
    fold_metric,
    read_fact,
    read_metric,
    remembered_until,
    seed_metric,
)
from opportune_service.core.forgetting import forget_unread
from opportune_service.core.state import SubscriberState, decode_state, encode_state

MINUTE_US = 60_000_000
HOUR_US = 60 * MINUTE_US
DAY_US = 24 * HOUR_US
MINUTES = 5 * 1440
"""How long a history is."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Where:
    """A time zone, and an instant from which histories run: over a change of the clocks, where there is
    one."""

    zone: ZoneInfo
    start_us: int


def where(zone: str, *start: int) -> Where:
    return Where(ZoneInfo(zone), (datetime(*start, tzinfo=UTC) - EPOCH) // timedelta(microseconds=1))


PLACES = [
    where("Asia/Shanghai", 2026, 11, 20),
    where("America/New_York", 2026, 10, 30, 3),  # the clocks go back on 1 November
    where("Australia/Lord_Howe", 2026, 10, 2),  # and here forward by half an hour on 4 October
]

Seen = tuple[int, Any]
"""When an event occurred, and its value."""


def metric(kind: MetricKind, type_: str, last_us: int | None, days: int | None) -> Metric:
    value = None if kind is MetricKind.COUNT else "amount"
    bound = {MetricKind.MIN: Bound.UPPER, MetricKind.LATEST: Bound.NONE}.get(kind, Bound.LOWER)
    figure = "int" if kind in (MetricKind.COUNT, MetricKind.DISTINCT) else type_
    return Metric("m", "key", "", kind, ("charge",), value, None, last_us, days, bound, figure)


VALUES: Mapping[str, Sequence[Any]] = {
    "int": (0, 1, 2, 7, 40),
    "double": (0.0, 0.1, 0.2, 0.3, 1e-9, 3.5, 1e16),
    "string": ("", "a", "b", "1"),
    "bool": (False, True),
}
KINDS = [
    *((kind, type_) for kind in MetricKind if kind is not MetricKind.COUNT for type_ in ("int", "double")),
    (MetricKind.COUNT, "int"),
    *((kind, type_) for kind in (MetricKind.LATEST, MetricKind.DISTINCT) for type_ in ("string", "bool")),
]
WINDOWS = ((MINUTE_US, None), (HOUR_US, None), (DAY_US, None), (None, 1), (None, 2), (None, 30))


@st.composite
def cases(draw: st.DrawFn) -> tuple[Metric, Where, list[Seen]]:
    """A metric and a history for it, sorted. Events are minutes apart, so that they fall on window edges
    and on each other."""
    kind, type_ = draw(st.sampled_from(KINDS))
    m = metric(kind, type_, *draw(st.sampled_from(WINDOWS)))
    place = draw(st.sampled_from(PLACES))
    minutes = st.integers(0, MINUTES) | st.integers(2880, 2970)  # some are close and overtake each other
    events = st.tuples(minutes, st.sampled_from(VALUES[type_]))
    raw = draw(st.lists(events, max_size=40))
    return m, place, sorted((place.start_us + minutes * MINUTE_US, value) for minutes, value in raw)


def day_of(at_us: int, zone: ZoneInfo) -> date:
    return (EPOCH + timedelta(microseconds=at_us)).astimezone(zone).date()


def oracle(m: Metric, zone: ZoneInfo, history: Sequence[Seen], at_us: int) -> Any:
    def inside(event_us: int) -> bool:
        if m.last_us is not None:
            return at_us - m.last_us < event_us <= at_us
        days_ago = (day_of(at_us, zone) - day_of(event_us, zone)).days
        if m.kind is MetricKind.LATEST and event_us > at_us:
            return False
        return 0 <= days_ago < (m.days or 0)

    found = [(event_us, value) for event_us, value in history if inside(event_us)]
    values = [value for _, value in found]
    match m.kind:
        case MetricKind.COUNT:
            return len(found)
        case MetricKind.SUM:
            return math.fsum(values) if m.type == "double" else sum(values)
        case MetricKind.MIN:
            return min(values, default=None)
        case MetricKind.MAX:
            return max(values, default=None)
        case MetricKind.LATEST:
            return max(found)[1] if found else None
    return len(set(values))


def folded(m: Metric, zone: ZoneInfo, history: Sequence[Seen]) -> SubscriberState:
    state = SubscriberState()
    for at_us, value in history:
        fold_metric(m, state, at_us, {"amount": value}, zone)
    return state


@given(cases())
def test_in_order_every_reading_is_the_oracles(case: tuple[Metric, Where, list[Seen]]) -> None:
    m, place, history = case
    state = SubscriberState()
    for index, (at_us, value) in enumerate(history):
        fold_metric(m, state, at_us, {"amount": value}, place.zone)
        assert read_metric(m, 0, state, at_us, place.zone) == (
            oracle(m, place.zone, history[: index + 1], at_us),
            True,
        )


@given(cases(), st.randoms(use_true_random=False), st.integers(0, 40))
def test_late_events_converge_to_the_sorted_state(
    case: tuple[Metric, Where, list[Seen]], rng: random.Random, restart: int
) -> None:
    """Shuffled inside the lateness bound, and written and read again on the way: the final state is that of
    sorted input, to the byte, and whoever comes late is read as of its own time."""
    m, place, history = case
    late = sorted(history, key=lambda event: event[0] + rng.randrange(MAX_LATENESS_US))
    state = SubscriberState()
    for index, (at_us, value) in enumerate(late):
        if index == restart:
            state = decode_state(encode_state(state))
        fold_metric(m, state, at_us, {"amount": value}, place.zone)
        expected = oracle(m, place.zone, late[: index + 1], at_us)
        assert read_metric(m, 0, state, at_us, place.zone) == (expected, True)
    assert encode_state(state) == encode_state(folded(m, place.zone, history))


def forget(metric: Metric | Fact, state: SubscriberState, read_from_us: int) -> None:
    kept = state.series.get(metric.key)
    if kept is not None and forget_unread(metric, kept, read_from_us):
        del state.series[metric.key]


def forgetting_cannot_be_seen(m: Metric, place: Where, history: Sequence[Seen], rng: random.Random) -> None:
    """Two states of the same late events, one of which forgets now and then, are read at every instant that
    may still be asked for."""
    arrivals = sorted((event[0] + rng.randrange(MAX_LATENESS_US), event) for event in history)
    whole, forgetful = SubscriberState(), SubscriberState()
    for index, (came_us, (at_us, value)) in enumerate(arrivals):
        next_us = arrivals[index + 1][0] if index + 1 < len(arrivals) else came_us + 40 * DAY_US
        for state in (whole, forgetful):
            fold_metric(m, state, at_us, {"amount": value}, place.zone)
        # The next event may be as old as that, and no older.
        now_us = rng.choice((came_us, next_us))
        if rng.random() < 0.5:
            forget(m, forgetful, now_us - MAX_LATENESS_US)
        for back_us in (0, MAX_LATENESS_US // 3, MAX_LATENESS_US, rng.randrange(MAX_LATENESS_US)):
            asked = (m, 0, now_us - back_us, place.zone)
            readings = [
                read_metric(m, 0, state, now_us - back_us, place.zone) for state in (whole, forgetful)
            ]
            assert readings[0] == readings[1], asked
    forget(m, forgetful, arrivals[-1][0] + 200 * DAY_US)
    assert not forgetful.series


@given(cases(), st.randoms(use_true_random=False))
def test_forgetting_what_nobody_reads_cannot_be_seen(
    case: tuple[Metric, Where, list[Seen]], rng: random.Random
) -> None:
    m, place, history = case
    if history:
        forgetting_cannot_be_seen(m, place, history, rng)


@pytest.mark.parametrize("kind", MetricKind)
def test_control_forgetting_too_early_is_seen(kind: MetricKind, monkeypatch: pytest.MonkeyPatch) -> None:
    def hasty(metric: Metric | Fact, series: Any, read_from_us: int) -> bool:
        return forgetting.forget_unread(metric, series, read_from_us + 2 * MINUTE_US + MAX_LATENESS_US)

    monkeypatch.setitem(globals(), "forget_unread", hasty)
    m, place = metric(kind, "int", HOUR_US, None), PLACES[0]
    history = [(place.start_us + n * 10 * MINUTE_US, n % 7) for n in range(300)]
    with pytest.raises(AssertionError):
        forgetting_cannot_be_seen(m, place, history, random.Random(1))


@given(st.lists(st.integers(0, MINUTES), min_size=1, max_size=20), st.randoms(use_true_random=False))
def test_forgetting_facts_cannot_be_seen(minutes: list[int], rng: random.Random) -> None:
    fact = Fact("f", "key", "", ("charge",), None, rng.choice((10, 120, 3000)) * MINUTE_US)
    state, newest_us = SubscriberState(), 0
    for minute in sorted(minutes):
        newest_us = PLACES[0].start_us + minute * MINUTE_US
        fold_fact(fact, state, newest_us)
        ahead_us = newest_us + rng.randrange(2 * fact.for_us)
        was = [remembered_until(fact, state, ahead_us + n * HOUR_US) for n in range(5)]
        forget(fact, state, ahead_us)
        assert was == [remembered_until(fact, state, ahead_us + n * HOUR_US) for n in range(5)]
    fold_fact(fact, state, newest_us)
    forget(fact, state, newest_us + fact.for_us - 1)
    assert state.series
    forget(fact, state, newest_us + fact.for_us)
    assert not state.series


@given(cases(), st.randoms(use_true_random=False))
def test_events_of_slow_sources_converge_too(
    case: tuple[Metric, Where, list[Seen]], rng: random.Random
) -> None:
    """A day late, among others that are in time and that are read as of their own times."""
    m, place, history = case
    m = replace(m, last_us=None, days=m.days or 3)
    arrivals = sorted(
        (event[0] + rng.randrange(rng.choice((MAX_LATENESS_US, DAY_US))), event) for event in history
    )
    state = SubscriberState()
    for index, (came_us, (at_us, value)) in enumerate(arrivals):
        fold_metric(m, state, at_us, {"amount": value}, place.zone)
        if came_us - at_us <= MAX_LATENESS_US:
            seen = [event for _, event in arrivals[: index + 1]]
            expected = oracle(m, place.zone, seen, at_us)
            assert read_metric(m, 0, state, at_us, place.zone) == (expected, True)
    assert encode_state(state) == encode_state(folded(m, place.zone, history))


def holds(m: Metric, reading: tuple[Any, bool], truth: Any) -> bool:
    """Whether what a reading claims is so."""
    value, covered = reading
    if covered:
        return bool(value == truth)
    if value is None:
        return True
    return bool(
        m.bound is not Bound.NONE and (value <= truth if m.bound is Bound.LOWER else value >= truth)
    )


@given(cases(), st.integers(0, MINUTES), st.integers(0, MINUTES), st.randoms(use_true_random=False))
def test_what_a_reading_claims_is_so_whatever_is_covered(
    case: tuple[Metric, Where, list[Seen]], since: int, at: int, rng: random.Random
) -> None:
    """Of what occurred before folding began some was seen: it came late."""
    m, place, history = case
    since_us, at_us = place.start_us + since * MINUTE_US, place.start_us + max(since, at) * MINUTE_US
    history = [event for event in history if event[0] <= at_us]
    seen = [event for event in history if event[0] >= since_us - MAX_SKEW_US or rng.random() < 0.5]
    reading = read_metric(m, since_us, folded(m, place.zone, seen), at_us, place.zone)
    assert holds(m, reading, oracle(m, place.zone, history, at_us)), reading


@given(cases(), st.integers(0, MINUTES), st.integers(0, MINUTES), st.randoms(use_true_random=False))
def test_what_a_seeded_reading_claims_is_so(
    case: tuple[Metric, Where, list[Seen]], since: int, drawn: int, rng: random.Random
) -> None:
    """Whichever days were seeded, and whenever the data were drawn; late events do not count twice."""
    m, place, history = case
    kind = rng.choice((MetricKind.COUNT, MetricKind.SUM))
    if not history or not isinstance(history[0][1], int | float):
        kind = MetricKind.COUNT
    m = replace(metric(kind, m.type, None, rng.choice((1, 2, 3, 30))), type="int")
    if kind is MetricKind.SUM and history and isinstance(history[0][1], float):
        m = replace(m, type="double")
    since_us, as_of_us = place.start_us + since * MINUTE_US, place.start_us + drawn * MINUTE_US
    at_us = place.start_us + MINUTES * MINUTE_US
    seen = [event for event in history if event[0] >= since_us or rng.random() < 0.5]
    state = folded(m, place.zone, seen)
    first = day_of(place.start_us, place.zone) - timedelta(rng.choice((0, 30)))
    days = [first + timedelta(n) for n in range(40) if rng.random() < 0.95]
    one_day = replace(m, days=1)
    epoch = date(1970, 1, 1)
    drawn_history = [event for event in history if event[0] <= as_of_us]

    def figure(day: date) -> Any:
        noon_us = (datetime(day.year, day.month, day.day, 12, tzinfo=place.zone) - EPOCH) // timedelta(
            microseconds=1
        )
        return oracle(one_day, place.zone, drawn_history, noon_us)

    seed_metric(m, state, as_of_us, {(day - epoch).days: figure(day) for day in days})
    reading = read_metric(m, since_us, decode_state(encode_state(state)), at_us, place.zone)
    truth = oracle(m, place.zone, history, at_us)
    if isinstance(reading[0], float) and math.isclose(reading[0], truth, rel_tol=1e-12):
        reading = (truth, reading[1])  # figures of days were rounded one by one
    assert holds(m, reading, truth), (reading, truth)
    whole = day_of(since_us, place.zone) < day_of(as_of_us, place.zone)
    if whole and len(days) == 40 and first < day_of(place.start_us, place.zone):
        assert reading[1] or (m.days or 0) > 30, "everything before folding began was seeded"


def test_a_seed_covers_the_window_up_to_the_day_on_which_folding_began() -> None:
    """That day too, once it was over when the data were drawn; later days are those that were folded."""
    m, place = metric(MetricKind.COUNT, "int", None, 5), PLACES[0]
    day0 = (day_of(place.start_us, place.zone) - date(1970, 1, 1)).days
    since_us = place.start_us + 10 * HOUR_US  # 18:00 in Shanghai, on day 0
    state = folded(m, place.zone, [(since_us + n * HOUR_US, 1) for n in (1, 8, 26)])  # day 0, day 1, day 2
    at_us = place.start_us + 2 * DAY_US
    seed = {day0 - 2: 10, day0 - 1: 20, day0: 30, day0 + 1: 1_000}
    assert read_metric(m, since_us, state, at_us, place.zone) == (3, False)
    seed_metric(m, state, since_us + DAY_US, seed)
    assert read_metric(m, since_us, state, at_us, place.zone) == (10 + 20 + 30 + 1 + 1, True)
    seed_metric(m, state, since_us, seed)
    assert read_metric(m, since_us, state, at_us, place.zone) == (10 + 20 + 1 + 1 + 1, False), (
        "day 0 was not over when the data were drawn"
    )
    seed_metric(m, state, since_us + DAY_US, {day: seed[day] for day in (day0 - 2, day0)})
    assert read_metric(m, since_us, state, at_us, place.zone) == (10 + 30 + 1 + 1, False), "a gap"
    later_us = at_us + 3 * DAY_US
    assert read_metric(m, since_us, state, later_us, place.zone) == (2, True), "the gap has left the window"


def test_a_latest_that_came_late_is_not_taken_for_the_newest() -> None:
    """A newer one may have come before folding began; what came since is exact at once."""
    m, place = metric(MetricKind.LATEST, "int", None, 30), PLACES[0]
    since_us = place.start_us + HOUR_US
    state = folded(m, place.zone, [(place.start_us, 7)])
    assert read_metric(m, since_us, state, since_us, place.zone) == (None, False)
    fold_metric(m, state, since_us, {"amount": 8}, place.zone)
    assert read_metric(m, since_us, state, since_us, place.zone) == (8, True)


FACT = Fact("f", "key", "", ("call",), None, for_us=3 * HOUR_US)


@given(
    st.lists(st.integers(0, 2 * 1440) | st.integers(700, 790), max_size=40),
    st.integers(0, 2 * 1440),
    st.randoms(use_true_random=False),
)
def test_a_fact_is_remembered_for_its_time(raw: list[int], since: int, rng: random.Random) -> None:
    start_us = PLACES[0].start_us
    held = sorted(start_us + minutes * MINUTE_US for minutes in raw)
    since_us = start_us + since * MINUTE_US
    late = sorted(held, key=lambda at_us: at_us + rng.randrange(MAX_LATENESS_US))
    state, in_order = SubscriberState(), SubscriberState()
    for index, at_us in enumerate(late):
        fold_fact(FACT, state, at_us)
        for as_of_us in (at_us, at_us + FACT.for_us - 1, at_us + FACT.for_us, at_us + DAY_US):
            if as_of_us < max(late[: index + 1]) - MAX_LATENESS_US:
                continue
            known = any(as_of_us - FACT.for_us < each <= as_of_us for each in late[: index + 1])
            covered = since_us <= as_of_us - FACT.for_us
            assert read_fact(FACT, since_us, state, as_of_us) == (known or (False if covered else None))
    for at_us in held:
        fold_fact(FACT, in_order, at_us)
    assert encode_state(state) == encode_state(in_order)


@pytest.mark.parametrize("kind", [MetricKind.COUNT, MetricKind.DISTINCT, MetricKind.MAX, MetricKind.LATEST])
@pytest.mark.parametrize("days", [None, 30])
def test_what_is_kept_of_a_machine_is_bounded(
    kind: MetricKind, days: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fold, "MAX_RETAINED", 50)
    m = metric(kind, "int", None if days else DAY_US, days)
    state = folded(m, PLACES[0].zone, [(PLACES[0].start_us + n, n) for n in range(200)])
    assert len(state.series["key"].at) <= 50
    value, covered = read_metric(m, 0, state, PLACES[0].start_us + 200, PLACES[0].zone)
    given_up = kind is MetricKind.DISTINCT or (days is None and kind is not MetricKind.LATEST)
    assert covered is not given_up
    assert value == (
        200
        if (kind, days) == (MetricKind.COUNT, 30)
        else 199
        if kind in (MetricKind.MAX, MetricKind.LATEST)
        else 50
    )


def test_sums_stop_at_the_bound() -> None:
    for window in ((DAY_US, None), (None, 30)):
        for type_, most in (("int", 2**63 - 1), ("double", 1.7e308)):
            m = metric(MetricKind.SUM, type_, *window)
            state = folded(m, PLACES[0].zone, [(PLACES[0].start_us + n, most) for n in range(3)])
            value, _ = read_metric(m, 0, state, PLACES[0].start_us + 9, PLACES[0].zone)
            assert isinstance(value, int | float)
            assert most <= value < math.inf
            assert decode_state(encode_state(state)) == state


def test_control_a_window_one_microsecond_longer_is_another_figure() -> None:
    """The oracle would notice: the window's edge is exclusive."""
    m, place = metric(MetricKind.COUNT, "int", MINUTE_US, None), PLACES[0]
    state = folded(m, place.zone, [(place.start_us, 1), (place.start_us + MINUTE_US, 1)])
    assert read_metric(m, 0, state, place.start_us + MINUTE_US, place.zone)[0] == 1
    assert read_metric(m, 0, state, place.start_us + MINUTE_US - 1, place.zone)[0] == 1
    longer = replace(m, last_us=MINUTE_US + 1)
    assert read_metric(longer, 0, state, place.start_us + MINUTE_US, place.zone)[0] == 2


def test_control_a_sum_in_order_of_arrival_would_differ() -> None:
    """So that the property of doubles is one: naive addition gives other sums in other orders."""
    assert sum([0.1, 1e16, -1e16]) != sum([1e16, -1e16, 0.1])
    m = metric(MetricKind.SUM, "double", None, 30)
    states = [
        folded(m, PLACES[0].zone, [(PLACES[0].start_us, value) for value in values])
        for values in ((0.1, 1e16, -1e16), (1e16, -1e16, 0.1))
    ]
    assert encode_state(states[0]) == encode_state(states[1])
    assert read_metric(m, 0, states[0], PLACES[0].start_us, PLACES[0].zone) == (0.1, True)


def test_control_a_window_that_is_called_covered_too_early_is_noticed() -> None:
    m, place = metric(MetricKind.COUNT, "int", HOUR_US, None), PLACES[0]
    history = [(place.start_us, 1), (place.start_us + 30 * MINUTE_US, 1)]
    since_us, at_us = place.start_us + MINUTE_US, place.start_us + 40 * MINUTE_US
    state = folded(m, place.zone, history[1:])
    truth = oracle(m, place.zone, history, at_us)
    assert holds(m, read_metric(m, since_us, state, at_us, place.zone), truth)
    assert not holds(m, read_metric(m, 0, state, at_us, place.zone), truth)
