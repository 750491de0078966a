"""Clients that live longer than their tokens: a token that is renewed in time interrupts nothing."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from opportune_client import AccessError, AsyncEventCollector, Event, EventCollector, connect, connect_async
from opportune_service.app.access import new_token
from opportune_service.clocks import ManualClock
from support.callers import DAY_US, caller, token_line, write_callers
from support.rulebases import NOON_US
from support.server import Service, in_loop, running_service
from support.tls import Authority

LATER = "2026-12-31T00:00:00Z"


def renewing(directory: Path) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """Settings of a service, options of a client, and the one token that the client shows, which expires
    within a day."""
    authority = Authority(directory)
    own, shown = authority.sign("server"), [new_token()]
    path = write_callers(
        directory / "callers.yaml", [caller("ggsn", "collector", tokens=[token_line(shown[0])])]
    )
    return (
        {"tls_certificate": own.certificate, "tls_key": own.key, "callers": path},
        {"root_certificates": authority.certificate.read_bytes(), "token": lambda: shown[0]},
        shown,
    )


def of_day(clock: ManualClock, number: int) -> Event:
    at = datetime.fromtimestamp(clock.now_us() / 1_000_000, UTC)
    return Event(f"e{number}", "8613800000001", "mms_sent", at, {"size_kb": 80})


async def ended(service: Service) -> None:
    """Wait until the service has ended the stream because of its token."""
    figures = service.server.calls.figures["opportune.v1.EventService/StreamEvents"]
    while not figures.ended["UNAUTHENTICATED"]:  # noqa: ASYNC110 - there is no event to wait for
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("kind", ["threads", "asyncio"])
def test_a_collector_goes_on_with_the_renewed_token(kind: str, tmp_path: Path) -> None:
    @in_loop
    async def body() -> None:
        clock = ManualClock(NOON_US)
        settings, options, shown = renewing(tmp_path)
        other = new_token()
        async with running_service(clock=clock, **settings) as service:

            async def renew() -> None:
                path = settings["callers"]
                old, new = token_line(shown[0]), token_line(other, LATER)
                access = service.app.access
                assert access is not None
                before = access.register
                write_callers(path, [caller("ggsn", "collector", tokens=[old, new])])
                while access.register is before:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                shown[0] = other
                clock.value_us += DAY_US
                await ended(service)

            if kind == "asyncio":
                async with (
                    connect_async(service.address, **options) as channel,
                    AsyncEventCollector(channel, "ggsn") as collector,
                ):
                    await collector.send(of_day(clock, 1))
                    await collector.flush()
                    await renew()
                    await collector.send(of_day(clock, 2))
                    await collector.flush()
            else:
                with connect(service.address, **options) as channel:
                    sync = await asyncio.to_thread(EventCollector(channel, "ggsn").__enter__)
                    sync.send(of_day(clock, 1))
                    await asyncio.to_thread(sync.flush)
                    await renew()
                    sync.send(of_day(clock, 2))
                    await asyncio.to_thread(sync.flush)
                    await asyncio.to_thread(sync.__exit__, None, None, None)
            assert service.app.ingest.figures.events["mms_sent", "accepted"] == 2

    body()


@in_loop
async def test_a_collector_whose_token_is_not_renewed_says_so(tmp_path: Path) -> None:
    clock = ManualClock(NOON_US)
    settings, options, _ = renewing(tmp_path)
    async with (
        running_service(clock=clock, **settings) as service,
        connect_async(service.address, **options) as channel,
    ):
        collector = AsyncEventCollector(channel, "ggsn")
        await collector.__aenter__()
        await collector.send(of_day(clock, 1))
        await collector.flush()
        clock.value_us += DAY_US
        await ended(service)
        with pytest.raises(AccessError, match="expired"):
            await send_for_ever(collector, clock)
        with pytest.raises(AccessError):
            await collector.__aexit__(None, None, None)


async def send_for_ever(collector: AsyncEventCollector, clock: ManualClock) -> None:
    number = 2
    while True:
        await collector.send(of_day(clock, number))
        await collector.flush()
        number += 1
