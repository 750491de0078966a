"""Quiet weeks against the plainest reading of them: every minute of the week, one by one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opportune_rulebase import load
from opportune_rulebase.model import Campaign
from opportune_rulebase.policies import Fate, Policies, QuietHours, Selector
from opportune_rulebase.quiet_times import WEEK, QuietTimes
from support.small_rulebase import small_rulebase

DAY = 24 * 60
WEEK_MINUTES = 7 * DAY
MINUTE_US = 60_000_000
CAMPAIGN: Campaign = next(iter(load(small_rulebase()).campaigns.values()))
CHANNEL = CAMPAIGN.channels[0]

# Few times, so that windows touch, overlap and cross midnight often.
times = st.sampled_from([0, 1, 8 * 60, 12 * 60, 21 * 60, DAY - 1])
ends = st.sampled_from([1, 8 * 60, 12 * 60, 21 * 60, DAY - 1, DAY])
windows = st.lists(
    st.builds(
        QuietHours,
        name=st.just("window"),
        label=st.just(""),
        start_minute=times,
        end_minute=ends,
        weekdays=st.one_of(st.just(frozenset(WEEK)), st.frozensets(st.sampled_from(WEEK))),
        applies_to=st.just(Selector()),
        otherwise=st.sampled_from(Fate),
    ).filter(lambda window: window.start_minute != window.end_minute),
    max_size=4,
)


def minutes_of(window: QuietHours) -> set[int]:
    length = (window.end_minute - window.start_minute) % DAY or DAY
    begins = [day * DAY + window.start_minute for day in window.weekdays]
    return {(begin + minute) % WEEK_MINUTES for begin in begins for minute in range(length)}


def run(quiet: set[int], at: int, step: int) -> int | None:
    """How many minutes it is quiet from one on, itself included."""
    return next((n for n in range(WEEK_MINUTES) if (at + n * step) % WEEK_MINUTES not in quiet), None)


@given(windows, st.sampled_from(WEEK), st.integers(0, DAY - 1))
def test_waits_are_those_of_every_minute(found: list[QuietHours], day: int, minute: int) -> None:
    at = day * DAY + minute
    covering = [window for window in found if at in minutes_of(window)]
    quiet = set[int]().union(*map(minutes_of, found))
    after = run(quiet, at, 1)
    expected: int | None = 0
    if covering:
        waits = any(window.otherwise is Fate.DEFER for window in covering)
        expected = after * MINUTE_US if waits and after is not None else None
    assert (
        QuietTimes(Policies(quiet_hours=tuple(found))).wait_us(CAMPAIGN, CHANNEL, day, minute) == expected
    )


@given(windows, st.sampled_from([0, 30, 600]))
def test_the_gap_is_that_of_the_shortest_midnight(found: list[QuietHours], jitter: int) -> None:
    quiet = set[int]().union(*map(minutes_of, found))
    gaps = []
    for day in WEEK:
        midnight = day * DAY
        waits = any(window.otherwise is Fate.DEFER for window in found if midnight in minutes_of(window))
        after = run(quiet, midnight, 1)
        if after is not None and after <= jitter:
            gaps.append(0)
        elif after is not None and waits:
            before = run(quiet, midnight - 1, -1)
            assert before is not None
            gaps.append((after + before) * MINUTE_US)
    policies = Policies(quiet_hours=tuple(found), jitter_us=jitter * MINUTE_US)
    assert QuietTimes(policies).midnight_gap_us(CAMPAIGN, CHANNEL) == min(gaps, default=None)


def test_whoever_has_too_many_windows_is_told_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    night = QuietHours("night", "", 0, DAY, frozenset(WEEK), Selector())
    policies = Policies(quiet_hours=(night,))
    assert QuietTimes(policies).midnight_gap_us(CAMPAIGN, CHANNEL) is None
    monkeypatch.setattr("opportune_rulebase.quiet_times.MAX_EXAMINED", 0)
    assert QuietTimes(policies).midnight_gap_us(CAMPAIGN, CHANNEL) == 0
