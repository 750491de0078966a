"""A store goes away under a running service and comes back: what callers and load balancers see of it."""

from __future__ import annotations

import resource
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from queue import Empty, SimpleQueue

import grpc
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opportune.v1 import event_service_pb2 as events_pb
from opportune.v1.event_service_pb2_grpc import EventServiceStub
from opportune_service.core.events import Event
from support.collecting import channel_to, message
from support.installations import Installation
from support.processes import Served
from support.proxy import Way

PATIENCE_SECONDS = 40
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@dataclass(frozen=True, slots=True)
class Outage:
    """How long things took, in seconds."""

    refused: float
    """The longest call while the store was gone."""
    not_serving: float
    """From the strike until health said so."""
    recovered: float
    """From the end of the strike until an event was acknowledged."""
    serving: float
    """And until health said so."""


def strikes(place: Installation) -> list[str]:
    """The ways to take the stores from a service."""
    if not place.servers:
        return ["disk full"]
    return [
        f"{store} {what}" for store in place.servers for what in ("refused", "frozen", "killed", "hangs")
    ]


@contextmanager
def struck(place: Installation, service: Served, strike: str) -> Iterator[None]:
    """While this block runs, the store is gone."""
    if strike == "disk full":
        pid = service.process.pid
        soft, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, hard))  # not one byte into any file
        yield
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))
        return
    store, _, what = strike.rpartition(" ")
    wire, server = place.wires[store], place.servers[store]
    match what:
        case "refused":
            wire.refuse()
            yield
            wire.heal()
        case "frozen":
            wire.freeze()
            yield
            wire.heal()
        case "halved":
            wire.halve(Way.TO_CLIENT)
            yield
            wire.heal()
        case "killed":
            server.kill()
            yield
            server.start()
        case "hangs":
            server.freeze()
            yield
            server.thaw()
        case _:
            raise ValueError(strike)


def publish_one(stub: EventServiceStub, source: str, event: Event) -> None:
    """Raises `grpc.RpcError` if it is not acknowledged."""
    request = events_pb.PublishEventsRequest(source=source, events=[message(event)])
    answer = stub.PublishEvents(request, timeout=PATIENCE_SECONDS)
    assert answer.accepted_count + answer.duplicate_count == 1, answer


def go_through(
    service: Served,
    source: str,
    events: Iterator[Event],
    strike: Callable[[], None],
    end: Callable[[], None],
) -> Outage:
    """Publish events one by one before, while and after the store is gone. Every event that was taken from
    `events` is acknowledged in the end. Fails if one is acknowledged between `strike` and `end`, if a
    refusal is not the one that callers are promised, or if health does not say what is so."""
    with channel_to(service.target) as channel:
        stub, health = EventServiceStub(channel), health_pb2_grpc.HealthStub(channel)
        with _watching(health) as statuses:
            _wait_for(statuses, SERVING)
            publish_one(stub, source, next(events))
            strike()
            struck_at = time.monotonic()
            refused: list[Event] = []
            longest, not_serving = 0.0, None
            while not_serving is None:
                refused.append(next(events))
                began = time.monotonic()
                _refused(stub, source, refused[-1])
                longest = max(longest, time.monotonic() - began)
                not_serving = _seen(statuses, NOT_SERVING)
                assert time.monotonic() - struck_at < PATIENCE_SECONDS, "health said nothing of it"
            alive = health.Check(
                health_pb2.HealthCheckRequest(service="liveness"), timeout=PATIENCE_SECONDS
            )
            assert alive.status == SERVING, "whoever restarts it would not mend the store"
            end()
            ended_at = time.monotonic()
            _until_taken(stub, source, refused[0])
            recovered_at = time.monotonic()
            for event in refused[1:]:
                _until_taken(stub, source, event)
            serving_at = _wait_for(statuses, SERVING)
    return Outage(
        refused=longest,
        not_serving=not_serving - struck_at,
        recovered=recovered_at - ended_at,
        serving=serving_at - ended_at,
    )


def _refused(stub: EventServiceStub, source: str, event: Event) -> None:
    """Publish it, and see that it is refused as callers are promised."""
    error = _failure(stub, source, event)
    assert error is not None, "an event was acknowledged though the store was gone"
    assert error.code() is grpc.StatusCode.UNAVAILABLE, error
    packed = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
    status = status_pb2.Status.FromString(packed)
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    assert any(detail.Unpack(info) for detail in status.details), error
    assert info.reason == "STORE_UNAVAILABLE", info
    assert any(detail.Unpack(retry) for detail in status.details), error
    assert retry.retry_delay.ToMilliseconds() > 0


def _failure(stub: EventServiceStub, source: str, event: Event) -> grpc.RpcError | None:
    try:
        publish_one(stub, source, event)
    except grpc.RpcError as error:
        return error
    return None


def _until_taken(stub: EventServiceStub, source: str, event: Event) -> None:
    until, pause = time.monotonic() + PATIENCE_SECONDS, threading.Event()
    while True:
        try:
            return publish_one(stub, source, event)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE or time.monotonic() > until:
                raise
        pause.wait(0.02)


Statuses = SimpleQueue[tuple[float, int]]


@contextmanager
def _watching(health: health_pb2_grpc.HealthStub) -> Iterator[Statuses]:
    """When the server as a whole said what."""
    seen: Statuses = SimpleQueue()
    call = health.Watch(health_pb2.HealthCheckRequest())

    def follow() -> None:
        try:
            for answer in call:
                seen.put((time.monotonic(), answer.status))
        except grpc.RpcError:
            pass

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        yield seen
    finally:
        call.cancel()
        thread.join(PATIENCE_SECONDS)


def _wait_for(statuses: Statuses, status: int) -> float:
    """When it was said."""
    until = time.monotonic() + PATIENCE_SECONDS
    while True:
        at, said = statuses.get(timeout=max(0.0, until - time.monotonic()))
        if said == status:
            return at


def _seen(statuses: Statuses, status: int) -> float | None:
    """When it was said, or None if it was not yet."""
    try:
        while True:
            at, said = statuses.get_nowait()
            if said == status:
                return at
    except Empty:
        return None
