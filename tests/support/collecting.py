"""A collector as a careful programmer would write one, and what became of what it sent.

It keeps a window of batches in flight, counts as delivered what was acknowledged and nothing else, and
after any failure goes on from there.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opportune.v1 import event_service_pb2 as events_pb
from opportune.v1 import event_service_pb2_grpc as events_stub
from opportune.v1 import insight_service_pb2 as insight_pb
from opportune.v1 import insight_service_pb2_grpc as insight_stub
from opportune.v1 import subscriber_service_pb2 as context_pb
from opportune.v1 import subscriber_service_pb2_grpc as context_stub
from opportune.v1 import types_pb2
from opportune_service.core.events import Event

PATIENCE_SECONDS = 60
"""How long an answer may take, and a service that was broken to work again, before a test fails."""

PAUSE_SECONDS = 0.05
"""Before a collector tries again."""

_GONE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
_OPTIONS = [
    ("grpc.use_local_subchannel_pool", 1),  # a channel of its own does not wait as another one does
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
]

Batches = Sequence[Sequence[Event]]


@contextmanager
def channel_to(target: str) -> Iterator[grpc.Channel]:
    """A channel that connects again soon."""
    with grpc.insecure_channel(target, options=_OPTIONS) as channel:
        yield channel


def message(event: Event) -> events_pb.Event:
    at = Timestamp(
        seconds=event.occurred_at_us // 1_000_000, nanos=event.occurred_at_us % 1_000_000 * 1_000
    )
    return events_pb.Event(
        id=event.id,
        subscriber_id=event.subscriber_id,
        type=event.type,
        occurred_at=at,
        attributes=event.attributes,
    )


def publish(
    target: str, source: str, batches: Batches, on_ack: Callable[[int], None] = lambda _: None
) -> tuple[int, int]:
    """Stream the batches, a window of them in flight; how many were acknowledged before the service went
    away, and how many events in them were known already. `on_ack` is told how many are acknowledged."""
    acked = known = 0
    outgoing: SimpleQueue[events_pb.StreamEventsRequest | None] = SimpleQueue()
    outgoing.put(events_pb.StreamEventsRequest(hello=events_pb.EventStreamHello(source=source)))
    with channel_to(target) as channel:
        stub = events_stub.EventServiceStub(channel)
        answers = stub.StreamEvents(iter(outgoing.get, None), timeout=PATIENCE_SECONDS)
        try:
            window = next(answers).welcome.max_batches_in_flight
            sent = 0
            while acked < len(batches):
                while sent < min(acked + window, len(batches)):
                    events = [message(event) for event in batches[sent]]
                    sent += 1
                    batch = events_pb.EventBatch(number=sent, events=events)
                    outgoing.put(events_pb.StreamEventsRequest(batch=batch))
                ack = next(answers).ack
                for result in ack.results:
                    assert not result.rejections
                    known += result.duplicate_count
                    assert result.accepted_count + result.duplicate_count == len(batches[result.number - 1])
                acked = ack.acked_number
                on_ack(acked)
        except grpc.RpcError as error:
            if error.code() not in _GONE:
                raise
        finally:
            outgoing.put(None)
    return acked, known


def deliver(
    choose: Callable[[], str],
    source: str,
    batches: Batches,
    on_ack: Callable[[int], None] = lambda _: None,
    repeat: Callable[[], int] = lambda: 0,
    patience_seconds: float = PATIENCE_SECONDS,
) -> None:
    """Publish all batches, however often the service goes away. `choose`: the target of each try; `repeat`:
    how many batches that were acknowledged before are sent again with the next. ``{}`` in `source` stands
    for the number of the try. Fails if so long nothing new is acknowledged."""
    done, tries, pause = 0, 0, threading.Event()
    latest = time.monotonic() + patience_seconds

    def after(begin: int) -> Callable[[int], None]:
        return lambda acked: on_ack(begin + acked)

    while done < len(batches):
        begin = max(0, done - repeat())
        taken, _ = publish(choose(), source.format(tries), batches[begin:], after(begin))
        acked = begin + taken
        tries += 1
        if acked > done:
            latest = time.monotonic() + patience_seconds
        elif time.monotonic() > latest:
            raise AssertionError(f"{source}: for {patience_seconds:g} s nothing was acknowledged")
        done = max(done, acked)
        if done < len(batches):
            pause.wait(PAUSE_SECONDS)


def know(target: str, people: Sequence[str]) -> None:
    """Import an empty context, so that the subscribers are known."""

    def requests() -> list[context_pb.ImportSubscribersRequest]:
        header = context_pb.ImportHeader(mode=context_pb.IMPORT_MODE_PATCH)
        header.as_of.GetCurrentTime()
        records = [context_pb.SubscriberRecord(subscriber_id=each, attributes=b"{}") for each in people]
        return [
            context_pb.ImportSubscribersRequest(header=header),
            context_pb.ImportSubscribersRequest(batch=context_pb.SubscriberBatch(subscribers=records)),
        ]

    with channel_to(target) as channel:
        stub = context_stub.SubscriberServiceStub(channel)
        done = stub.ImportSubscribers(iter(requests()), timeout=PATIENCE_SECONDS)
    assert done.imported_count == len(people)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a service made of all that it was sent."""

    counted: dict[str, int]
    """MMS of 30 days by subscriber, of those who are known."""
    verdicts: Counter[str]
    """How often each event was decided for each campaign: source/event/campaign."""
    decided: list[tuple[str, str]]
    """(subscriber, event) of every offer made, sorted."""


def counts(target: str, people: Sequence[str]) -> dict[str, int]:
    """MMS of 30 days by subscriber, of those who are known."""
    found = {}
    with channel_to(target) as channel:
        context = context_stub.SubscriberServiceStub(channel)
        for each in people:
            asked = context_pb.GetSubscriberRequest(subscriber_id=each)
            answer = insist(context.GetSubscriber, asked)
            if answer is not None:
                metrics = {metric.name: metric for metric in answer.subscriber.metrics}
                found[each] = int(json.loads(metrics["mms_30d"].value_json))
    return found


def settled_counts(target: str, people: Sequence[str], real: dict[str, int]) -> dict[str, int]:
    """What is counted as soon as that is `real`, or after a while whatever it is: live state that was lost
    may still be being rebuilt after the last event was acknowledged."""
    latest, pause = time.monotonic() + PATIENCE_SECONDS, threading.Event()
    while True:
        found = counts(target, people)
        if found == real or time.monotonic() > latest:
            return found
        pause.wait(PAUSE_SECONDS)


def outcome(target: str, people: Sequence[str], real: dict[str, int] | None = None) -> Outcome:
    """What came of everything, at once or when `real` is counted (`settled_counts`)."""
    counted = counts(target, people) if real is None else settled_counts(target, people, real)
    decisions: list[types_pb2.Decision] = []
    with channel_to(target) as channel:
        insight = insight_stub.InsightServiceStub(channel)
        token = ""
        while True:
            page = insist(
                insight.ListDecisions, insight_pb.ListDecisionsRequest(page_size=500, page_token=token)
            )
            decisions += page.decisions
            token = page.next_page_token
            if not token:
                break
    return Outcome(
        counted,
        Counter(f"{each.source}/{each.event_id}/{each.campaign}" for each in decisions),
        sorted((d.subscriber_id, d.event_id) for d in decisions if d.reason == types_pb2.REASON_DECIDED),
    )


def await_ready(target: str) -> None:
    """Until the service says that it takes events."""
    with channel_to(target) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        asked = health_pb2.HealthCheckRequest(service="opportune.v1.EventService")
        for answer in health.Watch(asked, timeout=PATIENCE_SECONDS, wait_for_ready=True):
            if answer.status == health_pb2.HealthCheckResponse.SERVING:
                return


def insist(method: Callable[..., Any], request: object) -> Any:
    """The answer, also if the service is not there at first; None if there is no such thing."""
    latest, pause = time.monotonic() + PATIENCE_SECONDS, threading.Event()
    while True:
        try:
            return method(request, timeout=2 * PATIENCE_SECONDS)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return None
            if error.code() not in _GONE or time.monotonic() > latest:
                raise
        pause.wait(PAUSE_SECONDS)


def truth(batches: Batches) -> dict[str, int]:
    """MMS sent by each subscriber, counted here."""
    sent = {(e.subscriber_id, e.id) for batch in batches for e in batch if e.type == "mms_sent"}
    return dict(Counter(subscriber for subscriber, _ in sent))
