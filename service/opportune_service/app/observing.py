"""Observe one piece of work after the other: what it changes of live state, and what there is to commit.

Timers are settled here, in one order with the batches, in one of two ways:

- **By the clock**: those due by now, by the watermarks of the sources they await (`core/watermarks.py`), a
  turn's worth at a time, so that a million of them that are due at once keep nobody waiting.
- **By event time** (replay): before each event all that were due earlier, of every subscriber, each at the
  time when it was due. So results depend on the events alone, not on how they were cut into batches.

Of one subscriber, the earliest timer is settled first, and what comes of it is folded before the next is
looked at. One that waits for a source does not hold up those after it.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from operator import length_hint
from typing import cast

from opportune_rulebase.model import AbsencePattern, ChangePattern, DwellPattern

from opportune_service.app.deferrals import Deferrals
from opportune_service.app.errors import OutdatedError
from opportune_service.app.faults import FaultyEventError
from opportune_service.app.membership import Membership
from opportune_service.app.ports import LiveState
from opportune_service.app.quarantine import quarantined
from opportune_service.app.records import LogKind
from opportune_service.app.recover import LOG_KEY, Recovered
from opportune_service.app.revisions import LiveRevision
from opportune_service.app.timers import Timers, pending
from opportune_service.app.works import Draft, Group, Work, one_more
from opportune_service.core.admit import Attributes, is_subscriber_id, mask
from opportune_service.core.backfill import renew, take_fill
from opportune_service.core.context import apply_context, refusal_in
from opportune_service.core.events import ContextRecord, Due, Event, Rejection, RejectionReason
from opportune_service.core.observe import observe, observe_deferred, observe_due, observe_prompts
from opportune_service.core.revision import Revision, peers_of
from opportune_service.core.state import SubscriberState
from opportune_service.core.verdict import EventKey, OpenPrompt
from opportune_service.core.watermarks import (
    CELL,
    IMEI,
    Horizon,
    Watermarks,
    Word,
    awaited_by,
    awaited_types,
    known_from_us,
)

log = logging.getLogger(__name__)

TURN = 200
"""Timers that are looked at in one turn: if all of them fire, about 20 ms between two commit groups."""

_NEVER_US = 2**62
_LOOK_AGAIN_US = 1_000_000
_BUSY_US = 50_000
"""A timer, or what was deferred, whose subscriber another member holds is looked at again so much later: a
commit of theirs."""
_SAY_AGAIN_US = 60_000_000
_QUARTER_US = 15 * 60_000_000

_Ask = Callable[[str, int], Word]
"""(pattern key, due) -> what becomes of the timer."""

States = Mapping[str, SubscriberState]

_WAITS = AbsencePattern | DwellPattern


@dataclass(slots=True)
class TimerStatus:
    """Timers settled since the start: `fired`, and `dropped` by pattern, for data may be missing."""

    fired: int = 0
    dropped: Counter[str] = field(default_factory=Counter)


class Observer:
    """Takes works in, in order. `position` is the log position of the last thing observed. `membership`:
    of which this process is a member, if others share the ledger."""

    def __init__(
        self,
        live: LiveRevision,
        states: LiveState,
        recovered: Recovered,
        listening_us: int,
        membership: Membership | None = None,
    ) -> None:
        self._live = live
        self._states = states
        self._membership = membership
        self.timers = Timers()
        self.deferrals = Deferrals()
        self.status = TimerStatus()
        self._said_us = 0
        self.position = 0
        self.watermarks = Watermarks(listening_us)
        self.resume(recovered, listening_us)

    def resume(self, recovered: Recovered, listening_us: int) -> None:
        """Go on from what the record says; the service listens (again) since `listening_us`."""
        self.deferrals.forget()
        # Among members positions never go back: this one's checkpoint may lie above the last row.
        least = self.position if self._membership else 0
        self.position = max(recovered.position, least)
        self.watermarks = recovered.watermarks
        self.watermarks.listening_us = listening_us
        for subscriber_id, due_us in recovered.due_us.items():
            self.timers.set(subscriber_id, due_us)

    def forget(self, subscriber_id: str) -> None:
        """For whoever is erased nothing waits. What others have deferred may name the number: it is read
        again."""
        self.timers.set(subscriber_id, 0)
        self.deferrals.forget()

    async def observe(self, work: Work, group: Group) -> None:
        """Raises `NoRulebaseError`, `OutdatedError` before anything has changed; any other error leaves
        states half changed, of the subscribers in `group.held`. With `FaultyEventError`, what could be
        taken in of the work is among `group.works`."""
        if self._membership is not None and work.generation not in (None, self._live.generation):
            raise OutdatedError("another generation has begun; make it again of what the record says now")
        following = self._membership.positions() if self._membership else one_more
        draft = Draft(work, group, self._live.current, self.position, following)
        try:
            await self._take(draft)
        except FaultyEventError:
            group.works.append(draft.work)
            raise
        self.position = draft.last_position
        group.works.append(draft.work)
        group.batches += draft.batches
        group.touches += draft.touches
        group.derived += draft.derived
        group.shadowed += draft.shadowed
        group.answers.append((draft.work, draft.receipt))

    async def _take(self, draft: Draft) -> None:
        work = draft.work
        if work.run_to_us is not None:
            await self._run_to(draft, work.run_to_us)
        elif work.deferred_to_us is not None:
            await self._take_deferred(draft, work.deferred_to_us)
        elif work.showing:
            await self._show(draft, work.showing)
        elif work.dues:
            await self._take_dues(draft)
        elif work.records:
            await self._take_records(draft)
        elif work.fills:
            await self._take_fills(draft)
        else:
            await self._take_events(draft)

    async def _load(
        self, draft: Draft, subscriber_ids: Collection[str], peers: Collection[str] = ()
    ) -> States:
        """The states of these, ready to be folded into."""
        states = await self._take_hold(draft.group, draft.work.place, subscriber_ids, peers)
        if states:
            positions = [state.position for state in states.values()]
            draft.above(max(positions))
            if min(positions) <= draft.revision.newest_birth:
                for state in states.values():
                    renew(state, draft.revision)
        return states

    async def _take_hold(
        self, group: Group, place: int, subscriber_ids: Collection[str], peers: Collection[str]
    ) -> States:
        """Those that another member holds are not in it, and are busy for all of the group from then on. So
        are those for whom another one waits since an earlier group: they have to be given up after that;
        and those for whom something waits since then, before that place: it comes first."""
        if group.waits is not None:
            group.busy.update(each for each in subscriber_ids if group.waits(each, place))
        others = self._states.wanted
        busy = others & set(subscriber_ids) - group.held - group.busy if others else set[str]()
        group.busy |= busy
        wanted = set(subscriber_ids) - group.busy if group.busy else subscriber_ids
        # Before anything is awaited: whoever is needed here is not given back after an earlier commit.
        group.held.update(wanted)
        states = await self._states.load(wanted, peers)
        if len(states) < len(wanted):
            held = set(wanted) - states.keys()
            group.busy |= held
            group.held -= held
            busy |= held
        if busy:
            await self._states.ask_for(busy)
        return states

    async def _hold(
        self, draft: Draft, subscriber_ids: Collection[str], peers: Collection[str] = ()
    ) -> None:
        """Hold all of whom the work tells something, together; what it tells of those whom another member
        holds is left to the next group."""
        if self._membership is None:
            return
        await self._load(draft, subscriber_ids, peers)
        if not draft.group.busy.isdisjoint(subscriber_ids):
            draft.work, rest = draft.work.split(draft.group.busy)
            draft.group.rests.append(rest)

    # -- events and context -----------------------------------------------------------------------

    async def _take_events(self, draft: Draft) -> None:
        outcomes = self._admit(draft)
        if self._membership is not None:
            whole, ids = draft.work, {event.subscriber_id for event, _ in outcomes}
            await self._hold(draft, set(filter(is_subscriber_id, ids)), _peers(draft.revision, outcomes))
            if draft.work is not whole:
                outcomes = [each for each in outcomes if each[0].subscriber_id not in draft.group.busy]
        work = draft.work
        events = [event for event, outcome in outcomes if not isinstance(outcome, Rejection)]
        draft.group.touched |= {event.subscriber_id for event in events}
        if len(events) == len(outcomes):
            await self._take_admitted(draft, cast("list[tuple[Event, Attributes]]", outcomes))
        else:
            await self._take_some(draft, outcomes)
        if work.now_us is not None and work.events:
            self.watermarks.hear(work.source, events, work.now_us)
        elif events:
            self.watermarks.hear(work.source, events, max(event.occurred_at_us for event in events))

    async def _take_some(
        self, draft: Draft, outcomes: Collection[tuple[Event, Attributes | Rejection]]
    ) -> None:
        """Take in those that were not rejected, and what the others tell all the same."""
        work = draft.work
        accepted = {each.subscriber_id for each, outcome in outcomes if not isinstance(outcome, Rejection)}
        admitted: list[tuple[Event, Attributes]] = []
        for event, outcome in outcomes:
            if not isinstance(outcome, Rejection):
                admitted.append((event, outcome))
                continue
            now_us = work.now_us or event.occurred_at_us
            draft.receipt.rejections.append(outcome)
            draft.group.rejected.append(quarantined(work.source, event, outcome, now_us))
            refusal = refusal_in(draft.revision, event, now_us)
            if refusal or event.subscriber_id in accepted or event.subscriber_id in self.timers:
                # In its place: what comes of a batch must not depend on where it was cut.
                await self._take_admitted(draft, admitted)
                admitted = []
                if refusal:
                    await self._heed(draft, refusal)
                await self._miss_event(draft, event)
        await self._take_admitted(draft, admitted)

    async def _take_admitted(self, draft: Draft, admitted: Sequence[tuple[Event, Attributes]]) -> None:
        if draft.work.now_us is not None:
            states = await self._load(draft, {event.subscriber_id for event, _ in admitted})
            self._observe(draft, admitted, states)
            return
        together: list[tuple[Event, Attributes]] = []
        first_us = until_us = 0
        for each in admitted:
            at_us = each[0].occurred_at_us
            if not together or not first_us <= at_us <= until_us:
                await self._take_together(draft, together)
                await self._settle_earlier(draft, at_us)
                # Up to then nothing is due, whatever these start.
                first_us, until_us = at_us, min(self.timers.next_us(), _first_due_us(draft.revision, at_us))
                together = []
            together.append(each)
        await self._take_together(draft, together)

    async def _take_together(self, draft: Draft, admitted: Sequence[tuple[Event, Attributes]]) -> None:
        """By event time: events among which no timer is due, if those of each subscriber are in order. The
        others may start a wait that is over already, and are taken in alone."""
        rest = list(admitted)
        while rest:
            states = await self._load(draft, {event.subscriber_id for event, _ in rest})
            count = _in_order(rest, states)
            self._observe(draft, rest[:count], states)
            rest = rest[count:]
            if rest:
                await self._settle_earlier(draft, rest[0][0].occurred_at_us)

    def _admit(self, draft: Draft) -> list[tuple[Event, Attributes | Rejection]]:
        work = draft.work
        admission, lateness_us = draft.revision.admission, draft.revision.lateness_us(work.source)
        ignored_before = admission.ignored.total
        admit, now_us = admission.admit, work.now_us
        indexes = work.indexes or range(len(work.events))
        outcomes = [
            (event, admit(event, index, event.occurred_at_us if now_us is None else now_us, lateness_us))
            for index, event in zip(indexes, work.events, strict=True)
        ]
        if not work.indexes:  # what is split off was counted with the whole
            draft.receipt.ignored_attributes = admission.ignored.total - ignored_before
        if work.faulty:
            outcomes = [
                (event, _fault_with(event, index) if _key(work, event) in work.faulty else outcome)
                for index, (event, outcome) in zip(indexes, outcomes, strict=True)
            ]
        return outcomes

    def _observe(self, draft: Draft, admitted: Sequence[tuple[Event, Attributes]], states: States) -> None:
        work, revision = draft.work, draft.revision
        prompts = work.prompts
        if prompts and work.events:  # then there is one, or none where another member holds its subscriber
            decides = revision.of(work.events[0].subscriber_id)
            # Another revision may have made them, whose campaign was not what it is in this one.
            prompts = {c: id_ for c, id_ in prompts.items() if decides.shows(c, work.touch_point)}
        left = iter(admitted)
        try:
            observed = observe(
                revision,
                work.source,
                left,
                states,
                draft.position(LogKind.EVENTS),
                work.now_us,
                touch_point=work.touch_point,
                prompts=prompts,
                peers=self._states.peek,
                deferred=self.deferrals.take,
            )
        except Exception as error:
            taken = len(admitted) - length_hint(left)
            if not taken:
                raise
            raise FaultyEventError(_key(work, admitted[taken - 1][0])) from error
        draft.note(observed)
        draft.add(LogKind.EVENTS, observed.events, observed.steps)
        draft.receipt.duplicates += observed.duplicates
        self._schedule(revision, observed.timers, states)

    async def _heed(self, draft: Draft, refusal: ContextRecord) -> None:
        """An event was rejected that refuses channels: logged is not the event, but what it refuses."""
        draft.group.touched.add(refusal.subscriber_id)
        draft.group.said.add(refusal.subscriber_id)
        states = await self._load(draft, [refusal.subscriber_id])
        apply_context(refusal, states[refusal.subscriber_id], draft.position(LogKind.CONTEXT))
        draft.add(LogKind.CONTEXT, [refusal])

    async def _take_records(self, draft: Draft) -> None:
        await self._hold(draft, {record.subscriber_id for record in draft.work.records})
        records = draft.work.records
        subscriber_ids = {record.subscriber_id for record in records}
        draft.group.touched |= subscriber_ids
        draft.group.said |= subscriber_ids
        states = await self._load(draft, subscriber_ids)
        position = draft.position(LogKind.CONTEXT)
        for record in records:
            changed = apply_context(record, states[record.subscriber_id], position, revision=draft.revision)
            draft.receipt.outdated += not changed
        draft.add(LogKind.CONTEXT, records)

    async def _take_fills(self, draft: Draft) -> None:
        await self._hold(draft, {fill.subscriber_id for fill in draft.work.fills})
        fills = draft.work.fills
        subscriber_ids = {fill.subscriber_id for fill in fills}
        draft.group.touched |= subscriber_ids
        states = await self._load(draft, subscriber_ids)
        position = draft.position(LogKind.BACKFILL)
        for fill in fills:
            take_fill(fill, states[fill.subscriber_id], draft.revision, position)
        draft.add(LogKind.BACKFILL, fills)

    # -- what was deferred ------------------------------------------------------------------------

    async def _take_deferred(self, draft: Draft, until_us: int) -> None:
        """All that is due of one subscriber is one moment. Nothing is folded, so nothing is logged."""
        for _ in range(TURN):
            now_us = draft.work.now_us
            if now_us is None:
                now_us = self.deferrals.next_us()
                if now_us > until_us:
                    return
                await self._settle_earlier(draft, now_us)
            subscriber_id = self.deferrals.first(min(now_us, until_us))
            if subscriber_id is None:
                return
            due = self.deferrals.take(subscriber_id, now_us)
            triggers = [(each.trigger.type, each.trigger.attributes) for each in due]
            states = await self._load(draft, [subscriber_id], self._named(draft, triggers))
            if subscriber_id not in states:
                self.deferrals.put_off(subscriber_id, due, now_us + _BUSY_US)
                continue
            state = states[subscriber_id]
            decides = draft.revision.of(subscriber_id)
            draft.decide(observe_deferred(decides, due, state, now_us, peers=self._states.peek))

    async def _show(self, draft: Draft, prompts: Sequence[OpenPrompt]) -> None:
        """Likewise all prompts of one subscriber that are shown together."""
        revision, touch_point = draft.revision, draft.work.touch_point
        of_subscriber: defaultdict[str, list[OpenPrompt]] = defaultdict(list)
        for prompt in prompts:
            if revision.of(prompt.subscriber_id).shows(prompt.campaign, touch_point):
                of_subscriber[prompt.subscriber_id].append(prompt)
        now_us = draft.work.now_us or 0
        triggers = [(each.trigger.type, each.trigger.attributes) for each in prompts if each.trigger]
        states = await self._load(draft, of_subscriber, self._named(draft, triggers))
        for subscriber_id, state in states.items():
            own = of_subscriber[subscriber_id]
            decides = revision.of(subscriber_id)
            draft.decide(observe_prompts(decides, own, state, now_us, touch_point, peers=self._states.peek))

    # -- timers and triggers ----------------------------------------------------------------------

    async def _take_dues(self, draft: Draft) -> None:
        """Those that a caller says are due: triggers."""
        await self._hold(draft, {due.subscriber_id for due in draft.work.dues})
        dues = draft.work.dues
        if draft.work.now_us is not None:
            states = await self._load(draft, {due.subscriber_id for due in dues})
            for due in dues:
                self._take_due(draft, due, states)
            return
        for due in dues:
            await self._settle_earlier(draft, due.at_us)
            self._take_due(draft, due, await self._load(draft, [due.subscriber_id]))

    async def _run_to(self, draft: Draft, until_us: int) -> None:
        now_us = draft.work.now_us
        if now_us is None:
            await self._settle(draft, until_us + 1, _fire, TURN)
            return
        dropped_before = self.status.dropped.total()
        horizons: dict[str, Horizon] = {}
        await self._settle(draft, until_us + 1, self._by_watermarks(draft, horizons, now_us), TURN)
        dropped = self.status.dropped.total() - dropped_before
        if dropped and now_us >= self._said_us + _SAY_AGAIN_US:
            self._said_us = now_us
            lagging = sorted({horizon.slowest for horizon in horizons.values() if horizon.slowest})
            log.warning(
                "dropped %d timers, for data may be missing; sources furthest behind: %s",
                dropped,
                mask(", ".join(lagging)) or "none",
            )

    def _by_watermarks(self, draft: Draft, horizons: dict[str, Horizon], now_us: int) -> _Ask:
        """How far the sources have come is asked once a turn and pattern, and put in `horizons`."""
        watermarks = self.watermarks
        known_us: dict[str, int] = {}

        def ask(key: str, due_us: int) -> Word:
            pattern = draft.revision.patterns_by_key[key]
            if key not in horizons:
                owner = draft.revision.owner(key)
                rulebase, coverage = owner.rulebase, owner.coverage
                horizons[key] = watermarks.horizon(awaited_by(pattern, rulebase), rulebase, now_us)
                known_us[key] = known_from_us(pattern, rulebase, coverage, coverage.get(LOG_KEY, 0))
            if isinstance(pattern, _WAITS) and due_us - pattern.for_us < known_us[key]:
                return Word.DROP  # it began before all that it awaits was folded
            return watermarks.word(horizons[key], due_us, now_us)

        return ask

    async def _settle_earlier(self, draft: Draft, until_us: int) -> None:
        """By event time: everything that was due before something that happens at `until_us`."""
        while self.timers.next_us() < until_us:
            await self._settle(draft, until_us, _fire, TURN)

    async def _settle(self, draft: Draft, until_us: int, ask: _Ask, looks: int) -> None:
        """Settle timers that are due before `until_us`, in order, with so many looks at a subscriber."""
        while looks and (subscriber_id := self.timers.first(until_us)) is not None:
            looks -= 1
            states = await self._load(draft, [subscriber_id])
            if subscriber_id not in states:
                self.timers.set(subscriber_id, until_us - 1 + _BUSY_US)
                continue
            again_us = 0
            for due_us, key in pending(draft.revision, states[subscriber_id]):
                if due_us >= until_us:
                    again_us = min(again_us or due_us, due_us)
                    break
                word = ask(key, due_us)
                if word is Word.WAIT:
                    again_us = until_us - 1 + _LOOK_AGAIN_US
                    continue
                due = Due(subscriber_id, key, due_us, word is Word.FIRE)
                self._take_due(draft, due, states)
                left = pending(draft.revision, states[subscriber_id])
                again_us = left[0][0] if left else 0
                break
            self.timers.set(subscriber_id, again_us)

    def _take_due(self, draft: Draft, due: Due, states: States) -> None:
        revision = draft.revision
        pattern = revision.patterns_by_key.get(due.name)
        if pattern is not None:
            draft.group.touched.add(due.subscriber_id)
            self.status.fired += due.fired
            self.status.dropped[pattern.name] += not due.fired
        observed = observe_due(
            revision,
            [due],
            states,
            draft.position(LogKind.TIMERS),
            draft.work.now_us,
            peers=self._states.peek,
            deferred=self.deferrals.take,
        )
        draft.note(observed)
        # A trigger that no campaign wanted changes nothing, so there is nothing to log of it.
        if pattern is not None or observed.steps:
            draft.add(LogKind.TIMERS, [due], observed.steps)
        self._schedule(revision, observed.timers, states)
        if pattern is not None and not due.fired:
            self._miss(
                *(draft, due.subscriber_id, lambda each: each.pattern_names.get(due.name, "")),
                *(due.at_us, states),
            )

    async def _miss_event(self, draft: Draft, event: Event) -> None:
        """An event was rejected. It is not folded, but what it tells of may have happened."""
        if event.subscriber_id in self.timers:
            states = await self._load(draft, [event.subscriber_id])
            told = (event.type, CELL if event.cell_id else "", IMEI if event.imei else "")
            for type_ in filter(None, told):
                self._miss(
                    *(draft, event.subscriber_id, lambda _, type_=type_: type_),
                    *(event.occurred_at_us, states),
                )

    def _miss(
        self,
        draft: Draft,
        subscriber_id: str,
        type_in: Callable[[Revision], str],
        at_us: int,
        states: States,
    ) -> None:
        """Something of a type that may have happened then is missing: drop the waits that it may have
        ended. `type_in`: what a revision calls the type, "" if it does not have it."""
        revision = draft.revision
        for due_us, key in pending(revision, states[subscriber_id]):
            pattern = revision.patterns_by_key[key]
            owner = revision.owner(key)
            if (
                isinstance(pattern, _WAITS)
                and due_us - pattern.for_us < at_us <= due_us
                and type_in(owner) in awaited_types(pattern, owner.rulebase)
            ):
                self._take_due(draft, Due(subscriber_id, key, due_us, fired=False), states)

    def _schedule(self, revision: Revision, subscriber_ids: Collection[str], states: States) -> None:
        for subscriber_id in subscriber_ids:
            timers = pending(revision, states[subscriber_id])
            self.timers.set(subscriber_id, timers[0][0] if timers else 0)

    def _named(self, draft: Draft, told: Collection[tuple[str, Attributes]]) -> Collection[str]:
        """The other subscribers that these name, if they have to be asked for."""
        if not self._membership:
            return ()
        return {peer for each in draft.revision.side_by_side for peer in peers_of(each, told)}


def _key(work: Work, event: Event) -> EventKey:
    return EventKey(event.subscriber_id, work.source, event.id)


def _fault_with(event: Event, index: int) -> Rejection:
    message = "the service failed on it by a fault of its own, which is in its log; it is in quarantine"
    return Rejection(index, event.id, RejectionReason.INTERNAL, message)


def _first_due_us(revision: Revision, at_us: int) -> int:
    """No timer that an event of then, or a later one, starts is due before this instant."""
    patterns = revision.patterns_by_key.values()
    waits = [each.for_us for each in patterns if isinstance(each, _WAITS)]
    first_us = at_us + min(waits, default=_NEVER_US)
    if any(isinstance(each, ChangePattern) and each.falls_to is not None for each in patterns):
        # A fall is due at a local midnight, which is at a quarter of an hour in every zone.
        first_us = min(first_us, (at_us // _QUARTER_US + 1) * _QUARTER_US)
    return first_us


def _in_order(admitted: Sequence[tuple[Event, Attributes]], states: States) -> int:
    """How many of these, at least one, come before the first that is late for its subscriber."""
    latest_us: dict[str, int] = {}
    for number, (event, _) in enumerate(admitted):
        subscriber_id, at_us = event.subscriber_id, event.occurred_at_us
        if number and at_us < latest_us.get(subscriber_id, states[subscriber_id].latest_us):
            return number
        latest_us[subscriber_id] = max(at_us, states[subscriber_id].latest_us)
        if at_us < states[subscriber_id].latest_us:
            return 1  # the first one is late itself
    return len(admitted)


def _fire(_: str, __: int) -> Word:
    return Word.FIRE


def _peers(
    revision: Revision, outcomes: Collection[tuple[Event, Attributes | Rejection]]
) -> Collection[str]:
    return peers_of(
        revision,
        [(event.type, outcome) for event, outcome in outcomes if not isinstance(outcome, Rejection)],
    )
