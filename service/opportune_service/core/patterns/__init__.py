"""Step 4, patterns over time: sequences, repetitions, absences, stays, surges, within one subscriber.

A pattern is a function of the set of its events in order of event time, not of their arrival; events of
one instant are in order of their digests. Each event that may take part is kept for as long as a late one
may still come before it (`PatternState.recent`); what lies before is summed up in `base`. Whoever comes in
order costs one step; a late event has the steps after it taken again (`history.py`). A completion that was
given out is never taken back.

Non-guarantees: with more than `MAX_RECENT` entries an hour (`MAX_LINKED` for sequences with links), events
that come late are taken as they come. An event that is older than any can be (an hour and the skew of the
clocks) is, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import tzinfo

from opportune_rulebase.model import (
    AbsencePattern,
    ChangePattern,
    CountPattern,
    DwellPattern,
    Pattern,
    SequencePattern,
)

from opportune_service.core.patterns.change import change_taker, idle_from_us, resolve_change
from opportune_service.core.patterns.count import count_taker
from opportune_service.core.patterns.handset import take_handset
from opportune_service.core.patterns.history import MAX_RECENT, horizon_us, settle
from opportune_service.core.patterns.sequence import sequence_taker
from opportune_service.core.patterns.sighting import (
    Compilers,
    Completion,
    Link,
    Sighting,
    Taker,
    ranked,
)
from opportune_service.core.patterns.timed import absence_taker, dwell_taker, resolve_timed
from opportune_service.core.state import PatternState, SubscriberState

__all__ = [
    "MAX_RECENT",
    "Compilers",
    "Completion",
    "Link",
    "Sighting",
    "Taker",
    "forget_idle",
    "horizon_us",
    "ranked",
    "resolve",
    "take_handset",
    "taker",
]

_NEVER_US = 2**63


def taker(pattern: Pattern, type_: str, carried: frozenset[str] | None, compile_: Compilers) -> Taker:
    """How events of one type take part; made once, for every event asks. Timers that one starts or ends are
    in `PatternState.due_us`. `carried`: the attributes that the pattern's own events are declared with;
    None if these are all of the type's."""
    match pattern:
        case CountPattern():
            return count_taker(pattern, carried, compile_)
        case SequencePattern():
            return sequence_taker(pattern, type_, carried, compile_)
        case ChangePattern():
            return change_taker(pattern, compile_)
        case AbsencePattern():
            return absence_taker(pattern, type_, carried, compile_)
        case DwellPattern():
            return dwell_taker(pattern)


def resolve(
    pattern: Pattern,
    state: SubscriberState,
    due_us: int,
    fired: bool,
    zone: tzinfo,
    since_us: int | None,
) -> Completion | None:
    """Settle the timer that is due at `due_us`: give out its completion, or (`fired` False) drop it
    because data may be missing. None if there is none such any more, or if it came to nothing (a fall that
    is none). The next timer, if any, is then in `PatternState.due_us`."""
    match pattern:
        case AbsencePattern() | DwellPattern():
            return resolve_timed(pattern, state, due_us, fired)
        case ChangePattern():
            return resolve_change(pattern, state, due_us, fired, zone, since_us)
        case CountPattern() | SequencePattern():
            return None


def forget_idle(patterns: Mapping[str, Pattern], state: SubscriberState) -> None:
    """Drop what can matter no more. `patterns` by key. Changes nothing that can be seen; a taker does the
    same for its own pattern, but nobody takes anything of a pattern whose events have stopped."""
    horizon = horizon_us(state, 0)
    idle = []
    for key, kept in state.patterns.items():
        pattern = patterns.get(key)
        if pattern is None:
            continue
        settle(kept, horizon)
        if not kept.due_us and _idle_from_us(pattern, kept) <= horizon:
            idle.append(key)
    for key in idle:
        del state.patterns[key]


def _idle_from_us(pattern: Pattern, kept: PatternState) -> int:
    """From when on no event that is still to come can tell the state from none."""
    newest_us = kept.recent[-1].at_us if kept.recent else 0
    match pattern:
        case CountPattern() | SequencePattern():
            # What is summed up, too: the tip is in order of time.
            return max(newest_us, kept.tip[-1][0] if kept.tip else 0) + pattern.within_us
        case AbsencePattern():
            return max(newest_us, kept.tip[0][0] if kept.tip else 0) + pattern.for_us
        case DwellPattern():
            return (
                _NEVER_US if kept.tip else newest_us
            )  # a stay goes on until the subscriber is seen elsewhere
        case ChangePattern():
            return idle_from_us(pattern, kept)
