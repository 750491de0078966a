"""The clients against the real service: a restart in mid-stream, and the way from an event to a message."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest
from opportune_client import (
    AsyncChannelClient,
    AsyncCrmClient,
    AsyncEventCollector,
    CrmClient,
    Encoding,
    Event,
    EventCollector,
    ImportMode,
    Message,
    NotFoundError,
    OperatorClient,
    OutcomeKind,
    Reason,
    Rejected,
    RejectionReason,
    RequestError,
    Sent,
    SubscriberRecord,
    connect,
    connect_async,
)
from opportune_service.clocks import ManualClock
from support.processes import write_rulebase
from support.rulebases import NOON_US
from support.server import in_loop, running_service
from support.small_rulebase import small_rulebase, subscribers

NOON = datetime.fromtimestamp(NOON_US // 1_000_000, UTC)
SOMEBODY = subscribers(1)[0]


def mms(number: int, subscriber_id: str = SOMEBODY) -> Event:
    return Event(f"e{number}", subscriber_id, "mms_sent", NOON, {"size_kb": 80})


async def known(channel: object) -> None:
    crm = AsyncCrmClient(channel)  # type: ignore[arg-type]
    imported = await crm.import_subscribers(
        [SubscriberRecord(SOMEBODY, {"age": 30})], NOON, ImportMode.UPSERT
    )
    assert imported.imported_count == 1


@pytest.fixture(autouse=True)
def messages_are_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """The service's clock stands at noon of a day of its own; the channel client's must agree with it."""
    monkeypatch.setattr("opportune_client.async_channel.expired", lambda message: None)


@in_loop
async def test_a_collector_goes_on_after_a_restart(tmp_path: Path) -> None:
    async with running_service(tmp_path) as service:
        address = service.address
        channel = connect_async(address)
        collector = AsyncEventCollector(channel, "smsc", batch_size=7)
        await collector.__aenter__()
        await collector.send_many(mms(n) for n in range(50))
        assert await collector.flush()
        await collector.send_many(mms(n) for n in range(50, 80))  # some are under way when it stops
    await collector.send_many(mms(n) for n in range(80, 100))
    async with running_service(tmp_path, {}, listen=address):
        assert await collector.flush()
        counters = collector.counters
        await collector.__aexit__(None, None, None)
        assert counters.acked == counters.accepted + counters.duplicates == 100
        assert counters.streams >= 2
        found = await AsyncCrmClient(channel).get_subscriber(SOMEBODY)
    await channel.close()
    values = {metric.name.removeprefix("metric."): metric.value_json for metric in found.metrics}
    assert values["mms_30d"] == "100"


@in_loop
async def test_from_an_event_to_a_message_and_its_receipt() -> None:
    messages: list[Message] = []
    sent = asyncio.Event()

    async def handler(message: Message) -> Sent:
        messages.append(message)
        sent.set()
        return Sent("smsc-1")

    async with running_service() as service, connect_async(service.address) as channel:
        await known(channel)
        async with AsyncChannelClient(channel, "sms", handler) as client:
            async with AsyncEventCollector(channel, "smsc", encoding=Encoding.MSGPACK) as collector:
                await collector.send_many(mms(n) for n in range(3))
            await sent.wait()
            client.receipt(messages[0].decision_id, OutcomeKind.DELIVERED)
            client.receipt("nobody's", OutcomeKind.DELIVERED)
            assert await client.flush()
    assert [(message.subscriber_id, message.campaign) for message in messages] == [(SOMEBODY, "mms-bundle")]
    assert (client.counters.sent, client.counters.reported, client.counters.refused) == (1, 2, 1)


@in_loop
async def test_a_handler_that_raises_gets_the_message_again() -> None:
    clock = ManualClock(NOON_US)
    attempts: list[int] = []
    sent = asyncio.Event()

    async def handler(message: Message) -> Sent:
        attempts.append(message.attempt)
        if message.attempt == 1:
            clock.value_us += 1_000_000  # its lease is over
            raise OSError("who knows")
        sent.set()
        return Sent()

    async with (
        running_service(clock=clock, lease_seconds=0.5) as service,
        connect_async(service.address) as channel,
    ):
        await known(channel)
        async with AsyncChannelClient(channel, "sms", handler, credit=1) as client:
            async with AsyncEventCollector(channel, "smsc") as collector:
                await collector.send_many(mms(n) for n in range(3))
            await sent.wait()
    assert attempts == [1, 2]
    assert (client.counters.unknown, client.counters.sent) == (1, 1)


@in_loop
async def test_rejections_come_back_one_by_one() -> None:
    rejected: list[Rejected] = []
    bad = Event("bad", SOMEBODY, "teleported", NOON)
    async with (
        running_service() as service,
        connect_async(service.address) as channel,
        AsyncEventCollector(channel, "smsc", on_rejection=rejected.append) as collector,
    ):
        await collector.send_many([mms(1), bad, mms(2)])
        assert await collector.flush()
    assert [(item.event.id, item.reason) for item in rejected] == [("bad", RejectionReason.UNKNOWN_TYPE)]
    assert collector.counters.accepted == 2


@in_loop
async def test_synchronous_clients(tmp_path: Path) -> None:
    def work(address: str) -> None:
        with connect(address) as channel:
            operator = OperatorClient(channel)
            assert operator.check(directory).valid
            revision = operator.upload(directory).rulebase.revision
            current = operator.get().rulebase.revision
            operator.activate(revision, expected_current=current)
            assert operator.get().rulebase.revision == revision

            crm = CrmClient(channel)
            crm.import_subscribers([SubscriberRecord(SOMEBODY, {"age": 30})], NOON, ImportMode.UPSERT)
            with EventCollector(channel, "smsc") as collector:
                collector.send_many(mms(n) for n in range(3))
            assert collector.counters.accepted == 3
            assert crm.advise(SOMEBODY, "counter", request_id="visit-1").advices == []
            (decision,) = operator.list_decisions(reasons=[Reason.DECIDED])
            assert operator.explain(decision.decision_id).event_id == "e2"
            assert operator.explain_event(SOMEBODY, "smsc", "e2").decisions[0] is not None
            with pytest.raises(NotFoundError):
                operator.explain("unknown")
            with pytest.raises(RequestError) as caught:
                crm.advise(SOMEBODY, "moon", request_id="visit-2")
            assert caught.value.violations

    directory = write_rulebase(tmp_path, small_rulebase(text="Another text"))
    async with running_service() as service:
        await asyncio.to_thread(work, service.address)
