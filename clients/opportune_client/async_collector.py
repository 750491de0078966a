# ruff: noqa: ASYNC109 - timeouts are given as in the synchronous clients
"""The collector for programs that live in an event loop."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import AsyncIterable, Callable, Iterable
from types import TracebackType
from typing import Self

from grpc import aio
from opportune.v1 import event_service_pb2 as pb
from opportune.v1.event_service_pb2_grpc import EventServiceStub

from opportune_client.collector import log_rejection, new_outbox, unsent_error
from opportune_client.errors import BufferFullError, OpportuneError
from opportune_client.events import Event
from opportune_client.outbox import CollectorCounters, Rejected
from opportune_client.tasks import AsyncStream
from opportune_client.words import Encoding


class AsyncEventCollector:
    """As `EventCollector`, with the same settings and guarantees, for one event loop.

    Use it in an `async with` statement. `on_rejection` is a plain function and must not block.
    """

    def __init__(
        self,
        channel: aio.Channel,
        source: str,
        *,
        encoding: Encoding = Encoding.JSON,
        batch_size: int = 500,
        linger_ms: float = 50,
        capacity: int = 10_000,
        close_timeout: float | None = 30,
        on_rejection: Callable[[Rejected], None] | None = None,
    ) -> None:
        self._outbox = new_outbox(source, encoding, capacity, batch_size, linger_ms)
        self._close_timeout = close_timeout
        self._stream: AsyncStream[pb.StreamEventsRequest, pb.StreamEventsResponse, Rejected]
        self._stream = AsyncStream(
            EventServiceStub(channel).StreamEvents,
            self._outbox,
            on_rejection or log_rejection,
            f"opportune-collector-{source}",
        )

    async def __aenter__(self) -> Self:
        self._stream.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        finished = await self._stream.close(self._close_timeout)
        if error is None:
            self._stream.check()
            if not finished:
                raise unsent_error(self._outbox.unsent(), self.trouble)
        elif self._outbox.unacked:
            error.add_note(str(unsent_error(self._outbox.unsent(), self.trouble)))

    @property
    def counters(self) -> CollectorCounters:
        """A copy of the counters at this moment."""
        return dataclasses.replace(self._outbox.counters)

    @property
    def trouble(self) -> OpportuneError | None:
        """Why there is no stream at the moment; None if there is one or it is being opened."""
        return self._stream.trouble

    def unsent(self) -> tuple[Event, ...]:
        """The events that are not acknowledged, in order."""
        return self._outbox.unsent()

    async def send(self, event: Event, timeout: float | None = None) -> None:
        """As `EventCollector.send`."""
        self._stream.check()
        if not await self._stream.wait(lambda: self._outbox.has_room, timeout):
            raise BufferFullError("no room in time; the service is slow or away, see trouble")
        if self._outbox.put(event, time.monotonic_ns() // 1_000):
            self._stream.notify()

    async def send_many(self, events: Iterable[Event] | AsyncIterable[Event]) -> int:
        """As `EventCollector.send_many`."""
        count = 0
        if isinstance(events, AsyncIterable):
            async for event in events:
                await self.send(event)
                count += 1
        else:
            for event in events:
                await self.send(event)
                count += 1
        return count

    async def flush(self, timeout: float | None = None) -> bool:
        """As `EventCollector.flush`."""
        target = self._outbox.flush()
        self._stream.notify()
        return await self._stream.wait(lambda: self._outbox.counters.acked >= target, timeout)
