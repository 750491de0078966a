"""Valid but hostile input: refused alone or borne, never the end of a batch, a caller or the service."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
from opportune_service.app import observing
from opportune_service.app.context import ImportItem, import_context, show_subscriber
from opportune_service.app.errors import StoreUnavailableError
from opportune_service.core.events import Encoding, Event, ImportMode, RejectionReason
from support.applications import decided, in_loop, running
from support.paying_rulebase import paying_rulebase, tell, top_up
from support.rulebases import NOON_US
from support.small_rulebase import mms, small_rulebase, subscribers

ANNE, BOB = subscribers(2)


@pytest.mark.parametrize("instant", ["0001-01-01T00:00:00+08:00", "9999-12-31T23:59:59-08:00"])
def test_an_instant_that_no_calendar_holds_is_refused_alone(instant: str) -> None:
    async def body() -> None:
        async with running(files=paying_rulebase(), people=()) as app:
            items = [ImportItem(ANNE, msgspec.json.encode({"since": instant})), ImportItem(BOB, b"{}")]
            imported = await import_context(app.live, app.ingest, items, 1, ImportMode.PATCH, Encoding.JSON)
            assert (imported.accepted, [r.index for r in imported.rejections]) == (1, [0])
            events = [top_up(ANNE, "e1", at=instant), top_up(ANNE, "e2", amount=1)]
            receipt = await app.ingest.publish("test", events)
            assert receipt.accepted == 1
            assert [(r.index, r.reason) for r in receipt.rejections] == [
                (0, RejectionReason.BAD_ATTRIBUTES)
            ]

    in_loop(body)


@pytest.mark.parametrize("rate", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_is_none_is_refused_alone(rate: float) -> None:
    """One of them would spoil a sum for as long as its window lasts."""

    async def body() -> None:
        async with running(files=paying_rulebase(), people=()) as app:
            event = Event(
                "e1",
                ANNE,
                "top_up",
                NOON_US,
                msgspec.msgpack.encode({"rate": rate}),
                encoding=Encoding.MSGPACK,
            )
            receipt = await app.ingest.publish("test", [event, top_up(ANNE, "e2", rate=1.5)])
            assert receipt.accepted == 1
            assert [r.reason for r in receipt.rejections] == [RejectionReason.BAD_ATTRIBUTES]

    in_loop(body)


def test_sums_beyond_64_bits_stop_there_and_nothing_breaks(tmp_path: Path) -> None:
    async def first() -> None:
        async with running(tmp_path / "o.db", paying_rulebase(), people=[ANNE]) as app:
            await tell(app, ANNE, 2, since="2020-01-01T00:00:00Z")
            for n in range(5):
                receipt = await app.ingest.publish(
                    "test", [top_up(ANNE, f"e{n}", NOON_US + n, amount=2**62)]
                )
                assert decided(receipt.verdicts) == [(ANNE, "bonus")]
            app.ingest.request_checkpoint()
            receipt = await app.ingest.publish("test", [top_up(ANNE, "e9", NOON_US + 9, amount=1)])
            assert receipt.accepted == 1

    async def second() -> None:
        async with running(tmp_path / "o.db", paying_rulebase(), people=()) as app:
            view = await show_subscriber(app.live, app.states, ANNE, NOON_US + 10)
            values = {reading.name: reading.value for reading in view.metrics}
            assert (values["paid_30d"], values["paid_24h"]) == (2**63 - 1, 2**63 - 1)
            receipt = await app.ingest.publish("test", [top_up(ANNE, "f1", NOON_US + 11, amount=1)])
            assert receipt.accepted == 1

    in_loop(first)
    in_loop(second)


def test_a_zero_byte_is_refused_in_names_and_replaced_in_what_is_sent() -> None:
    """On every store alike, though it is only PostgreSQL that cannot keep one."""

    async def body() -> None:
        async with running(files=small_rulebase(threshold=1, text="a\\0b")) as app:
            receipt = await app.ingest.publish("test", [mms(ANNE, "e\0"), mms(ANNE, "e2")])
            assert [r.reason for r in receipt.rejections] == [RejectionReason.BAD_EVENT_ID]
            sent = {d.content for verdict in receipt.verdicts for d in verdict.decisions}
            assert sent == {"a\N{REPLACEMENT CHARACTER}b"}

    in_loop(body)


@pytest.mark.parametrize("between", ["\x1f", "/", ":"])
def test_a_cut_in_names_does_not_make_two_decisions_one(between: str) -> None:
    """Source and event id may hold any character but NUL: no cut between them may be mistaken for
    another."""

    async def body() -> None:
        async with running(files=small_rulebase(threshold=1)) as app:
            one = await app.ingest.publish("a", [mms(ANNE, f"b{between}c")])
            two = await app.ingest.publish(f"a{between}b", [mms(ANNE, "c")])
            ids = {d.id for receipt in (one, two) for v in receipt.verdicts for d in v.decisions}
            assert len(ids) == 2

    in_loop(body)


def test_a_fault_in_one_batch_leaves_no_caller_without_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither those whose batches wait in the same group, nor an activation."""
    honest = observing.observe

    def faulty(revision: Any, source: str, *args: Any, **given: Any) -> Any:
        if source == "poison":
            raise ZeroDivisionError("a fault of ours")
        return honest(revision, source, *args, **given)

    async def body() -> None:
        async with running() as app:
            monkeypatch.setattr(observing, "observe", faulty)
            retired = app.live.current
            calls = [
                app.ingest.publish("poison", [mms(ANNE, "e1")]),
                app.ingest.publish("good", [mms(BOB, "e2")]),
                app.ingest.retire(retired),
            ]
            async with asyncio.timeout(10):
                failed = await asyncio.gather(*calls, return_exceptions=True)
            assert [type(each) for each in failed] == [
                StoreUnavailableError,
                StoreUnavailableError,
                type(None),
            ]

    in_loop(body)
