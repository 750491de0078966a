"""Figures that a torture run measures, next to what is promised."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence


class Figures:
    """Named measurements with their promise."""

    def __init__(self) -> None:
        self._found: defaultdict[str, list[float]] = defaultdict(list)
        self._promised: dict[str, float] = {}

    def note(self, name: str, value: float, promised: float, bound: float) -> None:
        """`promised`: what is promised on a quiet machine; beyond `bound` it is a violation on any."""
        self._found[name].append(value)
        self._promised[name] = promised
        if value > bound:
            raise AssertionError(f"{name}: {value:.3g}, promised {promised:g}, at most {bound:g} anywhere")

    def note_growth(self, name: str, used: Sequence[int]) -> None:
        """How much memory the last quarter of a run took, next to the second one: by then all is warm."""
        quarter = len(used) // 4
        later, earlier = used[-quarter:], used[quarter : 2 * quarter]
        self.note(name, (sum(later) / len(later)) / (sum(earlier) / len(earlier)), 1.1, 1.5)

    def show(self) -> None:
        if not self._found:
            return
        print(f"\n{'figure':44} {'median':>8} {'worst':>8} {'promised':>9} {'n':>4}")
        for name, values in sorted(self._found.items()):
            values.sort()
            median, worst = values[(len(values) - 1) // 2], values[-1]
            broken = "" if worst <= self._promised[name] else "  missed at times"
            promised = self._promised[name]
            print(f"{name:44} {median:8.3f} {worst:8.3f} {promised:9g} {len(values):4}{broken}")
