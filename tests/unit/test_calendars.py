"""Local days, weeks and months, also when the clocks change."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opportune_rulebase.policies import CalendarPeriod
from opportune_service.core.calendars import (
    day_begins_us,
    local_day,
    local_minute,
    period_ends_us,
    same_period,
    weekday,
    zone_named,
)

ZONES = [
    "UTC",
    "Asia/Shanghai",
    "America/New_York",
    "Australia/Lord_Howe",
    "Asia/Kathmandu",
    "Africa/Casablanca",
    "America/Sao_Paulo",
    "America/Havana",
]


def at(text: str, zone: str) -> int:
    """The instant of a local wall clock time."""
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()) * 1_000_000


@given(st.integers(0, 4_102_444_800_000_000), st.sampled_from(ZONES))
def test_local_day_and_minute_are_those_of_the_standard_library(at_us: int, name: str) -> None:
    zone = ZoneInfo(name)
    local = datetime.fromtimestamp(at_us // 1_000_000, UTC).astimezone(zone)
    assert local_day(at_us, zone) == local.date().toordinal() - datetime(1970, 1, 1, tzinfo=UTC).toordinal()
    assert local_minute(at_us, zone) == local.hour * 60 + local.minute
    assert weekday(local_day(at_us, zone)) == local.weekday()


@pytest.mark.parametrize(
    ("period", "other", "same"),
    [
        (CalendarPeriod.DAY, "2026-11-18T23:59:59", True),
        (CalendarPeriod.DAY, "2026-11-19T00:00:00", False),
        (CalendarPeriod.WEEK, "2026-11-16T00:00:00", True),
        (CalendarPeriod.WEEK, "2026-11-22T23:59:59", True),
        (CalendarPeriod.WEEK, "2026-11-15T23:59:59", False),
        (CalendarPeriod.MONTH, "2026-11-01T00:00:00", True),
        (CalendarPeriod.MONTH, "2026-10-31T23:59:59", False),
    ],
)
def test_calendar_periods(period: CalendarPeriod, other: str, same: bool) -> None:
    wednesday = at("2026-11-18T12:00:00", "Asia/Shanghai")
    assert same_period(period, wednesday, at(other, "Asia/Shanghai"), ZoneInfo("Asia/Shanghai")) is same


@pytest.mark.parametrize(
    ("period", "when", "ends", "zone"),
    [
        (CalendarPeriod.DAY, "2026-11-18T12:00:00", "2026-11-19T00:00:00", "Asia/Shanghai"),
        (CalendarPeriod.DAY, "2026-11-18T00:00:00", "2026-11-19T00:00:00", "Asia/Shanghai"),
        (CalendarPeriod.WEEK, "2026-11-18T12:00:00", "2026-11-23T00:00:00", "Asia/Shanghai"),
        (CalendarPeriod.WEEK, "2026-11-22T23:59:59", "2026-11-23T00:00:00", "Asia/Shanghai"),
        (CalendarPeriod.MONTH, "2026-11-01T00:00:00", "2026-12-01T00:00:00", "Asia/Shanghai"),
        (CalendarPeriod.MONTH, "2026-12-31T23:59:59", "2027-01-01T00:00:00", "Asia/Shanghai"),
        (CalendarPeriod.MONTH, "2027-02-28T23:59:59", "2027-03-01T00:00:00", "Asia/Shanghai"),
        (CalendarPeriod.MONTH, "2028-02-28T23:59:59", "2028-03-01T00:00:00", "Asia/Shanghai"),
        (CalendarPeriod.MONTH, "2028-01-31T12:00:00", "2028-02-01T00:00:00", "Asia/Shanghai"),
        # A day of 23 hours, one of 25, one without a midnight, and one that has it twice.
        (CalendarPeriod.DAY, "2026-03-08T00:30:00", "2026-03-09T00:00:00", "America/New_York"),
        (CalendarPeriod.DAY, "2026-11-01T00:30:00", "2026-11-02T00:00:00", "America/New_York"),
        (CalendarPeriod.DAY, "2018-11-03T12:00:00", "2018-11-04T01:00:00", "America/Sao_Paulo"),
        (CalendarPeriod.DAY, "2026-10-31T12:00:00", "2026-11-01T00:00:00", "America/Havana"),
    ],
)
def test_calendar_periods_end(period: CalendarPeriod, when: str, ends: str, zone: str) -> None:
    assert period_ends_us(period, at(when, zone), ZoneInfo(zone)) == at(ends, zone)


@given(st.integers(0, 4_102_444_800), st.sampled_from(ZONES), st.sampled_from(CalendarPeriod))
def test_what_ends_a_period_is_the_first_instant_of_another(
    at_s: int, name: str, period: CalendarPeriod
) -> None:
    zone, at_us = ZoneInfo(name), at_s * 1_000_000
    ends_us = period_ends_us(period, at_us, zone)
    assert ends_us > at_us
    assert same_period(period, at_us, ends_us - 1, zone)
    assert not same_period(period, at_us, ends_us, zone)


@given(st.integers(0, 47_480), st.sampled_from(ZONES))
def test_a_day_begins_where_a_look_at_every_quarter_of_an_hour_says_so(day: int, name: str) -> None:
    zone = ZoneInfo(name)
    midnight_utc = day * 96
    quarters = (quarter * 900_000_000 for quarter in range(midnight_utc - 96, midnight_utc + 96))
    assert day_begins_us(day, zone) == next(each for each in quarters if local_day(each, zone) == day)


def test_an_unknown_zone_is_not_a_zone() -> None:
    assert zone_named("Mars/Olympus") is None
    assert zone_named("../../etc/passwd") is None
    assert zone_named("Asia/Shanghai") == ZoneInfo("Asia/Shanghai")
