"""Run a test case through the core that serves: its past, its events, the time that passes, and what is
decided. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

from opportune_rulebase.engine import Engine
from opportune_rulebase.model import Attribute, Metric, MetricKind, Rulebase, ValueType
from opportune_rulebase.policies import SHARES

from opportune_service.app.read_cases import Case
from opportune_service.app.read_past import metric_attribute
from opportune_service.core.calendars import local_day
from opportune_service.core.context import apply_context
from opportune_service.core.decide import decide
from opportune_service.core.events import ContextRecord, Due, Event, ImportMode, Rejection
from opportune_service.core.fold import fold_fact, fold_metric
from opportune_service.core.observe import observe, observe_deferred, observe_due
from opportune_service.core.patterns import no_roles
from opportune_service.core.plans import Plan, part_of
from opportune_service.core.revision import Revision
from opportune_service.core.schedule import due_instants
from opportune_service.core.state import SubscriberState
from opportune_service.core.verdict import (
    Decision,
    Deferral,
    History,
    Moment,
    Usage,
    UsageKey,
    UsageKind,
)

_SOURCE = "test"
_GIVEN_TAC = "00000000"
"""The made-up handset that has what a case gives as `terminal.*`. No real TAC begins with so many zeros."""

_MADE_UP = 1 << 40
"""Numbers from here on stand for values that a case only counts."""


class StoppedError(Exception):
    """Nobody waits for the case any more."""


def run_case(
    rulebase: Rulebase, engine: Engine, case: Case, stopped: Callable[[], bool] = lambda: False
) -> list[Decision]:
    """Everything that is decided in a case, in order of time, from a fresh state.

    Everything counts as folded since ever: a metric that is not given is exactly 0 (or missing, if it is a
    value), a fact that is not given is false. Timers and triggers that fall due after the beginning settle
    each at its own time, after the events of that instant; none waits for a source. What was due at the
    beginning itself has passed. What is deferred is decided again if it falls due before the end; what
    settles is, in any case. The subscriber is in no control group, unless that is given.

    `stopped` is asked before each moment; raises `StoppedError` once it says so.
    """
    run = _Run(_revision(rulebase, engine, case), case, stopped)
    for event in case.events:
        run.let_pass(event.occurred_at_us - 1)
        run.take(event)
    run.let_pass(case.end_us)
    while settling := [each.due_us for each in run.history.deferrals if each.settling]:
        run.let_pass(max(settling))
    return run.decisions


class _Run:
    """A case while it runs: what is known of its subscriber, and what was decided so far."""

    def __init__(self, revision: Revision, case: Case, stopped: Callable[[], bool]) -> None:
        self.revision = revision
        self.case = case
        self.stopped = stopped
        self.history = History(contacts=list(case.contacts), outcomes=list(case.outcomes))
        self.decisions: list[Decision] = []
        self._usage = _usage(revision.rulebase, case)
        self._state = _state(revision, case)
        self._states = {case.subscriber_id: self._state}
        self._dues = _Dues(revision, case, self._state)

    def take(self, event: Event) -> None:
        attributes = self.revision.admission.admit(event, 0, event.occurred_at_us)
        if isinstance(attributes, Rejection):  # the reader admitted it before
            raise TypeError(attributes.message)
        source = self.case.sources.get(event.id, _SOURCE)
        peers, admitted = self.case.peers.get, [(event, attributes)]
        self._decide(
            observe(
                *(self.revision, source, admitted, self._states, 1, None), peers=peers, deferred=self._due
            ).moments
        )

    def let_pass(self, until_us: int) -> None:
        """Settle and decide again what falls due up to an instant, itself included."""
        peers = self.case.peers.get
        while True:
            again_us = min((each.due_us for each in self.history.deferrals), default=until_us + 1)
            # What is settled at the same instant takes what was deferred into its moment.
            due = self._dues.next(min(until_us, again_us))
            if due is not None:
                observed = observe_due(
                    self.revision, [due], self._states, 1, None, peers=peers, deferred=self._due
                )
                self._decide(observed.moments)
            elif again_us <= until_us:
                deferrals = self._due(self.case.subscriber_id, again_us)
                self._decide(
                    [observe_deferred(self.revision, deferrals, self._state, again_us, peers=peers)]
                )
            else:
                return

    def _due(self, _: str, now_us: int) -> list[Deferral]:
        return [each for each in self.history.deferrals if each.due_us <= now_us]

    def _decide(self, moments: Iterable[Moment]) -> None:
        if self.stopped():
            raise StoppedError
        for moment in moments:
            verdict = decide(
                self.revision.rulebase, moment, self.history, self._usage, self.case.given.paused
            )
            self.decisions.extend(verdict.decisions)


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

    def next(self, until_us: int) -> Due | None:
        """The next one due up to an instant, itself included; it is not given again. Settling one may start
        another: they are looked up anew."""
        timers = (
            (each.due_us, key)
            for key, each in self._state.patterns.items()
            if each.due_us and (each.due_us, key) not in self._settled
        )
        at_us, name = min(timers, default=(until_us + 1, ""))
        if self._triggers and self._triggers[0][0] < at_us:
            at_us, name = self._triggers[0]
        if at_us > until_us:
            return None
        if self._triggers and self._triggers[0] == (at_us, name):
            self._triggers.popleft()
        else:
            self._settled.add((at_us, name))
        return Due(self._subscriber_id, name, at_us)


def _usage(rulebase: Rulebase, case: Case) -> Usage:
    """What is used up: of today, where there is a daily bound, else for good."""
    usage: Usage = {}
    day = local_day(case.now_us, rulebase.time_zone)
    for name in case.given.spent:
        channel = rulebase.vocabulary.channels.get(name.removeprefix("channel/"))
        campaign = rulebase.campaigns.get(name)
        if campaign is not None and campaign.quota is not None:
            quota = campaign.quota
            if quota.per_day is not None:
                usage[UsageKey(UsageKind.CAMPAIGN_DAY, name, day)] = quota.per_day
            else:
                usage[UsageKey(UsageKind.CAMPAIGN_TOTAL, name)] = quota.total or 0
                usage[UsageKey(UsageKind.CAMPAIGN_COST, name)] = quota.budget or 0
        elif channel is not None and channel.per_day is not None:
            usage[UsageKey(UsageKind.CHANNEL_DAY, channel.name, day)] = channel.per_day
    return usage


def _with_control(rulebase: Rulebase, member: bool) -> Rulebase:
    """The rulebase with everybody in each of its control groups, or nobody."""

    def share(declared: int) -> int:
        return SHARES if member and declared else 0

    policies = rulebase.policies
    control = replace(policies.control, share=share(policies.control.share))
    campaigns = {
        name: replace(each, control_share=share(each.control_share)) if each.control_share else each
        for name, each in rulebase.campaigns.items()
    }
    return replace(rulebase, policies=replace(policies, control=control), campaigns=campaigns)


def _revision(rulebase: Rulebase, engine: Engine, case: Case) -> Revision:
    rulebase = _with_control(rulebase, case.given.control)
    if case.given.terminal:
        terminals = dict(rulebase.tables.terminals) | {_GIVEN_TAC: case.given.terminal}
        rulebase = replace(rulebase, tables=replace(rulebase.tables, terminals=terminals))
    revision = Revision(rulebase, engine, {})
    revision.live_since(dict.fromkeys(revision.keys, 0), {})
    # The engine is asked at every event, so that who watches it sees completions that trigger nothing, too.
    nothing = Plan(part_of((), no_roles()))
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
