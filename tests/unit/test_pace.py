"""The pace of a channel: never more in any second, whenever it begins."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from opportune_service.app.pace import Pace
from support.verdicts import NOON_US, SECOND_US

Steps = st.lists(st.tuples(st.integers(0, 2 * SECOND_US), st.integers(1, 40)), max_size=60)


@given(per_second=st.integers(1, 30), steps=Steps)
def test_no_second_has_more_than_the_pace(per_second: int, steps: list[tuple[int, int]]) -> None:
    pace, now_us = Pace(NOON_US), NOON_US
    given_out: list[int] = []
    for pause_us, wanted in steps:
        now_us += pause_us
        count = min(wanted, pace.free(per_second, now_us))
        pace.take(count, now_us)
        given_out += [now_us] * count
    for begins_us in given_out:
        assert sum(begins_us <= at_us < begins_us + SECOND_US for at_us in given_out) <= per_second
    assert all(at_us >= NOON_US + SECOND_US for at_us in given_out), "a restart is no way around it"


@given(per_second=st.integers(1, 30), seconds=st.integers(1, 10))
def test_the_pace_is_reached(per_second: int, seconds: int) -> None:
    pace = Pace(NOON_US)
    total = 0
    for second in range(1, seconds + 1):
        now_us = NOON_US + second * SECOND_US
        free = pace.free(per_second, now_us)
        pace.take(free, now_us)
        total += free
    assert total == per_second * seconds


def test_a_clock_that_goes_back_stops_it_for_a_second_at_most() -> None:
    pace = Pace(NOON_US)
    pace.take(pace.free(5, NOON_US + SECOND_US), NOON_US + SECOND_US)
    earlier_us = NOON_US - 3_600 * SECOND_US
    assert pace.free(5, earlier_us) == 0
    assert pace.free(5, earlier_us + SECOND_US) == 5


def test_it_says_when_more_is_free() -> None:
    pace = Pace(NOON_US)
    first_us = NOON_US + SECOND_US
    pace.take(3, first_us)
    pace.take(2, first_us + 10)
    assert pace.frees_us() == first_us + SECOND_US
    assert pace.free(5, pace.frees_us() - 1) == 0
    assert pace.free(5, pace.frees_us()) == 3


def test_no_pace_is_no_bound() -> None:
    pace = Pace(NOON_US)
    assert pace.free(None, NOON_US) > 1_000_000
    pace.take(1_000_000, NOON_US)
    assert pace.free(10, NOON_US) == 0, "what went before a pace was set counts when one is"
