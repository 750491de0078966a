"""Erasure and bulk prompts among members: nothing that another member knows brings the number back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from textwrap import dedent
from typing import Any

import pytest
from opportune_service.adapters.sql import SqlLedger
from opportune_service.adapters.sql.transaction import SqlTransaction
from opportune_service.app.erase import Erased, Erasures
from opportune_service.app.errors import StoreUnavailableError
from opportune_service.app.ingest import Receipt
from opportune_service.app.log import items_of
from opportune_service.bootstrap import Application
from opportune_service.clocks import ManualClock
from opportune_service.core.backfill import Fill
from opportune_service.core.events import Due, Event
from support.applications import in_loop
from support.guarded_rulebase import MORNING_US, NIGHT_US, call, guarded_rulebase
from support.members import PATIENCE_SECONDS, HeldCommit, Stores, leading, members, publish, until
from support.rulebases import NOON_US
from support.small_rulebase import mms, small_rulebase, subscribers

PEOPLE = subscribers(5)
ANNE, BOB = PEOPLE[:2]
REASON = "asked for it, case 7"


@pytest.fixture
def stores(postgres_url: str, redis_url: str) -> Stores:
    return Stores(postgres_url, redis_url)


def logged(stores: Stores, who: str) -> int:
    """How many items of the log are the subscriber's."""
    ledger = SqlLedger.open(stores.ledger)
    try:
        return sum(item.subscriber_id == who for row in ledger.read_log(0) for item in items_of(row))
    finally:
        ledger.close()


def test_a_row_that_comes_in_behind_those_read_already_is_erased(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its position was drawn before those of another member that were committed earlier."""

    async def body() -> None:
        async with members(stores) as (first, second):
            await publish(second, [mms(ANNE, "e1", NOON_US)])
            held = HeldCommit(second, monkeypatch)
            late = asyncio.create_task(second.ingest.publish("test", [mms(ANNE, "e2", NOON_US + 1)]))
            await asyncio.to_thread(held.reached.wait)
            assert isinstance(first.clock, ManualClock)
            first.clock.value_us += 1_000
            await publish(first, [mms(BOB, "b1", NOON_US + 2)])
            scanned = scanning(first, monkeypatch)
            erasing = asyncio.create_task(first.erasures.erase(ANNE, "operator", REASON))
            await scanned.wait()
            held.let_go()
            assert (await late).accepted == 1
            assert (await erasing).existed
            assert logged(stores, ANNE) == 0
            assert logged(stores, BOB) == 2, "of others nothing is lost"

    in_loop(body)


def scanning(app: Application, monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Set as soon as the erasure has read the log and is at its last step."""
    scanned = asyncio.Event()
    finish = app.erasures._finish

    async def told(*args: Any) -> Erased:
        scanned.set()
        return await finish(*args)

    monkeypatch.setattr(app.erasures, "_finish", told)
    return scanned


@pytest.mark.parametrize("step", ["replace_log", "erase", "advance"])
def test_an_erasure_that_fails_leaves_nobody_held(
    stores: Stores, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    async def body() -> None:
        async with members(stores) as (first, second):
            await publish(first, [mms(ANNE, "e1", NOON_US)])
            with monkeypatch.context() as patch:
                patch.setattr(SqlTransaction, step, fails)
                with pytest.raises(StoreUnavailableError):
                    await first.erasures.erase(ANNE, "operator", REASON)
            answer = publish(second, [mms(ANNE, "e2", NOON_US + 1)])
            async with asyncio.timeout(PATIENCE_SECONDS):
                assert (await answer).accepted == 1
            await until(first.ingest.healthy.is_set, "the member has recovered")
            assert (await first.erasures.erase(ANNE, "operator", REASON)).existed
            assert logged(stores, ANNE) == 0
            assert (await publish(second, [mms(ANNE, "e2", NOON_US + 1)])).duplicates == 0

    in_loop(body)


def fails(*_: object) -> None:
    raise StoreUnavailableError("other transactions were in the way; try again")


def test_what_another_member_has_read_of_deferrals_comes_to_nothing(stores: Stores) -> None:
    async def body() -> None:
        clock = ManualClock(NIGHT_US)
        async with members(stores, files=guarded_rulebase(), clock=clock) as apps:
            await publish(apps[0], [call(who, "e1", NIGHT_US) for who in (ANNE, BOB)])
            leader = await leading(apps)
            other = next(each for each in apps if each is not leader)
            clock.value_us = MORNING_US - 500_000
            await leader.ingest.read_deferrals(MORNING_US + 2_000_000)
            assert (await other.erasures.erase(ANNE, "operator", REASON)).existed
            clock.value_us = MORNING_US + 1
            await settle_deferred(leader, stores)
            assert decided(stores, ANNE) == 0
            assert decided(stores, BOB) > 1, "the control: what is left is decided again"

    in_loop(body)


async def settle_deferred(app: Application, stores: Stores) -> None:
    """Until that of BOB is decided again."""

    async def settled() -> bool:
        await app.ingest.settle_deferred()
        await app.ingest.read_deferrals(MORNING_US + 2_000_000)
        return decided(stores, BOB) > 1

    await until(settled, "what was deferred is decided again")


def decided(stores: Stores, who: str) -> int:
    ((count,),) = stores.rows("SELECT count(*) FROM decisions WHERE subscriber_id = :who", who=who)
    return int(count)


def bulk_rulebase() -> dict[str, bytes]:
    """Whoever sent a large MMS and then an SMS is called; everybody has a gift, every day."""
    files = small_rulebase(threshold=1_000)
    files["vocabulary.yaml"] = files["vocabulary.yaml"].replace(
        b"counter: {mode: manual}", b"counter: {mode: manual}, outbound: {mode: manual, bulk: true}"
    )
    files["campaigns/care-plan.yaml"] = (
        files["campaigns/care-plan.yaml"]
        .replace(b"channels: [counter]", b"channels: [outbound]\nexpires_after: 3d")
        .replace(b'{counter: "Offer the care plan."}', b'{outbound: "Call about the care plan."}')
    )
    files["campaigns/gift.yaml"] = dedent("""\
        campaign: gift
        product: mms-bundle
        on: [{schedule: daily, at: "10:00"}]
        mode: automatic
        channels: [sms]
        content: {sms: "A gift."}
        """).encode()
    return files


async def prompted(app: Application) -> None:
    """A call to each of the two is to be made."""
    events = [mms(who, f"m{who}", NOON_US, 300) for who in (ANNE, BOB)]
    await publish(app, [*events, *(Event(f"s{who}", who, "sms_sent", NOON_US) for who in (ANNE, BOB))])


async def fill(app: Application, who: str) -> Callable[[], Awaitable[Receipt]]:
    return lambda: app.ingest.fill([Fill(who, 2**60, {})])


async def due(app: Application, who: str) -> Callable[[], Awaitable[Receipt]]:
    (trigger,) = app.live.current.rulebase.triggers
    return lambda: app.ingest.settle_due([Due(who, trigger, NOON_US)])


async def prompt(app: Application, who: str) -> Callable[[], Awaitable[Receipt]]:
    found = await app.thread.run(app.ledger.prompts_on, "outbound", NOON_US, (0, ""), 10)
    return lambda: app.ingest.show("outbound", [each for each in found if each.subscriber_id == who])


@pytest.mark.parametrize("made", [fill, due, prompt])
def test_what_another_member_has_made_of_the_record_before_is_refused(
    stores: Stores, made: Callable[[Application, str], Awaitable[Callable[[], Awaitable[Receipt]]]]
) -> None:
    async def body() -> None:
        async with members(stores, files=bulk_rulebase()) as (first, second):
            await prompted(first)
            queue, control = await made(second, ANNE), await made(second, BOB)
            queued: list[asyncio.Future[Receipt]] = []

            async def meanwhile() -> None:
                queued.append(asyncio.ensure_future(queue()))
                await asyncio.sleep(0)
                assert (await first.erasures.erase(ANNE, "operator", REASON)).existed

            await second.ingest.between(meanwhile)
            with pytest.raises(StoreUnavailableError):
                await queued[0]
            assert (logged(stores, ANNE), decided(stores, ANNE)) == (0, 0)
            before = (logged(stores, BOB), decided(stores, BOB))

            async def leads_to_something() -> bool:
                await control()  # again, if the first one kept him: it is asked to give him up
                return (logged(stores, BOB), decided(stores, BOB)) != before

            await until(leads_to_something, "the control: it leads to something")

    in_loop(body)


def test_control_without_another_generation_it_is_taken_in(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body() -> None:
        async with members(stores, files=bulk_rulebase()) as (first, second):
            await prompted(first)
            monkeypatch.setattr(Erasures, "_advance", lambda _: (first.live.generation, 0))
            queue = await fill(second, ANNE)
            await first.erasures.erase(ANNE, "operator", REASON)
            await queue()
            assert logged(stores, ANNE) == 1

    in_loop(body)


def test_a_prompt_whose_subscriber_another_member_is_at_work_on_is_shown_soon(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body() -> None:
        async with members(stores, files=bulk_rulebase()) as (first, second):
            await prompted(first)
            held = HeldCommit(second, monkeypatch)
            work = asyncio.create_task(second.ingest.publish("test", [mms(ANNE, "e", NOON_US + 1)]))
            await asyncio.to_thread(held.reached.wait)
            leased = await first.deliveries.lease("outbound", 10)
            assert [each.subscriber_id for each in leased] == [BOB]
            held.let_go()
            await work
            leased = await first.deliveries.lease("outbound", 10)
            assert [each.subscriber_id for each in leased] == [ANNE]

    in_loop(body)


def test_what_waits_for_another_member_when_she_is_erased_is_erased(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was sent before."""

    async def body() -> None:
        async with members(stores) as (one, other):
            held = HeldCommit(other, monkeypatch)
            working = asyncio.create_task(other.ingest.publish("other", [mms(ANNE, "o", NOON_US)]))
            await asyncio.to_thread(held.reached.wait)
            call = asyncio.create_task(one.ingest.publish("test", [mms(ANNE, "e", NOON_US)]))
            await until(lambda: one.ingest.queued > 0, "it waits")
            erasing = asyncio.create_task(one.erasures.erase(ANNE, "operator", REASON))
            await until(lambda: bool(one.ingest._queue._asked.works), "the last step of it waits, too")
            held.let_go()
            await asyncio.gather(working, erasing, call)
            assert logged(stores, ANNE) == 0

    in_loop(body)
