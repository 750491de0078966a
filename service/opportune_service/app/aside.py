"""Long computations beside the event loop, in turns so short that callers hardly notice."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import TypeVar

__all__ = ["aside"]

T = TypeVar("T")

_TURN_SECONDS = 0.0005
"""Python lets one thread compute at a time, and whoever waits asks for its turn after so long. A call passes
through several threads, and each waits once or more: with Python's 5 ms a publish took 30 ms while a rulebase
was being compiled. A turn costs some microseconds."""

_computing = 0
_usual_seconds = 0.0


async def aside(call: Callable[[], T]) -> T:
    """What `call` returns, computed in a thread of its own. Raises what it raises.

    Threads of the process take short turns meanwhile. Call it on the event loop.
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
