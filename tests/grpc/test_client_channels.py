"""Channel clients over real streams, against the fake that users get for their own tests."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from opportune.v1 import delivery_service_pb2 as delivery_pb
from opportune_client import (
    AsyncChannelClient,
    ChannelClient,
    Failed,
    Message,
    OutcomeKind,
    Sent,
)
from opportune_client.testing import FakeOpportune
from support.fakes import NOON, NUMBER, PATIENCE, in_loop


def test_messages_are_sent_acked_and_reported(fake: FakeOpportune, channel: grpc.Channel) -> None:
    decisions = [fake.lease("sms", NUMBER, f"text {n}") for n in range(5)]
    fake.lease("mms", NUMBER, "not for this channel")
    contents: list[str] = []

    def handler(message: Message) -> Sent:
        contents.append(message.content)
        return Sent(f"id of {message.decision_id}")

    with ChannelClient(channel, "sms", handler, credit=2) as client:
        fake.wait_for(lambda: len(fake.acks) == 5)
        client.receipt(decisions[0], OutcomeKind.DELIVERED, occurred_at=NOON)
        client.receipt("unknown", OutcomeKind.DELIVERED)
        assert client.flush(PATIENCE)
    assert sorted(contents) == [f"text {n}" for n in range(5)]
    assert {ack.result for ack in fake.acks} == {delivery_pb.DELIVERY_RESULT_SENT}
    assert {ack.channel_message_id for ack in fake.acks} == {f"id of {decision}" for decision in decisions}
    assert [receipt.decision_id for receipt in fake.receipts] == decisions[:1]
    assert (client.counters.sent, client.counters.refused) == (5, 1)


def test_a_failure_that_may_pass_is_tried_again(fake: FakeOpportune, channel: grpc.Channel) -> None:
    fake.lease("sms", NUMBER, "text")

    def handler(message: Message) -> Sent | Failed:
        return Sent() if message.attempt == 3 else Failed("congested")

    with ChannelClient(channel, "sms", handler):
        fake.wait_for(lambda: len(fake.acks) == 3)
    assert [ack.detail for ack in fake.acks] == ["congested", "congested", ""]


def test_a_slow_handler_holds_no_more_than_its_credit(fake: FakeOpportune, channel: grpc.Channel) -> None:
    for _ in range(6):
        fake.lease("sms", NUMBER, "text")
    gate = threading.Event()
    both = threading.Barrier(3, timeout=PATIENCE)
    running: list[int] = []
    most: list[int] = []
    lock = threading.Lock()

    def handler(message: Message) -> Sent:
        with lock:
            running.append(1)
            most.append(len(running))
        if not gate.is_set():
            both.wait()
            gate.wait(PATIENCE)
        with lock:
            running.pop()
        return Sent()

    with ChannelClient(channel, "sms", handler, credit=2) as client:
        both.wait()
        assert client.counters.leases == 2
        gate.set()
        fake.wait_for(lambda: len(fake.acks) == 6)
    assert max(most) == 2


def test_nobody_knows_what_a_raising_handler_did(fake: FakeOpportune, channel: grpc.Channel) -> None:
    fake.lease("sms", NUMBER, "text")
    raised = threading.Event()

    def handler(message: Message) -> Sent:
        if message.attempt == 1:
            raised.set()
            raise OSError(f"connection lost while sending to {message.subscriber_id}")
        return Sent()

    with ChannelClient(channel, "sms", handler, credit=1) as client:
        assert raised.wait(PATIENCE)
        assert fake.acks == []
        fake.expire_leases()
        fake.wait_for(lambda: len(fake.acks) == 1)
    assert (client.counters.unknown, client.counters.sent) == (1, 1)


def test_the_log_of_a_raising_handler_quotes_no_number(
    fake: FakeOpportune, channel: grpc.Channel, caplog: pytest.LogCaptureFixture
) -> None:
    fake.lease("sms", NUMBER, "text")
    raised = threading.Event()

    def handler(message: Message) -> Sent:
        raised.set()
        raise OSError(message.subscriber_id)

    with ChannelClient(channel, "sms", handler):
        assert raised.wait(PATIENCE)
    assert "OSError" in caplog.text
    assert NUMBER not in caplog.text


def test_a_message_that_expired_is_not_sent(fake: FakeOpportune, channel: grpc.Channel) -> None:
    fake.lease("sms", NUMBER, "text", expires_at=datetime.now(UTC) - timedelta(seconds=1))
    contents: list[str] = []

    def handler(message: Message) -> Sent:
        contents.append(message.content)
        return Sent()

    with ChannelClient(channel, "sms", handler):
        fake.wait_for(lambda: len(fake.acks) == 1)
    assert contents == []
    assert fake.acks[0].result == delivery_pb.DELIVERY_RESULT_RETRY, "the offer may last longer"


def test_a_broken_stream_sends_nothing_twice(fake: FakeOpportune, channel: grpc.Channel) -> None:
    fake.lease("sms", NUMBER, "text")
    begun, go = threading.Event(), threading.Event()
    contents: list[str] = []

    def handler(message: Message) -> Sent:
        contents.append(message.content)
        begun.set()
        assert go.wait(PATIENCE)
        return Sent()

    with ChannelClient(channel, "sms", handler, credit=2) as client:
        assert begun.wait(PATIENCE)
        fake.break_channels()
        fake.expire_leases()
        fake.wait_for(lambda: fake.calls.count("Attach") == 2)
        fake.wait_for(lambda: [lease.attempt for lease in fake.leases] == [1, 2])
        go.set()
        fake.wait_for(lambda: len(fake.acks) == 1)
    assert contents == ["text"]
    assert client.counters.stale == 1  # the ack of the first lease


def test_async_channel_client(fake: FakeOpportune) -> None:
    decision = fake.lease("sms", NUMBER, "text")

    async def body() -> None:
        sent = asyncio.Event()

        async def handler(message: Message) -> Sent:
            if message.attempt == 1:
                fake.break_channels()
                fake.expire_leases()
                raise OSError("who knows")
            sent.set()
            return Sent()

        async with (
            fake.connect_async() as channel,
            AsyncChannelClient(channel, "sms", handler, credit=1) as client,
        ):
            await sent.wait()
            client.receipt(decision, OutcomeKind.DELIVERED)
            assert await client.flush()
            assert client.counters.unknown == 1

    in_loop(body)
    assert len(fake.acks) == len(fake.receipts) == 1
