"""Alarms: a campaign that is complained of too much, or contacts too many, pauses itself and says so.

It is checked in the transaction of what raises it, so the next decision sees the pause. An operator resumes
the campaign; what raised an alarm before that may raise it again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from opportune_rulebase.model import Rulebase
from opportune_rulebase.policies import Alarm, OutcomeKind

from opportune_service.app.ports import LedgerTransaction
from opportune_service.app.records import Pause
from opportune_service.core.verdict import (
    Decision,
    Moment,
    Outcome,
    Reason,
    Usage,
    UsageKey,
    UsageKind,
    Verdict,
)

log = logging.getLogger(__name__)

ALARM = "alarm"
"""Who pauses a campaign that pauses itself."""

_HOUR_US = 3_600_000_000


def alarm_of(rulebase: Rulebase, campaign: str) -> Alarm:
    """When the campaign pauses itself; that of the policies if it has none of its own."""
    found = rulebase.campaigns.get(campaign)
    return found.alarm if found and found.alarm else rulebase.policies.alarm


def hours_watched(rulebase: Rulebase, moment: Moment) -> set[UsageKey]:
    """The counters that `too_many` reads after the moment was decided."""
    return {
        _hour_of(candidate.campaign, moment.now_us)
        for candidate in moment.candidates
        if alarm_of(rulebase, candidate.campaign).per_hour is not None
    }


def _hour_of(campaign: str, at_us: int) -> UsageKey:
    return UsageKey(UsageKind.CAMPAIGN_HOUR, campaign, at_us // _HOUR_US)


def too_many(rulebase: Rulebase, verdict: Verdict, usage: Usage) -> list[Pause]:
    """Pauses of the campaigns that have contacted too many with this verdict, which `usage` includes."""
    return [
        pause
        for decision in verdict.decisions
        if decision.reserves and decision.reason is Reason.DECIDED
        if (pause := _too_many(rulebase, decision, verdict.decided_at_us, usage)) is not None
    ]


def _too_many(rulebase: Rulebase, decision: Decision, at_us: int, usage: Usage) -> Pause | None:
    limit = alarm_of(rulebase, decision.campaign).per_hour
    count = usage.get(_hour_of(decision.campaign, at_us), 0)
    if limit is None or count <= limit:
        return None
    return Pause(
        decision.campaign, at_us, ALARM, f"{count} contacts within the hour; its alarm is set to {limit}"
    )


def pause_complained_of(
    tx: LedgerTransaction, rulebase: Rulebase, outcomes: Iterable[Outcome], now_us: int
) -> list[Pause]:
    """Pause the campaigns that are complained of too much, now that these outcomes are noted; the pauses
    that were not in force already. `tell` of them when the transaction has ended."""
    complained = {outcome.campaign for outcome in outcomes if outcome.kind is OutcomeKind.COMPLAINED}
    pauses = (_complained_of(tx, rulebase, campaign, now_us) for campaign in sorted(complained))
    return [pause for pause in pauses if pause is not None and tx.pause(pause)]


def _complained_of(tx: LedgerTransaction, rulebase: Rulebase, campaign: str, now_us: int) -> Pause | None:
    alarm = alarm_of(rulebase, campaign)
    if alarm.complaint_rate is None:
        return None
    contacts, complaints = tx.complaint_rate(campaign, now_us - alarm.within_us)
    if contacts < alarm.at_least or complaints <= alarm.complaint_rate * contacts:
        return None
    share = f"{complaints / contacts:.1%} of {contacts} contacts were complained of"
    return Pause(campaign, now_us, ALARM, f"{share}; its alarm is set to {alarm.complaint_rate:.1%}")


def tell(pauses: Iterable[Pause]) -> None:
    """Say that campaigns have paused themselves."""
    for pause in pauses:
        log.warning("campaign %s has paused itself: %s", pause.campaign, pause.reason)
