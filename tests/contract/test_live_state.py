"""What every `LiveState` must do."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping

import pytest
from opportune_service.adapters.memory import MemoryLiveState
from opportune_service.core.state import PatternState, Series, SubscriberState, decode_state, encode_state
from support.live_states import KINDS, Live, live_state

WHO = "8613800000001"
OTHER = "8613800000002"
THIRD = "8613800000003"


@pytest.fixture(params=KINDS)
def live(request: pytest.FixtureRequest) -> Iterator[Live]:
    url = ""
    if request.param == "redis cluster":
        url = request.getfixturevalue("redis_cluster_node").url
    elif request.param.startswith("redis"):
        url = request.getfixturevalue("redis_url")
    with live_state(request.param, url) as made:
        yield made


def test_stranger_has_a_new_state(live: Live) -> None:
    loaded = live.run(live.store.load([WHO, OTHER]))
    assert loaded == {WHO: SubscriberState(), OTHER: SubscriberState()}
    assert loaded[WHO] is not loaded[OTHER]
    assert not live.store.dirty()


def test_saved_changes_are_seen_by_later_loads(live: Live) -> None:
    live.change(WHO, 5)
    assert live.load(WHO).position == 5
    assert live.load(OTHER) == SubscriberState()
    assert list(live.store.dirty()) == [WHO]


def test_all_of_a_state_is_kept(live: Live) -> None:
    kept = whole_state()
    state = live.load(WHO)
    for name in SubscriberState.__struct_fields__:
        setattr(state, name, getattr(kept, name))
    live.run(live.store.save([WHO]))
    live.load(OTHER)
    assert live.load(WHO) == whole_state()


def whole_state() -> SubscriberState:
    state = SubscriberState(
        position=3, known=True, context={"arpu": 4200, "name": "é"}, seen={17: 2**63 + 1}
    )
    state.series = {"sms_24h": Series([1, 2]), "calls_24h": Series([3], [4.5])}
    state.patterns = {"p": PatternState(due_us=7), "q": PatternState(base=(1, "x"), due_us=2)}
    return state


def test_what_was_loaded_is_the_same_until_it_is_given_up(live: Live) -> None:
    state = live.load(WHO)
    state.position = 5
    assert live.run(live.store.load([WHO, OTHER]))[WHO].position == 5, "changed, though not saved"


def test_released_states_are_as_they_were(live: Live) -> None:
    live.change(WHO, 5)
    live.load(WHO)
    live.load(OTHER)
    live.run(live.store.release([WHO, OTHER]))
    assert live.load(WHO).position == 5
    assert live.load(OTHER) == SubscriberState()
    assert list(live.store.dirty()) == [WHO]


def test_restored_snapshots_are_loaded_and_clean(live: Live) -> None:
    live.restore({WHO: whole_state()})
    assert not live.store.dirty()
    assert live.load(WHO) == whole_state()
    live.run(live.store.save([WHO]))
    assert live.run(live.store.snapshot([WHO])) == [(WHO, 3, encode_state(whole_state()))]


def test_snapshot_can_be_taken_of_what_is_not_loaded(live: Live) -> None:
    live.change(WHO, 3)
    for n in range(10, 20):
        live.load(f"86138{n:08}")
    ((who, position, blob),) = live.run(live.store.snapshot([WHO, OTHER]))
    assert (who, position, decode_state(blob)) == (WHO, 3, SubscriberState(position=3))


def test_snapshot_makes_clean_until_the_next_save(live: Live) -> None:
    live.change(WHO, 5)
    live.change(OTHER, 6)
    ((who, position, blob),) = live.run(live.store.snapshot([WHO]))
    assert (who, position, decode_state(blob)) == (WHO, 5, live.load(WHO))
    assert list(live.store.dirty()) == [OTHER]
    live.change(WHO, 7)
    assert set(live.store.dirty()) == {WHO, OTHER}


def test_what_was_not_kept_of_a_snapshot_is_still_dirty(live: Live) -> None:
    live.change(WHO, 5)
    live.run(live.store.snapshot([WHO]))
    live.store.still_dirty([WHO])
    assert list(live.store.dirty()) == [WHO]


def test_snapshot_is_not_changed_by_later_work(live: Live) -> None:
    live.change(WHO, 5)
    ((_, _, blob),) = live.run(live.store.snapshot([WHO]))
    live.load(WHO).position = 6
    assert decode_state(blob).position == 5


def test_discard_puts_the_recovered_state_in_place(live: Live) -> None:
    live.change(WHO, 5)
    live.load(WHO).position = 6
    live.load(OTHER).position = 6
    held = live.run(live.store.discard({WHO: SubscriberState(position=5)}, [WHO, OTHER]))
    assert set(held) == {WHO}
    assert live.load(WHO).position == 5
    assert live.load(OTHER) == SubscriberState()
    assert list(live.store.dirty()) == [WHO], "what was saved before has no snapshot yet"


def test_discarded_stranger_has_no_snapshot(live: Live) -> None:
    live.change(WHO, 5)
    live.run(live.store.discard({}, [WHO]))
    assert not live.store.dirty()
    assert live.run(live.store.snapshot([WHO])) == []


def test_what_is_taken_back_is_as_it_was_saved(live: Live) -> None:
    live.change(WHO, 5)
    live.load(WHO).position = 6
    if live.run(live.store.take_back([WHO])):
        assert live.load(WHO).position == 5
    else:
        assert live.load(WHO).position == 6, "nothing is done"


def test_a_look_at_the_context_makes_no_state(live: Live) -> None:
    kept = SubscriberState(position=3, known=True, context={"arpu": 4200})
    live.restore({WHO: kept, THIRD: SubscriberState(position=3)})
    everybody = [WHO, OTHER, THIRD]
    for _ in range(2):  # not loaded yet, and loaded
        live.run(live.store.load([], peers=everybody))
        assert live.store.peek(WHO) == {"arpu": 4200}
        assert live.store.peek(THIRD) is None, "nothing was ever imported of this one"
        assert live.store.peek(OTHER) is None
        assert live.run(live.store.contexts(everybody)) == {WHO: {"arpu": 4200}}
        assert OTHER not in live.run(live.store.subscribers())
        assert live.load(WHO) == kept
        live.load(THIRD)
    assert not live.store.dirty()


def test_a_context_that_is_known_may_be_empty(live: Live) -> None:
    live.restore({WHO: SubscriberState(known=True)})
    live.run(live.store.load([], peers=[WHO]))
    assert live.store.peek(WHO) == {}
    assert live.run(live.store.contexts([WHO])) == {WHO: {}}


def test_a_look_at_the_context_sees_what_is_not_saved_yet(live: Live) -> None:
    state = live.load(WHO)
    state.known, state.context = True, {"arpu": 1}
    live.load(OTHER)
    assert live.store.peek(WHO) == {"arpu": 1}


def test_peers_may_be_loaded_too_and_given_up_meanwhile(live: Live) -> None:
    state = live.load(WHO)
    state.known, state.context = True, {"arpu": 1}
    live.run(live.store.load([WHO, OTHER], peers=[WHO, OTHER]))
    live.run(live.store.save([WHO]))
    assert live.store.peek(WHO) == {"arpu": 1}
    assert live.store.peek(OTHER) is None


def test_view_shows_a_state_and_makes_none(live: Live) -> None:
    live.restore({THIRD: SubscriberState(position=3, known=True, context={"arpu": 1})})
    live.change(WHO, 5)
    for _ in range(2):  # given up, and held
        assert live.run(live.store.view(WHO)).position == 5
        assert live.run(live.store.view(OTHER, peers=[THIRD, OTHER])) == SubscriberState()
        assert live.store.peek(THIRD) == {"arpu": 1}
        assert live.run(live.store.view(THIRD)).position == 3
        assert OTHER not in live.run(live.store.subscribers())
        live.load(WHO)
    assert list(live.store.dirty()) == [WHO]


def test_subscribers_are_those_of_whom_there_is_a_state(live: Live) -> None:
    live.change(WHO, 5)
    live.change(OTHER, 6)
    assert sorted(live.run(live.store.subscribers())) == [WHO, OTHER]


def test_repeated_ids_are_one_subscriber(live: Live) -> None:
    live.change(WHO, 5)
    live.load(OTHER)
    assert live.run(live.store.load([WHO, WHO]))[WHO].position == 5
    live.run(live.store.save([WHO, WHO]))
    assert live.load(WHO).position == 5


def test_nobody_is_fine(live: Live) -> None:
    assert live.run(live.store.load([])) == {}
    live.run(live.store.save([]))
    live.run(live.store.release([]))
    live.run(live.store.note_due([]))
    assert not live.run(live.store.discard({}, []))
    assert live.run(live.store.snapshot([])) == []
    assert live.run(live.store.contexts([])) == {}
    assert live.run(live.store.subscribers()) == []


def test_more_than_fit_into_one_round_trip(live: Live) -> None:
    many = [f"86138{n:08}" for n in range(4_500)]
    for state in live.run(live.store.load(many)).values():
        state.position = 7
    live.run(live.store.save(many))
    assert {state.position for state in live.run(live.store.load(many)).values()} == {7}
    assert sorted(live.run(live.store.subscribers())) == many


def test_many_subscribers_and_little_room(live: Live) -> None:
    """Whatever is loaded, changed, saved, discarded, snapshotted: each has what was last put into it."""
    rnd = random.Random(20261120)
    everybody = [f"86138{n:08}" for n in range(40)]
    expected: dict[str, int] = {}
    saved: dict[str, int] = {}
    dirty: set[str] = set()
    for position in range(1, 400):
        some = rnd.sample(everybody, rnd.randint(1, 12))
        for who, state in live.run(live.store.load(some)).items():
            assert state.position == expected.get(who, 0)
            state.position = expected[who] = position
        if rnd.random() < 0.2:  # the commit failed: back to what is durable
            back = {who: SubscriberState(position=saved[who]) for who in some if who in saved}
            live.run(live.store.discard(back, some))
            for who in some:
                expected.pop(who)
            expected |= {who: state.position for who, state in back.items()}
            dirty -= set(some) - back.keys()
        else:
            live.run(live.store.save(some))
            saved |= dict.fromkeys(some, position)
            dirty |= set(some)
        if rnd.random() < 0.1:
            for who, at, blob in live.run(live.store.snapshot(sorted(dirty))):
                assert at == decode_state(blob).position == expected[who]
            dirty.clear()
        assert set(live.store.dirty()) == dirty
    assert {who: state.position for who, state in live.run(live.store.load(everybody)).items()} == {
        who: expected.get(who, 0) for who in everybody
    }


# -- in memory --------------------------------------------------------------------------------------


class ForgetsWhatIsNotSaved(MemoryLiveState):
    """A control: it makes room by throwing states out as they were when they were last snapshotted."""

    def _make_room(self, coming: int, kept: Mapping[str, SubscriberState]) -> None:
        before = dict(self._encoded)
        super()._make_room(coming, kept)
        for who in self._encoded.keys() - before.keys():
            self._encoded[who] = encode_state(SubscriberState())


@pytest.fixture
def small() -> Iterator[Live]:
    live = Live(lambda _: MemoryLiveState(max_decoded=3))
    yield live
    live.close()


def test_control_a_store_that_loses_changes_is_noticed() -> None:
    live = Live(lambda _: ForgetsWhatIsNotSaved(max_decoded=1))
    try:
        with pytest.raises(AssertionError):
            test_many_subscribers_and_little_room(live)
    finally:
        live.close()


def test_only_so_many_are_kept_ready(small: Live) -> None:
    store = small.store
    assert isinstance(store, MemoryLiveState)
    for n in range(10):
        small.change(f"86138{n:08}", n + 1)
        assert len(store._decoded) + len(store._unused) <= 3
    assert small.load("8613800000009").position == 10
    assert store._encoded.keys() == {f"86138{n:08}" for n in range(7)}, "all but those used last"
    everybody = [f"86138{n:08}" for n in range(10)]
    assert small.run(store.load(everybody)).keys() == set(small.run(store.subscribers())), (
        "whoever asks for more gets them"
    )


def test_strangers_who_were_only_looked_up_are_forgotten(small: Live) -> None:
    for n in range(10):
        small.load(f"86138{n:08}")
    assert len(small.run(small.store.subscribers())) == 3


def test_what_goes_to_rest_is_tidied_first() -> None:
    def tidy(state: SubscriberState) -> None:
        state.imei = ""

    live = Live(lambda _: MemoryLiveState(max_decoded=1, tidy=tidy))
    try:
        for n in range(2):
            live.change(f"86138{n:08}", n + 1)
            live.load(f"86138{n:08}").imei = "35"
        assert live.load("8613800000001").imei == "35", "the one in use is left alone"
        at_rest = live.load("8613800000000")
        assert (at_rest.imei, at_rest.position) == ("", 1)
    finally:
        live.close()
