"""What members answer about somebody whom another one of them has: advices, views, consents."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest
from opportune_service.app.advise import Visit, advise
from opportune_service.app.works import Group
from opportune_service.core.events import ContextRecord, Event, ImportMode
from opportune_service.core.verdict import Verdict
from support.applications import decided, in_loop
from support.members import Gate, Stores, members, until
from support.rulebases import NOON_US
from support.small_rulebase import mms, subscribers

ANNE, BOB = subscribers(5)[:2]


@pytest.fixture
def stores(postgres_url: str, redis_url: str) -> Stores:
    return Stores(postgres_url, redis_url)


def test_a_prompt_is_shown_where_its_subscriber_has_to_be_asked_for(stores: Stores) -> None:
    """Nothing of the visit can be taken in at first: another member keeps her."""

    async def body() -> None:
        async with members(stores) as (one, other):
            large, sms = mms(ANNE, "e1", NOON_US, size_kb=200), Event("e2", ANNE, "sms_sent", NOON_US + 1)
            receipt = await one.ingest.publish("test", [large, sms])
            assert decided(receipt.verdicts) == [(ANNE, "care-plan")]
            visit = Visit(ANNE, "counter", "visit-1", "counter_visit")
            advised = await advise(other.live, other.ingest, other.ledger, other.thread, other.clock, visit)
            assert [each.campaign for each in advised.advices] == ["care-plan"]

    in_loop(body)


def test_what_was_deferred_is_read_though_events_wait_for_another_member(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reads the ledger alone: whoever leads does it every second, and all others would wait with it."""

    async def body() -> None:
        async with members(stores) as (one, other):
            await other.ingest.publish("test", [mms(BOB, "e0", NOON_US)])
            deaf = Gate(one.states, "heed", monkeypatch)
            deaf.shut()
            await deaf.waiting.wait()
            waiting = asyncio.create_task(other.ingest.publish("test", [mms(ANNE, "e2", NOON_US)]))
            await other.ingest.publish("test", [mms(BOB, "e1", NOON_US)])
            reading = asyncio.create_task(other.ingest.read_deferrals(NOON_US))
            read, _ = await asyncio.wait({reading}, timeout=10)
            assert not waiting.done(), "nobody has given her up"
            deaf.open()
            assert (await waiting).accepted == 1
            await reading
            assert read, "it waited until another member gave somebody up"

    in_loop(body)


def test_a_consent_that_was_acknowledged_is_known_to_all_though_more_is_told_of_its_subscriber(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes meanwhile is in the next group, and uses her state before the consent is durable."""

    async def body() -> None:
        async with members(stores) as (one, other):
            ingest, may_commit = one.ingest, threading.Semaphore(0)
            commit = ingest._commit

            def when_it_may(group: Group) -> Sequence[Verdict]:
                may_commit.acquire()
                return commit(group)

            monkeypatch.setattr(ingest, "_commit", when_it_may)
            record = ContextRecord(ANNE, NOON_US, ImportMode.UPSERT, {"note": "keep away"})
            saying = asyncio.create_task(ingest.import_context("test", [record]))
            await until(lambda: not ingest._idle, "it is being committed")
            telling = asyncio.create_task(ingest.publish("test", [mms(ANNE, "e1", NOON_US)]))
            await until(lambda: bool(ingest._observing.answers), "the next group is observed")
            may_commit.release()
            await saying
            seen = (await other.states.contexts([ANNE]))[ANNE].get("note")
            may_commit.release(100)
            assert (await telling).accepted == 1
            assert seen == "keep away"

    in_loop(body)
