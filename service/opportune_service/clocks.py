"""Where `now` comes from: the machine's clock, or one that runs faster or stands still."""

from __future__ import annotations

import time


class WallClock:
    """The machine's clock."""

    def now_us(self) -> int:
        return time.time_ns() // 1_000


class FastClock:
    """A clock that starts at `start_us` and runs `speed` times as fast as real time."""

    def __init__(self, start_us: int, speed: float) -> None:
        self._start_us = start_us
        self._speed = speed
        self._began_ns = time.monotonic_ns()

    def now_us(self) -> int:
        return self._start_us + int((time.monotonic_ns() - self._began_ns) / 1_000 * self._speed)


class ManualClock:
    """A clock that stands until it is set: replay and tests."""

    def __init__(self, now_us: int) -> None:
        self.value_us = now_us

    def now_us(self) -> int:
        return self.value_us
