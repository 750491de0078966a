"""Ending streams when the server shuts down: no more is read, what was read is answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from opportune_service.adapters.grpc.errors import ShuttingDownError

T = TypeVar("T")


class Draining:
    """Whether the server drains, and the tasks to cancel when it begins to."""

    def __init__(self) -> None:
        self.begun = False
        self._tasks: set[asyncio.Task[object]] = set()

    def begin(self) -> None:
        """End all reading."""
        self.begun = True
        for task in self._tasks:
            task.cancel()

    @contextmanager
    def ends(self, task: asyncio.Task[object]) -> Iterator[None]:
        """Within the block, cancel `task` when draining begins."""
        if self.begun:
            task.cancel()
        self._tasks.add(task)
        try:
            yield
        finally:
            self._tasks.discard(task)


async def read_all(
    requests: AsyncIterator[T], take: Callable[[T], Awaitable[None]], draining: Draining
) -> Exception | None:
    """Hand every message of a stream to `take`, which holds back reading as long as it waits.

    Returns how it ended: None when the client half-closed, `ShuttingDownError` when the server drains,
    or the error that reading or `take` raised. Run it as a task under `draining.ends`.
    """
    try:
        async for message in requests:
            await take(message)
    except asyncio.CancelledError:
        if draining.begun:
            return ShuttingDownError()
        raise
    except Exception as error:  # noqa: BLE001 - handed to whoever answers the stream, in its turn
        return error
    return None
