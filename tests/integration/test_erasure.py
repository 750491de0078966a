"""After an erasure nothing names the number: no table, no row of the log, no state, no byte of the file."""

from __future__ import annotations

import asyncio
import sqlite3
import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import closing, suppress
from pathlib import Path
from textwrap import dedent
from typing import Any

import msgspec
import pytest
from opportune_rulebase.policies import Mode, OutcomeKind
from opportune_service.app.contacts import RecordedContact, record_contacts
from opportune_service.app.context import ImportItem, import_context, show_subscriber
from opportune_service.app.errors import InvalidRequestError, NotFoundError, StoreUnavailableError
from opportune_service.app.ingest import Receipt
from opportune_service.bootstrap import Application
from opportune_service.core.backfill import Fill
from opportune_service.core.events import Due, Encoding, Event, ImportMode
from opportune_service.core.state import decode_state
from support.applications import in_loop, running
from support.flaky import Flaky
from support.rebuilt import live_and_rebuilt
from support.rulebases import NOON_US

GONE, OTHER, THIRD = "8613800000001", "8613800000002", "8613900000003"
SECOND_US = 1_000_000
REASON = "asked for it, case 7"


def rulebase() -> dict[str, bytes]:
    """Something in every table; a call names whom it was to."""
    files = {
        "rulebase.yaml": "rulebase: town\ntime_zone: Asia/Shanghai\n",
        "vocabulary.yaml": """\
            events:
              call_made: {attributes: {to: subscriber}}
              call_missed: {attributes: {to: subscriber}}
              sms_sent: {}
              counter_visit: {}
              hotline_complaint: {touch: complaint, attributes: {channel: string, content: string}}
            subscriber: {age: int, family: string}
            channels: {sms: {mode: automatic}, counter: {mode: manual}}
            products:
              talk: {label: Talk, category: voice}
              text: {label: Text, category: messaging}
              care: {label: Care, category: care}
            """,
        "behaviours.yaml": """\
            metrics:
              partners_24h: {distinct: event.to, of: call_made, last: 24h}
              partners_30d: {distinct: event.to, of: call_made, days: 30}
              last_called: {latest: event.to, of: call_made, days: 30}
            patterns:
              called_twice:
                sequence: [call_made, {event: call_made, link: event.to == first.to}]
                within: 10m
              stays_silent: {after: call_missed, absent: counter_visit, for: 30m}
            """,
        "campaigns/talk.yaml": """\
            campaign: talk
            product: talk
            on: [call_made]
            mode: automatic
            channels: [sms]
            content: {sms: "Talk for less."}
            """,
        "campaigns/text.yaml": """\
            campaign: text
            product: text
            on: [sms_sent]
            mode: automatic
            channels: [sms]
            expires_after: 40d
            content: {sms: "Text for less."}
            """,
        "campaigns/care.yaml": """\
            campaign: care
            product: care
            on: [call_missed]
            mode: manual
            channels: [counter]
            content: {counter: "Care."}
            """,
        "policies.yaml": """\
            caps: {weekly: {limit: 2, period: {rolling: 7d}, otherwise: defer}}
            """,
    }
    return {name: dedent(text).encode() for name, text in files.items()}


def event(id_: str, who: str, type_: str, at: int = 0, **attributes: Any) -> Event:
    return Event(id_, who, type_, NOON_US + at * SECOND_US, msgspec.json.encode(attributes))


async def live_in_town(app: Application) -> None:
    """Everybody does everything, with everybody."""
    contexts = {GONE: {"age": 30}, OTHER: {"family": GONE}, THIRD: {"age": 40}}
    items = [ImportItem(who, msgspec.json.encode(context)) for who, context in contexts.items()]
    await import_context(app.live, app.ingest, items, 1, ImportMode.PATCH, Encoding.JSON)
    now_us = app.clock.now_us()
    for who, peer in ((GONE, OTHER), (OTHER, GONE), (THIRD, GONE), (OTHER, THIRD)):
        await app.ingest.publish(
            "msc",
            [
                event(f"{who}-{peer}-1", who, "call_made", 1, to=peer),
                event(f"{who}-{peer}-2", who, "call_missed", 2, to=peer),
                event(f"{who}-{peer}-3", who, "sms_sent", 3),
                event(
                    f"{who}-{peer}-4", who, "hotline_complaint", 4, content=f"{peer} called", channel="x"
                ),
                event(f"{who}-{peer}-5", who, "nonsense", 5, to=peer),
            ],
        )
        report = RecordedContact(
            f"{who}-{peer}", who, "sms", Mode.AUTOMATIC, now_us, content=f"hello, {peer}"
        )
        await record_contacts(app.live, app.ledger, app.thread, "shop", [report], now_us)
        await app.ingest.publish("msc", [event(f"{who}-{peer}-6", who, "sms_sent", 6)])
    for decision_id in await contacts_of(app, GONE):
        await app.deliveries.report_outcome(decision_id, OutcomeKind.REFUSED, now_us, f"ask {OTHER}")
    for decision_id in await contacts_of(app, OTHER):
        await app.deliveries.report_outcome(decision_id, OutcomeKind.REFUSED, now_us, f"ask {GONE}")


async def contacts_of(app: Application, who: str) -> list[str]:
    rows = await app.thread.run(app.ledger.contacts_of, who, 0, 2**62, 100)
    return [row.contact.decision_id for row in rows if not row.contact.origin]


async def checkpoint(app: Application) -> None:
    app.ingest.request_checkpoint()
    while app.ingest._checkpoints.due:
        await asyncio.sleep(0)
        await app.ingest._checkpoints.wait()


def texts(value: object) -> Iterable[str]:
    """Whatever can be read out of a value of a table: as it is, unpacked, and as a state."""
    if isinstance(value, bytes):
        yield value.decode("latin-1")
        with suppress(zlib.error):
            yield zlib.decompress(value).decode("latin-1")
        with suppress(msgspec.DecodeError):
            yield str(decode_state(value))
    elif value is not None:
        yield str(value)


def tables_naming(database: Path, number: str) -> set[str]:
    """The tables in which the number stands; read by SQLite alone, without any code of the service."""
    with closing(sqlite3.connect(database)) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        return {
            name
            for (name,) in tables
            for row in connection.execute(f'SELECT * FROM "{name}"')  # noqa: S608
            for value in row
            for text in texts(value)
            if number in text
        }


async def states_naming(app: Application, number: str) -> set[str]:
    people = await app.states.subscribers()
    states = await app.states.load(people)
    return {who for who in people if number in who or number in str(states[who])}


EVERYWHERE = {
    *("log", "states", "verdicts", "decisions", "contacts", "contact_changes", "outcomes", "deliveries"),
    *("prompts", "deferrals", "touches", "quarantine"),
}
"""Every table that has something of people."""


def test_nothing_names_the_number_and_nothing_brings_it_back(tmp_path: Path) -> None:
    database = tmp_path / "town.db"

    async def before() -> None:
        async with running(database, rulebase(), people=()) as app:
            await live_in_town(app)
            assert await states_naming(app, GONE) == {GONE, OTHER, THIRD}

    async def erase() -> None:
        async with running(database, rulebase(), people=()) as app:
            before = await readings(app)
            erased = await app.erasures.erase(GONE, "operator", REASON)
            assert erased.existed
            assert files_naming(tmp_path, GONE) == [], "when it is answered"
            assert await states_naming(app, GONE) == set()
            assert await readings(app) == before, "others have called as many people as before"
            live, rebuilt = await live_and_rebuilt(app, [GONE, OTHER, THIRD])
            assert rebuilt == live
            await checkpoint(app)
            again = await app.erasures.erase(GONE, "operator", "once more")
            assert not again.existed

    async def after() -> None:
        async with running(database, rulebase(), people=()) as app:
            assert await states_naming(app, GONE) == set()
            with pytest.raises(NotFoundError):
                await show_subscriber(app.live, app.states, GONE, app.clock.now_us())
            receipt = await app.ingest.publish("msc", [event("new", GONE, "sms_sent", 9)])
            assert (receipt.accepted, receipt.duplicates) == (1, 0)

    in_loop(before)
    assert tables_naming(database, GONE) == EVERYWHERE, "the control: the scan finds it where it is"
    assert GONE.encode() in database.read_bytes()
    in_loop(erase)
    assert tables_naming(database, GONE) == set()
    assert tables_naming(database, OTHER) == EVERYWHERE, "nobody else is erased"
    assert files_naming(tmp_path, GONE) == [], "in what is deleted"
    with closing(sqlite3.connect(database)) as connection:
        audit = connection.execute('SELECT "by", action, about, reason FROM audit').fetchall()
    assert audit[0] == ("operator", "erase", "", REASON)
    in_loop(after)


def files_naming(directory: Path, number: str) -> list[str]:
    """The database and whatever lies beside it, byte by byte."""
    return [file.name for file in directory.iterdir() if number.encode() in file.read_bytes()]


async def readings(app: Application) -> dict[tuple[str, str], object]:
    """How many people each of the others has called."""
    found: dict[tuple[str, str], object] = {}
    for who in (OTHER, THIRD):
        view = await show_subscriber(app.live, app.states, who, app.clock.now_us())
        counted = {each.name: each.value for each in view.metrics if each.name.startswith("partners")}
        assert counted
        found |= {(who, name): value for name, value in counted.items()}
    return found


def test_recovery_from_the_log_alone_does_not_bring_it_back(tmp_path: Path) -> None:
    """As if the service had been killed before any snapshot was written, and after."""
    database = tmp_path / "town.db"

    async def body() -> None:
        async with running(database, rulebase(), people=()) as app:
            await live_in_town(app)
            await app.erasures.erase(GONE, "operator", REASON)
            live, _ = await live_and_rebuilt(app, [OTHER, THIRD])

            def forget_snapshots() -> None:
                engine = app.ledger._engine  # type: ignore[attr-defined]
                with engine.begin() as connection:
                    connection.exec_driver_sql("DELETE FROM states")
                    connection.exec_driver_sql("UPDATE meta SET value = 0 WHERE name = 'checkpoint'")

            await app.thread.run(forget_snapshots)
            _, rebuilt = await live_and_rebuilt(app, [GONE, OTHER, THIRD])
            assert not rebuilt[GONE].seen
            assert not rebuilt[GONE].known
            for who in (OTHER, THIRD):
                assert GONE not in str(rebuilt[who])
                assert rebuilt[who].series == live[who].series
                assert rebuilt[who].context == live[who].context

    in_loop(body)


def test_events_come_in_while_it_is_erased_and_what_was_sent_before_is_gone(tmp_path: Path) -> None:
    async def body() -> None:
        async with running(tmp_path / "town.db", rulebase(), people=()) as app:
            for n in range(200):  # rows enough for several pages
                await app.ingest.publish("msc", [event(f"a{n}", GONE if n % 2 else OTHER, "sms_sent", n)])
            offered = [
                await app.ingest.offer("msc", [event(f"b{n}", GONE if n % 2 else OTHER, "sms_sent", n)])
                for n in range(20)
            ]
            erasing = asyncio.create_task(app.erasures.erase(GONE, "operator", REASON))
            others = 0
            while not erasing.done():
                sent = event(f"c{others}", OTHER, "sms_sent", 300)
                others += (await app.ingest.publish("msc", [sent])).accepted
            assert (await erasing).existed
            assert [(await each).accepted for each in offered] == [1] * 20
            assert await states_naming(app, GONE) == set()
            live, rebuilt = await live_and_rebuilt(app, [GONE, OTHER])
            assert rebuilt == live
            assert others > 2
            assert len(live[OTHER].seen) == 100 + 10 + others, "of others nothing is lost"

    in_loop(body)


@pytest.mark.parametrize("after", [False, True])
def test_an_erasure_that_a_failing_store_cuts_off_is_made_again(tmp_path: Path, after: bool) -> None:
    async def body() -> None:
        async with running(tmp_path / "town.db", rulebase(), people=()) as app:
            await live_in_town(app)
            flaky = Flaky(app.ledger, after=after)
            app.erasures._ledger = flaky
            flaky.failing = True
            with pytest.raises(StoreUnavailableError):
                await app.erasures.erase(GONE, "operator", REASON)
            assert GONE in await states_naming(app, GONE)
            flaky.failing = False
            assert (await app.erasures.erase(GONE, "operator", REASON)).existed
            assert await states_naming(app, GONE) == set()
            live, rebuilt = await live_and_rebuilt(app, [GONE, OTHER, THIRD])
            assert rebuilt == live

    in_loop(body)


def test_two_calls_at_once_and_one_that_is_given_up(tmp_path: Path) -> None:
    async def body() -> None:
        async with running(tmp_path / "town.db", rulebase(), people=()) as app:
            await live_in_town(app)
            first = asyncio.create_task(app.erasures.erase(GONE, "operator", REASON))
            second = asyncio.create_task(app.erasures.erase(GONE, "operator", REASON))
            await asyncio.sleep(0)
            first.cancel()
            assert (await second).existed
            assert await states_naming(app, GONE) == set()

    in_loop(body)


def test_timers_and_deferrals_of_whoever_is_erased_come_to_nothing(tmp_path: Path) -> None:
    async def body() -> None:
        async with running(tmp_path / "town.db", rulebase(), people=()) as app:
            await live_in_town(app)
            assert GONE in app.ingest._observer.timers
            await app.erasures.erase(GONE, "operator", REASON)
            assert GONE not in app.ingest._observer.timers
            assert OTHER in app.ingest._observer.timers

    in_loop(body)


def test_the_reason_must_not_name_the_number(tmp_path: Path) -> None:
    async def body() -> None:
        async with running(tmp_path / "town.db", people=()) as app:
            with pytest.raises(InvalidRequestError, match="must not name"):
                await app.erasures.erase(GONE, "operator", f"+{GONE} wrote")

    in_loop(body)


class Meanwhile(Flaky):
    """A ledger that lets something happen at the beginning of each transaction."""

    def __init__(self, ledger: Any, happens: Callable[[], object]) -> None:
        super().__init__(ledger, after=False)
        self._happens = happens

    def transaction(self) -> Any:
        self._happens()
        return super().transaction()


def test_what_the_service_read_before_and_queues_meanwhile_is_dropped(tmp_path: Path) -> None:
    """A backfill that has read the log, and a sweep that has looked at everybody."""

    async def body() -> None:
        async with running(tmp_path / "town.db", rulebase(), people=()) as app:
            await live_in_town(app)
            loop = asyncio.get_running_loop()
            queued: list[Future[Receipt]] = []

            def queue() -> None:
                """In the ledger's thread, in the middle of the erasure."""
                fill = Fill(GONE, 10**9, {})
                dues = [Due(GONE, "x", NOON_US), Due(OTHER, "x", NOON_US)]
                calls = (app.ingest.fill([fill]), app.ingest.settle_due(dues))
                queued.extend(asyncio.run_coroutine_threadsafe(call, loop) for call in calls)

            app.erasures._ledger = Meanwhile(app.ledger, queue)
            await app.erasures.erase(GONE, "operator", REASON)
            receipts = [await asyncio.wrap_future(each) for each in queued]
            assert len(receipts) >= 2
            assert await states_naming(app, GONE) == set()
            assert app.ingest._queue.events == 0
            live, rebuilt = await live_and_rebuilt(app, [GONE, OTHER])
            assert rebuilt == live

    in_loop(body)
