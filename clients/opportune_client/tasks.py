# ruff: noqa: ASYNC109 - timeouts are given as in the synchronous clients
"""Leads a conversation over gRPC with tasks of the running event loop."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import grpc

from opportune_client.connection import Backoff
from opportune_client.conversation import ContractError, Conversation
from opportune_client.errors import OpportuneError, ServiceError, UnavailableError, of_stream

Request = TypeVar("Request")
Response = TypeVar("Response")
Effect = TypeVar("Effect")


class AsyncStream(Generic[Request, Response, Effect]):
    """As `ThreadedStream`, in one event loop: no lock, and `notify` after each touch of `talk`."""

    def __init__(
        self,
        open_stream: Callable[[None], Any],
        talk: Conversation[Request, Response, Effect],
        handle: Callable[[Effect], None],
        name: str,
    ) -> None:
        self.trouble: OpportuneError | None = None
        """Why the last stream broke; None while one is open."""
        self._open_stream = open_stream
        self._talk = talk
        self._handle = handle
        self._name = name
        self._failure: Exception | None = None
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin; once only, in the loop that is to lead it."""
        self._task = asyncio.create_task(self._run(), name=self._name)

    def notify(self) -> None:
        """Wake whoever waits for a change."""
        news, self._news = self._news, asyncio.Event()
        news.set()

    def check(self) -> None:
        """Raises what ended the stream for good, if anything did, or RuntimeError before `start`."""
        if self._task is None:
            raise RuntimeError("not started yet; use it in an async with statement")
        if self._failure is not None:
            raise self._failure

    async def wait(self, predicate: Callable[[], bool], timeout: float | None) -> bool:
        """Wait for `predicate`. False: the time was over. Raises as `check`."""
        try:
            async with asyncio.timeout(timeout):
                while not predicate():
                    self.check()
                    await self._news.wait()
        except TimeoutError:
            return predicate()
        return True

    async def close(self, timeout: float | None) -> bool:
        """Say what is left and end. False: the time was over first, and the rest is abandoned."""
        self._talk.finish()
        self.notify()
        if self._task is None:
            return True
        done, _ = await asyncio.wait([self._task], timeout=timeout)
        if not done:
            self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        return bool(done)

    async def _run(self) -> None:
        backoff = Backoff()
        try:
            while not self._talk.settled:
                before = self._talk.progress
                trouble = await self._converse()
                if trouble is None:
                    continue
                if not trouble.retryable:
                    self._failure = trouble
                    return
                if self._talk.progress > before:
                    backoff.reset()
                self.trouble = trouble
                await self.wait(lambda: self._talk.settled, backoff.next(trouble.retry_after))
        except Exception as error:  # noqa: BLE001 - kept, and raised where it is seen
            self._failure = error
        finally:
            self.notify()

    async def _converse(self) -> OpportuneError | None:
        """One stream from hello to end; why it ended, None if that was wanted."""
        hello = self._talk.open()
        call = self._open_stream(None)
        writer = asyncio.create_task(self._write(call, hello), name=f"{self._name}-writer")
        welcomed = False
        try:
            async for response in call:
                welcomed = True
                effects = self._talk.receive(response, _now_us())
                self.trouble = None
                self.notify()
                for effect in effects:
                    self._handle(effect)
        except grpc.RpcError as error:
            return _caused(of_stream(error, welcomed=welcomed), error)
        except ContractError as error:
            return _caused(ServiceError(str(error)), error)
        finally:
            writer.cancel()
            call.cancel()
            await asyncio.gather(writer, return_exceptions=True)
        return None if self._talk.settled else UnavailableError("the service ended the stream")

    async def _write(self, call: Any, hello: Request) -> None:
        """Says what there is to say. A broken stream ends it; the reader learns why."""
        try:
            await call.write(hello)
            while True:
                news = self._news
                message = self._talk.take(_now_us())
                if message is not None:
                    await call.write(message)
                    continue
                if self._talk.may_half_close:
                    await call.done_writing()
                    return
                wake_us = self._talk.wake_us()
                timeout = None if wake_us is None else max(0, wake_us - _now_us()) / 1e6
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(timeout):
                        await news.wait()
        except (grpc.RpcError, asyncio.InvalidStateError):
            return


def _caused(error: OpportuneError, cause: Exception) -> OpportuneError:
    error.__cause__ = cause
    return error


def _now_us() -> int:
    return time.monotonic_ns() // 1_000
