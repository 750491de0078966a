"""A span for each call, sent to a collector in the background. Needs the extra `otel`.

Spans are made when a call has ended, with the ids that its log lines had. They hold the method, its status
and its times, and nothing of what was asked or answered. What cannot be sent is dropped: the service never
waits for the collector. Besides the endpoint the usual `OTEL_...` variables apply.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from opportune_service.app.calls import Call

_LAST_SECONDS = 3.0

_OUR_FAULTS = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE"})
"""Codes that make a server's span one of an error, by OpenTelemetry's conventions for gRPC."""


@contextmanager
def sending(endpoint: str) -> Iterator[Callable[[Call], None]]:
    """What sends the span of a call, while the block runs; at its end what is left is sent, if that takes
    no longer than a few seconds. `endpoint` as in the settings: http:// is plaintext, https:// is TLS."""
    ids = _Ids()
    provider = TracerProvider(
        resource=Resource.create({"service.name": "opportune"}), id_generator=ids, shutdown_on_exit=False
    )
    exporter = OTLPSpanExporter(endpoint)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    tracer = provider.get_tracer("opportune")

    def send(call: Call) -> None:
        ids.call = call
        service, _, method = call.method.partition("/")
        span = tracer.start_span(
            call.method,
            context=_parent(call),
            kind=SpanKind.SERVER,
            attributes={
                "rpc.system": "grpc",
                "rpc.service": service,
                "rpc.method": method,
                "rpc.response.status_code": call.code,
            },
            start_time=call.begun_ns,
        )
        if call.code in _OUR_FAULTS:
            span.set_status(Status(StatusCode.ERROR))
        span.end(call.ended_ns)

    try:
        yield send
    finally:
        # It would wait for a collector that does not answer, longer than the end of a service may take.
        ending = Thread(target=provider.shutdown, name="spans", daemon=True)
        ending.start()
        ending.join(_LAST_SECONDS)
        exporter.shutdown()


class _Ids(IdGenerator):
    """The ids that the call has already."""

    call: Call

    def generate_trace_id(self) -> int:
        return int(self.call.trace_id, 16)

    def generate_span_id(self) -> int:
        return int(self.call.span_id, 16)


def _parent(call: Call) -> Context:
    if not call.parent:
        return Context()
    flags = TraceFlags(TraceFlags.SAMPLED if call.sampled else TraceFlags.DEFAULT)
    parent = SpanContext(int(call.trace_id, 16), int(call.parent, 16), is_remote=True, trace_flags=flags)
    return set_span_in_context(NonRecordingSpan(parent), Context())
