"""Quota, budget and capacity: how much there may be over all subscribers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from opportune_rulebase.model import Campaign, Rulebase
from opportune_rulebase.policies import Fate

from opportune_service.core.calendars import day_begins_us
from opportune_service.core.situation import Ruling, Situation
from opportune_service.core.verdict import Check, Reason, UsageKey, UsageKind


class _Bound(NamedTuple):
    """`counter` must stay within `limit` when `amount` is added. `daily`: it begins anew every day."""

    policy: str
    detail: str
    reason: Reason
    counter: UsageKey
    amount: int
    limit: int
    daily: bool
    otherwise: Fate


def quota_rulings(situation: Situation, campaign: Campaign, channel: str) -> Iterator[Ruling]:
    """What the campaign's quota and the channel's capacity say to such a contact."""
    rulebase, day = situation.rulebase, situation.day
    for bound in _bounds(rulebase, campaign, channel, day):
        count = situation.usage.get(bound.counter, 0) + bound.amount
        passed = count <= bound.limit
        frees = not passed and bound.daily and bound.amount <= bound.limit
        check = Check(
            policy=bound.policy,
            passed=passed,
            detail=f"{bound.detail}: {count - bound.amount} of {bound.limit} used",
            channel=channel,
            count=count,
            limit=bound.limit,
            clear_us=day_begins_us(day + 1, rulebase.time_zone) if frees else 0,
        )
        yield Ruling(check, bound.reason, bound.otherwise, spread=True)


def counters_of(rulebase: Rulebase, campaign: Campaign, day: int) -> set[UsageKey]:
    """The counters that `quota_rulings` may read for the campaign on that day, on any of its channels."""
    return {
        bound.counter
        for channel in campaign.channels
        for bound in _bounds(rulebase, campaign, channel, day)
    }


def _bounds(rulebase: Rulebase, campaign: Campaign, channel: str, day: int) -> list[_Bound]:
    bounds = []
    quota, carrier = campaign.quota, rulebase.vocabulary.channels[channel]
    if quota is not None:
        for detail, kind, period, amount, limit in (
            ("per_day", UsageKind.CAMPAIGN_DAY, day, 1, quota.per_day),
            ("total", UsageKind.CAMPAIGN_TOTAL, 0, 1, quota.total),
            ("budget", UsageKind.CAMPAIGN_COST, 0, carrier.cost, quota.budget),
        ):
            if limit is not None:
                counter, daily = UsageKey(kind, campaign.name, period), detail == "per_day"
                bounds.append(
                    _Bound("quota", detail, Reason.QUOTA, counter, amount, limit, daily, quota.otherwise)
                )
    if carrier.per_day is not None:
        counter, otherwise = UsageKey(UsageKind.CHANNEL_DAY, channel, day), carrier.otherwise
        bounds.append(
            _Bound("capacity", "per_day", Reason.CAPACITY, counter, 1, carrier.per_day, True, otherwise)
        )
    return bounds
