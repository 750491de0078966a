"""Whatever happens to its streams, a collector loses no event and counts none twice.

The collector's pure state is led against a model of the service: batches are committed one after the
other, acknowledgements come late or never, streams break at any point, the window moves.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

from hypothesis import given, settings
from hypothesis import strategies as st
from opportune.v1 import event_service_pb2 as pb
from opportune.v1 import types_pb2
from opportune_client import Encoding, Event
from opportune_client.outbox import Outbox

NOON = datetime(2014, 6, 1, 12, tzinfo=UTC)
CAPACITY = 12


@dataclass
class Service:
    """Commits batches and remembers what it has seen. `bad` are the ids that it rejects."""

    bad: set[str]
    committed: list[str] = field(default_factory=list)
    arrivals: list[pb.EventBatch] = field(default_factory=list)
    results: list[pb.EventBatchResult] = field(default_factory=list)
    acked: int = 0

    def restart_stream(self) -> None:
        self.arrivals, self.results, self.acked = [], [], 0

    def commit(self) -> None:
        if len(self.results) == len(self.arrivals):
            return
        batch = self.arrivals[len(self.results)]
        result = pb.EventBatchResult(number=batch.number)
        for index, event in enumerate(batch.events):
            if event.id in self.bad:
                result.rejections.add(index=index, reason=types_pb2.REJECTION_REASON_TOO_LATE)
            elif event.id in self.committed:
                result.duplicate_count += 1
            else:
                self.committed.append(event.id)
                result.accepted_count += 1
        self.results.append(result)

    def acknowledge(self, window: int) -> pb.StreamEventsResponse:
        fresh = self.results[self.acked :]
        self.acked = len(self.results)
        return pb.StreamEventsResponse(
            ack=pb.EventStreamAck(acked_number=self.acked, results=fresh, max_batches_in_flight=window)
        )


STEPS = st.lists(
    st.sampled_from(("put", "put", "put", "take", "take", "commit", "commit", "ack", "break", "wait")),
    max_size=80,
)


@settings(max_examples=200, deadline=None)
@given(
    steps=STEPS,
    batch_size=st.integers(1, 4),
    windows=st.lists(st.integers(1, 4), min_size=1, max_size=5),
    bad=st.sets(st.integers(0, 30).map(lambda number: f"e{number}"), max_size=5),
)
def test_nothing_is_lost_and_nothing_counted_twice(
    steps: list[str], batch_size: int, windows: list[int], bad: set[str]
) -> None:
    outbox = Outbox("s", Encoding.JSON, CAPACITY, batch_size, linger_us=10)
    service = Service(bad)
    put: list[str] = []
    rejected: list[str] = []
    now_us = 0
    turn = 0

    def window() -> int:
        return windows[turn % len(windows)]

    def connect() -> None:
        outbox.open()
        service.restart_stream()
        greeting = pb.EventStreamWelcome(max_batches_in_flight=window(), max_batch_size=3)
        outbox.receive(pb.StreamEventsResponse(welcome=greeting), now_us)

    def take() -> bool:
        request = outbox.take(now_us)
        if request is None:
            return False
        assert 1 <= len(request.batch.events) <= min(batch_size, 3)
        assert request.batch.number == len(service.arrivals) + 1
        service.arrivals.append(request.batch)
        return True

    def acknowledge() -> None:
        rejected.extend(item.event.id for item in outbox.receive(service.acknowledge(window()), now_us))

    connect()
    for turn, step in enumerate(steps):  # noqa: B007 - `window` reads it
        if step == "put" and outbox.has_room:
            put.append(f"e{len(put)}")
            outbox.put(Event(put[-1], "8613900000001", "power_on", NOON), now_us)
        elif step == "take":
            take()
        elif step == "commit":
            service.commit()
        elif step == "ack":
            acknowledge()
        elif step == "break":
            connect()
        elif step == "wait":
            now_us = outbox.wake_us() or now_us
        assert outbox.unacked <= CAPACITY
        assert outbox.counters.acked + outbox.unacked == outbox.counters.queued == len(put)
        assert [event.id for event in outbox.unsent()] == put[outbox.counters.acked :]

    outbox.finish()
    while not outbox.settled:
        while take():
            pass
        for _ in service.arrivals:
            service.commit()
        acknowledge()

    good = [event_id for event_id in put if event_id not in bad]
    assert service.committed == good  # each once, in order
    assert rejected == [event_id for event_id in put if event_id in bad]
    counters = outbox.counters
    assert counters.acked == counters.accepted + counters.duplicates + counters.rejected == len(put)
    assert counters.sent >= len(put)
