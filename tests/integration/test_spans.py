"""Spans of calls as a collector of OpenTelemetry receives them: over OTLP, from a whole service."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as wire
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as stubs
from opportune_service.adapters.grpc.server import serving
from opportune_service.adapters.otel.spans import sending
from opportune_service.app.calls import Call, Calls
from opportune_service.bootstrap import application
from opportune_service.clocks import ManualClock
from opportune_service.settings import Settings
from support.applications import activate
from support.canaries import call_everything, live_a_life, named
from support.rulebases import NOON_US
from support.server import Service, in_loop
from support.small_rulebase import small_rulebase
from support.wire import event, publish

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Collector(stubs.TraceServiceServicer):
    """A collector that keeps what it is sent."""

    def __init__(self) -> None:
        self.requests: list[wire.ExportTraceServiceRequest] = []

    def Export(self, request: wire.ExportTraceServiceRequest, _: Any) -> wire.ExportTraceServiceResponse:  # noqa: N802
        self.requests.append(request)
        return wire.ExportTraceServiceResponse()

    @property
    def spans(self) -> list[Any]:
        return [
            span
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


@contextmanager
def collecting() -> Iterator[tuple[Collector, str]]:
    """A collector and where it is."""
    collector = Collector()
    server = grpc.server(ThreadPoolExecutor(1))
    stubs.add_TraceServiceServicer_to_server(collector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield collector, f"http://127.0.0.1:{port}"
    finally:
        server.stop(None)


async def serve_and(what: Any, endpoint: str) -> None:
    """Do something with a service that sends its spans there; at the end all are sent."""
    settings = Settings(database="sqlite://", listen="127.0.0.1:0")
    with sending(endpoint) as send:
        async with (
            application(settings, ManualClock(NOON_US)) as app,
            serving(app, Calls(send)) as server,
        ):
            await activate(app, small_rulebase())
            address = f"127.0.0.1:{server.port}"
            async with grpc.aio.insecure_channel(address) as channel:
                await what(Service(app, server, address, channel))


def test_a_call_is_a_span_under_that_of_its_caller() -> None:
    @in_loop
    async def body() -> None:
        async def calls(service: Service) -> None:
            metadata = [("traceparent", f"00-{TRACE}-{PARENT}-01")]
            await service.events.PublishEvents(publish(event("1")), metadata=metadata)
            with pytest.raises(grpc.aio.AioRpcError):
                await service.events.PublishEvents(publish(source=""))

        await serve_and(calls, endpoint)

    with collecting() as (collector, endpoint):
        began = time.time_ns()
        body()
        good, bad = collector.spans
    assert (good.trace_id.hex(), good.parent_span_id.hex()) == (TRACE, PARENT)
    assert good.name == bad.name == "opportune.v1.EventService/PublishEvents"
    assert began <= good.start_time_unix_nano < good.end_time_unix_nano <= time.time_ns()
    assert bad.parent_span_id == b""
    assert bad.trace_id.hex() != TRACE
    said = [{each.key: each.value.string_value for each in span.attributes} for span in (good, bad)]
    assert [each["rpc.response.status_code"] for each in said] == ["OK", "INVALID_ARGUMENT"]
    assert said[0]["rpc.method"] == "PublishEvents"
    resource = collector.requests[0].resource_spans[0].resource
    assert {each.key: each.value.string_value for each in resource.attributes}[
        "service.name"
    ] == "opportune"


def test_a_span_has_the_ids_of_the_log_lines_and_errors_are_marked() -> None:
    calls_made: list[Call] = []
    with collecting() as (collector, endpoint):
        with sending(endpoint) as send:
            calls = Calls(send)
            calls.declare("a/b")
            for code in ("OK", "NOT_FOUND", "INTERNAL"):
                with calls.call("a/b") as call:
                    call.code = code
                    calls_made.append(call)
        spans = collector.spans
    assert [span.span_id.hex() for span in spans] == [call.span_id for call in calls_made]
    assert [span.trace_id.hex() for span in spans] == [call.trace_id for call in calls_made]
    assert [span.status.code for span in spans] == [0, 0, 2]


def test_what_the_caller_does_not_keep_is_not_sent() -> None:
    with collecting() as (collector, endpoint):
        with sending(endpoint) as send:
            calls = Calls(send)
            calls.declare("a/b")
            for flags in ("00", "01"):
                with calls.call("a/b", f"00-{TRACE}-{PARENT}-{flags}"):
                    pass
        assert len(collector.spans) == 1


def test_nobody_is_named_in_any_span() -> None:
    @in_loop
    async def body() -> None:
        async def everything(service: Service) -> None:
            await live_a_life(service)
            await call_everything(service)

        await serve_and(everything, endpoint)

    with collecting() as (collector, endpoint):
        body()
    assert len(collector.spans) > 50
    text = "".join(map(str, collector.requests))
    ids = "".join(f"{span.trace_id.hex()} {span.parent_span_id.hex()} " for span in collector.spans)
    assert named(text) == named(ids) == []


def test_a_collector_that_is_gone_keeps_nobody_waiting() -> None:
    @in_loop
    async def body() -> None:
        with sending("http://127.0.0.1:1") as send:
            calls = Calls(send)
            calls.declare("a/b")
            for _ in range(10_000):  # more than are kept for it
                with calls.call("a/b"):
                    pass
            await asyncio.sleep(0)

    body()
