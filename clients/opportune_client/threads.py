"""Leads a conversation over gRPC with a thread of its own."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import grpc

from opportune_client.connection import Backoff
from opportune_client.conversation import ContractError, Conversation
from opportune_client.errors import OpportuneError, ServiceError, UnavailableError, of_stream

logger = logging.getLogger(__name__)

Request = TypeVar("Request")
Response = TypeVar("Response")
Effect = TypeVar("Effect")


class ThreadedStream(Generic[Request, Response, Effect]):
    """Keeps a conversation going over as many streams as it takes.

    Whoever touches `talk` holds `changed` and notifies it afterwards. `handle` is called for each
    effect in the stream's thread, without the lock; what it raises ends the stream for good and is
    raised by `wait`. Errors that may pass lead to another stream, after a pause.
    """

    def __init__(
        self,
        open_stream: Callable[[Iterator[Request]], Any],
        talk: Conversation[Request, Response, Effect],
        handle: Callable[[Effect], None],
        name: str,
    ) -> None:
        self.changed = threading.Condition()
        self.trouble: OpportuneError | None = None
        """Why the last stream broke; None while one is open."""
        self.handling = False
        """Whether effects of what was received are still being handled."""
        self._open_stream = open_stream
        self._talk = talk
        self._handle = handle
        self._failure: Exception | None = None
        self._turn: object = None  # what names the present stream; another or None ends its writer
        self._call: Any = None
        self._abandoned = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin; once only."""
        self._thread.start()

    def check(self) -> None:
        """Raises what ended the stream for good, if anything did, or RuntimeError before `start`."""
        if self._thread.ident is None:
            raise RuntimeError("not started yet; use it in a with statement")
        if self._failure is not None:
            raise self._failure

    def wait(self, predicate: Callable[[], bool], timeout: float | None) -> bool:
        """Wait for `predicate`, called with the lock held, which the caller holds too. False: the time
        was over. Raises as `check`."""
        self.changed.wait_for(lambda: predicate() or self._failure is not None, timeout)
        if not predicate():
            self.check()
            return False
        return True

    def close(self, timeout: float | None) -> bool:
        """Say what is left and end. False: the time was over first, and the rest is abandoned."""
        with self.changed:
            self._talk.finish()
            self.changed.notify_all()
        self._thread.join(timeout)
        finished = not self._thread.is_alive()
        self.abandon()
        return finished

    def abandon(self) -> None:
        """End at once, whatever is left."""
        with self.changed:
            self._abandoned = True
            call = self._call
            self.changed.notify_all()
        if call is not None:
            call.cancel()
        if self._thread.is_alive():
            self._thread.join()

    def _over(self) -> bool:
        return self._abandoned or self._talk.settled

    def _run(self) -> None:
        backoff = Backoff()
        while not self._over():
            before = self._talk.progress
            try:
                trouble = self._converse()
            except Exception as error:  # noqa: BLE001 - from `handle`; kept, and raised where it is seen
                self._fail(error)
                return
            if trouble is None:
                continue
            if not trouble.retryable:
                self._fail(trouble)
                return
            if self._talk.progress > before:
                backoff.reset()
            with self.changed:
                self.trouble = trouble
                self.changed.wait_for(self._over, backoff.next(trouble.retry_after))

    def _fail(self, error: Exception) -> None:
        with self.changed:
            self._failure = error
            self._turn = None
            self.changed.notify_all()
        if self._call is not None:
            self._call.cancel()

    def _converse(self) -> OpportuneError | None:
        """One stream from hello to end; why it ended, None if that was wanted."""
        turn = object()
        with self.changed:
            if self._abandoned:
                return None
            hello = self._talk.open()
            self._turn = turn
            self._call = self._open_stream(self._requests(hello, turn))
        welcomed = False
        try:
            for response in self._call:
                welcomed = True
                with self.changed:
                    effects = self._talk.receive(response, _now_us())
                    self.trouble = None
                    self.handling = bool(effects)
                    self.changed.notify_all()
                if effects:
                    for effect in effects:
                        self._handle(effect)
                    with self.changed:
                        self.handling = False
                        self.changed.notify_all()
        except grpc.RpcError as error:
            return _caused(of_stream(error, welcomed=welcomed), error)
        except ContractError as error:
            self._call.cancel()
            return _caused(ServiceError(str(error)), error)
        finally:
            with self.changed:
                self._turn = None
                self.changed.notify_all()
        return None if self._over() else UnavailableError("the service ended the stream")

    def _requests(self, hello: Request, turn: object) -> Iterator[Request]:
        yield hello
        while True:
            with self.changed:
                while (message := self._next(turn)) is None:
                    if self._turn is not turn or self._abandoned or self._talk.may_half_close:
                        return
                    wake_us = self._talk.wake_us()
                    self.changed.wait(None if wake_us is None else max(0, wake_us - _now_us()) / 1e6)
            yield message

    def _next(self, turn: object) -> Request | None:
        return self._talk.take(_now_us()) if self._turn is turn and not self._abandoned else None


def _caused(error: OpportuneError, cause: Exception) -> OpportuneError:
    error.__cause__ = cause
    return error


def _now_us() -> int:
    return time.monotonic_ns() // 1_000
