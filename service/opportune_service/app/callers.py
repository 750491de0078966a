"""Who calls, and what they may touch."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from opportune_service.app.errors import ForbiddenError

ROLES = ("collector", "context", "adviser", "channel", "analyst", "operator", "approver", "viewer")
"""The roles of the contract, as people write them."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever made a call, as far as use cases need to know.

    `name` is for the record. `roles` are named as in the contract (``ROLE_OPERATOR``); the edge has asked
    already whether one of them opens the method. `channels`: those whose deliveries and receipts a caller
    with ROLE_CHANNEL may handle. `branches`: the only ones whose campaigns the caller may touch. For both
    None means all.
    """

    name: str
    roles: frozenset[str] = frozenset()
    channels: frozenset[str] | None = None
    branches: frozenset[str] | None = None

    def may_touch(self, serves: Collection[str]) -> bool:
        """Whether `check_branches` would let the caller pass."""
        return self.branches is None or (bool(serves) and self.branches.issuperset(serves))

    def check_branches(self, campaign: str, serves: Collection[str]) -> None:
        """Raises `ForbiddenError` unless the caller may touch a campaign that serves these branches (none:
        it serves all of them, so that only a caller for all branches may)."""
        if not self.may_touch(serves):
            assert self.branches is not None  # noqa: S101 - else everything may be touched
            raise ForbiddenError(
                f"{self.name} may touch campaigns of {', '.join(sorted(self.branches)) or 'no branch'}, "
                f"and {campaign!r} serves {', '.join(sorted(serves)) or 'all branches'}"
            )

    def check_channel(self, channel: str) -> None:
        """Raises `ForbiddenError` unless the caller may handle deliveries of this channel."""
        if self.channels is not None and channel not in self.channels:
            raise ForbiddenError(f"{self.name} is no client of the channel {channel!r}")
