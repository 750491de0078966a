"""The contact policies, each a pure function: what a candidate may not do, and why.

`decide` calls them in the order of the semantics. Each gives None for "passes" or a sentence for the
trace that says what stood in the way, with the counts of that moment.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import tzinfo

from opportune_rulebase.model import Campaign, Product
from opportune_rulebase.policies import Cap, CoolDown, CoolDownScope, Dimension, Policies, QuietHours

from opportune_service.core.calendars import instant_of, local_day, local_minute, same_period, weekday
from opportune_service.core.verdict import Contact, Outcome, Profile


def consent_refusal(policies: Policies, profile: Profile, purpose: str) -> str | None:
    """`purpose` is ``channel/NAME`` or ``category/NAME``. The subscriber's word, else the default."""
    word = profile.consents.get(purpose)
    if word is True or (word is None and purpose not in policies.opt_in):
        return None
    return f"{purpose}: " + ("the customer opted out" if word is False else "opt-in is required and absent")


def holding_refusal(product: Product, held: Sequence[str]) -> str | None:
    """Whether the customer has the product already, lacks a prerequisite or has what excludes it."""
    if product.name in held:
        return f"{product.name} is held already"
    missing = [name for name in product.requires if name not in held]
    if missing:
        return f"{product.name} requires {', '.join(missing)}"
    clash = [name for name in product.excludes if name in held]
    if clash:
        return f"{product.name} excludes {', '.join(clash)}, which is held"
    return None


def cooling_refusal(
    cool_downs: Sequence[CoolDown], campaign: Campaign, outcomes: Sequence[Outcome], now_us: int
) -> str | None:
    """Whether an earlier answer of the customer asks to be left alone with this, or with everything."""
    for cool_down in cool_downs:
        for outcome in outcomes:
            if outcome.kind not in cool_down.outcomes or now_us - outcome.at_us >= cool_down.for_us:
                continue
            alike = {
                CoolDownScope.ANY: True,
                CoolDownScope.CAMPAIGN: outcome.campaign == campaign.name,
                CoolDownScope.PRODUCT: outcome.product == campaign.product,
                CoolDownScope.CATEGORY: outcome.category == campaign.category,
            }[cool_down.scope]
            if alike:
                hours = (outcome.at_us + cool_down.for_us - now_us) // 3_600_000_000
                return f"{cool_down.name}: {outcome.kind.value} {outcome.campaign}, {hours} h to go"
    return None


def quiet_refusal(
    windows: Sequence[QuietHours], campaign: Campaign, channel: str, now_us: int, zone: tzinfo
) -> str | None:
    """Whether `now_us` lies in quiet hours that bind this contact."""
    minute, today = local_minute(now_us, zone), local_day(now_us, zone)
    for window in _binding(windows, campaign, channel):
        start, end = window.start_minute, window.end_minute
        if start < end:
            inside = start <= minute < end and weekday(today) in window.weekdays
        else:  # crosses midnight and belongs to the day it starts on
            inside = (minute >= start and weekday(today) in window.weekdays) or (
                minute < end and weekday(today - 1) in window.weekdays
            )
        if inside:
            return f"{window.name}: {_clock(minute)} is between {_clock(start)} and {_clock(end)}"
    return None


def quiet_begins_us(
    windows: Sequence[QuietHours],
    campaign: Campaign,
    channel: str,
    now_us: int,
    until_us: int,
    zone: tzinfo,
) -> int:
    """When, after `now_us`, quiet hours next bind this contact; `until_us` if not before that."""
    first_us = until_us
    days = range(local_day(now_us, zone), local_day(until_us, zone) + 1)
    for window in _binding(windows, campaign, channel):
        for day in days:
            if weekday(day) in window.weekdays:
                begins_us = instant_of(day, window.start_minute, zone)
                if now_us < begins_us < first_us:
                    first_us = begins_us
    return first_us


def _binding(windows: Sequence[QuietHours], campaign: Campaign, channel: str) -> Iterator[QuietHours]:
    for window in windows:
        if window.applies_to.selects(
            campaign=campaign.name,
            product=campaign.product,
            category=campaign.category,
            channel=channel,
            mode=campaign.mode,
        ):
            yield window


def _clock(minute: int) -> str:
    return f"{minute // 60:02d}:{minute % 60:02d}"


def cap_usage(
    cap: Cap, campaign: Campaign, channel: str, contacts: Sequence[Contact], now_us: int, zone: tzinfo
) -> int | None:
    """Contacts already counted by the cap that this one would join; None if the cap does not bind it."""
    properties = {
        "campaign": campaign.name,
        "product": campaign.product,
        "category": campaign.category,
        "channel": channel,
        "mode": campaign.mode,
    }
    if cap.name in campaign.exempt or not cap.applies_to.selects(**properties):
        return None
    used = 0
    for contact in contacts:
        if not cap.counts.selects(
            campaign=contact.campaign,
            product=contact.product,
            category=contact.category,
            channel=contact.channel,
            mode=contact.mode,
        ):
            continue
        if cap.rolling_us is not None:
            inside = contact.at_us > now_us - cap.rolling_us
        else:
            inside = cap.calendar is not None and same_period(cap.calendar, contact.at_us, now_us, zone)
        if inside and all(
            _value(contact, dimension) == properties[dimension.value] for dimension in cap.per
        ):
            used += 1
    return used


def _value(contact: Contact, dimension: Dimension) -> str:
    return {
        Dimension.CAMPAIGN: contact.campaign,
        Dimension.PRODUCT: contact.product,
        Dimension.CATEGORY: contact.category,
        Dimension.CHANNEL: contact.channel,
        Dimension.MODE: contact.mode,
    }[dimension]


def cap_refusal(
    caps: Sequence[Cap],
    campaign: Campaign,
    channel: str,
    contacts: Sequence[Contact],
    now_us: int,
    zone: tzinfo,
) -> str | None:
    """Whether one contact more would exceed a cap. The contact at hand is included in the check."""
    for cap in caps:
        used = cap_usage(cap, campaign, channel, contacts, now_us, zone)
        if used is not None and used + 1 > cap.limit:
            return f"{cap.name}: {used} counted already, the limit is {cap.limit}"
    return None
