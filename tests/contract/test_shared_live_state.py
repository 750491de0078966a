"""What a `LiveState` that members share must do, on one Redis and on a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine, Iterator, Mapping, Sequence
from typing import Any

import pytest
from opportune_service.adapters.redis import RedisLiveState, contested
from opportune_service.adapters.redis.contested import ASK_AGAIN_SECONDS
from opportune_service.adapters.redis.layout import SHARDS, shard_of
from opportune_service.adapters.redis.nodes import Call
from opportune_service.adapters.redis.store import Entry
from opportune_service.app.errors import ExpelledError, StoreConflictError, StoreUnavailableError
from opportune_service.app.takeover import hold
from opportune_service.core.state import PatternState, SubscriberState, decode_state
from support.live_states import Members, members
from support.members import until
from support.servers import RedisServer

WHO = "8613800000001"
OTHER = "8613800000002"
MANY = [f"86139{n:08}" for n in range(300)]


@pytest.fixture(params=["redis", "redis cluster"])
def shared(request: pytest.FixtureRequest) -> Iterator[Members]:
    cluster = request.param == "redis cluster"
    url = (
        request.getfixturevalue("redis_cluster_node").url
        if cluster
        else request.getfixturevalue("redis_url")
    )
    with members(url, cluster=cluster, count=3) as made:
        yield made


def test_whoever_is_held_is_left_out(shared: Members) -> None:
    a, b, _ = shared
    shared.load(a, WHO)
    assert shared.load(b, WHO, OTHER).keys() == {OTHER}
    assert shared.load(a, WHO, OTHER).keys() == {WHO}


@pytest.mark.parametrize("give_up", ["save", "release", "take_back"])
def test_whoever_is_given_up_can_be_held_by_others(shared: Members, give_up: str) -> None:
    a, b, _ = shared
    shared.load(a, *MANY)
    assert shared.load(b, *MANY) == {}
    shared.run(getattr(a, give_up)(MANY))
    assert shared.load(b, *MANY).keys() == set(MANY)


def test_changes_are_handed_over(shared: Members) -> None:
    for position in range(1, 10):
        for member in shared:
            state = shared.load(member, WHO)[WHO]
            assert len(state.seen) == state.position
            state.position += 1
            state.seen[state.position] = position
            shared.save(member, WHO)
    assert shared.load(shared.all[0], WHO)[WHO].position == 27


def test_whoever_was_not_changed_by_others_is_not_brought_again(shared: Members) -> None:
    """One that is the same object was not decoded again."""
    a, b, _ = shared
    shared.change(a, WHO, 1)
    mine = shared.load(a, WHO)[WHO]
    shared.save(a, WHO)
    assert shared.load(a, WHO)[WHO] is mine
    shared.save(a, WHO)
    shared.change(b, WHO, 2)
    theirs = shared.load(a, WHO)[WHO]
    assert (theirs is mine, theirs.position) == (False, 2)


def test_what_is_not_saved_is_not_seen_by_others(shared: Members) -> None:
    a, b, _ = shared
    shared.change(a, WHO, 1)
    state = shared.load(a, WHO)[WHO]
    state.position, state.known, state.context = 2, True, {"arpu": 1}
    assert shared.run(b.contexts([WHO])) == {}
    ((_, position, blob),) = shared.run(a.snapshot([WHO]))
    assert (position, decode_state(blob).position) == (1, 1)

    async def viewed() -> int:
        viewing = asyncio.create_task(b.view(WHO))
        while WHO not in a.wanted:
            await a.heed(0)
        assert not viewing.done(), "it waits until she is given up"
        await a.save([WHO], [WHO])
        return (await viewing).position

    assert shared.run(viewed()) == 2
    assert shared.run(b.contexts([WHO])) == {WHO: {"arpu": 1}}


@pytest.mark.parametrize("heard", ["in use", "given up before", "kept"])
def test_whoever_was_asked_for_is_left_to_others_for_a_moment(shared: Members, heard: str) -> None:
    """Else the next group has her before the other looks."""
    a, b, _ = shared

    async def left() -> float:
        await a.load([WHO])
        if heard == "kept":
            await a.save([WHO])
        assert not await b.load([WHO])
        await b.ask_for([WHO])
        if heard == "in use":
            await a.heed(0)
            assert WHO in a.wanted
        if heard != "kept":
            await a.release([WHO])
        given_up_at = asyncio.get_running_loop().time()
        if heard != "in use":
            await a.heed(0)
        assert await b.load([WHO])
        await until(lambda: WHO not in a.wanted, "she may be used again")
        return asyncio.get_running_loop().time() - given_up_at

    assert shared.run(left()) >= ASK_AGAIN_SECONDS


def test_whoever_is_left_to_another_can_be_asked_for(
    shared: Members, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No `load` tells by whom they are held, for they are not to be loaded if they are free."""
    monkeypatch.setattr(contested, "ASK_AGAIN_SECONDS", 60)  # however slow the test is
    a, b, _ = shared

    async def asked_for() -> None:
        await a.load([WHO])
        assert not await b.load([WHO])
        await b.ask_for([WHO])
        await a.release([WHO])
        await a.heed(0)
        await a.ask_for([WHO])  # nobody has her yet
        await b.load([WHO])
        await a.ask_for([WHO])
        await b.heed(0)
        assert WHO in b.wanted

    shared.run(asked_for())


def test_what_was_saved_is_seen_while_it_is_given_up(shared: Members) -> None:
    """It is contested, so it goes to Redis; what was saved of it before need not be there."""
    a, b, _ = shared
    shared.change(a, WHO, 1)
    shared.change(a, WHO, 2)
    shared.load(a, WHO)[WHO].position = 3
    assert shared.load(b, WHO) == {}, "it was asked for"

    async def viewed() -> int:
        async with a._lock:  # whoever loads has it for as long as snapshots are fetched
            saving = asyncio.create_task(a.save([WHO]))
            await asyncio.sleep(0)
            seen = (await a.view(WHO)).position
        await saving
        return seen

    assert shared.run(viewed()) == 3
    assert shared.load(b, WHO)[WHO].position == 3


def test_what_a_snapshot_writes_late_is_not_taken_for_all_there_is(shared: Members) -> None:
    """It is of the state before: she was used and saved again while the snapshot waited for its turn."""
    a, b, _ = shared
    shared.change(a, WHO, 1)
    shared.change(a, WHO, 2)
    look, looked = b._store.look, asyncio.Event()

    async def seen_once(entry: Entry) -> tuple[bytes, int, memoryview]:
        found = await look(entry)
        looked.set()
        return found

    b._store.look = seen_once  # type: ignore[method-assign]

    async def viewed() -> int:
        async with a._lock:
            writing = asyncio.create_task(a.snapshot([WHO]))
            await asyncio.sleep(0)
            (await a.load([WHO]))[WHO].position = 3
            await a.save([WHO])
            viewing = asyncio.create_task(b.view(WHO))
            await looked.wait()
        await writing
        while not viewing.done():
            looked.clear()
            looking = asyncio.create_task(looked.wait())
            await asyncio.wait({viewing, looking}, return_when=asyncio.FIRST_COMPLETED)
            looking.cancel()
            await a.heed(0)
        return (await viewing).position

    assert shared.run(viewed()) == 3


def test_each_who_views_has_the_peers_that_were_asked_for(shared: Members) -> None:
    a, b, _ = shared
    for n, who in enumerate((WHO, OTHER)):
        state = shared.load(a, who)[who]
        state.known, state.context = True, {"arpu": n}
        shared.save(a, who, said=[who])
    shared.run(a.hand_over())

    async def looked(who: str, peer: str) -> object:
        await b.view(who, [peer])
        return b.peek(peer)

    async def both() -> list[object]:
        return await asyncio.gather(looked(MANY[0], WHO), looked(MANY[1], OTHER))

    assert shared.run(both()) == [{"arpu": 0}, {"arpu": 1}]


def test_peers_are_seen_whoever_holds_them(shared: Members) -> None:
    a, b, _ = shared
    state = shared.load(a, WHO)[WHO]
    state.known, state.context = True, {"arpu": 1}
    shared.save(a, WHO)
    shared.load(a, WHO)
    shared.run(b.load([OTHER], peers=[WHO]))
    assert b.peek(WHO) == {"arpu": 1}
    shared.run(b.load([OTHER], peers=["8613800000003"]))
    assert b.peek(WHO) is None, "load was not told"


def test_what_is_taken_back_is_as_it_was_saved(shared: Members) -> None:
    a, b, _ = shared
    shared.change(a, WHO, 1)
    shared.load(a, WHO)[WHO].position = 2
    assert shared.run(a.take_back([WHO, OTHER]))
    assert shared.load(a, WHO)[WHO].position == 1
    shared.run(a.release([WHO]))
    assert shared.load(b, WHO)[WHO].position == 1


# -- members that are taken over --------------------------------------------------------------------


def test_whoever_a_member_held_that_is_gone_is_free(shared: Members) -> None:
    a, b, c = shared
    shared.change(a, WHO, 1)
    shared.load(a, WHO, *MANY)
    shared.run(b.take_over(1))
    assert shared.load(b, WHO)[WHO].position == 1
    assert shared.load(b, *MANY).keys() == set(MANY)
    assert shared.load(c, WHO) == {}, "c holds on to what it knows: b has it now"
    shared.save(b, WHO)
    assert shared.load(c, WHO).keys() == {WHO}


@pytest.mark.parametrize("viewer", [1, 2])
def test_whoever_is_viewed_while_it_is_taken_over_is_seen_when_all_is_folded(
    shared: Members, viewer: int
) -> None:
    """The mark is another one as soon as it is taken: that is no sign that Redis has all there is."""
    a, b, _ = shared
    by = shared.all[viewer]
    shared.change(a, WHO, 1)
    shared.change(a, WHO, 2)

    looks, look = 0, by._store.look

    async def looked(entry: Entry) -> tuple[bytes, int, memoryview]:
        nonlocal looks
        found = await look(entry)
        looks += 1
        return found

    by._store.look = looked  # type: ignore[method-assign]

    async def viewed() -> int:
        viewing = asyncio.create_task(by.view(WHO))
        while not looks:
            await b.heed(0)
        await b.take_over(1)
        state = (await b.load([WHO]))[WHO]
        before = looks
        while looks < before + 2 and not viewing.done():
            await b.heed(0)
        assert not viewing.done(), "not all of it is folded yet"
        state.position = 2
        await b.save([WHO], [WHO])
        return (await viewing).position

    assert shared.run(viewed()) == 2


def test_nobody_is_taken_from_a_member_that_lives(shared: Members) -> None:
    a, b, c = shared
    shared.load(a, WHO)
    shared.load(b, OTHER)
    shared.run(c.take_over(1))
    assert shared.load(c, WHO, OTHER).keys() == {WHO}


def test_whoever_was_taken_over_saves_nothing(shared: Members) -> None:
    a, b, c = shared
    shared.change(a, WHO, 1)
    shared.load(a, WHO, OTHER)[WHO].position = 2
    shared.run(b.take_over(1))
    shared.change(b, WHO, 3)
    shared.save(a, WHO, OTHER)  # as far as it knows: the ledger would not have let it commit
    with pytest.raises(ExpelledError, match="taken over"):
        shared.run(a.snapshot([WHO]))
    assert shared.load(c, WHO)[WHO].position == 3
    a.become(4)
    assert shared.load(a, WHO) == {}
    shared.save(c, WHO)
    assert shared.load(a, WHO)[WHO].position == 3


def test_a_member_under_another_number_knows_nothing(shared: Members) -> None:
    a, b, _ = shared
    shared.load(a, WHO)[WHO].position = 2
    a.become(7)
    assert not a.dirty()
    assert shared.load(a, WHO) == {}, "held under the old number"
    shared.run(a.take_over(1))
    assert shared.load(a, WHO)[WHO].position == 0
    assert shared.load(b, WHO) == {}


def test_what_is_under_way_is_not_for_the_next_number(shared: Members) -> None:
    """The number changes while the ledger is asked for snapshots."""
    a, b, _ = shared
    fetch = a._fetch

    async def meanwhile(subscriber_ids: Collection[str]) -> Mapping[str, bytes]:
        a.become(7)
        return await fetch(subscriber_ids)

    a._fetch = meanwhile
    with pytest.raises(StoreUnavailableError, match="another member"):
        shared.load(a, WHO)
    a._fetch = fetch
    assert shared.load(a, WHO) == {}, "held under the old number"
    shared.run(b.take_over(1))
    assert shared.load(b, WHO).keys() == {WHO}


def test_discard_is_for_those_whom_nobody_else_holds(shared: Members) -> None:
    a, b, _ = shared
    shared.change(a, WHO, 1)
    shared.load(a, WHO)
    shared.change(b, OTHER, 1)
    with pytest.raises(StoreConflictError, match="try again"):
        shared.run(b.discard({}, [WHO, OTHER]))
    assert OTHER not in shared.run(b.subscribers()), "done all the same"
    nine = {WHO: SubscriberState(position=9), OTHER: SubscriberState(position=9)}
    assert set(shared.run(b.discard(nine, [WHO, OTHER]))) == {OTHER}
    assert shared.load(a, WHO)[WHO].position == 1
    shared.run(a.release([WHO]))
    assert set(shared.run(b.discard({WHO: nine[WHO]}, [WHO]))) == {WHO}
    assert shared.load(a, WHO, OTHER) == {}, "whoever is recovered is held"
    shared.run(b.release([WHO]))
    assert shared.load(a, WHO)[WHO].position == 9


async def unheard(member: RedisLiveState, call: Coroutine[Any, Any, object]) -> None:
    """Redis does what it is asked, and the answer is lost."""
    whole = member._store.nodes.run

    async def asked(calls: Sequence[Call]) -> list[object]:
        await whole(calls)
        raise StoreUnavailableError("nobody heard the answer")

    member._store.nodes.run = asked  # type: ignore[method-assign]
    with pytest.raises(StoreUnavailableError):
        await call
    member._store.nodes.run = whole  # type: ignore[method-assign]


def test_of_whom_holding_all_failed_nobody_stays_in_use(shared: Members) -> None:
    """Whoever wanted them all will not save or release those whom this member had kept."""
    a, b, _ = shared
    shared.change(a, WHO, 1)
    shared.change(a, WHO, 2)
    shared.run(unheard(a, hold(a, [WHO, OTHER])))
    found = shared.load(b, WHO, OTHER)
    assert {who: state.position for who, state in found.items()} == {WHO: 2, OTHER: 0}


def test_what_others_saved_since_the_record_was_read_is_kept(shared: Members) -> None:
    a, b, _ = shared
    shared.load(a, WHO)[WHO].position = 10
    shared.run(unheard(a, a.save([WHO])))
    record = {WHO: SubscriberState(position=10)}
    shared.change(b, WHO, 20)
    shared.run(b.hand_over())
    assert set(shared.run(a.discard(record, [WHO]))) == {WHO}
    assert shared.load(a, WHO)[WHO].position == 20, "held, as it is"
    shared.save(a, WHO)
    assert list(a.dirty()) == [WHO]
    assert shared.load(b, WHO)[WHO].position == 20


def test_what_was_saved_and_is_held_by_others_meanwhile_is_for_both_to_snapshot(shared: Members) -> None:
    """The other one need not change it: then only this one knows that it has no snapshot yet."""
    a, b, _ = shared
    shared.load(a, WHO)[WHO].position = 10
    shared.run(unheard(a, a.save([WHO])))
    assert shared.load(b, WHO)[WHO].position == 10
    assert not shared.run(a.discard({WHO: SubscriberState(position=10)}, [WHO]))
    shared.run(b.release([WHO]))
    assert list(a.dirty()) == [WHO]
    assert [position for _, position, _ in shared.run(a.snapshot([WHO]))] == [10]
    shared.load(a, WHO)
    assert shared.run(a.take_back([WHO])), "it is not in doubt any more"


def test_two_who_recover_the_same_subscribers_do_not_wait_for_each_other(shared: Members) -> None:
    """Both asked for both, and either got one, but does not know which."""
    a, b, c = shared
    shared.run(unheard(a, a.load([WHO])))
    shared.run(unheard(b, b.load([OTHER])))
    both = {each: SubscriberState() for each in (WHO, OTHER)}
    recovered = []
    for member in (a, b):
        held = shared.run(member.discard(both, [*both]))
        recovered += held
        shared.save(member, *held)
    assert set(recovered) == {WHO, OTHER}
    assert shared.load(c, WHO, OTHER).keys() == {WHO, OTHER}


def test_save_is_for_those_who_are_held(shared: Members) -> None:
    a, _, _ = shared
    shared.change(a, WHO, 1)
    with pytest.raises(StoreUnavailableError, match="not held"):
        shared.save(a, WHO)
    assert shared.run(a.take_back([WHO])) is False


# -- time to live, and snapshots --------------------------------------------------------------------


def test_states_are_kept_for_as_long_as_was_asked(redis_server: RedisServer, redis_url: str) -> None:
    with members(redis_url, count=1, keep_seconds=1_000) as shared, redis_server.connect() as redis:
        (a,) = shared
        shared.change(a, WHO, 1)
        (key,) = redis.keys("opportune:*:s:*")
        assert 999_000 < redis.pttl(key) <= 1_000_000
        redis.pexpire(key, 500_000)
        shared.load(a, WHO)
        shared.run(a.release([WHO]))
        assert redis.pttl(key) <= 500_000
        shared.change(a, WHO, 2)
        shared.run(a.snapshot([WHO]))
        assert redis.pttl(key) > 999_000, "renewed"


def test_of_whoever_redis_has_not_kept_the_snapshot_is_taken(
    redis_server: RedisServer, redis_url: str
) -> None:
    with members(redis_url) as shared, redis_server.connect() as redis:
        a, b = shared
        shared.change(a, WHO, 1)
        shared.snapshots.keep(WHO, SubscriberState(position=1, known=True, context={"arpu": 1}))
        redis.delete(*redis.keys("opportune:*:s:*"))
        assert shared.run(b.contexts([WHO, OTHER])) == {WHO: {"arpu": 1}}
        assert shared.view(b, WHO).known
        assert shared.load(a, WHO)[WHO].known, "though it has the version before in its cache"
        shared.change(a, WHO, 2)
        shared.snapshots.asked.clear()
        assert shared.load(b, WHO)[WHO].position == 2
        assert shared.snapshots.asked == []


def test_due_are_those_whose_first_timer_is_before(shared: Members) -> None:
    a, b, _ = shared
    for n, state in enumerate(shared.load(a, *MANY).values()):
        state.patterns = {"p": PatternState(due_us=10 * n), "q": PatternState(due_us=1_000_000)}
    shared.save(a, *MANY)
    expected = [(who, 10 * n) for n, who in enumerate(MANY)][1:]
    assert shared.run(b.due(1_000, 1_000)) == expected[:99]
    assert shared.run(b.due(1_000, 10)) == expected[:10]
    everybody = [*expected, (MANY[0], 1_000_000)]
    assert shared.run(b.due(1_000_001, 1_000)) == [*everybody[10:], *everybody[:10]]
    states = shared.load(b, *MANY[:3])
    states[MANY[0]].patterns = {}
    states[MANY[1]].patterns["p"].due_us = 5_000
    shared.save(b, *MANY[:2])
    shared.run(b.discard({}, [MANY[2]]))
    shared.run(b.due(0, 1))
    assert shared.run(a.due(1_000_001, 1_000)) == sorted(
        [*expected[2:], (MANY[1], 5_000)], key=lambda each: each[1]
    )


def wait_until(shared: Members, due_us: Mapping[str, int]) -> None:
    for who, state in shared.load(shared.all[0], *due_us).items():
        state.patterns = {"p": PatternState(due_us=due_us[who])}
    shared.save(shared.all[0], *due_us)


@pytest.mark.parametrize("at_once", [False, True])
def test_due_come_to_everybody_though_nobody_settles_the_first(shared: Members, at_once: bool) -> None:
    due_us = {who: 500 if at_once else 100 + n // 3 for n, who in enumerate(MANY)}
    wait_until(shared, due_us)
    b = shared.all[1]
    for _ in range(2):
        turns = [shared.run(b.due(1_000, 70)) for _ in range(5)]
        assert [len(turn) for turn in turns] == [70] * 5
        assert dict(each for turn in turns for each in turn) == due_us
    assert len(shared.run(b.due(1_000, 1_000))) == len(MANY), "once each"


def test_due_begin_again_with_those_that_came_in_before(shared: Members) -> None:
    wait_until(shared, {who: 100 + n for n, who in enumerate(MANY)})
    b = shared.all[1]
    shared.run(b.due(1_000, 299))
    wait_until(shared, {WHO: 50})
    assert shared.run(b.due(1_000, 2)) == [(MANY[-1], 399), (WHO, 50)]


def test_timers_that_snapshots_have_are_due(shared: Members) -> None:
    a, b, _ = shared
    wait_until(shared, {MANY[0]: 10, MANY[1]: 30})
    shared.run(a.note_due([(who, 20) for who in MANY]))
    shared.run(a.note_due([]))
    expected = [(MANY[0], 10), *((who, 20) for who in MANY[1:])]
    assert shared.run(b.due(1_000, 1_000)) == expected, "never later than is known"
    wait_until(shared, {MANY[1]: 40})
    shared.run(a.due(0, 1))
    assert (MANY[1], 40) in shared.run(b.due(1_000, 1_000)), "until its first timer is another one"


def test_a_timer_that_was_dropped_when_it_was_loaded_is_not_due_any_more(shared: Members) -> None:
    """Loading renews a state for the present revision, which may have other patterns."""
    a, b, _ = shared
    states = shared.load(a, WHO, OTHER)
    for state in states.values():
        state.patterns = {"p": PatternState(due_us=7)}
    shared.save(a, WHO, OTHER)
    shared.load(b, WHO)[WHO].patterns = {}
    shared.run(b.release([WHO]))
    assert shared.run(a.due(100, 10)) == [(OTHER, 7)]
    assert shared.load(a, WHO)[WHO].patterns == {}
    shared.load(a, "8613800000003")
    shared.run(a.release(["8613800000003"]))
    assert "8613800000003" not in shared.run(a.subscribers()), "a stranger stays one"


# -- which store it is ------------------------------------------------------------------------------


def test_all_members_see_the_same_store(shared: Members) -> None:
    assert len({shared.run(member.identity()) for member in shared}) == 1


def test_states_are_spread_over_all_shards() -> None:
    spread = [0] * SHARDS
    for n in range(100_000):
        spread[shard_of(b"86138%08d" % n)] += 1
    assert min(spread) > 0.8 * 100_000 / SHARDS
    assert max(spread) < 1.2 * 100_000 / SHARDS


def test_shards_are_spread_evenly_over_nodes(
    redis_cluster_nodes: list[RedisServer], redis_cluster_node: RedisServer
) -> None:
    with members(redis_cluster_node.url, cluster=True, count=1) as shared:
        shared.load(shared.all[0], *MANY)
    sizes = []
    for node in redis_cluster_nodes:
        with node.connect() as redis:
            sizes.append(len(redis.keys("opportune:*:id")))
    assert sum(sizes) == SHARDS
    assert max(sizes) - min(sizes) <= 1


def test_only_so_many_are_kept_ready(redis_url: str) -> None:
    with members(redis_url, count=1, max_decoded=3) as shared:
        (a,) = shared
        for who in MANY[:10]:
            shared.change(a, who, 1)
        assert list(a._kept) == MANY[7:10], "those used last"
        shared.load(a, *MANY[:10])
        shared.run(a.release(MANY[:10]))
        assert len(a._cache) + len(a._kept) == 3
        assert {each.position for each in shared.load(a, *MANY[:10]).values()} == {1}
        shared.run(a.release(MANY[:10]))
        shared.load(a, *MANY[5:10])
        shared.change(a, MANY[0], 2)
        assert shared.load(a, *MANY[5:10]).keys() == set(MANY[5:10]), "whoever is held stays"


def test_what_is_asked_for_while_it_is_given_up_waits(shared: Members) -> None:
    """One loads whom another part of the same process is just saving."""
    a, b, _ = shared

    async def both() -> None:
        states = await a.load([WHO])
        states[WHO].position = 1
        saving = asyncio.create_task(a.save([WHO]))
        loading = asyncio.create_task(a.load([WHO]))
        await saving
        assert (await loading)[WHO].position == 1

    shared.run(both())
    assert shared.load(b, WHO) == {}, "it is held"
    shared.save(a, WHO)


def test_no_number_is_told(shared: Members) -> None:
    a = shared.all[0]
    with pytest.raises(StoreUnavailableError) as raised:
        shared.save(a, WHO)
    assert WHO not in str(raised.value)
