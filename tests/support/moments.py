"""Moments and candidates for tests of deciding: say what matters, the rest lets everything pass."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from opportune_rulebase.model import Calendar, Campaign, Channel, Product, Rulebase
from opportune_rulebase.policies import Cap, Mode, OutcomeKind, Policies, QuietHours, Selector
from opportune_service.core.verdict import (
    Candidate,
    Contact,
    Decision,
    EventKey,
    Moment,
    Outcome,
    Profile,
    Trigger,
    Verdict,
)
from support.rulebases import NOON_US, make_rulebase

MINUTE_US = 60_000_000
HOUR_US = 60 * MINUTE_US
DAY_US = 24 * HOUR_US
SUBSCRIBER = "8613800000001"


def candidate(campaign: Campaign, **changes: Any) -> Candidate:
    """A candidate of the campaign that everything lets pass."""
    given: dict[str, Any] = {
        "campaign": campaign.name,
        "target": True,
        "terminal_ok": dict.fromkeys(campaign.channels, True),
        "suppressed_by": (),
        "propensity": None,
        "content": {channel: f"{campaign.name} by {channel}" for channel in campaign.channels},
        "held": {},
        "trigger": Trigger("sms_sent", NOON_US),
    }
    return Candidate(**(given | changes))


def moment(
    rulebase: Rulebase,
    *,
    subscriber: str = SUBSCRIBER,
    event_id: str = "e1",
    now_us: int = NOON_US,
    age_us: int = 1_000_000,
    touch_point: str = "",
    profile: dict[str, Any] | None = None,
    candidates: dict[str, dict[str, Any]] | None = None,
) -> Moment:
    """A moment of all campaigns of the rulebase, or of those in `candidates`, with their changes."""
    chosen = {name: {} for name in rulebase.campaigns} if candidates is None else candidates
    return Moment(
        key=EventKey(subscriber, "test", event_id),
        event_type="sms_sent",
        occurred_at_us=now_us - age_us,
        now_us=now_us,
        profile=Profile(**({"known": True, "zone": "Asia/Shanghai"} | (profile or {}))),
        candidates=tuple(
            candidate(rulebase.campaigns[name], **changes) for name, changes in chosen.items()
        ),
        touch_point=touch_point,
    )


def contact(campaign: Campaign, at_us: int, channel: str = "") -> Contact:
    return Contact(
        decision_id=f"{campaign.name}@{at_us}",
        campaign=campaign.name,
        product=campaign.product,
        category=campaign.category,
        channel=channel or campaign.channels[0],
        mode=campaign.mode,
        at_us=at_us,
    )


def outcome(campaign: Campaign, kind: OutcomeKind, at_us: int) -> Outcome:
    return Outcome(
        f"{campaign.name}@{at_us}", kind, at_us, campaign.name, campaign.product, campaign.category
    )


def by_campaign(verdict: Verdict) -> dict[str, Decision]:
    return {decision.campaign: decision for decision in verdict.decisions}


def reasons(verdict: Verdict) -> dict[str, str]:
    return {decision.campaign: decision.reason.value for decision in verdict.decisions}


MANUAL: dict[str, Any] = {"mode": Mode.MANUAL, "channels": ("counter",)}


ALL_DAYS = frozenset(range(7))
CHANNELS = {
    "sms": Channel("sms", "sms", Mode.AUTOMATIC),
    "mms": Channel("mms", "mms", Mode.AUTOMATIC),
    "counter": Channel("counter", "counter", Mode.MANUAL),
    "hotline": Channel("hotline", "hotline", Mode.MANUAL),
}
PRODUCTS = {
    "product": Product("product", "product", "category"),
    "other": Product("other", "other", "category"),
    "addon": Product("addon", "addon", "extras", requires=("base",), excludes=("rival",)),
    "rival": Product("rival", "rival", "category"),
}


def rulebase(
    campaigns: dict[str, dict[str, Any]] | None = None,
    *,
    channels: dict[str, Channel] | None = None,
    calendar: Calendar | None = None,
    **policies: Any,
) -> Rulebase:
    """A rulebase with these campaigns (an `offer` by SMS if not said) and policies. `channels` replace
    those of `CHANNELS`."""
    return make_rulebase(
        events={"sms_sent": {}},
        campaigns=campaigns or {"offer": {}},
        channels=CHANNELS | (channels or {}),
        products=PRODUCTS,
        policies=Policies(**policies),
        calendar=calendar,
    )


def cap(limit: int, **changes: Any) -> Cap:
    """At most so many contacts of any kind in seven days, or as `changes` say."""
    given: dict[str, Any] = {
        "name": "few",
        "label": "",
        "limit": limit,
        "rolling_us": 7 * DAY_US,
        "calendar": None,
        "per": frozenset(),
        "applies_to": Selector(),
        "counts": Selector(),
    }
    return Cap(**(given | changes))


def quiet_hours(start: str, end: str, **changes: Any) -> QuietHours:
    """Every day between these times, for everything, or as `changes` say."""
    minutes = [int(clock[:2]) * 60 + int(clock[3:]) for clock in (start, end)]
    return replace(QuietHours(f"{start}-{end}", "", *minutes, ALL_DAYS, Selector()), **changes)
