"""Collectors over real streams, against the fake that users get for their own tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import pytest
from opportune_client import (
    AccessError,
    AsyncEventCollector,
    BufferFullError,
    Encoding,
    Event,
    EventCollector,
    Rejected,
    RejectionReason,
    UnsentError,
)
from opportune_client.testing import FakeOpportune
from support.fakes import NUMBER, PATIENCE, events, ids, in_loop


@pytest.mark.parametrize("encoding", list(Encoding))
def test_events_arrive_once_and_in_order(
    fake: FakeOpportune, channel: grpc.Channel, encoding: Encoding
) -> None:
    sent = events(95)
    with EventCollector(channel, "msc-7", encoding=encoding, batch_size=10) as collector:
        assert collector.send_many(sent) == 95
        assert collector.flush(PATIENCE)
        assert collector.unsent() == ()
    assert ids(fake) == [event.id for event in sent]
    assert [hello.source for hello in fake.hellos] == ["msc-7"]
    assert collector.counters.accepted == collector.counters.acked == 95


def test_broken_streams_lose_and_double_nothing(fake: FakeOpportune, channel: grpc.Channel) -> None:
    for batches in (1, 3, 2):
        fake.break_stream(batches)
    fake.break_stream(1, acknowledge=True)
    with EventCollector(channel, "msc-7", batch_size=10) as collector:
        collector.send_many(events(100))
    assert ids(fake) == [event.id for event in events(100)]
    counters = collector.counters
    assert counters.streams == len(fake.hellos) == 5
    assert counters.accepted + counters.duplicates == counters.acked == 100
    assert counters.duplicates >= 30  # three batches at least were committed and not acknowledged
    assert sum(fake.batch_sizes) >= 130


def test_a_service_that_goes_away_is_waited_for(fake: FakeOpportune, channel: grpc.Channel) -> None:
    with EventCollector(channel, "msc-7", batch_size=10) as collector:
        collector.send_many(events(20))
        assert collector.flush(PATIENCE)
        fake.stop()
        collector.send_many(events(20, start=20))
        assert not collector.flush(0)
        fake.start()
        assert collector.flush(PATIENCE)
        assert collector.trouble is None
    assert ids(fake) == [event.id for event in events(40)]


def test_rejections_go_to_the_callback_and_the_rest_counts(
    fake: FakeOpportune, channel: grpc.Channel
) -> None:
    fake.reject("e3", RejectionReason.TOO_LATE, "too late")
    rejected: list[Rejected] = []
    with EventCollector(channel, "msc-7", on_rejection=rejected.append) as collector:
        collector.send_many(events(5))
        collector.flush(PATIENCE)
        assert rejected == [Rejected(events(5)[3], RejectionReason.TOO_LATE, "too late")]
    assert collector.counters.accepted == 4


def test_a_failing_callback_is_seen(fake: FakeOpportune, channel: grpc.Channel) -> None:
    def on_rejection(rejected: Rejected) -> None:
        raise LookupError(rejected.event.id)

    fake.reject("e0", RejectionReason.TOO_LATE)
    collector = EventCollector(channel, "msc-7", on_rejection=on_rejection)
    with pytest.raises(LookupError, match="e0"), collector:
        collector.send_many(events(1))


def test_a_full_buffer_pushes_back(fake: FakeOpportune, channel: grpc.Channel) -> None:
    fake.hold_acks()
    with EventCollector(channel, "msc-7", batch_size=5, capacity=10) as collector:
        collector.send_many(events(10))
        extra = events(1, start=10)[0]
        with pytest.raises(BufferFullError):
            collector.send(extra, timeout=0)
        fake.hold_acks(False)
        collector.send(extra, timeout=PATIENCE)
    assert ids(fake) == [event.id for event in events(11)]


def test_the_window_bounds_what_is_under_way(fake: FakeOpportune, channel: grpc.Channel) -> None:
    fake.hold_acks()
    with EventCollector(channel, "msc-7", batch_size=1) as collector:
        collector.send_many(events(50))
        fake.wait_for(lambda: len(fake.batch_sizes) == 1)  # it holds the first one back
        assert collector.counters.sent <= 4
        fake.hold_acks(False)
    assert len(fake.events) == 50


def test_what_was_not_acknowledged_is_handed_back(fake: FakeOpportune, channel: grpc.Channel) -> None:
    fake.hold_acks()
    with (
        pytest.raises(UnsentError) as caught,
        EventCollector(channel, "msc-7", batch_size=2, close_timeout=0) as collector,
    ):
        collector.send_many(events(3))
    assert caught.value.unsent == tuple(events(3))
    assert NUMBER not in str(caught.value)


def test_a_collector_left_by_an_exception_still_delivers(
    fake: FakeOpportune, channel: grpc.Channel
) -> None:
    def interrupted() -> None:
        with EventCollector(channel, "msc-7") as collector:
            collector.send_many(events(3))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(fake.events) == 3


def test_no_access_stops_the_collector_and_says_so(fake: FakeOpportune, channel: grpc.Channel) -> None:
    fake.break_stream(1)
    fake.hold_acks()
    collector = EventCollector(channel, "msc-7")

    def refused() -> None:
        with collector:
            collector.send_many(events(1))
            fake.wait_for(lambda: len(fake.events) == 1)
            fake.fail("StreamEvents", "PERMISSION_DENIED", reason="ROLE_MISSING")  # the next stream
            fake.hold_acks(False)

    with pytest.raises(AccessError) as caught:
        refused()
    assert caught.value.reason == "ROLE_MISSING"
    assert isinstance(caught.value.__cause__, grpc.RpcError)
    assert collector.unsent() == tuple(events(1))


def test_no_rulebase_yet_is_waited_out(fake: FakeOpportune, channel: grpc.Channel) -> None:
    fake.fail("StreamEvents", "FAILED_PRECONDITION", reason="NO_RULEBASE", times=2)
    with EventCollector(channel, "msc-7") as collector:
        collector.send_many(events(1))
    assert collector.counters.accepted == 1
    assert fake.calls == ["StreamEvents"] * 3


def test_a_collector_belongs_into_a_with_statement(channel: grpc.Channel) -> None:
    with pytest.raises(RuntimeError, match="with statement"):
        EventCollector(channel, "msc-7").send(events(1)[0])


def test_async_collector(fake: FakeOpportune) -> None:
    rejected: list[Rejected] = []

    async def source() -> AsyncIterator[Event]:
        for event in events(40, start=60):
            yield event

    async def body() -> None:
        async with (
            fake.connect_async() as channel,
            AsyncEventCollector(
                channel, "msc-7", batch_size=10, capacity=20, on_rejection=rejected.append
            ) as collector,
        ):
            await collector.send_many(events(60))
            await collector.send_many(source())
            assert await collector.flush()
            assert collector.counters.acked == 100
            # How many acknowledgements a breaking stream still delivers is the network's affair.
            assert collector.counters.duplicates >= 10

    fake.break_stream(2)
    fake.break_stream(1)
    fake.break_stream(0, acknowledge=True)
    fake.reject("e99", RejectionReason.BAD_ATTRIBUTES)
    in_loop(body)
    assert ids(fake) == [event.id for event in events(99)]
    assert [item.event.id for item in rejected] == ["e99"]


def test_async_collector_hands_back_what_was_not_acknowledged(fake: FakeOpportune) -> None:
    async def body() -> None:
        async with fake.connect_async() as channel:
            with pytest.raises(UnsentError) as caught:
                async with AsyncEventCollector(channel, "msc-7", close_timeout=0) as collector:
                    await collector.send_many(events(3))
            assert caught.value.unsent == tuple(events(3))

    fake.hold_acks()
    in_loop(body)
