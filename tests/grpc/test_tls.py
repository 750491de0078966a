"""TLS: who is let in by it, what must be set for other machines to call, and files that change."""

from __future__ import annotations

import asyncio
import logging
import ssl
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from opportune.v1 import insight_service_pb2 as insight
from opportune.v1 import insight_service_pb2_grpc, rulebase_service_pb2_grpc
from opportune.v1 import rulebase_service_pb2 as rulebases
from opportune_service.adapters.grpc.server import CannotServeError, build_server
from opportune_service.bootstrap import application
from opportune_service.clocks import ManualClock
from opportune_service.settings import Settings
from support.callers import caller, write_callers
from support.rulebases import NOON_US
from support.server import in_loop, running_service
from support.tls import Authority, Pair, channel


def tls(pair: Pair, authority: Authority | None = None) -> dict[str, Any]:
    given = {"tls_certificate": pair.certificate, "tls_key": pair.key}
    return given | ({"tls_client_ca": authority.certificate} if authority else {})


async def call(on: grpc.aio.Channel) -> None:
    """Any call that works."""
    await insight_service_pb2_grpc.InsightServiceStub(on).ListDecisions(insight.ListDecisionsRequest())


async def shown(address: str, authority: Authority, own: Pair | None = None) -> str:
    """The common name of the certificate that a new connection is shown."""
    context = ssl.create_default_context(cafile=authority.certificate)
    context.set_alpn_protocols(["h2"])
    if own is not None:
        context.load_cert_chain(own.certificate, own.key)
    host, _, port = address.rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port), ssl=context)
    subject = writer.get_extra_info("peercert")["subject"]
    writer.close()
    with suppress(ssl.SSLError):  # the server may still be saying something
        await writer.wait_closed()
    return str(dict(part for each in subject for part in each)["commonName"])


@in_loop
async def test_mutual_tls_wants_a_certificate_and_knows_the_caller(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with running_service(**tls(authority.sign("server"), authority)) as service:
        for refused in (service.channel, channel(service.address, authority.credentials())):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(refused)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            await refused.close()
        known = authority.credentials(authority.sign("collector-7"))
        async with channel(service.address, known) as on:
            request = rulebases.PauseCampaignRequest(campaign="mms-bundle", reason="wrong price")
            await rulebase_service_pb2_grpc.RulebaseServiceStub(on).PauseCampaign(request)
        assert (await service.app.pauses.paused())["mms-bundle"].by == "collector-7"


@in_loop
async def test_new_connections_have_the_new_certificate_and_old_ones_live(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    authority = Authority(tmp_path)
    own, new = authority.sign("before"), authority.sign("after")
    async with (
        running_service(**tls(own)) as service,
        channel(service.address, authority.credentials()) as first,
    ):
        await call(first)
        assert await shown(service.address, authority) == "before"
        with caplog.at_level(logging.INFO):
            own.replace_by(new)
            assert await shown(service.address, authority) == "after"
        assert "new connections use the TLS files as they are now" in caplog.text
        await call(first)
        assert first.get_state() is grpc.ChannelConnectivity.READY
        async with channel(service.address, authority.credentials()) as second:
            await call(second)


@pytest.mark.parametrize("wrong", ["half", "other-key", "garbage", "gone"])
def test_files_that_do_not_fit_leave_the_old_pair_in_use(
    wrong: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    @in_loop
    async def body() -> None:
        authority = Authority(tmp_path)
        own, new = authority.sign("before"), authority.sign("after")
        whole = new.certificate.read_bytes()
        async with running_service(**tls(own)) as service:
            if wrong == "gone":
                own.certificate.unlink()
            else:
                content = {"half": whole[: len(whole) // 2], "other-key": whole, "garbage": b"\0" * 100}
                own.certificate.write_bytes(content[wrong])
            for _ in range(2):
                assert await shown(service.address, authority) == "before"
            said = [each for each in caplog.records if "those of before stay in use" in each.getMessage()]
            assert len(said) == 1
            own.certificate.write_bytes(whole)
            own.key.write_bytes(new.key.read_bytes())
            assert await shown(service.address, authority) == "after"

    body()


@in_loop
async def test_authorities_of_clients_change_with_their_file(tmp_path: Path) -> None:
    old, new = Authority(tmp_path / "old"), Authority(tmp_path / "new")
    server, roots = old.sign("server"), old.certificate.read_bytes()
    async with running_service(**tls(server, old)) as service:

        async def let_in(pair: Pair) -> bool:
            given = grpc.ssl_channel_credentials(
                roots, pair.key.read_bytes(), pair.certificate.read_bytes()
            )
            async with channel(service.address, given) as on:
                try:
                    await call(on)
                except grpc.aio.AioRpcError:
                    return False
                return True

        ours, theirs = old.sign("a"), new.sign("a")
        assert [await let_in(each) for each in (ours, theirs)] == [True, False]
        trusted = tmp_path / "old" / "ca.pem"
        only_old = trusted.read_bytes()
        trusted.write_bytes(only_old + new.certificate.read_bytes())
        assert [await let_in(each) for each in (ours, theirs)] == [True, True]
        trusted.write_bytes(b"none")  # nobody is locked out, and nobody more is let in
        assert [await let_in(each) for each in (ours, theirs)] == [True, True]
        trusted.write_bytes(only_old)
        assert [await let_in(each) for each in (ours, theirs)] == [True, False]


@pytest.mark.parametrize(
    ("with_tls", "more", "words"),
    [
        (False, {}, "must be encrypted"),
        (False, {"allow_plaintext": True}, ""),
        (False, {"allow_plaintext": True, "callers": True}, "would be sent there in plaintext"),
        (False, {"callers": True}, "must be encrypted"),
        (True, {}, "set callers, a file that lists who may call"),
        (True, {"allow_plaintext": True}, "set callers, a file that lists who may call"),
        (True, {"client_ca": True}, "set callers, a file that lists who may call"),
        (True, {"callers": True}, ""),
        (True, {"callers": True, "client_ca": True}, ""),
    ],
)
def test_what_other_machines_reach_is_encrypted_and_asks_who_calls(
    with_tls: bool, more: dict[str, bool], words: str, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    given: dict[str, Any] = {"allow_plaintext": more.get("allow_plaintext", False)}
    if with_tls:
        given |= tls(authority.sign("server"), authority if "client_ca" in more else None)
    if "callers" in more:
        given["callers"] = write_callers(
            tmp_path / "callers.yaml", [caller("a", "viewer", certificates=["a"])]
        )

    @in_loop
    async def body(listen: str, refused: str) -> None:
        settings = Settings(database="sqlite://", listen=listen, **given)
        async with application(settings, ManualClock(NOON_US)) as app:
            if refused:
                with pytest.raises(CannotServeError, match=refused):
                    build_server(app)
            else:
                await build_server(app).grpc.stop(0)

    body("0.0.0.0:0", words)
    body("127.0.0.1:0", "")
