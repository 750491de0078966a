"""Deliveries that ran out of attempts: listed, and tried again.

Whoever is redriven is contacted now, whenever that was decided. So the contact counts from now on, and is
reserved like a new one: within cool-downs, the one story, caps, quota and capacity, in one transaction with
the redrive. All else, consent and quiet hours above all, is checked before each lease as ever.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import tzinfo
from itertools import chain

import msgspec

from opportune_service.app.callers import Caller
from opportune_service.app.commit import names_of
from opportune_service.app.deliver import Deliveries
from opportune_service.app.ledger_thread import LedgerThread
from opportune_service.app.ports import Clock, Ledger, LiveState
from opportune_service.app.records import DeadLetter, Redriven
from opportune_service.app.revisions import LiveRevision
from opportune_service.core.calendars import local_day
from opportune_service.core.caps import cap_rulings
from opportune_service.core.decide import contact_made
from opportune_service.core.policies import cooling, story_refusal
from opportune_service.core.quotas import quota_rulings
from opportune_service.core.revision import Revision
from opportune_service.core.situation import Situation
from opportune_service.core.verdict import (
    Contact,
    EventKey,
    History,
    Moment,
    Profile,
    Usage,
    UsageKey,
    usage_of,
)

_PIECE = 100
"""Dead letters redriven in one transaction: leases and commits wait for some tens of milliseconds."""


@dataclass(frozen=True, slots=True)
class Redrive:
    """Who has dead letters tried again, and why. `expires_in_us`: how long the offers are to last from now;
    None: they keep their time."""

    by: Caller
    reason: str
    expires_in_us: int | None


class DeadLetters:
    """The dead letters of all channels."""

    def __init__(
        self,
        live: LiveRevision,
        states: LiveState,
        ledger: Ledger,
        thread: LedgerThread,
        clock: Clock,
        deliveries: Deliveries,
    ) -> None:
        self._live = live
        self._states = states
        self._ledger = ledger
        self._thread = thread
        self._clock = clock
        self._deliveries = deliveries

    async def page(self, channel: str, campaign: str, before: int, limit: int) -> Sequence[DeadLetter]:
        """See `Ledger.dead_letters`."""
        return await self._thread.run(self._ledger.dead_letters, channel, campaign, before, limit)

    async def redrive(self, decision_ids: Sequence[str], redrive: Redrive) -> list[str]:
        """Try these again; the ids of those that are pending now. Left alone are those that are not dead,
        those whose time is over, those of campaigns that the caller may not touch, and those that
        cool-downs, the one story, caps, quota or capacity do not allow now. Raises `NoRulebaseError`,
        `StoreUnavailableError`."""
        done: list[str] = []
        for start in range(0, len(decision_ids), _PIECE):
            piece = decision_ids[start : start + _PIECE]
            done += await self._redrive(
                await self._thread.run(self._ledger.dead_letters_of, piece), redrive
            )
        return done

    async def redrive_all(self, channel: str, campaign: str, redrive: Redrive) -> list[str]:
        """The same for all that channel and campaign select ("": any)."""
        done: list[str] = []
        before = 0
        while letters := await self.page(channel, campaign, before, _PIECE):
            done += await self._redrive(letters, redrive)
            before = letters[-1].cursor
        return done

    async def _redrive(self, letters: Sequence[DeadLetter], redrive: Redrive) -> list[str]:
        revision = self._live.current
        # One that is gone is left alone in any case, further down.
        letters = [
            letter
            for letter in letters
            if (campaign := revision.of(letter.subscriber_id).rulebase.campaigns.get(letter.campaign))
            and redrive.by.may_touch(campaign.branches)
        ]
        subscriber_ids = {letter.subscriber_id for letter in letters}
        contexts = await self._states.contexts(subscriber_ids)
        zones = {each: revision.zone_of(contexts.get(each, {})) for each in subscriber_ids}
        ids = [letter.decision_id for letter in letters]
        redriven = await self._thread.run(self._take, revision, ids, zones, redrive)
        self._deliveries.wake({each.contact.channel for each in redriven})
        return [each.contact.decision_id for each in redriven]

    def _take(
        self, revision: Revision, ids: Sequence[str], zones: Mapping[str, tzinfo], redrive: Redrive
    ) -> list[Redriven]:
        now_us = self._clock.now_us()
        redriven: list[Redriven] = []
        with self._ledger.transaction() as tx:
            used = {key for each in self._ledger.dead_letters_of(ids) for key in self._uses(revision, each)}
            tx.lock(zones, names_of(used))
            letters = sorted(self._ledger.dead_letters_of(ids), key=lambda letter: letter.cursor)
            lookback_us = max(each.lookback_us for each in revision.side_by_side)
            histories = tx.histories(zones, now_us - lookback_us, now_us)
            again = {each.decision_id: self._contact(revision, each, now_us) for each in letters}
            usage = tx.usage({key for contact in again.values() for key in usage_of(contact)})
            for letter in letters:
                expires_at_us = letter.expires_at_us
                if redrive.expires_in_us is not None:
                    expires_at_us = now_us + redrive.expires_in_us
                contact, history = again[letter.decision_id], histories[letter.subscriber_id]
                zone = zones[letter.subscriber_id]
                decides = revision.of(letter.subscriber_id)
                if expires_at_us > now_us and _reserve(decides, contact, history, usage, zone, letter):
                    redriven.append(Redriven(letter.subscriber_id, contact, expires_at_us))
            if redriven:
                tx.redrive(redriven, now_us, redrive.by.name, redrive.reason)
        return redriven

    def _uses(self, revision: Revision, letter: DeadLetter) -> Collection[UsageKey]:
        return usage_of(self._contact(revision, letter, self._clock.now_us())).keys()

    def _contact(self, revision: Revision, letter: DeadLetter, now_us: int) -> Contact:
        """The contact of a dead letter as it counts when it is made now."""
        verdict = self._ledger.verdict_of(letter.decision_id)
        assert verdict is not None  # noqa: S101 - a delivery refers to its decision
        decision = next(each for each in verdict.decisions if each.id == letter.decision_id)
        channel = revision.of(letter.subscriber_id).rulebase.vocabulary.channels.get(decision.channel)
        return msgspec.structs.replace(
            contact_made(decision, now_us),
            open_until_us=now_us + max(0, decision.open_until_us - verdict.decided_at_us),
            day=local_day(now_us, revision.rulebase.time_zone),
            cost=channel.cost if channel else decision.cost,
        )


def _reserve(
    revision: Revision,
    contact: Contact,
    history: History,
    usage: Usage,
    zone: tzinfo,
    letter: DeadLetter,
) -> bool:
    """Reserve the contact in `history` and `usage`, in place of what it reserves as yet, if all that the
    ledger knows allows it; else nothing changes. A campaign that is gone is left alone."""
    rulebase = revision.rulebase
    campaign = rulebase.campaigns.get(contact.campaign)
    if campaign is None or contact.channel not in campaign.channels:
        return False
    # What it is about was fixed when it was decided, whatever the campaign offers by now.
    campaign = replace(campaign, product=contact.product, category=contact.category, mode=contact.mode)
    others = [each for each in history.contacts if each.decision_id != contact.decision_id]
    own = [each for each in history.contacts if each.decision_id == contact.decision_id]
    left = dict(usage)
    for each in own:
        for key, amount in usage_of(each).items():
            left[key] = left.get(key, 0) - amount
    moment = Moment(
        key=EventKey(letter.subscriber_id, "", ""),
        event_type="",
        occurred_at_us=contact.at_us,
        now_us=contact.at_us,
        profile=Profile(known=True, zone=str(zone)),
        candidates=(),
    )
    before = msgspec.structs.replace(history, contacts=others)
    if cooling(rulebase.policies.cool_downs, campaign, history.outcomes, contact.at_us):
        return False
    if story_refusal(rulebase, campaign, before, contact.at_us):
        return False
    situation = Situation.of(rulebase, moment, before, left, ())
    rulings = chain(
        cap_rulings(situation, campaign, contact.channel),
        quota_rulings(situation, campaign, contact.channel),
    )
    if not all(ruling.check.passed for ruling in rulings):
        return False
    history.contacts = [*others, contact]
    for key, amount in usage_of(contact).items():
        left[key] = left.get(key, 0) + amount
    usage.update(left)
    return True
