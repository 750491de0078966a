"""What comes of one event: it is folded; patterns that it completes give derived events, which are folded
in turn, to the end; campaigns that any of them triggers become candidates."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from datetime import tzinfo

from opportune_rulebase.engine import Facts, Truth
from opportune_rulebase.expressions import Expression
from opportune_rulebase.model import Pattern
from xxhash import xxh3_64_intdigest

from opportune_service.core.admit import Attributes
from opportune_service.core.cells import cell_at
from opportune_service.core.events import Due, Event
from opportune_service.core.fold import fold_fact, fold_metric, read_fact, read_metric
from opportune_service.core.join import candidate_of
from opportune_service.core.patterns import Completion, Sighting, resolve, take, take_handset
from opportune_service.core.revision import Plan, Revision
from opportune_service.core.state import SubscriberState
from opportune_service.core.verdict import Candidate

Peers = Callable[[str], Mapping[str, object] | None]
"""Subscriber id -> that subscriber's context as it is now, None if nothing is known. Read only."""


def no_peer(_: str) -> Mapping[str, object] | None:
    """For those who know of nobody else."""
    return None


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
        "_revision",
        "_state",
        "candidates",
        "timers_changed",
        "zone",
    )

    def __init__(self, revision: Revision, state: SubscriberState, peers: Peers) -> None:
        self._revision = revision
        self._state = state
        self._peers = peers
        self._at_us = 0
        self._imei = ""
        self._own_type = ""
        self._pending: deque[Completion] = deque()
        self.zone: tzinfo = revision.zone_of(state.context)
        self.candidates: dict[str, Candidate] = {}
        self.timers_changed = False

    def see_handset(self, event: Event, digest: int) -> None:
        """Remember the handset; a new one gives `handset_changed`."""
        self._imei = event.imei
        seen = Sighting(event.type, event.occurred_at_us, digest, {}, event.cell_id, None, _nothing_holds)
        self._pending.extend(take_handset(self._state, seen, event.imei))

    def settle(self, due: Due) -> tuple[str, str] | None:
        """Begin with a timer or a trigger that is due: type and id of its event; None if nothing comes of
        it."""
        revision = self._revision
        if due.name in revision.rulebase.triggers:
            event_id = f"{due.name}@{due.at_us}"
            plan = revision.plans.get(due.name)
            self.take(due.name, due.at_us, xxh3_64_intdigest(event_id.encode()), {}, "", plan, None)
            return due.name, event_id
        pattern = revision.patterns_by_key.get(due.name)
        if pattern is None:
            return None
        since_us = revision.coverage.get(pattern.key)
        completion = resolve(pattern, self._state, due.at_us, due.fired, self.zone, since_us)
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
        revision, state = self._revision, self._state
        engine = revision.engine
        self._own_type = self._own_type or type_  # whatever is taken later was derived of it
        facts = self._facts(type_, at_us, attributes, cell_id, plan)
        if plan is not None:
            for metric in plan.metrics:
                if metric.where is None or engine.truth(metric.where, facts) is True:
                    fold_metric(metric, state, at_us, attributes, self.zone)
            for fact in plan.facts:
                if fact.when is None or engine.truth(fact.when, facts) is True:
                    fold_fact(fact, state, at_us)
            patterns = plan.patterns + plan.stays if cell_id else plan.patterns
            if patterns:
                self._take_patterns(patterns, facts, at_us, digest, attributes, cell_id)
        matched = {}
        if plan is not None and plan.triggers:
            # What `where` filters computed came before the fold; campaigns see the event included.
            facts.memo.clear()
            matched = {campaign.name: campaign for campaign in engine.match(facts)}
        for name in prompts or ():
            if name in revision.rulebase.campaigns:
                matched.setdefault(name, revision.rulebase.campaigns[name])
        for name, campaign in matched.items():
            if name not in self.candidates:
                prompt_of = prompts.get(name, "") if prompts else ""
                derived = type_ != self._own_type
                self.candidates[name] = candidate_of(revision, campaign, facts, prompt_of, derived=derived)

    def finish(self) -> None:
        """Take in what was derived, and what is derived of that, to the end."""
        while self._pending:  # ends: patterns do not go in circles
            each = self._pending.popleft()
            plan = self._revision.plans.get(each.name)
            if plan is not None:
                self.take(each.name, each.at_us, each.digest, each.attributes, each.cell_id, plan, None)

    def _take_patterns(
        self,
        patterns: tuple[Pattern, ...],
        facts: Facts,
        at_us: int,
        digest: int,
        attributes: Attributes,
        cell_id: str,
    ) -> None:
        revision, state, engine = self._revision, self._state, self._revision.engine

        def holds(where: Expression) -> bool:
            return engine.truth(where, facts) is True

        def link(expression: Expression, own: Mapping[str, object], earlier: Mapping[str, object]) -> bool:
            return engine.truth(expression, self._linked(facts, own, earlier)) is True

        place = revision.rulebase.tables.cells.get(cell_id) if cell_id else None
        seen = Sighting(facts.type, at_us, digest, attributes, cell_id, place, holds)
        for pattern in patterns:
            since_us = revision.coverage.get(pattern.key)
            self._pending.extend(take(pattern, state, seen, link, self.zone, since_us))
            kept = state.patterns.get(pattern.key)
            if kept is not None and kept.due_us:
                self.timers_changed = True

    def _linked(self, facts: Facts, own: Mapping[str, object], earlier: Mapping[str, object]) -> Facts:
        """Facts for a link: the attributes of one event, and those of earlier steps."""
        return Facts(
            type=facts.type,
            event=own,
            sub={},
            terminal={},
            place=None,
            metric=facts.metric,
            now_us=facts.now_us,
            zone=facts.zone,
            others=earlier,
        )

    def _facts(
        self, type_: str, at_us: int, attributes: Attributes, cell_id: str, plan: Plan | None
    ) -> Facts:
        revision, state = self._revision, self._state
        tables = revision.rulebase.tables
        # A late event happened where it says, not where the subscriber is by now.
        where = cell_id or cell_at(state, at_us)
        imei = self._imei or state.imei or state.context.get("imei")
        self._at_us = at_us
        return Facts(
            type=type_,
            event=attributes,
            sub=revision.valid_context(state, at_us),
            terminal=tables.terminals.get(imei[:8], {}) if isinstance(imei, str) else {},
            place=tables.cells.get(where) if where else None,
            metric=self._metric,
            now_us=at_us,
            zone=self.zone,
            peer=self._peer(attributes.get(plan.peer)) if plan and plan.peer else {},
            fact=self._fact,
            calendar=revision.rulebase.calendar,
        )

    def _metric(self, name: str) -> tuple[object, bool]:
        revision = self._revision
        metric = revision.rulebase.metrics[name]
        return read_metric(metric, revision.coverage.get(metric.key), self._state, self._at_us, self.zone)

    def _fact(self, name: str) -> Truth:
        revision = self._revision
        fact = revision.rulebase.facts[name]
        return read_fact(fact, revision.coverage.get(fact.key), self._state, self._at_us)

    def _peer(self, subscriber_id: object) -> Mapping[str, object]:
        context = self._peers(subscriber_id) if isinstance(subscriber_id, str) else None
        return {} if context is None else {**self._revision.defaults, **context}


def _nothing_holds(_: Expression) -> bool:
    return False
