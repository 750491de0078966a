"""An event on which the service itself fails, always: it alone is put aside, and nobody else notices."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest
from opportune_service.adapters.sql import SqlLedger
from opportune_service.app import commit, faults
from opportune_service.app.advise import Visit, advise
from opportune_service.app.errors import StoreUnavailableError, SupersededError
from opportune_service.app.faults import FaultyEventError
from opportune_service.app.log import items_of
from opportune_service.app.records import QuarantineFilter
from opportune_service.app.works import Group, Work
from opportune_service.bootstrap import Application
from opportune_service.core.chain import Chain
from opportune_service.core.decide import encode_verdict
from opportune_service.core.events import Event, RejectionReason
from opportune_service.core.state import encode_state
from opportune_service.core.verdict import EventKey, Moment, Verdict
from support.applications import in_loop, running
from support.members import HeldCommit, Stores, members
from support.rulebases import NOON_US
from support.small_rulebase import mms, subscribers

PEOPLE = subscribers(4)
KB = 666
"""So large is an MMS on which the service fails."""


def faulty(who: str, event_id: str) -> Event:
    return Event(event_id, who, "mms_sent", NOON_US, msgspec.json.encode({"size_kb": KB}))


def break_folding(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Chain.take

    def take(self: Chain, type_: str, at_us: int, ordering: int, attributes: Any, *rest: Any) -> None:
        honest(self, type_, at_us, ordering, attributes, *rest)
        if attributes and attributes.get("size_kb") == KB:
            raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr(Chain, "take", take)


def break_deciding(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = commit.decide

    def decide(rulebase: Any, moment: Moment, *rest: Any) -> Any:
        if moment.key.event_id.startswith("faulty"):
            raise ZeroDivisionError("a fault of ours")
        return honest(rulebase, moment, *rest)

    monkeypatch.setattr(commit, "decide", decide)


Break = Callable[[pytest.MonkeyPatch], None]
BREAKS = pytest.mark.parametrize("breaks", [break_folding, break_deciding])


def batch(source: str) -> list[Event]:
    """Three of each, so that each has an offer in the first one, and is capped after it."""
    return [mms(who, f"{source}-{who}-{n}", NOON_US + n) for n in range(3) for who in PEOPLE]


async def everything(app: Application) -> list[bytes]:
    """The states of all, whatever positions they have."""
    states = await app.states.load(PEOPLE)
    return [encode_state(msgspec.structs.replace(states[who], position=0)) for who in PEOPLE]


@BREAKS
def test_the_event_alone_is_put_aside(
    breaks: Break, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With others' batches before and after it, all in one group."""
    breaks(monkeypatch)

    async def published(at_fault: list[Event]) -> tuple[list[bytes], list[bytes]]:
        async with running(people=PEOPLE) as app:
            good = {source: batch(source) for source in "abc"}
            sent = good | {"b": good["b"][:7] + at_fault + good["b"][7:]}
            receipts = await asyncio.gather(*(app.ingest.publish(*each) for each in sent.items()))
            assert [receipt.accepted for receipt in receipts] == [12, 12, 12]
            rejected = [(each.index, each.reason) for receipt in receipts for each in receipt.rejections]
            assert rejected == [(7, RejectionReason.INTERNAL)] * len(at_fault)
            kept = await app.insight.quarantined(QuarantineFilter(), 0, 10)
            assert [each.event for _, each in kept] == at_fault
            again = await app.ingest.publish("b", good["b"])
            assert (again.accepted, again.duplicates) == (0, 12)
            verdicts = [encode_verdict(each) for receipt in receipts for each in receipt.verdicts]
            return verdicts, await everything(app)

    with caplog.at_level(logging.WARNING):
        disturbed = in_loop(published, [faulty(PEOPLE[1], "faulty")])
    assert "ZeroDivisionError" in caplog.text
    assert "unavailable" not in caplog.text, "callers were turned away"
    assert disturbed == in_loop(published, [])


@BREAKS
def test_where_many_are_at_fault_it_is_not_the_events(
    breaks: Break, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a fault of a release would put aside all that comes."""
    monkeypatch.setattr(faults, "MOST", 2)
    breaks(monkeypatch)

    async def body() -> None:
        async with running(people=PEOPLE) as app:
            await app.ingest.publish("a", batch("a"))
            many = [faulty(who, f"faulty-{who}") for who in PEOPLE]
            with pytest.raises(StoreUnavailableError):
                await app.ingest.publish("b", many)
            await app.ingest.healthy.wait()
            assert await app.insight.quarantined(QuarantineFilter(), 0, 10) == []
            receipt = await app.ingest.publish("b", batch("b"))
            assert (receipt.accepted, receipt.rejections) == (12, [])

    in_loop(body)


def test_a_visit_at_fault_is_no_mistake_of_whoever_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    break_deciding(monkeypatch)

    async def body() -> None:
        async with running(people=PEOPLE) as app:
            await app.ingest.publish("a", [mms(PEOPLE[0], "large", size_kb=250)])
            asked = Visit(PEOPLE[0], "counter", "faulty", "counter_visit")
            with pytest.raises(RuntimeError, match="a fault of its own"):
                await advise(app.live, app.ingest, app.ledger, app.thread, app.clock, asked)

    in_loop(body)


@BREAKS
def test_a_member_puts_it_aside_as_well(
    breaks: Break, monkeypatch: pytest.MonkeyPatch, postgres_url: str, redis_url: str
) -> None:
    breaks(monkeypatch)
    stores = Stores(postgres_url, redis_url)

    async def body() -> None:
        async with members(stores, people=PEOPLE) as found:
            good = {source: batch(source) for source in "ab"}
            sent = good | {"b": [*good["b"], faulty(PEOPLE[1], "faulty")]}
            receipts = await asyncio.gather(
                *(app.ingest.publish(*each) for app, each in zip(found, sent.items(), strict=True))
            )
            assert [receipt.accepted for receipt in receipts] == [12, 12]
            (rejected,) = receipts[1].rejections
            assert (rejected.index, rejected.reason) == (12, RejectionReason.INTERNAL)
            for app in found:
                again = await app.ingest.publish("b", good["b"])
                assert (again.accepted, again.duplicates) == (0, 12)

    in_loop(body)


def test_what_was_being_committed_is_taken_in_again_before_what_was_observed_after_it() -> None:
    """The next group met a fault first; then another member turned out to have activated a revision."""

    async def body() -> None:
        async with running() as app:
            ingest, loop = app.ingest, asyncio.get_running_loop()
            earlier, later = Work(loop.create_future()), Work(loop.create_future())
            fault = FaultyEventError(EventKey(PEOPLE[0], "test", "e"))
            fault.aside = True
            commit: asyncio.Future[Sequence[Verdict]] = loop.create_future()
            commit.set_exception(SupersededError("another revision is active"))
            ingest._fail([later], fault, ())
            await ingest._settle(Group(works=[earlier]), commit)
            assert ingest._again == [earlier, later]
            await asyncio.gather(earlier.done, later.done)

    in_loop(body)


def test_what_waits_for_another_member_keeps_its_order_though_an_event_is_put_aside(
    postgres_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More of her waits than is tried in one group, so some of it is not in the group that fails."""
    break_folding(monkeypatch)
    stores = Stores(postgres_url, redis_url)
    anne, bob = PEOPLE[:2]

    async def body() -> None:
        async with members(stores, people=PEOPLE) as (one, other):
            held = HeldCommit(other, monkeypatch)
            working = asyncio.create_task(other.ingest.publish("other", [mms(anne, "o", NOON_US)]))
            await asyncio.to_thread(held.reached.wait)
            sent = [[mms(anne, f"{n}-{m}", NOON_US + m) for m in range(700)] for n in range(6)]
            waiting = [await one.ingest.offer("stream", each) for each in sent]
            for n in range(4):
                receipt = await one.ingest.publish("call", [faulty(bob, f"faulty{n}")])
                assert [each.reason for each in receipt.rejections] == [RejectionReason.INTERNAL]
            held.let_go()
            await working
            receipts = await asyncio.gather(*waiting)
            assert [each.accepted for each in receipts] == [700] * 6

        def logged() -> list[str]:
            ledger = SqlLedger.open(stores.ledger)
            try:
                rows = [row for row in ledger.read_log(0) if row.source == "stream"]
                items = [item for row in rows for item in items_of(row)]
                return [item.id for item in items if isinstance(item, Event)]
            finally:
                ledger.close()

        assert await asyncio.to_thread(logged) == [each.id for batch in sent for each in batch]

    in_loop(body)
