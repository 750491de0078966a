"""What a moment is decided by, and what a single policy says to it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import tzinfo
from typing import NamedTuple

from opportune_rulebase.model import Campaign, Rulebase
from opportune_rulebase.policies import Fate

from opportune_service.core.calendars import local_day, zone_named
from opportune_service.core.verdict import Candidate, Check, History, Moment, Reason, Usage


@dataclass(frozen=True, slots=True)
class Situation:
    """All that one moment is decided by. `history` and `usage` change as decisions reserve.

    `zone`: the subscriber's, else the operator's. `day`: the local day number in the rulebase's zone.
    """

    rulebase: Rulebase
    moment: Moment
    history: History
    usage: Usage
    paused: Collection[str]
    zone: tzinfo
    day: int

    @classmethod
    def of(
        cls, rulebase: Rulebase, moment: Moment, history: History, usage: Usage, paused: Collection[str]
    ) -> Situation:
        zone = zone_named(moment.profile.zone) or rulebase.time_zone
        day = local_day(moment.now_us, rulebase.time_zone)
        return cls(rulebase, moment, history, usage, paused, zone, day)


class Ruling(NamedTuple):
    """What a policy says to a contact on a channel. If it does not let it pass: for which reason, and with
    which fate. `spread`: many wait for the instant at which it lets them pass."""

    check: Check
    reason: Reason
    fate: Fate
    spread: bool


@dataclass(slots=True)
class Contender:
    """A candidate on its way. `checks` grows. `lapses_us`: when the offer is over, however often it is
    deferred until then. `score` is the campaign's value times `propensity`. `rank` as in `Decision`."""

    campaign: Campaign
    candidate: Candidate
    propensity: float
    score: float
    lapses_us: int
    checks: list[Check]
    rank: int = 0


def contender_of(situation: Situation, candidate: Candidate) -> Contender:
    campaign = situation.rulebase.campaigns[candidate.campaign]
    propensity = candidate.propensity
    if propensity is None:
        propensity = situation.rulebase.policies.default_propensity
    lapses_us = candidate.expires_us or situation.moment.now_us + campaign.expires_after_us
    return Contender(campaign, candidate, propensity, campaign.value * propensity, lapses_us, [])
