"""Reports: how they are cut into periods, what capacity is of one, and what figures come to."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from textwrap import dedent
from typing import Any, cast
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opportune_rulebase import load
from opportune_rulebase.network import NetworkEngine
from opportune_rulebase.policies import OutcomeKind
from opportune_service.app.errors import InvalidRequestError, NoRulebaseError
from opportune_service.app.ledger_thread import LedgerThread
from opportune_service.app.ports import Ledger
from opportune_service.app.records import CampaignFigures, ChannelFigures
from opportune_service.app.report import MAX_PERIODS, Period, Report, report
from opportune_service.app.revisions import LiveRevision
from opportune_service.core.estimates import difference, share
from opportune_service.core.revision import Revision

HOUR_US = 3_600_000_000
ZONES = ("Asia/Shanghai", "Europe/Berlin", "Asia/Kolkata", "America/Havana", "Asia/Beirut")
"""Those of Havana and Beirut change their clocks at midnight."""


def live_in(zone: str) -> LiveRevision:
    def campaign(name: str, more: str) -> bytes:
        text = f"""\
            campaign: {name}
            label: The {name}
            product: bundle
            on: [call_made, power_on]
            mode: automatic
            channels: [sms]
            content: {{sms: "Hello"}}
            {more}
            """
        return dedent(text).encode()

    files = {
        "rulebase.yaml": f"rulebase: reported\ntime_zone: {zone}\n".encode(),
        "vocabulary.yaml": dedent(
            """\
            events: {call_made: {}, power_on: {}}
            subscriber: {age: int}
            channels: {sms: {mode: automatic, per_day: 1000}, push: {mode: automatic}}
            products: {bundle: {label: Bundle, category: data}}
            """
        ).encode(),
        "campaigns/offer.yaml": campaign("offer", "baseline: mass"),
        "campaigns/mass.yaml": campaign("mass", ""),
    }
    rulebase = load(files)
    live = LiveRevision()
    live.swap(Revision(rulebase, NetworkEngine(rulebase), {}, {}))
    return live


LIVE = {zone: live_in(zone) for zone in ZONES}


class FakeLedger:
    """Answers with the figures that it is given, and notes what it is asked."""

    def __init__(self, **figures: CampaignFigures) -> None:
        self.figures = figures
        self.periods: list[tuple[int, int]] = []
        self.triggers: list[list[str]] = []

    def campaign_figures(
        self, start_us: int, end_us: int, triggers: Mapping[str, Collection[str]]
    ) -> Sequence[CampaignFigures]:
        self.periods.append((start_us, end_us))
        self.triggers.append(list(triggers))
        assert all(list(types) == ["call_made", "power_on"] for types in triggers.values())
        return [self.figures.get(name) or figures(name, start_us, end_us) for name in triggers]

    def channel_figures(self, start_us: int, end_us: int) -> Sequence[ChannelFigures]:
        return [ChannelFigures(name, start_us, 7, 2) for name in ("gone", "push", "sms")]

    def contact_frequencies(self, start_us: int, end_us: int) -> Mapping[int, int]:
        return {1: 5, 3: 1}


def figures(name: str, start_us: int = 0, end_us: int = HOUR_US, **counts: Any) -> CampaignFigures:
    fields = dict.fromkeys(CampaignFigures.__struct_fields__, 0) | {
        **{"campaign": name, "start_us": start_us, "end_us": end_us, "lost": {}, "by_outcome": {}},
        **counts,
    }
    return CampaignFigures(**fields)


def made(
    start: datetime,
    end: datetime,
    period: Period,
    *,
    zone: str = "Asia/Shanghai",
    ledger: FakeLedger | None = None,
    campaigns: Sequence[str] = (),
) -> Report:
    async def body() -> Report:
        thread = LedgerThread()
        try:
            asked = cast("Ledger", ledger or FakeLedger())
            return await report(LIVE[zone], asked, thread, campaigns, us(start), us(end), period)
        finally:
            thread.close()

    return asyncio.run(body())


def us(at: datetime) -> int:
    return round(at.timestamp()) * 1_000_000


def cut(start: datetime, end: datetime, period: Period, zone: str) -> list[tuple[datetime, datetime]]:
    ledger = FakeLedger()
    made(start, end, period, zone=zone, ledger=ledger)
    return [(at(begin, zone), at(until, zone)) for begin, until in ledger.periods]


def at(instant_us: int, zone: str) -> datetime:
    return datetime.fromtimestamp(instant_us / 1e6, ZoneInfo(zone))


def local(zone: str, *when: int) -> datetime:
    return datetime(*when, tzinfo=ZoneInfo(zone))  # type: ignore[misc, arg-type]


def test_days_begin_at_midnight_and_the_ends_are_those_of_the_report() -> None:
    zone = "Asia/Shanghai"
    start, end = local(zone, 2026, 11, 20, 15, 30), local(zone, 2026, 11, 22, 4)
    assert cut(start, end, Period.DAY, zone) == [
        (start, local(zone, 2026, 11, 21)),
        (local(zone, 2026, 11, 21), local(zone, 2026, 11, 22)),
        (local(zone, 2026, 11, 22), end),
    ]
    assert cut(start, end, Period.WHOLE, zone) == [(start, end)]


def test_weeks_begin_on_monday() -> None:
    zone = "Europe/Berlin"
    start, end = local(zone, 2026, 10, 21), local(zone, 2026, 11, 5)
    assert [begin for begin, _ in cut(start, end, Period.WEEK, zone)] == [
        start,
        local(zone, 2026, 10, 26),
        local(zone, 2026, 11, 2),
    ]


def test_a_day_is_as_long_as_the_clocks_make_it() -> None:
    zone = "Europe/Berlin"
    start, end = local(zone, 2026, 10, 24), local(zone, 2026, 10, 27)
    days = cut(start, end, Period.DAY, zone)
    assert [(until.astimezone(UTC) - begin.astimezone(UTC)) for begin, until in days] == [
        timedelta(hours=24),
        timedelta(hours=25),
        timedelta(hours=24),
    ]
    assert len(cut(start, end, Period.HOUR, zone)) == 73


@pytest.mark.parametrize(
    ("zone", "day"), [("America/Havana", (2026, 3, 8)), ("Asia/Beirut", (2026, 3, 29))]
)
def test_where_the_clock_skips_midnight_the_day_begins_at_one(zone: str, day: tuple[int, ...]) -> None:
    begins = datetime(*day, 1, tzinfo=ZoneInfo(zone))  # type: ignore[misc, arg-type]
    days = cut(begins - timedelta(hours=30), begins + timedelta(days=1), Period.DAY, zone)
    assert begins in [begin for begin, _ in days]


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(ZONES),
    st.sampled_from([Period.HOUR, Period.DAY, Period.WEEK]),
    st.datetimes(datetime(2025, 1, 1), datetime(2026, 12, 1), timezones=st.just(UTC)),
    st.integers(1, 40 * 24),
)
def test_periods_cover_the_time_once_and_turn_where_the_calendar_does(
    zone: str, period: Period, start: datetime, hours: int
) -> None:
    start = start.replace(microsecond=0)
    end = start + timedelta(hours=hours)
    periods = cut(start, end, period, zone)
    # By instants: local times of one zone are compared without their offsets.
    turns = [start.timestamp(), *(until.timestamp() for _, until in periods)]
    assert turns == sorted(set(turns))
    assert turns[-1] == end.timestamp()
    assert [begin.timestamp() for begin, _ in periods] == turns[:-1]
    for begin, until in periods:
        last = (until.astimezone(UTC) - timedelta(seconds=1)).astimezone(begin.tzinfo)
        if period is Period.HOUR:
            assert until.timestamp() - begin.timestamp() <= 3600
        elif period is Period.DAY:
            assert begin.date() == last.date()
        else:
            assert begin.isocalendar()[:2] == last.isocalendar()[:2]
    for begin, _ in periods[1:]:
        before = (begin.astimezone(UTC) - timedelta(seconds=1)).astimezone(begin.tzinfo)
        if period is Period.HOUR:
            assert begin.timestamp() % 3600 == 0
        elif period is Period.DAY:
            assert before.date() < begin.date()
        else:
            assert before.isocalendar()[:2] < begin.isocalendar()[:2]


def test_capacity_is_that_of_whole_days() -> None:
    zone = "Europe/Berlin"
    start, end = local(zone, 2026, 10, 24), local(zone, 2026, 10, 26, 12)

    def capacities(period: Period) -> dict[str, list[int | None]]:
        found: dict[str, list[int | None]] = {}
        for use in made(start, end, period, zone=zone).channels:
            found.setdefault(use.figures.channel, []).append(use.capacity)
        return found

    assert capacities(Period.DAY)["sms"] == [1000, 1000, None]  # one of them has 25 hours
    assert capacities(Period.WHOLE) == {"gone": [None], "push": [None], "sms": [None]}
    whole = made(start, local(zone, 2026, 10, 26), Period.WHOLE, zone=zone).channels[-1]
    assert whole.capacity == 2000


def test_lines_come_by_campaign_then_by_period() -> None:
    start, end = local("Asia/Shanghai", 2026, 11, 20), local("Asia/Shanghai", 2026, 11, 22)
    found = made(start, end, Period.DAY)
    names = [each.figures.campaign for each in found.campaigns]
    assert names == ["mass", "mass", "offer", "offer"]
    assert [each.figures.start_us for each in found.campaigns][:2] == [us(start), us(start) + 24 * HOUR_US]
    assert [use.figures.channel for use in found.channels] == [
        *("gone",) * 2,
        *("push",) * 2,
        *("sms",) * 2,
    ]
    assert found.frequencies == {1: 5, 3: 1}
    assert [each.label for each in found.campaigns[::2]] == ["The mass", "The offer"]


DAY = (datetime(2026, 11, 20, tzinfo=UTC), datetime(2026, 11, 21, tzinfo=UTC))


def test_only_what_is_asked_for_comes_and_once_but_its_baseline_is_read() -> None:
    ledger = FakeLedger()
    found = made(*DAY, Period.WHOLE, ledger=ledger, campaigns=["offer", "offer"])
    assert [each.figures.campaign for each in found.campaigns] == ["offer"]
    assert ledger.triggers == [["offer", "mass"]]


def test_rates_are_of_what_was_sent_and_uplift_is_of_all_who_were_chosen() -> None:
    counts = {"treated": 200, "sent": 150, "converted": 27, "treated_converted": 30}
    outcomes = {OutcomeKind.INQUIRED: 6, OutcomeKind.COMPLAINED: 3, OutcomeKind.ORDERED: 27}
    ledger = FakeLedger(
        offer=figures("offer", **counts, control=50, control_converted=2, by_outcome=outcomes),
        mass=figures("mass", sent=1000, treated=1000, converted=20, treated_converted=20),
    )
    mass, offer = made(*DAY, Period.WHOLE, ledger=ledger).campaigns
    assert (offer.success, offer.inquiry, offer.complaint) == (share(27, 150), share(6, 150), share(3, 150))
    assert offer.uplift == difference(share(30, 200), share(2, 50))
    assert offer.over_mass == difference(share(30, 200), share(20, 1000))
    assert offer.uplift is not None
    assert offer.uplift.value == pytest.approx(0.15 - 0.04)
    assert (mass.uplift, mass.over_mass) == (None, None), "it has no control group and no baseline"
    assert mass.success == share(20, 1000)


def test_nothing_is_told_of_nothing() -> None:
    mass, offer = made(*DAY, Period.WHOLE).campaigns
    for each in (mass, offer):
        assert {each.success, each.inquiry, each.complaint, each.uplift, each.over_mass} == {None}


@pytest.mark.parametrize(
    ("campaigns", "start", "end", "period", "field"),
    [
        (["absent"], *DAY, Period.WHOLE, "campaigns"),
        ([], DAY[1], DAY[0], Period.WHOLE, "since"),
        ([], DAY[0], DAY[0], Period.WHOLE, "since"),
        ([], DAY[0], DAY[0] + timedelta(hours=MAX_PERIODS, seconds=1), Period.HOUR, "period"),
        ([], datetime(1970, 1, 2, tzinfo=UTC), datetime(8999, 1, 1, tzinfo=UTC), Period.HOUR, "period"),
    ],
)
def test_what_cannot_be_reported_is_refused(
    campaigns: list[str], start: datetime, end: datetime, period: Period, field: str
) -> None:
    ledger = FakeLedger()
    with pytest.raises(InvalidRequestError) as caught:
        made(start, end, period, campaigns=campaigns, ledger=ledger)
    assert caught.value.field == field
    assert ledger.periods == [], "refused before anything is read"


def test_as_many_periods_as_may_be() -> None:
    ledger = FakeLedger()
    made(DAY[0], DAY[0] + timedelta(hours=MAX_PERIODS), Period.HOUR, ledger=ledger)
    assert len(ledger.periods) == MAX_PERIODS


def test_there_is_no_report_without_a_rulebase() -> None:
    ledger = cast("Ledger", FakeLedger())

    async def body() -> None:
        thread = LedgerThread()
        try:
            await report(LiveRevision(), ledger, thread, [], 0, 1, Period.WHOLE)
        finally:
            thread.close()

    with pytest.raises(NoRulebaseError):
        asyncio.run(body())
