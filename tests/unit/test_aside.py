"""Long computations beside the event loop, one at a time."""

from __future__ import annotations

import asyncio
import threading

import pytest
from opportune_service.app.aside import in_turn
from support.server import in_loop


@in_loop
async def test_only_one_has_the_turn() -> None:
    turn, here, most = asyncio.Lock(), [0], [0]

    def call() -> str:
        here[0] += 1
        most[0] = max(most[0], here[0])
        for _ in range(10_000):
            pass
        here[0] -= 1
        return "done"

    answers = await asyncio.gather(*(in_turn(turn, call) for _ in range(20)))
    assert (answers, most) == (["done"] * 20, [1])


@in_loop
async def test_whoever_goes_away_leaves_no_computation_behind() -> None:
    turn, begun, gone = asyncio.Lock(), threading.Event(), threading.Event()
    ended: list[str] = []

    def long() -> None:
        begun.set()
        gone.wait()
        ended.append("the first")
        raise ValueError("nobody is there to be told")

    first = asyncio.create_task(in_turn(turn, long, gone.set))
    await asyncio.to_thread(begun.wait)
    second = asyncio.create_task(in_turn(turn, lambda: ended.append("the second")))
    first.cancel()
    await second
    assert ended == ["the first", "the second"]
    with pytest.raises(asyncio.CancelledError):
        await first


@in_loop
async def test_what_it_raises_is_told() -> None:
    turn = asyncio.Lock()
    with pytest.raises(ZeroDivisionError):
        await in_turn(turn, lambda: 1 / 0)
    assert await in_turn(turn, lambda: 1) == 1
