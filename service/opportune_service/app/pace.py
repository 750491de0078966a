"""How many contacts a second a channel takes."""

from __future__ import annotations

import sys
from collections import deque

_SECOND_US = 1_000_000


class Pace:
    """At most so many in any second, whenever that second begins.

    What was given out before the start is not known, so the second before it counts as full: a restart is
    no way around the pace. The clock may jump: forwards it frees what time has passed for, backwards
    nothing; what was given out later than now counts as just given out.
    """

    def __init__(self, now_us: int) -> None:
        self._given: deque[tuple[int, int]] = deque([(now_us, sys.maxsize)])  # when, how many

    def free(self, per_second: int | None, now_us: int) -> int:
        """How many may be given out now. None: without bound."""
        if per_second is None:
            return sys.maxsize
        self._forget(now_us)
        return max(0, per_second - sum(count for _, count in self._given))

    def take(self, count: int, now_us: int) -> None:
        """So many were given out."""
        self._forget(now_us)
        if count:
            self._given.append((now_us, count))

    def frees_us(self) -> int:
        """When the oldest of what counts now will count no more; 0 if nothing counts."""
        return self._given[0][0] + _SECOND_US if self._given else 0

    def _forget(self, now_us: int) -> None:
        given = self._given
        while given and given[0][0] <= now_us - _SECOND_US:
            given.popleft()
        if given and given[-1][0] > now_us:
            self._given = deque((min(at_us, now_us), count) for at_us, count in given)
