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

from opportune_service.core.patterns.change import idle_from_us, resolve_change, take_change
from opportune_service.core.patterns.count import take_count
from opportune_service.core.patterns.handset import take_handset
from opportune_service.core.patterns.history import MAX_RECENT, horizon_us
from opportune_service.core.patterns.sequence import take_sequence
from opportune_service.core.patterns.sighting import Completion, Link, Sighting
from opportune_service.core.patterns.timed import resolve_timed, take_absence, take_dwell
from opportune_service.core.state import PatternState, SubscriberState

__all__ = [
    "MAX_RECENT",
    "Completion",
    "Link",
    "Sighting",
    "forget_idle",
    "resolve",
    "take",
    "take_handset",
]

_NEVER_US = 2**63


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
    match pattern:
        case CountPattern():
            return take_count(pattern, state, seen)
        case SequencePattern():
            return take_sequence(pattern, state, seen, link)
        case ChangePattern():
            return take_change(pattern, state, seen, zone, since_us)
        case AbsencePattern():
            take_absence(pattern, state, seen)
        case DwellPattern():
            take_dwell(pattern, state, seen)
    return []


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
    """Drop what can matter no more. `patterns` by key. Changes nothing that can be seen; `take` does the
    same for its own pattern, but nobody takes anything of a pattern whose events have stopped."""
    horizon = horizon_us(state, 0)
    idle = [
        key
        for key, kept in state.patterns.items()
        if key in patterns and not kept.due_us and _idle_from_us(patterns[key], kept) <= horizon
    ]
    for key in idle:
        del state.patterns[key]


def _idle_from_us(pattern: Pattern, kept: PatternState) -> int:
    """From when on no event that is still to come can tell the state from none."""
    newest_us = kept.recent[-1].at_us if kept.recent else 0
    match pattern:
        case CountPattern() | SequencePattern():
            return newest_us + pattern.within_us
        case AbsencePattern():
            return newest_us + pattern.for_us
        case DwellPattern():
            return (
                _NEVER_US if kept.tip else newest_us
            )  # a stay goes on until the subscriber is seen elsewhere
        case ChangePattern():
            return idle_from_us(pattern, kept)
