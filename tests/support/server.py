"""A whole service behind a real port of this machine: what tests of the wire and of clients run against."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

import grpc
from google.rpc import error_details_pb2, status_pb2
from opportune.v1 import (
    advice_service_pb2_grpc,
    delivery_service_pb2_grpc,
    event_service_pb2_grpc,
    insight_service_pb2_grpc,
    rulebase_service_pb2_grpc,
    subscriber_service_pb2_grpc,
)
from opportune_service.adapters.grpc.server import Server, serving
from opportune_service.app.ports import Clock
from opportune_service.bootstrap import Application, application
from opportune_service.clocks import ManualClock
from opportune_service.settings import Settings
from support.applications import activate
from support.rulebases import NOON_US
from support.small_rulebase import small_rulebase

P = ParamSpec("P")

PATIENCE_SECONDS = 20
"""How long a test may hang before it fails; none should need a tenth of it."""


@dataclass(frozen=True, slots=True)
class Service:
    """A running service, with a channel to it and stubs on the channel."""

    app: Application
    server: Server
    address: str
    channel: grpc.aio.Channel

    @property
    def events(self) -> Any:
        return event_service_pb2_grpc.EventServiceStub(self.channel)

    @property
    def subscribers(self) -> Any:
        return subscriber_service_pb2_grpc.SubscriberServiceStub(self.channel)

    @property
    def advice(self) -> Any:
        return advice_service_pb2_grpc.AdviceServiceStub(self.channel)

    @property
    def deliveries(self) -> Any:
        return delivery_service_pb2_grpc.DeliveryServiceStub(self.channel)

    @property
    def rulebases(self) -> Any:
        return rulebase_service_pb2_grpc.RulebaseServiceStub(self.channel)

    @property
    def insight(self) -> Any:
        return insight_service_pb2_grpc.InsightServiceStub(self.channel)


@asynccontextmanager
async def running_service(
    directory: Path | None = None,
    files: Mapping[str, bytes] | None = None,
    *,
    clock: Clock | None = None,
    **settings: Any,
) -> AsyncIterator[Service]:
    """A service on a free loopback port, with its ledger in `directory` (None: in memory) and the rulebase
    `files` active (None: the small one; empty: none). The clock stands at `NOON_US` unless one is given."""
    url = f"sqlite:///{directory}/opportune.db" if directory else "sqlite://"
    settled = {"listen": "127.0.0.1:0", "database": url, "checkpoint_seconds": 600, "drain_seconds": 5}
    async with (
        application(Settings(**settled | settings), clock or ManualClock(NOON_US)) as app,
        serving(app) as server,
    ):
        files = small_rulebase() if files is None else files
        if files:
            await activate(app, files)
        address = f"127.0.0.1:{server.port}"
        async with grpc.aio.insecure_channel(address) as channel:
            yield Service(app, server, address, channel)


def in_loop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Make an asynchronous test one that pytest can run, and that cannot hang."""

    @wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        async def body() -> None:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await test(*args, **kwargs)

        asyncio.run(body())

    return run


async def read_to_end(stream: Any) -> None:
    """Read what is left of a stream; raises its error."""
    while await stream.read() is not grpc.aio.EOF:
        pass


@dataclass(frozen=True, slots=True)
class Refusal:
    """How a call failed, taken apart."""

    code: grpc.StatusCode
    message: str
    reason: str
    domain: str
    metadata: dict[str, str]
    fields: list[str]
    retry_after_ms: int | None


def refusal(error: grpc.aio.AioRpcError) -> Refusal:
    """The details of a failed call; fails itself if there are none."""
    packed = dict(error.trailing_metadata() or ())["grpc-status-details-bin"]
    status = status_pb2.Status.FromString(packed)
    assert status.code == error.code().value[0]
    info, bad, retry = (
        error_details_pb2.ErrorInfo(),
        error_details_pb2.BadRequest(),
        error_details_pb2.RetryInfo(),
    )
    retry_after_ms = None
    for detail in status.details:
        if detail.Unpack(retry):
            retry_after_ms = retry.retry_delay.ToMilliseconds()
        else:
            assert detail.Unpack(info) or detail.Unpack(bad)
    return Refusal(
        code=error.code(),
        message=error.details() or "",
        reason=info.reason,
        domain=info.domain,
        metadata=dict(info.metadata),
        fields=[violation.field for violation in bad.field_violations],
        retry_after_ms=retry_after_ms,
    )
