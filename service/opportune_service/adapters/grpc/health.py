"""Health v1: what each service can do at this moment."""

from __future__ import annotations

import asyncio
from typing import Protocol

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

_EVERY_SECONDS = 0.25


class HealthServicer(Protocol):
    """What this adapter uses of grpcio-health-checking's servicer."""

    async def set(
        self, service: str, status: health_pb2.HealthCheckResponse.ServingStatus.ValueType
    ) -> None:
        """Change a service's status and tell its watchers."""
        ...

    async def enter_graceful_shutdown(self) -> None:
        """NOT_SERVING for every service, for good."""
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


def health_servicer() -> HealthServicer:
    servicer: HealthServicer = health.aio.HealthServicer()  # type: ignore[attr-defined]  # not in its stubs
    return servicer


async def show_health(app: UseCases, servicer: HealthServicer) -> None:
    """Set what is so now."""
    works = app.ingest.healthy.is_set()
    for names, serving in ((NEED_STORE, works), (NEED_RULEBASE, works and bool(app.live.id))):
        status = (
            health_pb2.HealthCheckResponse.SERVING
            if serving
            else health_pb2.HealthCheckResponse.NOT_SERVING
        )
        for name in names:
            await servicer.set(name, status)


async def follow_health(app: UseCases, servicer: HealthServicer) -> None:
    """Keep it so until cancelled."""
    while True:
        await show_health(app, servicer)
        await asyncio.sleep(_EVERY_SECONDS)
