"""What collectors and channel clients have in common: one conversation over as many streams as it takes.

A conversation is pure: it is told what came and asked what to say, and reads no clock and no socket.
`threads.ThreadedStream` and `tasks.AsyncStream` lead one over gRPC.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

Request_co = TypeVar("Request_co", covariant=True)
Response_contra = TypeVar("Response_contra", contravariant=True)
Effect_co = TypeVar("Effect_co", covariant=True)


class ContractError(Exception):
    """The other side said something that the contract forbids. The stream is given up."""


class Conversation(Protocol[Request_co, Response_contra, Effect_co]):
    """One side of a bidirectional stream. Not thread-safe: whoever leads it holds a lock.

    Instants are microseconds of one monotonic clock.
    """

    @property
    def progress(self) -> int:
        """Rises whenever something is settled. A stream that made progress was no failure."""

    @property
    def may_half_close(self) -> bool:
        """Whether nothing more will be said on this stream."""

    @property
    def settled(self) -> bool:
        """Whether the conversation is over: closing, with nothing left to say or to hear."""

    def open(self) -> Request_co:
        """A new stream begins: the hello. Whatever the last stream left unanswered will be said again."""

    def take(self, now_us: int) -> Request_co | None:
        """What may be said now, or None."""

    def wake_us(self) -> int | None:
        """When there will be something to say though nothing happens before. None: never."""

    def receive(self, response: Response_contra, now_us: int) -> Sequence[Effect_co]:
        """Takes an answer in; what the leader has to do because of it. Raises `ContractError`."""

    def finish(self) -> None:
        """Closing begins: say what is left, then nothing more."""
