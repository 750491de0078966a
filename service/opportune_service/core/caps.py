"""Caps: how many contacts a subscriber may have in a period. The contact at hand is included."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from opportune_rulebase.model import Campaign
from opportune_rulebase.policies import Cap

from opportune_service.core.calendars import period_ends_us, same_period
from opportune_service.core.situation import Ruling, Situation
from opportune_service.core.verdict import Check, Contact, Reason


def cap_rulings(situation: Situation, campaign: Campaign, channel: str) -> Iterator[Ruling]:
    """What each cap that binds such a contact says to it."""
    properties = {
        "campaign": campaign.name,
        "product": campaign.product,
        "category": campaign.category,
        "channel": channel,
        "mode": campaign.mode,
    }
    for cap in situation.rulebase.policies.caps:
        if cap.name in campaign.exempt or not cap.applies_to.selects(**properties):
            continue
        counted = sorted(
            contact.at_us
            for contact in situation.history.contacts
            if _in_period(cap, contact.at_us, situation) and _counts(cap, contact, properties)
        )
        limit = cap.limit
        if campaign.priority < cap.headroom_priority:
            limit = max(0, limit - cap.headroom)
        passed = len(counted) < limit
        check = Check(
            policy="cap",
            passed=passed,
            detail=f"{cap.name}: {len(counted)} of {limit} used",
            channel=channel,
            count=len(counted) + 1,
            limit=limit,
            clear_us=0 if passed else _clear_us(cap, counted, limit, situation),
        )
        yield Ruling(check, Reason.CAPPED, cap.otherwise, spread=cap.calendar is not None)


def _in_period(cap: Cap, at_us: int, situation: Situation) -> bool:
    now_us = situation.moment.now_us
    if cap.calendar is not None:
        return same_period(cap.calendar, at_us, now_us, situation.zone)
    return at_us > now_us - (cap.rolling_us or 0)


def _counts(cap: Cap, contact: Contact, properties: Mapping[str, str]) -> bool:
    theirs = {
        "campaign": contact.campaign,
        "product": contact.product,
        "category": contact.category,
        "channel": contact.channel,
        "mode": contact.mode,
    }
    return cap.counts.selects(**theirs) and all(
        theirs[dimension.value] == properties[dimension.value] for dimension in cap.per
    )


def _clear_us(cap: Cap, counted: list[int], limit: int, situation: Situation) -> int:
    """When one contact more will be within the limit again, if there is none meanwhile; 0: never."""
    if limit == 0:
        return 0
    if cap.calendar is not None:
        return period_ends_us(cap.calendar, situation.moment.now_us, situation.zone)
    return counted[len(counted) - limit] + (cap.rolling_us or 0)
