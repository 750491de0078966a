"""Absences and stays: something began, and nothing has ended it for a time.

An event after the due time ends the wait: it has completed. That is given out by the timer alone, and not
before; until then a late event may still cancel it. What happens at the due time itself counts as within.
See `journal.py` for what the tip is.
"""

from __future__ import annotations

from collections.abc import Callable

from opportune_rulebase.model import AbsencePattern, DwellPattern

from opportune_service.core.patterns.answers import give
from opportune_service.core.patterns.history import horizon_us
from opportune_service.core.patterns.journal import Machine, Opening, Step, Tip, set_timer, unsettled
from opportune_service.core.patterns.sighting import Completion, Found, carry, found
from opportune_service.core.state import Noted, SubscriberState

Timed = AbsencePattern | DwellPattern

AFTER, ABSENT = 1, 2
"""What an event is to an absence."""
INSIDE, ELSEWHERE = 1, 2
"""What an event with a cell is to a stay."""

_NEVER_US = 2**63


def absence_machine(pattern: AbsencePattern, declared: frozenset[str]) -> Machine:
    """An event may be awaited and begin the next wait at once: it ends the one, then begins the other. One
    at the time of the opening event does not end the wait."""
    for_us = pattern.for_us

    def step(tip: Tip, noted: Noted, what: int) -> tuple[Tip, Found | None]:
        opening, at_us = tip[0] if tip else None, noted.at_us
        if opening is not None:
            if at_us > opening[0] + for_us:
                tip, opening = (None, False, *tip[2:], opening), None
            elif what & ABSENT and at_us > opening[0]:
                tip, opening = (None, False, *tip[2:]) if len(tip) > 2 else (), None
        if opening is None and what & AFTER:
            tip = ((at_us, noted.digest, carry(noted.attributes, declared)), False, *tip[2:])
        return tip, None

    def idle(tip: Tip) -> int:
        return tip[0][0] + for_us if tip[0] else 0

    return _machine(pattern, step, idle)


def dwell_machine(pattern: DwellPattern) -> Machine:
    """A stay that has completed goes on, and does not complete again."""
    for_us = pattern.for_us

    def step(tip: Tip, noted: Noted, what: int) -> tuple[Tip, Found | None]:
        opening, done = tip[:2] if tip else (None, False)
        if opening is not None and not done and noted.at_us > opening[0] + for_us:
            tip = (opening, True, *tip[2:], opening)
        if what & ELSEWHERE:
            if opening is not None:
                tip = (None, False, *tip[2:]) if len(tip) > 2 else ()
        elif opening is None:
            tip = ((noted.at_us, noted.digest, None), False, *tip[2:])
        return tip, None

    def idle(tip: Tip) -> int:
        return _NEVER_US if tip[0] else 0  # a stay goes on until the subscriber is seen elsewhere

    return _machine(pattern, step, idle)


def resolve_timed(machine: Machine, state: SubscriberState, due_us: int, fired: bool) -> Completion | None:
    kept = state.patterns.get(machine.key)
    if kept is None:
        return None
    horizon = horizon_us(state, 0)
    due = [each for each in unsettled(machine, kept, horizon) if each.completion.at_us == due_us]
    # One that is dropped is settled as well: nobody will ask again.
    completions = give(kept, due)
    set_timer(machine, kept, horizon)
    return completions[0] if completions and fired else None


def _machine(pattern: Timed, step: Step, idle: Callable[[Tip], int]) -> Machine:
    name, key, for_us = pattern.name, pattern.key, pattern.for_us

    def wait(opening: Opening) -> Found:
        at_us, digest, attributes = opening
        due_us = at_us + for_us
        return found(name, key, [digest], due_us, at_us, attributes, due_us=due_us)

    return Machine(key, AFTER, step, idle, wait=wait, for_us=for_us)
