"""The servers that tests run against, each started once, by the first test that asks for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from opportune_service.adapters.sql import SqlLedger
from support.ledgers import empty_ledger
from support.servers import Postgres, RedisServer, postgres, redis, redis_cluster

# Tests run side by side, on machines that do other work: how long an example takes says nothing.
settings.register_profile("opportune", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("opportune")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """Not to be stopped or killed: others use it too. It does not write to the disk before it answers."""
    with postgres(fsync=False) as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: Postgres) -> Iterator[str]:
    """An empty database of the test's own."""
    with postgres_server.database() as url:
        yield url


@pytest.fixture(scope="session")
def _postgres_ledger(postgres_server: Postgres) -> Iterator[str]:
    with postgres_server.database() as url:
        SqlLedger.open(url).close()
        yield url


@pytest.fixture
def postgres_ledger_url(_postgres_ledger: str) -> str:
    """An empty ledger, the test's own until its end. It is faster to have than an empty database."""
    empty_ledger(_postgres_ledger)
    return _postgres_ledger


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """Not to be stopped or killed: others use it too."""
    with redis() as server:
        yield server


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """An empty Redis, the test's own until its end."""
    with redis_server.connect() as client:
        client.flushall()
    return redis_server.url


@pytest.fixture(scope="session")
def redis_cluster_nodes() -> Iterator[list[RedisServer]]:
    """Not to be stopped or killed: others use them too."""
    with redis_cluster() as nodes:
        yield nodes


@pytest.fixture
def redis_cluster_node(redis_cluster_nodes: list[RedisServer]) -> RedisServer:
    """One node of an empty Redis Cluster, by which a client finds the others."""
    for node in redis_cluster_nodes:
        with node.connect() as client:
            client.flushall()
    return redis_cluster_nodes[0]
