"""When whose timer is due: the queue that the pipeline takes timers from.

What is due, and what of, is in the subscribers' states (`PatternState.due_us`); this only says at whom to
look and when. An entry that is out of date costs a look and does no harm.
"""

from __future__ import annotations

import heapq
from operator import itemgetter

import msgspec

from opportune_service.core.revision import Revision
from opportune_service.core.state import SubscriberState

_SLACK = 1_000
NEVER_US = 2**63 - 1


class Timers:
    """At whom to look when: one instant a subscriber. A heap; entries that were replaced stay in it until
    their time, or until they are more than those in force."""

    def __init__(self) -> None:
        self._at: dict[str, int] = {}
        self._heap: list[tuple[int, str]] = []

    def __len__(self) -> int:
        """Subscribers with a timer."""
        return len(self._at)

    def __contains__(self, subscriber_id: str) -> bool:
        """Whether this subscriber has a timer."""
        return subscriber_id in self._at

    def set(self, subscriber_id: str, at_us: int) -> None:
        """Look at this subscriber then, and not at any time said before; 0 for not at all."""
        if not at_us:
            self._at.pop(subscriber_id, None)
            return
        if self._at.get(subscriber_id) == at_us:
            return
        self._at[subscriber_id] = at_us
        heapq.heappush(self._heap, (at_us, subscriber_id))
        if len(self._heap) > 2 * len(self._at) + _SLACK:
            self._heap = [(at_us, subscriber_id) for subscriber_id, at_us in self._at.items()]
            heapq.heapify(self._heap)

    def put_off(self, until_us: int) -> None:
        """Look at nobody before then."""
        while (subscriber_id := self.first(until_us)) is not None:
            self.set(subscriber_id, until_us)

    def first(self, until_us: int) -> str | None:
        """Who is next before `until_us`: the earliest, and of those at one instant the least id. It stays
        first until it is set anew."""
        return self._heap[0][1] if self.next_us() < until_us else None

    def next_us(self) -> int:
        """When the next is to be looked at; NEVER_US if there is none."""
        heap = self._heap
        while heap and self._at.get(heap[0][1]) != heap[0][0]:
            heapq.heappop(heap)
        return heap[0][0] if heap else NEVER_US


def pending(revision: Revision, state: SubscriberState) -> list[tuple[int, str]]:
    """(due, pattern key) of a subscriber's timers, in order. Of those due at one instant, one whose event
    another awaits comes before that one: what happens at the due time itself counts as within. Those of
    patterns that the revision does not have are left out: their state is dropped sooner or later."""
    kept = state.patterns
    # The revision has its patterns each after those whose events it takes in.
    timers = [
        (kept[key].due_us, key) for key in revision.patterns_by_key if key in kept and kept[key].due_us
    ]
    return sorted(timers, key=itemgetter(0))


class _Skimmed(msgspec.Struct, array_like=True, gc=False):
    """The beginning of a snapshot, as far as its timers."""

    position: int
    due_us: int


_skim = msgspec.msgpack.Decoder(_Skimmed).decode


def due_in(snapshot: bytes) -> int:
    """When the first timer in an encoded state is due; 0 if it has none. Cheaper than decoding it."""
    return _skim(snapshot).due_us
