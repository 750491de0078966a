"""Steps 1 to 6 of the semantics: may this campaign speak to this customer at all, here and now?

They come before arbitration, so that nothing that cannot be offered takes a place from what can.
"""

from __future__ import annotations

from opportune_rulebase.model import Campaign
from opportune_rulebase.policies import Mode, Suppression

from opportune_service.core.policies import (
    consent_refusal,
    cooling,
    holding_refusal,
    open_copy_refusal,
    story_refusal,
)
from opportune_service.core.situation import Contender, Situation
from opportune_service.core.verdict import Candidate, Check, Reason


def screen(situation: Situation, contender: Contender) -> Reason | None:
    """The reason of the first check that says no; None if the candidate goes on to arbitration."""
    rulebase, moment, history = situation.rulebase, situation.moment, situation.history
    campaign, candidate = contender.campaign, contender.candidate
    policies, profile, now_us = rulebase.policies, moment.profile, moment.now_us

    def passes(policy: str, refusal: str | None, clear_us: int = 0) -> bool:
        contender.checks.append(Check(policy, refusal is None, refusal or "", clear_us=clear_us))
        return refusal is None

    if not candidate.prompt_of and not passes("fresh_for", _stale(situation, contender)):
        return Reason.STALE
    if not passes("live", _not_live(situation, campaign)):
        return Reason.NOT_LIVE
    if not profile.known and campaign.mode is Mode.AUTOMATIC and not campaign.allow_unknown:
        passes("context", "nothing is known of the subscriber")
        return Reason.NO_CONTEXT
    if not passes("eligible", _not_eligible(situation, campaign, candidate)):
        return Reason.NOT_ELIGIBLE
    if profile.do_not_contact:
        passes("do_not_contact", "the subscriber is on the do-not-contact list")
        return Reason.SUPPRESSED
    if not passes("consent", consent_refusal(policies, profile, f"category/{campaign.category}")):
        return Reason.SUPPRESSED
    everywhere = [s.name for s in suppressions(situation, candidate) if not s.applies_to.channels]
    if not passes("suppress", ", ".join(everywhere) or None):
        return Reason.SUPPRESSED
    rest = cooling(policies.cool_downs, campaign, history.outcomes, now_us)
    if not passes("cool_down", *(rest or (None,))):
        return Reason.COOLING_OFF
    story = open_copy_refusal(candidate, history, now_us)
    if not passes("one_story", story or story_refusal(rulebase, campaign, history, now_us)):
        return Reason.INCONSISTENT
    return None


def suppressions(situation: Situation, candidate: Candidate) -> list[Suppression]:
    """Those that hold, or may, for this subscriber. Those that name channels leave the others open."""
    return [s for s in situation.rulebase.policies.suppressions if s.name in candidate.suppressed_by]


def _stale(situation: Situation, contender: Contender) -> str | None:
    """What was deferred has been fresh once; it ends when the offer lapses."""
    moment, fresh_for_us = situation.moment, contender.campaign.fresh_for_us
    if contender.candidate.deferred_of:
        return "the offer has lapsed" if moment.now_us >= contender.lapses_us else None
    age_us = moment.now_us - moment.occurred_at_us
    if age_us <= fresh_for_us:
        return None
    return f"the event is {age_us // 1_000_000} s old, the moment lasts {fresh_for_us // 1_000_000} s"


def _not_live(situation: Situation, campaign: Campaign) -> str | None:
    now_us, branch = situation.moment.now_us, situation.moment.profile.branch
    if campaign.name in situation.paused:
        return "the campaign is paused"
    if campaign.valid_from_us is not None and now_us < campaign.valid_from_us:
        return "the campaign has not begun"
    if campaign.valid_to_us is not None and now_us >= campaign.valid_to_us:
        return "the campaign is over"
    if campaign.branches and branch not in campaign.branches:
        return f"the campaign serves other branches than {branch or 'an unknown one'}"
    return None


def _not_eligible(situation: Situation, campaign: Campaign, candidate: Candidate) -> str | None:
    rulebase, profile = situation.rulebase, situation.moment.profile
    if candidate.target is not True:
        return f"target is {'false' if candidate.target is False else 'unknown'}"
    if profile.status is not None and profile.status not in rulebase.policies.normal_status:
        return f"status is {profile.status}"
    refusal = holding_refusal(rulebase.vocabulary.products[campaign.product], profile.products)
    if refusal is None and True not in candidate.terminal_ok.values():
        return "the terminal cannot take it on any channel, or is unknown"
    return refusal
