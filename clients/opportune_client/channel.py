"""The channel client for threads: takes decisions, has them sent, says what became of them."""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from types import TracebackType
from typing import Final, Self

import grpc
from opportune.v1 import delivery_service_pb2 as pb
from opportune.v1.delivery_service_pb2_grpc import DeliveryServiceStub

from opportune_client.errors import BufferFullError, OpportuneError, UnsentError
from opportune_client.leases import ChannelCounters, Failed, Handled, LeaseBook, Message, Sent, Work
from opportune_client.threads import ThreadedStream
from opportune_client.words import OutcomeKind

logger = logging.getLogger(__name__)

MAX_RECEIPTS: Final = 10_000
"""How many receipts may wait for the service's answer."""


class ChannelClient:
    """Attaches to an automatic or bulk channel and hands each message to `handler`, up to `credit` at once.

    `handler` runs in a pool of `credit` threads. It returns `Sent()`, or `Failed()` if the message
    certainly did not go out. If it raises or returns anything else, nobody knows: no ack is given, the
    service counts a contact and, when the lease is over, hands the message out again under the same
    `idempotency_key`. A slow handler only ever holds `credit` messages; the service gives others to
    other clients.

    Guaranteed: the handler has a message once at a time, and not again after it returned `Sent` or a
    final `Failed` in this process; acks and receipts are repeated until answered. Not guaranteed: that
    a message is never seen twice after a crash, or after the handler raised. A gateway that must never
    send twice has to know the idempotency keys it has seen.

    Use it in a `with` statement; leaving it takes no more messages, waits for the handlers and for all
    answers for up to `close_timeout` seconds, then raises `UnsentError` with the number of receipts
    that were not answered. `wait` blocks until the client ends.
    """

    def __init__(
        self,
        channel: grpc.Channel,
        name: str,
        handler: Callable[[Message], Handled],
        *,
        client_name: str = "python",
        credit: int = 16,
        close_timeout: float | None = 30,
    ) -> None:
        self._book = new_book(name, client_name, credit)
        self._handler = handler
        self._close_timeout = close_timeout
        self._ended = threading.Event()
        self._pool = ThreadPoolExecutor(credit, f"opportune-{name}")
        self._stream: ThreadedStream[pb.AttachRequest, pb.AttachResponse, Work] = ThreadedStream(
            DeliveryServiceStub(channel).Attach, self._book, self._start, f"opportune-channel-{name}"
        )

    def __enter__(self) -> Self:
        self._stream.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        finished = self._stream.close(self._close_timeout)
        self._ended.set()
        self._pool.shutdown(wait=finished, cancel_futures=True)
        if error is None:
            self._stream.check()
            if not finished:
                raise unanswered_error(self._book)

    @property
    def counters(self) -> ChannelCounters:
        """A copy of the counters at this moment."""
        with self._stream.changed:
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
        """Reports what became of a message; repeated until the service has answered. Does not wait.

        The same outcome for the same decision, or the same `receipt_id`, counts once. Refused receipts
        are counted in `counters.refused`. BufferFullError: too many wait for an answer.
        """
        with self._stream.changed:
            self._stream.check()
            check_receipts(self._book)
            self._book.report(decision_id, outcome, occurred_at, detail, receipt_id)
            self._stream.changed.notify_all()

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until all receipts are answered. False: the time was over."""
        with self._stream.changed:
            return self._stream.wait(lambda: not self._book.unanswered_receipts, timeout)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the client cannot go on, and raise why. False: the time was over."""
        with self._stream.changed:
            return self._stream.wait(lambda: False, timeout)

    def _start(self, work: Work) -> None:
        self._pool.submit(self._handle, work)

    def _handle(self, work: Work) -> None:
        try:
            handled = expired(work.message) or checked(self._handler(work.message))
        except Exception as error:  # noqa: BLE001 - the text may quote a number; the type is logged
            self._unsure(work, error)
            return
        with self._stream.changed:
            self._book.finished(work, handled)
            self._stream.changed.notify_all()

    def _unsure(self, work: Work, error: Exception) -> None:
        log_unsure(work.message, error)
        with self._stream.changed:
            self._book.unsure(work)
            self._stream.changed.notify_all()
            lease_seconds = self._book.lease_us / 1e6
        self._ended.wait(lease_seconds)  # keeps this thread: the service still counts its slot
        with self._stream.changed:
            self._book.rested(work)
            self._stream.changed.notify_all()


def new_book(name: str, client_name: str, credit: int) -> LeaseBook:
    """A lease book, or ValueError if a setting makes no sense."""
    if not name or not client_name:
        raise ValueError("a channel client needs the channel's name and one of its own")
    if credit < 1:
        raise ValueError("credit must be at least 1: the most messages to handle at once")
    return LeaseBook(name, client_name, credit)


def expired(message: Message) -> Failed | None:
    """The answer to a message whose time is over, so that it is not sent. That of its lease: the offer may
    last beyond the quiet hours before which the lease ends, as the service knows."""
    if message.expires_at is None or datetime.now(UTC) < message.expires_at:
        return None
    return Failed("its time was over before it could be sent")


def checked(handled: Handled) -> Handled:
    """What the handler said. TypeError: it did not say what happened."""
    if not isinstance(handled, Sent | Failed):
        raise TypeError("the handler returned neither Sent nor Failed")
    return handled


def check_receipts(book: LeaseBook) -> None:
    """Raises `BufferFullError` while too many receipts wait."""
    if book.unanswered_receipts >= MAX_RECEIPTS:
        raise BufferFullError(f"{MAX_RECEIPTS} receipts wait for an answer; see trouble and try later")


def log_unsure(message: Message, error: Exception) -> None:
    """Says that a handler raised, without its text, which may quote a number."""
    logger.error(
        "handler raised %s for decision %s; not acknowledged, as nobody knows whether it was sent",
        type(error).__name__,
        message.decision_id,
    )


def unanswered_error(book: LeaseBook) -> UnsentError:
    """The error for a client that was closed too early."""
    count = book.unanswered_receipts
    return UnsentError(
        f"closed before everything was answered; {count} receipts may be lost, report them again", ()
    )
