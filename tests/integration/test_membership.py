"""Several members of one service: whatever goes to whichever of them, the result is that of one process."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import threading
import time
from collections.abc import Callable, Sequence
from textwrap import dedent
from typing import Any

import pytest
from opportune_service.adapters.sql import SqlLedger
from opportune_service.adapters.sql.transaction import SqlTransaction
from opportune_service.app import takeover
from opportune_service.app.callers import Caller
from opportune_service.app.context import show_subscriber
from opportune_service.app.defer import decide_due
from opportune_service.app.errors import NotFoundError, StoreUnavailableError
from opportune_service.app.ingest import Receipt
from opportune_service.app.log import items_of
from opportune_service.app.membership import Membership
from opportune_service.app.ports import LedgerTransaction
from opportune_service.app.records import DecisionFilter, DecisionRow
from opportune_service.bootstrap import Application
from opportune_service.clocks import ManualClock
from opportune_service.core.decide import encode_verdict
from opportune_service.core.events import Event
from support.applications import activate, decided, in_loop, running
from support.guarded_rulebase import MORNING_US, NIGHT_US, call, guarded_rulebase
from support.members import Gate, Stores, known, leading, members, publish, until
from support.rulebases import NOON_US
from support.servers import RedisServer, redis
from support.small_rulebase import SECOND_US, mms, small_rulebase, subscribers, traffic
from support.timed_rulebase import HOUR_US, MINUTE_US, low, plain, timed_rulebase

PEOPLE = subscribers(5)
ANNE, BOB = PEOPLE[:2]


@pytest.fixture
def stores(postgres_url: str, redis_url: str) -> Stores:
    return Stores(postgres_url, redis_url)


def set_clock(app: Application, now_us: int) -> None:
    assert isinstance(app.clock, ManualClock)
    app.clock.value_us = now_us


async def take_in(apps: Sequence[Application], events: Sequence[Event], seed: int) -> list[bytes]:
    """One batch after the other, cut by chance, each to a member drawn by chance; the verdicts in order."""
    cut, choose = random.Random(seed), random.Random(seed)
    found: list[bytes] = []
    begin = 0
    while begin < len(events):
        batch = events[begin : begin + cut.randint(1, 20)]
        begin += len(batch)
        set_clock(apps[0], max(apps[0].clock.now_us(), *(each.occurred_at_us for each in batch)))
        receipt = await choose.choice(apps).ingest.publish("test", batch)
        assert not receipt.rejections
        found += map(encode_verdict, receipt.verdicts)
    return found


# -- the same as one process ------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 2])
def test_any_event_to_any_member_gives_what_one_process_gives(stores: Stores, seed: int) -> None:
    events = list(traffic(seed, 300))

    async def alone() -> tuple[list[bytes], dict[str, bytes]]:
        async with running() as app:
            return await take_in([app], events, seed), await known(app, PEOPLE)

    async def among_others() -> tuple[list[bytes], dict[str, bytes]]:
        async with members(stores, 3) as apps:
            verdicts = await take_in(apps, events, seed)
            found = [await known(app, PEOPLE) for app in apps]
            assert found[0] == found[1] == found[2]
            return verdicts, found[0]

    verdicts, states = in_loop(alone)
    assert in_loop(among_others) == (verdicts, states)
    assert len(verdicts) > 20, "little was decided: the test shows little"


def test_members_at_work_at_once_lose_no_event(stores: Stores) -> None:
    """Everybody is sent to everybody at the same time, and each batch twice, to two of them."""
    events = [mms(who, f"{who}-{n}", NOON_US + n) for n in range(60) for who in PEOPLE]
    batches = [events[n : n + 20] for n in range(0, len(events), 20)]

    async def body() -> None:
        async with members(stores, 3) as apps:
            receipts = await asyncio.gather(
                *(publish(apps[n % 3], batch) for n, batch in enumerate(batches)),
                *(publish(apps[(n + 1) % 3], batch) for n, batch in enumerate(batches)),
            )
            assert sum(each.accepted for each in receipts) == len(events)
            assert sum(each.duplicates for each in receipts) == len(events)
            counts = [await mms_counted(app) for app in apps]
            assert counts == [dict.fromkeys(PEOPLE, 60)] * 3

    in_loop(body)


async def mms_counted(app: Application, people: Sequence[str] = tuple(PEOPLE)) -> dict[str, int]:
    """MMS of 30 days by subscriber, as this member tells them."""
    counted = {}
    for who in people:
        view = await show_subscriber(app.live, app.states, who, app.clock.now_us())
        counted[who] = next(int(str(each.value)) for each in view.metrics if each.name == "mms_30d")
    return counted


# -- bounds -----------------------------------------------------------------------------------------

CAP, QUOTA = 3, 15


def bounded(bounds: str, quota: str = "") -> dict[str, bytes]:
    """Each MMS is an occasion."""
    files = {
        "rulebase.yaml": "rulebase: bounded\ntime_zone: Asia/Shanghai\n",
        "vocabulary.yaml": """\
            events: {mms_sent: {attributes: {size_kb: {type: int, min: 0}}}}
            channels: {sms: {mode: automatic}}
            products: {data: {label: Data, category: data}}
            """,
        "policies.yaml": bounds,
        "campaigns/data.yaml": f"""\
            campaign: data
            product: data
            on: [mms_sent]
            mode: automatic
            channels: [sms]
            fresh_for: 1h
            content: {{sms: "More data."}}
            {quota}
            """,
    }
    return {name: dedent(text).encode() for name, text in files.items()}


class Meeting:
    """Two transactions wait for each other after they have read what bounds them and before they write: if
    nothing else keeps them apart, both see what was before either."""

    def __init__(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self._barrier = threading.Barrier(2)
        call = getattr(SqlTransaction, name)

        def read(*args: Any) -> Any:
            found = call(*args)
            with contextlib.suppress(threading.BrokenBarrierError):
                self._barrier.wait(1)
            return found

        monkeypatch.setattr(SqlTransaction, name, read)


async def contacts_after(stores: Stores, files: dict[str, bytes], people: Sequence[str]) -> int:
    """Contacts in the ledger after 500 events in a second, by two members at once."""
    events = [mms(people[n % len(people)], f"e{n}", NOON_US + n) for n in range(500)]
    batches = [events[n : n + 10] for n in range(0, len(events), 10)]
    async with members(stores, 2, files, people=people) as apps:

        async def collector(app: Application, own: Sequence[Sequence[Event]]) -> None:
            for batch in own:
                await publish(app, batch)

        await asyncio.gather(*(collector(app, batches[n::2]) for n, app in enumerate(apps)))
    ((found,),) = stores.rows("SELECT count(*) FROM contacts WHERE NOT control")
    return int(found)


def unlock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SqlTransaction, "lock", lambda *_: None)


def test_a_cap_holds_over_all_members(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    Meeting("histories", monkeypatch)
    files = bounded(f"caps: {{weekly: {{limit: {CAP}, period: {{rolling: 7d}}}}}}")
    assert in_loop(contacts_after, stores, files, [ANNE]) == CAP


def test_a_quota_holds_over_all_members(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    Meeting("usage", monkeypatch)
    files = bounded("{}", f"quota: {{total: {QUOTA}}}")
    assert in_loop(contacts_after, stores, files, subscribers(100)) == QUOTA


def test_control_without_locks_a_quota_is_exceeded(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    Meeting("usage", monkeypatch)
    unlock(monkeypatch)
    files = bounded("{}", f"quota: {{total: {QUOTA}}}")
    assert in_loop(contacts_after, stores, files, subscribers(100)) > QUOTA


# -- revisions --------------------------------------------------------------------------------------


def test_an_activation_holds_for_whatever_is_committed_after_it(stores: Stores) -> None:
    """Both members take in what comes all the time, and a third activates one revision after the other."""

    async def body() -> None:
        async with members(stores, 3) as apps:
            done = False
            receipts: list[tuple[float, Receipt]] = []
            activated: list[tuple[float, str]] = []

            async def collector(app: Application, name: str) -> None:
                n = 0
                while not done:
                    events = [mms(who, f"{name}-{n}-{who}", NOON_US + n) for who in PEOPLE]
                    began = time.monotonic()
                    receipts.append((began, await app.ingest.publish(name, events)))  # no call fails
                    n += 1

            collecting = [asyncio.create_task(collector(app, f"c{n}")) for n, app in enumerate(apps[:2])]
            for n in range(6):
                seen = len(receipts)
                await until(lambda seen=seen: len(receipts) > seen + 4, "events are taken in")  # type: ignore[misc]
                revision = await activate(apps[2], small_rulebase(text=f"Offer {n}"))
                activated.append((time.monotonic(), revision))
            seen = len(receipts)
            await until(lambda: len(receipts) > seen + 4, "events are taken in")
            done = True
            await asyncio.gather(*collecting)
            assert len({receipt.revision for _, receipt in receipts}) > 3, "the test shows little"
            order = {revision: n for n, (_, revision) in enumerate(activated)}
            for began, receipt in receipts:
                least = sum(at < began for at, _ in activated) - 1
                assert order.get(receipt.revision, -1) >= least
                assert {each.revision for each in receipt.verdicts} <= {receipt.revision}
                assert receipt.accepted == len(PEOPLE)
            counted = await mms_counted(apps[0])
            assert counted == dict.fromkeys(PEOPLE, len(receipts))
        for verdicts, revisions in stores.rows(
            "SELECT count(*), count(DISTINCT revision) FROM decisions GROUP BY source, event_id"
        ):
            assert revisions == 1, verdicts
        # In the order of the log, each revision follows the one before, whoever wrote it.
        logged = [row[0] for row in stores.rows("SELECT revision FROM log ORDER BY position")]
        assert [each for each, _ in itertools.groupby(logged)][1:] == [each for _, each in activated]

    in_loop(body)


def test_a_pause_at_one_member_holds_at_all(stores: Stores) -> None:
    async def body() -> None:
        async with members(stores) as (first, second):
            await first.pauses.pause("mms-bundle", Caller("test"), "")
            events = [mms(ANNE, f"a{n}", NOON_US + n) for n in range(3)]
            paused = await second.ingest.publish("test", events)
            assert decided(paused.verdicts) == []
            await first.pauses.resume("mms-bundle", Caller("test"), "")
            going = await second.ingest.publish("test", [mms(ANNE, "a4", NOON_US + 4)])
            assert decided(going.verdicts) == [(ANNE, "mms-bundle")]

    in_loop(body)


# -- once, whoever does it --------------------------------------------------------------------------


def test_a_timer_fires_once_whoever_saw_the_subscriber_last(stores: Stores) -> None:
    async def body() -> None:
        async with members(stores, files=timed_rulebase()) as apps:
            await apps[0].ingest.publish("bss", [low(ANNE, "e1", NOON_US), low(BOB, "e2", NOON_US)])
            await apps[1].ingest.publish("bss", [plain("sms_sent", ANNE, "e3", NOON_US + 1)])
            set_clock(apps[0], NOON_US + HOUR_US + 2 * MINUTE_US)
            fired: list[tuple[str, str]] = []

            async def both_fired() -> bool:
                """One may have to ask the other for a subscriber first; it looks again a little later."""
                receipts = await asyncio.gather(*(app.ingest.settle_timers() for app in apps * 2))
                fired.extend(each for receipt in receipts for each in decided(receipt.verdicts))
                set_clock(apps[0], apps[0].clock.now_us() + SECOND_US)
                return len(fired) >= 2

            await until(both_fired, "both timers have fired")
            await both_fired()
            assert sorted(fired) == [(ANNE, "credit"), (BOB, "credit")]
        rows = stores.rows("SELECT subscriber_id FROM decisions WHERE campaign = 'credit' ORDER BY 1")
        assert rows == [(ANNE,), (BOB,)]

    in_loop(body)


def test_what_is_deferred_is_decided_once(stores: Stores) -> None:
    async def body() -> None:
        clock = ManualClock(NIGHT_US)
        async with members(stores, files=guarded_rulebase(), clock=clock) as apps:
            await publish(apps[0], [call(who, "e1", NIGHT_US) for who in PEOPLE])
            await leading(apps)
            clock.value_us = MORNING_US + 1

            async def decided() -> bool:
                """Even if both believe that they lead."""
                await asyncio.gather(*(decide_due(app.ingest, clock.now_us()) for app in apps))
                clock.value_us += SECOND_US
                return not stores.rows("SELECT 1 FROM deferrals")

            await until(decided, "nothing is deferred any more")
        again = stores.rows("SELECT subscriber_id, count(*) FROM decisions WHERE attempt > 1 GROUP BY 1")
        assert sorted(again) == [(who, 1) for who in PEOPLE]

    in_loop(body)


@pytest.mark.parametrize("who", PEOPLE)
def test_whoever_is_in_use_elsewhere_does_not_hold_up_what_is_due_of_others(
    stores: Stores, who: str
) -> None:
    async def body() -> None:
        clock = ManualClock(NIGHT_US)
        async with members(stores, files=guarded_rulebase(), clock=clock) as (one, other):
            await publish(one, [call(each, "e1", NIGHT_US) for each in PEOPLE])
            await one.states.hand_over()
            assert await other.states.load([who])
            clock.value_us = MORNING_US + 1
            await decide_due(one.ingest, clock.now_us())
            assert stores.rows("SELECT DISTINCT subscriber_id FROM deferrals") == [(who,)]
            await other.states.release([who])
            clock.value_us += SECOND_US
            await decide_due(one.ingest, clock.now_us())
            assert not stores.rows("SELECT 1 FROM deferrals")

    in_loop(body)


def daily_rulebase() -> dict[str, bytes]:
    """Everybody gets an offer at ten every day."""
    files = bounded("{}")
    files["campaigns/data.yaml"] = files["campaigns/data.yaml"].replace(
        b"[mms_sent]", b'[{schedule: daily, at: "10:00"}]'
    )
    return files


def test_a_trigger_is_settled_once(stores: Stores) -> None:
    async def body() -> None:
        clock = ManualClock(NOON_US)
        async with members(stores, files=daily_rulebase(), clock=clock) as apps:
            for app in apps:
                await app.schedule.turn()
            clock.value_us += 24 * HOUR_US
            await asyncio.gather(*(app.schedule.turn() for app in apps))
        found = stores.rows("SELECT subscriber_id, count(*) FROM decisions GROUP BY 1 ORDER BY 1")
        assert found == [(who, 1) for who in PEOPLE]

    in_loop(body)


# -- members that die or hang -----------------------------------------------------------------------


@pytest.fixture
def hung_between(monkeypatch: pytest.MonkeyPatch) -> Callable[[Application, str], Gate]:
    """Has a member do nothing from the next call on of a function of its live state: no beat, no call."""

    def hang(app: Application, name: str) -> Gate:
        assert app.membership is not None
        beats = Gate(app.membership, "beat", monkeypatch)
        gate = Gate(app.states, name, monkeypatch, beats)
        gate.shut()
        return gate

    return hang


async def expelled(stores: Stores, number: int) -> None:
    await until(
        lambda: not stores.rows("SELECT 1 FROM members WHERE number = :n", n=number),
        f"member {number} is expelled and taken over",
    )


def membership_of(app: Application) -> Membership:
    assert app.membership is not None
    return app.membership


def number_of(app: Application) -> int:
    return membership_of(app).number


def credit_of(stores: Stores) -> list[tuple[Any, ...]]:
    return stores.rows(
        "SELECT subscriber_id, reason FROM decisions WHERE campaign = 'credit' ORDER BY subscriber_id"
    )


def test_what_a_dead_member_committed_and_did_not_save_is_folded(
    stores: Stores, hung_between: Callable[[Application, str], Gate]
) -> None:
    async def body() -> None:
        async with members(stores) as (first, second):
            await first.ingest.publish("test", [mms(ANNE, f"e{n}", NOON_US + n) for n in range(2)])
            await first.ingest.publish("test", [mms(BOB, "b", NOON_US)])
            number, hung = number_of(first), hung_between(first, "save")
            third = [mms(ANNE, "e2", NOON_US + 2), mms(BOB, "b2", NOON_US + 3)]
            call = asyncio.create_task(first.ingest.publish("test", third))
            await hung.waiting.wait()  # it is committed
            await expelled(stores, number)
            assert (await mms_counted(second))[ANNE] == 3
            again = await publish(second, [*third, mms(ANNE, "e3", NOON_US + 4)])
            assert (again.accepted, again.duplicates) == (1, 2)
            hung.open()
            assert (await call).accepted == 2, "it is durable, and the others have it"
            await until(lambda: number_of(first) > number and first.ingest.healthy.is_set(), "it is back")
            assert (await publish(first, [mms(ANNE, "e4", NOON_US + 5)])).accepted == 1
            counted = {ANNE: 5, BOB: 2}
            for app in (first, second):
                assert {who: n for who, n in (await mms_counted(app)).items() if n} == counted
        twice = stores.rows("SELECT event_id FROM verdicts GROUP BY event_id HAVING count(*) > 1")
        assert twice == []

    in_loop(body)


def test_control_without_folding_what_was_not_saved_is_lost(
    stores: Stores, hung_between: Callable[[Application, str], Gate], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(takeover, "_fold", lambda *_: 0)

    async def body() -> None:
        async with members(stores) as (first, second):
            hung = hung_between(first, "save")
            number = number_of(first)
            call = asyncio.create_task(first.ingest.publish("test", [mms(ANNE, "e", NOON_US)]))
            await hung.waiting.wait()
            await expelled(stores, number)
            assert (await mms_counted(second))[ANNE] == 0
            hung.open()
            await call

    in_loop(body)


def test_the_timers_of_a_dead_member_fire_once_at_another(
    stores: Stores, hung_between: Callable[[Application, str], Gate]
) -> None:
    async def body() -> None:
        clock = ManualClock(NOON_US)
        async with members(stores, 3, timed_rulebase(), clock=clock) as (first, second, third):
            await first.ingest.publish("bss", [low(ANNE, "e1", NOON_US)])
            number, hung = number_of(first), hung_between(first, "save")
            call = asyncio.create_task(first.ingest.publish("bss", [low(BOB, "e2", NOON_US)]))
            await hung.waiting.wait()
            await expelled(stores, number)
            clock.value_us += HOUR_US + 2 * MINUTE_US

            async def fired() -> bool:
                clock.value_us += SECOND_US
                await asyncio.gather(second.ingest.settle_timers(), third.ingest.settle_timers())
                return len(credit_of(stores)) >= 2

            await until(fired, "somebody else settles the timers")
            hung.open()
            assert (await call).accepted == 1, "it is durable, and the others have it"
            await until(lambda: number_of(first) > number and first.ingest.healthy.is_set(), "it is back")
            await first.ingest.settle_timers()
        assert credit_of(stores) == [(ANNE, "decided"), (BOB, "decided")]

    in_loop(body)


def test_a_slow_member_that_was_expelled_commits_nothing_and_joins_anew(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body() -> None:
        async with members(stores) as (first, second):
            assert first.membership is not None
            number = number_of(first)
            beats = Gate(first.membership, "beat", monkeypatch)
            beats.shut()
            at_guard, go_on = threading.Event(), threading.Event()
            guard = first.membership.guard

            def slow(tx: LedgerTransaction) -> None:
                at_guard.set()
                go_on.wait(60)
                guard(tx)

            monkeypatch.setattr(first.membership, "guard", slow)
            events = [mms(ANNE, f"e{n}", NOON_US + n) for n in range(3)]
            call = asyncio.create_task(first.ingest.publish("test", events))
            await asyncio.to_thread(at_guard.wait)
            await expelled(stores, number)
            assert (await publish(second, events)).accepted == 3
            beats.open()
            go_on.set()
            with pytest.raises(StoreUnavailableError):
                await call
            assert (await publish(first, events)).duplicates == 3
            assert number_of(first) > number
            assert (await mms_counted(first))[ANNE] == 3
        assert stores.rows("SELECT count(*) FROM decisions WHERE reason = 'decided'") == [(1,)]

    in_loop(body)


# -- Redis loses what it held -----------------------------------------------------------------------


def flush(server: RedisServer) -> None:
    with server.connect() as client:
        client.flushall()


def restart(server: RedisServer) -> None:
    server.kill()
    server.start()


@pytest.mark.parametrize("lose", [flush, restart])
def test_live_state_that_is_lost_is_rebuilt(postgres_url: str, lose: Callable[[RedisServer], None]) -> None:
    events = list(traffic(4, 240))
    # The first are sent again after the loss, which shows that nothing of them is counted or decided again.
    batches = [events[n : n + 10] for n in range(0, len(events), 10)]

    async def alone() -> tuple[dict[str, bytes], int]:
        async with running() as app:
            set_clock(app, NOON_US + 240_000_000)
            for batch in batches:
                await app.ingest.publish("test", batch)
            return await known(app, PEOPLE), await app.thread.run(lambda: len(rows_of(app)))

    with redis() as server:
        stores = Stores(postgres_url, server.url)

        async def among_others() -> dict[str, bytes]:
            async with members(stores) as apps:
                set_clock(apps[0], NOON_US + 240_000_000)
                for n, batch in enumerate(batches):
                    if n == 8:
                        apps[0].ingest.request_checkpoint()
                    if n == 12:
                        lose(server)
                        again = [await publish(apps[n % 2], batch) for batch in batches[:n]]
                        assert sum(each.accepted for each in again) == 0
                    await publish(apps[n % 2], batch)
                await until(lambda: all(app.ingest.healthy.is_set() for app in apps), "all are well")
                found = [await known(app, PEOPLE) for app in apps]
                assert found[0] == found[1]
                return found[0]

        states, decisions = in_loop(alone)
        assert in_loop(among_others) == states
        assert stores.rows("SELECT count(*) FROM decisions") == [(decisions,)]


def rows_of(app: Application) -> Sequence[DecisionRow]:
    return app.ledger.decisions(DecisionFilter(), 0, 10_000, newest_first=False)


# -- erasure ----------------------------------------------------------------------------------------


def test_an_erasure_at_one_member_is_one_at_all(stores: Stores) -> None:
    async def body() -> None:
        async with members(stores) as apps:
            for n in range(20):
                for who in (ANNE, BOB):
                    await apps[n % 2].ingest.publish("test", [mms(who, f"{who}{n}", NOON_US + n)])
            going_on = [
                asyncio.create_task(publish(app, [mms(BOB, f"on{n}", NOON_US + 100 + n)]))
                for n, app in enumerate(apps * 5)
            ]
            erased = await apps[0].erasures.erase(ANNE, "test", "case 7")
            await asyncio.gather(*going_on)
            assert erased.existed
            for app in apps:
                with pytest.raises(NotFoundError):
                    await show_subscriber(app.live, app.states, ANNE, app.clock.now_us())
                assert (await mms_counted(app, [BOB])) == {BOB: 30}
            await apps[1].ingest.publish("test", [mms(ANNE, "new", NOON_US + 200)])
            assert (await mms_counted(apps[0], [ANNE])) == {ANNE: 1}, "she is a stranger who has come"
        for table in ("decisions", "verdicts", "contacts", "deliveries"):
            assert stores.rows(f"SELECT 1 FROM {table} WHERE subscriber_id = :who", who=ANNE) == []  # noqa: S608
        with contextlib.closing(SqlLedger.open(stores.ledger)) as ledger:
            logged = [item.subscriber_id for row in ledger.read_log(0) for item in items_of(row)]
        assert logged.count(ANNE) == 1

    in_loop(body)


# -- what is shared by count ------------------------------------------------------------------------


def test_the_pace_of_a_channel_is_divided_among_members(stores: Stores) -> None:
    async def body() -> None:
        clock = ManualClock(NOON_US)
        files = bounded("{}")
        files["vocabulary.yaml"] = files["vocabulary.yaml"].replace(
            b"automatic}", b"automatic, per_second: 5}"
        )
        people = subscribers(20)
        async with members(stores, files=files, people=people, clock=clock) as apps:
            await publish(apps[0], [mms(who, "e", NOON_US) for who in people])
            await until(lambda: all(each.share(5) for each in map(membership_of, apps)), "all have a part")
            clock.value_us += 2 * SECOND_US
            leases = [await app.deliveries.lease("sms", 100) for app in apps * 2]
            assert sorted(map(len, leases)) == [0, 0, 2, 3]
            assert len({each.decision_id for lease in leases for each in lease}) == 5

    in_loop(body)
