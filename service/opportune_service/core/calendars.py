"""Local time of subscribers: day numbers, minutes of the day and calendar periods, from instants."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from opportune_rulebase.policies import CalendarPeriod

DAY_US = 86_400_000_000
_QUARTER_US = 900_000_000
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
    return (at_us + _offset_us(zone, at_us // _QUARTER_US)) // DAY_US  # as `local_us`; every event asks


def local_minute(at_us: int, zone: tzinfo) -> int:
    """Minutes since local midnight by the wall clock, 0 to 1439."""
    return local_us(at_us, zone) % DAY_US // 60_000_000


def weekday(day: int) -> int:
    """0 for Monday. 1970-01-01 was a Thursday."""
    return (day + 3) % 7


def instant_of(day: int, minute: int, zone: tzinfo) -> int:
    """When a local day's wall clock shows `minute`. Where the clock skips it, somewhat earlier."""
    local = datetime.combine(date.fromordinal(_EPOCH_DAY + day), time(minute // 60, minute % 60), zone)
    at_us = (local - _EPOCH) // timedelta(microseconds=1)
    return at_us - (local_minute(at_us, zone) - minute) % 1440 * 60_000_000


def same_period(period: CalendarPeriod, one_us: int, other_us: int, zone: tzinfo) -> bool:
    """Whether both instants fall into the same local day, week (from Monday) or month."""
    one, other = local_day(one_us, zone), local_day(other_us, zone)
    if period is CalendarPeriod.DAY:
        return one == other
    if period is CalendarPeriod.WEEK:
        return one - weekday(one) == other - weekday(other)
    first, second = date.fromordinal(_EPOCH_DAY + one), date.fromordinal(_EPOCH_DAY + other)
    return (first.year, first.month) == (second.year, second.month)
