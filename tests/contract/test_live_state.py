"""What every `LiveState` must do."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest
from opportune_service.adapters.memory import MemoryLiveState
from opportune_service.app.ports import LiveState
from opportune_service.core.state import Series, SubscriberState, decode_state, encode_state

STORES: dict[str, Callable[[], LiveState]] = {
    "memory": MemoryLiveState,
    "memory, short of room": lambda: MemoryLiveState(max_decoded=1),
}

WHO = "8613800000001"
OTHER = "8613800000002"
THIRD = "8613800000003"


@pytest.fixture(params=STORES)
def live(request: pytest.FixtureRequest) -> LiveState:
    return STORES[request.param]()


def load(live: LiveState, subscriber_id: str = WHO) -> SubscriberState:
    return asyncio.run(live.load([subscriber_id]))[subscriber_id]


def change(live: LiveState, subscriber_id: str, position: int) -> None:
    load(live, subscriber_id).position = position
    asyncio.run(live.save([subscriber_id]))


def test_stranger_has_a_new_state(live: LiveState) -> None:
    loaded = asyncio.run(live.load([WHO, OTHER]))
    assert loaded == {WHO: SubscriberState(), OTHER: SubscriberState()}
    assert loaded[WHO] is not loaded[OTHER]
    assert not live.dirty()


def test_saved_changes_are_seen_by_later_loads(live: LiveState) -> None:
    change(live, WHO, 5)
    assert load(live).position == 5
    assert load(live, OTHER) == SubscriberState()
    assert list(live.dirty()) == [WHO]


def test_restored_snapshots_are_loaded_and_clean(live: LiveState) -> None:
    kept = SubscriberState(position=3, known=True, context={"arpu": 4200}, seen={17: 18})
    kept.series = {"sms_24h": Series([1, 2]), "calls_24h": Series([3], [4])}
    live.restore(iter([(WHO, encode_state(kept))]))
    assert not live.dirty()
    assert load(live) == kept
    assert live.snapshot([WHO]) == [(WHO, 3, encode_state(kept))]


def test_snapshot_can_be_taken_of_what_nobody_loaded(live: LiveState) -> None:
    blob = encode_state(SubscriberState(position=3))
    live.restore([(WHO, blob)])
    assert live.snapshot([WHO]) == [(WHO, 3, blob)]


def test_snapshot_makes_clean_until_the_next_save(live: LiveState) -> None:
    change(live, WHO, 5)
    change(live, OTHER, 6)
    ((who, position, blob),) = live.snapshot([WHO])
    assert (who, position, decode_state(blob)) == (WHO, 5, load(live))
    assert list(live.dirty()) == [OTHER]
    change(live, WHO, 7)
    assert set(live.dirty()) == {WHO, OTHER}


def test_snapshot_is_not_changed_by_later_work(live: LiveState) -> None:
    change(live, WHO, 5)
    ((_, _, blob),) = live.snapshot([WHO])
    load(live).position = 6
    assert decode_state(blob).position == 5


def test_discard_puts_the_recovered_state_in_place(live: LiveState) -> None:
    change(live, WHO, 5)
    load(live).position = 6
    load(live, OTHER).position = 6
    asyncio.run(live.discard({WHO: SubscriberState(position=5)}, [WHO, OTHER]))
    assert load(live).position == 5
    assert load(live, OTHER) == SubscriberState()
    assert list(live.dirty()) == [WHO], "what was saved before has no snapshot yet"


def test_discarded_stranger_has_no_snapshot(live: LiveState) -> None:
    change(live, WHO, 5)
    asyncio.run(live.discard({}, [WHO]))
    assert not live.dirty()
    assert live.snapshot([WHO]) == []


def test_a_look_at_the_context_makes_no_state(live: LiveState) -> None:
    kept = SubscriberState(position=3, known=True, context={"arpu": 4200})
    live.restore([(WHO, encode_state(kept)), (THIRD, encode_state(SubscriberState(position=3)))])
    for _ in range(2):  # as bytes, and as an object
        assert live.peek(WHO) == {"arpu": 4200}
        assert live.peek(THIRD) is None, "nothing was ever imported of this one"
        assert live.peek(OTHER) is None
        assert sorted(live.subscribers()) == [WHO, THIRD]
        assert live.contexts([WHO, OTHER, THIRD]) == [(WHO, {"arpu": 4200})]
        assert load(live) == kept
        load(live, THIRD)
    assert not live.dirty()


def test_a_look_at_the_context_sees_what_is_not_saved_yet(live: LiveState) -> None:
    state = load(live)
    state.known, state.context = True, {"arpu": 1}
    load(live, OTHER)
    assert live.peek(WHO) == {"arpu": 1}


def test_repeated_ids_are_one_subscriber(live: LiveState) -> None:
    change(live, WHO, 5)
    load(live, OTHER)
    assert asyncio.run(live.load([WHO, WHO]))[WHO].position == 5


def test_many_subscribers_and_little_room(live: LiveState) -> None:
    """Whatever is loaded, changed, saved, discarded, snapshotted: each has what was last put into it."""
    rnd = random.Random(20261120)
    everybody = [f"86138{n:08}" for n in range(40)]
    expected: dict[str, int] = {}
    saved: dict[str, int] = {}
    dirty: set[str] = set()
    for position in range(1, 400):
        some = rnd.sample(everybody, rnd.randint(1, 12))
        for who, state in asyncio.run(live.load(some)).items():
            assert state.position == expected.get(who, 0)
            state.position = expected[who] = position
        if rnd.random() < 0.2:  # the commit failed: back to what is durable
            back = {who: SubscriberState(position=saved[who]) for who in some if who in saved}
            asyncio.run(live.discard(back, some))
            for who in some:
                expected.pop(who)
            expected |= {who: state.position for who, state in back.items()}
            dirty -= set(some) - back.keys()
        else:
            asyncio.run(live.save(some))
            saved |= dict.fromkeys(some, position)
            dirty |= set(some)
        if rnd.random() < 0.1:
            for who, at, blob in live.snapshot(sorted(dirty)):
                assert at == decode_state(blob).position == expected[who]
            dirty.clear()
        assert set(live.dirty()) == dirty
    assert {who: state.position for who, state in asyncio.run(live.load(everybody)).items()} == {
        who: expected.get(who, 0) for who in everybody
    }


class ForgetsWhatIsNotSaved(MemoryLiveState):
    """A control: it makes room by throwing states out as they were when they were last snapshotted."""

    def _make_room(self, coming: int, keep: int) -> None:
        before = dict(self._encoded)
        super()._make_room(coming, keep)
        for who in self._encoded.keys() - before.keys():
            self._encoded[who] = encode_state(SubscriberState())


def test_control_a_store_that_loses_changes_is_noticed() -> None:
    with pytest.raises(AssertionError):
        test_many_subscribers_and_little_room(ForgetsWhatIsNotSaved(max_decoded=1))


def test_only_so_many_are_kept_ready() -> None:
    live = MemoryLiveState(max_decoded=3)
    for n in range(10):
        change(live, f"86138{n:08}", n + 1)
        assert len(live._decoded) <= 3
    assert load(live, "8613800000009").position == 10
    assert set(live._decoded) == {f"86138{n:08}" for n in (7, 8, 9)}, "those used last"
    assert asyncio.run(live.load([f"86138{n:08}" for n in range(10)])).keys() == set(live.subscribers()), (
        "whoever asks for more gets them"
    )


def test_strangers_who_were_only_looked_up_are_forgotten() -> None:
    live = MemoryLiveState(max_decoded=1)
    for n in range(10):
        load(live, f"86138{n:08}")
    assert len(live.subscribers()) == 1


def test_what_goes_to_rest_is_tidied_first() -> None:
    def tidy(state: SubscriberState) -> None:
        state.imei = ""

    live = MemoryLiveState(max_decoded=1, tidy=tidy)
    for n in range(2):
        change(live, f"86138{n:08}", n + 1)
        load(live, f"86138{n:08}").imei = "35"
    assert load(live, "8613800000001").imei == "35", "the one in use is left alone"
    assert (load(live, "8613800000000").imei, load(live, "8613800000000").position) == ("", 1)
