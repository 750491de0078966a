"""The collector for threads: events in, acknowledged and nothing lost."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self

import grpc
from opportune.v1 import event_service_pb2 as pb
from opportune.v1.event_service_pb2_grpc import EventServiceStub

from opportune_client.errors import BufferFullError, OpportuneError, UnsentError
from opportune_client.events import Event
from opportune_client.outbox import CollectorCounters, Outbox, Rejected
from opportune_client.threads import ThreadedStream
from opportune_client.words import Encoding

logger = logging.getLogger(__name__)


class EventCollector:
    """Sends events of one source, in order, over a stream that it opens again whenever it breaks.

    Guaranteed while the process lives: each event that `send` took is sent until the service has
    acknowledged it, which it does after a durable commit; an event sent twice counts once, because the
    service knows its id. Not guaranteed: an event that is not acknowledged when the process dies is
    gone unless its author sends it again, which is always safe. `flush` tells when that is not needed.

    Use it in a `with` statement; leaving it, also by an exception, flushes for up to `close_timeout`
    seconds and raises `UnsentError` with what is left, or notes it on the exception. `send` may be
    called from any number of threads. At most `capacity` events are held; `send` waits while there is
    no room, which slows the author down when the service is slow or away. A batch goes when it has
    `batch_size` events or its oldest has waited `linger_ms`. Events that the service rejects go to
    `on_rejection`, called in the collector's own thread, or are logged one by one, without ids, if
    there is none; an exception of it stops the collector.

    Errors that may pass (no connection, an overloaded, draining or faulty service, no active rulebase)
    are waited out with growing pauses and are visible as `trouble`. Others (no access, an unusable
    source) stop the collector: the next `send`, `flush` or leaving raises them.
    """

    def __init__(
        self,
        channel: grpc.Channel,
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
        self._stream: ThreadedStream[pb.StreamEventsRequest, pb.StreamEventsResponse, Rejected]
        self._stream = ThreadedStream(
            EventServiceStub(channel).StreamEvents,
            self._outbox,
            on_rejection or log_rejection,
            f"opportune-collector-{source}",
        )

    def __enter__(self) -> Self:
        self._stream.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        finished = self._stream.close(self._close_timeout)
        if error is None:
            self._stream.check()
            if not finished:
                raise unsent_error(self._outbox.unsent(), self.trouble)
        elif self._outbox.unacked:
            error.add_note(str(unsent_error(self._outbox.unsent(), self.trouble)))

    @property
    def counters(self) -> CollectorCounters:
        """A copy of the counters at this moment."""
        with self._stream.changed:
            return dataclasses.replace(self._outbox.counters)

    @property
    def trouble(self) -> OpportuneError | None:
        """Why there is no stream at the moment; None if there is one or it is being opened."""
        return self._stream.trouble

    def unsent(self) -> tuple[Event, ...]:
        """The events that are not acknowledged, in order."""
        with self._stream.changed:
            return self._outbox.unsent()

    def send(self, event: Event, timeout: float | None = None) -> None:
        """Takes an event on; waits for room for up to `timeout` seconds, or as long as it takes.

        ValueError, TypeError: the event cannot be encoded. BufferFullError: no room in time. In both
        cases the event was not taken. RuntimeError: outside the `with` statement.
        """
        with self._stream.changed:
            self._stream.check()
            if not self._stream.wait(lambda: self._outbox.has_room, timeout):
                raise BufferFullError("no room in time; the service is slow or away, see trouble")
            if self._outbox.put(event, time.monotonic_ns() // 1_000):
                self._stream.changed.notify_all()

    def send_many(self, events: Iterable[Event]) -> int:
        """Takes events on one after the other, waiting for room as needed; how many there were."""
        count = 0
        for event in events:
            self.send(event)
            count += 1
        return count

    def flush(self, timeout: float | None = None) -> bool:
        """Sends what waits and waits until all events taken so far are acknowledged and their
        rejections handled. False: not yet, and the time is over; nothing is lost by that."""
        with self._stream.changed:
            target = self._outbox.flush()
            self._stream.changed.notify_all()
            return self._stream.wait(lambda: self._flushed(target), timeout)

    def _flushed(self, target: int) -> bool:
        return self._outbox.counters.acked >= target and not self._stream.handling


def new_outbox(source: str, encoding: Encoding, capacity: int, batch_size: int, linger_ms: float) -> Outbox:
    """An outbox, or ValueError if a setting makes no sense."""
    if not source:
        raise ValueError("a collector needs a source: its own name, the same after each restart")
    if batch_size < 1 or capacity < batch_size or linger_ms < 0:
        raise ValueError("needed: 1 <= batch_size <= capacity, and linger_ms not negative")
    return Outbox(source, encoding, capacity, batch_size, int(linger_ms * 1_000))


def log_rejection(rejected: Rejected) -> None:
    """What happens to rejections that nobody asked for."""
    logger.warning("event of type %r rejected: %s", rejected.event.type, rejected.reason.name)


def unsent_error(unsent: tuple[Event, ...], trouble: OpportuneError | None) -> UnsentError:
    """The error for a collector that was closed too early."""
    why = f" ({trouble})" if trouble is not None else ""
    error = UnsentError(
        f"{len(unsent)} events were not acknowledged in time{why}; keep them and send them again", unsent
    )
    error.__cause__ = trouble
    return error
