"""The gRPC server: where it listens, what it serves, how it ends."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2
from opportune.v1 import (
    advice_service_pb2,
    delivery_service_pb2,
    event_service_pb2,
    insight_service_pb2,
    rulebase_service_pb2,
    subscriber_service_pb2,
)

from opportune_service.adapters.grpc.advice_service import AdviceService
from opportune_service.adapters.grpc.certificates import BadCertificateError, Certificates, Credentials
from opportune_service.adapters.grpc.delivery_service import DeliveryService
from opportune_service.adapters.grpc.draining import Draining
from opportune_service.adapters.grpc.event_service import EventService
from opportune_service.adapters.grpc.gate import Gate
from opportune_service.adapters.grpc.handlers import service_handlers
from opportune_service.adapters.grpc.health import (
    HealthServicer,
    follow_health,
    health_servicer,
    show_health,
    show_leaving,
)
from opportune_service.adapters.grpc.insight_service import InsightService
from opportune_service.adapters.grpc.roles import ALL_ROLES, roles_of
from opportune_service.adapters.grpc.rulebase_service import RulebaseService
from opportune_service.adapters.grpc.subscriber_service import SubscriberService
from opportune_service.adapters.grpc.use_cases import ServerSettings, UseCases
from opportune_service.app.calls import Calls

log = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 20 << 20
"""A batch of 1,000 events with the largest attributes, or the largest archive, and what is around it."""

_OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # A client that is gone is noticed within 40 s; clients may ask as often as every 10 s.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Connections are renewed, so that load spreads over new servers; streams get time to end.
    ("grpc.max_connection_age_ms", 30 * 60_000),
    ("grpc.max_connection_age_grace_ms", 5 * 60_000),
]

SERVICES: dict[str, ServiceDescriptor] = {
    name: module.DESCRIPTOR.services_by_name[name]
    for name, module in (
        ("EventService", event_service_pb2),
        ("SubscriberService", subscriber_service_pb2),
        ("AdviceService", advice_service_pb2),
        ("DeliveryService", delivery_service_pb2),
        ("RulebaseService", rulebase_service_pb2),
        ("InsightService", insight_service_pb2),
    )
}


def _told(record: logging.LogRecord) -> bool:
    """gRPC logs a trace for each caller who is gone before the answer is: nothing that anybody should look
    at, and a way to fill the disk."""
    return not (record.exc_info and isinstance(record.exc_info[1], grpc.aio.InternalError))


class CannotServeError(Exception):
    """The server cannot start as it is set up; the message says what to change."""


@dataclass(slots=True)
class Server:
    """A server that is bound to its port. `port` is the real one when the settings asked for 0. `calls`:
    what it was asked. `gate`: who is let in. `leaving`: it does not want new callers any more."""

    grpc: grpc.aio.Server
    port: int
    health: HealthServicer
    draining: Draining
    calls: Calls
    gate: Gate
    credentials: Credentials | None = None
    """Kept here because gRPC only has a bare pointer to them."""
    leaving: bool = False

    async def leave(self, seconds: float) -> None:
        """Say that it is not ready, and go on for `seconds`, so that callers go elsewhere first."""
        self.leaving = True
        await show_leaving(self.health)
        await asyncio.sleep(seconds)

    async def drain(self, seconds: float) -> None:
        """Take no more calls and finish those under way; after `seconds` cancel what is left."""
        if not self.leaving:
            await self.leave(0)
        self.draining.begin()
        await self.grpc.stop(seconds)


def build_server(app: UseCases, calls: Calls | None = None, *, shared_port: bool = False) -> Server:
    """A server with all services, bound but not started. Call it in the event loop it will run in. `calls`
    counts what it is asked. `shared_port`: other processes of this service may listen on the same port, and
    each gets a part of the connections; otherwise a second server on it fails.

    Raises `CannotServeError` for an address or TLS files that will not do, and for an address that others
    reach without callers being listed; `MissingRolesError` if a method of the contract names no roles.
    """
    logging.getLogger("grpc._cython.cygrpc").addFilter(_told)
    draining, calls = Draining(), calls or Calls()
    gate = Gate(app.access, app.clock)
    servicers: dict[str, object] = {
        "EventService": EventService(app, draining),
        "SubscriberService": SubscriberService(app),
        "AdviceService": AdviceService(app),
        "DeliveryService": DeliveryService(app, draining),
        "RulebaseService": RulebaseService(app),
        "InsightService": InsightService(app),
    }
    handlers = [
        service_handlers(
            *(SERVICES[name], each, draining, calls, gate, roles_of(SERVICES[name])),
            # Whoever watches, or rehearses, begins anew with another server.
            ended_by_drain=name == "RulebaseService",
        )
        for name, each in servicers.items()
    ]
    # Health tells nobody's secrets, and whoever probes should need none.
    healthy = health_servicer()
    health_service = health_pb2.DESCRIPTOR.services_by_name["Health"]
    handlers.append(
        service_handlers(health_service, healthy, draining, calls, gate, {}, ended_by_drain=True)
    )
    if app.settings.reflection:
        names = [s.full_name for s in (*SERVICES.values(), health_service)]
        mirror = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]
        servicer = reflection.aio.ReflectionServicer(  # type: ignore[attr-defined]  # not in its stubs
            [*names, mirror.full_name]
        )
        opened_by = {method.name: ALL_ROLES for method in mirror.methods}
        handlers.append(
            service_handlers(mirror, servicer, draining, calls, gate, opened_by, ended_by_drain=True)
        )
    options = [*_OPTIONS, ("grpc.so_reuseport", int(shared_port))]
    server = grpc.aio.server(handlers=handlers, options=options)
    credentials = _credentials(app.settings)
    port = _bind(server, app.settings, credentials)
    return Server(server, port, healthy, draining, calls, gate, credentials)


@asynccontextmanager
async def serving(
    app: UseCases, calls: Calls | None = None, *, shared_port: bool = False
) -> AsyncIterator[Server]:
    """Serve while the block runs; at its end leave and drain, within `settings.leave_seconds` and
    `settings.drain_seconds`. Raises as `build_server` does."""
    server = build_server(app, calls, shared_port=shared_port)
    await show_health(app, server.health)
    await server.grpc.start()
    followers = [
        asyncio.create_task(follow_health(app, server.health)),
        asyncio.create_task(server.gate.follow()),
    ]
    try:
        yield server
    finally:
        for follower in followers:
            follower.cancel()
        await server.leave(app.settings.leave_seconds)
        await server.drain(app.settings.drain_seconds)


async def serve(
    app: UseCases,
    ready: Callable[[Server], None] = lambda _: None,
    calls: Calls | None = None,
    *,
    shared_port: bool = False,
) -> None:
    """Serve until SIGTERM or SIGINT, then leave and drain. `ready` is given the server. Raises as
    `build_server`."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    settings = app.settings
    try:
        async with serving(app, calls, shared_port=shared_port) as server:
            log.info("serving on port %d", server.port)
            ready(server)
            await stopped.wait()
            log.info(
                "shutting down: not ready; calls are taken for %g s, then finished for at most %g s",
                *(settings.leave_seconds, settings.drain_seconds),
            )
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


def _bind(server: grpc.aio.Server, settings: ServerSettings, credentials: Credentials | None) -> int:
    _check_reach(settings, credentials)
    try:
        if credentials is not None:
            return server.add_secure_port(settings.listen, credentials)
        return server.add_insecure_port(settings.listen)
    except RuntimeError as error:
        raise CannotServeError(
            f"cannot listen on {settings.listen}: the address must be HOST:PORT of this machine, and free"
        ) from error


def _check_reach(settings: ServerSettings, credentials: Credentials | None) -> None:
    """Other machines are served encrypted, and by name; without either only where that was asked for."""
    if _is_local(settings.listen):
        return
    reached = f"{settings.listen} can be reached from other machines, and"
    if credentials is None and not settings.allow_plaintext:
        raise CannotServeError(
            f"{reached} calls there must be encrypted: set tls_certificate and tls_key, listen on "
            "127.0.0.1, or set allow_plaintext behind a proxy that encrypts"
        )
    if credentials is None and settings.callers is not None:
        raise CannotServeError(
            f"{reached} tokens of callers would be sent there in plaintext: set tls_certificate and "
            "tls_key, or listen on 127.0.0.1 behind a proxy on this machine that encrypts"
        )
    if credentials is not None and settings.callers is None:
        raise CannotServeError(
            f"{reached} whoever connects might do everything: set callers, a file that lists who may call "
            "(docs/guides/security.md), or listen on 127.0.0.1"
        )


def _credentials(settings: ServerSettings) -> Credentials | None:
    if settings.tls_certificate is None or settings.tls_key is None:
        if settings.tls_certificate or settings.tls_key or settings.tls_client_ca:
            raise CannotServeError("TLS needs both tls_certificate and tls_key")
        return None
    try:
        made = Certificates(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)
    except BadCertificateError as error:
        raise CannotServeError(str(error)) from error
    return made.credentials()


def _is_local(address: str) -> bool:
    """Whether only this machine can reach the address."""
    if address.startswith(("unix:", "unix-abstract:")):
        return True
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
