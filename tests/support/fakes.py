"""What the tests of the clients share: what they send to the fake that users get for their own tests."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from opportune_client import Event
from opportune_client.testing import FakeOpportune

PATIENCE = 20.0
"""Seconds until a test that would hang fails instead."""

NOON = datetime(2014, 6, 1, 12, tzinfo=UTC)
NUMBER = "8613900000001"


def events(count: int, start: int = 0) -> list[Event]:
    return [Event(f"e{n}", NUMBER, "power_on", NOON, {"n": n}) for n in range(start, start + count)]


def ids(fake: FakeOpportune) -> list[str]:
    return [event.id for event in fake.events]


def in_loop(body: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(PATIENCE):
            await body()

    asyncio.run(bounded())
