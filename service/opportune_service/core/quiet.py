"""Quiet hours: whether an instant lies in them, and when they begin and end.

The same questions are asked when a contact is decided and before each lease of its delivery.
"""

from __future__ import annotations

from datetime import tzinfo

from opportune_rulebase.model import Calendar, Campaign, Rulebase
from opportune_rulebase.policies import DayKind, QuietHours

from opportune_service.core.calendars import date_of, local_day, local_minute, turns_us, weekday


def quiet_refusal(
    rulebase: Rulebase, campaign: Campaign, channel: str, at_us: int, zone: tzinfo
) -> QuietHours | None:
    """The quiet hours that forbid a contact of the campaign on the channel at that instant; None if there
    are none. `zone`: the subscriber's, or the operator's where that is not known."""
    windows = quiet_hours_of(rulebase, campaign, channel)
    return _quiet(windows, rulebase.calendar, at_us, zone)


def quiet_begins_us(
    rulebase: Rulebase, campaign: Campaign, channel: str, now_us: int, until_us: int, zone: tzinfo
) -> int:
    """When, after `now_us`, such a contact is first forbidden; `until_us` if not before that."""
    return _first_us(rulebase, campaign, channel, now_us, until_us, zone, quiet=True)


def quiet_ends_us(
    rulebase: Rulebase, campaign: Campaign, channel: str, now_us: int, until_us: int, zone: tzinfo
) -> int:
    """When, after `now_us`, which is in such quiet hours, a contact is first allowed; `until_us` if not
    before that."""
    return _first_us(rulebase, campaign, channel, now_us, until_us, zone, quiet=False)


def quiet_hours_of(rulebase: Rulebase, campaign: Campaign, channel: str) -> list[QuietHours]:
    """Those that bind such a contact."""
    return [
        window
        for window in rulebase.policies.quiet_hours
        if window.applies_to.selects(
            campaign=campaign.name,
            product=campaign.product,
            category=campaign.category,
            channel=channel,
            mode=campaign.mode,
        )
    ]


def _first_us(
    rulebase: Rulebase,
    campaign: Campaign,
    channel: str,
    now_us: int,
    until_us: int,
    zone: tzinfo,
    *,
    quiet: bool,
) -> int:
    windows = quiet_hours_of(rulebase, campaign, channel)
    if not windows and quiet:
        return until_us  # most have none
    minutes = {minute % 1440 for window in windows for minute in (window.start_minute, window.end_minute)}
    for day in range(local_day(now_us, zone), local_day(until_us, zone) + 1):
        for turn_us in turns_us(day, minutes, zone):
            if now_us < turn_us < until_us:
                forbids = _quiet(windows, rulebase.calendar, turn_us, zone) is not None
                if forbids is quiet:
                    return turn_us
    return until_us


def _quiet(windows: list[QuietHours], calendar: Calendar, at_us: int, zone: tzinfo) -> QuietHours | None:
    if not windows:
        return None
    minute, today = local_minute(at_us, zone), local_day(at_us, zone)
    for window in windows:
        start, end = window.start_minute, window.end_minute
        if start < end:
            inside = start <= minute < end and _starts_on(window, today, calendar)
        else:  # crosses midnight and belongs to the day it starts on
            inside = (minute >= start and _starts_on(window, today, calendar)) or (
                minute < end and _starts_on(window, today - 1, calendar)
            )
        if inside:
            return window
    return None


def _starts_on(window: QuietHours, day: int, calendar: Calendar) -> bool:
    if weekday(day) in window.weekdays:
        return True
    # None: the calendar does not know. In doubt it is quiet.
    return (DayKind.WORKDAY in window.kinds and calendar.is_workday(date_of(day)) is not False) or (
        DayKind.HOLIDAY in window.kinds and calendar.is_holiday(date_of(day)) is not False
    )
