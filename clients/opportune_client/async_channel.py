# ruff: noqa: ASYNC109 - timeouts are given as in the synchronous clients
"""The channel client for programs that live in an event loop."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from datetime import datetime
from types import TracebackType
from typing import Self

from grpc import aio
from opportune.v1 import delivery_service_pb2 as pb
from opportune.v1.delivery_service_pb2_grpc import DeliveryServiceStub

from opportune_client.channel import (
    check_receipts,
    checked,
    expired,
    log_unsure,
    new_book,
    unanswered_error,
)
from opportune_client.errors import OpportuneError
from opportune_client.leases import ChannelCounters, Handled, Message, Work
from opportune_client.tasks import AsyncStream
from opportune_client.words import OutcomeKind


class AsyncChannelClient:
    """As `ChannelClient`, with the same settings and guarantees, for one event loop.

    `handler` is a coroutine function; up to `credit` of them run at once. Use it in an `async with`
    statement.
    """

    def __init__(
        self,
        channel: aio.Channel,
        name: str,
        handler: Callable[[Message], Awaitable[Handled]],
        *,
        client_name: str = "python",
        credit: int = 16,
        close_timeout: float | None = 30,
    ) -> None:
        self._book = new_book(name, client_name, credit)
        self._handler = handler
        self._close_timeout = close_timeout
        self._tasks: set[asyncio.Task[None]] = set()
        self._stream: AsyncStream[pb.AttachRequest, pb.AttachResponse, Work] = AsyncStream(
            DeliveryServiceStub(channel).Attach, self._book, self._start, f"opportune-channel-{name}"
        )

    async def __aenter__(self) -> Self:
        self._stream.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        finished = await self._stream.close(self._close_timeout)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if error is None:
            self._stream.check()
            if not finished:
                raise unanswered_error(self._book)

    @property
    def counters(self) -> ChannelCounters:
        """A copy of the counters at this moment."""
        return dataclasses.replace(self._book.counters)

    @property
    def trouble(self) -> OpportuneError | None:
        """Why there is no stream at the moment; None if there is one or it is being opened."""
        return self._stream.trouble

    def receipt(
        self,
        decision_id: str,
        outcome: OutcomeKind,
        *,
        occurred_at: datetime | None = None,
        detail: str = "",
        receipt_id: str = "",
    ) -> None:
        """As `ChannelClient.receipt`; does not wait."""
        self._stream.check()
        check_receipts(self._book)
        self._book.report(decision_id, outcome, occurred_at, detail, receipt_id)
        self._stream.notify()

    async def flush(self, timeout: float | None = None) -> bool:
        """Wait until all receipts are answered. False: the time was over."""
        return await self._stream.wait(lambda: not self._book.unanswered_receipts, timeout)

    async def wait(self, timeout: float | None = None) -> bool:
        """Wait until the client cannot go on, and raise why. False: the time was over."""
        return await self._stream.wait(lambda: False, timeout)

    def _start(self, work: Work) -> None:
        task = asyncio.create_task(self._handle(work))
        self._tasks.add(task)  # the loop itself keeps only a weak reference
        task.add_done_callback(self._tasks.discard)

    async def _handle(self, work: Work) -> None:
        try:
            handled = expired(work.message) or checked(await self._handler(work.message))
        except Exception as error:  # noqa: BLE001 - the text may quote a number; the type is logged
            log_unsure(work.message, error)
            self._book.unsure(work)
            self._stream.notify()
            await asyncio.sleep(self._book.lease_us / 1e6)
            self._book.rested(work)
        else:
            self._book.finished(work, handled)
        self._stream.notify()
