"""How the server listens, what it says of its health, and how it ends."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from opportune.v1 import event_service_pb2, options_pb2
from opportune_service.adapters.grpc.health import LIVENESS, NEED_RULEBASE, NEED_STORE
from opportune_service.adapters.grpc.roles import MissingRolesError, roles_of
from opportune_service.adapters.grpc.server import (
    SERVICES,
    CannotServeError,
    Server,
    build_server,
    serve,
    serving,
)
from opportune_service.bootstrap import Application, application
from opportune_service.clocks import ManualClock
from opportune_service.settings import Settings
from support.applications import activate
from support.rulebases import NOON_US
from support.server import PATIENCE_SECONDS, Service, in_loop, read_to_end, refusal, running_service
from support.small_rulebase import small_rulebase
from support.wire import batch, event, hello, publish

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@asynccontextmanager
async def bare(**settings: Any) -> AsyncIterator[Application]:
    given = {"database": "sqlite://", "listen": "127.0.0.1:0"} | settings
    async with application(Settings(**given), ManualClock(NOON_US)) as app:
        yield app


async def statuses(service: Service) -> dict[str, int]:
    stub = health_pb2_grpc.HealthStub(service.channel)
    return {
        name: (await stub.Check(health_pb2.HealthCheckRequest(service=name))).status
        for name in NEED_STORE + NEED_RULEBASE
    }


async def status(service: Service, name: str) -> int:
    stub = health_pb2_grpc.HealthStub(service.channel)
    return (await stub.Check(health_pb2.HealthCheckRequest(service=name))).status


async def until(service: Service, name: str, status: int) -> None:
    watch = health_pb2_grpc.HealthStub(service.channel).Watch(health_pb2.HealthCheckRequest(service=name))
    while (await watch.read()).status != status:
        pass
    watch.cancel()


@in_loop
async def test_health_follows_rulebase_and_store() -> None:
    async with running_service(files={}) as service:
        assert set(NEED_STORE + NEED_RULEBASE) == {"", *(s.full_name for s in SERVICES.values())}
        without = dict.fromkeys(NEED_STORE, SERVING) | dict.fromkeys(NEED_RULEBASE, NOT_SERVING)
        assert await statuses(service) == without
        await activate(service.app, small_rulebase())
        await until(service, NEED_RULEBASE[-1], SERVING)
        assert set((await statuses(service)).values()) == {SERVING}
        service.app.ingest.healthy.clear()
        await until(service, NEED_RULEBASE[-1], NOT_SERVING)
        assert set((await statuses(service)).values()) == {NOT_SERVING}


@in_loop
async def test_nobody_fills_the_memory_by_watching() -> None:
    """Anybody may watch, and what was asked is kept as long as the stream is open."""
    async with running_service() as service:
        asked = health_pb2.HealthCheckRequest()
        hidden = asked.FromString(b"\x12\xe8\x07" + bytes(1_000))  # a field that nobody knows
        for large in (health_pb2.HealthCheckRequest(service="x" * 1_000), hidden):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await health_pb2_grpc.HealthStub(service.channel).Watch(large).read()
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@in_loop
async def test_the_process_lives_whatever_its_store_does_and_while_it_drains() -> None:
    async with running_service(files={}) as service:
        watch = health_pb2_grpc.HealthStub(service.channel).Watch(
            health_pb2.HealthCheckRequest(service=LIVENESS)
        )
        assert (await watch.read()).status == SERVING
        service.app.ingest.healthy.clear()
        await until(service, "", NOT_SERVING)
        assert await status(service, LIVENESS) == SERVING
        await service.server.leave(0)
        assert set((await statuses(service)).values()) == {NOT_SERVING}
        assert await status(service, LIVENESS) == SERVING


@in_loop
async def test_who_leaves_says_so_first_and_takes_calls_meanwhile() -> None:
    async with running_service() as service:
        leaving = asyncio.create_task(service.server.leave(PATIENCE_SECONDS))
        await until(service, "", NOT_SERVING)
        assert not leaving.done()
        service.app.ingest.healthy.set()
        assert (await service.events.PublishEvents(publish(event("1")))).accepted_count == 1
        assert set((await statuses(service)).values()) == {NOT_SERVING}
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)


@in_loop
async def test_sigterm_leaves_before_it_drains(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    for name in ("leave", "drain"):
        method = getattr(Server, name)

        async def note(self: Server, seconds: float, name: str = name, method: Any = method) -> None:
            told.append(f"{name} {seconds}")
            await method(self, seconds)

        monkeypatch.setattr(Server, name, note)
    async with running_service(leave_seconds=0.25, drain_seconds=3):
        pass
    assert told == ["leave 0.25", "drain 3.0"]


@in_loop
async def test_reflection_is_off_unless_asked_for() -> None:
    for asked in (False, True):
        async with running_service(files={}, reflection=asked) as service:
            stub = reflection_pb2_grpc.ServerReflectionStub(service.channel)
            listing = stub.ServerReflectionInfo(
                iter([reflection_pb2.ServerReflectionRequest(list_services="")])
            )
            if not asked:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await listing.read()
                assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
                continue
            named = {each.name for each in (await listing.read()).list_services_response.service}
            assert named > {each.full_name for each in SERVICES.values()}


def test_a_method_without_roles_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = descriptor_pool.DescriptorPool()
    bad = descriptor_pb2.FileDescriptorProto.FromString(event_service_pb2.DESCRIPTOR.serialized_pb)
    bad.service[0].method[1].options.ClearExtension(options_pb2.roles)
    for needed in event_service_pb2.DESCRIPTOR.dependencies:
        for deeper in needed.dependencies:
            pool.AddSerializedFile(deeper.serialized_pb)
        pool.AddSerializedFile(needed.serialized_pb)
    pool.AddSerializedFile(bad.SerializeToString())
    broken = pool.FindServiceByName("opportune.v1.EventService")
    with pytest.raises(MissingRolesError, match=r"EventService\.StreamEvents names no role"):
        roles_of(broken)
    assert roles_of(SERVICES["EventService"])["StreamEvents"] == {"ROLE_COLLECTOR"}
    monkeypatch.setitem(SERVICES, "EventService", broken)

    @in_loop
    async def body() -> None:
        async with bare() as app:
            with pytest.raises(MissingRolesError):
                build_server(app)

    body()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"listen": "0.0.0.0:0"}, "must be encrypted"),
        ({"listen": "[::]:0"}, "must be encrypted"),
        ({"listen": "example.com:0"}, "must be encrypted"),
        ({"listen": "nonsense"}, "must be encrypted"),
        ({"listen": "localhost:nonsense"}, "cannot listen on"),
        ({"tls_key": Path("key.pem")}, "both tls_certificate and tls_key"),
        ({"tls_client_ca": Path("ca.pem")}, "both tls_certificate and tls_key"),
        ({"tls_certificate": Path("/none/c.pem"), "tls_key": Path("/none/k.pem")}, "cannot read /none"),
        ({"tls_certificate": Path(__file__), "tls_key": Path(__file__)}, "cannot be used together"),
    ],
)
def test_what_cannot_be_served_is_said_at_start(settings: dict[str, Any], words: str) -> None:
    @in_loop
    async def body() -> None:
        async with bare(**settings) as app:
            with pytest.raises(CannotServeError, match=words):
                build_server(app)

    body()


@in_loop
async def test_a_port_that_is_taken_is_not_shared() -> None:
    async with bare() as app, serving(app) as first, bare(listen=f"127.0.0.1:{first.port}") as other:
        with pytest.raises(CannotServeError, match="free"):
            build_server(other)


@in_loop
async def test_draining_acks_what_was_read_and_ends_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_service() as service:
        stream = service.events.StreamEvents()
        await stream.write(hello())
        await stream.read()
        watch = health_pb2_grpc.HealthStub(service.channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == SERVING
        go_on, offered = asyncio.Event(), asyncio.Event()
        commit = service.app.ingest._commit
        loop = asyncio.get_running_loop()

        def held(group: Any) -> Any:
            loop.call_soon_threadsafe(offered.set)
            asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result()
            return commit(group)

        monkeypatch.setattr(service.app.ingest, "_commit", held)
        await stream.write(batch(1, event("1")))
        await offered.wait()
        draining = asyncio.create_task(service.server.drain(5))
        try:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await read_to_end(watch)
            assert refusal(caught.value).reason == "SHUTTING_DOWN"
            assert not draining.done()
        finally:
            go_on.set()
        assert (await stream.read()).ack.acked_number == 1
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.read()
        said = refusal(caught.value)
        assert (said.code, said.reason) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
        await draining
        assert service.app.live.id  # the service itself goes on; only its server has ended


@in_loop
async def test_sigterm_ends_serving() -> None:
    async with bare() as app:
        ports: list[int] = []
        ready = asyncio.Event()

        def note(server: Server) -> None:
            ports.append(server.port)
            ready.set()

        task = asyncio.create_task(serve(app, note))
        await ready.wait()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{ports[0]}") as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            assert (await stub.Check(health_pb2.HealthCheckRequest())).status == SERVING
            os.kill(os.getpid(), signal.SIGTERM)
            await task


@in_loop
async def test_a_deadline_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_service() as service:
        go_on = asyncio.Event()
        given_up = asyncio.Event()

        async def slow(*_: object, **__: object) -> None:
            try:
                await go_on.wait()
            finally:
                given_up.set()

        monkeypatch.setattr(type(service.app.ingest), "publish", slow)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await service.events.PublishEvents(publish(event("1")), timeout=0.1)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await given_up.wait()
