"""What comes of one event: it is folded; patterns that it completes give derived events, which are folded
in turn, to the end; campaigns that any of them triggers become candidates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import tzinfo
from types import MappingProxyType

from opportune_rulebase.engine import Facts, Truth
from opportune_rulebase.model import Campaign, Place
from xxhash import xxh3_64_intdigest

from opportune_service.core.admit import Attributes
from opportune_service.core.calendars import local_day
from opportune_service.core.cells import cell_at
from opportune_service.core.events import Due, Event
from opportune_service.core.fold import fold_fact, fold_metric, read_fact, read_metric
from opportune_service.core.join import candidate_of
from opportune_service.core.patterns import Completion, Sighting, horizon_us, ranked, resolve, take_handset
from opportune_service.core.revision import Plan, Revision
from opportune_service.core.state import SubscriberState
from opportune_service.core.verdict import Candidate

_SKIPPED_US = 2 * 3_600_000_000
_NOTHING: Mapping[str, object] = MappingProxyType({})

Peers = Callable[[str], Mapping[str, object] | None]
"""Subscriber id -> that subscriber's context as it is now, None if nothing is known. Read only."""


def no_peer(_: str) -> Mapping[str, object] | None:
    """For those who know of nobody else."""
    return None


class _Seen(Facts):
    """The facts of an event. Where it was and with what handset is looked up when a rule asks."""

    __slots__ = ("_cell_id", "_imei", "_revision", "_state")

    def __init__(
        self, chain: Chain, type_: str, at_us: int, attributes: Attributes, cell_id: str, imei: str
    ) -> None:
        # What `Facts` sets, one by one: every event comes here, and a call with all that by name is dear.
        revision, state = chain.revision, chain.state
        self.type = type_
        self.event = attributes
        self.sub = revision.valid_context(state, at_us)
        self.metric = chain.metric
        self.now_us = at_us
        self.zone = chain.zone
        self.peer = _NOTHING
        self.fact = chain.fact
        self.calendar = revision.rulebase.calendar
        self.others = _NOTHING
        self.memo = {}
        self._local = None
        self._revision = revision
        self._state = state
        self._cell_id = cell_id
        self._imei = imei

    @property
    def place(self) -> Place | None:  # type: ignore[override]  # nothing sets it
        # A late event happened where it says, not where the subscriber is by now.
        where = self._cell_id or cell_at(self._state, self.now_us)
        return self._revision.rulebase.tables.cells.get(where) if where else None

    @property
    def terminal(self) -> Mapping[str, object]:  # type: ignore[override]  # nothing sets it
        imei = self._imei or self._state.imei or self._state.context.get("imei")
        terminals = self._revision.rulebase.tables.terminals
        return terminals.get(imei[:8], _NOTHING) if isinstance(imei, str) else _NOTHING


class Chain:
    """One event and what is derived of it. Made per event; its subscriber's state changes.

    `candidates`: campaign -> candidate. A campaign that several events of the chain trigger is matched by
    the first. `timers_changed`: whether a pattern with a timer took part.
    """

    __slots__ = (
        "_at_us",
        "_imei",
        "_own_type",
        "_peers",
        "_pending",
        "candidates",
        "revision",
        "state",
        "timers_changed",
        "zone",
    )

    def __init__(self, revision: Revision, state: SubscriberState, peers: Peers) -> None:
        self.revision = revision
        self.state = state
        self._peers = peers
        self._at_us = 0
        self._imei = ""
        self._own_type = ""
        self._pending: list[Completion] = []
        self.zone: tzinfo = revision.zone_of(state.context)
        self.candidates: dict[str, Candidate] = {}
        self.timers_changed = False

    def see_handset(self, event: Event, digest: int) -> None:
        """Remember the handset; a new one gives `handset_changed`."""
        self._imei = event.imei
        self._pending += take_handset(self.state, event.occurred_at_us, digest, event.cell_id, event.imei)

    def settle(self, due: Due) -> tuple[str, str] | None:
        """Begin with a timer or a trigger that is due: type and id of its event; None if nothing comes of
        it."""
        revision = self.revision
        if due.name in revision.rulebase.triggers:
            # By the local day: whoever moves west in the middle of it is not due twice. The hours make one
            # day of a midnight that the clock skips and the earlier instant that stands for it.
            event_id = f"{due.name}@{local_day(due.at_us + _SKIPPED_US, self.zone)}"
            plan = revision.plans.get(due.name)
            digest = ranked(xxh3_64_intdigest(event_id.encode()), 0)
            self.take(due.name, due.at_us, digest, {}, "", plan, None)
            return due.name, event_id
        pattern = revision.patterns_by_key.get(due.name)
        if pattern is None:
            return None
        since_us = revision.coverage.get(pattern.key)
        completion = resolve(pattern, self.state, due.at_us, due.fired, self.zone, since_us)
        if completion is None:
            return None
        self._pending.append(completion)
        return completion.name, completion.id

    def take(
        self,
        type_: str,
        at_us: int,
        digest: int,
        attributes: Attributes,
        cell_id: str,
        plan: Plan | None,
        prompts: Mapping[str, str] | None,
    ) -> None:
        """Fold one event, infer from it, and match it. `prompts`: campaigns that are candidates anyway."""
        revision, state = self.revision, self.state
        self._own_type = self._own_type or type_  # whatever is taken later was derived of it
        self._at_us = at_us
        facts = _Seen(self, type_, at_us, attributes, cell_id, self._imei)
        matched: Sequence[Campaign] = ()
        if plan is not None:
            if plan.peer:
                facts.peer = self._peer(attributes.get(plan.peer))
            tests = revision.tests
            for metric in plan.metrics:
                if metric.where is None or tests[metric.where](facts):
                    fold_metric(metric, state, at_us, attributes, self.zone)
            for fact in plan.facts:
                if fact.when is None or tests[fact.when](facts):
                    fold_fact(fact, state, at_us)
            takers = plan.patterns + plan.stays if cell_id else plan.patterns
            if takers:
                place = revision.rulebase.tables.cells.get(cell_id) if cell_id else None
                seen = Sighting(
                    state,
                    facts,
                    at_us,
                    digest,
                    attributes,
                    cell_id,
                    horizon_us(state, at_us),
                    place,
                    self.zone,
                    revision.coverage,
                )
                for take in takers:
                    if completions := take(seen):
                        self._pending += completions
                if seen.timed:
                    self.timers_changed = True
            if plan.triggers:
                # What `where` filters computed came before the fold; campaigns see the event included.
                facts.memo.clear()
                matched = revision.engine.match(facts)
        if matched or prompts:
            self._note(matched, facts, prompts or {})

    def _note(self, matched: Iterable[Campaign], facts: Facts, prompts: Mapping[str, str]) -> None:
        campaigns = self.revision.rulebase.campaigns
        found = {campaign.name: campaign for campaign in matched}
        for name in prompts:
            if name in campaigns:
                found.setdefault(name, campaigns[name])
        derived = facts.type != self._own_type
        for name, campaign in found.items():
            if name not in self.candidates:
                prompt_of = prompts.get(name, "")
                self.candidates[name] = candidate_of(
                    self.revision, campaign, facts, prompt_of, derived=derived
                )

    def finish(self) -> None:
        """Take in what was derived, and what is derived of that, to the end."""
        for each in self._pending:  # grows meanwhile; ends, for patterns do not go in circles
            plan = self.revision.plans.get(each.name)
            if plan is not None:
                self.take(each.name, each.at_us, each.digest, each.attributes, each.cell_id, plan, None)
        self._pending.clear()

    def metric(self, name: str) -> tuple[object, bool]:
        """What rules ask of metrics, as of the event that is taken."""
        revision = self.revision
        metric = revision.rulebase.metrics[name]
        return read_metric(metric, revision.coverage.get(metric.key), self.state, self._at_us, self.zone)

    def fact(self, name: str) -> Truth:
        """The same of remembered facts."""
        revision = self.revision
        fact = revision.rulebase.facts[name]
        return read_fact(fact, revision.coverage.get(fact.key), self.state, self._at_us)

    def _peer(self, subscriber_id: object) -> Mapping[str, object]:
        context = self._peers(subscriber_id) if isinstance(subscriber_id, str) else None
        return {} if context is None else {**self.revision.defaults, **context}
