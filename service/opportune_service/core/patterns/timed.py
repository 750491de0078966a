"""Absences and stays: something began, and nothing has ended it for a time.

The tip: () if nothing is waited for; (opening,) during the wait, the opening event as [time, digest,
attributes]; for a stay that has completed and goes on, (opening, True). An entry after the due time ends
the wait: it has completed. That is given out by the timer alone, and not before; until then a late event
may still cancel it. What happens at the due time itself counts as within.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from opportune_rulebase.model import AbsencePattern, DwellPattern
from xxhash import xxh3_64_intdigest

from opportune_service.core.patterns.history import (
    MAX_RECENT,
    Step,
    Tip,
    again,
    comes_last,
    give,
    insert,
    prune,
    state_of,
    unanswered,
)
from opportune_service.core.patterns.sighting import (
    Compilers,
    Completion,
    Found,
    Sighting,
    Taker,
    carry,
    found,
    ranked,
)
from opportune_service.core.state import Entry, PatternState, SubscriberState

Timed = AbsencePattern | DwellPattern

_AFTER, _ABSENT = 1, 2


def absence_taker(
    pattern: AbsencePattern, type_: str, carried: frozenset[str] | None, compile_: Compilers
) -> Taker:
    """An event may be awaited and begin the next wait at once: it ends the one, then begins the other. One
    at the time of the opening event does not end the wait."""
    key = pattern.key
    always, asked = 0, []
    for bit, wanted in ((_AFTER, pattern.after), (_ABSENT, pattern.absent)):
        if type_ in wanted.of:
            if wanted.where is None:
                always |= bit
            else:
                asked.append((bit, compile_.test(wanted.where)))
    step = _step_of(pattern)

    def take(seen: Sighting) -> Sequence[Completion]:
        what = always
        for bit, where in asked:
            if where(seen.facts):
                what |= bit
        if what:
            attributes = carry(seen.attributes, carried) if what & _AFTER else None
            entry = Entry(seen.at_us, seen.digest, what, attributes)
            kept = state_of(seen.state, key)
            _advance(pattern, step, kept, entry, seen.horizon_us)
            if kept.due_us:
                seen.timed = True
        return ()

    return take


def dwell_taker(pattern: DwellPattern) -> Taker:
    """Entries are told apart by time and cell: two events at one cell at one instant say the same."""
    key, category = pattern.key, pattern.category
    step = _step_of(pattern)

    def take(seen: Sighting) -> Sequence[Completion]:
        if not seen.cell_id:
            return ()
        state, place = seen.state, seen.place
        inside = place is not None and category in place.categories
        kept = state.patterns.get(key)
        if kept is None:
            if not inside:
                return ()  # as long as nothing is kept the subscriber was elsewhere, or not seen at all
            kept = state.patterns[key] = PatternState(recent=_elsewhere(state, seen))
        entry = Entry(seen.at_us, _cell_digest(seen.cell_id), inside)
        _advance(pattern, step, kept, entry, seen.horizon_us)
        if not (kept.tip or kept.base or kept.given or any(entry.what for entry in kept.recent)):
            del state.patterns[key]
        if kept.due_us:
            seen.timed = True
        return ()

    return take


def _elsewhere(state: SubscriberState, seen: Sighting) -> list[Entry]:
    """Where the subscriber was before and after the first event inside, if that comes late."""
    if state.cells is None:
        return []
    cells = dict.fromkeys(zip(state.cells.at, map(_cell_digest, state.cells.amount), strict=True))
    cells.pop((seen.at_us, _cell_digest(seen.cell_id)), None)
    return [Entry(at_us, digest, False) for at_us, digest in sorted(cells)]


@lru_cache(maxsize=65_536)
def _cell_digest(cell_id: str) -> int:
    return ranked(xxh3_64_intdigest(cell_id.encode()), 0)


def resolve_timed(pattern: Timed, state: SubscriberState, due_us: int, fired: bool) -> Completion | None:
    kept = state.patterns.get(pattern.key)
    if kept is None:
        return None
    waits = _unsettled(pattern, kept, _step_of(pattern))
    due = [each for each in waits if each.completion.at_us == due_us]
    # One that is dropped is settled as well: nobody will ask again.
    completions = give(kept, due)
    kept.due_us = min((each.completion.at_us for each in waits if each not in due), default=0)
    return completions[0] if completions and fired else None


def _advance(pattern: Timed, step: Step, kept: PatternState, entry: Entry, horizon: int) -> None:
    recent = kept.recent
    if recent:
        last_us = recent[-1].at_us
        if last_us <= horizon and not kept.given and (not kept.due_us or last_us <= kept.due_us):
            kept.base = kept.tip  # most: all that went before is long ago
            recent.clear()
        else:
            if recent[0].at_us <= horizon or len(recent) >= MAX_RECENT:
                prune(kept, horizon, step)
            if last_us >= entry.at_us and recent and not comes_last(kept, entry):
                if insert(kept, entry):
                    _set_timer(pattern, kept, step)
                return
    recent.append(entry)
    if kept.given:
        _set_timer(pattern, kept, step)
        return
    # Nothing was given out of late, so all that has completed and the wait that goes on have timers.
    before = kept.tip
    kept.tip, fell = step(before, entry)
    if fell is not None:
        entry.found = fell.completion.digest
    if kept.tip is before:
        return
    if fell is None and len(before) == 1 and kept.due_us == before[0][0] + pattern.for_us:
        kept.due_us = 0
    if len(kept.tip) == 1 and not kept.due_us:
        kept.due_us = kept.tip[0][0] + pattern.for_us


def _set_timer(pattern: Timed, kept: PatternState, step: Step) -> None:
    waits = _unsettled(pattern, kept, step)
    kept.due_us = min((each.completion.at_us for each in waits), default=0)


def _unsettled(pattern: Timed, kept: PatternState, step: Step) -> list[Found]:
    """All waits that have completed, or will unless something comes, and were not given out."""
    waits = again(kept, step)
    if len(kept.tip) == 1:
        waits.append(_wait(pattern, kept.tip[0]))
    return unanswered(kept, waits)


def _wait(pattern: Timed, opening: list[Any]) -> Found:
    at_us, digest, attributes = opening
    due_us = at_us + pattern.for_us
    return found(pattern.name, pattern.key, [digest], due_us, at_us, attributes, due_us=due_us)


def _step_of(pattern: Timed) -> Step:
    return _absence_step(pattern) if isinstance(pattern, AbsencePattern) else _dwell_step(pattern)


def _absence_step(pattern: AbsencePattern) -> Step:
    for_us = pattern.for_us

    def step(tip: Tip, entry: Entry) -> tuple[Tip, Found | None]:
        fell = None
        if tip:
            at_us, opened_us = entry.at_us, tip[0][0]
            if at_us > opened_us + for_us:
                fell, tip = _wait(pattern, tip[0]), ()
            elif entry.what & _ABSENT and at_us > opened_us:
                tip = ()
        if not tip and entry.what & _AFTER:
            tip = ([entry.at_us, entry.digest, entry.attributes],)
        return tip, fell

    return step


def _dwell_step(pattern: DwellPattern) -> Step:
    for_us = pattern.for_us

    def step(tip: Tip, entry: Entry) -> tuple[Tip, Found | None]:
        fell = None
        if len(tip) == 1 and entry.at_us > tip[0][0] + for_us:
            fell, tip = _wait(pattern, tip[0]), (tip[0], True)
        if not entry.what:
            return (), fell
        return tip or ([entry.at_us, entry.digest, None],), fell

    return step
