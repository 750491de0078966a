"""What patterns of single events have in common: the journal, and steps, those after a late event again.

A pattern says how to get from what its events so far came to (a tuple, the tip; neither it nor what is in
it is ever changed) to what they come to with one event more, and what that completes. Most events make no
difference to most patterns: then nothing is kept of them but the journal's one entry, which says what the
event was to each pattern. A late event is put into the journal where it belongs, and the patterns that it
takes part in go their steps again, from what all was before (`PatternState.base`).

The tip of patterns that wait for something, completed by timers alone: () or (what is waited for, whether
that has completed, what has completed before and is not settled yet...). What is waited for is an opening,
(time, digest, attributes), or None.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from opportune_service.core.patterns.answers import give, let_go, new_among, unanswered
from opportune_service.core.patterns.sighting import Completion, Found
from opportune_service.core.state import Noted, PatternState, SubscriberState

MAX_JOURNAL = 4_000
"""Events in the journal of one subscriber; when it is full the older half is summed up. Whoever does more
in an hour is a machine, and what comes late is then taken as it comes."""

FEW = 32
"""Events that stay although no late one can come before them: not every event has to look for such."""

Tip = tuple[Any, ...]
Opening = tuple[Any, ...]
Step = Callable[[Tip, Noted, int], tuple[Tip, Found | None]]
"""(tip, event, what it is to the pattern) -> the tip after it, the same object if the event makes no
difference; and what it completes."""


@dataclass(frozen=True, slots=True)
class Machine:
    """How a pattern gets on. `begins`: the bits of which an event has one if it makes a difference where
    nothing has been. `most`: an event that comes late is taken as it comes if more events would have to be
    taken again. `idle`: from when on a tip comes to nothing. For those that wait, `wait` is the completion
    of an opening that nothing ends, `for_us` how long after. `ways`: how it takes events in, by what they
    are to it, as far as that came up; made once each, so that they stay in the caches of the processor.
    """

    key: str
    begins: int
    step: Step
    idle: Callable[[Tip], int]
    most: int = MAX_JOURNAL
    wait: Callable[[Opening], Found] | None = None
    for_us: int = 0


Going = tuple[tuple[str, int, bool, Step, Machine], ...]
"""Who goes on by what an event is: the key of the pattern, what the event is to it, whether that makes a
difference where nothing has been, its step, and how it gets on."""


def take_in_order(
    going: Going, patterns: dict[str, PatternState], noted: Noted, horizon: int
) -> tuple[Sequence[Completion], bool]:
    """Let an event that nothing of the journal comes after take part: the completions to give out now, and
    whether timers may have changed. Nothing but the steps is called, for every event comes here."""
    completions: Sequence[Completion] = ()
    timed = False
    for key, what, begins, step, machine in going:
        kept = patterns.get(key)
        if kept is None:
            if not begins:
                continue
            kept = patterns[key] = PatternState()
        before = kept.tip
        if not (before or begins):
            continue
        tip, each = step(before, noted, what)
        if tip is before:  # most make no difference
            continue
        kept.tip = tip
        if kept.last_us <= horizon:
            kept.base = before
            kept.from_us = noted.at_us
            if kept.given:
                _let_go_all(machine, kept, horizon)
        kept.last_us = noted.at_us
        if machine.wait is not None:
            set_timer(machine, kept, horizon)
            timed = True
        elif each is not None:
            completions = [*completions, *give(kept, new_among([each], kept, horizon))]
    return completions, timed


def take_late(
    machines: Mapping[str, Machine], state: SubscriberState, noted: Noted, horizon: int
) -> list[Completion]:
    """Take in an event that others of the journal come after, or that is there for other patterns; what to
    give out now."""
    journal = state.journal
    place = bisect_left(journal, _order(noted), key=_order)
    marks = noted.marks
    if place < len(journal) and _order(journal[place]) == _order(noted):
        marks = join(journal[place], noted)
        noted = journal[place]
    elif noted.at_us > horizon:
        journal.insert(place, noted)
    completions: list[Completion] = []
    for key, what in zip(marks[::2], marks[1::2], strict=True):
        kept = state.patterns.get(key) or PatternState()
        machine = machines[key]
        founds = _again(machine, kept, journal, noted, what, horizon)
        if machine.wait is None:
            completions += give(kept, unanswered(kept, founds, horizon))
        else:
            set_timer(machine, kept, horizon)
        if kept.tip or kept.base or kept.given:
            state.patterns[key] = kept
    return completions


def join(there: Noted, noted: Noted) -> tuple[Any, ...]:
    """Let an event that is in the journal be what it is to further patterns: those of a revision that runs
    beside another. The marks that it did not have: to the others it came before."""
    known = there.marks[::2]
    pairs = zip(noted.marks[::2], noted.marks[1::2], strict=True)
    marks = tuple(part for pair in pairs if pair[0] not in known for part in pair)
    if marks:
        there.marks += marks
        if noted.attributes is not there.attributes:
            there.attributes = {**(there.attributes or {}), **(noted.attributes or {})} or None
    return marks


def shorten(machines: Mapping[str, Machine], state: SubscriberState, horizon: int) -> None:
    """Let go what no late event can come before any more, if it is at least half of the journal."""
    journal = state.journal
    count = len(journal)
    if count >= MAX_JOURNAL:
        _sum_up(machines, state, count >> 1, horizon)
    elif count >= FEW and journal[count >> 1].at_us <= horizon:
        settle(machines, state, horizon)


def settle(machines: Mapping[str, Machine], state: SubscriberState, horizon: int) -> None:
    """Let go of the journal all that no late event can come before any more."""
    end = bisect_right(state.journal, horizon, key=_time)
    if end:
        _sum_up(machines, state, end, horizon)


def forget_idle(machines: Mapping[str, Machine], state: SubscriberState, horizon: int) -> None:
    """Drop what can matter no more, of these patterns. Changes nothing that can be seen."""
    settle(machines, state, horizon)
    idle = []
    for key, kept in state.patterns.items():
        machine = machines.get(key)
        if machine is None or kept.last_us > horizon:
            continue
        if kept.given:
            kept.base = kept.tip
            _let_go_all(machine, kept, horizon)
        kept.base, kept.from_us, kept.last_us = (), 0, 0
        over = not kept.tip or machine.idle(kept.tip) <= horizon
        if over and not kept.due_us and not any(each.at_us > horizon for each in kept.given):
            idle.append(key)
    for key in idle:
        del state.patterns[key]


def unmark(state: SubscriberState, keys: Collection[str]) -> None:
    """Take out of the journal what events were to these patterns."""
    left = []
    for noted in state.journal:
        pairs = zip(noted.marks[::2], noted.marks[1::2], strict=True)
        noted.marks = tuple(part for pair in pairs if pair[0] not in keys for part in pair)
        if noted.marks:
            left.append(noted)
    state.journal = left


def unsettled(machine: Machine, kept: PatternState, horizon: int) -> list[Found]:
    """All waits that have completed, or will unless something comes, and were not given out."""
    assert machine.wait is not None  # noqa: S101 - for the type checker
    return unanswered(kept, [machine.wait(each) for each in _openings(kept.tip)], horizon)


def set_timer(machine: Machine, kept: PatternState, horizon: int) -> None:
    """Set the timer to the first completion of a wait that is not settled."""
    if not kept.given:  # most
        tip = kept.tip
        if len(tip) > 2:
            kept.due_us = min([each[0] + machine.for_us for each in _openings(tip)])
        else:  # most
            kept.due_us = 0 if not tip or tip[1] or tip[0] is None else tip[0][0] + machine.for_us
        return
    kept.due_us = min((each.completion.at_us for each in unsettled(machine, kept, horizon)), default=0)


def _again(
    machine: Machine,
    kept: PatternState,
    journal: Sequence[Noted],
    late: Noted,
    what: int,
    horizon: int,
) -> list[Found]:
    """Take the steps from the base again; what they complete."""
    recent = late.at_us > horizon
    if kept.last_us <= horizon:
        kept.base, kept.from_us = kept.tip, late.at_us if recent else horizon + 1
        if kept.given:
            _let_go_all(machine, kept, horizon)
    elif recent:
        kept.from_us = min(kept.from_us, late.at_us)
    founds: list[Found | None] = []
    key, step = machine.key, machine.step
    if not recent:  # older than any can be: before all that are recent
        kept.base, each = step(kept.base, late, what)
        founds.append(each)
    first = bisect_left(journal, kept.from_us, key=_time)
    mine = [each for each in journal[first:] if key in each.marks]
    if len(mine) > machine.most:
        kept.tip, each = step(kept.tip, late, what)
        kept.last_us = max(kept.last_us, late.at_us)
        founds += [each]
        return [each for each in founds if each is not None]
    kept.tip, kept.last_us = kept.base, 0
    for noted in mine:
        tip, each = step(kept.tip, noted, noted.marks[noted.marks.index(key) + 1])
        if tip is not kept.tip:
            kept.tip, kept.last_us = tip, noted.at_us
        founds.append(each)
    return [each for each in founds if each is not None]


def _sum_up(machines: Mapping[str, Machine], state: SubscriberState, end: int, horizon: int) -> None:
    """Put the first events of the journal into the bases."""
    journal = state.journal
    last_us = journal[end - 1].at_us
    behind = {
        key: kept
        for key, kept in state.patterns.items()
        if kept.last_us > horizon and kept.from_us <= last_us and key in machines
    }
    left: dict[str, list[int]] = {key: [] for key, kept in behind.items() if kept.given}
    if behind:
        keys = frozenset(behind)
        # Most have changed lately only: what they take in begins near the end.
        first = bisect_left(journal, min([each.from_us for each in behind.values()]), 0, end, key=_time)
        for noted in journal[first:end]:
            marks = noted.marks
            for key in keys.intersection(marks):
                kept = behind[key]
                if noted.at_us >= kept.from_us:
                    kept.base, each = machines[key].step(kept.base, noted, marks[marks.index(key) + 1])
                    if each is not None and key in left:
                        left[key].append(each.completion.digest)
    del journal[:end]
    for key, digests in left.items():
        if machines[key].wait is None:
            let_go(behind[key], digests, horizon)
        else:
            _let_go_settled(machines[key], behind[key], horizon)


def _let_go_all(machine: Machine, kept: PatternState, horizon: int) -> None:
    """No late event can move any completion there is."""
    if machine.wait is None:
        let_go(kept, None, horizon)
    else:
        _let_go_settled(machine, kept, horizon)


def _let_go_settled(machine: Machine, kept: PatternState, horizon: int) -> None:
    """Of the waits that are in the base, those that are settled."""
    assert machine.wait is not None  # noqa: S101 - for the type checker
    answered = {each.stands_for for each in kept.given if each.stands_for}
    settled = {}
    for opening in kept.base[2:]:
        digest = machine.wait(opening).completion.digest
        if digest in answered:
            settled[opening[0], opening[1]] = digest
    let_go(kept, set(settled.values()), horizon)
    if settled:
        kept.base, kept.tip = _without(kept.base, settled), _without(kept.tip, settled)


def _without(tip: Tip, settled: Collection[tuple[int, int]]) -> Tip:
    left = [each for each in tip[2:] if (each[0], each[1]) not in settled]
    return (*tip[:2], *left) if left or tip[:1] != (None,) else ()


def _openings(tip: Tip) -> list[Opening]:
    """Those whose waits have completed, or will."""
    if not tip:
        return []
    return list(tip[2:]) if tip[1] or tip[0] is None else [*tip[2:], tip[0]]


def _order(noted: Noted) -> tuple[int, int]:
    return noted.at_us, noted.digest


def _time(noted: Noted) -> int:
    return noted.at_us
