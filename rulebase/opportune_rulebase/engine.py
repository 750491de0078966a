"""The port behind which events are matched, and the facts that it is given.

Two engines stand behind it: `opportune_rulebase.network` (the default: generated Python over an
indexed, dependency-ordered network) and `opportune_rulebase.durable` (durable_rules, caged). Every
case of the tests runs through both, so they may differ in speed only.

Truth has three values: True, False and None (unknown: the data it needs is missing or unusable). The
logic is CEL's: false && unknown is false, true || unknown is true, otherwise unknown spreads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta, tzinfo
from types import MappingProxyType
from typing import Any, Protocol
from zoneinfo import ZoneInfo

from opportune_rulebase.expressions import Expression
from opportune_rulebase.model import Calendar, Campaign, Place

_EPOCH = datetime(1970, 1, 1, tzinfo=ZoneInfo("UTC"))

Truth = bool | None
"""True, False, or None for unknown."""

_NOTHING: Mapping[str, object] = MappingProxyType({})
_NO_CALENDAR = Calendar()


def _unknown(name: str) -> Truth:
    return None


class _ByName(dict[str, Callable[["Facts"], tuple[object, bool]]]):
    """Whatever `metric` answers, under each name."""

    def __missing__(self, name: str) -> Callable[[Facts], tuple[object, bool]]:
        return lambda facts: facts.metric(name)


_BY_NAME = _ByName()


class Facts:
    """What is known of one event at its moment. Made per event; read by an engine; never shared.

    `event`: declared attributes present on the event. `sub`: subscriber context, possibly empty.
    `terminal`: capabilities of the handset, empty if unknown. `place`: where the event's cell is.
    An imported behaviour that is valid is in `sub` under its qualified name. `peer` is the context of the
    subscriber that the event names, defaults included; empty if that one is unknown.
    `metric(name)` gives ``(value, covered)`` as of this event: if `covered` is False only the metric's
    `bound` is known (or, with value None, nothing); `metrics[name](facts)` gives the same with a call less.
    `fact(name)` gives the truth of a remembered fact.
    `now_us` is the event's time. `zone` is the subscriber's, else the operator's.
    `others` holds variables of any other space by their qualified names (``first.amount``).
    `memo` belongs to the engine: definitions already computed for this event.
    """

    __slots__ = (
        *("_local", "calendar", "event", "fact", "memo", "metric", "metrics", "now_us", "others", "peer"),
        *("place", "sub", "terminal", "type", "zone"),
    )

    def __init__(
        self,
        *,
        type: str,
        event: Mapping[str, object],
        sub: Mapping[str, object],
        terminal: Mapping[str, object],
        place: Place | None,
        metric: Callable[[str], tuple[object, bool]],
        now_us: int,
        zone: tzinfo,
        peer: Mapping[str, object] = _NOTHING,
        fact: Callable[[str], Truth] = _unknown,
        calendar: Calendar = _NO_CALENDAR,
        others: Mapping[str, object] = _NOTHING,
    ) -> None:
        self.type = type
        self.event = event
        self.sub = sub
        self.terminal = terminal
        self.place = place
        self.metric = metric
        self.metrics: Mapping[str, Callable[[Any], tuple[object, bool]]] = _BY_NAME
        self.now_us = now_us
        self.zone = zone
        self.peer = peer
        self.fact = fact
        self.calendar = calendar
        self.others = others
        self.memo: dict[str, Truth] = {}
        self._local: datetime | None = None

    @property
    def now(self) -> datetime:
        """The event's time as an aware UTC datetime."""
        return _EPOCH + timedelta(microseconds=self.now_us)

    @property
    def local(self) -> datetime:
        """The event's time in `zone`, computed once."""
        if self._local is None:
            self._local = self.now.astimezone(self.zone)
        return self._local


class Engine(Protocol):
    """A rulebase, compiled for matching. Made once per revision; used from one thread at a time.

    Guarantees: pure (facts in, answers out; no clock, no I/O), deterministic, never raises for any
    facts. Non-guarantees: not re-entrant; `close` must be called when the revision is retired, and
    nothing may be called after it.
    """

    def match(self, facts: Facts) -> Sequence[Campaign]:
        """Campaigns triggered by this event: `facts.type` is among `on` and `when` is True.

        In order of campaign name. A `when` that is unknown does not match.
        """
        ...

    def truth(self, expression: Expression, facts: Facts) -> Truth:
        """The value of a boolean expression of this rulebase."""
        ...

    def test(self, expression: Expression) -> Callable[[Facts], bool]:
        """A function that says whether `truth` would be True: for conditions that many events are asked."""
        ...

    def value(self, expression: Expression, facts: Facts) -> object:
        """The value of any expression of this rulebase; None for unknown."""
        ...

    def unknowns(self) -> Mapping[str, int]:
        """How often each variable or definition came out unknown since the engine was made.

        Engines count what they evaluate, so the same events give different figures. The durable engine
        evaluates every condition of the event's type: what left one of them unknown counts once for each
        `match`, each `truth` and each `value`. The network engine stops at the first condition that does
        not hold: it counts what was asked for and missing, definitions once an event. In both, a metric
        of which enough is known to decide does not count.
        """
        ...

    def close(self) -> None:
        """Give back what the engine holds. Idempotent."""
        ...
