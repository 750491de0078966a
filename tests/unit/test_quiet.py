"""Quiet hours: across midnight, by kinds of days, when the clocks change; when they begin and end."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from opportune_rulebase.model import Calendar, Rulebase
from opportune_rulebase.policies import DayKind, Policies, QuietHours, Selector
from opportune_service.core.quiet import quiet_begins_us, quiet_ends_us, quiet_refusal
from support.rulebases import make_rulebase

MINUTE_US = 60_000_000
SHANGHAI = ZoneInfo("Asia/Shanghai")
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
DAILY = frozenset(range(7))


def at(text: str, zone: str = "Asia/Shanghai") -> int:
    """The instant of a local wall clock time."""
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()) * 1_000_000


def window(start: str, end: str, days: Iterable[int] = DAILY, *kinds: DayKind) -> QuietHours:
    def minute(clock: str) -> int:
        return int(clock[:2]) * 60 + int(clock[3:])

    return QuietHours(
        start, "", minute(start), minute(end), frozenset(days), Selector(), kinds=frozenset(kinds)
    )


def rulebase(*windows: QuietHours, calendar: Calendar | None = None) -> Rulebase:
    return make_rulebase(
        events={"sms_sent": {}},
        campaigns={"offer": {"channels": ("sms", "mms")}},
        policies=Policies(quiet_hours=windows),
        calendar=calendar,
    )


def quiet(base: Rulebase, at_us: int, zone: ZoneInfo = SHANGHAI) -> bool:
    return quiet_refusal(base, base.campaigns["offer"], "sms", at_us, zone) is not None


FRIDAY_NIGHTS = rulebase(window("21:00", "08:00", {4}))


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        ("2026-11-20T20:59:59", False),  # Friday
        ("2026-11-20T21:00:00", True),
        ("2026-11-21T07:59:59", True),  # Saturday morning belongs to Friday's window
        ("2026-11-21T08:00:00", False),
        ("2026-11-21T21:30:00", False),
        ("2026-11-20T07:00:00", False),  # Friday morning would belong to Thursday's
    ],
)
def test_a_window_across_midnight_belongs_to_the_day_it_starts_on(when: str, expected: bool) -> None:
    assert quiet(FRIDAY_NIGHTS, at(when)) is expected


def test_a_window_may_last_to_the_end_of_the_day_or_all_day() -> None:
    evening = rulebase(window("21:00", "24:00", {4}))
    assert quiet(evening, at("2026-11-20T23:59:59"))
    assert not quiet(evening, at("2026-11-21T00:00:00"))
    fridays = rulebase(window("00:00", "24:00", {4}))
    offer = fridays.campaigns["offer"]
    friday, saturday = at("2026-11-20T00:00:00"), at("2026-11-21T00:00:00")
    assert quiet_begins_us(fridays, offer, "sms", friday - 1, saturday, SHANGHAI) == friday
    assert quiet_ends_us(fridays, offer, "sms", friday, saturday + MINUTE_US, SHANGHAI) == saturday


GOLDEN_WEEK = Calendar(
    country="CN",
    holidays={date(2026, 10, day): "National Day" for day in range(1, 8)},
    workdays=frozenset({date(2026, 10, 10)}),  # a Saturday that is worked
    first=date(2026, 1, 1),
    last=date(2026, 12, 31),
)


@pytest.mark.parametrize(
    ("kind", "when", "expected"),
    [
        (DayKind.HOLIDAY, "2026-10-01T12:30:00", True),
        (DayKind.HOLIDAY, "2026-10-08T12:30:00", False),
        (DayKind.HOLIDAY, "2026-10-10T12:30:00", False),
        (DayKind.WORKDAY, "2026-10-01T12:30:00", False),
        (DayKind.WORKDAY, "2026-10-08T12:30:00", True),
        (DayKind.WORKDAY, "2026-10-10T12:30:00", True),
        (DayKind.WORKDAY, "2026-10-11T12:30:00", False),
        (DayKind.HOLIDAY, "2027-01-04T12:30:00", True),  # not known: in doubt, it is quiet
        (DayKind.WORKDAY, "2027-01-03T12:30:00", True),
    ],
)
def test_kinds_of_days(kind: DayKind, when: str, expected: bool) -> None:
    assert quiet(rulebase(window("12:00", "14:00", (), kind), calendar=GOLDEN_WEEK), at(when)) is expected


def test_weekdays_and_kinds_add_up() -> None:
    base = rulebase(window("12:00", "14:00", {3}, DayKind.HOLIDAY), calendar=GOLDEN_WEEK)
    assert quiet(base, at("2026-10-02T12:30:00")), "a holiday, and a Friday"
    assert quiet(base, at("2026-10-08T12:30:00")), "a Thursday, and no holiday"
    assert not quiet(base, at("2026-10-09T12:30:00"))


def test_the_night_before_a_holiday_ends_with_the_window_that_began_on_it() -> None:
    base = rulebase(window("22:00", "07:00", (), DayKind.HOLIDAY), calendar=GOLDEN_WEEK)
    assert not quiet(base, at("2026-10-01T06:00:00")), "belongs to 30 September"
    assert quiet(base, at("2026-10-08T06:59:00")), "belongs to the last holiday"


def test_windows_that_follow_each_other_end_together() -> None:
    base = rulebase(window("21:00", "08:00"), window("07:00", "09:30"))
    offer, night = base.campaigns["offer"], at("2026-11-20T23:00:00")
    ends_us = quiet_ends_us(base, offer, "sms", night, night + 10**12, SHANGHAI)
    assert ends_us == at("2026-11-21T09:30:00")


def test_windows_of_other_channels_do_not_bind() -> None:
    night = window("21:00", "08:00")
    only_mms = QuietHours(
        "n", "", night.start_minute, night.end_minute, DAILY, Selector(channels=frozenset({"mms"}))
    )
    base = rulebase(only_mms)
    offer, late = base.campaigns["offer"], at("2026-11-20T23:00:00")
    assert quiet_refusal(base, offer, "sms", late, SHANGHAI) is None
    assert quiet_refusal(base, offer, "mms", late, SHANGHAI) is only_mms
    assert quiet_begins_us(base, offer, "sms", at("2026-11-20T20:00:00"), late, SHANGHAI) == late


@pytest.mark.parametrize(
    ("when", "ends"),
    [
        ("2026-03-08T00:30:00", "2026-03-08T08:00:00"),  # the night has an hour less
        ("2026-11-01T00:30:00", "2026-11-01T08:00:00"),  # and here an hour more
    ],
)
def test_quiet_hours_follow_the_wall_clock_when_the_clocks_change(when: str, ends: str) -> None:
    base, zone = rulebase(window("21:00", "08:00")), ZoneInfo("America/New_York")
    morning = at(ends, "America/New_York")
    assert quiet(base, morning - 1, zone)
    assert not quiet(base, morning, zone)
    offer, night = base.campaigns["offer"], at(when, "America/New_York")
    assert quiet_ends_us(base, offer, "sms", night, night + 10**11, zone) == morning


def test_a_window_that_the_clock_skips_binds_for_what_is_left_of_it() -> None:
    """01:30 to 02:30 in New York, on the day when 02:00 is followed by 03:00."""
    base, zone = rulebase(window("01:30", "02:30")), ZoneInfo("America/New_York")
    offer, begins = base.campaigns["offer"], at("2026-03-08T01:30:00", "America/New_York")
    after = begins + 30 * MINUTE_US
    assert quiet_begins_us(base, offer, "sms", begins - 1, after, zone) == begins
    assert quiet_ends_us(base, offer, "sms", begins, after + MINUTE_US, zone) == after


def test_a_window_that_the_clock_shows_twice_binds_twice() -> None:
    """01:00 to 01:30 in New York, on the day when 02:00 is followed by 01:00."""
    base, zone = rulebase(window("01:00", "01:30")), ZoneInfo("America/New_York")
    offer, first = base.campaigns["offer"], at("2026-11-01T01:00:00", "America/New_York")
    half_hour = 30 * MINUTE_US
    assert quiet_ends_us(base, offer, "sms", first, first + 10**11, zone) == first + half_hour
    again = quiet_begins_us(base, offer, "sms", first + half_hour, first + 10**11, zone)
    assert again == first + 2 * half_hour


@settings(deadline=None)  # it looks at every minute of days
@given(
    st.one_of(
        st.integers(1_500_000_000, 1_800_000_000),
        # New York, Lord Howe, Casablanca, Sao Paulo and Havana change their clocks soon after these.
        st.sampled_from([1772900000, 1793440000, 1775280000, 1771120000, 1541230000, 1793500000]),
    ),
    st.sampled_from(ZONES),
    st.lists(
        st.tuples(st.integers(0, 1439), st.integers(0, 1440), st.sets(st.integers(0, 6)), st.booleans()),
        min_size=1,
        max_size=3,
    ),
)
def test_they_begin_and_end_when_a_look_at_every_minute_says_so(
    at_s: int, name: str, drawn: list[tuple[int, int, set[int], bool]]
) -> None:
    assume(all(start != end % 1440 for start, end, _, _ in drawn))
    zone, now_us = ZoneInfo(name), at_s // 60 * MINUTE_US
    windows = [
        QuietHours(
            f"w{n}", "", start, end, frozenset(days), Selector(), frozenset([DayKind.WORKDAY] * works)
        )
        for n, (start, end, days, works) in enumerate(drawn)
    ]
    base = rulebase(*windows)
    offer, until_us = base.campaigns["offer"], now_us + 50 * 60 * MINUTE_US
    asleep = _naively_quiet(windows, now_us, zone)
    assert quiet(base, now_us, zone) is asleep
    turn = next(
        (
            minute_us
            for minute_us in range(now_us + MINUTE_US, until_us, MINUTE_US)
            if _naively_quiet(windows, minute_us, zone) is not asleep
        ),
        until_us,
    )
    find = quiet_ends_us if asleep else quiet_begins_us
    assert find(base, offer, "sms", now_us, until_us, zone) == turn


def _naively_quiet(windows: list[QuietHours], at_us: int, zone: ZoneInfo) -> bool:
    local = datetime.fromtimestamp(at_us // 1_000_000, zone)
    clock, today = local.hour * 60 + local.minute, local.date()

    def starts(window: QuietHours, day: date) -> bool:
        return day.weekday() in window.weekdays or (bool(window.kinds) and day.weekday() < 5)

    return any(
        starts(each, today) and each.start_minute <= clock < each.end_minute
        if each.start_minute < each.end_minute
        else (starts(each, today) and clock >= each.start_minute)
        or (starts(each, today - timedelta(days=1)) and clock < each.end_minute)
        for each in windows
    )
