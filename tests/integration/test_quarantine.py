"""Rejected events are kept for operators: as sent, the newest, over restarts, and never at others' cost."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from opportune_service.app.context import ImportItem, import_context
from opportune_service.app.errors import StoreUnavailableError
from opportune_service.app.quarantine import MOST
from opportune_service.app.records import Quarantined, QuarantineFilter
from opportune_service.bootstrap import Application
from opportune_service.core.events import Encoding, Event, ImportMode, RejectionReason
from support.applications import in_loop, running
from support.flaky import Flaky
from support.rulebases import NOON_US
from support.small_rulebase import mms, subscribers

ANNE, BOB = subscribers(2)


def nonsense(number: int) -> Event:
    return Event(f"n{number}", ANNE, "nonsense", NOON_US, b'{"number": 1}')


async def kept(app: Application, limit: int = 1_000) -> list[Quarantined]:
    return [each for _, each in await app.insight.quarantined(QuarantineFilter(), 0, limit)]


def test_an_event_is_kept_as_it_was_sent(tmp_path: Path) -> None:
    sent = Event("1", "+86138", "mms_sent", NOON_US, b"\xff\x00", "c1", "12", Encoding.MSGPACK)

    async def first() -> None:
        async with running(tmp_path / "o.db") as app:
            await app.ingest.publish("gn", [mms(ANNE, "good"), sent])

    async def second() -> None:
        async with running(tmp_path / "o.db", people=()) as app:
            (rejected,) = await kept(app)
            assert (rejected.source, rejected.event, rejected.received_us) == ("gn", sent, NOON_US)
            assert rejected.reason is RejectionReason.BAD_SUBSCRIBER_ID
            assert "5 to 15 digits" in rejected.message

    in_loop(first)
    in_loop(second)


def test_accepted_events_duplicates_and_imports_are_not_in_it() -> None:
    async def body() -> None:
        async with running() as app:
            await app.ingest.publish("gn", [mms(ANNE, "1"), mms(ANNE, "1")])
            items = [ImportItem("not a number", b"{}"), ImportItem(ANNE, b"{")]
            imported = await import_context(
                app.live, app.ingest, items, NOON_US, ImportMode.PATCH, Encoding.JSON
            )
            assert len(imported.rejections) == 2
            assert await kept(app) == []

    in_loop(body)


def test_what_is_too_long_is_left_out_or_cut() -> None:
    async def body() -> None:
        async with running() as app:
            large = Event("1", ANNE, "mms_sent", NOON_US, b" " * 20_000)
            long = Event("x" * 100_000, "9" * 100_000, "t" * 100_000, NOON_US, b"{}", "c" * 100_000)
            await app.ingest.publish("gn", [large, long])
            cut, emptied = await kept(app)
            assert (emptied.event.attributes, emptied.event.id) == (b"", "1")
            assert {len(cut.event.id), len(cut.event.subscriber_id), len(cut.event.type)} == {1_000}

    in_loop(body)


@pytest.mark.parametrize(
    "event",
    [
        Event("\ud800", ANNE, "nonsense", NOON_US),
        Event("1", ANNE, "non\x00sense", NOON_US),
        Event("1", ANNE, "nonsense", 10**30),
        Event("1", ANNE, "nonsense", -(10**30)),
    ],
)
def test_what_no_store_can_hold_does_not_fail_the_batch(event: Event) -> None:
    async def body() -> None:
        async with running() as app:
            receipt = await app.ingest.publish("gn", [event, mms(ANNE, "good")])
            assert (receipt.accepted, len(receipt.rejections)) == (1, 1)
            assert len(await kept(app)) == 1

    in_loop(body)


def test_the_newest_are_kept() -> None:
    async def body() -> None:
        async with running() as app:
            for start in range(0, MOST + 1_500, 500):
                await app.ingest.publish("gn", [nonsense(start + n) for n in range(500)])
            ids = [each.event.id for each in await kept(app, limit=2 * MOST)]
            assert ids == [f"n{n}" for n in reversed(range(1_500, MOST + 1_500))]

    in_loop(body)


def test_when_the_store_is_down_nothing_is_kept_twice() -> None:
    """The batch fails as a whole, is sent again, and is then there once."""

    async def body() -> None:
        async with running() as app:
            flaky = Flaky(app.ledger, after=True)
            app.ingest._ledger = flaky
            flaky.failing = True
            with pytest.raises(StoreUnavailableError):
                await app.ingest.publish("gn", [nonsense(1), mms(ANNE, "1")])
            flaky.failing = False
            await app.ingest.healthy.wait()
            await app.ingest.publish("gn", [nonsense(1), mms(ANNE, "1")])
            assert [each.event.id for each in await kept(app)] == ["n1"]

    in_loop(body)


def test_nobody_s_number_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        async with running() as app:
            await app.ingest.publish("gn", [Event(BOB, ANNE, BOB, NOON_US, ANNE.encode())])
            assert len(await kept(app)) == 1

    caplog.set_level(logging.DEBUG)
    in_loop(body)
    assert ANNE not in caplog.text
    assert BOB not in caplog.text
