"""A member recovers from the record what Redis may or may not have, while others are at work."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from opportune_service.adapters.redis import RedisLiveState
from opportune_service.adapters.redis.store import Packed
from opportune_service.adapters.sql.transaction import SqlTransaction
from opportune_service.app import fellowship
from opportune_service.app.errors import ExpelledError, StoreUnavailableError
from opportune_service.app.takeover import rebuild
from opportune_service.bootstrap import Application
from redis import Redis
from support.applications import in_loop
from support.members import Gate, Stores, known, members, publish, until
from support.rulebases import NOON_US
from support.small_rulebase import mms, subscribers

ANNE = subscribers(5)[0]


def save_unheard_once(app: Application, monkeypatch: pytest.MonkeyPatch) -> None:
    """She is given up with the commit, Redis does what it is asked, and the answer is lost."""
    assert isinstance(app.states, RedisLiveState)
    app.states._contested.note(ANNE)
    store = app.states._store
    write = store.write

    async def unheard(packed: Sequence[Packed], *, give_up: bool) -> None:
        if packed:
            monkeypatch.setattr(store, "write", write)
        await write(packed, give_up=give_up)
        if packed:
            raise StoreUnavailableError("Redis does not answer in time")

    monkeypatch.setattr(store, "write", unheard)


def test_what_others_saved_while_the_record_was_read_is_kept(
    postgres_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body() -> None:
        async with members(Stores(postgres_url, redis_url)) as (first, second):
            save_unheard_once(first, monkeypatch)
            recovering = Gate(first.states, "discard", monkeypatch)
            recovering.shut()
            call = asyncio.create_task(publish(first, [mms(ANNE, "e1", NOON_US)], "first"))
            await recovering.waiting.wait()
            assert (await publish(second, [mms(ANNE, "e2", NOON_US + 1)], "second")).accepted == 1
            recovering.open()
            await until(first.ingest.healthy.is_set, "it has recovered")
            await call
            again = await publish(first, [mms(ANNE, "e2", NOON_US + 1)], "second")
            assert (again.accepted, again.duplicates) == (0, 1)
            assert await known(first, [ANNE]) == await known(second, [ANNE])

    in_loop(body)


def test_members_that_rebuild_live_state_at_once_do_not_wait_in_a_circle(
    postgres_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both want to, when each keeps out what it was committing itself: one does, and the other joins
    anew."""
    both = threading.Barrier(2)
    outlast = SqlTransaction.outlast

    def met(tx: SqlTransaction, member: int) -> None:
        outlast(tx, member)
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(1)

    failed: list[StoreUnavailableError] = []

    def noted(*args: Any) -> bool:
        try:
            return rebuild(*args)
        except StoreUnavailableError as error:
            failed.append(error)
            raise

    async def body() -> None:
        async with members(Stores(postgres_url, redis_url)) as apps:
            monkeypatch.setattr(SqlTransaction, "outlast", met)
            monkeypatch.setattr(fellowship, "rebuild", noted)
            with Redis.from_url(redis_url) as client:
                client.flushall()
            events = [[mms(ANNE, f"e{n}", NOON_US + n)] for n in range(2)]
            receipts = await asyncio.gather(*map(publish, apps, events))
            assert [each.accepted + each.duplicates for each in receipts] == [1, 1]
            assert [each for each in failed if not isinstance(each, ExpelledError)] == []

    in_loop(body)


def test_a_member_recovers_though_another_one_holds_somebody(
    postgres_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body() -> None:
        async with members(Stores(postgres_url, redis_url)) as (first, second):
            save_unheard_once(first, monkeypatch)
            recovering = Gate(first.states, "discard", monkeypatch)
            recovering.shut()
            call = asyncio.create_task(publish(first, [mms(ANNE, "e1", NOON_US)]))
            await recovering.waiting.wait()
            assert (await second.states.load([ANNE])).keys() == {ANNE}
            recovering.open()
            await until(first.ingest.healthy.is_set, "it has recovered")
            await second.states.release([ANNE])
            await call
            assert (await publish(second, [mms(ANNE, "e1", NOON_US)])).duplicates == 1

    in_loop(body)
