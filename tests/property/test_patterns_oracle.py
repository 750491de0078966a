"""Patterns against a naive oracle that recomputes every completion from the full sorted history."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opportune_rulebase.model import AbsencePattern, DwellPattern, Pattern, Step
from opportune_service.core.events import MAX_LATENESS_US, MAX_SKEW_US
from opportune_service.core.patterns import MAX_JOURNAL, Completion, journal, roles
from opportune_service.core.patterns import history as machinery
from opportune_service.core.patterns.sequence import MAX_LINKED
from opportune_service.core.state import SubscriberState, decode_state, encode_state
from support.pattern_oracle import (
    LOUD,
    SAME_AS_PREVIOUS,
    SAME_CALLER,
    Happening,
    expected,
    expected_handsets,
    in_order,
)
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
    machines,
    sequence,
    tell,
)

EVENT_PATTERNS = [
    count(A, None, 2, 10),
    count(LOUD_A, None, 3, 60),
    count(AB, None, 4, 240),
    count(AB, "who", 2, 10),
    count(AB, "who", 3, 60),
    sequence(A, B, minutes=10),
    sequence(A, B, minutes=240),
    sequence(A, A, minutes=30),
    sequence(LOUD_A, AB, Step(("c", "b")), minutes=60),
    sequence(A, B, without=C, minutes=60),
    sequence(A, B, A, without=Step(("b", "c"), LOUD), minutes=120),
    sequence(A, Step(("b",), None, SAME_CALLER), minutes=60),
    sequence(A, AB, Step(("b", "c"), None, SAME_AS_PREVIOUS), without=Step(("c",), LOUD), minutes=120),
]
TIMED_PATTERNS = [
    AbsencePattern("p", "key", "", A, B, 10 * MINUTE_US),
    AbsencePattern("p", "key", "", LOUD_A, B, 90 * MINUTE_US),
    AbsencePattern("p", "key", "", A, A, 30 * MINUTE_US),
    AbsencePattern("p", "key", "", A, Step(("a", "c"), LOUD), 5 * MINUTE_US),
    DwellPattern("p", "key", "", "airport", 10 * MINUTE_US),
    DwellPattern("p", "key", "", "airport", 120 * MINUTE_US),
]
RISES = [
    change(None, 1, 1.0, None, 1),
    change(None, 2, 1.5, None, 2),
    change("amount", 1, 2.0, None, 0.3),
    change("amount", 3, 1.0, None, 0.1, LOUD_A),
]
FALLS = [
    change(None, 1, None, 0.5, 1),
    change(None, 2, None, 0.0, 2),
    change("amount", 1, None, 0.9, 0.3),
    change("amount", 3, None, 0.5, 0.1, LOUD_A),
]

# Minutes, so that events fall on one instant and on the edges of windows.
SPACING = st.one_of(st.integers(0, 3), st.sampled_from([5, 10, 30, 60, 90, 120, 240]))
KINDS = st.tuples(
    st.sampled_from("aaabbc"),
    st.sampled_from([None, 0, 0, 1, 2]),
    st.booleans(),
    st.sampled_from([1, 2, 7, 0.1, 0.2, 0.7, 1e17, 2**53 + 1, -0.3]),
    st.sampled_from(["", "gate", "gate", "hall", "mall", "nowhere"]),
)
HISTORIES = st.lists(st.tuples(SPACING, KINDS), max_size=30)
RANDOMS = st.randoms(use_true_random=False)


@pytest.fixture(params=[3, 32], autouse=True, scope="module")
def few(request: pytest.FixtureRequest) -> Iterator[None]:
    """Few events stay in the journal after their time, and more than there are in most histories."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal, "FEW", request.param)
        patch.setattr(roles, "FEW", request.param)
        yield


def happenings(raw: list[tuple[int, tuple]], rng: random.Random, scale: int = 1) -> list[Happening]:
    at_us = START_US
    out = []
    for index, (spacing, (type_, who, loud, amount, cell)) in enumerate(raw):
        at_us += spacing * scale * MINUTE_US
        out.append(Happening(type_, at_us, digest(rng, index), who, loud, amount, cell))
    return in_order(out)


def digest(rng: random.Random, index: int) -> int:
    """In any order, and no two the same."""
    return rng.getrandbits(56) << 8 | index


def late(history: list[Happening], rng: random.Random) -> list[Happening]:
    """As they may arrive: each at most so late as it may be."""
    return sorted(history, key=lambda each: each.at_us + rng.randrange(MAX_LATENESS_US))


# In order


@given(HISTORIES, st.sampled_from(EVENT_PATTERNS + TIMED_PATTERNS), RANDOMS)
def test_in_order_every_completion_is_the_oracles(
    raw: list[tuple[int, tuple]], pattern: Pattern, rng: random.Random
) -> None:
    history = happenings(raw, rng)
    one = Subscriber(pattern, rng).feed(history)
    one.settle(FOREVER_US)
    assert one.outcome == expected(pattern, history)


@given(HISTORIES, st.sampled_from(EVENT_PATTERNS + TIMED_PATTERNS), RANDOMS)
def test_a_derived_event_carries_what_the_completing_one_told(
    raw: list[tuple[int, tuple]], pattern: Pattern, rng: random.Random
) -> None:
    """Also if it is found late: sorted or not, what is given out under one id says the same."""
    history = happenings(raw, rng)
    told = {each.id: each.attributes for each in expected(pattern, history)}
    one = Subscriber(pattern, rng).feed(late(history, rng))
    one.settle(FOREVER_US)
    for each in one.given:
        if told.get(each.id) is not None:
            assert each.attributes == told[each.id]


@given(HISTORIES, st.sampled_from(RISES + FALLS), RANDOMS, st.sampled_from([4, 12, 30]), st.integers(0, 6))
def test_in_order_every_change_is_the_oracles(
    raw: list[tuple[int, tuple]], pattern: Pattern, rng: random.Random, scale: int, days: int
) -> None:
    history = happenings(raw, rng, scale)
    since_us = START_US + (days - 6) * DAY_US
    one = Subscriber(pattern, rng, hurry=True, since_us=since_us).feed(history)
    one.settle(FOREVER_US)
    assert one.outcome == expected(pattern, history, since_us)
    assert not one.kept.due_us, "timers come to an end"


# Late


def check_late(pattern: Pattern, history: list[Happening], rng: random.Random) -> None:
    """Late input converges to sorted input; what was given out stands, and there is never less of it."""
    in_time = Subscriber(pattern, rng).feed(history)
    one = Subscriber(pattern, rng).feed(late(history, rng))
    assert one.meaning == in_time.meaning
    one.settle(FOREVER_US)
    digests = [each.digest for each in one.given]
    assert len(digests) == len(set(digests)), "nothing is given out twice"
    assert len(digests) >= len(expected(pattern, history))


@given(HISTORIES, st.sampled_from(EVENT_PATTERNS + TIMED_PATTERNS), RANDOMS)
def test_late_events_converge_to_the_sorted_meaning(
    raw: list[tuple[int, tuple]], pattern: Pattern, rng: random.Random
) -> None:
    check_late(pattern, happenings(raw, rng), rng)


@given(HISTORIES, st.sampled_from(RISES), RANDOMS, st.sampled_from([1, 4, 12, 30]))
def test_late_events_converge_to_the_sorted_rises(
    raw: list[tuple[int, tuple]], pattern: Pattern, rng: random.Random, scale: int
) -> None:
    check_late(pattern, happenings(raw, rng, scale), rng)


@given(HISTORIES, HISTORIES, st.sampled_from(EVENT_PATTERNS + TIMED_PATTERNS), RANDOMS)
def test_whatever_comes_after_late_events_is_as_if_they_had_been_in_time(
    raw: list[tuple[int, tuple]], more: list[tuple[int, tuple]], pattern: Pattern, rng: random.Random
) -> None:
    """But for what answers for a later completion: it is set aside here."""
    history = happenings(raw, rng)
    one = Subscriber(pattern, rng).feed(late(history, rng))
    one.settle(FOREVER_US)
    one.kept.given = ()
    one.resolve(-1)  # sets the timers again
    one.given.clear()
    latest_us = history[-1].at_us if history else START_US
    future = [replace(each, at_us=each.at_us - START_US + latest_us + 1) for each in happenings(more, rng)]
    one.feed(future)
    one.settle(FOREVER_US)
    assert [each for each in one.outcome if each.at_us > latest_us] == [
        each for each in expected(pattern, history + future) if each.at_us > latest_us
    ]


@given(HISTORIES, st.sampled_from(TIMED_PATTERNS), RANDOMS)
def test_timers_settled_when_nothing_older_can_come_are_the_oracles(
    raw: list[tuple[int, tuple]], pattern: Pattern, rng: random.Random
) -> None:
    history = happenings(raw, rng)
    one = Subscriber(pattern, rng, lag_us=MAX_LATENESS_US).feed(late(history, rng))
    one.settle(FOREVER_US)
    assert one.outcome == expected(pattern, history)


@given(HISTORIES, st.sampled_from(FALLS), RANDOMS, st.sampled_from([4, 12, 30]))
def test_falls_settled_when_nothing_older_can_come_are_the_oracles(
    raw: list[tuple[int, tuple]], pattern: Pattern, rng: random.Random, scale: int
) -> None:
    history = happenings(raw, rng, scale)
    one = Subscriber(pattern, rng, lag_us=MAX_LATENESS_US, hurry=True).feed(late(history, rng))
    one.settle(FOREVER_US)
    assert one.outcome == expected(pattern, history)


@given(HISTORIES, st.sampled_from(EVENT_PATTERNS + TIMED_PATTERNS + RISES), RANDOMS, RANDOMS)
def test_forgetting_what_is_idle_cannot_be_seen(
    raw: list[tuple[int, tuple]], pattern: Pattern, rng: random.Random, when: random.Random
) -> None:
    history = happenings(raw, rng, when.choice([1, 12, 30]))
    one = Subscriber(pattern, rng, lag_us=MAX_LATENESS_US)
    for each, following in pairwise([*history, Happening("a", FOREVER_US, 0)]):
        one.feed([each])
        # Other events may be ahead of this pattern's next by so much.
        ahead_us = one.state.latest_us + when.choice([0, 0, 1, 400]) * MINUTE_US
        one.state.latest_us = min(ahead_us, following.at_us + MAX_LATENESS_US)
        one.forget()
    one.settle(FOREVER_US)
    assert one.outcome == expected(pattern, history)
    one.state.latest_us += 100 * DAY_US
    one.forget()
    assert not one.state.patterns or isinstance(pattern, DwellPattern)


@given(HISTORIES, st.sampled_from(EVENT_PATTERNS + TIMED_PATTERNS + RISES), RANDOMS, st.integers(0, 99))
def test_forgetting_between_late_events_cannot_be_seen(
    raw: list[tuple[int, tuple]], pattern: Pattern, rng: random.Random, seed: int
) -> None:
    arrivals = late(happenings(raw, rng, rng.choice([1, 12, 30])), rng)
    whole, forgetful = (Subscriber(pattern, random.Random(seed), MAX_LATENESS_US) for _ in range(2))
    for each in arrivals:
        whole.feed([each])
        forgetful.feed([each])
        forgetful.forget()
        assert forgetful.given == whole.given
    for one in (whole, forgetful):
        one.settle(FOREVER_US)
    assert forgetful.given == whole.given


# The controls: without what makes late events right, the oracle notices.

LATE_PAIR = [
    Happening("b", START_US + MINUTE_US, 2),
    Happening("a", START_US, 1),
    Happening("a", START_US + 2 * MINUTE_US, 3),
]


def as_it_comes(pattern: Pattern, arrivals: list[Happening]) -> None:
    in_time = Subscriber(pattern, random.Random(1)).feed(in_order(arrivals))
    one = Subscriber(pattern, random.Random(1)).feed(arrivals)
    assert one.meaning == in_time.meaning
    assert one.outcome == expected(pattern, arrivals)


def test_control_late_events_taken_as_they_come_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    pattern = sequence(A, B, minutes=10)
    as_it_comes(pattern, LATE_PAIR)
    ready = machines(pattern)
    monkeypatch.setitem(ready, "key", replace(ready["key"], most=0))
    with pytest.raises(AssertionError):
        as_it_comes(pattern, LATE_PAIR)


def test_control_a_journal_that_lets_go_too_early_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    pattern = sequence(A, B, minutes=10)
    later = [Happening("c", START_US + (3 + i) * MINUTE_US, 10 + i) for i in range(40)]
    events = [LATE_PAIR[0], *(replace(each, type="b") for each in later), LATE_PAIR[1]]
    as_it_comes(pattern, events)
    monkeypatch.setattr(roles, "shorten", lambda machines, state, horizon: state.journal.clear())
    with pytest.raises(AssertionError):
        as_it_comes(pattern, events)


def test_control_summing_up_too_early_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    pattern = sequence(A, B, minutes=10)
    monkeypatch.setattr(machinery, "MAX_LATENESS_US", -MAX_SKEW_US)
    with pytest.raises(AssertionError):
        as_it_comes(pattern, LATE_PAIR)


# Machines


def busy(count_: int) -> list[Happening]:
    rng = random.Random(7)
    return [
        Happening(rng.choice("ab"), START_US + i * 100_000, rng.getrandbits(64), rng.randrange(5), True)
        for i in range(count_)
    ]


@pytest.mark.parametrize("pattern", [EVENT_PATTERNS[2], EVENT_PATTERNS[4], EVENT_PATTERNS[6]])
def test_what_is_kept_is_bounded_and_in_order_nothing_is_lost(pattern: Pattern) -> None:
    history = busy(MAX_JOURNAL + 500)
    one = Subscriber(pattern, random.Random(1))
    for each in history:
        one.take(each)
    assert MAX_JOURNAL / 2 <= len(one.state.journal) < MAX_JOURNAL
    assert len(one.kept.given) < MAX_JOURNAL
    assert len(one.kept.tip) <= 10
    assert one.outcome == expected(pattern, history)


def test_links_keep_so_many_runs_and_entries_and_no_more() -> None:
    one = Subscriber(sequence(A, Step(("b",), None, SAME_CALLER), minutes=60), random.Random(1))
    for i in range(500):
        one.take(Happening("a", START_US + i, i, i))
    assert [run[0] for run in one.kept.tip] == [START_US + i for i in range(450, 500)]


@pytest.mark.parametrize("count_", [MAX_LINKED - 1, MAX_LINKED])
def test_links_are_asked_again_of_so_many_events_and_no_more(count_: int) -> None:
    """With one more, an event that comes late is taken as it comes: after what it was before."""
    one = Subscriber(sequence(A, Step(("b",), None, SAME_CALLER), minutes=60), random.Random(1))
    for i in range(count_):
        one.take(Happening("b", START_US + i, i, i))
    one.take(Happening("a", START_US - 1, 0, 7))
    assert bool(one.given) == (count_ < MAX_LINKED)


# Handsets

IMEIS = ["35824005111111", "86012304222222", "01215600333333"]
HANDSETS = st.lists(st.tuples(SPACING, st.integers(0, 2), st.sampled_from("01")), max_size=30)


def handset_happenings(raw: list[tuple[int, int, str]], rng: random.Random) -> list[Happening]:
    at_us, out = START_US, []
    for index, (spacing, which, version) in enumerate(raw):
        at_us += spacing * MINUTE_US
        out.append(Happening("a", at_us, digest(rng, index), imei=IMEIS[which] + version))
    return in_order(out)


def told_handsets(
    arrivals: list[Happening], known: str, rng: random.Random
) -> tuple[SubscriberState, list[Completion]]:
    state = SubscriberState(context={"imei": known} if known else {})
    given = []
    for each in arrivals:
        state.latest_us = max(state.latest_us, each.at_us)
        given += tell(state, each, each.imei)
        if rng.random() < 0.2:
            state = decode_state(encode_state(state))
    return state, given


@given(HANDSETS, RANDOMS, st.sampled_from(["", IMEIS[0] + "9"]))
def test_in_order_every_new_handset_is_the_oracles(
    raw: list[tuple[int, int, str]], rng: random.Random, known: str
) -> None:
    history = handset_happenings(raw, rng)
    state, given = told_handsets(history, known, rng)
    assert [(e.at_us, e.attributes["imei"], e.attributes["previous_imei"]) for e in given] == (
        expected_handsets(history, known)
    )
    assert state.imei == (history[-1].imei if history else "")


@given(HANDSETS, RANDOMS, st.sampled_from(["", IMEIS[0] + "9"]))
def test_late_handsets_leave_the_newest_and_nothing_is_told_twice(
    raw: list[tuple[int, int, str]], rng: random.Random, known: str
) -> None:
    history = handset_happenings(raw, rng)
    state, given = told_handsets(late(history, rng), known, rng)
    assert state.imei == (history[-1].imei if history else "")
    assert len({each.digest for each in given}) == len(given)
    if history and expected_handsets(history, known):
        assert given
    later = Happening("a", START_US + 100 * DAY_US, 1, imei="99")
    last = tell(state, later, later.imei)
    before = history[-1].imei if history else known
    assert [each.attributes["previous_imei"] for each in last] == ([before] if before else [])
