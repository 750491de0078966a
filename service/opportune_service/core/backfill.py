"""Backfill: what a metric that has just become live would have folded, had it been live before.

Events of the log from before the metric became live are folded into states **aside**; after them it is
folded live. What comes out aside is brought to each subscriber as a `Fill` and merged into what was folded
live meanwhile: the same as if all had been folded in order.

Place and handset are as the log tells, all other context is as it is known now: the log of a subscriber's
context is not read again. Metrics of derived events are not backfilled, for those are not in the log.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Mapping
from itertools import chain
from typing import Any

import msgspec
from opportune_rulebase.model import Attribute, Metric, MetricKind, Vocabulary

from opportune_service.core.cells import see_cell
from opportune_service.core.chain import Chain, no_peer
from opportune_service.core.events import MAX_LATENESS_US, Event
from opportune_service.core.exact import add
from opportune_service.core.fold import HORIZON_US, MAX_RETAINED, SLACK_DAYS, bounded
from opportune_service.core.patterns import no_roles, unmark
from opportune_service.core.plans import Plan, part_of
from opportune_service.core.revision import Revision
from opportune_service.core.state import Series, SubscriberState


class Fill(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a backfill found of one subscriber, by metric key. This is also its form in the log.

    `boundary`: the last log position that went into it. It names the backfill: later ones have greater.
    """

    subscriber_id: str
    boundary: int
    series: dict[str, Series]


def take_fill(fill: Fill, state: SubscriberState, revision: Revision, position: int) -> None:
    """Merge a fill into the live state, unless the state has taken it in already. Metrics that the revision
    does not have, or that became live anew since, are passed over."""
    if state.filled >= fill.boundary:
        return
    for key, series in fill.series.items():
        folding = revision.foldings.get(key)
        metric = folding.of if folding else None
        if isinstance(metric, Metric) and revision.births.get(key) == fill.boundary:
            live = state.series.get(key)
            state.series[key] = series if live is None else merged(metric, live, series)
    state.filled = fill.boundary
    state.position = position


def renew(state: SubscriberState, revision: Revision) -> None:
    """Drop what definitions left behind that were taken out and have come back since this state was last
    changed: what happened in between is not in it. Call it before anything is folded."""
    if state.position > revision.newest_birth:
        return
    anew = {key for key, position in revision.births.items() if state.position <= position}
    unmark(state, anew)
    for key in anew:
        state.series.pop(key, None)
        state.patterns.pop(key, None)
        if state.seeds:
            state.seeds.pop(key, None)


def merged(metric: Metric, one: Series, other: Series) -> Series:
    """What the events behind both would have come to, folded in order; see `fold.py` for what is kept."""
    if metric.days is not None and metric.kind not in (MetricKind.LATEST, MetricKind.DISTINCT):
        by_day = dict(zip(one.at, one.amount, strict=True))
        for day, amount in zip(other.at, other.amount, strict=True):
            by_day[day] = _joined(metric, by_day[day], amount) if day in by_day else amount
        at = sorted(by_day)
        return _retained(metric, Series(at, [by_day[day] for day in at]))
    if metric.kind is MetricKind.COUNT:
        return _retained(metric, Series(sorted(one.at + other.at), []))
    pairs: Iterable[tuple[int, Any]] = chain(
        zip(one.at, one.amount, strict=True), zip(other.at, other.amount, strict=True)
    )
    if metric.days is not None and metric.kind is MetricKind.DISTINCT:
        pairs = set(pairs)
    kept = sorted(pairs)
    return _retained(metric, Series([at for at, _ in kept], [amount for _, amount in kept]))


def _joined(metric: Metric, one: Any, other: Any) -> Any:
    match metric.kind:
        case MetricKind.MIN:
            return min(one, other)
        case MetricKind.MAX:
            return max(one, other)
    if metric.kind is MetricKind.SUM and metric.type == "double":
        for part in other:
            one = add(one, part)
        return one
    return bounded(one + other)


def _retained(metric: Metric, series: Series) -> Series:
    """Without what folding would have forgotten."""
    at = series.at
    if metric.kind is MetricKind.LATEST:
        stale = bisect_right(at, at[-1] - HORIZON_US) - 1
    elif metric.days is not None:
        stale = bisect_right(at, at[-1] - metric.days - SLACK_DAYS)
    else:
        stale = bisect_right(at, at[-1] - (metric.last_us or 0) - HORIZON_US)
    stale = max(stale, len(at) - MAX_RETAINED, 0)
    return Series(at[stale:], series.amount[stale:])


def fillable(metric: Metric, vocabulary: Vocabulary) -> bool:
    """Whether the log has the events of the metric."""
    return not any(vocabulary.events[name].derived for name in metric.of)


def logged_under(metric: Metric, now: Vocabulary, then: Vocabulary) -> bool:
    """Whether the events of the metric were taken in, as far as the metric looks at them, while another
    vocabulary was in force. What is not declared, or is declared otherwise, was rejected then."""
    reads = {metric.value} if metric.value else set()
    if metric.where is not None:
        reads |= {name.removeprefix("event.") for name in metric.where.reads if name.startswith("event.")}
    return all(
        name in then.events
        and all(_same(now.events[name].attributes, then.events[name].attributes, each) for each in reads)
        for name in metric.of
    )


def _same(now: Mapping[str, Attribute], then: Mapping[str, Attribute], name: str) -> bool:
    one, other = now.get(name), then.get(name)
    if one is None or other is None:
        return one is other
    return (one.type, one.values, one.minimum) == (other.type, other.values, other.minimum)


def _plans(revision: Revision, metrics: Collection[Metric]) -> dict[str, Plan]:
    return {
        name: Plan(part_of((revision.foldings[m.key] for m in metrics if name in m.of), no_roles()))
        for name in {name for metric in metrics for name in metric.of}
    }


class Aside:
    """Folds events of the log into `states` that nobody else sees but others that fold the same: some
    metrics of a revision, and what their filters need. The revision's engine must not be used by anybody
    else."""

    def __init__(
        self, revision: Revision, metrics: Collection[Metric], states: dict[str, SubscriberState]
    ) -> None:
        self._revision = revision
        self._plans = _plans(revision, metrics)
        self._slow_plans = _plans(revision, [metric for metric in metrics if metric.days])
        reads = {name for metric in metrics if metric.where for name in metric.where.reads}
        self._place = any(name.startswith("place.") for name in reads)
        self._handset = any(name.startswith("terminal.") for name in reads)
        self.states = states

    def fold(self, source: str, events: Iterable[Event], contexts: Mapping[str, Mapping[str, Any]]) -> None:
        """Fold the events of one batch. `contexts` has what is known of subscribers who may be new here."""
        revision = self._revision
        lateness_us = revision.lateness_us(source)
        slow = lateness_us > MAX_LATENESS_US
        chain_ = Chain(revision, no_peer)
        for event in events:
            plan = self._plans.get(event.type)
            sees_cell = self._place and not slow and event.cell_id
            sees_handset = self._handset and not slow and event.imei
            if plan is None and not sees_cell and not sees_handset:
                continue
            state = self.states.get(event.subscriber_id)
            if state is None:
                context = contexts.get(event.subscriber_id, {})
                state = self.states[event.subscriber_id] = SubscriberState(context=dict(context))
            if sees_cell:
                see_cell(state, event.occurred_at_us, event.cell_id)
            if sees_handset:
                state.imei = event.imei
            plan = self._slow_plans.get(event.type) if slow else plan
            if plan is None:
                continue
            attributes = revision.admission.admit(event, 0, event.occurred_at_us, lateness_us)
            if isinstance(attributes, dict):
                chain_.begin(event.subscriber_id, state)
                chain_.take(event.type, event.occurred_at_us, 0, attributes, event.cell_id, plan, None)


def fills_of(states: dict[str, SubscriberState], boundary: int, most: int) -> list[Fill]:
    """Up to `most` subscribers' fills of what was folded aside; their states are then given up."""
    fills: list[Fill] = []
    while states and len(fills) < most:
        subscriber_id, state = states.popitem()
        if state.series:
            fills.append(Fill(subscriber_id, boundary, state.series))
    return fills
