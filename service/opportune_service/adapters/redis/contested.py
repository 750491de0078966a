"""Subscribers whom several members use in turn, so that keeping them does not pay."""

from __future__ import annotations

from collections.abc import Mapping

_COMMITS = 8
"""After so many commits of one member, none of another in between, a subscriber is its own again."""


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
