"""Repetitions: so many events, or so many different values, within a time.

The tip: the events since the last completion that are still inside the window, as [time, digest, value]. Of
equal values the newest only, so that there are never more than the pattern needs.
"""

from __future__ import annotations

from collections.abc import Sequence

from opportune_rulebase.model import CountPattern

from opportune_service.core.patterns.history import Step, Tip, advance, state_of
from opportune_service.core.patterns.sighting import (
    Compilers,
    Completion,
    Found,
    Sighting,
    Taker,
    carry,
    digest_of,
    found,
)
from opportune_service.core.state import Entry

_SHORT = 16


def count_taker(pattern: CountPattern, carried: frozenset[str] | None, compile_: Compilers) -> Taker:
    where = compile_.test(pattern.step.where) if pattern.step.where else None
    key, distinct = pattern.key, pattern.distinct
    step = _step_of(pattern)

    def take(seen: Sighting) -> Sequence[Completion]:
        if where is not None and not where(seen.facts):
            return ()
        value: object = 0
        if distinct is not None:
            told = seen.attributes.get(distinct)
            if told is None:
                return ()
            # Short text as it is: it stands in many other places of the state, and is packed well.
            short = isinstance(told, str) and len(told) <= _SHORT
            value = told if short else digest_of(told)
        attributes = seen.attributes or None if carried is None else carry(seen.attributes, carried)
        entry = Entry(seen.at_us, seen.digest, value, attributes, seen.cell_id)
        kept = seen.state.patterns.get(key) or state_of(seen.state, key)
        return advance(kept, entry, seen.horizon_us, step)

    return take


def _step_of(pattern: CountPattern) -> Step:
    within_us, at_least, distinct = pattern.within_us, pattern.at_least, pattern.distinct is not None

    def step(pending: Tip, entry: Entry) -> tuple[Tip, Found | None]:
        at_us, what = entry.at_us, entry.what
        after_us = at_us - within_us
        if pending:
            if distinct:
                pending = tuple([each for each in pending if each[0] > after_us and each[2] != what])
            elif pending[0][0] <= after_us:
                pending = tuple([each for each in pending if each[0] > after_us])
        pending += ([at_us, entry.digest, what],)
        if len(pending) < at_least:
            return pending, None
        digests = [each[1] for each in pending]
        since_us = pending[0][0]
        return (), found(
            pattern.name, pattern.key, digests, at_us, since_us, entry.attributes, entry.cell_id
        )

    return step
