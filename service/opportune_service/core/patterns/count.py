"""Repetitions: so many events, or so many different values, within a time.

The tip: the events since the last completion that are still inside the window, as [time, digest, value]. Of
equal values the newest only, so that there are never more than the pattern needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from opportune_rulebase.model import CountPattern

from opportune_service.core.patterns.history import Tip, advance, state_of
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
    step = partial(_step, pattern)

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
        attributes = carry(seen.attributes, carried)
        entry = Entry(seen.at_us, seen.digest, value, attributes, seen.cell_id)
        return advance(state_of(seen.state, key), entry, seen.horizon_us, step)

    return take


def _step(pattern: CountPattern, pending: Tip, entry: Entry) -> tuple[Tip, Found | None]:
    after_us = entry.at_us - pattern.within_us
    if pattern.distinct is not None:
        what = entry.what
        pending = tuple([each for each in pending if each[0] > after_us and each[2] != what])
    elif pending and pending[0][0] <= after_us:
        pending = tuple([each for each in pending if each[0] > after_us])
    pending = (*pending, [entry.at_us, entry.digest, entry.what])
    if len(pending) < pattern.at_least:
        return pending, None
    digests = [each[1] for each in pending]
    since_us = pending[0][0]
    return (), found(
        pattern.name, pattern.key, digests, entry.at_us, since_us, entry.attributes, entry.cell_id
    )
