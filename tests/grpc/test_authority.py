"""Each method is for its roles and for nobody else: the whole matrix, from the contract, tried on a live
server, by token and by certificate; and everything that does not show who calls is refused."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from opportune.v1 import delivery_service_pb2 as deliveries
from opportune.v1 import options_pb2
from opportune.v1 import rulebase_service_pb2 as rulebases
from opportune_service.adapters.grpc.server import SERVICES
from opportune_service.app.access import Access, new_token
from opportune_service.app.callers import ROLES
from opportune_service.app.calls import MethodFigures
from opportune_service.clocks import ManualClock
from support.callers import (
    DAY_US,
    bearer,
    caller,
    one_of_each_role,
    token_line,
    tokens,
    write_callers,
    written,
)
from support.rulebases import NOON_US
from support.server import Service, in_loop, read_to_end, refusal, running_service
from support.tls import Authority, channel
from support.wire import batch, event, hello, publish

METHODS = [method for service in SERVICES.values() for method in service.methods]
REFUSED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
PUBLISH = SERVICES["EventService"].methods_by_name["PublishEvents"]


def opens(role: str, method: MethodDescriptor) -> bool:
    """What the contract says, read here anew."""
    said = method.GetOptions().Extensions[options_pb2.roles].any_of
    return f"ROLE_{role.upper()}" in {options_pb2.Role.Name(each) for each in said}


async def code_of(
    on: grpc.aio.Channel, method: MethodDescriptor, metadata: Any = (), data: bytes = b""
) -> grpc.StatusCode:
    """How a call with one message ends, or OK as soon as it answers."""
    error = await error_of(on, method, metadata, data)
    return error.code() if error else grpc.StatusCode.OK


async def counted(figures: MethodFigures, number: int) -> None:
    """A call is counted as refused just after its caller was told."""
    while figures.ended["UNAUTHENTICATED"] < number:  # noqa: ASYNC110 - nothing announces it
        await asyncio.sleep(0)
    assert figures.ended["UNAUTHENTICATED"] == number


async def error_of(
    on: grpc.aio.Channel, method: MethodDescriptor, metadata: Any = (), data: bytes = b""
) -> grpc.aio.AioRpcError | None:
    path = f"/{method.containing_service.full_name}/{method.name}"
    kinds = tuple(
        "stream" if each else "unary" for each in (method.client_streaming, method.server_streaming)
    )
    multicallable = getattr(on, "_".join(kinds))(path)
    while True:
        said = iter([data]) if method.client_streaming else data
        made = multicallable(said, metadata=metadata, timeout=5)
        try:
            if method.server_streaming:
                await made.read()
                made.cancel()
            else:
                await made
        except grpc.aio.AioRpcError as error:
            # Of a stream that ended before the message was on its way, Python's client only says that it
            # could not send it: ask again.
            if not method.client_streaming or error.details() != "Internal error from Core":
                return error
        else:
            return None


async def check_matrix(calls_as: Mapping[str, tuple[grpc.aio.Channel, Any]]) -> int:
    """Try every method as every role; how many calls were let in. `calls_as`: channel and metadata."""
    let_in = 0
    for role, (on, metadata) in calls_as.items():
        for method in METHODS:
            code = await code_of(on, method, metadata)
            if opens(role, method):
                assert code not in REFUSED, f"{role} may call {method.full_name}: {code}"
                let_in += 1
            else:
                assert code is grpc.StatusCode.PERMISSION_DENIED, f"{role}, {method.full_name}: {code}"
    return let_in


@asynccontextmanager
async def guarded(directory: Path, **settings: Any) -> AsyncIterator[tuple[Service, dict[str, str]]]:
    """A service with a caller for each role, named like it, and their tokens."""
    made = tokens(*ROLES)
    path = one_of_each_role(directory / "callers.yaml", made)
    async with running_service(callers=path, **settings) as service:
        yield service, made


def test_every_method_is_for_somebody_and_none_is_for_all() -> None:
    for method in METHODS:
        assert 0 < sum(opens(role, method) for role in ROLES) < len(ROLES), method.full_name


@in_loop
async def test_the_matrix_by_token(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (service, made):
        calls_as = {role: (service.channel, bearer(token)) for role, token in made.items()}
        let_in = await check_matrix(calls_as)
    assert let_in == sum(opens(role, method) for role in ROLES for method in METHODS)


@in_loop
async def test_the_matrix_by_certificate(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    own = authority.sign("server")
    path = write_callers(
        tmp_path / "callers.yaml",
        [caller(role, written(role), certificates=[f"{role}.callers.example"]) for role in ROLES],
    )
    tls = {"tls_certificate": own.certificate, "tls_key": own.key, "tls_client_ca": authority.certificate}
    async with running_service(callers=path, **tls) as service:
        calls_as: dict[str, tuple[grpc.aio.Channel, Any]] = {}
        for number, role in enumerate(ROLES):
            # By common name and by DNS name in turn.
            name = f"{role}.callers.example"
            pair = authority.sign(name) if number % 2 else authority.sign("x", f"DNS:{name}", stem=role)
            calls_as[role] = (channel(service.address, authority.credentials(pair)), ())
        await check_matrix(calls_as)
        for on, _ in calls_as.values():
            await on.close()


def test_control_without_authorisation_the_matrix_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everybody = Access.check

    def asks_for_no_role(self: Access, shown: Any, _: object, now_us: int) -> Any:
        return everybody(self, shown, frozenset(f"ROLE_{role.upper()}" for role in ROLES), now_us)

    monkeypatch.setattr(Access, "check", asks_for_no_role)
    with pytest.raises(AssertionError, match="collector, opportune"):
        test_the_matrix_by_token(tmp_path)


@pytest.mark.parametrize(
    ("metadata", "why"),
    [
        ([], "say who calls"),
        ([("authorization", "")], "Bearer TOKEN"),
        ([("authorization", "Basic b3BlcmF0b3I6c2VjcmV0")], "Bearer TOKEN"),
        ([("authorization", "Bearer secret")], "opportune token"),
        ([("authorization", f"Bearer {new_token()}")], "not known"),
        ([("authorization", f"Bearer {new_token()}"), ("authorization", "Bearer x")], "one authorization"),
        ([("x-forwarded-user", "operator"), ("x-caller", "operator")], "say who calls"),
    ],
    ids=["nothing", "empty", "basic", "word", "forged", "two", "other-headers"],
)
def test_who_does_not_show_who_it_is_is_refused_everywhere(
    metadata: list[tuple[str, str]], why: str, tmp_path: Path
) -> None:
    @in_loop
    async def body() -> None:
        async with guarded(tmp_path) as (service, _):
            for method in METHODS:
                error = await error_of(service.channel, method, metadata, b"\x0a\xff\xff\xff\xff\x0f")
                assert error is not None
                said = refusal(error)
                # Not MALFORMED_MESSAGE: not a byte was decoded.
                assert (said.code, said.reason) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
                assert why in said.message
                assert said.domain == "opportune"

    body()


@in_loop
async def test_health_is_open_and_reflection_is_for_callers(tmp_path: Path) -> None:
    async with guarded(tmp_path, reflection=True) as (service, made):
        health = health_pb2_grpc.HealthStub(service.channel)
        answer = await health.Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        reflected = reflection_pb2_grpc.ServerReflectionStub(service.channel).ServerReflectionInfo
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await reflected(iter([request])).read()
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        for token in made.values():
            listing = reflected(iter([request]), metadata=bearer(token))
            assert (await listing.read()).list_services_response.service


@in_loop
async def test_a_token_is_good_until_it_expires(tmp_path: Path) -> None:
    clock = ManualClock(NOON_US)
    async with guarded(tmp_path, clock=clock) as (service, made):
        metadata = bearer(made["collector"])
        clock.value_us = NOON_US + DAY_US - 1
        assert await code_of(service.channel, PUBLISH, metadata) is grpc.StatusCode.INVALID_ARGUMENT
        clock.value_us += 1
        error = await error_of(service.channel, PUBLISH, metadata)
        assert error is not None
        assert (refusal(error).reason, "expired" in refusal(error).message) == ("UNAUTHENTICATED", True)


@in_loop
async def test_certificates_of_others_and_plaintext_are_refused(tmp_path: Path) -> None:
    authority, stranger = Authority(tmp_path / "own"), Authority(tmp_path / "other")
    own = authority.sign("server")
    path = write_callers(
        tmp_path / "callers.yaml",
        [
            caller("ggsn", "collector", certificates=["ggsn"]),
            caller("crm", "context", certificates=["crm"]),
        ],
    )
    tls = {"tls_certificate": own.certificate, "tls_key": own.key, "tls_client_ca": authority.certificate}
    async with running_service(callers=path, **tls) as service:

        async def tried(credentials: grpc.ChannelCredentials | None) -> grpc.aio.AioRpcError:
            on = channel(service.address, credentials) if credentials else service.channel
            error = await error_of(on, PUBLISH)
            await on.close()
            assert error is not None
            return error

        forged = stranger.sign("ggsn")  # the right name, by the wrong authority
        pair = (forged.key.read_bytes(), forged.certificate.read_bytes())
        roots = authority.certificate.read_bytes()
        for credentials in (
            grpc.ssl_channel_credentials(roots, *pair),
            authority.credentials(),
            stranger.credentials(forged),
            authority.credentials(authority.sign("ggsn", stem="expired", days=-1)),
            None,
        ):
            # There is no connection, so there is no status of ours.
            assert (await tried(credentials)).code() is grpc.StatusCode.UNAVAILABLE
        assert (await tried(authority.credentials(authority.sign("ggsn")))).code() not in REFUSED
        for names, why in ((("nobody",), "nobody who is known"), (("ggsn", "DNS:crm"), "several callers")):
            said = refusal(await tried(authority.credentials(authority.sign(*names, stem="odd"))))
            assert (said.reason, why in said.message) == ("UNAUTHENTICATED", True)


@in_loop
async def test_a_token_wins_over_the_certificate_of_the_connection(tmp_path: Path) -> None:
    authority, token = Authority(tmp_path), new_token()
    own = authority.sign("server")
    path = write_callers(
        tmp_path / "callers.yaml",
        [
            caller("gateway", "viewer", certificates=["gateway"]),
            caller("ggsn", "collector", tokens=[token_line(token)]),
        ],
    )
    tls = {"tls_certificate": own.certificate, "tls_key": own.key, "tls_client_ca": authority.certificate}
    gateway = authority.credentials(authority.sign("gateway"))
    async with running_service(callers=path, **tls) as service, channel(service.address, gateway) as on:
        assert await code_of(on, PUBLISH) is grpc.StatusCode.PERMISSION_DENIED
        assert await code_of(on, PUBLISH, bearer(token)) is grpc.StatusCode.INVALID_ARGUMENT
        # A bad token is not mended by the certificate.
        assert await code_of(on, PUBLISH, bearer(new_token())) is grpc.StatusCode.UNAUTHENTICATED


@in_loop
async def test_the_caller_is_in_the_record(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (service, made):
        request = rulebases.PauseCampaignRequest(campaign="mms-bundle", reason="wrong price")
        await service.rulebases.PauseCampaign(request, metadata=bearer(made["operator"]))
        assert (await service.app.pauses.paused())["mms-bundle"].by == "operator"


@in_loop
async def test_a_channel_client_has_its_own_channels_only(tmp_path: Path) -> None:
    async with guarded(tmp_path) as (service, made):
        for name, refused in (("sms", False), ("counter", True), ("none", True)):
            attached = service.deliveries.Attach(metadata=bearer(made["channel"]), timeout=5)
            said = deliveries.AttachHello(channel=name, client_name="c", credit=1)
            await attached.write(deliveries.AttachRequest(hello=said))
            if not refused:
                assert (await attached.read()).welcome.max_credit
                attached.cancel()
                continue
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await attached.read()
            said_back = refusal(caught.value)
            assert (said_back.reason, "channel is no client" in said_back.message) == ("FORBIDDEN", True)


@in_loop
async def test_calls_and_events_beyond_the_rate_are_refused_with_the_time_to_wait(tmp_path: Path) -> None:
    clock, made = ManualClock(NOON_US), tokens("fast", "slow")
    path = write_callers(
        tmp_path / "callers.yaml",
        [
            caller("slow", "collector", tokens=[token_line(made["slow"])], calls_per_second=2),
            caller("fast", "collector", tokens=[token_line(made["fast"])], events_per_second=4),
        ],
    )
    async with running_service(callers=path, clock=clock) as service:
        slow, fast = bearer(made["slow"]), bearer(made["fast"])
        for number in range(2):
            await service.events.PublishEvents(publish(event(f"s{number}")), metadata=slow)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await service.events.PublishEvents(publish(event("s3")), metadata=slow)
        said = refusal(caught.value)
        assert (said.code, said.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED")
        assert said.retry_after_ms == 500
        many = publish(*(event(f"f{number}") for number in range(8)))
        await service.events.PublishEvents(many, metadata=fast)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await service.events.PublishEvents(publish(event("f9")), metadata=fast)
        assert refusal(caught.value).retry_after_ms == 1_250
        clock.value_us += 1_250_000
        for metadata in (slow, fast):
            await service.events.PublishEvents(publish(event("late")), metadata=metadata)


@in_loop
async def test_a_stream_beyond_the_rate_is_held_back_and_loses_nothing(tmp_path: Path) -> None:
    token = new_token()
    path = write_callers(
        tmp_path / "callers.yaml",
        [caller("ggsn", "collector", tokens=[token_line(token)], events_per_second=100)],
    )
    async with running_service(callers=path) as service:
        stream = service.events.StreamEvents(metadata=bearer(token))
        await stream.write(hello())
        await stream.read()
        for number in range(1, 4):
            await stream.write(batch(number, *(event(f"{number}-{each}") for each in range(40))))
        await stream.done_writing()
        acked = 0
        while (answer := await stream.read()) is not grpc.aio.EOF:
            acked = answer.ack.acked_number
        assert acked == 3


# -- while the service runs -----------------------------------------------------------------------


async def told(stream: Any) -> Any:
    """How a stream ends."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read_to_end(stream)
    return refusal(caught.value)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda _: [], "UNAUTHENTICATED"),
        (lambda own: [own | {"tokens": [token_line(new_token())]}], "UNAUTHENTICATED"),
        (lambda own: [own | {"roles": ["viewer"]}], "FORBIDDEN"),
        (lambda own: [own | {"roles": ["channel:sms", "channel:mms", "collector"]}], "CALLER_CHANGED"),
    ],
    ids=["gone", "token-revoked", "role-gone", "other-scope"],
)
def test_a_stream_ends_when_its_caller_may_not_have_it_any_more(
    change: Callable[[dict[str, Any]], list[dict[str, Any]]], reason: str, tmp_path: Path
) -> None:
    @in_loop
    async def body() -> None:
        token, other = new_token(), new_token()
        own = caller("both", "channel:sms", "collector", tokens=[token_line(token)])
        another = caller("other", "collector", tokens=[token_line(other)])
        path = write_callers(tmp_path / "callers.yaml", [own, another])
        async with running_service(callers=path) as service:
            attached = service.deliveries.Attach(metadata=bearer(token))
            said = deliveries.AttachHello(channel="sms", client_name="c", credit=1)
            await attached.write(deliveries.AttachRequest(hello=said))
            await attached.read()
            open_streams = []
            for each in (token, other):
                stream = service.events.StreamEvents(metadata=bearer(each))
                await stream.write(hello())
                await stream.read()
                open_streams.append(stream)
            write_callers(path, [*change(own), another])
            assert (await told(attached)).reason == reason
            assert (await told(open_streams[0])).reason == reason
            await open_streams[1].write(batch(1, event("e")))
            assert (await open_streams[1].read()).ack.acked_number == 1

    body()


@in_loop
async def test_a_stream_ends_when_its_token_expires(tmp_path: Path) -> None:
    clock = ManualClock(NOON_US)
    async with guarded(tmp_path, clock=clock) as (service, made):
        stream = service.events.StreamEvents(metadata=bearer(made["collector"]))
        await stream.write(hello())
        await stream.read()
        clock.value_us += DAY_US
        said = await told(stream)
        assert (said.code, said.reason) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
        await counted(service.server.calls.figures["opportune.v1.EventService/StreamEvents"], 1)


@in_loop
async def test_a_file_with_faults_changes_nothing_and_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with guarded(tmp_path) as (service, made):
        access, path = service.app.access, tmp_path / "callers.yaml"
        assert access is not None
        good, register = path.read_text(), access.register
        with caplog.at_level(logging.INFO):
            path.write_text(good.replace("viewer", "emperor"))
            await until(lambda: bool(access.refused))
            assert "no such role" in access.refused
            assert "the callers stay as they were" in caplog.text
            assert access.register is register
            assert await code_of(service.channel, PUBLISH, bearer(made["collector"])) not in REFUSED
            path.write_text(good + "\n")
            await until(lambda: access.register is not register)
        assert access.refused == ""


async def until(reached: Callable[[], bool]) -> None:
    """Wait for what a helper of the service does by itself; `in_loop` bounds it."""
    while not reached():  # noqa: ASYNC110 - the service has no event for a test to wait for
        await asyncio.sleep(0.01)


@in_loop
async def test_refusals_are_logged_once_a_second_at_most(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with guarded(tmp_path) as (service, _):
        forged = new_token()
        for _ in range(50):
            await code_of(service.channel, PUBLISH, bearer(forged))
        lines = [each.getMessage() for each in caplog.records if each.getMessage().startswith("refused")]
        assert 0 < len(lines) < 25
        assert "opportune.v1.EventService/PublishEvents" in lines[0]
        assert forged not in caplog.text
        figures = service.server.calls.figures["opportune.v1.EventService/PublishEvents"]
        await counted(figures, 50)
