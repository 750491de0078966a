"""Who is let in: each call before anything is done for it, and streams as long as they are open."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import grpc
from google.protobuf.message import Message

from opportune_service.adapters.grpc.errors import CallerChangedError
from opportune_service.app.access import Access, Admission, Proof, proof
from opportune_service.app.errors import OpportuneError, UnauthenticatedError
from opportune_service.app.ports import Clock
from opportune_service.core.admit import mask

log = logging.getLogger(__name__)

_EVERY_SECONDS = 1.0
"""How often open streams are looked through: so long may one outlive its token, or its line in the list."""
_SAID_EVERY_SECONDS = 1.0
"""How often refusals are logged at most. Whoever tries tokens must not fill the disk."""
_NAMES = ("x509_common_name", "peer_dns", "peer_uri")
"""Where gRPC has the names of a client certificate that it verified."""


@dataclass(slots=True, eq=False)
class Stream:
    """A stream that is open. `ended`: why the gate has ended it."""

    task: asyncio.Task[object]
    shown: Proof
    opened_by: frozenset[str]
    admission: Admission
    ended: OpportuneError | None = None


class Gate:
    """Lets calls in by the list of callers. `access` None: there is no list, and everybody may do all."""

    def __init__(self, access: Access | None, clock: Clock) -> None:
        self._access = access
        self._clock = clock
        self._streams: set[Stream] = set()
        self._said_at = float("-inf")
        self._unsaid = 0

    @property
    def open(self) -> bool:
        """Whether nobody is asked anything."""
        return self._access is None

    def proof(
        self, context: grpc.aio.ServicerContext[Message, Message], authorization: tuple[str | bytes, ...]
    ) -> Proof:
        """What the call shows; `authorization`: all headers of that name. Raises
        `UnauthenticatedError`."""
        if authorization:
            first = authorization[0]
            if len(authorization) > 1 or not isinstance(first, str):
                raise UnauthenticatedError("send one authorization header")
            return proof(first, ())
        known = context.auth_context()
        return proof(
            None, tuple(name.decode("utf-8", "replace") for key in _NAMES for name in known.get(key, ()))
        )

    def admit(self, shown: Proof, opened_by: frozenset[str]) -> Admission | None:
        """Let a call in that these roles open; None if there is no list of callers. Raises
        `UnauthenticatedError`, `ForbiddenError`, `RateLimitedError`."""
        if self._access is None:
            return None
        return self._access.admit(shown, opened_by, self._clock.now_us())

    def say(self, method: str, error: OpportuneError) -> None:
        """Log that a call was refused, unless that was just done."""
        now = time.monotonic()
        if now < self._said_at + _SAID_EVERY_SECONDS:
            self._unsaid += 1
            return
        more = f" ({self._unsaid} more since the last such line)" if self._unsaid else ""
        log.warning("refused %s: %s%s", method, mask(str(error)), more)
        self._said_at, self._unsaid = now, 0

    @contextmanager
    def following(self, stream: Stream) -> Iterator[None]:
        """Within the block the stream's task is cancelled once its caller may not have it any more."""
        self._streams.add(stream)
        try:
            yield
        finally:
            self._streams.discard(stream)

    def look_through(self) -> None:
        """End the streams whose callers could not open them any more as they did."""
        if self._access is None:
            return
        now_us = self._clock.now_us()
        for stream in tuple(self._streams):
            if stream.ended is None:
                try:
                    known = self._access.check(stream.shown, stream.opened_by, now_us)
                except OpportuneError as error:
                    stream.ended = error
                else:
                    if known.caller == stream.admission.caller:
                        continue
                    stream.ended = CallerChangedError()
                stream.task.cancel()

    async def follow(self) -> None:
        """Do so again and again, until cancelled."""
        while True:
            await asyncio.sleep(_EVERY_SECONDS)
            self.look_through()
