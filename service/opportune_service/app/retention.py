"""How long the ledger keeps what: as long as the settings say, and never less than the rulebase needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from opportune_service.app.records import Kept
from opportune_service.core.backfill import fillable
from opportune_service.core.calendars import DAY_US
from opportune_service.core.revision import Revision

_SLACK_DAYS = 3
"""Kept beyond what any window or policy looks back: time zones, late events, clocks that are ahead, and the
whole days in which pruning goes."""


class Keep(NamedTuple):
    """Days for which an operator wants to keep things: the log of events; what was decided and what came of
    it; what people did."""

    log_days: int
    history_days: int
    audit_days: int


class Horizon(NamedTuple):
    """What is from before `before_us`, the beginning of a day (UTC), goes. `setting`: what asks for it;
    `days`: for how long things are kept; `wanted_days`: what the setting says, less if the rulebase needs
    more."""

    before_us: int
    setting: str
    days: int
    wanted_days: int


def horizons(revision: Revision, keep: Keep, now_us: int) -> Mapping[Kept, Horizon]:
    """Of each kind, as of now."""
    log_days = _days(_longest_window_us(revision))
    history_days = max(_days(history_needed_us(revision)), _SLACK_DAYS)

    def horizon(setting: str, wanted_days: int, floor_days: int) -> Horizon:
        days = max(wanted_days, floor_days)
        return Horizon((now_us // DAY_US - days) * DAY_US, setting, days, wanted_days)

    log = horizon("keep_log_days", keep.log_days, log_days)
    history = horizon("keep_history_days", keep.history_days, history_days)
    audit = horizon("keep_audit_days", keep.audit_days, 0)
    return {
        Kept.LOG: log,
        Kept.QUARANTINE: horizon("keep_log_days", keep.log_days, 0),
        Kept.HISTORY: history,
        Kept.CONTACTS: history,
        Kept.TOUCHES: history,
        Kept.EVENT_COUNTS: history,
        # Only those of the present are read.
        Kept.USAGE: horizon("keep_log_days", max(keep.log_days, _SLACK_DAYS), 0),
        Kept.AUDIT: audit,
    }


def history_needed_us(revision: Revision) -> int:
    """How far back anything looks that is decided, answered or watched under this revision."""
    rulebases = [each.rulebase for each in revision.side_by_side]
    campaigns = [campaign for rulebase in rulebases for campaign in rulebase.campaigns.values()]
    alarms = [rulebase.policies.alarm for rulebase in rulebases]
    alarms += [each.alarm for each in campaigns if each.alarm]
    return max(
        *(each.lookback_us for each in revision.side_by_side),
        *(each.conversion.within_us for each in campaigns if each.conversion),
        *(alarm.within_us for alarm in alarms),
    )


def _longest_window_us(revision: Revision) -> int:
    """Of the metrics that the log can fill: a revision to come may ask for as much anew."""
    return max(
        (
            metric.last_us or (metric.days or 0) * DAY_US
            for each in revision.side_by_side
            for metric in each.rulebase.metrics.values()
            if fillable(metric, each.rulebase.vocabulary)
        ),
        default=0,
    )


def _days(span_us: int) -> int:
    return -(-span_us // DAY_US) + _SLACK_DAYS if span_us else 0
