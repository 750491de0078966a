"""When triggers are due, against an oracle that walks the wall clock minute by minute, or day by day."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opportune_rulebase.model import DateTrigger, ScheduleTrigger, Trigger
from opportune_service.core.schedule import due_at, due_instants, moments

DAY_US = 86_400_000_000
MINUTE_US = 60_000_000
ZONES = (
    "UTC",
    "Asia/Shanghai",
    "America/New_York",
    "America/Sao_Paulo",
    "Australia/Lord_Howe",
    "Pacific/Apia",
)


LEAPING = ("2027-02-28", "2027-03-01", "2028-02-28", "2028-02-29")


def us(text: str, zone: str = "UTC") -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()) * 1_000_000


def text(at_us: int, zone: str) -> str:
    return datetime.fromtimestamp(at_us // 1_000_000, ZoneInfo(zone)).strftime("%Y-%m-%d %H:%M")


def by_schedule(
    *,
    weekdays: tuple[int, ...] = (),
    month_days: tuple[int, ...] = (),
    on: date | None = None,
    at: int = 600,
) -> ScheduleTrigger:
    return ScheduleTrigger("t", frozenset(weekdays), frozenset(month_days), on, at)


def by_date(offset_days: int = 0, *, yearly: bool = False, at: int = 600) -> DateTrigger:
    return DateTrigger("t", "day", offset_days, yearly, at)


def wanted(trigger: Trigger, base: date, day: date) -> bool:
    """Whether it is due on the local day: by the words of the language, one day at a time."""
    if isinstance(trigger, DateTrigger):
        origin = day - timedelta(days=trigger.offset_days)
        if not trigger.yearly:
            return origin == base
        if (base.month, base.day) == (2, 29):
            after = origin + timedelta(days=1)
            return (origin.month, origin.day) == (2, 29) or (
                (origin.month, origin.day) == (2, 28) and after.day == 1
            )
        return (origin.month, origin.day) == (base.month, base.day)
    last = (day + timedelta(days=1)).day == 1
    return (
        (not trigger.weekdays or day.weekday() in trigger.weekdays)
        and (trigger.on_date is None or trigger.on_date == day)
        and (
            not trigger.month_days
            or day.day in trigger.month_days
            or (last and any(each > day.day for each in trigger.month_days))
        )
    )


def oracle(trigger: Trigger, base: date, zone: str, from_us: int, to_us: int) -> list[int]:
    """Looks at the wall clock at each minute: due where it first shows `at` on a day that is wanted."""
    found: dict[date, int] = {}
    tz = ZoneInfo(zone)
    # From earlier on, so that a day whose minute is shown twice is known by its first.
    for at_us in range(from_us - DAY_US, to_us + 1, MINUTE_US):
        local = datetime.fromtimestamp(at_us // 1_000_000, tz)
        if local.hour * 60 + local.minute == trigger.at_minute and wanted(trigger, base, local.date()):
            found.setdefault(local.date(), at_us)
    return sorted(at_us for at_us in found.values() if from_us < at_us <= to_us)


TRIGGERS = st.one_of(
    st.builds(
        ScheduleTrigger,
        name=st.just("t"),
        weekdays=st.frozensets(st.integers(0, 6)),
        month_days=st.frozensets(st.integers(1, 31), max_size=2),
        on_date=st.none() | st.dates(date(2026, 2, 20), date(2026, 3, 20)),
        at_minute=st.integers(4 * 60, 1439),
    ),
    st.builds(
        DateTrigger,
        name=st.just("t"),
        attribute=st.just("day"),
        offset_days=st.integers(-40, 40),
        yearly=st.booleans(),
        at_minute=st.integers(4 * 60, 1439),
    ),
)
"""Due after four in the morning: no clock of these zones skips or repeats anything later in the day."""


@given(
    TRIGGERS,
    st.dates(date(2026, 1, 15), date(2026, 4, 15)) | st.just(date(2024, 2, 29)),
    st.sampled_from(ZONES),
    st.integers(0, 20 * 1440),
    st.integers(0, 9 * 1440),
)
def test_due_where_a_walk_over_the_wall_clock_finds_it(
    trigger: Trigger, base: date, zone: str, start: int, minutes: int
) -> None:
    from_us = us("2026-02-20") + start * MINUTE_US
    to_us = from_us + minutes * MINUTE_US
    expected = oracle(trigger, base, zone, from_us, to_us)
    assert due_instants(trigger, {"day": base.isoformat()}, ZoneInfo(zone), from_us, to_us) == expected
    assert set(expected) <= set(moments(trigger, ZoneInfo(zone), from_us, to_us))


@given(
    TRIGGERS,
    st.dates(date(1950, 1, 1), date(2030, 1, 1)),
    st.sampled_from(ZONES),
    st.lists(st.integers(0, 4 * 366 * 1440), min_size=2, max_size=5),
)
def test_how_time_is_cut_up_does_not_matter(
    trigger: Trigger, base: date, zone: str, cuts: list[int]
) -> None:
    """Nobody is due twice or left out because the clock was looked at more or less often."""
    tz, context = ZoneInfo(zone), {"day": base.isoformat()}
    edges = [us("2009-01-01") + cut * MINUTE_US for cut in sorted(cuts)]
    pieces = [
        due
        for from_us, to_us in pairwise(edges)
        for due in due_instants(trigger, context, tz, from_us, to_us)
    ]
    assert pieces == due_instants(trigger, context, tz, edges[0], edges[-1])
    assert pieces == sorted(set(pieces))


@given(
    TRIGGERS,
    st.dates(date(2007, 1, 1), date(2013, 1, 1)) | st.sampled_from([date(2008, 2, 29), date(2009, 2, 28)]),
    st.sampled_from(ZONES),
    st.integers(0, 4 * 366),
)
def test_asked_for_one_instant_the_answer_is_the_same(
    trigger: Trigger, base: date, zone: str, day: int
) -> None:
    tz, context = ZoneInfo(zone), {"day": base.isoformat()}
    from_us = us("2009-01-01") + day * DAY_US
    for at_us in moments(by_schedule(at=trigger.at_minute), tz, from_us, from_us + 3 * DAY_US):
        due = bool(due_instants(trigger, context, tz, at_us - 1, at_us))
        assert due_at(trigger, tz, at_us)(context) is due
        assert not due_at(trigger, tz, at_us + MINUTE_US)(context)


def test_asked_for_one_instant_of_a_leap_day() -> None:
    """At ten on these days, for whoever was born on a 29 February; and for the day before, to compare."""
    is_due = [due_at(by_date(yearly=True), ZoneInfo("UTC"), us(f"{day}T10:00")) for day in LEAPING]
    assert [each({"day": "2024-02-29"}) for each in is_due] == [True, False, False, True]
    assert [each({"day": "2024-02-28"}) for each in is_due] == [True, False, True, False]


@pytest.mark.parametrize(
    ("zone", "at", "days", "due"),
    [
        # Skipped: the clock goes from 02:00 to 03:00.
        (
            "America/New_York", 150, ("2026-03-07", "2026-03-10"),
            ["2026-03-07 02:30", "2026-03-08 01:30", "2026-03-09 02:30"],
        ),
        # Shown twice: due the first time.
        (
            "America/New_York", 90, ("2026-10-31", "2026-11-03"),
            ["2026-10-31 01:30", "2026-11-01 01:30", "2026-11-02 01:30"],
        ),
        # Midnight itself skipped: due in the evening before.
        (
            "America/Sao_Paulo", 0, ("2018-11-03", "2018-11-05"),
            ["2018-11-03 23:00", "2018-11-05 00:00"],
        ),
        # A whole day left out: due with the day after it, once.
        ("Pacific/Apia", 600, ("2011-12-29", "2012-01-01"), ["2011-12-29 10:00", "2011-12-31 10:00"]),
    ],
)  # fmt: skip
def test_when_the_clocks_are_changed(zone: str, at: int, days: tuple[str, str], due: list[str]) -> None:
    from_us, to_us = (us(f"{day}T00:00", zone) for day in days)
    found = due_instants(by_schedule(at=at), {}, ZoneInfo(zone), from_us, to_us)
    assert [text(at_us, zone) for at_us in found] == due
    assert len({at_us // DAY_US for at_us in found}) == len(found)


def test_the_first_of_a_minute_shown_twice_is_the_earlier_instant() -> None:
    found = due_instants(
        by_schedule(at=90), {}, ZoneInfo("America/New_York"), us("2026-11-01T04:00"), us("2026-11-01T08:00")
    )
    assert found == [us("2026-11-01T05:30")]


def test_the_29th_of_february_is_the_28th_in_other_years() -> None:
    found = due_instants(
        by_date(yearly=True), {"day": "2024-02-29"}, ZoneInfo("UTC"), us("2026-01-01"), us("2029-01-01")
    )
    assert [text(each, "UTC") for each in found] == [
        "2026-02-28 10:00",
        "2027-02-28 10:00",
        "2028-02-29 10:00",
    ]


def test_the_31st_is_the_last_day_of_a_shorter_month() -> None:
    found = due_instants(
        by_schedule(month_days=(31,)), {}, ZoneInfo("UTC"), us("2027-01-15"), us("2027-05-01")
    )
    assert [text(each, "UTC")[:10] for each in found] == [
        "2027-01-31",
        "2027-02-28",
        "2027-03-31",
        "2027-04-30",
    ]


@pytest.mark.parametrize("value", [datetime(2026, 11, 19, 20, tzinfo=UTC), us("2026-11-19T20:00")])
def test_an_instant_counts_as_its_day_in_the_zone(value: object) -> None:
    found = due_instants(
        by_date(-1), {"day": value}, ZoneInfo("Asia/Shanghai"), us("2026-11-15"), us("2026-11-25")
    )
    assert [text(each, "Asia/Shanghai") for each in found] == ["2026-11-19 10:00"]


@pytest.mark.parametrize(
    "context",
    [
        {},
        {"day": None},
        {"day": "soon"},
        {"day": "2026-13-01"},
        {"day": "20261120"},
        {"day": True},
        {"day": 10**30},
        {"day": -(10**30)},
        {"day": ["2026-11-20"]},
        {"other": "2026-11-20"},
    ],
)
def test_without_a_date_that_can_be_read_nothing_is_due(context: Mapping[str, object]) -> None:
    for yearly in (False, True):
        trigger = by_date(yearly=yearly)
        assert due_instants(trigger, context, ZoneInfo("UTC"), us("2026-01-01"), us("2028-01-01")) == []


def test_dates_at_the_ends_of_the_calendar_do_no_harm() -> None:
    for day in ("0001-01-01", "9999-12-31"):
        for offset in (-400_000, 0, 400_000):
            for yearly in (False, True):
                trigger = by_date(offset, yearly=yearly)
                due_instants(trigger, {"day": day}, ZoneInfo("UTC"), us("2026-01-01"), us("2026-03-01"))


def test_control_the_oracle_tells_a_day_from_the_next() -> None:
    from_us, to_us = us("2026-03-01"), us("2026-03-05")
    assert oracle(by_date(1), date(2026, 3, 1), "UTC", from_us, to_us) == [us("2026-03-02T10:00")]
    assert oracle(by_date(2), date(2026, 3, 1), "UTC", from_us, to_us) == [us("2026-03-03T10:00")]
