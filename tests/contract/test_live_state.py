"""What every `LiveState` must do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from opportune_service.adapters.memory import MemoryLiveState
from opportune_service.app.ports import LiveState
from opportune_service.core.state import SubscriberState, decode_state, encode_state

STORES: dict[str, Callable[[], LiveState]] = {"memory": MemoryLiveState}

WHO = "8613800000001"
OTHER = "8613800000002"


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
