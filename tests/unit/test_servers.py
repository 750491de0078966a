"""The servers that other tests rely on: they start, forget, remember, and start again as those expect."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import psycopg
import pytest
from redis import RedisCluster
from support.servers import (
    LOOPBACK,
    PATIENCE_SECONDS,
    Postgres,
    RedisServer,
    ServerMissingError,
    _descendants,
    postgres,
    redis,
)


def listens(port: int) -> bool:
    try:
        with socket.create_connection((LOOPBACK, port), timeout=5):
            return True
    except ConnectionRefusedError:
        return False


def runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"  # its new parent may not have looked yet


def test_postgres_keeps_what_it_committed_through_a_kill_and_its_port() -> None:
    with postgres() as server:
        with server.connect() as connection:
            assert connection.execute("SHOW fsync").fetchone() == ("on",)
            connection.execute("CREATE TABLE kept (n int)")
            connection.execute("INSERT INTO kept VALUES (1)")
        workers = _descendants(server.pid)
        assert workers
        server.kill()
        assert not listens(server.port)
        assert not any(runs(pid) for pid in workers)
        server.start()
        with server.connect() as connection:
            assert connection.execute("SELECT n FROM kept").fetchall() == [(1,)]
    assert not listens(server.port)


def test_each_test_has_a_database_of_its_own(postgres_server: Postgres) -> None:
    def names() -> set[object]:
        with postgres_server.connect() as admin:
            return {name for (name,) in admin.execute("SELECT datname FROM pg_database")}

    before = names()
    with postgres_server.database() as first:
        name = first.rpartition("/")[2]
        with postgres_server.connect(name) as connection:
            connection.execute("CREATE TABLE mine (n int)")
        with (
            postgres_server.database() as empty,
            postgres_server.database(template=name) as copy,
        ):
            with postgres_server.connect(copy.rpartition("/")[2]) as connection:
                assert connection.execute("SELECT count(*) FROM mine").fetchone() == (0,)
            with (
                postgres_server.connect(empty.rpartition("/")[2]) as connection,
                pytest.raises(psycopg.errors.UndefinedTable),
            ):
                connection.execute("SELECT count(*) FROM mine")
        still_in_use = postgres_server.connect(name)
    assert names() == before, "dropped though a connection was open"
    still_in_use.close()


def test_redis_that_is_killed_has_forgotten_everything_unless_it_is_durable() -> None:
    for durable, kept in ((False, None), (True, b"1")):
        with redis(durable=durable) as server:
            with server.connect() as client:
                client.set("n", 1)
            server.kill()
            assert not listens(server.port)
            server.start()
            with server.connect() as client:
                assert client.get("n") == kept
        assert not listens(server.port)


def test_a_frozen_server_takes_connections_and_answers_nothing() -> None:
    with redis() as server:
        server.freeze()
        with socket.create_connection((LOOPBACK, server.port)) as impatient:
            impatient.sendall(b"PING\r\n")
            impatient.settimeout(0.2)
            with pytest.raises(TimeoutError):
                impatient.recv(10)
            server.thaw()
            impatient.settimeout(PATIENCE_SECONDS)
            assert impatient.recv(10) == b"+PONG\r\n"
        server.freeze()  # it is ended all the same


def test_a_cluster_takes_keys_of_every_slot(redis_cluster_node: RedisServer) -> None:
    with RedisCluster(host=LOOPBACK, port=redis_cluster_node.port) as client:
        assert len(client.get_primaries()) == 3
        for n in range(100):
            client.set(f"key-{n}", n)
        assert client.dbsize(target_nodes=RedisCluster.PRIMARIES) == 100
    with redis_cluster_node.connect() as client:
        held = client.dbsize()
    assert 0 < held < 100, "one node has everything"


def test_a_missing_server_is_an_error_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.devnull)
    with pytest.raises(ServerMissingError, match=r"make stores.*redis-server"), redis():
        pass
