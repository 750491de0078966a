"""From a moment's candidates to a verdict: screening, arbitration, channel, control groups, reservation.

A pure, deterministic function of the rulebase, the moment, the subscriber's history and the counters of
use. It reads no clock, no random source, no store. The order of the checks is the order of the semantics
(section 3), so the first that says no gives the reason.
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec
from opportune_rulebase.model import Rulebase
from opportune_rulebase.policies import Fate, Mode

from opportune_service.core.arbitration import Places, ranked
from opportune_service.core.calendars import local_day
from opportune_service.core.channels import choose_channel
from opportune_service.core.control import control_group
from opportune_service.core.deferral import fate_of, settles_us
from opportune_service.core.policies import story_refusal
from opportune_service.core.quiet import quiet_begins_us
from opportune_service.core.quotas import counters_of
from opportune_service.core.screening import screen
from opportune_service.core.situation import Contender, Situation, contender_of
from opportune_service.core.stable import digest
from opportune_service.core.verdict import (
    Candidate,
    Check,
    Contact,
    ContactState,
    Decision,
    Deferral,
    EventKey,
    History,
    Moment,
    Prompt,
    Reason,
    Usage,
    UsageKey,
    Verdict,
    usage_of,
)


def decide(
    rulebase: Rulebase,
    moment: Moment,
    history: History,
    usage: Usage,
    paused: Collection[str] = frozenset(),
) -> Verdict:
    """Decide all candidates of one moment, each of another campaign.

    What comes of it is noted in `history` (contacts, prompts, deferrals) and `usage`, so that the next
    moment sees it; of `usage` it reads what `usage_keys` names. `paused`: the campaigns that are.
    At most `max_automatic` automatic and `max_prompts` manual decisions come out DECIDED; every other
    candidate has the reason of the first check that said no, and its fate.
    """
    situation = Situation.of(rulebase, moment, history, usage, paused)
    decisions: dict[str, Decision] = {}
    contenders = []
    for candidate in moment.candidates:
        if candidate.campaign not in rulebase.campaigns:
            decisions[candidate.campaign] = _gone(situation, candidate)
            continue
        contender = contender_of(situation, candidate)
        reason = screen(situation, contender)
        if reason is not None:
            decisions[candidate.campaign] = _decision(situation, contender, reason, Fate.DROP)
        elif due_us := settles_us(situation, contender):
            contender.checks.append(Check("settle", False, "waits for better ones", clear_us=due_us))
            decisions[candidate.campaign] = _decision(
                situation, contender, Reason.SETTLING, Fate.DEFER, due_us=due_us
            )
        else:
            contenders.append(contender)
    ended = {candidate.deferred_of for candidate in moment.candidates}
    history.deferrals = [each for each in history.deferrals if each.decision_id not in ended]
    places = Places(rulebase.policies)
    for contender in ranked(contenders):
        decision = _contend(situation, contender, places, among=len(contenders))
        decisions[decision.campaign] = decision
    return Verdict(
        key=moment.key,
        event_type=moment.event_type,
        occurred_at_us=moment.occurred_at_us,
        decided_at_us=moment.now_us,
        revision=rulebase.revision,
        decisions=tuple(decisions[candidate.campaign] for candidate in moment.candidates),
    )


def usage_keys(rulebase: Rulebase, moment: Moment) -> set[UsageKey]:
    """The counters that deciding the moment may read."""
    day = local_day(moment.now_us, rulebase.time_zone)
    names = {candidate.campaign for candidate in moment.candidates} & rulebase.campaigns.keys()
    campaigns = (rulebase.campaigns[name] for name in names)
    return {counter for campaign in campaigns for counter in counters_of(rulebase, campaign, day)}


def decision_id(key: EventKey, campaign: str) -> str:
    """The same event and campaign always give the same id; it says nothing about the subscriber."""
    return digest(b"opp-decision", key.subscriber_id, key.source, key.event_id, campaign).hex()


def _contend(situation: Situation, contender: Contender, places: Places, among: int) -> Decision:
    """What becomes of a contender, when those before it in rank have been decided."""
    rulebase, moment, campaign = situation.rulebase, situation.moment, contender.campaign
    checks = contender.checks
    lost = places.take(campaign)
    standing = f"rank {contender.rank} of {among}: priority {campaign.priority}, score {contender.score:g}"
    checks.append(Check("arbitration", lost is None, standing))
    if lost is not None:
        return _decision(situation, contender, Reason.OUTRANKED, Fate.DROP, lost=lost)
    story = story_refusal(rulebase, campaign, situation.history, moment.now_us)
    if story is not None:  # because of a winner of this very moment
        checks.append(Check("one_story", False, story))
        places.give_back(campaign)
        return _decision(situation, contender, Reason.INCONSISTENT, Fate.DROP)
    channel, refusals = choose_channel(situation, contender)
    if not channel:
        fate, due_us = fate_of(situation, contender, refusals)
        if fate is Fate.NEXT:  # with any other, it keeps its place
            places.give_back(campaign)
        reason = refusals[-1].reason if refusals else Reason.NO_CHANNEL
        return _decision(situation, contender, reason, fate, due_us=due_us)
    if campaign.mode is Mode.AUTOMATIC or channel == moment.touch_point:
        group = control_group(rulebase, campaign, moment.key.subscriber_id)
        held_back = f"the subscriber is in the control group {group}" if group else ""
        checks.append(Check("control", not group, held_back))
        if group:
            return _decision(situation, contender, Reason.CONTROL, Fate.DROP, channel=channel)
    return _decision(situation, contender, Reason.DECIDED, None, channel=channel)


def _decision(
    situation: Situation,
    contender: Contender,
    reason: Reason,
    fate: Fate | None,
    *,
    channel: str = "",
    lost: tuple[str, str] = ("", ""),
    due_us: int = 0,
) -> Decision:
    """The answer for one candidate, noted for those that come after it. `lost`: to which campaign, and by
    which exclusive group. `due_us`: when it is decided again."""
    moment, campaign, candidate = situation.moment, contender.campaign, contender.candidate
    carrier = situation.rulebase.vocabulary.channels[channel] if channel else None
    deferred_of = candidate.deferred_of
    if carrier:  # an offer takes the place of an earlier one of the campaign that still waits
        waiting = [each for each in situation.history.deferrals if each.campaign == campaign.name]
        deferred_of = waiting[0].decision_id if waiting else deferred_of
    expires_at_us = contender.lapses_us if due_us else 0
    if reason is Reason.DECIDED:
        expires_at_us = _expires_us(situation, contender, channel)
    shown = carrier is not None and campaign.mode is Mode.MANUAL and channel == moment.touch_point
    waits_in_bulk = carrier is not None and carrier.bulk and campaign.mode is Mode.MANUAL and not shown
    decision = Decision(
        id=decision_id(moment.key, campaign.name),
        campaign=campaign.name,
        product=campaign.product,
        category=campaign.category,
        mode=campaign.mode,
        reason=reason,
        fate=fate,
        channel=channel,
        content=(candidate.content[channel] or "") if reason is Reason.DECIDED else "",
        expires_at_us=expires_at_us,
        priority=campaign.priority,
        score=contender.score,
        shown=shown,
        prompt_of=candidate.prompt_of,
        held=candidate.held,
        checks=tuple(contender.checks),
        value=campaign.value,
        propensity=contender.propensity,
        rank=contender.rank,
        lost_to=lost[0],
        group=lost[1],
        open_until_us=moment.now_us + campaign.open_for_us if carrier else 0,
        due_us=due_us,
        deferred_of=deferred_of,
        attempt=candidate.attempt,
        trigger=candidate.trigger if due_us or waits_in_bulk else None,
        day=situation.day,
        cost=carrier.cost if carrier else 0,
        bulk=carrier.bulk if carrier else False,
    )
    _note(situation, decision)
    return decision


def _gone(situation: Situation, candidate: Candidate) -> Decision:
    """The end of what was deferred, if the rulebase no longer has the campaign: nothing is known of it."""
    return Decision(
        id=decision_id(situation.moment.key, candidate.campaign),
        campaign=candidate.campaign,
        product="",
        category="",
        mode=Mode.AUTOMATIC,
        reason=Reason.NOT_LIVE,
        fate=Fate.DROP,
        channel="",
        content="",
        expires_at_us=0,
        priority=0,
        score=0.0,
        shown=False,
        prompt_of="",
        held={},
        checks=(Check("live", False, "the rulebase in force no longer has the campaign"),),
        deferred_of=candidate.deferred_of,
        attempt=candidate.attempt,
        day=situation.day,
    )


def _expires_us(situation: Situation, contender: Contender, channel: str) -> int:
    """Until when the offer may reach the customer. A message must not wait into quiet hours or past the
    campaign's end; a prompt is decided again when it is shown."""
    campaign, until_us = contender.campaign, contender.lapses_us
    if campaign.mode is Mode.MANUAL:
        return until_us
    if campaign.valid_to_us is not None:
        until_us = min(until_us, campaign.valid_to_us)
    now_us, zone = situation.moment.now_us, situation.zone
    return quiet_begins_us(situation.rulebase, campaign, channel, now_us, until_us, zone)


def _note(situation: Situation, decision: Decision) -> None:
    """Take what the decision uses out of the budgets and keep what waits, as the ledger will."""
    history, moment = situation.history, situation.moment
    if decision.channel or decision.due_us:
        history.deferrals = [each for each in history.deferrals if each.campaign != decision.campaign]
    if decision.reserves:
        history.prompts = [each for each in history.prompts if each.decision_id != decision.prompt_of]
        contact = contact_made(decision, moment.now_us)
        history.contacts.append(contact)
        for counter, amount in usage_of(contact).items():
            situation.usage[counter] = situation.usage.get(counter, 0) + amount
    elif decision.channel:
        history.prompts.append(
            Prompt(decision.id, decision.campaign, decision.channel, decision.expires_at_us)
        )
    elif (deferral := deferral_of(moment.key.subscriber_id, decision)) is not None:
        history.deferrals.append(deferral)


def contact_made(decision: Decision, at_us: int, state: ContactState = ContactState.RESERVED) -> Contact:
    """The contact, or would-be contact of a control group, that a decision comes to. The latter is
    committed at once: nobody will tell of it."""
    control = decision.reason is Reason.CONTROL
    return Contact(
        decision_id=decision.id,
        campaign=decision.campaign,
        product=decision.product,
        category=decision.category,
        channel=decision.channel,
        mode=decision.mode,
        at_us=at_us,
        state=ContactState.COMMITTED if control else state,
        control=control,
        open_until_us=decision.open_until_us,
        day=decision.day,
        cost=decision.cost,
    )


def deferral_of(subscriber_id: str, decision: Decision) -> Deferral | None:
    """What a decision leaves to be decided again; None unless its fate is DEFER."""
    if decision.fate is not Fate.DEFER or decision.trigger is None:
        return None
    return Deferral(
        subscriber_id=subscriber_id,
        decision_id=decision.id,
        campaign=decision.campaign,
        attempt=decision.attempt,
        due_us=decision.due_us,
        expires_us=decision.expires_at_us,
        trigger=decision.trigger,
        settling=decision.reason is Reason.SETTLING,
    )


def encode_verdict(verdict: Verdict) -> bytes:
    """The verdict as bytes; equal verdicts give equal bytes."""
    return _encoder.encode(verdict)


def decode_verdict(data: bytes) -> Verdict:
    """The inverse of `encode_verdict`."""
    return _decoder.decode(data)


_encoder = msgspec.msgpack.Encoder(order="deterministic")
_decoder = msgspec.msgpack.Decoder(Verdict)
