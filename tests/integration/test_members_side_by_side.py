"""Members with a canary and a shadow: they adopt alike, and share what the shadow decides."""

from __future__ import annotations

import asyncio
from contextlib import closing

import pytest
from opportune_service.adapters.sql.ledger import SqlLedger
from opportune_service.adapters.sql.migrate import HEAD, migrate
from opportune_service.adapters.sql.shadow import open_shadow, shadow_url
from opportune_service.app.insight import Insight
from opportune_service.bootstrap import Application
from opportune_service.cli.migrate import migrate_command
from support.applications import in_loop
from support.in_force import ANY, CANARY, FULL, PEOPLE, SHADOW, THIRD, by_revision, let, senders, small
from support.members import Stores, members, publish, until


@pytest.fixture
def stores(postgres_url: str, redis_url: str) -> Stores:
    return Stores(postgres_url, redis_url)


def standing(app: Application) -> list[tuple[str, int | None]]:
    revision = app.live.current
    return [(revision.id, 0), *((each.revision.id, each.share) for each in revision.beside)]


def test_members_adopt_what_runs_beside(stores: Stores) -> None:
    async def body() -> None:
        async with members(stores, files=small(3), people=PEOPLE) as (first, second):
            full = first.live.id
            canary = await let(first, small(2), CANARY, THIRD)
            shadow = await let(first, small(1), SHADOW)
            await until(lambda: standing(second) == standing(first), "the other has them, too")
            assert standing(second) == [(full, 0), (canary, THIRD), (shadow, None)]
            assert second.live.current.keys == first.live.current.keys
            receipts = await asyncio.gather(
                *(publish(app, senders(PEOPLE[n::2], 2)) for n, app in enumerate((first, second)))
            )
            verdicts = [verdict for receipt in receipts for verdict in receipt.verdicts]
            inside = {each for each in PEOPLE if first.live.of(each).id == canary}
            assert by_revision(verdicts) == {canary: inside}
            assert await first.insight.decisions(ANY, 0, 100, False) != []
            for app in (first, second):
                await app.shadow.settled()
            for app in (first, second):
                insight = Insight(await app.shadow.ledger(), app.shadow.thread)
                rows = await insight.decisions(ANY, 0, 1000, newest_first=False)
                assert len(rows) == 2 * len(PEOPLE)
                assert {row.revision for row in rows} == {shadow}
            # Another share is another canary, though the revision is the same.
            await second.activations.activate(canary, full, "test", "", mode=CANARY, share=2 * THIRD)
            await until(lambda: standing(first) == standing(second), "the first has it, too")
            await second.activations.activate(canary, full, "test", "", mode=FULL)
            await until(lambda: standing(first) == [(canary, 0)], "it decides for everybody, everywhere")

    in_loop(body)


def test_the_shadow_is_apart_in_the_database(stores: Stores) -> None:
    """Tables and locks of its own: whoever holds a subscriber there keeps nobody waiting here."""

    async def body() -> None:
        async with members(stores, count=1, files=small(3), people=PEOPLE) as (app,):
            await let(app, small(1), SHADOW)
            receipt = await publish(app, senders(PEOPLE, 1))
            assert receipt.verdicts == []
            await app.shadow.settled()
            assert stores.rows("SELECT count(*) FROM opportune_shadow.verdicts") == [(len(PEOPLE),)]
            assert stores.rows("SELECT count(*) FROM public.verdicts") == [(0,)]
            ledger = await app.shadow.ledger()

            def hold() -> list[tuple[int, ...]]:
                with (
                    closing(SqlLedger.open(stores.ledger)) as own,
                    ledger.transaction() as tx,
                    own.transaction() as real,
                ):
                    tx.lock([PEOPLE[0]])
                    real.lock([PEOPLE[0]])
                    return [tuple(row) for row in stores.rows(_HELD)]

            assert await app.shadow.thread.run(hold) == [(6,), (70,)]

    in_loop(body)


_HELD = (
    "SELECT DISTINCT classid::bigint >> 24 AS space FROM pg_locks"
    " WHERE locktype = 'advisory' AND classid::bigint >> 24 IN (6, 70) ORDER BY space"
)


def test_without_a_shadow_there_is_no_schema(stores: Stores) -> None:
    async def body() -> None:
        async with members(stores, count=1, files=small(3), people=PEOPLE) as (app,):
            await app.erasures.erase(PEOPLE[0], "test", "asked for")
            assert stores.rows("SELECT count(*) FROM pg_namespace WHERE nspname = 'opportune_shadow'") == [
                (0,)
            ]

    in_loop(body)


def test_what_a_shadow_decided_is_migrated_along(postgres_url: str) -> None:
    SqlLedger.open(postgres_url).close()
    opened = open_shadow(postgres_url, make=True)
    assert opened is not None
    opened.close()
    for revision in ("0004", HEAD):
        migrate_command(postgres_url, revision, sql=False, config=None)
        assert [migrate(url, revision) for url in (postgres_url, shadow_url(postgres_url))] == [
            (revision, revision)
        ] * 2
