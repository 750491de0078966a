"""Local time of subscribers: day numbers, minutes of the day and calendar periods, from instants."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from opportune_rulebase.policies import CalendarPeriod

DAY_US = 86_400_000_000
_MINUTE_US = 60_000_000
_QUARTER_US = 15 * _MINUTE_US
_QUARTERS = 96
"""In a day."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_DAY = date(1970, 1, 1).toordinal()


@lru_cache(maxsize=1024)
def zone_named(name: str) -> ZoneInfo | None:
    """The IANA zone, or None if there is no such zone."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None


# Offsets change on quarter hours only (the odd ones of the world are at :30 and :45), so one look-up
# a quarter hour and zone serves every event in it.
@lru_cache(maxsize=4096)
def _offset_us(zone: tzinfo, quarter: int) -> int:
    offset = (_EPOCH + timedelta(microseconds=quarter * _QUARTER_US)).astimezone(zone).utcoffset()
    return (offset or timedelta()) // timedelta(microseconds=1)


def local_us(at_us: int, zone: tzinfo) -> int:
    """The instant shifted so that plain division gives local days and minutes."""
    return at_us + _offset_us(zone, at_us // _QUARTER_US)


def local_day(at_us: int, zone: tzinfo) -> int:
    """The local day's number, counted from 1970-01-01."""
    return local_us(at_us, zone) // DAY_US


def local_day_around(at_us: int, zone: tzinfo) -> tuple[int, int, int]:
    """The local day's number, and from when until before when it is known to be the same: for those who ask
    of many instants, most of them close together."""
    quarter = at_us // _QUARTER_US
    offset_us = _offset_us(zone, quarter)
    day = (at_us + offset_us) // DAY_US
    begins_us = day * DAY_US - offset_us
    return (
        day,
        max(quarter * _QUARTER_US, begins_us),
        min((quarter + 1) * _QUARTER_US, begins_us + DAY_US),
    )


def local_minute(at_us: int, zone: tzinfo) -> int:
    """Minutes since local midnight by the wall clock, 0 to 1439."""
    return local_us(at_us, zone) % DAY_US // _MINUTE_US


def weekday(day: int) -> int:
    """0 for Monday. 1970-01-01 was a Thursday."""
    return (day + 3) % 7


def instant_of(day: int, minute: int, zone: tzinfo) -> int:
    """When a local day's wall clock shows `minute`. Where the clock skips it, somewhat earlier."""
    local = datetime.combine(date_of(day), time(minute // 60, minute % 60), zone)
    at_us = (local - _EPOCH) // timedelta(microseconds=1)
    return at_us - (local_minute(at_us, zone) - minute) % 1440 * _MINUTE_US


def day_begins_us(day: int, zone: tzinfo) -> int:
    """The first instant of a local day. Where the clock skips midnight, later than that."""
    midnights = (day * DAY_US - offset_us for offset_us in _offsets_around(day, zone))
    return min(at_us for at_us in midnights if local_day(at_us, zone) >= day)


def turns_us(day: int, minutes: Iterable[int], zone: tzinfo) -> list[int]:
    """Instants of a local day, in order, at which its wall clock may come to one of `minutes` (0 to 1439),
    or past one: from each to the next it runs evenly and comes to none."""
    offsets = _offsets_around(day, zone)
    turns = {day * DAY_US + minute * _MINUTE_US - offset_us for minute in minutes for offset_us in offsets}
    if len(offsets) > 1:  # the clocks change at some quarter of an hour
        turns.update(
            quarter * _QUARTER_US for quarter in range((day - 1) * _QUARTERS, (day + 2) * _QUARTERS)
        )
    return sorted(at_us for at_us in turns if local_day(at_us, zone) == day)


def _offsets_around(day: int, zone: tzinfo) -> set[int]:
    """The zone's offsets from UTC at and around a local day: more than one if the clocks change."""
    return {_offset_us(zone, (day - 1) * _QUARTERS), _offset_us(zone, (day + 2) * _QUARTERS)}


def date_of(day: int) -> date:
    """The date of a day's number."""
    return date.fromordinal(_EPOCH_DAY + day)


def period_begins(period: CalendarPeriod, day: int) -> int:
    """The first day of the week (from Monday) or month that the day is in; the day itself for a day."""
    if period is CalendarPeriod.DAY:
        return day
    if period is CalendarPeriod.WEEK:
        return day - weekday(day)
    return day - date_of(day).day + 1


def period_ends_us(period: CalendarPeriod, at_us: int, zone: tzinfo) -> int:
    """The first instant after the local day, week or month that the instant is in."""
    first = period_begins(period, local_day(at_us, zone))
    # The first day of a period that lies 31 days on is that of the next month.
    days = {CalendarPeriod.DAY: 1, CalendarPeriod.WEEK: 7, CalendarPeriod.MONTH: 31}[period]
    return day_begins_us(period_begins(period, first + days), zone)


def same_period(period: CalendarPeriod, one_us: int, other_us: int, zone: tzinfo) -> bool:
    """Whether both instants fall into the same local day, week (from Monday) or month."""
    one, other = local_day(one_us, zone), local_day(other_us, zone)
    return period_begins(period, one) == period_begins(period, other)
