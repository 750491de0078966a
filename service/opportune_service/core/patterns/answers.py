"""What was given out, and what it answers for.

Nothing that was given out is taken back. When late input moves completions about, one that was given out
answers for one that is not, if the times that they speak of overlap: the customer has heard of it already.
So at least as many are given out as sorted input would have given, and more only where late input undid
one.
"""

from __future__ import annotations

from collections.abc import Collection

from opportune_service.core.patterns.sighting import Completion, Found
from opportune_service.core.state import Given, PatternState


def unanswered(kept: PatternState, founds: list[Found], horizon: int) -> list[Found]:
    """Those of all completions there are now that none which was given out answers for."""
    if not kept.given:
        return founds
    let_go(kept, (), horizon)
    there = {each.completion.digest for each in founds}
    for each in kept.given:
        each.stands_for = each.digest if each.digest in there else 0
    answered = {each.digest for each in kept.given}
    return _left([each for each in founds if each.completion.digest not in answered], kept)


def new_among(founds: list[Found], kept: PatternState, horizon: int) -> list[Found]:
    """Those of new completions that no idle one answers for."""
    if not kept.given:
        return founds
    let_go(kept, (), horizon)
    return _left(founds, kept)


def _left(founds: list[Found], kept: PatternState) -> list[Found]:
    """Of new completions: each idle one answers for one, the earliest first."""
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


def let_go(kept: PatternState, left: Collection[int] | None, horizon: int) -> None:
    """Forget what answers for a completion that no late event can move any more (`left`; None: all are
    such), and what answers for none and is old."""
    kept.given = tuple(
        [
            each
            for each in kept.given
            if (
                left is not None and each.stands_for not in left
                if each.stands_for
                else each.at_us > horizon
            )
        ]
    )
