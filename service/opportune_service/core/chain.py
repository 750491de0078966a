"""What comes of one event: it is folded; patterns that it completes give derived events, which are folded
in turn, to the end; campaigns that any of them triggers become candidates. So does what was deferred."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import tzinfo
from types import MappingProxyType

from msgspec.structs import replace
from opportune_rulebase.engine import Facts, Truth
from opportune_rulebase.model import Campaign, Place
from opportune_rulebase.policies import OutcomeKind
from xxhash import xxh3_64_intdigest

from opportune_service.core.admit import Attributes
from opportune_service.core.calendars import local_day, local_day_around
from opportune_service.core.cells import cell_at
from opportune_service.core.context import refuse_channel
from opportune_service.core.events import MAX_LATENESS_US, MAX_SKEW_US, Due, Event
from opportune_service.core.fold import read_fact
from opportune_service.core.join import candidate_of
from opportune_service.core.patterns import (
    Completion,
    Sighting,
    Taker,
    ranked,
    resolve,
    take,
    take_handset,
)
from opportune_service.core.plans import Plan
from opportune_service.core.responses import Told, reply_in
from opportune_service.core.revision import Revision
from opportune_service.core.state import SubscriberState
from opportune_service.core.verdict import Candidate, Deferral, OpenPrompt, Response, Trigger

_LATE_US = MAX_LATENESS_US + MAX_SKEW_US
_SKIPPED_US = 2 * 3_600_000_000
_NOTHING: Mapping[str, object] = MappingProxyType({})

Peers = Callable[[str], Mapping[str, object] | None]
"""Subscriber id -> that subscriber's context as it is now, None if nothing is known. Read only."""


def no_peer(_: str) -> Mapping[str, object] | None:
    """For those who know of nobody else."""
    return None


def in_order(completion: Completion) -> tuple[int, int]:
    """By which what completes at one event is sorted."""
    return completion.at_us, completion.digest


class _Seen(Facts):
    """The facts of an event. Where it was and with what handset is looked up when a rule asks.

    A chain has one for all that it takes, one after another: to make one for each event is dear.
    """

    __slots__ = ("_cell_id", "_expires", "_imei", "_revision", "state")

    def __init__(self, chain: Chain) -> None:
        # What `Facts` sets, but for what is looked up; the rest `see` sets. Nothing leads back to the
        # chain: a circle would keep its revision until the garbage collector comes round.
        self.calendar = chain.revision.rulebase.calendar
        self.others = _NOTHING
        self.memo = {}
        self._revision = chain.revision
        self.metrics = chain.revision.readers
        self._expires = bool(chain.revision.rulebase.imported)

    def see(
        self, chain: Chain, type_: str, at_us: int, attributes: Attributes, cell_id: str, imei: str
    ) -> _Seen:
        """Be the facts of this event from now on."""
        self.type = type_
        self.event = attributes
        state = self.state = chain.state
        self.sub = self._revision.valid_context(state, at_us) if self._expires else state.context
        self.now_us = at_us
        self.zone = chain.zone
        self.peer = _NOTHING
        self._local = None
        self._cell_id = cell_id
        self._imei = imei
        if self.memo:
            self.memo.clear()
        return self

    @property
    def cell_id(self) -> str:
        """Where it was; "" if nobody knows."""
        # A late event happened where it says, not where the subscriber is by now.
        return self._cell_id or cell_at(self.state, self.now_us)

    @property
    def place(self) -> Place | None:  # type: ignore[override]  # nothing sets it
        where = self.cell_id
        return self._revision.rulebase.tables.cells.get(where) if where else None

    @property
    def terminal(self) -> Mapping[str, object]:  # type: ignore[override]  # nothing sets it
        imei = self._imei or self.state.imei or self.state.context.get("imei")
        terminals = self._revision.rulebase.tables.terminals
        return terminals.get(imei[:8], _NOTHING) if isinstance(imei, str) else _NOTHING

    def metric(self, name: str) -> tuple[object, bool]:
        return self.metrics[name](self)

    def fact(self, name: str) -> Truth:
        revision = self._revision
        fact = revision.rulebase.facts[name]
        return read_fact(fact, revision.coverage.get(fact.key), self.state, self.now_us)


class Chain:
    """One event and what is derived of it; its subscriber's state changes. `begin` makes it that of another
    event.

    `candidates`: campaign -> candidate. A campaign that several events of the chain trigger is matched by
    the first. `timers_changed`: whether a pattern with a timer took part. `refused`: whether the subscriber
    refused a channel. `responses`: what may answer a
    contact. `derived`: (type, time) of the events that were derived. `type`: that of the event itself.
    `imei`: what it told of the handset. `matches`: whether the revision decides for the subscriber; if not,
    events are folded and no more. What completes at one event is taken in order of time, then of digests,
    so that it does not depend on the revision.
    """

    __slots__ = (
        "_day",
        "_day_from_us",
        "_day_until_us",
        "_day_zone",
        "_facts",
        "_peers",
        "candidates",
        "derived",
        "imei",
        "matches",
        "pending",
        "refused",
        "responses",
        "revision",
        "state",
        "subscriber_id",
        "timers_changed",
        "type",
        "zone",
    )

    def __init__(self, revision: Revision, peers: Peers) -> None:
        """Nothing but `begin` may be called first."""
        self.revision = revision
        self._peers = peers
        self.imei = ""
        self.type = ""
        self.matches = True
        self.pending: list[Completion] = []
        self._day = self._day_from_us = self._day_until_us = 0
        self._day_zone: tzinfo | None = None
        self.candidates: dict[str, Candidate] = {}
        self.timers_changed = self.refused = False
        self.responses: tuple[Response, ...] = ()
        self.derived: tuple[tuple[str, int], ...] = ()
        self._facts = _Seen(self)

    def begin(self, subscriber_id: str, state: SubscriberState) -> Chain:
        """Begin with an event of a subscriber. Anew: most have left nothing behind."""
        self.subscriber_id = subscriber_id
        self.state = state
        context = state.context
        revision = self.revision
        self.zone: tzinfo = (
            revision.zone_of(context) if "time_zone" in context else revision.rulebase.time_zone
        )
        self.type = self.imei = ""
        self.timers_changed = self.refused = False
        if self.derived or self.responses:
            self.derived, self.responses = (), ()
        if self.candidates:
            self.candidates = {}
        return self

    def see_handset(self, event: Event, digest: int) -> None:
        """Remember the handset; a new one gives `handset_changed`."""
        self.imei = event.imei
        self.pending += take_handset(self.state, event.occurred_at_us, digest, event.cell_id, event.imei)

    def settle(self, due: Due) -> str | None:
        """Begin with a timer or a trigger that is due: the id of its event; None if nothing comes of it."""
        revision = self.revision
        if due.name in revision.rulebase.triggers:
            # By the local day: whoever moves west in the middle of it is not due twice. The hours make one
            # day of a midnight that the clock skips and the earlier instant that stands for it.
            event_id = f"{due.name}@{local_day(due.at_us + _SKIPPED_US, self.zone)}"
            digest = ranked(xxh3_64_intdigest(event_id.encode()), 0)
            self.derive(Completion(due.name, event_id, digest, due.at_us, {}, ""), due.name)
            return event_id
        pattern = revision.patterns_by_key.get(due.name)
        if pattern is None:
            return None
        since_us = revision.coverage.get(pattern.key)
        completion = resolve(
            pattern, revision.machines, self.state, due.at_us, due.fired, self.zone, since_us
        )
        if completion is None:
            return None
        self.type = completion.name
        self.pending.append(completion)
        return completion.id

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
        self.type = self.type or type_  # whatever is taken later was derived of it
        facts = self._facts.see(self, type_, at_us, attributes, cell_id, self.imei)
        matched: Sequence[Campaign] = ()
        if plan is not None:
            if plan.peer:
                facts.peer = self._peer(attributes.get(plan.peer))
            sure, asked, roles, changes = plan.whole
            by = plan.by
            if by is not None and (value := attributes.get(by)) is not None:
                parts = plan.parts
                sure, asked, roles, changes = parts.get(value) or parts[None]
            # Nearly every event is of the same day as the one before.
            same = self._day_from_us <= at_us < self._day_until_us and self.zone is self._day_zone
            day = self._day if same else self._local_day(at_us)
            for fold in sure:
                fold(state, at_us, day, attributes)
            for where, fold in asked:
                if where(facts):
                    fold(state, at_us, day, attributes)
            latest_us = state.latest_us
            horizon = (at_us if at_us > latest_us else latest_us) - _LATE_US  # noqa: FURB136 - for speed
            if cell_id and plan.stays:
                roles = roles.at(revision.rulebase.tables.cells.get(cell_id), plan.stays)
            completions, timed = take(revision.machines, roles, state, facts, digest, cell_id, horizon)
            if completions:
                self.pending += completions
            if timed:
                self.timers_changed = True
            if changes:
                self._change(changes, facts, digest, attributes, cell_id, horizon)
            if plan.triggers and self.matches:
                # What `where` filters computed came before the fold; campaigns see the event included.
                facts.memo.clear()
                matched = revision.engine.match(facts)
        if matched or prompts:
            self._note(matched, facts, prompts or {})

    def _local_day(self, at_us: int) -> int:
        """As `local_day`, kept for the events that follow."""
        self._day_zone = self.zone
        self._day, self._day_from_us, self._day_until_us = local_day_around(at_us, self.zone)
        return self._day

    def _change(
        self,
        changes: Iterable[Taker],
        facts: _Seen,
        digest: int,
        attributes: Attributes,
        cell_id: str,
        horizon: int,
    ) -> None:
        """Let an event take part in changes."""
        seen = Sighting(
            *(self.state, facts, facts.now_us, digest, attributes, cell_id, horizon),
            *(self.zone, self.revision.coverage),
        )
        for change in changes:
            self.pending += change(seen)
        if seen.timed:
            self.timers_changed = True

    def _note(self, matched: Iterable[Campaign], facts: _Seen, prompts: Mapping[str, str]) -> None:
        campaigns = self.revision.rulebase.campaigns
        found = {campaign.name: campaign for campaign in matched}
        for name in prompts:
            if name in campaigns:
                found.setdefault(name, campaigns[name])
        derived = facts.type != self.type
        trigger = Trigger(facts.type, facts.now_us, dict(facts.event), facts.cell_id)
        for name, campaign in found.items():
            if name not in self.candidates:
                prompt_of = prompts.get(name, "")
                self.candidates[name] = candidate_of(
                    self.revision, campaign, facts, trigger, prompt_of=prompt_of, derived=derived
                )

    def hear(self, told: Told, type_: str, at_us: int, attributes: Attributes, cell_id: str) -> None:
        """Take in what an event answers, before it is taken: a channel that it refuses is refused for all
        that comes of it."""
        if told.words is not None:
            reply = reply_in(told.words, attributes)
            for channel in reply.opted_out:
                refuse_channel(self.state, channel, at_us)
                self.refused = True
            if reply.kind is not None:
                self.responses += (Response(self.subscriber_id, at_us, reply.kind, reply.channel),)
        if told.orders and self.matches:
            facts = _Seen(self).see(self, type_, at_us, attributes, cell_id, self.imei)
            tests = self.revision.tests
            campaigns = {
                campaign.name: conversion.within_us
                for campaign in told.orders
                if (conversion := campaign.conversion)
                and (conversion.when is None or tests[conversion.when](facts))
            }
            if campaigns:
                order = Response(self.subscriber_id, at_us, OutcomeKind.ORDERED, campaigns=campaigns)
                self.responses += (order,)

    def decide_again(self, deferral: Deferral, now_us: int) -> None:
        """Make a candidate of what was deferred: with the event that triggered it, and all else as it is at
        `now_us`. Whether it was the moment is not asked again.

        If the campaign is a candidate already, and its own moment has not passed, the new one stays and
        takes the place of the deferred one. One that the rulebase no longer has becomes a candidate of
        which nothing is known.
        """
        name, trigger = deferral.campaign, deferral.trigger
        fresh, campaign = self.candidates.get(name), self.revision.rulebase.campaigns.get(name)
        if campaign and fresh and now_us - fresh.trigger.at_us <= campaign.fresh_for_us:
            self.candidates[name] = replace(
                fresh, deferred_of=deferral.decision_id, attempt=deferral.attempt + 1
            )
        elif campaign is None:
            self.candidates[name] = Candidate(
                *(name, None, {}, (), None, {}, {}, trigger),
                deferred_of=deferral.decision_id,
                attempt=deferral.attempt + 1,
                expires_us=deferral.expires_us,
            )
        else:
            facts = self.facts(now_us, trigger)
            self.candidates[name] = candidate_of(
                self.revision, campaign, facts, trigger, deferral=deferral, derived=True
            )

    def show(self, prompt: OpenPrompt, now_us: int) -> None:
        """Make a candidate of an open prompt, as `decide_again` does of what was deferred. Its campaign is
        in the revision."""
        trigger = prompt.trigger or Trigger("", now_us)
        facts = self.facts(now_us, trigger)
        campaign = self.revision.rulebase.campaigns[prompt.campaign]
        self.candidates[prompt.campaign] = candidate_of(
            self.revision, campaign, facts, trigger, prompt_of=prompt.decision_id, derived=True
        )

    def facts(self, now_us: int, trigger: Trigger | None = None) -> Facts:
        """What is known at an instant, of an event that happened where and when it did, or of none."""
        if trigger is None:
            return _Seen(self).see(self, "", now_us, {}, "", "")
        facts = _Seen(self).see(self, trigger.type, now_us, trigger.attributes, trigger.cell_id, "")
        event_type = self.revision.rulebase.vocabulary.events.get(trigger.type)
        if event_type is not None and event_type.peer:
            facts.peer = self._peer(trigger.attributes.get(event_type.peer))
        return facts

    def finish(self) -> bool:
        """Take in what was derived, and what is derived of that, to the end; whether there is any, of a
        timer or a trigger too."""
        pending = self.pending
        if not pending:
            return bool(self.derived)
        if len(pending) > 1:
            pending.sort(key=in_order)
        for each in pending:  # grows meanwhile; ends, for patterns do not go in circles
            before = len(pending)
            self.derive(each, each.name)
            if len(pending) > before + 1:
                pending[before:] = sorted(pending[before:], key=in_order)
        pending.clear()
        return True

    def derive(self, completion: Completion, name: str) -> None:
        """Take in what was derived, under the name that it has in this revision."""
        at_us, attributes, cell_id = completion.at_us, completion.attributes, completion.cell_id
        self.derived += ((name, at_us),)
        plan = self.revision.plans.get(name)
        if plan is not None:
            if plan.told:
                self.hear(plan.told, name, at_us, attributes, cell_id)
            self.take(name, at_us, completion.digest, attributes, cell_id, plan, None)

    def _peer(self, subscriber_id: object) -> Mapping[str, object]:
        context = self._peers(subscriber_id) if isinstance(subscriber_id, str) else None
        return {} if context is None else {**self.revision.defaults, **context}
