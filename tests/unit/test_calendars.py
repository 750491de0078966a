"""Local days, weeks and months; quiet hours across midnight and across a change of the clocks."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from opportune_rulebase.policies import CalendarPeriod, QuietHours, Selector
from opportune_service.core.calendars import local_day, local_minute, same_period, weekday, zone_named
from opportune_service.core.policies import quiet_begins_us, quiet_refusal
from support.rulebases import make_rulebase

OFFER = make_rulebase(events={"sms_sent": {}}, campaigns={"offer": {}}).campaigns["offer"]
ZONES = [
    "UTC",
    "Asia/Shanghai",
    "America/New_York",
    "Australia/Lord_Howe",
    "Asia/Kathmandu",
    "Africa/Casablanca",
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


NIGHT = QuietHours("night", "", 21 * 60, 8 * 60, frozenset({4}), Selector())  # starts on Fridays


@pytest.mark.parametrize(
    ("when", "quiet"),
    [
        ("2026-11-20T20:59:59", False),  # Friday
        ("2026-11-20T21:00:00", True),
        ("2026-11-21T07:59:59", True),  # Saturday morning belongs to Friday's window
        ("2026-11-21T08:00:00", False),
        ("2026-11-21T21:30:00", False),
        ("2026-11-20T07:00:00", False),  # Friday morning would belong to Thursday's
    ],
)
def test_a_window_across_midnight_belongs_to_the_day_it_starts_on(when: str, quiet: bool) -> None:
    zone = ZoneInfo("Asia/Shanghai")
    refusal = quiet_refusal([NIGHT], OFFER, "sms", at(when, "Asia/Shanghai"), zone)
    assert (refusal is not None) is quiet


def test_quiet_hours_follow_the_wall_clock_when_the_clocks_change() -> None:
    every_night = QuietHours("night", "", 21 * 60, 8 * 60, frozenset(range(7)), Selector())
    zone = ZoneInfo("America/New_York")
    spring_forward = at("2026-03-08T07:59:00", "America/New_York")  # the night has an hour less
    assert quiet_refusal([every_night], OFFER, "sms", spring_forward, zone)
    assert not quiet_refusal([every_night], OFFER, "sms", spring_forward + 60_000_000, zone)


@given(
    st.integers(1_700_000_000, 1_800_000_000),
    st.sampled_from(ZONES),
    st.integers(0, 1439),
    st.integers(0, 1439),
    st.sets(st.integers(0, 6)),
)
def test_quiet_hours_begin_when_a_look_at_every_minute_says_so(
    at_s: int, name: str, start: int, end: int, weekdays: set[int]
) -> None:
    """On days when the clocks change it may say so up to an hour too early, and never too late."""
    assume(start != end)
    zone = ZoneInfo(name)
    window = QuietHours("w", "", start, end, frozenset(weekdays), Selector())
    now_us = at_s // 60 * 60_000_000
    assume(quiet_refusal([window], OFFER, "sms", now_us, zone) is None)
    until_us = now_us + 30 * 3600 * 1_000_000
    minutes = range(now_us, until_us, 60_000_000)
    naive = next((m for m in minutes if quiet_refusal([window], OFFER, "sms", m, zone)), until_us)
    begins = quiet_begins_us([window], OFFER, "sms", now_us, until_us, zone)
    changes = len({datetime.fromtimestamp(m // 1_000_000, zone).utcoffset() for m in minutes}) > 1
    assert begins <= naive
    assert changes or begins == naive or not quiet_refusal([window], OFFER, "sms", begins, zone)


def test_an_unknown_zone_is_not_a_zone() -> None:
    assert zone_named("Mars/Olympus") is None
    assert zone_named("../../etc/passwd") is None
    assert zone_named("Asia/Shanghai") == ZoneInfo("Asia/Shanghai")
