"""Live state in a Redis that is restarted, emptied, hangs, has no memory left, or moves between nodes.

Members keep nobody, so that each call is about Redis; of those that do, see `test_redis_cuts.py`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest
from opportune_service.adapters.redis import RedisLiveState
from opportune_service.adapters.redis.layout import SHARDS, SLOTS, shard_of
from opportune_service.adapters.redis.nodes import Call
from opportune_service.app.errors import ExpelledError, StoreUnavailableError
from opportune_service.core.state import SubscriberState
from support.live_states import KeepsNobody, Members, Snapshots, members
from support.servers import LOOPBACK, RedisServer, free_port, redis, redis_cluster, until

WHO = "8613800000001"
OTHER = "8613800000002"
MANY = [f"86139{n:08}" for n in range(200)]

keeping_nobody = partial(members, make=KeepsNobody)


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """One of the test's own, which forgets nothing when it is restarted."""
    with redis(durable=True) as made:
        yield made


@pytest.fixture
def shared(server: RedisServer) -> Iterator[Members]:
    with keeping_nobody(server.url) as made:
        yield made


# -- a store that is not the one it was -------------------------------------------------------------


def test_a_restarted_server_is_not_believed_before_it_was_compared(
    server: RedisServer, shared: Members
) -> None:
    """Though it has everything: who can tell?"""
    a, b = shared
    before = shared.run(a.identity())
    shared.change(a, WHO, 1)
    shared.change(b, OTHER, 1)
    server.stop()
    server.start()
    for member in shared:
        for _ in range(3):
            with pytest.raises(StoreUnavailableError):
                shared.load(member, WHO)
            with pytest.raises(StoreUnavailableError):
                shared.run(member.snapshot([WHO]))
            with pytest.raises(StoreUnavailableError):
                shared.run(member.contexts([WHO]))
    after = shared.run(a.identity())
    assert after != before
    assert after == shared.run(b.identity())


def test_what_was_written_before_a_restart_is_what_the_ledger_says(
    server: RedisServer, shared: Members
) -> None:
    a, b = shared
    shared.change(a, WHO, 1)
    shared.change(a, OTHER, 1)
    shared.snapshots.keep(WHO, SubscriberState(position=7))
    server.stop()
    server.start()
    for number, member in enumerate(shared, start=3):
        shared.run(member.identity())
        member.become(number)
    assert shared.load(a, WHO)[WHO].position == 7
    assert shared.run(a.snapshot([OTHER])) == []
    assert shared.load(a, OTHER)[OTHER].position == 0
    shared.save(a, WHO, OTHER)
    assert shared.load(b, WHO, OTHER)[WHO].position == 7


def test_an_emptied_server_is_noticed(server: RedisServer, shared: Members) -> None:
    """Nothing else tells: connections and run id are the same."""
    a, b = shared
    before = shared.run(a.identity())
    shared.change(a, WHO, 1)
    shared.load(a, OTHER)
    with server.connect() as client:
        client.flushall()
    for call in (a.load([WHO]), a.save([OTHER]), a.snapshot([WHO]), a.contexts([WHO]), a.view(WHO)):
        with pytest.raises(StoreUnavailableError, match="emptied"):
            shared.run(call)
    after = shared.run(b.identity())
    assert after != before
    with pytest.raises(StoreUnavailableError, match="emptied"):
        shared.load(a, WHO)
    assert shared.run(a.identity()) == after
    assert shared.load(a, WHO)[WHO].position == 0


def test_an_emptied_node_of_a_cluster_is_noticed() -> None:
    with redis_cluster(2) as nodes, keeping_nobody(nodes[0].url, cluster=True) as shared:
        a, _ = shared
        before = shared.run(a.identity())
        for state in shared.load(a, *MANY).values():
            state.position = 1
        shared.save(a, *MANY)
        with nodes[1].connect() as client:
            client.flushall()
        with pytest.raises(StoreUnavailableError, match="emptied"):
            shared.load(a, *MANY)
        after = shared.run(a.identity())
        assert after != before
        a.become(3)
        assert {state.position for state in shared.load(a, *MANY).values()} == {0}


# -- calls that fail --------------------------------------------------------------------------------


def test_a_server_that_is_gone_and_its_return(server: RedisServer, shared: Members) -> None:
    a, _ = shared
    shared.change(a, WHO, 1)
    server.kill()
    for _ in range(2):
        with pytest.raises(StoreUnavailableError, match="cannot be reached"):
            shared.load(a, WHO)
    with pytest.raises(StoreUnavailableError, match="cannot be reached"):
        shared.run(a.identity())
    with pytest.raises(StoreUnavailableError):
        shared.run(a.subscribers())
    server.start()
    shared.run(a.identity())
    a.become(3)
    assert shared.load(a, WHO).keys() == {WHO}


def test_whoever_a_failed_load_may_hold_is_free_again(server: RedisServer) -> None:
    """The server hangs while it is asked, does what it was asked later, and nobody reads the answer."""
    with keeping_nobody(server.url, timeout_seconds=0.3) as shared:
        a, b = shared
        shared.change(a, WHO, 1)
        server.freeze()
        with pytest.raises(StoreUnavailableError, match="in time"):
            shared.load(a, WHO, OTHER)
        server.thaw()
        assert shared.load(a, OTHER).keys() == {OTHER}
        assert shared.load(b, WHO)[WHO].position == 1
        shared.run(a.release([OTHER]))
        assert shared.load(b, OTHER).keys() == {OTHER}


def test_a_failed_save_leaves_its_subscribers_held(server: RedisServer) -> None:
    """What is in the ledger's log may not be in their states: others must not have them before it is."""
    with keeping_nobody(server.url, timeout_seconds=0.3) as shared:
        a, b = shared
        for state in shared.load(a, WHO, OTHER).values():
            state.position = 1
        broken, a._store.nodes.run = a._store.nodes.run, _never_arrives  # type: ignore[method-assign]
        with pytest.raises(StoreUnavailableError):
            shared.save(a, WHO)
        a._store.nodes.run = broken  # type: ignore[method-assign]
        assert shared.run(a.take_back([WHO])) is False
        assert shared.run(a.take_back([OTHER])) is True
        assert shared.load(b, WHO, OTHER).keys() == {OTHER}, "though a has spoken with Redis since"
        assert shared.load(a, WHO)[WHO].position == 0, "as Redis has it"
        assert shared.run(a.take_back([WHO])) is False, "still"
        shared.run(a.discard({WHO: SubscriberState(position=1)}, [WHO]))
        assert shared.run(a.take_back([WHO])) is True
        assert shared.load(b, WHO)[WHO].position == 1


def test_a_failed_save_that_was_done_all_the_same(server: RedisServer) -> None:
    with keeping_nobody(server.url, timeout_seconds=0.3) as shared:
        a, b = shared
        shared.load(a, WHO)[WHO].position = 1
        whole = a._store.nodes.run

        async def unheard(calls: list[Call]) -> list[object]:
            await whole(calls)
            raise StoreUnavailableError("nobody heard the answer")

        a._store.nodes.run = unheard  # type: ignore[method-assign, assignment]
        with pytest.raises(StoreUnavailableError):
            shared.save(a, WHO)
        a._store.nodes.run = whole  # type: ignore[method-assign]
        assert shared.run(a.take_back([WHO])) is False
        assert shared.load(b, WHO)[WHO].position == 1
        shared.save(b, WHO)
        assert shared.load(a, WHO)[WHO].position == 1
        shared.save(a, WHO)
        shared.load(a, WHO)
        assert shared.run(a.take_back([WHO])) is True, "what was saved since is no longer in doubt"


async def _never_arrives(_: object) -> list[object]:
    raise StoreUnavailableError("it was lost on the way")


@pytest.mark.parametrize("fenced", [True, False], ids=["fenced", "control: without the fence"])
def test_what_was_lost_on_the_way_does_nothing_when_it_arrives(
    server: RedisServer, shared: Members, fenced: bool
) -> None:
    """A save is lost, the member loads the same subscriber again, and then it arrives after all."""
    a, b = shared
    shared.change(a, WHO, 1)
    shared.load(a, WHO)[WHO].position = 2
    whole, lost = a._store.nodes.run, []

    async def loses(calls: list[Call]) -> list[object]:
        lost.extend(calls)
        raise StoreUnavailableError("it was lost on the way")

    a._store.nodes.run = loses  # type: ignore[method-assign, assignment]
    with pytest.raises(StoreUnavailableError):
        shared.save(a, WHO)
    a._store.nodes.run = whole  # type: ignore[method-assign]
    if not fenced:
        a._announced = True
    assert shared.load(a, WHO)[WHO].position == 1, "held again, as the same version"
    if fenced:
        with pytest.raises(StoreUnavailableError, match="overtaken"):
            shared.run(a._store.nodes.run(lost))
        assert shared.load(b, WHO) == {}
    else:
        shared.run(a._store.nodes.run(lost))
        assert shared.load(b, WHO)[WHO].position == 2, "two hold the same subscriber"


def test_a_server_without_memory_is_told_of_in_plain_words(server: RedisServer, shared: Members) -> None:
    a, b = shared
    shared.load(a, WHO)[WHO].position = 1
    with server.connect() as client:
        client.config_set("maxmemory", 1)
        with pytest.raises(StoreUnavailableError, match="no memory left"):
            shared.save(a, WHO)
        client.config_set("maxmemory", 0)
    assert shared.load(b, WHO) == {}
    shared.run(a.discard({WHO: SubscriberState(position=1)}, [WHO]))
    shared.run(a.release([WHO]))
    assert shared.load(b, WHO)[WHO].position == 1


def test_a_replica_is_told_of_in_plain_words(server: RedisServer, shared: Members) -> None:
    a, _ = shared
    shared.load(a, WHO)[WHO].position = 1
    with server.connect() as client:
        client.replicaof(LOOPBACK, free_port())
        with pytest.raises(StoreUnavailableError, match="replica"):
            shared.save(a, WHO)


def test_a_wrong_password_is_not_told(server: RedisServer) -> None:
    url = server.url.replace("redis://", "redis://somebody:secret@")
    with keeping_nobody(url) as shared, pytest.raises(StoreUnavailableError, match="user name") as raised:
        shared.load(shared.all[0], WHO)
    assert "secret" not in str(raised.value)
    assert raised.value.__cause__ is None


def test_a_name_and_a_password(server: RedisServer) -> None:
    with server.connect() as client:
        client.acl_setuser(
            "opportune", enabled=True, passwords=["+secret"], keys=["opportune:*"], categories=["+@all"]
        )
    with keeping_nobody(server.url.replace("redis://", "redis://opportune:secret@")) as shared:
        shared.change(shared.all[0], WHO, 1)
        assert shared.load(shared.all[1], WHO)[WHO].position == 1


def test_scripts_that_redis_has_forgotten_are_loaded_again(server: RedisServer, shared: Members) -> None:
    a, _ = shared
    shared.change(a, WHO, 1)
    with server.connect() as client:
        client.script_flush()
    assert shared.load(a, WHO)[WHO].position == 1
    with server.connect() as client:
        client.script_flush()
    shared.save(a, WHO)


def test_a_cut_connection_fails_one_call(server: RedisServer, shared: Members) -> None:
    a, b = shared
    shared.change(a, WHO, 1)
    with server.connect() as client:
        client.client_kill_filter(_type="normal", skipme=True)
    with pytest.raises(StoreUnavailableError):
        shared.load(a, WHO)
    assert shared.load(a, WHO)[WHO].position == 1, "it is the same server"
    assert shared.load(b, WHO) == {}


def test_a_url_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="begins with redis"):
        RedisLiveState("http://127.0.0.1", Snapshots().fetch)


# -- a cluster --------------------------------------------------------------------------------------


def test_shards_that_move_are_found_where_they_are() -> None:
    """A slot is moved as `redis-cli --cluster reshard` does it, and a member works on meanwhile."""
    with redis_cluster(2) as nodes, keeping_nobody(nodes[0].url, cluster=True) as shared:
        a, b = shared
        identity = shared.run(a.identity())
        shard = next(each for each in range(SHARDS) if SLOTS[each] < 8_192)
        there = [who for who in MANY if shard_of(who.encode()) == shard]
        assert len(there) > 1
        for state in shared.load(a, *MANY).values():
            state.position, state.known = 1, True
        shared.save(a, *MANY)
        with nodes[0].connect() as source, nodes[1].connect() as target:
            slot, ids = (
                SLOTS[shard],
                [each.execute_command("CLUSTER MYID").decode() for each in (source, target)],
            )
            target.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", ids[0])
            source.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", ids[1])
            keys = source.execute_command("CLUSTER GETKEYSINSLOT", slot, 1_000)
            assert len(keys) > len(there)
            for n, key in enumerate(keys):
                if n == 1:
                    with pytest.raises(StoreUnavailableError, match="moved"):
                        shared.load(a, *there)
                source.execute_command("MIGRATE", LOOPBACK, nodes[1].port, key, 0, 1_000)
            assert shared.run(a.contexts(there)).keys() == set(there), "there, though it is not said yet"
            for each in (target, source):
                each.execute_command("CLUSTER SETSLOT", slot, "NODE", ids[1])
        states = shared.load(a, *MANY)
        assert {state.position for state in states.values()} == {1}
        shared.save(a, *MANY)
        assert shared.load(b, *MANY).keys() == set(MANY)
        assert shared.run(a.identity()) == identity
        assert sorted(shared.run(a.subscribers())) == sorted(MANY)


def test_a_node_of_a_cluster_that_is_down() -> None:
    with redis_cluster(3) as nodes, keeping_nobody(nodes[0].url, cluster=True, count=1) as shared:
        (a,) = shared
        before = shared.run(a.identity())
        for state in shared.load(a, *MANY).values():
            state.position = 1
        shared.save(a, *MANY)
        nodes[2].kill()
        for _ in range(3):
            with pytest.raises(StoreUnavailableError):
                shared.load(a, *MANY)
        nodes[2].start()
        until(lambda: _is_up(nodes), "the cluster is whole again")
        with pytest.raises(StoreUnavailableError, match="restarted"):
            shared.load(a, *MANY)
        assert shared.run(a.identity()) != before
        a.become(2)
        assert {state.position for state in shared.load(a, *MANY).values()} == {0}


def _is_up(nodes: list[RedisServer]) -> bool:
    for node in nodes:
        with node.connect() as client:
            if client.execute_command("CLUSTER INFO")["cluster_state"] != "ok":
                return False
    return True


def test_whoever_was_expelled_is_told_so_by_a_cluster_too() -> None:
    with redis_cluster(2) as nodes, keeping_nobody(nodes[0].url, cluster=True) as shared:
        a, b = shared
        shared.load(a, *MANY)
        shared.run(b.take_over(1))
        assert shared.load(b, *MANY).keys() == set(MANY)
        with pytest.raises(ExpelledError):
            shared.save(a, *MANY)
