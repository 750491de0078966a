"""A month of a province in a minute: every figure of the report is what the simulation has in its own
books, and the interval of the uplift holds what the campaign truly did."""

from __future__ import annotations

import asyncio
from math import sqrt

from opportune_service.app.records import CampaignFigures
from opportune_service.app.report import Period, Report, report
from opportune_service.core.estimates import Estimate
from support.month import DAY_US, LIFT, Month
from support.month_again import run_days
from support.provinces import MONDAY_US

SEED, PEOPLE, DAYS = 6, 100, 30
WEEK_US = 7 * DAY_US


async def a_month() -> tuple[Month, list[Report], int]:
    """What the simulation saw, the report as a whole and by week, and when it ends."""
    month = Month(SEED, PEOPLE)
    async with month.running() as app:
        end_us = await month.live(app, DAYS)
        reports = [
            await report(app.live, app.ledger, app.thread, (), MONDAY_US, end_us, period)
            for period in (Period.WHOLE, Period.WEEK)
        ]
    return month, reports, end_us


def check_figures(month: Month, reported: Report) -> None:
    for each in reported.campaigns:
        found = each.figures
        assert found == month.books.figures(found.campaign, found.start_us, found.end_us)
        check_rates(each.uplift, found)
        assert (each.success.value if each.success else 0) == (
            found.converted / found.sent if found.sent else 0
        )


def check_rates(uplift: Estimate | None, found: CampaignFigures) -> None:
    """The uplift and its interval, with bounds of each share by solving for them."""
    if not found.treated or not found.control:
        assert uplift is None
        return
    assert uplift is not None
    one, low, high = score(found.treated_converted, found.treated)
    other, other_low, other_high = score(found.control_converted, found.control)
    expected = (
        one - other,
        one - other - sqrt((one - low) ** 2 + (other_high - other) ** 2),
        one - other + sqrt((high - one) ** 2 + (other - other_low) ** 2),
    )
    for got, wanted in zip((uplift.value, uplift.low, uplift.high), expected, strict=True):
        assert abs(got - wanted) < 1e-6


def score(successes: int, trials: int) -> tuple[float, float, float]:
    """A share, and between which shares it would be within 1.96 deviations: found by halving."""
    observed = successes / trials

    def off(true: float) -> bool:
        return (observed - true) ** 2 * trials > 1.959964**2 * true * (1 - true)

    def bound(inside: float, outside: float) -> float:
        for _ in range(60):
            middle = (inside + outside) / 2
            inside, outside = (inside, middle) if off(middle) else (middle, outside)
        return inside

    return observed, bound(observed, 0.0), bound(observed, 1.0)


def check_channels(month: Month, reported: Report) -> None:
    ends_us = {each.figures.start_us: each.figures.end_us for each in reported.campaigns}
    for use in reported.channels:
        start_us, found = use.figures.start_us, use.figures
        expected = month.books.busy(found.channel, start_us, ends_us[start_us])
        assert (found.decided, found.peak_per_second) == expected


def test_the_report_of_a_month_is_what_the_simulation_saw() -> None:
    month, (whole, weekly), end_us = asyncio.run(a_month())
    for reported in (whole, weekly):
        check_figures(month, reported)
        check_channels(month, reported)
    assert len(weekly.campaigns) == len(whole.campaigns) * -(-(end_us - MONDAY_US) // WEEK_US)
    assert whole.frequencies == month.books.frequencies()
    effects = {each.figures.campaign: each for each in whole.campaigns}
    for campaign in ("data", "music"):
        uplift, truth = effects[campaign].uplift, month.books.effect(campaign, LIFT)
        assert uplift is not None
        assert uplift.low < truth < uplift.high, campaign
    data = effects["data"].uplift
    assert data is not None
    assert data.low > 0, "enough customers to tell"
    assert min(each.figures.sent for each in whole.campaigns) > 10
    assert len({reason for each in whole.campaigns for reason in each.figures.lost}) >= 6


def test_a_month_comes_again_as_it_was() -> None:
    """In another process, where sets have another order: who was within the quota of a mass sending too."""
    found, again = (run_days(SEED, people=60, days=4, hash_seed=hash_seed) for hash_seed in (1, 2))
    assert found == again
    assert found["contacts"] > 60
