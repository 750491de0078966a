"""The works that wait for the pipeline: what streams send ahead, and what callers wait for."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from opportune_service.app.errors import StoreUnavailableError
from opportune_service.app.waiting import Waiting
from opportune_service.app.works import Work

GROUP_EVENTS = 2_000
"""A commit group takes waiting batches up to about this many events: a disk write is then a small part
of the cost, and nobody waits long for the rest of the group."""

MAX_QUEUED_EVENTS = 50_000
"""More than this waiting in a lane means that callers are faster than the service; further batches wait
outside."""


_CLOSED = "the service is shutting down; send it again to another one"


@dataclass(slots=True)
class _Lane:
    """Works in the order in which they came. `events`: how many events and the like they hold."""

    works: deque[Work] = field(default_factory=deque)
    events: int = 0

    def pop(self) -> Work:
        work = self.works.popleft()
        self.events -= work.size
        return work


class WorkQueue:
    """Works are put in by callers and taken by the pipeline. `wake`: called when there is something to
    take.

    A stream sends many batches ahead, which may be a second of work, and a caller with one event, or a
    clerk with a customer at the counter, waits for each answer. So these have a lane of their own. Where
    something waits in both, each lane has about half of every group; within a lane works are taken in the
    order in which they came. What was taken before and is put back comes before both; so does what is
    `waiting`, in its turn, in half of every group.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._again = _Lane()
        self._asked = _Lane()
        self._ahead = _Lane()
        self._urgent: deque[Work] = deque()
        self.waiting = Waiting()
        self._room = asyncio.Event()
        self._room.set()
        self._closed = False

    @property
    def events(self) -> int:
        """How many events and the like wait."""
        return self.waiting.events + self._again.events + self._asked.events + self._ahead.events

    async def put(self, work: Work, *, ahead: bool = False) -> None:
        """Queue a work as soon as there is room. `ahead`: its caller sends more before it is answered.
        Raises `StoreUnavailableError` when it is closed."""
        lane = self._ahead if ahead else self._asked
        while lane.events >= MAX_QUEUED_EVENTS and not self._closed:
            self._room.clear()
            await self._room.wait()
        if self._closed:
            raise StoreUnavailableError(_CLOSED)
        lane.works.append(work)
        lane.events += work.size
        self._wake()

    def put_back(self, works: Sequence[Work]) -> None:
        """Put works that were taken before everything else that waits but what is urgent, also when it is
        closed. What is `waiting` came after these, so it follows them."""
        for work in works:
            work.place = 0
        back = [*works, *self.waiting.take_all()]
        self._again.works.extendleft(reversed(back))
        self._again.events += sum(work.size for work in back)
        if back:
            self._wake()

    def put_urgent(self, work: Work) -> None:
        """Put a work before all others, also when it is closed: they may wait for what it does."""
        self._urgent.append(work)
        self._wake()

    def take(self) -> list[Work]:
        """The works of the next commit group; none if nothing waits."""
        first = self._again if self._again.works else self._asked
        if self._urgent:
            works = [self._urgent.popleft()]
        elif first.works and self._stands_alone(first.works[0]):
            works = [first.pop()]
        else:
            works = self.waiting.take_turn(GROUP_EVENTS // 2)
            works += self._next(sum(work.size for work in works))
        if self._urgent or self._again.works or self._asked.works or self._ahead.works or self.waiting:
            self._wake()
        self._room.set()
        return works

    def _stands_alone(self, work: Work) -> bool:
        return work.between is not None and not self.waiting.comes_first(work.about, 0)

    def take_more(self, size: int) -> list[Work]:
        """Works that may join a commit group which has so many events already."""
        works = [] if self._urgent else self._next(size)
        self._room.set()
        return works

    def _next(self, size: int) -> list[Work]:
        works = self._taken(self._again, size, GROUP_EVENTS)
        if self._again.works:  # the rest of it comes before what its callers have sent since
            return works
        size += sum(work.size for work in works)
        most_asked = (size + GROUP_EVENTS) // 2 if self._ahead.works else GROUP_EVENTS
        asked = self._taken(self._asked, size, most_asked)
        works += asked
        if self._asked.works and self._asked.works[0].between:
            return works  # or what streams send, and is put back, could keep it waiting for ever
        size += sum(work.size for work in asked)
        return works + self._taken(self._ahead, size, GROUP_EVENTS)

    @staticmethod
    def _taken(lane: _Lane, size: int, most: int) -> list[Work]:
        works: list[Work] = []
        while lane.works and size < most and not lane.works[0].between:
            works.append(lane.pop())
            size += works[-1].size
        return works

    def forget(self, subscriber_id: str) -> None:
        """Drop what the service itself has queued of a subscriber who is erased. What is queued of
        backfills goes whole: it was read from the log."""
        self.put_back(())
        for lane in (self._again, self._asked):
            for work in lane.works:
                size = work.size
                work.fills = ()
                work.dues = [due for due in work.dues if due.subscriber_id != subscriber_id]
                work.showing = [each for each in work.showing if each.subscriber_id != subscriber_id]
                lane.events -= size - work.size

    def close(self) -> None:
        """Take in no more; what waits can still be taken."""
        self._closed = True
        self._room.set()
