"""Repetitions: so many events, or so many different values, within a time.

The tip: the events since the last completion that are still inside the window, as [time, digest, value]. Of
equal values the newest only, so that there are never more than the pattern needs.
"""

from __future__ import annotations

from functools import partial

from opportune_rulebase.model import CountPattern
from xxhash import xxh3_64_intdigest

from opportune_service.core.patterns.history import Tip, advance, state_of
from opportune_service.core.patterns.sighting import Completion, Found, Sighting, found
from opportune_service.core.state import Entry, SubscriberState


def take_count(pattern: CountPattern, state: SubscriberState, seen: Sighting) -> list[Completion]:
    where = pattern.step.where
    if where is not None and not seen.holds(where):
        return []
    value = 0
    if pattern.distinct is not None:
        told = seen.attributes.get(pattern.distinct)
        if told is None:
            return []
        # With the type: 1, true and "1" are three values.
        value = xxh3_64_intdigest(f"{type(told).__name__}:{told}".encode())
    entry = Entry(seen.at_us, seen.digest, value, seen.attributes or None, seen.cell_id)
    return advance(state_of(state, pattern.key), entry, seen, state, partial(_step, pattern))


def _step(pattern: CountPattern, pending: Tip, entry: Entry) -> tuple[Tip, Found | None]:
    after_us = entry.at_us - pattern.within_us
    if pattern.distinct is not None:
        pending = tuple(each for each in pending if each[0] > after_us and each[2] != entry.what)
    elif pending and pending[0][0] <= after_us:
        pending = tuple(each for each in pending if each[0] > after_us)
    pending = (*pending, [entry.at_us, entry.digest, entry.what])
    if len(pending) < pattern.at_least:
        return pending, None
    digests = [each[1] for each in pending]
    since_us = pending[0][0]
    return (), found(
        pattern.name, pattern.key, digests, entry.at_us, since_us, entry.attributes, entry.cell_id
    )
