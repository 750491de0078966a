"""Which channel carries a winner: the order in which they are tried, and the first that all lets pass."""

from __future__ import annotations

from collections.abc import Iterator

from opportune_rulebase.model import Campaign
from opportune_rulebase.policies import Fit, Mode, OutcomeKind

from opportune_service.core.calendars import DAY_US, local_minute
from opportune_service.core.caps import cap_rulings
from opportune_service.core.policies import consent_refusal
from opportune_service.core.quiet import quiet_ends_us, quiet_hours_of, quiet_refusal
from opportune_service.core.quotas import quota_rulings
from opportune_service.core.screening import suppressions
from opportune_service.core.situation import Contender, Ruling, Situation
from opportune_service.core.verdict import Check, Reason

_QUIET_HORIZON_US = 8 * DAY_US
"""How far to look for the end of quiet hours, at least, to tell people."""


def choose_channel(situation: Situation, contender: Contender) -> tuple[str, list[Ruling]]:
    """The first channel on which everything passes, "" if there is none; and the rulings that refused the
    others, in the order in which they were tried. Reserves nothing."""
    refusals = []
    for channel in _order(situation, contender):
        unfit = _unfit(situation, contender, channel)
        if unfit is not None:
            contender.checks.append(Check("channel", False, unfit, channel))
            continue
        for ruling in _rulings(situation, contender, channel):
            contender.checks.append(ruling.check)
            if not ruling.check.passed:
                refusals.append(ruling)
                break
        else:
            contender.checks.append(Check("channel", True, "", channel))
            return channel, refusals
    return "", refusals


def _order(situation: Situation, contender: Contender) -> list[str]:
    """Best fit first, then as the subscriber prefers, then in the order of the segment, then of the
    campaign. Where the customer stands at a touch point, no other channel makes sense; a prompt is decided
    again only to be shown there."""
    campaign, moment = contender.campaign, situation.moment
    at_hand = moment.touch_point in campaign.channels
    if contender.candidate.prompt_of or (campaign.mode is Mode.MANUAL and at_hand):
        return [moment.touch_point] if at_hand else []
    if len(campaign.channels) == 1:
        return list(campaign.channels)
    preferred = _preference(situation, campaign.channels)
    segment = {channel: place for place, channel in enumerate(reversed(moment.segment), start=1)}
    return sorted(
        campaign.channels,  # sorting keeps this order where all else is equal
        key=lambda channel: (
            _fit(situation, campaign, channel) is not Fit.AA,
            preferred[channel],
            -segment.get(channel, 0),
        ),
    )


def _preference(situation: Situation, channels: tuple[str, ...]) -> dict[str, tuple[bool, float]]:
    """How much the subscriber likes each channel, the lowest most: by the contacts that there were, if they
    are enough to tell, else by what the rulebase makes of the context."""
    preference, now_us = situation.rulebase.policies.preference, situation.moment.now_us
    contacts = [
        contact
        for contact in situation.history.contacts
        if not contact.control and contact.at_us > now_us - preference.within_us
    ]
    if len(contacts) < preference.from_contacts:
        scores = situation.moment.channel_scores
        return {name: (False, -scores[name]) if name in scores else (True, 0.0) for name in channels}
    complained = {
        outcome.decision_id
        for outcome in situation.history.outcomes
        if outcome.kind is OutcomeKind.COMPLAINED
    }
    spoilt = {contact.channel for contact in contacts if contact.decision_id in complained}
    return {
        name: (name in spoilt, -float(sum(contact.channel == name for contact in contacts)))
        for name in channels
    }


def _fit(situation: Situation, campaign: Campaign, channel: str) -> Fit:
    return situation.rulebase.policies.fit.get(campaign.product, {}).get(channel, Fit.BB)


def _unfit(situation: Situation, contender: Contender, channel: str) -> str | None:
    """Why the channel is out of question for this offer and customer, whatever the hour."""
    candidate = contender.candidate
    if _fit(situation, contender.campaign, channel) is Fit.CC:
        return "it does not fit the product"
    if candidate.terminal_ok[channel] is not True:
        return "the terminal cannot show it, or is unknown"
    if candidate.content[channel] is None:
        return "the content needs a value that is unknown, or is too long"
    for suppression in suppressions(situation, candidate):
        if channel in suppression.applies_to.channels:
            return f"suppressed by {suppression.name}"
    return consent_refusal(situation.rulebase.policies, situation.moment.profile, f"channel/{channel}")


def _rulings(situation: Situation, contender: Contender, channel: str) -> Iterator[Ruling]:
    """What is to pass on a channel: quiet hours, then caps, quota and capacity as one set, of which nothing
    is taken unless all of it can be."""
    campaign = contender.campaign
    yield from _quiet_rulings(situation, contender, channel)
    yield from cap_rulings(situation, campaign, channel)
    yield from quota_rulings(situation, campaign, channel)


def _quiet_rulings(situation: Situation, contender: Contender, channel: str) -> Iterator[Ruling]:
    rulebase, zone, now_us = situation.rulebase, situation.zone, situation.moment.now_us
    campaign = contender.campaign
    window = quiet_refusal(rulebase, campaign, channel, now_us, zone)
    if window is None:
        for each in quiet_hours_of(rulebase, campaign, channel):
            check = Check("quiet_hours", True, each.name, channel)
            yield Ruling(check, Reason.QUIET_HOURS, each.otherwise, spread=True)
        return
    until_us = max(contender.lapses_us, now_us + _QUIET_HORIZON_US)
    ends_us = quiet_ends_us(rulebase, campaign, channel, now_us, until_us, zone)
    times = (local_minute(now_us, zone), window.start_minute, window.end_minute)
    clock, start, end = (f"{minute // 60:02d}:{minute % 60:02d}" for minute in times)
    check = Check(
        policy="quiet_hours",
        passed=False,
        detail=f"{window.name}: {clock} is between {start} and {end}",
        channel=channel,
        clear_us=ends_us if ends_us < until_us else 0,
    )
    yield Ruling(check, Reason.QUIET_HOURS, window.otherwise, spread=True)
