"""What each kind of pattern means at its edges, one example each."""

from __future__ import annotations

import random
from zoneinfo import ZoneInfo

import pytest
from opportune_rulebase.model import AbsencePattern, DwellPattern, Pattern, Step
from opportune_service.core.calendars import instant_of, local_day
from opportune_service.core.patterns import unmark
from opportune_service.core.patterns.answers import unanswered
from opportune_service.core.patterns.sighting import Found, found
from opportune_service.core.state import Given, PatternState, SubscriberState, encode_state
from support.pattern_oracle import LOUD, SAME_CALLER, ZONE, Happening
from support.pattern_subscriber import (
    AB,
    DAY_US,
    FOREVER_US,
    LOUD_A,
    MINUTE_US,
    START_US,
    A,
    B,
    C,
    Subscriber,
    change,
    count,
    let,
    sequence,
    settled,
    tell,
)

SILENT = AbsencePattern("p", "key", "", A, B, 10 * MINUTE_US)
QUIET = AbsencePattern("p", "key", "", A, A, 10 * MINUTE_US)
STAY = DwellPattern("p", "key", "", "airport", 10 * MINUTE_US)


def at(minutes: float, type_: str = "a", digest: int = 0, **more: object) -> Happening:
    at_us = START_US + int(minutes * MINUTE_US)
    return Happening(type_, at_us, digest or int(minutes * 1000) + 1, **more)  # type: ignore[arg-type]


def when(pattern: Pattern, *arrivals: Happening) -> list[float]:
    """Minutes of the completions, timers of the future included."""
    one = Subscriber(pattern, random.Random(0), lag_us=DAY_US).feed(arrivals)
    one.settle(FOREVER_US)
    return [(each.at_us - START_US) / MINUTE_US for each in one.given]


# Counts


def test_the_window_of_a_count_is_open_at_its_beginning() -> None:
    assert when(count(A, None, 2, 10), at(0), at(9.99)) == [9.99]
    assert when(count(A, None, 2, 10), at(0), at(10)) == []


def test_a_count_starts_afresh_after_a_completion() -> None:
    assert when(count(A, None, 2, 10), at(0), at(1), at(2), at(3)) == [1, 3]


def test_a_distinct_count_tells_values_apart_by_type_too() -> None:
    pattern = count(A, "who", 3, 10)
    assert when(pattern, at(0, who=1), at(1, who=2), at(2, who=2), at(3, who=3)) == [3]
    assert when(pattern, at(0, who=1), at(1, who="1"), at(2, who=True)) == [2]
    assert when(pattern, at(0, who=1), at(1), at(2, who=2)) == [], "an event without it does not take part"
    newest = [at(0, who=1), at(9, who=1), at(15, who=2)]
    assert when(count(A, "who", 2, 10), *newest) == [15], "of equal values the newest counts"


# Sequences


def test_other_events_may_come_between_and_the_duration_is_inclusive() -> None:
    assert when(sequence(A, B, minutes=10), at(0), at(5, "c"), at(10, "b")) == [10]
    assert when(sequence(A, B, minutes=10), at(0), at(10.01, "b")) == []


def test_one_event_makes_one_step_of_a_run() -> None:
    assert when(sequence(A, A, minutes=10), at(0)) == []
    assert when(sequence(A, A, minutes=10), at(0), at(1), at(2), at(3)) == [1, 3]


def test_the_run_that_began_last_completes_and_ends_the_others() -> None:
    one = Subscriber(sequence(A, B, minutes=10), random.Random(0))
    one.feed([at(0), at(1), at(2, "b"), at(3, "b")])
    other = Subscriber(sequence(A, B, minutes=10), random.Random(0)).feed([at(1), at(2, "b")])
    assert one.outcome == other.outcome


def test_a_forbidden_event_ends_the_runs_before_it_moves_them() -> None:
    pattern = sequence(A, B, without=Step(("b",), LOUD), minutes=10)
    assert when(pattern, at(0), at(1, "b", loud=True), at(2, "b", loud=False)) == []
    assert when(pattern, at(0), at(1, "b", loud=False)) == [1]
    again = sequence(A, B, without=A, minutes=10)
    assert when(again, at(0), at(1), at(2, "b")) == [2], "it may begin a run itself"


def test_a_link_picks_the_run_that_fits() -> None:
    pattern = sequence(A, Step(("b",), None, SAME_CALLER), minutes=10)
    one = Subscriber(pattern, random.Random(0))
    one.feed([at(0, who=1), at(1, who=2), at(2, "b", who=1)])
    other = Subscriber(pattern, random.Random(0)).feed([at(0, who=1), at(2, "b", who=1)])
    assert one.outcome == other.outcome != []


# Absences


def test_what_is_awaited_counts_after_the_opening_and_up_to_the_due_time() -> None:
    assert when(SILENT, at(0)) == [10]
    assert when(SILENT, at(0), at(10, "b")) == []
    assert when(SILENT, at(0), at(10.01, "b")) == [10]
    assert when(SILENT, at(0, digest=1), at(0, "b", digest=2)) == [10]
    assert when(SILENT, at(0, digest=2), at(0, "b", digest=1)) == [10]


def test_others_during_a_wait_do_not_prolong_it() -> None:
    assert when(SILENT, at(0), at(5)) == [10]
    assert when(SILENT, at(0), at(5), at(11)) == [10, 21]
    assert when(SILENT, at(0), at(5), at(6, "b"), at(7)) == [17]


def test_an_event_that_is_awaited_may_begin_the_next_wait() -> None:
    assert when(QUIET, at(0), at(5), at(12), at(30)) == [22, 40]


def test_a_wait_that_ends_takes_its_timer_along() -> None:
    one = Subscriber(SILENT, random.Random(0), lag_us=DAY_US).feed([at(0)])
    assert one.state.due_us == at(10).at_us
    one.feed([at(4, "b")])
    assert one.state.due_us == 0


def test_a_late_event_still_cancels_what_was_not_given_out() -> None:
    one = Subscriber(SILENT, random.Random(0), lag_us=DAY_US).feed([at(0), at(20)])
    assert one.state.due_us == at(10).at_us
    one.feed([at(4, "b")])
    assert one.state.due_us == at(30).at_us, "the other wait goes on"


def test_what_was_given_out_is_not_taken_back_nor_given_again() -> None:
    one = Subscriber(SILENT, random.Random(0), lag_us=DAY_US).feed([at(2)])
    one.settle(at(13).at_us)
    one.feed([at(0)])  # so the silence began earlier
    one.settle(FOREVER_US)
    assert [each.at_us for each in one.given] == [at(12).at_us]


def test_a_silence_that_was_none_does_not_swallow_the_next() -> None:
    one = Subscriber(SILENT, random.Random(0), lag_us=DAY_US).feed([at(0)])
    one.settle(at(13).at_us)
    one.feed([at(4, "b"), at(6)])
    one.settle(FOREVER_US)
    # It overlaps in time with what was given out, so the customer has heard of it.
    assert [each.at_us for each in one.given] == [at(10).at_us]
    one.feed([at(11, "b"), at(12)])
    one.settle(FOREVER_US)
    assert [each.at_us for each in one.given] == [at(10).at_us, at(22).at_us]


def test_a_timer_that_is_dropped_gives_nothing_and_is_settled() -> None:
    one = Subscriber(SILENT, random.Random(0), lag_us=DAY_US).feed([at(0)])
    assert one.resolve(at(10).at_us, fired=False) is None
    assert one.state.due_us == 0
    assert one.resolve(at(10).at_us, fired=True) is None
    assert when(SILENT, at(0)) == [10]


def test_a_timer_that_is_none_gives_nothing() -> None:
    for pattern in (SILENT, STAY, count(A, None, 2, 10), change(None, 1, None, 0.5, 2)):
        assert settled(pattern, SubscriberState(), at(10).at_us, True, ZONE, 0) is None


# Stays


def test_a_stay_completes_once_and_goes_on_until_seen_elsewhere() -> None:
    stay = [at(0, cell="gate"), at(5, cell="hall"), at(30, cell="gate"), at(90, cell="gate")]
    assert when(STAY, *stay) == [10]
    assert when(STAY, *stay, at(91, cell="mall"), at(92, cell="gate")) == [10, 102]


def test_off_the_map_is_elsewhere_and_no_cell_says_nothing() -> None:
    assert when(STAY, at(0, cell="gate"), at(9, cell="nowhere")) == []
    assert when(STAY, at(0, cell="gate"), at(10, cell="mall")) == []
    assert when(STAY, at(0, cell="gate"), at(9)) == [10]


def test_who_is_never_in_such_a_place_leaves_nothing_behind() -> None:
    one = Subscriber(STAY, random.Random(0)).feed([at(0, cell="mall"), at(5), at(9, cell="nowhere")])
    assert not one.state.patterns
    assert one.feed([at(10, cell="gate"), at(11, cell="mall")]).state.patterns
    one.feed([at(80, cell="mall")]).forget()
    assert not one.state.patterns, "and an hour after nothing is left"


def test_a_late_stay_is_ended_by_what_came_in_time() -> None:
    assert when(STAY, at(8, cell="mall"), at(0, cell="gate")) == []
    assert when(STAY, at(12, cell="mall"), at(0, cell="gate")) == [10]


# Changes


def days_of(*figures: int) -> list[Happening]:
    """So many events on each day, minutes apart, from noon."""
    noons = [day * 1440 for day in range(len(figures))]
    return [at(noon + i) for noon, figure in zip(noons, figures, strict=True) for i in range(figure)]


def changes(pattern: Pattern, events: list[Happening], since_day: int | None = -100) -> list[float]:
    since_us = None if since_day is None else START_US + since_day * DAY_US
    one = Subscriber(pattern, random.Random(0), hurry=True, since_us=since_us).feed(events)
    one.settle(FOREVER_US)
    first = local_day(START_US, ZONE)
    return [local_day(each.at_us, ZONE) - first for each in one.given]


def test_a_rise_completes_at_the_event_that_makes_it_then_rests() -> None:
    pattern = change(None, 1, 2.0, None, 2)
    assert changes(pattern, days_of(2, 3)) == []
    assert changes(pattern, days_of(2, 4)) == [1]
    assert changes(pattern, days_of(2, 4, 8)) == [1, 2]
    assert changes(change(None, 2, 2.0, None, 2), days_of(1, 1, 4, 9, 9)) == [3]
    assert changes(pattern, days_of(1, 9)) == [], "the earlier figure is too small to compare with"


def test_a_change_says_nothing_before_both_periods_are_covered() -> None:
    pattern = change(None, 1, 2.0, None, 2)
    # Days 0 and 1 are compared; the day on which folding began is not whole.
    assert changes(pattern, days_of(2, 4), since_day=0) == []
    assert changes(pattern, days_of(2, 4), since_day=-1) == [1]
    assert changes(pattern, days_of(2, 4), since_day=None) == []
    fall = change(None, 1, None, 0.5, 2)
    assert changes(fall, days_of(2, 1), since_day=0) == []
    assert changes(fall, days_of(2, 1), since_day=-1) == [2]


def test_a_fall_completes_at_the_beginning_of_a_day_and_timers_end() -> None:
    pattern = change(None, 1, None, 0.5, 2)
    one = Subscriber(pattern, random.Random(0), hurry=True, since_us=START_US - 9 * DAY_US)
    one.feed(days_of(4, 2, 3))
    one.settle(FOREVER_US)
    first = local_day(START_US, ZONE)
    assert [each.at_us for each in one.given] == [
        instant_of(first + 2, 0, ZONE),
        instant_of(first + 4, 0, ZONE),
    ]
    assert one.state.due_us == 0


def test_nobody_is_looked_at_every_night() -> None:
    pattern = change(None, 30, None, 0.5, 2)
    one = Subscriber(pattern, random.Random(0), hurry=True, since_us=START_US - 400 * DAY_US)
    looks = 0
    for each in days_of(*[2] * 300):
        due_us = one.state.due_us
        one.feed([each])
        looks += due_us != one.state.due_us
    assert 0 < looks <= 300 / 10
    assert not one.given


def test_a_fall_that_later_events_bring_nearer_is_not_missed() -> None:
    """The timer is set by what is known; these three change what it was set by."""
    fall = change("amount", 1, None, 0.5, 2)
    correction = [at(0, amount=4), at(1440, amount=4), at(1441, amount=-3)]
    assert changes(fall, correction) == [2]
    late = [at(0), at(1440), at(2170), at(2150)]
    assert changes(fall, late) == [3]
    regained = [at(0, amount=-5), at(1440, amount=3), at(1441, amount=5)]
    assert changes(change("amount", 2, None, 0.5, 1), regained) == [4]


def test_a_fall_that_is_due_is_not_lost_to_an_event_that_comes_before_its_timer() -> None:
    pattern = change("amount", 1, None, 0.5, 2)
    one = Subscriber(pattern, random.Random(0), since_us=START_US - 9 * DAY_US)
    for each in (at(0, amount=4), at(1440), at(2161, amount=-1)):
        one.take(each)
    one.settle(FOREVER_US)
    assert [each.at_us for each in one.given] == [at(2160).at_us]


@pytest.mark.parametrize("zone", ["Africa/Cairo", "America/Santiago", "Asia/Beirut", "Pacific/Apia"])
def test_falls_move_on_where_the_clock_skips_midnight(zone: str) -> None:
    """Every day of two years, and no timer that comes back to its own time."""
    state, pattern = SubscriberState(), change(None, 1, None, 0.5, 1)
    local = ZoneInfo(zone)
    for day in range(730):
        each = at(day * 1440)
        state.latest_us = each.at_us
        while 0 < state.due_us <= each.at_us:
            due_us = state.due_us
            settled(pattern, state, due_us, True, local, 0)
            assert state.due_us == 0 or state.due_us > due_us
        let(pattern, state, each, local, 0)


def test_sums_of_doubles_do_not_depend_on_the_order() -> None:
    pattern = change("amount", 1, 1.0, None, 0.3)
    amounts = [0.1, 0.2, 0.3, 1e16, -1e16, 2**53 + 1]
    states = []
    for seed in range(20):
        events = [at(i, amount=amount) for i, amount in enumerate(amounts)]
        random.Random(seed).shuffle(events)
        one = Subscriber(pattern, random.Random(0)).feed(events)
        states.append(one.meaning)
    assert all(each == states[0] for each in states)


# Handsets


def test_software_versions_are_no_other_handset() -> None:
    state = SubscriberState(context={"imei": "3582400511111101"})
    given = [
        tell(state, at(i), imei)
        for i, imei in enumerate(["358240051111119", "3582400511111102", "860123042222223"])
    ]
    assert [len(each) for each in given] == [0, 0, 1]
    (changed,) = given[2]
    assert changed.name == "handset_changed"
    assert changed.attributes == {"imei": "860123042222223", "previous_imei": "3582400511111102"}


def test_a_handset_told_late_is_not_the_newest() -> None:
    state = SubscriberState()
    assert not tell(state, at(0), "1" * 15)
    assert len(tell(state, at(10), "2" * 15)) == 1
    assert not tell(state, at(8), "2" * 15), "given out already"
    assert state.imei == "2" * 15
    late = tell(state, at(9), "3" * 15)
    told = [(each.at_us, each.attributes["imei"]) for each in late]
    assert told == [(at(8).at_us, "2" * 15), (at(9).at_us, "3" * 15)], "and back, which was given out"
    assert state.imei == "2" * 15


def test_one_handset_all_the_time_takes_little_room() -> None:
    state = SubscriberState()
    for i in range(10_000):
        state.latest_us = at(i).at_us
        tell(state, at(i), "358240051111119")
    assert state.handset is not None
    assert len(state.handset.recent) == 1
    assert len(encode_state(state)) < 200


# What is kept


@pytest.mark.parametrize("pattern", [count(A, None, 2, 10), sequence(A, A, minutes=10), QUIET])
def test_what_was_given_out_is_kept_for_an_hour(pattern: Pattern) -> None:
    one = Subscriber(pattern, random.Random(0), hurry=True)
    one.feed([at(3 * i) if i % 7 else at(3 * i + 2.5) for i in range(400)])
    spaced = Subscriber(pattern, random.Random(0), hurry=True).feed([at(15 * i) for i in range(100)])
    one.forget()
    spaced.forget()
    assert len(one.kept.given) <= 12
    assert len(spaced.kept.given) <= 6
    assert len(one.given) + len(spaced.given) > 90


@pytest.mark.parametrize("pattern", [count(LOUD_A, None, 2, 10), sequence(LOUD_A, LOUD_A, minutes=10)])
def test_what_takes_no_part_leaves_nothing_behind(pattern: Pattern) -> None:
    assert not Subscriber(pattern, random.Random(0)).feed([at(0, loud=False), at(1, "z")]).state.patterns


@pytest.mark.parametrize("pattern", [count(AB, None, 3, 10), sequence(A, B, C, minutes=10), SILENT])
def test_what_is_idle_is_forgotten_and_not_a_moment_before(pattern: Pattern) -> None:
    one = Subscriber(pattern, random.Random(0), lag_us=DAY_US).feed([at(0)])
    one.settle(FOREVER_US)
    one.state.latest_us = at(74.9).at_us
    one.forget()
    assert one.state.patterns
    one.state.latest_us = at(75).at_us
    one.forget()
    assert not one.state.patterns


def test_a_timer_that_is_not_settled_is_not_forgotten() -> None:
    one = Subscriber(SILENT, random.Random(0), lag_us=DAY_US).feed([at(0)])
    one.state.latest_us = at(10_000).at_us
    one.forget()
    one.settle(FOREVER_US)
    assert [each.at_us for each in one.given] == [at(10).at_us]


def test_a_late_event_that_moves_completions_about_gives_nothing_more() -> None:
    """Three of three were given out; with one before them it is other three, and one is left over."""
    pattern = count(A, None, 3, 10)
    assert when(pattern, at(1), at(2), at(3), at(0)) == [3]
    assert when(pattern, at(1), at(2), at(3), at(0), at(4), at(5)) == [3, 5]
    assert when(pattern, at(2), at(3), at(4), at(0), at(1), at(5)) == [4, 5]


def test_a_late_event_that_adds_a_completion_gives_it_out_then() -> None:
    one = Subscriber(sequence(A, B, minutes=10), random.Random(0))
    one.feed([at(5, "b", loud=False), at(0)])
    (found,) = one.given
    assert found.at_us == at(5).at_us
    assert found.attributes == {"loud": False, "amount": 1}, "what the completing event told was kept"


def test_what_an_event_was_to_a_definition_that_is_new_again_is_forgotten() -> None:
    """It begins anew: what was before does not count, whatever comes late."""
    pattern = sequence(A, B, minutes=10)
    known, anew = (Subscriber(pattern, random.Random(0)).feed([at(5, "b")]) for _ in range(2))
    unmark(anew.state, {"another"})
    assert anew.state == known.state
    unmark(anew.state, {"key"})
    assert not anew.state.journal
    assert [len(one.feed([at(0)]).given) for one in (known, anew)] == [1, 0]


@pytest.mark.parametrize("minutes", [0, 36])
def test_what_is_derived_of_a_timer_long_after_comes_before_all_that_is_recent(minutes: int) -> None:
    """Timers may wait for their sources for longer than events may be late."""
    one = Subscriber(sequence(A, B, minutes=200), random.Random(0)).feed([at(100, "b"), at(minutes)])
    assert [each.at_us for each in one.given] == [at(100).at_us]


def test_of_a_pattern_that_an_event_makes_no_difference_to_nothing_is_kept() -> None:
    one = Subscriber(sequence(A, B, minutes=10), random.Random(0)).feed([at(0, "b"), at(1, "b")])
    assert not one.state.patterns
    assert [noted.marks for noted in one.state.journal] == [("key", 2), ("key", 2)]


def test_what_answers_for_another_does_so_however_old_it_is() -> None:
    """Else its wait, which is not settled by itself, would be given out once more."""
    waited, _ = found("p", "key", [1], START_US + 20, START_US)
    kept = PatternState(given=(Given(START_US + 10, 7, START_US, waited.digest),))
    assert unanswered(kept, [Found(waited, START_US)], horizon=START_US + 15) == []
    kept = PatternState(given=(Given(START_US + 10, 7, START_US, 0),))
    assert unanswered(kept, [Found(waited, START_US)], horizon=START_US + 15), "idle ones grow old"
