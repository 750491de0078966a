"""Members keep whom they hold: what others find of them, asked for or not, and when the keeper dies."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
from collections.abc import Collection, Sequence

import pytest
from opportune_service.adapters.redis import RedisLiveState
from opportune_service.adapters.redis.store import Packed, Store
from opportune_service.app import takeover
from opportune_service.app.context import show_subscriber
from opportune_service.app.errors import StoreUnavailableError
from opportune_service.app.log import Item
from opportune_service.app.records import LogRow
from opportune_service.app.takeover import hold
from opportune_service.app.work_queue import GROUP_EVENTS
from opportune_service.bootstrap import Application
from opportune_service.clocks import ManualClock
from opportune_service.core.events import ContextRecord, ImportMode
from support.applications import activate, in_loop
from support.members import PATIENCE_SECONDS, Gate, HeldCommit, Stores, known, members, publish, until
from support.rulebases import NOON_US
from support.small_rulebase import SECOND_US, mms, small_rulebase, subscribers
from support.timed_rulebase import MINUTE_US, low, plain, timed_rulebase

PEOPLE = subscribers(5)
ANNE, BOB = PEOPLE[:2]


@pytest.fixture
def stores(postgres_url: str, redis_url: str) -> Stores:
    return Stores(postgres_url, redis_url)


def redis_of(app: Application) -> RedisLiveState:
    assert isinstance(app.states, RedisLiveState)
    return app.states


def keeps(app: Application, who: str) -> bool:
    """Whether it has more of the subscriber than Redis."""
    kept = redis_of(app)._kept
    return who in kept and kept[who].ahead


async def counted(app: Application, who: str) -> int:
    view = await show_subscriber(app.live, app.states, who, app.clock.now_us())
    return next(int(str(each.value)) for each in view.metrics if each.name == "mms_30d")


def test_whoever_is_kept_is_seen_and_taken_in_by_others(stores: Stores) -> None:
    async def body() -> None:
        async with members(stores) as (one, other):
            for n in range(3):
                await one.ingest.publish("test", [mms(ANNE, f"e{n}", NOON_US + n)])
            assert keeps(one, ANNE)
            assert await counted(other, ANNE) == 3
            assert not keeps(one, ANNE), "it was asked"
            for n in range(20):
                await one.ingest.publish("test", [mms(BOB, f"b{n}", NOON_US + n)])
            assert keeps(one, BOB)
            receipt = await other.ingest.publish("test", [mms(BOB, "b", NOON_US + 30)])
            assert (receipt.accepted, receipt.duplicates) == (1, 0)
            assert await counted(one, BOB) == 21

    in_loop(body)


async def die(app: Application, stores: Stores, monkeypatch: pytest.MonkeyPatch) -> tuple[Gate, Gate]:
    """From now on it says nothing and heeds nobody, until others have taken over."""
    gates = fall_silent(app, monkeypatch)
    await taken_over(app, stores)
    return gates


def fall_silent(app: Application, monkeypatch: pytest.MonkeyPatch) -> tuple[Gate, Gate]:
    """It says nothing any more, and soon heeds nobody."""
    gates = Gate(app.membership, "beat", monkeypatch), Gate(app.states, "heed", monkeypatch)
    for gate in gates:
        gate.shut()
    return gates


async def taken_over(app: Application, stores: Stores) -> None:
    assert app.membership is not None
    number = app.membership.number
    await until(
        lambda: not stores.rows("SELECT 1 FROM members WHERE number = :n", n=number), "it is taken over"
    )


def test_what_waits_for_a_dead_member_stops_the_timer_that_it_kept(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was sent in time, and whoever takes over does not know of it: it is at a third member, which has
    to find out first that she is free."""

    async def body() -> None:
        clock = ManualClock(NOON_US)
        async with members(stores, 3, timed_rulebase(), clock=clock) as (one, leader, third):
            await one.ingest.publish("bss", [low(ANNE, "e1", NOON_US)])
            for gate in fall_silent(one, monkeypatch):
                await gate.waiting.wait()
            clock.value_us += 59 * MINUTE_US
            in_time = plain("recharge", ANNE, "e2", clock.value_us)
            call = asyncio.create_task(third.ingest.publish("bss", [in_time]))
            await until(lambda: third.ingest.queued > 0, "it waits for her")
            looking = Gate(third.states, "load", monkeypatch)
            looking.shut()
            clock.value_us += 3 * MINUTE_US
            await leader.ingest.publish("bss", [plain("recharge", BOB, "e3", clock.value_us)])
            await taken_over(one, stores)
            await leader.ingest.settle_timers()
            looking.open()
            assert (await call).accepted == 1
            clock.value_us += 10 * SECOND_US
            for app in (leader, third):
                await app.ingest.settle_timers()
        assert not stores.rows("SELECT 1 FROM decisions")

    in_loop(body)


async def checkpoint(app: Application) -> None:
    """A round of snapshots of what it has saved by now."""
    assert app.membership is not None
    clock = app.clock
    assert isinstance(clock, ManualClock)
    clock.value_us += SECOND_US
    begun = clock.value_us << 10
    app.ingest.request_checkpoint()

    number = app.membership.number

    async def through() -> bool:
        present = await app.thread.run(app.ledger.members)
        return next(each.checkpoint for each in present if each.number == number) >= begun

    await until(through, "a round of snapshots is through")


async def lived_and_died(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> tuple[int, bool]:
    """What others count of somebody whom a member kept over a checkpoint, and after it, and died."""
    async with members(stores, 3) as (one, other, third):
        for n in range(3):
            await one.ingest.publish("test", [mms(ANNE, f"a{n}", NOON_US + n)])
        await checkpoint(one)
        for n in range(2):
            await one.ingest.publish("test", [mms(ANNE, f"late{n}", NOON_US + 10 + n)])
        assert keeps(one, ANNE)
        gates = await die(one, stores, monkeypatch)
        again = await publish(other, [mms(ANNE, "a0", NOON_US), mms(ANNE, "late1", NOON_US + 11)])
        alike = await known(other, [ANNE]) == await known(third, [ANNE])
        count = await counted(third, ANNE)
        for gate in gates:
            gate.open()
        return count - again.accepted, alike


@pytest.mark.parametrize("at_once", [100_000, 2])
def test_who_waits_for_a_dead_members_subscriber_gets_all_or_nothing(
    stores: Stores, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    """Whoever takes over folds the log piece by piece, and others ask for the subscribers all the time."""
    monkeypatch.setattr(takeover, "_HELD_AT_ONCE", at_once)
    items_of = takeover.items_of

    def slowly(row: LogRow) -> Sequence[Item]:
        threading.Event().wait(0.02)  # a slow disk: in between there is time to ask
        return items_of(row)

    monkeypatch.setattr(takeover, "items_of", slowly)

    async def body() -> None:
        async with members(stores, 3) as (one, other, third):
            for n in range(60):
                await one.ingest.publish("test", [mms(who, f"a{n}", NOON_US + n) for who in PEOPLE])
            gates = fall_silent(one, monkeypatch)
            await gates[1].waiting.wait()  # it heeds nobody any more
            waiting = [
                asyncio.create_task(publish(each, [mms(who, name, NOON_US + 100) for who in PEOPLE]))
                for each, name in ((other, "b"), (third, "c"))
            ]
            await taken_over(one, stores)
            await asyncio.gather(*waiting)
            assert [await counted(third, who) for who in PEOPLE] == [62] * len(PEOPLE)
            for gate in gates:
                gate.open()

    in_loop(body)


def test_of_a_takeover_that_was_cut_off_nothing_half_done_is_believed(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two tries somebody sends again what the dead member had committed, and was not folded yet."""
    items_of, fails = takeover.items_of, True
    folded = 0

    def cut_off(row: LogRow) -> Sequence[Item]:
        nonlocal folded
        folded += 1
        if fails and folded % 30 == 29:
            raise StoreUnavailableError("the ledger went away")
        return items_of(row)

    monkeypatch.setattr(takeover, "items_of", cut_off)

    async def body() -> None:
        nonlocal fails
        async with members(stores) as (one, other):
            events = [[mms(who, f"a{n}", NOON_US + n) for who in PEOPLE] for n in range(60)]
            for batch in events:
                await one.ingest.publish("test", batch)
            gates = fall_silent(one, monkeypatch)
            await until(lambda: folded > 30, "it was tried")
            again = await publish(other, events[-1])
            fails = False
            await taken_over(one, stores)
            for gate in gates:
                gate.open()
            assert (again.accepted, again.duplicates) == (0, len(PEOPLE))
            assert [await counted(other, who) for who in PEOPLE] == [60] * len(PEOPLE)

    in_loop(body)


def test_nobody_is_shown_while_a_member_is_taken_over(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis has less of whom it kept than was acknowledged, and whoever folds has some of it."""
    items_of, folding, may_fold = takeover.items_of, threading.Event(), threading.Event()

    def when_it_may(row: LogRow) -> Sequence[Item]:
        folding.set()
        may_fold.wait(60)
        return items_of(row)

    monkeypatch.setattr(takeover, "items_of", when_it_may)

    async def body() -> None:
        async with members(stores) as (one, other):
            for n in range(20):
                await one.ingest.publish("test", [mms(ANNE, f"a{n}", NOON_US + n)])
            gates = fall_silent(one, monkeypatch)
            await until(folding.is_set, "it is being taken over")
            shown: int | None = None
            with contextlib.suppress(StoreUnavailableError):
                other.ingest.check_whole()
                shown = await counted(other, ANNE)
            other.ingest.check_sound()
            may_fold.set()
            await taken_over(one, stores)
            await until(lambda: not other.ingest._taking_over, "all is folded")
            other.ingest.check_whole()
            after = await counted(other, ANNE)
            for gate in gates:
                gate.open()
            assert (shown, after) == (None, 20)

    in_loop(body)


def test_what_a_dead_member_kept_over_a_checkpoint_is_not_lost(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert in_loop(lived_and_died, stores, monkeypatch) == (5, True)


def test_control_what_a_checkpoint_does_not_write_to_redis_is_lost(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever takes over folds what was logged after the checkpoint into what Redis has."""
    snapshot, write = RedisLiveState.snapshot, Store.write

    async def unwritten(
        self: RedisLiveState, subscriber_ids: Collection[str]
    ) -> list[tuple[str, int, bytes]]:
        async def to_nowhere(*_: Collection[Packed], give_up: bool) -> None: ...

        self._store.write = to_nowhere  # type: ignore[method-assign, assignment]
        try:
            return await snapshot(self, subscriber_ids)
        finally:
            self._store.write = write.__get__(self._store)  # type: ignore[method-assign]

    monkeypatch.setattr(RedisLiveState, "snapshot", unwritten)
    count, _ = in_loop(lived_and_died, stores, monkeypatch)
    assert count < 5


def test_a_consent_is_known_to_all_though_its_subscriber_is_kept(stores: Stores) -> None:
    async def body() -> None:
        async with members(stores) as (one, other):
            await know(one, "first")
            await one.ingest.publish("test", [mms(ANNE, "e", NOON_US)])
            assert keeps(one, ANNE)
            await know(one, "second")
            assert (await other.states.contexts([ANNE]))[ANNE]["note"] == "second"
            await other.states.load([], peers=[ANNE])
            assert (other.states.peek(ANNE) or {})["note"] == "second"

    async def know(app: Application, word: str) -> None:
        record = ContextRecord(ANNE, app.clock.now_us(), ImportMode.UPSERT, {"note": word})
        await app.ingest.import_context("test", [record])

    in_loop(body)


def test_whoever_is_used_without_end_is_given_to_others_in_turn(stores: Stores) -> None:
    """Each of two members has her in all its groups. Within so many batches of the one, a group or more of
    them, the other has a turn, from the first to the last."""

    async def body() -> None:
        async with members(stores) as apps:
            turns: list[int] = []

            async def collector(which: int) -> None:
                waiting: set[asyncio.Task[None]] = set()
                for n in range(60):
                    waiting.add(asyncio.create_task(batch(which, n)))
                    if len(waiting) == 3:  # so that there is always a next group
                        _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                await asyncio.gather(*waiting)

            async def batch(which: int, n: int) -> None:
                receipt = await publish(apps[which], [mms(ANNE, f"{which}-{n}", NOON_US + n)], f"c{which}")
                assert receipt.accepted == 1
                turns.append(which)

            await asyncio.gather(collector(0), collector(1))
            assert [await counted(app, ANNE) for app in apps] == [120, 120]
            alone = max(turns[::-1].index(which) for which in (0, 1))
            both = turns[: len(turns) - alone]
            waited = max(len(list(run)) for _, run in itertools.groupby(both))
            assert waited <= 30, "the other had to wait"

    in_loop(body)


def test_whoever_waits_for_another_member_holds_up_nobody_else(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much waits, and for however long: of the others everything is taken in, of whoever waits
    nothing."""

    async def body() -> None:
        async with members(stores) as (one, other):
            held = HeldCommit(other, monkeypatch)
            working = asyncio.create_task(other.ingest.publish("other", [mms(ANNE, "o", NOON_US)]))
            await asyncio.to_thread(held.reached.wait)
            batches = [
                [mms(ANNE, f"{n}-{m}", NOON_US + m) for m in range(GROUP_EVENTS // 4)] for n in range(20)
            ]
            waiting = [await one.ingest.offer("stream", batch) for batch in batches]
            waiting.append(asyncio.ensure_future(one.ingest.publish("call", [mms(ANNE, "c", NOON_US)])))
            for n in range(20):
                async with asyncio.timeout(PATIENCE_SECONDS):
                    receipt = await one.ingest.publish("call", [mms(PEOPLE[1], f"c{n}", NOON_US)])
                assert receipt.accepted == 1
            assert not any(each.done() for each in waiting)
            held.let_go()
            await working
            receipts = await asyncio.gather(*waiting)
            assert sum(each.accepted for each in receipts) == 1 + sum(map(len, batches))

    in_loop(body)


def test_whoever_leaves_keeps_nobody(stores: Stores) -> None:
    async def body() -> None:
        async with members(stores) as (one, _):
            await one.ingest.publish("test", [mms(who, "e", NOON_US) for who in PEOPLE])
            assert keeps(one, ANNE)
            await one.states.hand_over()
            assert not redis_of(one)._kept

    in_loop(body)


def test_an_activation_elsewhere_takes_back_what_was_observed(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is recovered from the record: the others were ready for it."""

    async def body() -> None:
        async with members(stores) as (one, other):
            await until(lambda: bool(one.membership and one.membership.others), "they know of each other")
            lost: list[Collection[str]] = []
            restore = other.ingest._restore

            async def restored(subscriber_ids: Collection[str], now_us: int) -> None:
                lost.append(subscriber_ids)
                await restore(subscriber_ids, now_us)

            monkeypatch.setattr(other.ingest, "_restore", restored)
            done = False
            sent = 0

            async def collector() -> None:
                nonlocal sent
                while not done:
                    sent += 1
                    await other.ingest.publish("test", [mms(who, f"e{sent}", NOON_US) for who in PEOPLE])

            collecting = asyncio.create_task(collector())
            for n in range(5):
                before = sent
                await until(lambda before=before: sent > before + 5, "events are taken in")  # type: ignore[misc]
                await activate(one, small_rulebase(text=f"Offer {n}"))
            done = True
            await collecting
            assert lost == []
            assert [await counted(one, who) for who in PEOPLE] == [sent] * len(PEOPLE)

    in_loop(body)


def test_an_erasure_finds_whoever_is_kept(stores: Stores) -> None:
    async def body() -> None:
        async with members(stores) as (one, other):
            await one.ingest.publish("test", [mms(ANNE, "e", NOON_US)])
            assert keeps(one, ANNE)
            held = await hold(other.states, [ANNE])
            assert held[ANNE].position > 0
            assert not keeps(one, ANNE)
            await other.states.release([ANNE])

    in_loop(body)
