"""Handlers of whole services, made from their descriptors, so that every call passes one place.

That place counts calls and follows their traces, lets nobody in who may not make the call, before a byte of
it is decoded, turns bytes that are no message into INVALID_ARGUMENT (gRPC's own answer would be INTERNAL or
UNKNOWN), maps errors, and answers for methods that arrive with a later release.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing
from functools import partial
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
from opportune_service.adapters.grpc.gate import Gate, Stream
from opportune_service.adapters.grpc.roles import admission
from opportune_service.app.access import Admission, Proof
from opportune_service.app.calls import Calls
from opportune_service.app.errors import OpportuneError

_CODES: dict[object, str] = {each: code.name for code in grpc.StatusCode for each in (code, code.value[0])}
"""Names of status codes: by the code, and by its number, which is what a context remembers of an abort."""

Context = grpc.aio.ServicerContext[Message, Message]
# The methods of a servicer: their types differ by method, and grpc finds them by name as well.
Method = Callable[..., Any]
Parser = Callable[[bytes], Message]


def service_handlers(
    service: ServiceDescriptor,
    servicer: object,
    draining: Draining,
    calls: Calls,
    gate: Gate,
    opened_by: Mapping[str, frozenset[str]],
    *,
    ended_by_drain: bool = False,
) -> grpc.GenericRpcHandler[Message, Message]:
    """Handlers for all methods of `service`: those that `servicer` has, UNIMPLEMENTED for the others.

    Servicers raise domain errors. A method with a stream of answers is an async generator, or a coroutine
    that writes to the context. `calls` counts them. `gate` lets in whoever has one of the roles that
    `opened_by` has for the method; a method that it does not have is open to everybody. `ended_by_drain`:
    streams of the service have nothing to finish when the server drains.
    """
    made = {}
    for method in service.methods:
        call = getattr(servicer, method.name, None)
        behaviour = _behaviour(method, call)
        if ended_by_drain and method.server_streaming:
            behaviour = _ended_by_drain(behaviour, draining, _name(method))
        roles = None if gate.open else opened_by.get(method.name)
        made[method.name] = _handler(method, _followed(behaviour, method, calls, gate, roles))
    return grpc.method_handlers_generic_handler(service.full_name, made)


def _name(method: MethodDescriptor) -> str:
    return f"{method.containing_service.full_name}/{method.name}"


def _handler(method: MethodDescriptor, behaviour: Method) -> grpc.RpcMethodHandler[Message, Message]:
    """Requests come as bytes: nothing is decoded for those who are not let in, and what cannot be decoded
    is told in our own words."""
    if method.server_streaming:
        make = (
            grpc.stream_stream_rpc_method_handler
            if method.client_streaming
            else grpc.unary_stream_rpc_method_handler
        )
    else:
        make = (
            grpc.stream_unary_rpc_method_handler
            if method.client_streaming
            else grpc.unary_unary_rpc_method_handler
        )
    handler: grpc.RpcMethodHandler[Message, Message] = make(
        behaviour, None, GetMessageClass(method.output_type).SerializeToString
    )
    return handler


def _parser(method: MethodDescriptor) -> Parser:
    parse = GetMessageClass(method.input_type).FromString
    expected = method.input_type.full_name

    def read(data: bytes) -> Message:
        try:
            return parse(data)
        except DecodeError as error:
            raise MalformedMessageError(
                f"not a valid {expected}; do both sides use one contract?"
            ) from error

    return read


def _behaviour(method: MethodDescriptor, call: Method | None) -> Method:
    """What answers the method, from bytes."""
    parse, name = _parser(method), _name(method)
    read: Method = partial(_read, parse=parse) if method.client_streaming else parse

    async def answer(request: Any, context: Context) -> Message:
        try:
            said = read(request)
            if call is None:
                raise UnsupportedError(name)  # noqa: TRY301 - mapped below, as every error is
            return cast("Message", await call(said, context))
        except grpc.aio.InternalError:
            raise  # what was said did not arrive
        except Exception as error:  # noqa: BLE001 - whatever it is, the table decides what the caller sees
            await abort(context, error, name)

    async def answers(request: Any, context: Context) -> None:
        try:
            said = read(request)
            if call is None:
                raise UnsupportedError(name)  # noqa: TRY301
            made = call(said, context)
            if inspect.isasyncgen(made):
                async with aclosing(made):
                    async for each in made:
                        await context.write(cast("Message", each))
            else:
                await made
        except grpc.aio.InternalError:
            raise
        except Exception as error:  # noqa: BLE001
            await abort(context, error, name)

    return answers if method.server_streaming else answer


async def _read(requests: AsyncIterator[bytes], parse: Parser) -> AsyncIterator[Message]:
    async for data in requests:
        yield parse(data)


def _followed(
    behaviour: Method, method: MethodDescriptor, calls: Calls, gate: Gate, opened_by: frozenset[str] | None
) -> Method:
    """The behaviour for those who are let in, counted, within the trace that its caller follows.
    `opened_by` None: everybody is let in."""
    name = _name(method)
    calls.declare(name)
    streams = method.client_streaming or method.server_streaming

    async def followed(request: Any, context: Context) -> Any:
        traceparent, authorization = _said(context)
        with calls.call(name, traceparent) as call:
            try:
                if opened_by is None:
                    return await behaviour(request, context)
                try:
                    shown = gate.proof(context, authorization)
                    admitted = gate.admit(shown, opened_by)
                except OpportuneError as error:
                    gate.say(name, error)
                    await abort(context, error, name)
                # Each call is a task with variables of its own.
                admission.set(admitted)
                if streams and admitted is not None:
                    return await _while_admitted(request, context, shown, admitted)
                return await behaviour(request, context)
            except grpc.aio.AbortError:
                call.code = _CODES.get(context.code(), "UNKNOWN")
                raise
            except asyncio.CancelledError:
                left = context.time_remaining()
                call.code = "CANCELLED" if left is None or left > 0 else "DEADLINE_EXCEEDED"
                raise
            except grpc.aio.InternalError as error:
                # Whoever called is gone, and cannot be told anything; gRPC would log a trace of it.
                call.code = "CANCELLED"
                raise asyncio.CancelledError from error
            except BaseException:
                call.code = "UNKNOWN"
                raise

    async def _while_admitted(request: Any, context: Context, shown: Proof, admitted: Admission) -> Any:
        task: asyncio.Task[object] | None = asyncio.current_task()
        assert task is not None and opened_by is not None  # noqa: S101, PT018 - this runs in a task
        stream = Stream(task, shown, opened_by, admitted)
        try:
            with gate.following(stream):
                return await behaviour(request, context)
        except asyncio.CancelledError:
            if stream.ended is None:
                raise
            gate.say(name, stream.ended)
            await abort(context, stream.ended, name)

    return followed


def _said(context: Context) -> tuple[str, tuple[str | bytes, ...]]:
    """The trace that the caller follows, and its authorization headers."""
    traceparent: str | bytes = ""
    authorization: tuple[str | bytes, ...] = ()
    for key, value in context.invocation_metadata() or ():
        if key == "traceparent":
            traceparent = value
        elif key == "authorization":
            authorization += (value,)
    return traceparent if isinstance(traceparent, str) else "", authorization


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
