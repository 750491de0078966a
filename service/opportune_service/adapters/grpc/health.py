"""Health v1: what each service can do at this moment.

The server as a whole (``""``) and its services say whether they are ready. `LIVENESS` says only that the
process works: whoever restarts processes asks for that one, for a store that is gone is not mended by it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health, health_pb2
from opportune.v1 import (
    advice_service_pb2,
    delivery_service_pb2,
    event_service_pb2,
    insight_service_pb2,
    rulebase_service_pb2,
    subscriber_service_pb2,
)

from opportune_service.adapters.grpc.use_cases import UseCases
from opportune_service.app.errors import InvalidRequestError

_EVERY_SECONDS = 0.25
_MAX_WATCH_BYTES = 300


class HealthServicer(Protocol):
    """What this adapter uses of grpcio-health-checking's servicer."""

    async def set(
        self, service: str, status: health_pb2.HealthCheckResponse.ServingStatus.ValueType
    ) -> None:
        """Change a service's status and tell its watchers."""
        ...


NEED_RULEBASE = tuple(
    module.DESCRIPTOR.services_by_name[name].full_name
    for module, name in (
        (event_service_pb2, "EventService"),
        (subscriber_service_pb2, "SubscriberService"),
        (advice_service_pb2, "AdviceService"),
        (delivery_service_pb2, "DeliveryService"),
    )
)
"""Services that can do nothing as long as no rulebase is active."""

NEED_STORE = (
    "",
    rulebase_service_pb2.DESCRIPTOR.services_by_name["RulebaseService"].full_name,
    insight_service_pb2.DESCRIPTOR.services_by_name["InsightService"].full_name,
)
"""The server as a whole, and the services that bring a rulebase in: they need only the store."""


LIVENESS = "liveness"
"""Serving as long as this answers at all, also while the server drains."""


def health_servicer() -> HealthServicer:
    servicer = health.aio.HealthServicer()  # type: ignore[attr-defined]  # not in its stubs
    # The library has only a stub of it, which would be a fault of ours.
    servicer.List = None
    watch = servicer.Watch

    async def watch_named(
        request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext[Message, Message]
    ) -> None:
        # It is kept as long as the stream is open, and anybody may open one.
        if request.ByteSize() > _MAX_WATCH_BYTES:
            raise InvalidRequestError("service", "service is no name of a service that is here")
        await watch(request, context)

    servicer.Watch = watch_named
    made: HealthServicer = servicer
    return made


async def show_health(app: UseCases, servicer: HealthServicer) -> None:
    """Set what is so now."""
    await servicer.set(LIVENESS, health_pb2.HealthCheckResponse.SERVING)
    works = app.ingest.healthy.is_set()
    await _set(servicer, NEED_STORE, works)
    await _set(servicer, NEED_RULEBASE, works and bool(app.live.id))


async def show_leaving(servicer: HealthServicer) -> None:
    """Nothing is ready any more; nobody must follow the health after that."""
    await _set(servicer, NEED_STORE + NEED_RULEBASE, False)


async def follow_health(app: UseCases, servicer: HealthServicer) -> None:
    """Keep it so until cancelled."""
    while True:
        await show_health(app, servicer)
        await asyncio.sleep(_EVERY_SECONDS)


async def _set(servicer: HealthServicer, names: Sequence[str], serving: bool) -> None:
    status = (
        health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
    )
    for name in names:
        await servicer.set(name, status)
