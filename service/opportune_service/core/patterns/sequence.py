"""Sequences: steps in order, other events between allowed, forbidden ones not.

The tip: the runs, in order of their start, as (start, steps made, their digests, what links read of the
first step, and of the last). One event does, in this order: one that is forbidden between ends every run;
every run whose next step it is moves on; if that completes any, the run that began last is the completion
and all runs end; else, if it is a first step, it begins a run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from opportune_rulebase.model import SequencePattern

from opportune_service.core.patterns.journal import MAX_JOURNAL, Machine, Step, Tip
from opportune_service.core.patterns.sighting import Compilers, Found, Link, carry, found
from opportune_service.core.state import Noted

MAX_RUNS = 50
"""Runs that a sequence with links keeps of one subscriber; the newest stay. Without links there is never
more than one a step: of two that have come equally far the one that began later completes whenever the
other does."""

MAX_LINKED = 200
"""Events that a sequence with links goes through again, for the same end as `MAX_JOURNAL`: a late one has
every link of every run evaluated again."""


def sequence_machine(pattern: SequencePattern, declared: frozenset[str], compile_: Compilers) -> Machine:
    """The bits of what an event is: 1 for the first step, 2 for the second, and so on; the last for what is
    forbidden between."""
    links = [compile_.link(each.link) if each.link else None for each in pattern.steps]
    within_us = pattern.within_us
    most = MAX_LINKED if pattern.kept else MAX_JOURNAL
    return Machine(
        pattern.key, 1, _step_of(pattern, declared, links), lambda tip: tip[-1][0] + within_us, most
    )


def _step_of(pattern: SequencePattern, declared: frozenset[str], links: Sequence[Link | None]) -> Step:
    linked, forbidden, within_us = bool(pattern.kept), 1 << len(pattern.steps), pattern.within_us

    def step(runs: Tip, noted: Noted, what: int) -> tuple[Tip, Found | None]:
        if runs and (what >= forbidden or runs[-1][0] < noted.at_us - within_us):
            runs = ()  # what is forbidden ends all; so does time, if it ends the one that began last
        elif runs:
            runs, done = _move(pattern, links, runs, noted, what)
            if done is not None:
                return (), found(
                    pattern.name,
                    pattern.key,
                    [*done[2], noted.digest],
                    noted.at_us,
                    done[0],
                    carry(noted.attributes, declared),
                    noted.cell_id,
                )
        if what & 1:
            told = _linked(pattern, noted.attributes) if linked else None
            runs += ((noted.at_us, 1, [noted.digest], told, told),)
            if len(runs) > 1:
                runs = _newest(pattern, runs)
        return runs, None

    return step


def _move(
    pattern: SequencePattern, links: Sequence[Link | None], runs: Tip, noted: Noted, what: int
) -> tuple[Tip, Any]:
    """The runs after this event, those that are too old left out, and the newest that it completes. The
    same runs if there is no difference."""
    oldest_us = noted.at_us - pattern.within_us
    moved = []
    done = None
    differs = False
    for run in runs:
        start_us, made, digests, first, previous = run
        if start_us < oldest_us:
            differs = True
            continue
        link = links[made]
        if not (what >> made) & 1 or (
            link is not None and not link(noted.attributes or {}, first or {}, previous or {})
        ):
            moved.append(run)
            continue
        differs = True
        if made + 1 == len(pattern.steps):
            done = run
        else:
            told = _linked(pattern, noted.attributes)
            moved.append((start_us, made + 1, [*digests, noted.digest], first, told))
    return tuple(moved) if differs else runs, done


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
