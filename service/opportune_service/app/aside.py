"""Long computations beside the event loop, in turns so short that callers hardly notice."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterable
from typing import TypeVar

__all__ = ["aside", "in_turn", "let_go"]

T = TypeVar("T")

_TURN_SECONDS = 0.00003
"""Python lets one thread compute at a time, and who wants its turn waits so long before it takes it. A call
goes through several threads, and a commit asks for its turn at every statement, so short turns are worth
much: with Python's own 5 ms, one publish in a hundred took 0.13 s while a rulebase of 200 campaigns was
made ready; with this, 0.03 s. The computation takes half as long again."""

_computing = 0
_usual_seconds = 0.0


async def aside(call: Callable[[], T]) -> T:
    """What `call` returns, computed in a thread. Raises what it raises.

    Meanwhile all threads of the process take short turns. Call it from the event loop. What is one call of
    C (compiling a long source, freeing a large object) is one turn, however long it takes.
    """
    global _computing, _usual_seconds  # noqa: PLW0603 - the interval is one for the whole process
    if not _computing:
        _usual_seconds = sys.getswitchinterval()
        sys.setswitchinterval(_TURN_SECONDS)
    _computing += 1
    try:
        return await asyncio.to_thread(call)
    finally:
        _computing -= 1
        if not _computing:
            sys.setswitchinterval(_usual_seconds)


async def in_turn(
    turn: asyncio.Lock, call: Callable[[], T], left: Callable[[], object] = lambda: None
) -> T:
    """As `aside`, while nobody else has the turn: so whoever asks for much keeps others from their turns,
    and not everybody from all threads. Even if the caller goes away the turn is over when `call` has ended;
    `left` is called before, and may have it end early."""
    async with turn:
        running = asyncio.create_task(aside(call))
        try:
            return await asyncio.shield(running)
        finally:
            if not running.done():
                left()
                await asyncio.wait({running})
                if not running.cancelled():
                    running.exception()  # nobody is there to be told


_HELD_SECONDS = 1.0
_AT_ONCE = 100
"""Campaigns that are freed in one piece: some 3 ms."""


def let_go(things: Iterable[object]) -> None:
    """Free what nobody else holds any more a second from now, a few at a time. Call it on the event loop.

    Freeing the 3,000 campaigns of a rulebase takes 0.1 s, and in one piece nobody else has a turn.
    """
    held, loop = list(things), asyncio.get_running_loop()

    def free_some() -> None:
        del held[-_AT_ONCE:]
        if held:
            loop.call_soon(free_some)

    loop.call_later(_HELD_SECONDS, free_some)
