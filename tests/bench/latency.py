"""Latency during ingest: `PublishEvents` with one event a call, and `Advise`.

First it is measured how many events a second the service takes in batches. Then a stream sends half as
many, evenly, and meanwhile calls are made at random instants (Poisson), whether or not earlier ones have
been answered. A call's latency counts from the instant at which it was due, so that waiting behind other
calls counts. Every call comes to a decision. Checked in the same run: each call's event is accepted, each
visit is advised, and all events of the stream are accepted. How far the service was behind with the stream
at most is in the table: where that is more than an instant, the load was more than it takes.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import traffic
from harness import Row, console
from ingest import BATCH, EVENTS, ROUNDS, batches, embedded_service, message, stream
from opportune.v1 import advice_service_pb2 as advice_pb
from opportune.v1 import advice_service_pb2_grpc as advice_stubs
from opportune.v1 import event_service_pb2 as pb
from opportune.v1 import event_service_pb2_grpc as stubs
from rich.table import Table

__all__ = ["Call", "at_random", "quantile", "rows", "streaming"]

SECONDS = 20
PUBLISHED_A_SECOND = 50
ADVISED_A_SECOND = 200


def rows(only: str) -> list[Row]:
    """`publish/...` and `advise/...`."""
    del only
    with tempfile.TemporaryDirectory() as folder, embedded_service(folder) as service:
        taken = [stream(service.target, batches(n, f"round{n}"))[0] for n in range(ROUNDS)]
        half = EVENTS / statistics.median(taken) / 2
        published, published_late = _during_ingest(service.target, half, "publish", _publish)
        advised, advised_late = _during_ingest(service.target, half, "advise", _advise)
    table = Table(title=f"latency in ms, while {half:,.0f} events/s come in batches of {BATCH}")
    for heading in ("call", "a second", "p50", "p90", "p99", "most", "stream late"):
        table.add_column(heading, justify="right")
    for name, rate, found, late in (
        ("PublishEvents, one event", PUBLISHED_A_SECOND, published, published_late),
        ("Advise", ADVISED_A_SECOND, advised, advised_late),
    ):
        quantiles = [f"{quantile(found, q):.1f}" for q in (0.5, 0.9, 0.99, 1)]
        table.add_row(name, str(rate), *quantiles, f"{late * 1000:.0f}")
    console.print(table)
    return [
        Row("publish/unary_p50_ms", quantile(published, 0.5), "ms"),
        Row("publish/unary_p99_ms", quantile(published, 0.99), "ms"),
        Row("advise/p50_ms", quantile(advised, 0.5), "ms"),
        Row("advise/p99_ms", quantile(advised, 0.99), "ms"),
    ]


def quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def _during_ingest(
    target: str, rate: float, name: str, measure: Callable[[grpc.Channel], list[float]]
) -> tuple[list[float], float]:
    """What `measure` finds while so many events a second come in batches; and by how many seconds the
    service was behind with these at most."""
    messages = batches(ROUNDS, name, int(rate * SECONDS * 1.5))
    ending = threading.Event()
    late: list[float] = []
    with grpc.insecure_channel(target) as channel, streaming(channel, messages, rate, ending, late):
        try:
            found = measure(channel)
        finally:
            ending.set()
    return found, late[0]


@contextmanager
def streaming(
    channel: grpc.Channel,
    messages: Iterable[bytes],
    rate: float,
    ending: threading.Event,
    late: list[float],
) -> Iterator[None]:
    """Send the batches evenly until `ending`; `late` gets by how many seconds the service was behind at
    most. Raises `RuntimeError` if there were too few batches, or if it did not take all of them."""
    sent = accepted = acked = most_waiting = 0
    enough = False

    def paced() -> Iterator[bytes]:
        nonlocal sent, most_waiting, enough
        yield pb.StreamEventsRequest(hello=pb.EventStreamHello(source="load")).SerializeToString()
        began = time.perf_counter()
        for data in messages:
            yield data
            sent += 1
            most_waiting = max(most_waiting, sent - acked)
            if enough := ending.wait(max(0.0, began + sent * BATCH / rate - time.perf_counter())):
                return

    call: Any = channel.stream_stream(
        "/opportune.v1.EventService/StreamEvents",
        request_serializer=lambda data: data,
        response_deserializer=pb.StreamEventsResponse.FromString,
    )

    def listen() -> None:
        nonlocal accepted, acked
        for answer in call(paced()):
            acked = answer.ack.acked_number
            accepted += sum(result.accepted_count for result in answer.ack.results)

    listening = threading.Thread(target=listen)
    listening.start()
    try:
        yield
    finally:
        ending.set()
        listening.join()
    late.append(most_waiting * BATCH / rate)
    if not enough or accepted != sent * BATCH:
        raise RuntimeError(f"{sent} batches were sent, with {accepted} events accepted")


def _publish(channel: grpc.Channel) -> list[float]:
    """One event a call; every event has a candidate."""
    now_us = time.time_ns() // 1_000
    requests = [
        pb.PublishEventsRequest(
            source="bench-unary", events=[message(traffic.matching_event(n, now_us, "unary"))]
        )
        for n in range(PUBLISHED_A_SECOND * SECONDS)
    ]
    publish = stubs.EventServiceStub(channel).PublishEvents
    calls = at_random(publish, requests, PUBLISHED_A_SECOND)
    if any(call.answer.accepted_count != 1 for call in calls):
        raise RuntimeError("not every published event was accepted")
    return sorted(call.ms for call in calls)


def _advise(channel: grpc.Channel) -> list[float]:
    """Visits of different customers, whom no other campaign wants; each is offered something."""
    requests = [
        advice_pb.AdviseRequest(
            request_id=f"visit-{n}", subscriber_id=traffic.young(n), touch_point=traffic.TOUCH_POINT
        )
        for n in range(ADVISED_A_SECOND * SECONDS)
    ]
    advise = advice_stubs.AdviceServiceStub(channel).Advise
    calls = at_random(advise, requests, ADVISED_A_SECOND)
    if any(len(call.answer.advices) != 1 for call in calls):
        raise RuntimeError("not every visit was advised")
    return sorted(call.ms for call in calls)


@dataclass(slots=True)
class Call:
    """A call: when it was due and when it was answered, by the monotonic clock, and the answer."""

    began: float
    ended: float = 0.0
    answer: Any = None

    @property
    def ms(self) -> float:
        return (self.ended - self.began) * 1_000


def at_random(call: Any, requests: Sequence[Any], rate: float) -> list[Call]:
    """Call at random instants, so many a second."""
    rng = random.Random(1)
    made: list[tuple[Call, Any]] = []
    at = time.perf_counter()
    for request in requests:
        at += rng.expovariate(rate)
        time.sleep(max(0.0, at - time.perf_counter()))
        each, future = Call(at), call.future(request)
        future.add_done_callback(lambda _, each=each: setattr(each, "ended", time.perf_counter()))
        made.append((each, future))
    for each, future in made:
        each.answer = future.result()
    while not all(each.ended for each, _ in made):  # the last callback may still be running
        time.sleep(0.001)
    return [each for each, _ in made]
