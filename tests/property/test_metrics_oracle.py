"""Metrics against a naive oracle that recomputes each figure from the full history."""

from __future__ import annotations

import random
from zoneinfo import ZoneInfo

from hypothesis import given
from hypothesis import strategies as st
from opportune_rulebase.model import Metric, MetricKind
from opportune_service.core.calendars import local_day
from opportune_service.core.events import MAX_LATENESS_US
from opportune_service.core.fold import fold_metric, read_metric
from opportune_service.core.state import SubscriberState

ZONE = ZoneInfo("Asia/Shanghai")
START_US = 1_795_147_200_000_000
MINUTE_US = 60_000_000


def metric(kind: MetricKind, last_us: int | None, days: int | None) -> Metric:
    value = "amount" if kind is MetricKind.SUM else None
    return Metric("m", "key", "", kind, ("charge",), value, None, last_us, days, non_negative=True)


METRICS = [
    metric(kind, last_us, days)
    for kind in MetricKind
    for last_us, days in (
        (MINUTE_US, None),
        (60 * MINUTE_US, None),
        (1440 * MINUTE_US, None),
        (None, 1),
        (None, 30),
    )
]
# Minutes apart, so that events fall on window edges; amounts of an event that is summed.
HISTORIES = st.lists(st.tuples(st.integers(0, 3 * 1440), st.integers(0, 9)), max_size=40)


def oracle(m: Metric, history: list[tuple[int, int]], at_us: int) -> int:
    def inside(event_us: int) -> bool:
        if event_us > at_us:
            return m.days is not None and local_day(event_us, ZONE) == local_day(at_us, ZONE)
        if m.last_us is not None:
            return event_us > at_us - m.last_us
        assert m.days is not None
        return local_day(event_us, ZONE) > local_day(at_us, ZONE) - m.days

    return sum(
        amount if m.kind is MetricKind.SUM else 1 for event_us, amount in history if inside(event_us)
    )


def folded(m: Metric, history: list[tuple[int, int]]) -> SubscriberState:
    state = SubscriberState()
    for at_us, amount in history:
        fold_metric(m, state, at_us, {"amount": amount}, ZONE)
    return state


@given(HISTORIES, st.sampled_from(METRICS))
def test_in_order_every_reading_is_the_oracles(raw: list[tuple[int, int]], m: Metric) -> None:
    history = sorted((START_US + minutes * MINUTE_US, amount) for minutes, amount in raw)
    state = SubscriberState()
    for index, (at_us, amount) in enumerate(history):
        fold_metric(m, state, at_us, {"amount": amount}, ZONE)
        value, covered = read_metric(m, 0, state, at_us, ZONE)
        assert (value, covered) == (oracle(m, history[: index + 1], at_us), True)


@given(HISTORIES, st.sampled_from(METRICS), st.randoms(use_true_random=False))
def test_late_events_converge_to_the_sorted_state(
    raw: list[tuple[int, int]], m: Metric, rng: random.Random
) -> None:
    """Shuffled inside the lateness bound, the final state is that of sorted input, to the byte."""
    history = sorted((START_US + minutes * MINUTE_US, amount) for minutes, amount in raw)
    late = sorted(history, key=lambda event: event[0] + rng.randrange(MAX_LATENESS_US))
    assert folded(m, late).series == folded(m, history).series


@given(HISTORIES, st.sampled_from(METRICS), st.integers(0, 4 * 1440))
def test_coverage_gives_a_lower_bound_until_the_window_is_covered(
    raw: list[tuple[int, int]], m: Metric, since_minutes: int
) -> None:
    history = sorted((START_US + minutes * MINUTE_US, amount) for minutes, amount in raw)
    since_us = START_US + since_minutes * MINUTE_US
    at_us = START_US + 3 * 1440 * MINUTE_US
    seen = folded(m, [event for event in history if event[0] >= since_us])
    value, covered = read_metric(m, since_us, seen, at_us, ZONE)
    truth = oracle(m, history, at_us)
    assert value is not None
    assert value == truth if covered else value <= truth


def test_control_a_window_one_microsecond_longer_is_another_figure() -> None:
    """The oracle would notice: the window's edge is exclusive."""
    m = metric(MetricKind.COUNT, MINUTE_US, None)
    state = folded(m, [(START_US, 1), (START_US + MINUTE_US, 1)])
    assert read_metric(m, 0, state, START_US + MINUTE_US, ZONE)[0] == 1
    assert read_metric(m, 0, state, START_US + MINUTE_US - 1, ZONE)[0] == 1
    longer = metric(MetricKind.COUNT, MINUTE_US + 1, None)
    assert read_metric(longer, 0, state, START_US + MINUTE_US, ZONE)[0] == 2
