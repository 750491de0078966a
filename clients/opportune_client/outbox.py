"""What a collector has taken on and the service has not acknowledged yet. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from opportune.v1 import event_service_pb2 as pb

from opportune_client.conversation import ContractError
from opportune_client.events import ON_THE_WIRE, Event, encode_event
from opportune_client.words import Encoding, RejectionReason

MAX_BATCH_BYTES: Final = 2 << 20
"""Half of what a gRPC server takes in one message unless told otherwise."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """An event that the service did not take in, and why. Sending it again would not help."""

    event: Event
    reason: RejectionReason
    message: str


@dataclass(slots=True)
class CollectorCounters:
    """What became of the events so far.

    `queued` == `acked` + what is still on its way. `acked` == `accepted` + `duplicates` + `rejected`,
    as far as the service said. `duplicates` were known to it already, those included that were sent
    again after a broken stream. `sent` counts repetitions too. `streams` were opened so far.
    """

    queued: int = 0
    sent: int = 0
    acked: int = 0
    accepted: int = 0
    duplicates: int = 0
    rejected: int = 0
    ignored_attributes: int = 0
    streams: int = 0


@dataclass(frozen=True, slots=True)
class _Item:
    event: Event
    message: pb.Event
    size: int
    queued_us: int


@dataclass(slots=True)
class Outbox:
    """Events in order: waiting, then in numbered batches on a stream, then acknowledged.

    Every event that was put in leaves exactly once, by an acknowledgement, and is counted once. After
    a broken stream those that were not acknowledged go out again, before all others, in their old
    order. A batch goes when it is full, when its oldest event has waited `linger_us`, or when `flush`
    or `finish` asks for it.
    """

    source: str
    encoding: Encoding
    capacity: int
    batch_size: int
    linger_us: int
    counters: CollectorCounters = field(default_factory=CollectorCounters)
    _waiting: deque[_Item] = field(default_factory=deque)
    _waiting_bytes: int = 0
    _flying: deque[tuple[_Item, ...]] = field(default_factory=deque)
    _flying_count: int = 0
    _acked_number: int = 0  # of this stream
    _window: int = 0  # 0: no welcome yet
    _limit: int = 0
    _hurry: int = 0  # events queued before this count go at once
    _closing: bool = False

    @property
    def unacked(self) -> int:
        """Events that are not acknowledged."""
        return len(self._waiting) + self._flying_count

    @property
    def has_room(self) -> bool:
        """Whether one more event may be put in."""
        return self.unacked < self.capacity

    @property
    def progress(self) -> int:
        """Events acknowledged so far."""
        return self.counters.acked

    @property
    def may_half_close(self) -> bool:
        """Whether everything was sent and no more will come."""
        return self._closing and not self._waiting

    @property
    def settled(self) -> bool:
        """Whether everything was acknowledged and no more will come."""
        return self._closing and not self.unacked

    def put(self, event: Event, now_us: int) -> bool:
        """Takes an event on; whether that changes when the next batch is due.

        Errors as for `encode_event`, and RuntimeError after `finish`; then nothing changed.
        """
        if self._closing:
            raise RuntimeError("the collector is closed; send inside its with statement")
        message = encode_event(event, self.encoding)
        size = message.ByteSize() + 8  # tag and length inside the batch
        self._waiting.append(_Item(event, message, size, now_us))
        self._waiting_bytes += size
        self.counters.queued += 1
        full = self._waiting_bytes >= MAX_BATCH_BYTES > self._waiting_bytes - size
        return full or len(self._waiting) in {1, self._limit}

    def unsent(self) -> tuple[Event, ...]:
        """The events that are not acknowledged, in order."""
        flying = [item.event for batch in self._flying for item in batch]
        return (*flying, *(item.event for item in self._waiting))

    def flush(self) -> int:
        """Sends all that waits without lingering. Done when `counters.acked` reaches the result."""
        self._hurry = self.counters.queued
        return self._hurry

    def finish(self) -> None:
        """No event will be put in any more."""
        self.flush()
        self._closing = True

    def open(self) -> pb.StreamEventsRequest:
        """A new stream begins: numbers start anew, and what was not acknowledged waits again."""
        for batch in reversed(self._flying):
            self._waiting.extendleft(reversed(batch))
            self._waiting_bytes += sum(item.size for item in batch)
        self._flying.clear()
        self._flying_count = 0
        self._acked_number = 0
        self._window = 0
        self.counters.streams += 1
        hello = pb.EventStreamHello(source=self.source, attributes_encoding=ON_THE_WIRE[self.encoding])
        return pb.StreamEventsRequest(hello=hello)

    def take(self, now_us: int) -> pb.StreamEventsRequest | None:
        """The next batch, if the window is open and it is due."""
        if not self._waiting or len(self._flying) >= self._window or not self._due(now_us):
            return None
        batch: list[_Item] = []
        size = 0
        while self._waiting and len(batch) < self._limit:
            if batch and size + self._waiting[0].size > MAX_BATCH_BYTES:
                break
            item = self._waiting.popleft()
            size += item.size
            batch.append(item)
        self._waiting_bytes -= size
        self._flying.append(tuple(batch))
        self._flying_count += len(batch)
        self.counters.sent += len(batch)
        number = self._acked_number + len(self._flying)
        events = [item.message for item in batch]
        return pb.StreamEventsRequest(batch=pb.EventBatch(number=number, events=events))

    def wake_us(self) -> int | None:
        """When the oldest waiting event has lingered enough, if the window is open."""
        if not self._waiting or len(self._flying) >= self._window:
            return None
        return self._waiting[0].queued_us + self.linger_us

    def receive(self, response: pb.StreamEventsResponse, now_us: int) -> Sequence[Rejected]:
        """Takes a welcome or an acknowledgement in; the events that were rejected."""
        kind = response.WhichOneof("message")
        if kind == "welcome":
            self._window = max(1, response.welcome.max_batches_in_flight)
            self._limit = min(self.batch_size, max(1, response.welcome.max_batch_size))
            return ()
        if kind == "ack" and self._window:
            return self._acknowledge(response.ack)
        raise ContractError("the service sent an answer that is neither welcome nor acknowledgement")

    def _due(self, now_us: int) -> bool:
        oldest = self._waiting[0]
        acked_and_flying = self.counters.queued - len(self._waiting)
        return (
            len(self._waiting) >= self._limit
            or self._waiting_bytes >= MAX_BATCH_BYTES
            or acked_and_flying < self._hurry
            or now_us >= oldest.queued_us + self.linger_us
        )

    def _acknowledge(self, ack: pb.EventStreamAck) -> list[Rejected]:
        if ack.acked_number > self._acked_number + len(self._flying):
            raise ContractError("the service acknowledged a batch that was not sent")
        results = {result.number: result for result in ack.results}
        rejected: list[Rejected] = []
        while self._acked_number < ack.acked_number:
            batch = self._flying.popleft()
            self._flying_count -= len(batch)
            self._acked_number += 1
            self.counters.acked += len(batch)
            if (result := results.get(self._acked_number)) is not None:
                rejected += self._settle(batch, result)
        self._window = max(1, ack.max_batches_in_flight)
        return rejected

    def _settle(self, batch: tuple[_Item, ...], result: pb.EventBatchResult) -> list[Rejected]:
        self.counters.accepted += result.accepted_count
        self.counters.duplicates += result.duplicate_count
        self.counters.rejected += len(result.rejections)
        self.counters.ignored_attributes += result.ignored_attribute_count
        return [
            Rejected(batch[rejection.index].event, RejectionReason(rejection.reason), rejection.message)
            for rejection in result.rejections
            if 0 <= rejection.index < len(batch)
        ]
