"""Whatever arrives on the wire, the answer is a documented code. The methods come from the descriptors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from opportune_service.adapters.grpc.rulebase_service import RulebaseService
from opportune_service.adapters.grpc.server import MAX_MESSAGE_BYTES, SERVICES
from support.server import Service, in_loop, refusal, running_service
from support.wire import SOMEBODY, archive, event, publish

INFRASTRUCTURE = (
    health_pb2.DESCRIPTOR.services_by_name["Health"],
    reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"],
)
METHODS = [method for service in SERVICES.values() for method in service.methods]
ALL_METHODS = METHODS + [method for service in INFRASTRUCTURE for method in service.methods]
# A length that goes beyond the end: no protobuf message.
GARBAGE = b"\x0a\xff\xff\xff\xff\x0f"


async def call(service: Service, method: MethodDescriptor, data: bytes) -> grpc.aio.AioRpcError:
    """Send raw bytes as the only message of a call; the error that it must end with."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    kind = ("stream" if method.client_streaming else "unary") + (
        "_stream" if method.server_streaming else "_unary"
    )
    multicallable = getattr(service.channel, kind)(path)
    try:
        if kind == "unary_unary":
            await multicallable(data)
        elif kind == "stream_unary":
            await multicallable(iter([data]))
        else:
            made = multicallable(iter([data]) if method.client_streaming else data)
            while await made.read() is not grpc.aio.EOF:
                pass
    except grpc.aio.AioRpcError as error:
        return error
    raise AssertionError(f"{path} answered {data[:20]!r}")


def strings(method: MethodDescriptor) -> Iterator[tuple[list[FieldDescriptor], FieldDescriptor]]:
    """The string fields of a request, with the message fields that lead to each."""

    def below(descriptor: Any, path: list[FieldDescriptor]) -> Iterator[Any]:
        for field in descriptor.fields:
            if field.type == FieldDescriptor.TYPE_STRING:
                yield path, field
            elif field.type == FieldDescriptor.TYPE_MESSAGE and len(path) < 3:
                yield from below(field.message_type, [*path, field])

    return below(method.input_type, [])


def length_delimited(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


@in_loop
async def test_garbage_is_the_callers_fault_on_every_method() -> None:
    async with running_service(reflection=True) as service:
        for method in ALL_METHODS:
            said = refusal(await call(service, method, GARBAGE))
            assert (said.code, said.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_MESSAGE")
            assert method.input_type.full_name in said.message


@in_loop
async def test_invalid_utf8_is_the_callers_fault_in_every_string() -> None:
    async with running_service() as service:
        tried = 0
        for method in METHODS:
            for path, field in strings(method):
                data = length_delimited(field.number, b"\xff\xfe")
                for outer in reversed(path):
                    data = length_delimited(outer.number, data)
                said = refusal(await call(service, method, data))
                assert said.reason == "MALFORMED_MESSAGE", (method.full_name, field.full_name)
                tried += 1
        assert tried > len(METHODS)


@in_loop
async def test_an_oversize_message_is_refused_and_the_server_lives() -> None:
    async with running_service() as service:
        method = SERVICES["EventService"].methods_by_name["PublishEvents"]
        error = await call(service, method, b"\x00" * (MAX_MESSAGE_BYTES + 1))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (await service.events.PublishEvents(publish(event("1")))).accepted_count == 1


@in_loop
async def test_a_method_of_a_later_release_says_so() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(RulebaseService, "DiffRulebases")
        async with running_service(files={}) as service:
            method = SERVICES["RulebaseService"].methods_by_name["DiffRulebases"]
            name = f"{method.containing_service.full_name}/{method.name}"
            said = refusal(await call(service, method, b""))
            assert (said.code, said.reason) == (grpc.StatusCode.UNIMPLEMENTED, "NOT_SUPPORTED_YET")
            assert said.domain == "opportune"
            assert said.metadata == {"method": name, "missing": name}


@in_loop
async def test_no_method_is_of_a_later_release() -> None:
    async with running_service() as service:
        for method in METHODS:
            if method.name == "WatchRulebase":
                continue  # it answers without end
            try:
                error = await call(service, method, b"")
            except AssertionError:
                continue  # an empty message is a fine request
            assert error.code() is not grpc.StatusCode.UNIMPLEMENTED, method.full_name


@in_loop
async def test_a_fault_of_ours_shows_nothing_but_its_id(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_service() as service:

        async def broken(*_: object) -> None:
            raise RuntimeError(f"secret of {SOMEBODY}")

        monkeypatch.setattr(type(service.app.insight), "explain_decision", broken)
        method = SERVICES["InsightService"].methods_by_name["ExplainDecision"]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await service.insight.ExplainDecision(GetMessageClass(method.input_type)(decision_id="x"))
        said = refusal(caught.value)
        assert (said.code, said.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
        assert "secret" not in said.message
        assert said.metadata["fault"] in caplog.text
        assert "secret of" in caplog.text
        assert SOMEBODY not in caplog.text


@in_loop
async def test_many_problems_of_a_rulebase_fit_into_the_trailers() -> None:
    async with running_service() as service:
        campaigns = "\n---\n".join(f"campaign: c{n}\nproduct: 没有这种产品{n}" for n in range(2_000))
        files = {
            "rulebase.yaml": b"rulebase: bad\ntime_zone: Asia/Shanghai\n",
            "vocabulary.yaml": b"events: {e: {}}\n",
            "campaigns/bad.yaml": campaigns.encode(),
        }
        method = SERVICES["RulebaseService"].methods_by_name["UploadRulebase"]
        request = GetMessageClass(method.input_type)(archive=archive(files))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await service.rulebases.UploadRulebase(request)
        said = refusal(caught.value)
        assert (said.code, said.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "RULEBASE_REFUSED")
        assert len(said.fields) > 3
        assert any(field.startswith("campaigns/bad.yaml:") for field in said.fields)
