"""Members that die or stall at the worst moment: what they leave is found, whoever finds it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Collection, Sequence

import pytest
from opportune_service.app import ingest
from opportune_service.app.errors import StoreUnavailableError, SupersededError
from opportune_service.app.takeover import hold
from opportune_service.app.works import Group, Work
from opportune_service.bootstrap import Application
from opportune_service.clocks import ManualClock
from opportune_service.core.events import ContextRecord, Due, ImportMode
from opportune_service.core.verdict import Verdict
from support.applications import in_loop
from support.members import Gate, HeldCommit, Stores, leading, members, publish, until
from support.rulebases import NOON_US
from support.servers import redis
from support.small_rulebase import SECOND_US, mms, subscribers

ANNE, BOB = subscribers(5)[:2]


@pytest.fixture
def stores(postgres_url: str, redis_url: str) -> Stores:
    return Stores(postgres_url, redis_url)


def number_of(app: Application) -> int:
    assert app.membership is not None
    return app.membership.number


async def fall_silent(app: Application, monkeypatch: pytest.MonkeyPatch, stores: Stores) -> Gate:
    """Until the others have taken over from it."""
    beats = Gate(app.membership, "beat", monkeypatch)
    beats.shut()
    number = number_of(app)
    await until(
        lambda: not stores.rows("SELECT 1 FROM members WHERE number = :n", n=number), "it is taken over"
    )
    return beats


def test_whom_the_newest_member_held_is_free_when_it_is_gone(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It committed nothing of her, and no number above its own tells the others that it is gone."""

    async def body() -> None:
        async with members(stores, 3) as (_, second, newest):
            await hold(newest.states, [ANNE])
            beats = await fall_silent(newest, monkeypatch, stores)
            receipt = await publish(second, [mms(ANNE, "e", NOON_US)])
            assert receipt.accepted == 1
            beats.open()

    in_loop(body)


def test_what_was_taken_over_is_snapshotted_by_whoever_takes_over_next(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first to die committed; the second had taken over, and dies before it has made a snapshot."""

    async def body(stores: Stores) -> list[tuple[int]]:
        clock = ManualClock(NOON_US)
        async with members(stores, 3, clock=clock) as (first, second, third):
            await publish(first, [mms(ANNE, "e", NOON_US)])
            stalled = [
                await fall_silent(first, monkeypatch, stores),
                await fall_silent(second, monkeypatch, stores),
            ]
            clock.value_us += 60 * SECOND_US
            begun = clock.value_us << 10

            def through() -> bool:
                # Again and again: the end of a take-over gives up a round that has just begun.
                third.ingest.request_checkpoint()
                return stores.rows("SELECT min(checkpoint) FROM members")[0][0] >= begun

            await until(through, "a round of snapshots is through")
            kept = stores.rows("SELECT position FROM states WHERE subscriber_id = :who", who=ANNE)
            logged = stores.rows("SELECT max(position) FROM log")
            for beats in stalled:
                beats.open()
            assert kept == logged
            return kept

    with redis() as server:
        assert in_loop(lambda: body(Stores(postgres_url, server.url)))


def test_nobody_is_given_up_whom_the_next_group_has_begun_to_use(stores: Stores) -> None:
    """A group held her and changed nothing; while it is saved, the next group takes her in."""

    async def body() -> None:
        async with members(stores) as (one, other):
            saving, go_on = asyncio.Event(), asyncio.Event()
            save, commit = one.states.save, one.ingest._commit
            on_disk = threading.Event()

            async def slow_save(subscriber_ids: Collection[str], said: Collection[str]) -> None:
                if not saving.is_set():
                    saving.set()
                    await go_on.wait()
                await save(subscriber_ids, said)

            def slow_commit(group: Group) -> Sequence[Verdict]:
                on_disk.wait(30)
                return commit(group)

            one.states.save = slow_save  # type: ignore[method-assign]
            first = asyncio.create_task(publish(one, [mms(BOB, "b", NOON_US)]))
            held = asyncio.create_task(one.ingest.settle_due([Due(ANNE, "nothing", NOON_US)]))
            await saving.wait()
            one.ingest._commit = slow_commit  # type: ignore[method-assign]
            event = mms(ANNE, "a", NOON_US + 1)
            mine = asyncio.create_task(publish(one, [event]))
            await until(lambda: ANNE in one.ingest._observing.held, "the next group has begun")
            go_on.set()
            await asyncio.gather(first, held)
            theirs = asyncio.create_task(publish(other, [event]))
            await until(lambda: other.ingest.queued > 0 or theirs.done(), "the other member tries")
            on_disk.set()
            receipts = await asyncio.gather(mine, theirs)
            assert sorted(receipt.accepted for receipt in receipts) == [0, 1]

    in_loop(body)


def test_what_redis_was_not_told_is_not_acknowledged(stores: Stores) -> None:
    """A consent that was taken back: others must not go on with the old one."""

    async def body() -> None:
        async with members(stores) as (one, other):
            given = ContextRecord(ANNE, NOON_US + 1, ImportMode.UPSERT, {"note": "given"})
            taken = ContextRecord(ANNE, NOON_US + 2, ImportMode.UPSERT, {"note": "taken back"})
            await one.ingest.import_context("test", [given])
            save = one.states.save

            async def cut_off(*_: Collection[str]) -> None:
                one.states.save = save  # type: ignore[method-assign]
                raise StoreUnavailableError("Redis does not answer in time")

            one.states.save = cut_off  # type: ignore[method-assign]
            with pytest.raises(StoreUnavailableError):
                await one.ingest.import_context("test", [taken])
            await until(one.ingest.healthy.is_set, "it has recovered")
            await one.ingest.import_context("test", [taken])
            assert (await other.states.contexts([ANNE]))[ANNE]["note"] == "taken back"

    in_loop(body)


@pytest.mark.parametrize(("idle", "is_back"), [(False, True), (False, False), (True, False)])
def test_a_member_ends_in_good_order_though_redis_is_away(
    postgres_url: str, idle: bool, is_back: bool
) -> None:
    """What it acknowledged is there afterwards; if Redis comes back in time, nobody has to take over."""

    async def body() -> None:
        with redis() as server:
            stores = Stores(postgres_url, server.url)
            async with members(stores, 1) as (app,):
                assert (await publish(app, [mms(ANNE, "e1", NOON_US)])).accepted == 1
                server.kill()
                if not idle:
                    with pytest.raises(StoreUnavailableError):
                        await app.ingest.publish("test", [mms(ANNE, "e2", NOON_US)])
                await app.ingest.close()
                if is_back:
                    server.start()
            assert app.ingest.drained is is_back
            assert stores.rows("SELECT count(*) FROM members") == [(0 if is_back else 1,)]
            if not is_back:
                server.start()
            async with members(stores, 1, people=()) as (app,):
                again = await publish(app, [mms(ANNE, "e1", NOON_US)])
                assert (again.accepted, again.duplicates) == (0, 1)

    in_loop(body)


def test_a_leader_that_is_told_to_stop_takes_over_first_whom_its_callers_wait_for(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body() -> None:
        async with members(stores, 3) as found:
            leader = await leading(found)
            dying = found[1]
            await hold(dying.states, [ANNE])
            beats = Gate(dying.membership, "beat", monkeypatch)
            beats.shut()
            call = asyncio.create_task(leader.ingest.publish("test", [mms(ANNE, "e", NOON_US)]))
            await until(lambda: leader.ingest.queued > 0, "it waits for her")
            await leader.ingest.close()
            async with asyncio.timeout(60):
                assert (await call).accepted == 1
            beats.open()

    in_loop(body)


def test_what_is_being_committed_at_the_end_is_answered_though_another_revision_was_activated(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body() -> None:
        async with members(stores) as (one, other):
            held = HeldCommit(one, monkeypatch)
            call = asyncio.create_task(one.ingest.publish("test", [mms(ANNE, "e", NOON_US)]))
            await asyncio.to_thread(held.reached.wait)
            await one.ingest.close()
            await other.thread.run(advanced, other)
            held.let_go()
            async with asyncio.timeout(20):
                assert (await call).accepted == 1

    in_loop(body)


def advanced(app: Application) -> None:
    with app.ledger.transaction() as tx:
        tx.advance()


def test_whatever_keeps_a_member_from_recovering_at_the_end_what_is_to_be_taken_in_again_is_answered(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body() -> None:
        async with members(stores, 1) as (app,):
            work = Work(asyncio.get_running_loop().create_future())

            async def begun_again(_: Collection[str]) -> None:
                raise SupersededError("another generation began meanwhile")

            monkeypatch.setattr(ingest, "_LAST_SECONDS", 0.0)
            monkeypatch.setattr(app.ingest, "_make_sound", begun_again)
            app.ingest._fail([work], SupersededError("another generation"), {ANNE})
            await app.ingest.close()
            with pytest.raises(StoreUnavailableError):
                async with asyncio.timeout(20):
                    await work.done

    in_loop(body)
