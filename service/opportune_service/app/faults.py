"""Events on which the service itself fails: each is put aside, so that it fails nobody else.

A collector sends again what was not taken in. Without this one event that meets a fault of ours would come
for ever, and all who have sent something in the same moment would be turned away each time.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Sequence

from opportune_service.app.works import Work
from opportune_service.core.verdict import EventKey

log = logging.getLogger(__name__)

MOST = 10
WITHIN_SECONDS = 3_600.0
"""So many events at most are put aside in this time. Where more are at fault it is not the events, and
whoever sends them had better keep them."""


class FaultyEventError(Exception):
    """A fault of ours, met in observing or deciding this event. Nothing of its commit group counts.

    `aside`: the event is rejected from now on, and the group can be taken in again without it.
    """

    def __init__(self, key: EventKey) -> None:
        self.key = key
        self.aside = False
        super().__init__("a fault in handling an event")


class Faults:
    """Those of one pipeline."""

    def __init__(self) -> None:
        self._at: deque[float] = deque(maxlen=MOST)

    def put_aside(self, fault: FaultyEventError, works: Sequence[Work]) -> None:
        """Have the event rejected when these works are taken in again, if it is in one of them. What comes
        of timers and deferrals is in none."""
        log.error("a fault in handling an event", exc_info=fault)
        now = time.monotonic()
        if len(self._at) == MOST and now - self._at[0] < WITHIN_SECONDS:
            log.error("more than %d faulty events within an hour: they are not put aside any more", MOST)
            return
        for work in works:
            if fault.key in {EventKey(each.subscriber_id, work.source, each.id) for each in work.events}:
                work.faulty = {*work.faulty, fault.key}
                fault.aside = True
        if fault.aside:
            self._at.append(now)
