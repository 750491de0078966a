"""What waits for subscribers whom other members hold, or who are to be left to them for a moment."""

from __future__ import annotations

from bisect import bisect_right, insort

from opportune_service.app.works import Work


class Waiting:
    """Works in the order in which they came, each with its place, which what is left of it keeps when it is
    tried. They are tried in turn, so that those whose subscribers a dead member holds, which takes seconds,
    do not hold up those who wait for a commit of a living one. Who comes to wait meanwhile is tried in the
    next round: else those before would never be, where some come all the time.

    Of each subscriber, nothing may be taken in before what waits: whoever uses this asks for whom it
    `comes_first`.
    """

    def __init__(self) -> None:
        self._works: dict[int, Work] = {}
        # Where a subscriber waits, first to last.
        self._places: dict[str, list[int]] = {}
        self._last = 0
        self._tried = 0
        self._round_to = 0
        self.events = 0
        """How many events and the like wait."""

    def __len__(self) -> int:
        return len(self._works)

    def comes_first(self, subscriber_id: str, place: int) -> bool:
        """Whether something of the subscriber waits before this place; 0 is behind all of them."""
        places = self._places.get(subscriber_id)
        return places is not None and (not place or places[0] < place)

    def put(self, work: Work) -> None:
        """At the place that it has, or at the end."""
        if not work.place:
            self._last += 1
            work.place = self._last
        self._works[work.place] = work
        for each in work.subscriber_ids:
            insort(self._places.setdefault(each, []), work.place)
        self.events += work.size

    def take_turn(self, most: int) -> list[Work]:
        """Those whose turn it is to be tried, in order: up to about so many events and the like."""
        places = sorted(self._works)
        turn = places[bisect_right(places, self._tried) : bisect_right(places, self._round_to)]
        if not turn:
            turn, self._round_to = places, self._last
        works: list[Work] = []
        size = 0
        for place in turn:
            if size >= most:
                break
            self._tried = place
            works.append(self._take(place))
            size += works[-1].size
        return works

    def take_all(self) -> list[Work]:
        """All of them, in order, with no place any more."""
        works = [self._take(place) for place in sorted(self._works)]
        for work in works:
            work.place = 0
        return works

    def _take(self, place: int) -> Work:
        work = self._works.pop(place)
        for each in work.subscriber_ids:
            places = self._places[each]
            places.remove(place)
            if not places:
                del self._places[each]
        self.events -= work.size
        return work
