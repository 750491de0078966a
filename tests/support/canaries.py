"""Numbers that stand nowhere else, sent in every call: whatever shows one gives a subscriber away."""

from __future__ import annotations

import json
from typing import Any

import grpc
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from opportune.v1 import advice_service_pb2 as advice
from opportune_service.adapters.grpc.server import SERVICES
from support.server import Service
from support.wire import event, import_batch, import_header, publish

PHONE, IMSI, IMEI = CANARIES = ("8613912345678", "460001234567890", "861234567890123")
_SECONDS = 0.5
"""How long a stream that has nothing to end for is kept open."""


def named(text: str) -> list[str]:
    """The canaries that `text` shows."""
    return [canary for canary in CANARIES if canary in text]


async def live_a_life(service: Service) -> None:
    """Context, events and advice of the canary, good and bad ones, as any subscriber's."""
    records: dict[str, dict[str, Any]] = {PHONE: {"age": 30}, IMSI: {"age": PHONE}}
    await service.subscribers.ImportSubscribers(iter([import_header(), import_batch(records)]))
    for n in range(5):
        attributes = json.dumps({"size_kb": 200, PHONE: PHONE, "imsi": IMSI}).encode()
        sent = event(f"{PHONE}-{n}", PHONE, attributes=attributes, cell_id=IMSI, imei=IMEI)
        await service.events.PublishEvents(publish(sent, source=PHONE))
    await service.events.PublishEvents(publish(event("1", PHONE, type=f"of_{IMSI}"), source=IMSI))
    await service.events.PublishEvents(publish(event("2", f"+{PHONE}"), source=IMEI))
    request = advice.AdviseRequest(subscriber_id=PHONE, touch_point="counter", request_id=IMSI)
    await service.advice.Advise(request)


async def call_everything(service: Service) -> None:
    """Every method of the contract with a canary in every text, however it ends."""
    for name, each in SERVICES.items():
        for method in each.methods:
            for canary in CANARIES:
                request = _filled(GetMessageClass(method.input_type)(), canary)
                await _call(service.channel, f"/opportune.v1.{name}/{method.name}", method, request, canary)


def _filled(message: Message, canary: str, depth: int = 2) -> Message:
    for field in message.DESCRIPTOR.fields:
        if field.is_repeated:
            continue
        if field.type == FieldDescriptor.TYPE_STRING:
            setattr(message, field.name, canary)
        elif field.type == FieldDescriptor.TYPE_BYTES:
            setattr(message, field.name, canary.encode())
        elif field.type == FieldDescriptor.TYPE_MESSAGE and depth:
            _filled(getattr(message, field.name), canary, depth - 1)
    return message


async def _call(
    channel: grpc.aio.Channel, path: str, method: MethodDescriptor, request: Message, canary: str
) -> None:
    data = request.SerializeToString()
    given: dict[str, Any] = {
        "timeout": _SECONDS,
        "metadata": [("traceparent", f"00-{canary:0>32}-{canary:0>16}-01"), ("who", canary)],
    }
    try:
        if method.client_streaming and method.server_streaming:
            stream = channel.stream_stream(path)(iter([data]), **given)
        elif method.server_streaming:
            stream = channel.unary_stream(path)(data, **given)
        elif method.client_streaming:
            await channel.stream_unary(path)(iter([data]), **given)
            return
        else:
            await channel.unary_unary(path)(data, **given)
            return
        while await stream.read() is not grpc.aio.EOF:
            pass
    except grpc.aio.AioRpcError:
        pass  # most of it is nonsense: what matters is what it leaves behind
