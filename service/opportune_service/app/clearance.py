"""What is checked before each lease: a decision may be hours old, and the customer has the last word.

Caps are not counted again: the decision holds its reservation, so they hold by construction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from opportune_service.app.records import DeliveryState, Lease, Waiting
from opportune_service.core.policies import consent_refusal
from opportune_service.core.quiet import quiet_begins_us, quiet_ends_us, quiet_refusal
from opportune_service.core.revision import Revision
from opportune_service.core.verdict import Profile

MAX_ATTEMPTS = 5
"""A delivery that was leased so often, and is not settled, is a dead letter."""


@dataclass(frozen=True, slots=True)
class Postponed:
    """It may be leased, but not before `until_us`."""

    until_us: int


@dataclass(frozen=True, slots=True)
class Ended:
    """It must not be leased any more, and why."""

    state: DeliveryState
    detail: str = ""


Step = Lease | Postponed | Ended


def next_step(
    revision: Revision,
    waiting: Waiting,
    context: Mapping[str, object] | None,
    now_us: int,
    lease_for_us: int,
) -> Step:
    """What is to become of a delivery that could be leased now.

    `context`: what is known of the subscriber at this moment. The lease ends, and so does the time in which
    the message may be sent, before quiet hours begin and with the campaign.
    """
    if now_us >= waiting.expires_at_us:
        return Ended(DeliveryState.EXPIRED)
    refusal = _refusal(revision, waiting, context or {})
    if refusal:
        return Ended(DeliveryState.WITHDRAWN, refusal)
    if waiting.attempts >= MAX_ATTEMPTS:
        return Ended(DeliveryState.DEAD)
    rulebase, expires_us = revision.rulebase, waiting.expires_at_us
    # What the message is about was fixed when it was decided, whatever the campaign offers by now.
    campaign = replace(
        rulebase.campaigns[waiting.campaign],
        product=waiting.product,
        category=waiting.category,
        mode=waiting.mode,
    )
    if campaign.valid_to_us is not None:
        expires_us = min(expires_us, campaign.valid_to_us)
        if now_us >= expires_us:
            return Ended(DeliveryState.EXPIRED, "the campaign is over")
    zone = revision.zone_of(context or {})
    if quiet_refusal(rulebase, campaign, waiting.channel, now_us, zone) is not None:
        ends_us = quiet_ends_us(rulebase, campaign, waiting.channel, now_us, expires_us, zone)
        return Postponed(ends_us) if ends_us < expires_us else Ended(DeliveryState.EXPIRED)
    expires_us = quiet_begins_us(rulebase, campaign, waiting.channel, now_us, expires_us, zone)
    return Lease(
        decision_id=waiting.decision_id,
        token=waiting.token + 1,
        attempt=waiting.attempts + 1,
        subscriber_id=waiting.subscriber_id,
        channel=waiting.channel,
        campaign=waiting.campaign,
        product=waiting.product,
        content=waiting.content,
        lease_until_us=min(now_us + lease_for_us, expires_us),
        expires_at_us=expires_us,
    )


def _refusal(revision: Revision, waiting: Waiting, context: Mapping[str, object]) -> str:
    """Why the offer must not reach the customer any more; "" if it may."""
    campaign = revision.rulebase.campaigns.get(waiting.campaign)
    if campaign is None or waiting.channel not in campaign.channels:
        return "the rulebase in force no longer has the campaign on this channel"
    known = {**revision.defaults, **context}
    if known.get("do_not_contact"):
        return "the subscriber is on the do-not-contact list"
    consents = known.get("consents")
    profile = Profile(known=True, zone="", consents=consents if isinstance(consents, dict) else {})
    for purpose in (f"category/{waiting.category}", f"channel/{waiting.channel}"):
        refusal = consent_refusal(revision.rulebase.policies, profile, purpose)
        if refusal:
            return refusal
    return ""
