"""What is not in the journal: the few events that changes and the handset keep of their own, in order.

As there, a step leads from what the entries so far came to, to what they come to with one entry more, and
what that completes: one for an entry that comes in order, those of all that are recent again when one comes
late.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any

from opportune_service.core.events import MAX_LATENESS_US, MAX_SKEW_US
from opportune_service.core.patterns.answers import give, let_go, new_among, unanswered
from opportune_service.core.patterns.sighting import Completion, Found
from opportune_service.core.state import Entry, PatternState, SubscriberState

MAX_RECENT = 2_000
"""Entries that a pattern keeps of one subscriber for late ones to come before. Whoever does more in an
hour is a machine; then the oldest are summed up early, and what comes later still is out of order."""

Tip = tuple[Any, ...]
Step = Callable[[Tip, Entry], tuple[Tip, Found | None]]


def horizon_us(state: SubscriberState, at_us: int) -> int:
    """No event of that time comes any more, however far the newest was ahead of the clock."""
    return max(state.latest_us, at_us) - MAX_LATENESS_US - MAX_SKEW_US


def state_of(state: SubscriberState, key: str) -> PatternState:
    """What the pattern retains, made if need be."""
    kept = state.patterns.get(key)
    if kept is None:
        kept = state.patterns[key] = PatternState()
    return kept


def advance(
    kept: PatternState, entry: Entry, horizon: int, step: Step, most: int = MAX_RECENT
) -> Sequence[Completion]:
    """Take in an entry; what to give out now, in order of time. `horizon`: no event before it comes any
    more. `most`: how many entries are kept."""
    recent = kept.recent
    if recent:
        last_us = recent[-1].at_us
        if last_us <= horizon and not kept.due_us and not kept.given:
            kept.base = kept.tip  # most who come in order: all that went before is long ago
            recent.clear()
        else:
            if recent[0].at_us <= horizon or len(recent) >= most:
                prune(kept, horizon, step, most)
            if last_us >= entry.at_us and recent and not comes_last(kept, entry):
                if not insert(kept, entry):
                    return ()
                return give(kept, unanswered(kept, again(kept, step), horizon))
    recent.append(entry)
    kept.tip, each = step(kept.tip, entry)
    if each is None:
        return ()
    entry.found = each.completion.digest
    return give(kept, new_among([each], kept, horizon))


def prune(kept: PatternState, horizon: int, step: Step, most: int = MAX_RECENT) -> None:
    """Sum up what no late event can come before any more, except for entries after a timer that is not
    settled yet."""
    recent = kept.recent
    if not recent or (recent[0].at_us > horizon and len(recent) < most):
        return
    if not kept.due_us and not kept.given and recent[-1].at_us <= horizon:
        kept.base = kept.tip  # most who come in order: all that went before is long ago
        recent.clear()
        return
    if kept.due_us:
        horizon = min(horizon, kept.due_us)
    end = max(0, len(recent) + 1 - most)
    while end < len(recent) and recent[end].at_us <= horizon:
        end += 1
    if end == len(recent):
        kept.base = kept.tip
    else:
        for entry in recent[:end]:
            kept.base, _ = step(kept.base, entry)
    if kept.given:
        let_go(kept, [entry.found for entry in recent[:end] if entry.found], horizon)
    del recent[:end]


def settle(kept: PatternState, horizon: int) -> None:
    """Sum up all entries, if no late event can come before any of them; what `prune` does with the next
    event, without waiting for it."""
    recent = kept.recent
    if kept.due_us:
        horizon = min(horizon, kept.due_us)
    if recent and recent[-1].at_us <= horizon:
        kept.base = kept.tip
        if kept.given:
            let_go(kept, [entry.found for entry in recent if entry.found], horizon)
        recent.clear()


def comes_last(kept: PatternState, entry: Entry) -> bool:
    """Whether the entry is in order."""
    if not kept.recent:
        return True
    last = kept.recent[-1]
    return entry.at_us > last.at_us or (entry.at_us == last.at_us and entry.digest > last.digest)


def insert(kept: PatternState, entry: Entry) -> bool:
    """Put an entry where it belongs; False if it is there."""
    recent = kept.recent
    place = place_of(kept, entry)
    if place < len(recent) and _order(recent[place]) == _order(entry):
        return False
    recent.insert(place, entry)
    return True


def place_of(kept: PatternState, entry: Entry) -> int:
    """Where it belongs among the recent."""
    return bisect_left(kept.recent, _order(entry), key=_order)


def again(kept: PatternState, step: Step) -> list[Found]:
    """Take all recent steps again; what they complete."""
    tip = kept.base
    founds = []
    for entry in kept.recent:
        tip, each = step(tip, entry)
        entry.found = 0
        if each is not None:
            entry.found = each.completion.digest
            founds.append(each)
    kept.tip = tip
    return founds


def _order(entry: Entry) -> tuple[int, int]:
    return entry.at_us, entry.digest
