"""Subscribers whom several members use in turn, so that keeping them does not pay."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Set

_COMMITS = 8
"""After so many commits of one member, none of another in between, a subscriber is its own again."""

ASK_AGAIN_SECONDS = 0.02
"""What was asked for is asked for again after so long: a commit, perhaps."""


class Contested:
    """Those whom another member wanted or changed lately. Of more than `most`, those who were noted first
    are forgotten."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._left: dict[str, int] = {}

    def note(self, subscriber_id: str) -> None:
        """Another member wanted or changed it just now."""
        self._left.pop(subscriber_id, None)
        self._left[subscriber_id] = _COMMITS
        if len(self._left) > self._most:
            del self._left[next(iter(self._left))]

    def __bool__(self) -> bool:
        return bool(self._left)

    def among(self, subscriber_ids: Mapping[str, None]) -> set[str]:
        """Those of them who are to be given up after this commit of theirs."""
        found = self._left.keys() & subscriber_ids.keys()
        for each in found:
            if self._left[each] == 1:
                del self._left[each]
            else:
                self._left[each] -= 1
        return found


class Wanted:
    """Those whom another member has asked for: while they are in use here, and until it would ask again.
    Whoever used them in group after group would give them up, and have them back before the other looks."""

    def __init__(self) -> None:
        self._in_use: set[str] = set()
        # Until when they are left alone; the first of them first.
        self._given_up: dict[str, float] = {}

    def hear(self, subscriber_id: str, *, in_use: bool) -> None:
        """Another member asks for it."""
        if in_use:
            self._in_use.add(subscriber_id)
        else:
            self._give_up(subscriber_id)

    def leave(self, subscriber_ids: Collection[str]) -> None:
        """These are not in use any more."""
        for each in self._in_use.intersection(subscriber_ids):
            self._in_use.discard(each)
            self._give_up(each)

    def _give_up(self, subscriber_id: str) -> None:
        self._given_up.pop(subscriber_id, None)
        self._given_up[subscriber_id] = asyncio.get_running_loop().time() + ASK_AGAIN_SECONDS

    def now(self) -> set[str]:
        """Those who are to be left to others now."""
        return self._in_use | self.given_up()

    def given_up(self) -> Set[str]:
        """Those of them who are not in use here any more."""
        if self._given_up:
            now = asyncio.get_running_loop().time()
            while self._given_up and self._given_up[first := next(iter(self._given_up))] <= now:
                del self._given_up[first]
        return self._given_up.keys()
