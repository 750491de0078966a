"""PublishEvents and StreamEvents over a real port."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest
from opportune.v1 import event_service_pb2 as pb
from opportune.v1 import insight_service_pb2 as insight
from opportune.v1 import rulebase_service_pb2 as rulebases
from opportune.v1 import types_pb2 as types
from opportune_service.adapters.grpc.event_service import MAX_BATCH_EVENTS, WINDOW
from opportune_service.app.errors import StoreUnavailableError
from support.server import Service, in_loop, refusal, running_service
from support.wire import SOMEBODY, batch, event, hello, publish


async def open_stream(service: Service) -> Any:
    stream = service.events.StreamEvents()
    await stream.write(hello())
    welcome = (await stream.read()).welcome
    assert welcome.max_batches_in_flight == WINDOW
    assert welcome.max_batch_size == MAX_BATCH_EVENTS
    return stream


async def failure(stream: Any) -> tuple[int, Any]:
    """The last number that was acknowledged before the stream failed, and how it failed."""
    acked = 0
    try:
        while (answer := await stream.read()) is not grpc.aio.EOF:
            acked = answer.ack.acked_number
    except grpc.aio.AioRpcError as error:
        return acked, refusal(error)
    raise AssertionError("the stream did not fail")


@in_loop
async def test_a_batch_is_answered_with_what_became_of_each_event() -> None:
    async with running_service() as service:
        sent = [
            event("1"),
            event("2", type="nonsense"),
            event("3", subscriber_id="+8613800000001"),
            event("4", attributes={"size_kb": "large"}),
            event("5", attributes={"size_kb": 1, "novel": 2}),
        ]
        answer = await service.events.PublishEvents(publish(*sent))
        assert answer.accepted_count == 2
        assert answer.ignored_attribute_count == 1
        assert answer.revision == service.app.live.id
        assert [(each.index, each.reason) for each in answer.rejections] == [
            (1, types.REJECTION_REASON_UNKNOWN_TYPE),
            (2, types.REJECTION_REASON_BAD_SUBSCRIBER_ID),
            (3, types.REJECTION_REASON_BAD_ATTRIBUTES),
        ]
        assert "8613800000001" not in str(answer.rejections)
        again = await service.events.PublishEvents(publish(*sent))
        assert (again.accepted_count, again.duplicate_count, len(again.rejections)) == (0, 2, 3)


@in_loop
async def test_attributes_may_be_messagepack() -> None:
    async with running_service() as service:
        packed = event("1", attributes=msgspec.msgpack.encode({"size_kb": 80}))
        encoding = types.ATTRIBUTES_ENCODING_MSGPACK
        answer = await service.events.PublishEvents(publish(packed, attributes_encoding=encoding))
        assert answer.accepted_count == 1
        assert len((await service.events.PublishEvents(publish(packed))).rejections) == 1


@in_loop
async def test_an_event_without_a_time_is_too_late() -> None:
    async with running_service() as service:
        timeless = event("1")
        timeless.ClearField("occurred_at")
        answer = await service.events.PublishEvents(publish(timeless))
        assert [each.reason for each in answer.rejections] == [types.REJECTION_REASON_TOO_LATE]


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (publish(source=""), "source"),
        (publish(source="x" * 65), "source"),
        (publish(source="advise"), "source"),
        (publish(source="clock"), "source"),
        (publish(attributes_encoding=99), "attributes_encoding"),
        (publish(request_id="x" * 65), "request_id"),
        (publish(*[event("1")] * (MAX_BATCH_EVENTS + 1)), "events"),
    ],
)
def test_a_batch_that_can_never_be_taken_in_names_the_field(
    request_: pb.PublishEventsRequest, field: str
) -> None:
    @in_loop
    async def body() -> None:
        async with running_service() as service:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await service.events.PublishEvents(request_)
            said = refusal(caught.value)
            assert (said.code, said.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
            assert said.domain == "opportune"
            assert said.fields == [field]

    body()


@in_loop
async def test_without_a_rulebase_the_answer_says_so() -> None:
    async with running_service(files={}) as service:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await service.events.PublishEvents(publish(event("1")))
        said = refusal(caught.value)
        assert (said.code, said.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "NO_RULEBASE")
        stream = await open_stream(service)
        await stream.write(batch(1, event("1")))
        acked, said = await failure(stream)
        assert (acked, said.reason) == (0, "NO_RULEBASE")


@in_loop
async def test_acks_are_cumulative_and_in_order() -> None:
    async with running_service() as service:
        stream = await open_stream(service)
        batches = 3 * WINDOW
        results: list[pb.EventBatchResult] = []

        async def send() -> None:
            for number in range(1, batches + 1):
                await stream.write(batch(number, event(f"a{number}"), event(f"b{number}", type="odd")))
            await stream.done_writing()

        sending = asyncio.create_task(send())
        while (answer := await stream.read()) is not grpc.aio.EOF:
            results += answer.ack.results
            assert answer.ack.acked_number == results[-1].number == len(results)
        await sending
        assert [each.number for each in results] == list(range(1, batches + 1))
        assert {(each.accepted_count, len(each.rejections)) for each in results} == {(1, 1)}
        assert await stream.code() is grpc.StatusCode.OK


@in_loop
async def test_an_ack_means_that_a_restart_knows_the_event(tmp_path: Path) -> None:
    async with running_service(tmp_path) as service:
        stream = await open_stream(service)
        await stream.write(batch(1, event("1"), event("2")))
        assert (await stream.read()).ack.results[0].accepted_count == 2
        # Everything that was acknowledged is in the log already, with no help from an orderly end.
        assert await service.app.thread.run(service.app.ledger.last_position) > 0
    async with running_service(tmp_path) as service:
        answer = await service.events.PublishEvents(publish(event("1"), event("2"), event("3")))
        assert (answer.accepted_count, answer.duplicate_count) == (1, 2)


@in_loop
async def test_no_more_than_the_window_is_read_before_an_ack(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_service() as service:
        stream = await open_stream(service)
        taken = 0
        full, go_on = asyncio.Event(), asyncio.Event()
        offer = service.app.ingest.offer

        async def count(*args: Any) -> Any:
            nonlocal taken
            taken += 1
            if taken == WINDOW:
                full.set()
            future = asyncio.get_running_loop().create_future()
            real = await offer(*args)

            async def hold() -> None:
                await go_on.wait()
                future.set_result(await real)

            held.append(asyncio.create_task(hold()))
            return future

        held: list[asyncio.Task[None]] = []
        monkeypatch.setattr(type(service.app.ingest), "offer", lambda _self, *args: count(*args))
        for number in range(1, 2 * WINDOW + 1):
            await stream.write(batch(number, event(str(number))))
        await full.wait()
        # A call on another stream of the same server comes back: the loop has had its turns.
        await service.rulebases.ListRulebases(rulebases.ListRulebasesRequest())
        assert taken == WINDOW
        go_on.set()
        await stream.done_writing()
        acked = 0
        while (answer := await stream.read()) is not grpc.aio.EOF:
            acked = answer.ack.acked_number
        assert acked == taken == 2 * WINDOW


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (batch(3, event("3")), "batch.number"),
        (batch(1, event("3")), "batch.number"),
        (hello(), "batch"),
        (pb.StreamEventsRequest(), "batch"),
        (batch(2, *[event("3")] * (MAX_BATCH_EVENTS + 1)), "batch.events"),
    ],
)
def test_a_bad_message_ends_the_stream_after_the_acks_of_what_came_before(
    bad: pb.StreamEventsRequest, field: str
) -> None:
    @in_loop
    async def body() -> None:
        async with running_service() as service:
            stream = await open_stream(service)
            await stream.write(batch(1, event("1")))
            await stream.write(bad)
            acked, said = await failure(stream)
            assert acked == 1
            assert said.code is grpc.StatusCode.INVALID_ARGUMENT
            assert said.fields == [field]

    body()


@in_loop
async def test_a_stream_begins_with_the_hello() -> None:
    async with running_service() as service:
        stream = service.events.StreamEvents()
        await stream.write(batch(1, event("1")))
        _, said = await failure(stream)
        assert said.fields == ["hello"]
        empty = service.events.StreamEvents()
        await empty.done_writing()
        assert await empty.read() is grpc.aio.EOF
        assert await empty.code() is grpc.StatusCode.OK


@in_loop
async def test_a_failing_store_ends_the_stream_unacknowledged_and_recovers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with running_service() as service:
        stream = await open_stream(service)
        await stream.write(batch(1, event("1")))
        assert (await stream.read()).ack.acked_number == 1

        def broken() -> Any:
            raise StoreUnavailableError("the ledger /secret/place is gone")

        with monkeypatch.context() as patch:
            patch.setattr(service.app.ledger, "transaction", broken)
            await stream.write(batch(2, event("2")))
            acked, said = await failure(stream)
            assert (acked, said.code) == (0, grpc.StatusCode.UNAVAILABLE)
            assert (said.reason, said.retry_after_ms) == ("STORE_UNAVAILABLE", 500)
            assert "secret" not in said.message
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await service.events.PublishEvents(publish(event("3")))
            assert refusal(caught.value).reason == "STORE_UNAVAILABLE"
        await service.app.ingest.healthy.wait()
        answer = await service.events.PublishEvents(publish(event("1"), event("2")))
        assert (answer.accepted_count, answer.duplicate_count) == (1, 1)


@in_loop
async def test_a_caller_that_goes_away_does_no_harm() -> None:
    async with running_service(files={}) as service:
        # The batch is refused when nobody waits for the answer any more.
        gone = asyncio.create_task(service.app.ingest.publish("smsc", []))
        await asyncio.sleep(0)  # it has queued its batch
        gone.cancel()
        stream = await open_stream(service)
        await stream.write(batch(1, event("1")))
        stream.cancel()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await service.events.PublishEvents(publish(event("1")))
        assert refusal(caught.value).reason == "NO_RULEBASE"


@in_loop
async def test_an_unknown_subscriber_is_decided_with_unknown_context() -> None:
    async with running_service() as service:
        answer = await service.events.PublishEvents(publish(*[event(str(n)) for n in range(3)]))
        assert answer.accepted_count == 3
        key = insight.EventKey(subscriber_id=SOMEBODY, source="smsc", event_id="2")
        found = await service.insight.ExplainDecision(insight.ExplainDecisionRequest(event=key))
        assert [each.reason for each in found.verdict.decisions] == [types.REASON_NO_CONTEXT]
