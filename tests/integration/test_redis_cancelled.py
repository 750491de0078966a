"""Whoever is cancelled while it talks to Redis ends: were a task to go on, the service would never end.

The client of Redis sends by `asyncio.wait_for`, which up to Python 3.11 drops a cancellation that comes
just when it is done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from opportune_service.adapters.redis.layout import PREFIXES
from opportune_service.adapters.redis.nodes import Nodes, call
from support.applications import in_loop

TIMEOUT_SECONDS = 5.0

Talk = Callable[[Nodes], Awaitable[object]]


async def run(known: Nodes) -> object:
    return await known.run([call(0, b"GET", PREFIXES[0] + b"id")])


async def meet(known: Nodes) -> object:
    return await known.meet()


async def keys(known: Nodes) -> object:
    return await known.keys(b"*")


async def went_on(url: str, talk: Talk, *, connected: bool) -> list[int]:
    """After so many turns of the loop it was cancelled, and went on."""
    found: list[int] = []
    for turns in range(1_000):
        known = Nodes(url, cluster=False, timeout_seconds=TIMEOUT_SECONDS)
        try:
            await known.meet()
            if not connected:
                known._stale = True  # it connects anew
            talking = asyncio.ensure_future(talk(known))
            for _ in range(turns):
                await asyncio.sleep(0)
            if not talking.cancel():
                await talking
                return found
            await asyncio.wait([talking])
            if not talking.cancelled():
                found.append(turns)
        finally:
            await known.close()
    raise AssertionError("it never had time enough to end")


@pytest.mark.parametrize("connected", [True, False])
@pytest.mark.parametrize("talk", [run, meet, keys])
def test_whoever_is_cancelled_does_not_go_on(redis_url: str, talk: Talk, connected: bool) -> None:
    assert in_loop(lambda: went_on(redis_url, talk, connected=connected)) == []
