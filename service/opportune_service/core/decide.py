"""From a moment's candidates to a verdict: eligibility, policies, arbitration, channel, reservation.

A pure, deterministic function of the rulebase, the moment and the subscriber's history. It reads no
clock, no random source, no store. The order of the checks is the order of the semantics (section 3),
so the first that says no gives the reason.
"""

from __future__ import annotations

from hashlib import blake2b

import msgspec
from opportune_rulebase.model import Campaign, Rulebase
from opportune_rulebase.policies import Fate, Mode, Suppression

from opportune_service.core.calendars import zone_named
from opportune_service.core.policies import (
    cap_refusal,
    consent_refusal,
    cooling_refusal,
    holding_refusal,
    quiet_begins_us,
    quiet_refusal,
)
from opportune_service.core.verdict import (
    Candidate,
    Check,
    Contact,
    Decision,
    EventKey,
    History,
    Moment,
    Prompt,
    Reason,
    Verdict,
)


def decide(rulebase: Rulebase, moment: Moment, history: History) -> Verdict:
    """Decide all candidates of one moment. What is reserved is added to `history`.

    At most `max_automatic` automatic and `max_prompts` manual decisions come out DECIDED; every other
    candidate has the reason of the first check that said no.
    """
    decisions: dict[str, Decision] = {}
    survivors: list[tuple[Campaign, Candidate, float, list[Check]]] = []
    for candidate in moment.candidates:
        campaign = rulebase.campaigns[candidate.campaign]
        score = campaign.value * _propensity(rulebase, candidate)
        checks: list[Check] = []
        reason = _refusal(rulebase, moment, history, campaign, candidate, checks)
        if reason is None:
            survivors.append((campaign, candidate, score, checks))
        else:
            decisions[campaign.name] = _decision(
                rulebase, moment, campaign, candidate, score, reason, checks
            )

    survivors.sort(key=lambda s: (-s[0].priority, -s[2], s[0].name))
    slots = {Mode.AUTOMATIC: rulebase.policies.max_automatic, Mode.MANUAL: rulebase.policies.max_prompts}
    for rank, (campaign, candidate, score, checks) in enumerate(survivors, start=1):
        standing = f"rank {rank} of {len(survivors)}: priority {campaign.priority}, score {score:g}"
        if slots[campaign.mode] == 0:
            checks.append(Check("arbitration", False, standing))
            decisions[campaign.name] = _decision(
                rulebase, moment, campaign, candidate, score, Reason.OUTRANKED, checks
            )
            continue
        # A winner that finds no channel keeps its slot: only the fate NEXT would let another move up.
        slots[campaign.mode] -= 1
        checks.append(Check("arbitration", True, standing))
        channel, reason = _choose_channel(rulebase, moment, history, campaign, candidate, checks)
        decision = _decision(rulebase, moment, campaign, candidate, score, reason, checks, channel)
        decisions[campaign.name] = decision
        if reason is Reason.DECIDED:
            _reserve(history, decision, moment.now_us)
    return Verdict(
        key=moment.key,
        event_type=moment.event_type,
        occurred_at_us=moment.occurred_at_us,
        decided_at_us=moment.now_us,
        revision=rulebase.revision,
        decisions=tuple(decisions[candidate.campaign] for candidate in moment.candidates),
    )


def decision_id(key: EventKey, campaign: str) -> str:
    """The same event and campaign always give the same id; it says nothing about the subscriber."""
    # With their lengths: any character may stand in a name, so none can separate them.
    parts = (key.subscriber_id, key.source, key.event_id, campaign)
    text = "".join(f"{len(part)}:{part}" for part in parts)
    return blake2b(text.encode(), digest_size=12, person=b"opp-decision").hexdigest()


def _propensity(rulebase: Rulebase, candidate: Candidate) -> float:
    if candidate.propensity is None or candidate.propensity != candidate.propensity:  # unknown or NaN
        return rulebase.policies.default_propensity
    return candidate.propensity


def _refusal(
    rulebase: Rulebase,
    moment: Moment,
    history: History,
    campaign: Campaign,
    candidate: Candidate,
    checks: list[Check],
) -> Reason | None:
    """Checks 1 to 6: the reason of the first that says no, None if the candidate goes on."""
    policies, profile, now_us = rulebase.policies, moment.profile, moment.now_us

    def passes(policy: str, refusal: str | None) -> bool:
        checks.append(Check(policy, refusal is None, refusal or ""))
        return refusal is None

    if not candidate.prompt_of and not passes("fresh_for", _stale(moment, campaign)):
        return Reason.STALE
    if not passes("live", _not_live(moment, campaign)):
        return Reason.NOT_LIVE
    if not profile.known and campaign.mode is Mode.AUTOMATIC and not campaign.allow_unknown:
        passes("context", "nothing is known of the subscriber")
        return Reason.NO_CONTEXT
    if not passes("eligible", _not_eligible(rulebase, moment, campaign, candidate)):
        return Reason.NOT_ELIGIBLE
    if profile.do_not_contact:
        passes("do_not_contact", "the subscriber is on the do-not-contact list")
        return Reason.SUPPRESSED
    if not passes("consent", consent_refusal(policies, profile, f"category/{campaign.category}")):
        return Reason.SUPPRESSED
    everywhere = [s.name for s in _suppressions(rulebase, candidate) if not s.applies_to.channels]
    if not passes("suppress", ", ".join(everywhere) or None):
        return Reason.SUPPRESSED
    if not passes("cool_down", cooling_refusal(policies.cool_downs, campaign, history.outcomes, now_us)):
        return Reason.COOLING_OFF
    story = _other_story(candidate, history, now_us)
    if story is not None:
        passes("one_story", story)
        return Reason.INCONSISTENT
    return None


def _other_story(candidate: Candidate, history: History, now_us: int) -> str | None:
    """A campaign has one open prompt of a subscriber, and that is shown once."""
    still_open = [
        p.decision_id
        for p in history.prompts
        if p.campaign == candidate.campaign and p.expires_at_us > now_us
    ]
    if candidate.prompt_of:
        gone = candidate.prompt_of not in still_open
        return "the prompt was shown or answered meanwhile, or is over" if gone else None
    return "a prompt of this campaign is already open with the subscriber" if still_open else None


def _stale(moment: Moment, campaign: Campaign) -> str | None:
    age_us = moment.now_us - moment.occurred_at_us
    if age_us <= campaign.fresh_for_us:
        return None
    return (
        f"the event is {age_us // 1_000_000} s old, the moment lasts {campaign.fresh_for_us // 1_000_000} s"
    )


def _not_live(moment: Moment, campaign: Campaign) -> str | None:
    if campaign.valid_from_us is not None and moment.now_us < campaign.valid_from_us:
        return "the campaign has not begun"
    if campaign.valid_to_us is not None and moment.now_us >= campaign.valid_to_us:
        return "the campaign is over"
    if campaign.branches and moment.profile.branch not in campaign.branches:
        return f"the campaign serves other branches than {moment.profile.branch or 'an unknown one'}"
    return None


def _not_eligible(
    rulebase: Rulebase, moment: Moment, campaign: Campaign, candidate: Candidate
) -> str | None:
    if candidate.target is not True:
        return f"target is {'false' if candidate.target is False else 'unknown'}"
    status = moment.profile.status
    if status is not None and status not in rulebase.policies.normal_status:
        return f"status is {status}"
    refusal = holding_refusal(rulebase.vocabulary.products[campaign.product], moment.profile.products)
    if refusal is None and True not in candidate.terminal_ok.values():
        return "the terminal cannot take it on any channel, or is unknown"
    return refusal


def _suppressions(rulebase: Rulebase, candidate: Candidate) -> list[Suppression]:
    return [s for s in rulebase.policies.suppressions if s.name in candidate.suppressed_by]


def _choose_channel(
    rulebase: Rulebase,
    moment: Moment,
    history: History,
    campaign: Campaign,
    candidate: Candidate,
    checks: list[Check],
) -> tuple[str, Reason]:
    """The first channel that consent, terminal, quiet hours and caps let through; or the last reason."""
    policies = rulebase.policies
    zone = zone_named(moment.profile.zone) or rulebase.time_zone
    channels = campaign.channels
    if moment.touch_point in channels and campaign.mode is Mode.MANUAL:
        channels = (moment.touch_point,)  # the customer stands there: no other channel makes sense
    reason = Reason.NO_CHANNEL
    for channel in channels:
        unfit = _unfit(rulebase, moment, candidate, channel)
        if unfit is not None:
            checks.append(Check(f"channel {channel}", False, unfit))
            continue
        quiet = quiet_refusal(policies.quiet_hours, campaign, channel, moment.now_us, zone)
        if quiet is not None:
            checks.append(Check(f"quiet_hours {channel}", False, quiet))
            reason = Reason.QUIET_HOURS
            continue
        capped = cap_refusal(policies.caps, campaign, channel, history.contacts, moment.now_us, zone)
        if capped is not None:
            checks.append(Check(f"cap {channel}", False, capped))
            reason = Reason.CAPPED
            continue
        checks.append(Check(f"channel {channel}", True, ""))
        return channel, Reason.DECIDED
    return "", reason


def _unfit(rulebase: Rulebase, moment: Moment, candidate: Candidate, channel: str) -> str | None:
    """Why the channel is out of question for this customer, whatever the hour."""
    if candidate.terminal_ok[channel] is not True:
        return "the terminal cannot show it, or is unknown"
    if candidate.content[channel] is None:
        return "the content needs a value that is unknown, or is too long"
    for suppression in _suppressions(rulebase, candidate):
        if channel in suppression.applies_to.channels:
            return f"suppressed by {suppression.name}"
    return consent_refusal(rulebase.policies, moment.profile, f"channel/{channel}")


def _decision(
    rulebase: Rulebase,
    moment: Moment,
    campaign: Campaign,
    candidate: Candidate,
    score: float,
    reason: Reason,
    checks: list[Check],
    channel: str = "",
) -> Decision:
    decided = reason is Reason.DECIDED
    return Decision(
        id=decision_id(moment.key, campaign.name),
        campaign=campaign.name,
        product=campaign.product,
        category=campaign.category,
        mode=campaign.mode,
        reason=reason,
        fate=None if decided else Fate.DROP,
        channel=channel,
        content=(candidate.content[channel] or "") if decided else "",
        expires_at_us=_expires_us(rulebase, moment, campaign, channel) if decided else 0,
        priority=campaign.priority,
        score=score,
        shown=decided and campaign.mode is Mode.MANUAL and channel == moment.touch_point,
        prompt_of=candidate.prompt_of,
        held=candidate.held,
        checks=tuple(checks),
    )


def _expires_us(rulebase: Rulebase, moment: Moment, campaign: Campaign, channel: str) -> int:
    """Until when the offer may reach the customer. A message must not wait into quiet hours or past the
    campaign's end; a prompt is decided again when it is shown."""
    until_us = moment.now_us + campaign.expires_after_us
    if campaign.mode is Mode.MANUAL:
        return until_us
    if campaign.valid_to_us is not None:
        until_us = min(until_us, campaign.valid_to_us)
    zone = zone_named(moment.profile.zone) or rulebase.time_zone
    return quiet_begins_us(rulebase.policies.quiet_hours, campaign, channel, moment.now_us, until_us, zone)


def _reserve(history: History, decision: Decision, now_us: int) -> None:
    """Take what the decision uses out of the subscriber's budget, so that the next one sees it."""
    if decision.prompt_of:
        history.prompts = [p for p in history.prompts if p.decision_id != decision.prompt_of]
    if decision.mode is Mode.MANUAL and not decision.shown:
        history.prompts.append(
            Prompt(decision.id, decision.campaign, decision.channel, decision.expires_at_us)
        )
        return
    history.contacts.append(
        Contact(
            decision_id=decision.id,
            campaign=decision.campaign,
            product=decision.product,
            category=decision.category,
            channel=decision.channel,
            mode=decision.mode,
            at_us=now_us,
        )
    )


def encode_verdict(verdict: Verdict) -> bytes:
    """The verdict as bytes; equal verdicts give equal bytes."""
    return _encoder.encode(verdict)


def decode_verdict(data: bytes) -> Verdict:
    """The inverse of `encode_verdict`."""
    return _decoder.decode(data)


_encoder = msgspec.msgpack.Encoder(order="deterministic")
_decoder = msgspec.msgpack.Decoder(Verdict)
