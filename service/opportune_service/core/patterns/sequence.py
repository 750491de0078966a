"""Sequences: steps in order, other events between allowed, forbidden ones not.

The tip: the runs, in order of their start, as [start, steps made, their digests, what links read of the
first step, and of the last]. One event does, in this order: one that is forbidden between ends every run;
every run whose next step it is moves on; if that completes any, the run that began last is the completion
and all runs end; else, if it is a first step, it begins a run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from opportune_rulebase.model import SequencePattern

from opportune_service.core.patterns.history import MAX_RECENT, Step, Tip, advance, state_of
from opportune_service.core.patterns.sighting import (
    Compilers,
    Completion,
    Found,
    Link,
    Sighting,
    Taker,
    carry,
    found,
)
from opportune_service.core.state import Entry

MAX_RUNS = 50
"""Runs that a sequence with links keeps of one subscriber; the newest stay. Without links there is never
more than one a step: of two that have come equally far the one that began later completes whenever the
other does."""

MAX_LINKED = 200
"""Entries that a sequence with links keeps, for the same end as `MAX_RECENT`: a late event has every link
of every run evaluated again."""


def sequence_taker(
    pattern: SequencePattern, type_: str, carried: frozenset[str] | None, compile_: Compilers
) -> Taker:
    """For events of one type: which steps they may be is known before they come."""
    key, last = pattern.key, 1 << (len(pattern.steps) - 1)
    if carried is not None:
        carried |= pattern.kept
    roles = [(1 << n, step) for n, step in enumerate(pattern.steps)]
    if pattern.without is not None:
        roles.append((last << 1, pattern.without))
    always, asked = 0, []
    for bit, wanted in roles:
        if type_ in wanted.of:
            if wanted.where is None:
                always |= bit
            else:
                asked.append((bit, compile_.test(wanted.where)))
    links = [compile_.link(each.link) if each.link else None for each in pattern.steps]
    step = _step_of(pattern, links)
    linked, most = bool(pattern.kept), MAX_LINKED if pattern.kept else MAX_RECENT

    def take(seen: Sighting) -> Sequence[Completion]:
        what = always
        for bit, where in asked:
            if where(seen.facts):
                what |= bit
        if not what:
            return ()
        # No other attributes are asked for.
        attributes = None
        if what & last:
            attributes = seen.attributes or None if carried is None else carry(seen.attributes, carried)
        elif linked:
            attributes = _linked(pattern, seen.attributes)
        entry = Entry(seen.at_us, seen.digest, what, attributes, seen.cell_id)
        kept = seen.state.patterns.get(key) or state_of(seen.state, key)
        return advance(kept, entry, seen.horizon_us, step, most)

    return take


def _step_of(pattern: SequencePattern, links: Sequence[Link | None]) -> Step:
    linked, forbidden = bool(pattern.kept), 1 << len(pattern.steps)

    def step(runs: Tip, entry: Entry) -> tuple[Tip, Found | None]:
        what = entry.what
        if runs:
            runs, done = _move(pattern, links, runs, entry) if what < forbidden else ((), None)
            if done is not None:
                return (), found(
                    pattern.name,
                    pattern.key,
                    [*done[2], entry.digest],
                    entry.at_us,
                    done[0],
                    entry.attributes,
                    entry.cell_id,
                )
        if what & 1:
            told = _linked(pattern, entry.attributes) if linked else None
            runs += ([entry.at_us, 1, [entry.digest], told, told],)
            if len(runs) > 1:
                runs = _newest(pattern, runs)
        return runs, None

    return step


def _move(
    pattern: SequencePattern, links: Sequence[Link | None], runs: Tip, entry: Entry
) -> tuple[Tip, Any]:
    """The runs after this event, those that are too old left out, and the newest that it completes."""
    oldest_us = entry.at_us - pattern.within_us
    moved = []
    done = None
    for run in runs:
        start_us, made, digests, first, previous = run
        if start_us < oldest_us:
            continue
        link = links[made]
        if not (entry.what >> made) & 1 or (
            link is not None and not link(entry.attributes or {}, first or {}, previous or {})
        ):
            moved.append(run)
        elif made + 1 == len(pattern.steps):
            done = run
        else:
            told = _linked(pattern, entry.attributes)
            moved.append([start_us, made + 1, [*digests, entry.digest], first, told])
    return tuple(moved), done


def _newest(pattern: SequencePattern, runs: Tip) -> Tip:
    if pattern.kept:
        return runs[-MAX_RUNS:]
    by_step = {run[1]: run for run in runs}
    return runs if len(by_step) == len(runs) else tuple(run for run in runs if by_step[run[1]] is run)


def _linked(pattern: SequencePattern, attributes: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What links may read of an event."""
    if not pattern.kept or not attributes:
        return None
    return {name: value for name, value in attributes.items() if name in pattern.kept} or None
