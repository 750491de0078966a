"""A service uses each of its ledgers in one thread, and whoever forgets that is told so each time."""

from __future__ import annotations

import pytest
from opportune_service.app.ledger_thread import LedgerThread
from opportune_service.app.ports import Ledger
from support.applications import in_loop, running
from support.in_force import SHADOW, let, small
from support.members import Stores, members


async def is_kept_to(thread: LedgerThread, ledger: Ledger) -> None:
    with pytest.raises(RuntimeError, match="its own thread"):
        ledger.coverage()
    with pytest.raises(RuntimeError, match="its own thread"):
        list(await thread.run(ledger.read_log, 0))  # it is read here
    await thread.run(ledger.coverage)


def test_one_process_keeps_its_ledgers_to_their_threads() -> None:
    async def body() -> None:
        async with running(files=small(3)) as app:
            await let(app, small(2), SHADOW)
            await is_kept_to(app.thread, app.ledger)
            await is_kept_to(app.shadow.thread, await app.shadow.ledger())

    in_loop(body)


def test_a_member_keeps_its_ledgers_to_their_threads(postgres_url: str, redis_url: str) -> None:
    async def body() -> None:
        async with members(Stores(postgres_url, redis_url), count=1, files=small(3)) as (app,):
            assert app.membership is not None
            await is_kept_to(app.thread, app.ledger)
            await is_kept_to(app.ingest._thread, app.ingest._ledger)
            await is_kept_to(app.membership._thread, app.membership._ledger)

    in_loop(body)
