"""Run a test case through the core that serves: its past, its events, and the time that passes. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import replace

from opportune_rulebase.engine import Engine
from opportune_rulebase.model import Attribute, Metric, MetricKind, Rulebase, ValueType

from opportune_service.app.read_cases import Case
from opportune_service.app.read_past import metric_attribute
from opportune_service.core.calendars import local_day
from opportune_service.core.context import apply_context
from opportune_service.core.events import ContextRecord, Due, ImportMode, Rejection
from opportune_service.core.fold import fold_fact, fold_metric
from opportune_service.core.observe import observe, observe_due
from opportune_service.core.revision import Plan, Revision
from opportune_service.core.schedule import due_instants
from opportune_service.core.state import SubscriberState
from opportune_service.core.verdict import Moment

_SOURCE = "test"
_GIVEN_TAC = "00000000"
"""The made-up handset that has what a case gives as `terminal.*`. No real TAC begins with so many zeros."""

_MADE_UP = 1 << 40
"""Numbers from here on stand for values that a case only counts."""


def run_case(rulebase: Rulebase, engine: Engine, case: Case) -> tuple[Revision, list[Moment]]:
    """The moments of a case in order of time, from a fresh state.

    Everything counts as folded since ever: a metric that is not given is exactly 0 (or missing, if it is a
    value), a fact that is not given is false. Timers and triggers that fall due after the beginning settle
    each at its own time, after the events of that instant; none waits for a source. What was due at the
    beginning itself has passed.
    """
    revision = _revision(rulebase, engine, case)
    state = _state(revision, case)
    states = {case.subscriber_id: state}
    clock = _Dues(revision, case, state)
    moments: list[Moment] = []

    def let_pass(until_us: int) -> None:
        for due in clock.until(until_us):
            moments.extend(observe_due(revision, [due], states, 1, None, peers=case.peers.get).moments)

    for event in case.events:
        let_pass(event.occurred_at_us - 1)
        attributes = revision.admission.admit(event, 0, event.occurred_at_us)
        if isinstance(attributes, Rejection):  # the reader admitted it before
            raise TypeError(attributes.message)
        source = case.sources.get(event.id, _SOURCE)
        observed = observe(revision, source, [(event, attributes)], states, 1, None, peers=case.peers.get)
        moments.extend(observed.moments)
    let_pass(case.end_us)
    return revision, moments


class _Dues:
    """The timers and triggers of the case's subscriber, in the order in which they are due."""

    def __init__(self, revision: Revision, case: Case, state: SubscriberState) -> None:
        self._subscriber_id = case.subscriber_id
        self._state = state
        self._settled: set[tuple[int, str]] = set()
        context = {**revision.defaults, **state.context}
        zone = revision.zone_of(state.context)
        self._triggers = deque(
            sorted(
                (at_us, trigger.name)
                for trigger in revision.rulebase.triggers.values()
                for at_us in due_instants(trigger, context, zone, case.begin_us, case.end_us)
            )
        )

    def until(self, until_us: int) -> Iterator[Due]:
        """Those due up to an instant, itself included. Settling one may start the next: looked up anew."""
        while True:
            timers = (
                (each.due_us, key)
                for key, each in self._state.patterns.items()
                if each.due_us and (each.due_us, key) not in self._settled
            )
            at_us, name = min(timers, default=(until_us + 1, ""))
            if self._triggers and self._triggers[0][0] < at_us:
                at_us, name = self._triggers[0]
            if at_us > until_us:
                return
            if self._triggers and self._triggers[0] == (at_us, name):
                self._triggers.popleft()
            else:
                self._settled.add((at_us, name))
            yield Due(self._subscriber_id, name, at_us)


def _revision(rulebase: Rulebase, engine: Engine, case: Case) -> Revision:
    if case.given.terminal:
        terminals = dict(rulebase.tables.terminals) | {_GIVEN_TAC: case.given.terminal}
        rulebase = replace(rulebase, tables=replace(rulebase.tables, terminals=terminals))
    revision = Revision(rulebase, engine, {})
    revision.coverage = dict.fromkeys(revision.keys, 0)
    # The engine is asked at every event, so that who watches it sees completions that trigger nothing, too.
    nothing = Plan((), (), (), False, None)
    names = [*revision.plans, *rulebase.patterns]
    revision.plans = {n: replace(revision.plans.get(n, nothing), triggers=True) for n in names}
    return revision


def _state(revision: Revision, case: Case) -> SubscriberState:
    """What is known of the subscriber before the first event."""
    state = SubscriberState()
    begin_us, rulebase = case.begin_us, revision.rulebase
    if case.known:
        # As of the beginning: what is imported for a time is valid from then on.
        record = ContextRecord(case.subscriber_id, begin_us, ImportMode.UPSERT, dict(case.context))
        apply_context(record, state, 0)
    if case.given.terminal:
        state.imei = f"{_GIVEN_TAC}0000000"
    zone = revision.zone_of(state.context)
    # Just before the first event, so that this one is the latest; but on the same day.
    same_day = local_day(begin_us - 1, zone) == local_day(begin_us, zone)
    for name, figure in case.given.metrics.items():
        metric = rulebase.metrics[name]
        at_us = begin_us - 1 if same_day or metric.days is None else begin_us
        for attributes in _events_for(metric, metric_attribute(rulebase, metric), figure):
            fold_metric(metric, state, at_us, attributes, zone)
    for name, held in case.given.facts.items():
        if held:
            fold_fact(rulebase.facts[name], state, begin_us)
    return state


def _events_for(
    metric: Metric, attribute: Attribute | None, figure: object
) -> Iterator[Mapping[str, object]]:
    """Attributes of events that bring the metric to a figure."""
    if metric.kind is MetricKind.COUNT and isinstance(figure, int):
        yield from ({} for _ in range(figure))
    elif metric.kind is MetricKind.DISTINCT and attribute is not None and isinstance(figure, int):
        yield from ({attribute.name: _made_up(attribute, number)} for number in range(figure))
    elif attribute is not None and not (metric.kind is MetricKind.SUM and figure == 0):
        yield {attribute.name: figure}


def _made_up(attribute: Attribute, number: int) -> object:
    """The value of that number: of a closed list those that stand first, else some that no event has."""
    if attribute.values is not None:
        return attribute.values[number]
    if attribute.type is ValueType.BOOL:
        return bool(number)
    return _MADE_UP + number if attribute.type is ValueType.INT else f"given-{number}"
