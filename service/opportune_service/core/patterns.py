"""Step 4, patterns over time: sequences, repetitions, absences, stays, surges, within one subscriber.

A pattern is a function of the set of its events in order of event time, not of their arrival. Each event
that may take part is kept for as long as a late one may still come before it (`PatternState.recent`); what
lies before is summed up in `base`. Whoever comes in order costs one step; a late event has the steps after
it taken again. A completion that was given out is never taken back: when late input moves completions about,
only as many are given out as there are more of than before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import tzinfo

from opportune_rulebase.expressions import Expression
from opportune_rulebase.model import Pattern, Place

from opportune_service.core.admit import Attributes
from opportune_service.core.state import SubscriberState

Link = Callable[[Expression, Mapping[str, object], Mapping[str, object]], bool]
"""(link, the event's kept attributes, ``first.*`` and ``previous.*`` by qualified name) -> whether it holds."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """One event as patterns see it. `digest`: the hash of (source, event id). `cell_id` is the event's own,
    empty without one; `place` is where that is, None off the map. `holds`: whether a `where` is true of it.
    """

    type: str
    at_us: int
    digest: int
    attributes: Attributes
    cell_id: str
    place: Place | None
    holds: Callable[[Expression], bool]


@dataclass(frozen=True, slots=True)
class Completion:
    """A completed pattern: what its derived event is made of. `id` is a hash of the definition, the events
    that contributed and, for timers, when it was due; `digest` is the same for patterns that take it in.
    `at_us`: when the completing event occurred, or the timer was due."""

    name: str
    id: str
    digest: int
    at_us: int
    attributes: Attributes
    cell_id: str


def take(
    pattern: Pattern,
    state: SubscriberState,
    seen: Sighting,
    link: Link,
    zone: tzinfo,
    since_us: int | None,
) -> list[Completion]:
    """Let an event take part; the completions to give out now, in order of time. Timers it starts or ends
    are in `PatternState.due_us`. `since_us`: since when the pattern has been folded, None for never."""
    raise NotImplementedError


def resolve(
    pattern: Pattern,
    state: SubscriberState,
    due_us: int,
    fired: bool,
    zone: tzinfo,
    since_us: int | None,
) -> Completion | None:
    """Settle the timer that is due at `due_us`: give out its completion, or (`fired` False) drop it because
    data may be missing. None if there is none such any more, or if it came to nothing (a fall that is none).
    The next timer, if any, is then in `PatternState.due_us`."""
    raise NotImplementedError


def take_handset(state: SubscriberState, seen: Sighting, imei: str) -> list[Completion]:
    """Let an event that told an IMEI take part in the pattern that is always there: a handset that is not
    the one before gives `handset_changed`. `state.imei` is then that of the newest event."""
    raise NotImplementedError
