"""Repetitions: so many events, or so many different values, within a time.

The tip: the events since the last completion that are still inside the window, as (time, digest, value). Of
equal values the newest only, so that there are never more than the pattern needs.
"""

from __future__ import annotations

from opportune_rulebase.model import CountPattern

from opportune_service.core.patterns.journal import Machine, Step, Tip
from opportune_service.core.patterns.sighting import Found, carry, digest_of, found
from opportune_service.core.state import Noted

_SHORT = 16


def count_machine(pattern: CountPattern, declared: frozenset[str]) -> Machine:
    """An event without the attribute that is counted makes no difference."""
    within_us = pattern.within_us
    return Machine(pattern.key, 1, _step_of(pattern, declared), lambda tip: tip[-1][0] + within_us)


def _step_of(pattern: CountPattern, declared: frozenset[str]) -> Step:
    within_us, at_least, distinct = pattern.within_us, pattern.at_least, pattern.distinct

    def step(pending: Tip, noted: Noted, _: int) -> tuple[Tip, Found | None]:
        at_us = noted.at_us
        value: object = 0
        if distinct is not None:
            attributes = noted.attributes
            told = attributes.get(distinct) if attributes else None
            if told is None:
                return pending, None
            # Short text as it is: it stands in many other places of the state, and is packed well.
            value = told if isinstance(told, str) and len(told) <= _SHORT else digest_of(told)
        if pending:
            after_us = at_us - within_us
            if distinct is not None:
                for was_us, _, was in pending:  # most: nothing has to go
                    if was == value or was_us <= after_us:
                        pending = tuple([one for one in pending if one[0] > after_us and one[2] != value])
                        break
            elif pending[0][0] <= after_us:
                pending = tuple([each for each in pending if each[0] > after_us])
        pending += ((at_us, noted.digest, value),)
        if len(pending) < at_least:
            return pending, None
        digests = [each[1] for each in pending]
        carried = carry(noted.attributes, declared)
        since_us = pending[0][0]
        return (), found(pattern.name, pattern.key, digests, at_us, since_us, carried, noted.cell_id)

    return step
