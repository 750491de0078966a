"""What a backfill merges, against the same events folded in order."""

from __future__ import annotations

import random
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opportune_rulebase.model import Bound, Metric, MetricKind
from opportune_service.core.backfill import Fill, logged_under, merged, take_fill
from opportune_service.core.events import MAX_LATENESS_US
from opportune_service.core.fold import fold_metric, read_metric
from opportune_service.core.revision import Revision
from opportune_service.core.state import Series, SubscriberState
from support.rulebases import make_rulebase

ZONE = ZoneInfo("Asia/Shanghai")
START_US = 1_795_147_200_000_000
MINUTE_US = 60_000_000
WINDOWS: list[tuple[int | None, int | None]] = [
    (MINUTE_US, None),
    (60 * MINUTE_US, None),
    (1440 * MINUTE_US, None),
    (None, 1),
    (None, 3),
    (None, 30),
]


def metric(kind: MetricKind, last_us: int | None, days: int | None, type_: str) -> Metric:
    value = None if kind is MetricKind.COUNT else "amount"
    return Metric("m", "key", "", kind, ("charge",), value, None, last_us, days, Bound.NONE, type_)


METRICS = [
    metric(kind, last_us, days, type_)
    for kind in MetricKind
    for last_us, days in WINDOWS
    for type_ in (("int", "double") if kind is MetricKind.SUM else ("int",))
]
AMOUNTS = {"int": st.integers(-9, 9), "double": st.sampled_from([0.1, -0.25, 1e16, -1e16, 3.0])}


@st.composite
def cases(draw: st.DrawFn) -> tuple[Metric, list[tuple[int, Any]], int]:
    """A metric, events in order of time, and how many of them came before the metric was live."""
    chosen = draw(st.sampled_from(METRICS))
    amounts = AMOUNTS["double" if chosen.type == "double" else "int"]
    minutes = st.integers(0, 5 * 1440)
    events = sorted(draw(st.lists(st.tuples(minutes, amounts), max_size=30)))
    history = [(START_US + minute * MINUTE_US, amount) for minute, amount in events]
    return chosen, history, draw(st.integers(0, len(history)))


def folded(m: Metric, history: list[tuple[int, Any]]) -> SubscriberState:
    state = SubscriberState()
    for at_us, amount in history:
        fold_metric(m, state, at_us, {"amount": amount}, ZONE)
    return state


@given(cases(), st.randoms(use_true_random=False))
def test_merged_is_what_folding_in_order_gives(
    case: tuple[Metric, list[tuple[int, Any]], int], rng: random.Random
) -> None:
    """Whatever came late, and on whichever side of the boundary it came."""
    m, history, boundary = case
    arrived = sorted(history, key=lambda event: event[0] + rng.randrange(MAX_LATENESS_US))
    before, after = folded(m, arrived[:boundary]).series, folded(m, arrived[boundary:]).series
    whole = folded(m, history).series
    if before and after:
        assert merged(m, after["key"], before["key"]) == whole["key"]
        assert merged(m, before["key"], after["key"]) == whole["key"]
    else:
        assert (before or after) == whole


@given(cases())
def test_control_folding_the_boundary_twice_shows(
    case: tuple[Metric, list[tuple[int, Any]], int],
) -> None:
    """Were the backfill to take in what was folded live too, counts would tell."""
    m, history, boundary = case
    m = metric(MetricKind.COUNT, m.last_us, m.days, "int")
    live, whole = folded(m, history[boundary:]), folded(m, history)
    if not live.series:
        return
    now_us = history[-1][0]
    wrong = SubscriberState(series={"key": merged(m, live.series["key"], whole.series["key"])})
    counted, _ = read_metric(m, 0, wrong, now_us, ZONE)
    right, _ = read_metric(m, 0, whole, now_us, ZONE)
    assert isinstance(counted, int)
    assert isinstance(right, int)
    assert counted > right


class NoEngine:
    """For revisions that match nothing."""

    def close(self) -> None: ...


def revision(births: dict[str, int]) -> Revision:
    made = make_rulebase(events={"charge": {}}, metrics={"m": {"of": ("charge",), "days": 7}})
    return Revision(made, NoEngine(), {}, births)  # type: ignore[arg-type]  # not asked


def test_a_fill_is_taken_in_once() -> None:
    key = next(iter(revision({}).keys))
    state = SubscriberState(position=20, series={key: Series([20_777], [2])})
    live = revision({key: 15})
    fill = Fill("8613800000001", 15, {key: Series([20_776, 20_777], [3, 4])})
    for position in (30, 40):
        take_fill(fill, state, live, position)
    assert state.series[key] == Series([20_776, 20_777], [3, 6])
    assert (state.filled, state.position) == (15, 30)


@pytest.mark.parametrize("births", [{}, {"KEY": 25}])
def test_a_fill_of_a_definition_that_is_gone_or_new_again_is_passed_over(births: dict[str, int]) -> None:
    key = next(iter(revision({}).keys))
    state = SubscriberState(position=20)
    live = revision({key: 25} if births else {})
    take_fill(Fill("8613800000001", 15, {key: Series([20_777], [1])}), state, live, 30)
    assert not state.series


def test_what_a_metric_reads_must_have_been_declared_the_same() -> None:
    now = make_rulebase(
        events={"charge": {"amount": "int", "shop": "string"}, "refund": {"amount": "int"}},
        metrics={
            "spent": {"of": ("charge",), "value": "amount"},
            "bought": {"of": ("charge",)},
            "moved": {"of": ("charge", "refund")},
            "there": {"of": ("charge",), "where": 'event.shop == "x"'},
        },
    )

    def logged(**events: dict[str, Any]) -> set[str]:
        then = make_rulebase(events=events).vocabulary
        return {m.name for m in now.metrics.values() if logged_under(m, now.vocabulary, then)}

    same = {"amount": "int", "shop": "string"}
    assert logged(charge=same, refund={"amount": "int"}) == {"spent", "bought", "moved", "there"}
    assert logged(charge=same) == {"spent", "bought", "there"}
    assert logged(charge={"amount": "double", "shop": "string"}) == {"bought", "there"}
    assert logged(charge={"amount": "int"}) == {"spent", "bought"}
    assert logged(refund={"amount": "int"}) == set()
