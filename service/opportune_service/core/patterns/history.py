"""What all patterns have in common: entries in order of time, taken in by steps, late ones included.

A pattern says how to get from what the entries so far came to (a tuple; neither it nor what is in it is
ever changed) to what they come to with one entry more, and what that completes. Here is who calls it: once
for an entry that comes in order, for all that are recent again when one comes late.

Nothing that was given out is taken back. When late input moves completions about, one that was given out
answers for one that is not, if the times that they speak of overlap: the customer has heard of it already.
So at least as many are given out as sorted input would have given, and more only where late input undid
one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any

from opportune_service.core.events import MAX_LATENESS_US, MAX_SKEW_US
from opportune_service.core.patterns.sighting import Completion, Found
from opportune_service.core.state import Entry, Given, PatternState, SubscriberState

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
                return give(kept, unanswered(kept, again(kept, step)))
    recent.append(entry)
    kept.tip, each = step(kept.tip, entry)
    if each is None:
        return ()
    entry.found = each.completion.digest
    return give(kept, new_among([each], kept))


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
        _prune_given(kept, [entry.found for entry in recent[:end] if entry.found], horizon)
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
            _prune_given(kept, [entry.found for entry in recent if entry.found], horizon)
        recent.clear()


def _prune_given(kept: PatternState, left: list[int], horizon: int) -> None:
    """Let go what answers for a completion that has left, and what answers for none and is old."""
    if left or kept.given[0].at_us <= horizon:
        staying = [
            each
            for each in kept.given
            if (each.stands_for not in left if each.stands_for else each.at_us > horizon)
        ]
        kept.given = tuple(staying[-MAX_RECENT:])


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


def unanswered(kept: PatternState, founds: list[Found]) -> list[Found]:
    """Those of all completions there are now that none which was given out answers for."""
    if not kept.given:
        return founds
    there = {each.completion.digest for each in founds}
    for each in kept.given:
        each.stands_for = each.digest if each.digest in there else 0
    answered = {each.digest for each in kept.given}
    return new_among([each for each in founds if each.completion.digest not in answered], kept)


def new_among(founds: list[Found], kept: PatternState) -> list[Found]:
    """Those of new completions that no idle one answers for: each for one, the earliest first."""
    idle = [each for each in kept.given if not each.stands_for]
    left = []
    for each in founds:
        at_us, since_us = each.completion.at_us, each.since_us
        for given in idle:
            if given.since_us <= at_us and since_us <= given.at_us:
                given.stands_for = each.completion.digest
                idle.remove(given)
                break
        else:
            left.append(each)
    return left


def give(kept: PatternState, founds: list[Found]) -> list[Completion]:
    """Remember what is given out."""
    if founds:
        kept.given += tuple(
            Given(each.completion.at_us, each.completion.digest, each.since_us, each.completion.digest)
            for each in founds
        )
    return [each.completion for each in founds]


def _order(entry: Entry) -> tuple[int, int]:
    return entry.at_us, entry.digest
