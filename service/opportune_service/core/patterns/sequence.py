"""Sequences: steps in order, other events between allowed, forbidden ones not.

The tip: the runs, in order of their start, as [start, steps made, their digests, what links read of the
first step, and of the last]. One event does, in this order: one that is forbidden between ends every run;
every run whose next step it is moves on; if that completes any, the run that began last is the completion
and all runs end; else, if it is a first step, it begins a run.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from opportune_rulebase.model import SequencePattern

from opportune_service.core.patterns.history import MAX_RECENT, Tip, advance, state_of
from opportune_service.core.patterns.sighting import Completion, Found, Link, Sighting, found
from opportune_service.core.state import Entry, SubscriberState

MAX_RUNS = 50
"""Runs that a sequence with links keeps of one subscriber; the newest stay. Without links there is never
more than one a step: of two that have come equally far the one that began later completes whenever the
other does."""

MAX_LINKED = 200
"""Entries that a sequence with links keeps, for the same end as `MAX_RECENT`: a late event has every link
of every run evaluated again."""


def take_sequence(
    pattern: SequencePattern, state: SubscriberState, seen: Sighting, link: Link
) -> list[Completion]:
    steps, type_ = pattern.steps, seen.type
    what, bit = 0, 1
    for step in steps:
        if type_ in step.of and (step.where is None or seen.holds(step.where)):
            what |= bit
        bit <<= 1
    without = pattern.without
    if without is not None and type_ in without.of and (without.where is None or seen.holds(without.where)):
        what |= bit
    if not what:
        return []
    completes = what & (bit >> 1)
    attributes = (
        seen.attributes if completes else _linked(pattern, seen.attributes)
    )  # no other is asked for
    entry = Entry(seen.at_us, seen.digest, what, attributes or None, seen.cell_id)
    most = MAX_LINKED if pattern.kept else MAX_RECENT
    return advance(state_of(state, pattern.key), entry, seen, state, partial(_step, pattern, link), most)


def _step(pattern: SequencePattern, link: Link, runs: Tip, entry: Entry) -> tuple[Tip, Found | None]:
    what, at_us = entry.what, entry.at_us
    last = len(pattern.steps) - 1
    if what >> (last + 1):
        runs = ()
    done = None
    if runs:
        runs, done = _move(pattern, link, runs, entry)
    if done is not None:
        return (), found(
            pattern.name,
            pattern.key,
            [*done[2], entry.digest],
            at_us,
            done[0],
            entry.attributes,
            entry.cell_id,
        )
    if what & 1:
        told = _linked(pattern, entry.attributes)
        runs = (*runs, [at_us, 1, [entry.digest], told, told])
    return (_newest(pattern, runs) if len(runs) > 1 else runs), None


def _move(pattern: SequencePattern, link: Link, runs: Tip, entry: Entry) -> tuple[Tip, Any]:
    """The runs after this event, those that are too old left out, and the newest that it completes."""
    oldest_us = entry.at_us - pattern.within_us
    moved = []
    done = None
    for run in runs:
        start_us, made, digests, first, previous = run
        if start_us < oldest_us:
            continue
        if not (entry.what >> made) & 1 or not _links(pattern, link, made, entry, first, previous):
            moved.append(run)
        elif made + 1 == len(pattern.steps):
            done = run
        else:
            told = _linked(pattern, entry.attributes)
            moved.append([start_us, made + 1, [*digests, entry.digest], first, told])
    return tuple(moved), done


def _links(
    pattern: SequencePattern,
    link: Link,
    made: int,
    entry: Entry,
    first: Mapping[str, Any] | None,
    previous: Mapping[str, Any] | None,
) -> bool:
    expression = pattern.steps[made].link
    if expression is None:
        return True
    earlier = {f"first.{name}": value for name, value in (first or {}).items()}
    earlier |= {f"previous.{name}": value for name, value in (previous or {}).items()}
    return link(expression, entry.attributes or {}, earlier)


def _newest(pattern: SequencePattern, runs: Tip) -> Tip:
    if pattern.kept:
        return runs[-MAX_RUNS:]
    by_step = {run[1]: run for run in runs}
    return runs if len(by_step) == len(runs) else tuple(run for run in runs if by_step[run[1]] is run)


def _linked(pattern: SequencePattern, attributes: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What links may read of an event."""
    if not attributes or not pattern.kept:
        return None
    return {name: value for name, value in attributes.items() if name in pattern.kept} or None
