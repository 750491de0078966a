"""Step 4, patterns over time: sequences, repetitions, absences, stays, surges, within one subscriber.

A pattern is a function of the set of its events in order of event time, not of their arrival; events of
one instant are in order of their digests. Each event that takes part in any is kept in the subscriber's
journal for as long as a late one may still come before it (`journal.py`; changes and the handset keep
recent events of their own, `history.py`). Whoever comes in order costs one step at most; a late event has
the steps after it taken again. A completion that was given out is never taken back.

Non-guarantees: with more than `MAX_JOURNAL` events an hour (`MAX_LINKED` for sequences with links,
`MAX_RECENT` for changes), events that come late are taken as they come. An event that is older than any
can be (an hour and the skew of the clocks) is, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import tzinfo

from opportune_rulebase.model import ChangePattern, Pattern

from opportune_service.core.patterns import journal
from opportune_service.core.patterns.change import change_taker, idle_from_us, resolve_change
from opportune_service.core.patterns.handset import take_handset
from opportune_service.core.patterns.history import MAX_RECENT, horizon_us, settle
from opportune_service.core.patterns.journal import MAX_JOURNAL, Machine, unmark
from opportune_service.core.patterns.roles import Machines, Roles, Stays, no_roles, take
from opportune_service.core.patterns.sighting import (
    Compilers,
    Completion,
    Link,
    Sighting,
    Taker,
    ranked,
)
from opportune_service.core.patterns.timed import resolve_timed
from opportune_service.core.state import SubscriberState

__all__ = [
    "MAX_JOURNAL",
    "MAX_RECENT",
    "Compilers",
    "Completion",
    "Link",
    "Machines",
    "Roles",
    "Sighting",
    "Stays",
    "Taker",
    "change_taker",
    "forget_idle",
    "horizon_us",
    "no_roles",
    "ranked",
    "resolve",
    "take",
    "take_handset",
    "unmark",
]


def resolve(
    pattern: Pattern,
    machines: Mapping[str, Machine],
    state: SubscriberState,
    due_us: int,
    fired: bool,
    zone: tzinfo,
    since_us: int | None,
) -> Completion | None:
    """Settle the timer that is due at `due_us`: give out its completion, or (`fired` False) drop it
    because data may be missing. None if there is none such any more, or if it came to nothing (a fall that
    is none). The next timer, if any, is then in `PatternState.due_us`."""
    if isinstance(pattern, ChangePattern):
        return resolve_change(pattern, state, due_us, fired, zone, since_us)
    machine = machines[pattern.key]
    return None if machine.wait is None else resolve_timed(machine, state, due_us, fired)


def forget_idle(
    patterns: Mapping[str, Pattern], machines: Mapping[str, Machine], state: SubscriberState
) -> None:
    """Drop what can matter no more. `patterns` by key. Changes nothing that can be seen; taking part does
    the same, but nobody takes part in a pattern whose events have stopped."""
    horizon = horizon_us(state, 0)
    journal.forget_idle(machines, state, horizon)
    idle = []
    for key, kept in state.patterns.items():
        pattern = patterns.get(key)
        if isinstance(pattern, ChangePattern):
            settle(kept, horizon)
            if not kept.due_us and idle_from_us(pattern, kept) <= horizon:
                idle.append(key)
    for key in idle:
        del state.patterns[key]
