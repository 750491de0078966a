"""Time."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """Where `now` comes from. Wall time in service, a virtual clock in replay and demonstration."""

    def now_us(self) -> int:
        """Microseconds since 1970-01-01T00:00Z. May jump; callers never assume that it is monotonic."""
        ...
