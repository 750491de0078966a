"""The queue of timers, and what a snapshot tells of them."""

from __future__ import annotations

import random

from opportune_service.app.timers import NEVER_US, Timers, due_in
from opportune_service.core.state import PatternState, Series, SubscriberState, encode_state


def test_the_earliest_is_first_and_stays_so_until_it_is_set_anew() -> None:
    timers = Timers()
    for name, at_us in (("b", 20), ("a", 20), ("c", 10)):
        timers.set(name, at_us)
    assert (timers.first(11), timers.first(10), timers.next_us()) == ("c", None, 10)
    timers.set("c", 30)
    assert timers.first(100) == "a"
    timers.set("a", 0)
    assert timers.first(100) == "b"
    timers.set("b", 0)
    timers.set("c", 0)
    assert (timers.first(100), timers.next_us(), len(timers)) == (None, NEVER_US, 0)


def test_a_queue_in_use_equals_a_sorted_list() -> None:
    rng = random.Random(1)
    timers, expected = Timers(), {}
    for _ in range(20_000):
        name, at_us = f"s{rng.randrange(300)}", rng.randrange(50)
        timers.set(name, at_us)
        expected[name] = at_us
        if not at_us:
            del expected[name]
        least = min(((at, name) for name, at in expected.items()), default=(NEVER_US, None))
        assert (timers.next_us(), timers.first(NEVER_US)) == least


def test_waits_that_are_put_off_again_and_again_do_not_pile_up() -> None:
    timers = Timers()
    for at_us in range(1, 100_000):
        timers.set("a", at_us)
    assert len(timers._heap) < 2_000


def test_a_snapshot_tells_its_first_timer() -> None:
    state = SubscriberState(
        position=7, known=True, context={"a": [1, {"b": "c"}]}, series={"m": Series([1], [2])}
    )
    assert due_in(encode_state(state)) == 0
    state.patterns = {
        "k1": PatternState(due_us=50),
        "k2": PatternState(due_us=40),
        "k3": PatternState(),
    }
    assert due_in(encode_state(state)) == state.due_us == 40
