"""Handlers of whole services, made from their descriptors, so that every call passes one place.

That place turns bytes that are no message into INVALID_ARGUMENT (gRPC's own answer would be INTERNAL or
UNKNOWN), maps errors, answers for methods that arrive with a later release, counts calls and follows their
traces.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, cast

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from opportune_service.adapters.grpc.draining import Draining
from opportune_service.adapters.grpc.errors import (
    MalformedMessageError,
    ShuttingDownError,
    UnsupportedError,
    abort,
)
from opportune_service.app.calls import Calls

_CODES: dict[object, str] = {each: code.name for code in grpc.StatusCode for each in (code, code.value[0])}
"""Names of status codes: by the code, and by its number, which is what a context remembers of an abort."""

Context = grpc.aio.ServicerContext[Message, Message]
# The methods of a servicer: their types differ by method, and grpc finds them by name as well.
Method = Callable[..., Any]


class _Malformed:
    """Stands for a message whose bytes could not be read: a deserialiser must not raise."""

    def __init__(self, type_name: str) -> None:
        self.type_name = type_name

    def error(self) -> MalformedMessageError:
        return MalformedMessageError(f"not a valid {self.type_name}; do both sides use one contract?")


def service_handlers(
    service: ServiceDescriptor,
    servicer: object,
    draining: Draining,
    calls: Calls,
    *,
    ended_by_drain: bool = False,
) -> grpc.GenericRpcHandler[Message, Message]:
    """Handlers for all methods of `service`: those that `servicer` has, UNIMPLEMENTED for the others.

    Servicers raise domain errors. A method with a stream of answers is an async generator, or a coroutine
    that writes to the context. `calls` counts them. `ended_by_drain`: streams of the service have nothing
    to finish when the server drains.
    """
    return grpc.method_handlers_generic_handler(
        service.full_name,
        {
            method.name: _handler(
                method, getattr(servicer, method.name, None), draining, calls, ended_by_drain
            )
            for method in service.methods
        },
    )


def _handler(
    method: MethodDescriptor,
    call: Method | None,
    draining: Draining,
    calls: Calls,
    ended_by_drain: bool,
) -> grpc.RpcMethodHandler[Message, Message]:
    name = f"{method.containing_service.full_name}/{method.name}"
    behaviour: Method
    if method.server_streaming:
        behaviour = _answers(method, call, name)
        if ended_by_drain:
            behaviour = _ended_by_drain(behaviour, draining, name)
        make = (
            grpc.stream_stream_rpc_method_handler
            if method.client_streaming
            else grpc.unary_stream_rpc_method_handler
        )
    else:
        behaviour = _answer(method, call, name)
        make = (
            grpc.stream_unary_rpc_method_handler
            if method.client_streaming
            else grpc.unary_unary_rpc_method_handler
        )
    made: grpc.RpcMethodHandler[Message, Message] = make(
        _followed(behaviour, calls, name),
        _parser(method),
        GetMessageClass(method.output_type).SerializeToString,
    )
    return made


def _parser(method: MethodDescriptor) -> Callable[[bytes], Message | _Malformed]:
    parse = GetMessageClass(method.input_type).FromString
    malformed = _Malformed(method.input_type.full_name)

    def read(data: bytes) -> Message | _Malformed:
        try:
            return parse(data)
        except DecodeError:
            return malformed

    return read


def _answer(method: MethodDescriptor, call: Method | None, name: str) -> Method:
    """The behaviour of a method with one answer."""
    streams_in = method.client_streaming

    async def behaviour(request: Any, context: Context) -> Message:
        try:
            if request.__class__ is _Malformed:
                raise request.error()  # noqa: TRY301 - mapped below, as every error is
            if call is None:
                raise UnsupportedError(name)  # noqa: TRY301
            answer: Message = await call(_wellformed(request) if streams_in else request, context)
        except Exception as error:  # noqa: BLE001 - whatever it is, the table decides what the caller sees
            await abort(context, error, name)
        return answer

    return behaviour


def _answers(method: MethodDescriptor, call: Method | None, name: str) -> Method:
    """The behaviour of a method with a stream of answers."""
    streams_in = method.client_streaming

    async def behaviour(request: Any, context: Context) -> None:
        try:
            if request.__class__ is _Malformed:
                raise request.error()  # noqa: TRY301
            if call is None:
                raise UnsupportedError(name)  # noqa: TRY301
            answers = call(_wellformed(request) if streams_in else request, context)
            if inspect.isasyncgen(answers):
                async with aclosing(answers):
                    async for answer in answers:
                        await context.write(cast("Message", answer))
            else:
                await answers
        except Exception as error:  # noqa: BLE001
            await abort(context, error, name)

    return behaviour


def _followed(behaviour: Method, calls: Calls, name: str) -> Method:
    """The behaviour, counted, within the trace that its caller follows."""
    calls.declare(name)

    async def followed(request: Any, context: Context) -> Any:
        with calls.call(name, _traceparent(context)) as call:
            try:
                return await behaviour(request, context)
            except grpc.aio.AbortError:
                call.code = _CODES.get(context.code(), "UNKNOWN")
                raise
            except asyncio.CancelledError:
                left = context.time_remaining()
                call.code = "CANCELLED" if left is None or left > 0 else "DEADLINE_EXCEEDED"
                raise
            except BaseException:
                call.code = "UNKNOWN"
                raise

    return followed


def _traceparent(context: Context) -> str:
    for key, value in context.invocation_metadata() or ():
        if key == "traceparent":
            return value if isinstance(value, str) else ""
    return ""


def _ended_by_drain(behaviour: Method, draining: Draining, name: str) -> Method:
    async def ended(request: Any, context: Context) -> None:
        task: asyncio.Task[object] | None = asyncio.current_task()
        assert task is not None  # noqa: S101 - this runs in a task
        try:
            with draining.ends(task):
                await behaviour(request, context)
        except asyncio.CancelledError:
            if not draining.begun:
                raise
            await abort(context, ShuttingDownError(), name)

    return ended


async def _wellformed(requests: AsyncIterator[Message | _Malformed]) -> AsyncIterator[Message]:
    async for request in requests:
        if isinstance(request, _Malformed):
            raise request.error()
        yield request
