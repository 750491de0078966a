"""Engines are kept for a while: nothing else that an activation does takes as long as compiling."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from threading import Lock

from opportune_rulebase.engine import Engine, Facts, Truth
from opportune_rulebase.expressions import Expression
from opportune_rulebase.model import Campaign, Rulebase

from opportune_service.core.revision import EngineFactory

_KEPT = 4
"""Engines besides those in use: one goes back to what was in force a moment ago, or on to what was just
uploaded."""
_AT_ONCE = 100
"""Campaigns that are freed in one piece: some 3 ms."""


class KeptEngines:
    """An `EngineFactory` whose engines come back when they are closed, for whoever asks next for one of the
    same rulebase (the same object, not one that equals it). What comes back longest ago is given up first.

    To make one ready ahead, make one and close it. May be called from any thread.
    """

    def __init__(self, make: EngineFactory) -> None:
        self._make = make
        self._lock = Lock()
        # By the identity of the rulebase, which is in the value and so stays what it is.
        self._free: dict[int, tuple[Rulebase, Engine]] = {}

    def __call__(self, rulebase: Rulebase) -> Engine:
        """An engine of this rulebase, nobody else's. Raises what the factory raises."""
        self._give_up_some()
        with self._lock:
            _, engine = self._free.pop(id(rulebase), (rulebase, None))
        made = engine or self._make(rulebase)
        return _Lent(made, lambda: self._take_back(rulebase, made))

    def rulebase(self, revision: str) -> Rulebase | None:
        """The rulebase of this revision, if an engine of it is kept."""
        with self._lock:
            kept = [rulebase for rulebase, _ in self._free.values()]
        return next((each for each in reversed(kept) if each.revision == revision), None)

    def _take_back(self, rulebase: Rulebase, engine: Engine) -> None:
        with self._lock:
            _, other = self._free.pop(id(rulebase), (rulebase, None))
            self._free[id(rulebase)] = rulebase, engine
        if other is not None:
            other.close()

    def _give_up_some(self) -> None:
        """Not when they come back: whoever makes an engine takes time, whoever closes one is in a hurry."""
        while True:
            with self._lock:
                if len(self._free) <= _KEPT:
                    return
                rulebase, engine = self._free.pop(next(iter(self._free)))
            engine.close()
            campaigns = list(rulebase.campaigns.values())
            del rulebase, engine
            while campaigns:  # in pieces: while one is freed, no other thread has a turn
                del campaigns[-_AT_ONCE:]


class _Lent:
    """An engine until it is closed, which gives it back. What it counts begins with 0."""

    def __init__(self, engine: Engine, give_back: Callable[[], None]) -> None:
        # The engine's own: an event does not go through another call.
        self.match: Callable[[Facts], Sequence[Campaign]] = engine.match
        self.truth: Callable[[Expression, Facts], Truth] = engine.truth
        self.test: Callable[[Expression], Callable[[Facts], bool]] = engine.test
        self.value: Callable[[Expression, Facts], object] = engine.value
        self._unknowns = engine.unknowns
        self._before = engine.unknowns()
        self._give_back: Callable[[], None] | None = give_back

    def unknowns(self) -> Mapping[str, int]:
        """See `Engine.unknowns`."""
        before = self._before
        now = self._unknowns()
        return {
            name: count - before.get(name, 0) for name, count in now.items() if count != before.get(name)
        }

    def close(self) -> None:
        """See `Engine.close`."""
        give_back, self._give_back = self._give_back, None
        if give_back is not None:
            give_back()
