"""What network-side collectors send: the hot path."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence

from opportune.v1 import event_service_pb2 as pb

from opportune_service.adapters.grpc.draining import Draining, read_all
from opportune_service.adapters.grpc.handlers import Context
from opportune_service.adapters.grpc.roles import admission
from opportune_service.adapters.grpc.use_cases import UseCases
from opportune_service.adapters.grpc.words import (
    ENCODINGS,
    check_length,
    chosen,
    rejection,
)
from opportune_service.app.advise import ADVICE_SOURCE
from opportune_service.app.errors import InvalidRequestError, OpportuneError
from opportune_service.app.ingest import Receipt
from opportune_service.core.events import Encoding, Event
from opportune_service.core.observe import CLOCK, DEFERRAL, PROMPT

MAX_BATCH_EVENTS = 1_000
WINDOW = 32
"""Batches of a stream that may be unacknowledged: enough to fill several commit groups."""


class EventService:
    """See the contract."""

    def __init__(self, app: UseCases, draining: Draining) -> None:
        self._ingest = app.ingest
        self._clock = app.clock
        self._draining = draining

    async def PublishEvents(  # noqa: N802
        self, request: pb.PublishEventsRequest, _: Context
    ) -> pb.PublishEventsResponse:
        source, encoding = _header(request)
        check_length("request_id", request.request_id, 64)
        events = _events(request.events, encoding, "events")
        admitted = admission.get()
        if admitted is not None:
            admitted.take_events(len(events), self._clock.now_us())
        receipt = await self._ingest.publish(source, events)
        return pb.PublishEventsResponse(
            accepted_count=receipt.accepted,
            duplicate_count=receipt.duplicates,
            rejections=[rejection(each) for each in receipt.rejections],
            ignored_attribute_count=receipt.ignored_attributes,
            revision=receipt.revision,
        )

    async def StreamEvents(  # noqa: N802
        self, requests: AsyncIterator[pb.StreamEventsRequest], _: Context
    ) -> AsyncIterator[pb.StreamEventsResponse]:
        hello = await anext(requests, None)
        if hello is None:
            return
        if hello.WhichOneof("message") != "hello":
            raise InvalidRequestError("hello", "the first message of a stream must be the hello")
        source, encoding = _header(hello.hello)
        welcome = pb.EventStreamWelcome(max_batches_in_flight=WINDOW, max_batch_size=MAX_BATCH_EVENTS)
        yield pb.StreamEventsResponse(welcome=welcome)

        pending: deque[tuple[int, asyncio.Future[Receipt]]] = deque()
        woken = asyncio.Event()
        # No more than the window is read ahead: the network then holds the client back.
        slots = asyncio.Semaphore(WINDOW - 1)
        last_number = 0
        admitted = admission.get()

        async def take(message: pb.StreamEventsRequest) -> None:
            nonlocal last_number
            batch = _batch(message, last_number + 1)
            last_number = batch.number
            events = _events(batch.events, encoding, "batch.events")
            pending.append((batch.number, await self._ingest.offer(source, events)))
            woken.set()
            await slots.acquire()
            if admitted is not None:
                # As with the window: not read on, the network holds the client back.
                hold_us = admitted.hold_back_us(len(events), self._clock.now_us())
                await asyncio.sleep(hold_us / 1_000_000)

        reader = asyncio.create_task(read_all(requests, take, self._draining))
        reader.add_done_callback(lambda _: woken.set())
        try:
            with self._draining.ends(reader):
                while True:
                    if pending:
                        results, fault = await _committed(pending)
                        if results:
                            yield _ack(results)
                        if fault is not None:
                            raise fault
                        for _result in results:
                            slots.release()
                    elif reader.done():
                        ended = reader.result()
                        if ended is not None:
                            raise ended
                        return
                    else:
                        woken.clear()
                        await woken.wait()
        finally:
            reader.cancel()
            for _number, receipt in pending:
                receipt.cancel()


def _header(said: pb.PublishEventsRequest | pb.EventStreamHello) -> tuple[str, Encoding]:
    check_length("source", said.source, 64, least=1)
    if said.source in (ADVICE_SOURCE, CLOCK, DEFERRAL, PROMPT):
        raise InvalidRequestError("source", f"{said.source!r} is the service's own; use another")
    encoding = chosen(ENCODINGS, said.attributes_encoding, "attributes_encoding")
    return said.source, encoding


def _batch(message: pb.StreamEventsRequest, number: int) -> pb.EventBatch:
    if message.WhichOneof("message") != "batch":
        raise InvalidRequestError("batch", "every message but the first must be a batch")
    if message.batch.number != number:
        raise InvalidRequestError(
            "batch.number", f"batch {number} must come next; open another stream and send it again"
        )
    return message.batch


def _events(sent: Sequence[pb.Event], encoding: Encoding, field: str) -> list[Event]:
    if len(sent) > MAX_BATCH_EVENTS:
        raise InvalidRequestError(field, f"a batch has at most {MAX_BATCH_EVENTS} events; send several")
    return [
        Event(
            event.id,
            event.subscriber_id,
            event.type,
            at.seconds * 1_000_000 + at.nanos // 1_000,
            event.attributes,
            event.cell_id,
            event.imei,
            encoding,
        )
        for event in sent
        for at in (event.occurred_at,)
    ]


async def _committed(
    pending: deque[tuple[int, asyncio.Future[Receipt]]],
) -> tuple[list[pb.EventBatchResult], OpportuneError | None]:
    """The results of the next batches, as soon as there are any, and what went wrong after them."""
    results: list[pb.EventBatchResult] = []
    while pending and (not results or pending[0][1].done()):
        number, receipt = pending[0]
        try:
            results.append(_result(number, await receipt))
        except OpportuneError as error:
            return results, error
        pending.popleft()
    return results, None


def _result(number: int, receipt: Receipt) -> pb.EventBatchResult:
    return pb.EventBatchResult(
        number=number,
        accepted_count=receipt.accepted,
        duplicate_count=receipt.duplicates,
        rejections=[rejection(each) for each in receipt.rejections],
        ignored_attribute_count=receipt.ignored_attributes,
        revision=receipt.revision,
    )


def _ack(results: list[pb.EventBatchResult]) -> pb.StreamEventsResponse:
    ack = pb.EventStreamAck(acked_number=results[-1].number, results=results, max_batches_in_flight=WINDOW)
    return pb.StreamEventsResponse(ack=ack)
