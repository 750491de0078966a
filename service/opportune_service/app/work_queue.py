"""The works that wait for the pipeline, in the order in which they came."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from opportune_service.app.errors import StoreUnavailableError
from opportune_service.app.works import Work

GROUP_EVENTS = 2_000
"""A commit group takes waiting batches up to about this many events: a disk write is then a small part
of the cost, and nobody waits long for the rest of the group."""

MAX_QUEUED_EVENTS = 50_000
"""More than this waiting means that callers are faster than the service; further batches wait outside."""


_CLOSED = "the service is shutting down; send it again to another one"


class WorkQueue:
    """Works are put in by callers and taken by the pipeline. `wake`: called when there is something to
    take. `events`: how many events and the like wait."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._works: deque[Work] = deque()
        self._urgent: deque[Work] = deque()
        self._room = asyncio.Event()
        self._room.set()
        self._closed = False
        self.events = 0

    async def put(self, work: Work) -> None:
        """Queue a work as soon as there is room. Raises `StoreUnavailableError` when it is closed."""
        while self.events >= MAX_QUEUED_EVENTS and not self._closed:
            self._room.clear()
            await self._room.wait()
        if self._closed:
            raise StoreUnavailableError(_CLOSED)
        self._works.append(work)
        self.events += work.size
        self._wake()

    def put_back(self, works: Sequence[Work]) -> None:
        """Put works that were taken before everything else that waits but what is urgent, also when it is
        closed."""
        self._works.extendleft(reversed(works))
        self.events += sum(work.size for work in works)
        if works:
            self._wake()

    def put_urgent(self, work: Work) -> None:
        """Put a work before all others, also when it is closed: they may wait for what it does."""
        self._urgent.append(work)
        self._wake()

    def take(self) -> list[Work]:
        """The works of the next commit group; none if nothing waits."""
        if self._urgent:
            self._wake()
            return [self._urgent.popleft()]
        works: list[Work] = []
        size = 0
        while self._works and size < GROUP_EVENTS:
            if works and (works[0].between or self._works[0].between):
                break  # it stands alone
            work = self._works.popleft()
            works.append(work)
            size += work.size
        self.events -= size
        if self._works:
            self._wake()
        self._room.set()
        return works

    def forget(self, subscriber_id: str) -> None:
        """Drop what the service itself has queued of a subscriber who is erased. What is queued of
        backfills goes whole: it was read from the log."""
        for work in self._works:
            size = work.size
            work.fills = ()
            work.dues = [due for due in work.dues if due.subscriber_id != subscriber_id]
            work.showing = [each for each in work.showing if each.subscriber_id != subscriber_id]
            self.events -= size - work.size

    def close(self) -> None:
        """Take in no more; what waits can still be taken."""
        self._closed = True
        self._room.set()
