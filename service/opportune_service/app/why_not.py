"""Why does a campaign not fire for a subscriber? Answered from present state, writing nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
from opportune_rulebase.model import Campaign
from opportune_rulebase.policies import Mode

from opportune_service.app.errors import InvalidRequestError, NotFoundError
from opportune_service.app.ledger_thread import LedgerThread
from opportune_service.app.ports import Clock, Ledger, LiveState
from opportune_service.app.revisions import LiveRevision
from opportune_service.core.admit import Attributes
from opportune_service.core.decide import decide, usage_keys
from opportune_service.core.events import Event, Rejection
from opportune_service.core.revision import Revision, peers_of
from opportune_service.core.verdict import Decision, History, Reason, Usage, UsageKey, Verdict
from opportune_service.core.why_not import Supposed, suppose


@dataclass(frozen=True, slots=True)
class Answer:
    """For one supposed event: the decision on the campaign as it would be, in its verdict. `matched` False:
    the campaign would not even be a candidate; the decision then says what else would stand in its way, and
    its `held` what the conditions read. `triggered` False: the event is not one that triggers it."""

    verdict: Verdict
    decision: Decision
    matched: bool
    triggered: bool

    @property
    def would_decide(self) -> bool:
        return self.matched and self.decision.reason is Reason.DECIDED

    @property
    def summary(self) -> str:
        """In a sentence: what stands in the way first."""
        if not self.triggered:
            return f"on {self.verdict.event_type}: neither this event nor what follows of it triggers it"
        if not self.matched:
            unknown = [name for name, value in self.decision.held.items() if value is None]
            reads = f"; unknown: {', '.join(unknown)}" if unknown else ""
            return f"on {self.verdict.event_type}: its condition does not hold{reads}"
        if self.would_decide:
            return f"on {self.verdict.event_type}: nothing stands in its way"
        stopped = next((check for check in reversed(self.decision.checks) if not check.passed), None)
        why = f": {stopped.detail}" if stopped and stopped.detail else ""
        return f"on {self.verdict.event_type}: {self.decision.reason.value}{why}"


@dataclass(frozen=True, slots=True)
class WhyNot:
    """An answer for each supposed event, and the revision that was asked."""

    answers: list[Answer]
    revision: str


async def why_not(
    live: LiveRevision,
    states: LiveState,
    ledger: Ledger,
    thread: LedgerThread,
    clock: Clock,
    subscriber_id: str,
    campaign_name: str,
    event: Event | None,
) -> WhyNot:
    """Suppose `event` now (None: a bare event of each type that triggers the campaign), and decide on it as
    it would be decided, against the ledger as it is. Of a manual campaign: as if the customer stood at its
    first channel.

    Raises `NotFoundError` for a campaign that the active revision does not have, `InvalidRequestError` for
    an event that would be rejected, `NoRulebaseError`, `StoreUnavailableError`.
    """
    full = live.current
    revision = full.of(subscriber_id)
    campaign = revision.rulebase.campaigns.get(campaign_name)
    if campaign is None:
        raise NotFoundError("the revision that decides for this subscriber has no campaign of this name")
    now_us = clock.now_us()
    events = list(_events(full, campaign, event, subscriber_id, now_us))
    state = await states.view(subscriber_id, peers_of(revision, [(e.type, told) for e, told in events]))
    supposed = [
        suppose(full, state, campaign_name, each, attributes, now_us, states.peek)
        for each, attributes in events
    ]
    keys = {key for each in supposed for key in usage_keys(revision.rulebase, each.moment)}
    read = await thread.run(_read, ledger, subscriber_id, now_us, revision.lookback_us, keys)
    return WhyNot([_answer(revision, campaign, each, read) for each in supposed], revision.id)


def _events(
    revision: Revision, campaign: Campaign, event: Event | None, subscriber_id: str, now_us: int
) -> Iterator[tuple[Event, Attributes]]:
    if event is None:
        for type_ in campaign.on:
            yield Event(f"why-not {type_}", subscriber_id, type_, now_us), {}
        return
    outcome = revision.admission.admit(event, 0, now_us)
    if isinstance(outcome, Rejection):
        raise InvalidRequestError("event", outcome.message)
    yield event, outcome


@dataclass(frozen=True, slots=True)
class _Read:
    history: History
    usage: Usage
    paused: frozenset[str]


def _read(ledger: Ledger, subscriber_id: str, now_us: int, lookback_us: int, keys: set[UsageKey]) -> _Read:
    with ledger.transaction() as tx:
        history = tx.histories([subscriber_id], now_us - lookback_us, now_us)[subscriber_id]
        return _Read(history, tx.usage(keys), tx.paused())


def _answer(revision: Revision, campaign: Campaign, supposed: Supposed, read: _Read) -> Answer:
    # Deciding changes what it is given, so that each event is supposed by itself.
    history = History(*(list(getattr(read.history, name)) for name in History.__struct_fields__))
    moment = supposed.moment
    if campaign.mode is Mode.MANUAL:
        moment = msgspec.structs.replace(moment, touch_point=campaign.channels[0])
    verdict = decide(revision.rulebase, moment, history, dict(read.usage), read.paused)
    decision = next(each for each in verdict.decisions if each.campaign == campaign.name)
    triggered = supposed.matched or moment.event_type in campaign.on
    return Answer(verdict, decision, supposed.matched, triggered)
