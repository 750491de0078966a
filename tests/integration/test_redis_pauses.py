"""A process that pauses does not take its own pause for an outage of Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping

from opportune_service.adapters.redis.live_state import RedisLiveState
from support.applications import in_loop
from support.small_rulebase import subscribers

TIMEOUT_SECONDS = 0.2


async def no_snapshots(_: Collection[str]) -> Mapping[str, bytes]:
    return {}


def test_what_came_during_a_pause_is_read_first(redis_url: str) -> None:
    """As the collector of garbage does it, or a machine with too much to do: after some turns of the loop
    nothing runs for longer than Redis may take."""

    async def body() -> None:
        states = RedisLiveState(redis_url, no_snapshots, member=1, timeout_seconds=TIMEOUT_SECONDS)
        try:
            await states.load(subscribers(1))
            for turns in range(10):
                loading = asyncio.create_task(states.load(subscribers(300)))
                for _ in range(turns):
                    await asyncio.sleep(0)
                time.sleep(2 * TIMEOUT_SECONDS)  # noqa: ASYNC251 - the pause
                assert len(await loading) == 300
                await states.release(subscribers(300))
        finally:
            await states.close()

    in_loop(body)
