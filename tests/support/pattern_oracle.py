"""What patterns mean, computed from the whole sorted history at once: slow and plain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import cast
from zoneinfo import ZoneInfo

from opportune_rulebase.expressions import Expression
from opportune_rulebase.model import (
    AbsencePattern,
    ChangePattern,
    CountPattern,
    DwellPattern,
    Pattern,
    Place,
    SequencePattern,
    Step,
)
from opportune_service.core.calendars import instant_of, local_day
from xxhash import xxh3_128_hexdigest

ZONE = ZoneInfo("Asia/Shanghai")
LOUD = cast(Expression, "event.loud")
"""Stands for a `where`: nothing here parses expressions."""
SAME_CALLER = cast(Expression, "event.who == first.who")
SAME_AS_PREVIOUS = cast(Expression, "event.who == previous.who")
PLACES = {
    "gate": Place("airport", "", ("airport",)),
    "hall": Place("airport", "", ("airport", "shops")),
    "mall": Place("mall", "", ("shops",)),
}
"""Any other cell is off the map."""


@dataclass(frozen=True)
class Happening:
    """One event. Ordered by time, then digest."""

    type: str
    at_us: int
    digest: int
    who: int | None = None
    loud: bool = True
    amount: float | int = 1
    cell: str = ""
    imei: str = ""

    @property
    def attributes(self) -> dict[str, object]:
        told = {"loud": self.loud, "amount": self.amount}
        return told if self.who is None else {**told, "who": self.who}


@dataclass(frozen=True, order=True)
class Expected:
    """A completion: when, and the id it must have."""

    at_us: int
    id: str
    attributes: dict[str, object] | None = field(default=None, compare=False)


def completion_id(key: str, digests: Sequence[int], due_us: int = 0) -> str:
    parts = [due_us.to_bytes(8, "little", signed=True)] + [each.to_bytes(8, "little") for each in digests]
    return xxh3_128_hexdigest(key.encode() + b"\0" + b"".join(parts))


def in_order(history: Sequence[Happening]) -> list[Happening]:
    return sorted(history, key=lambda each: (each.at_us, each.digest))


def is_step(step: Step | None, each: Happening) -> bool:
    return step is not None and each.type in step.of and (step.where is None or each.loud)


def expected(pattern: Pattern, history: Sequence[Happening], since_us: int | None = 0) -> list[Expected]:
    """All completions, timers that are due in the future included; sorted by time, then id."""
    events = in_order(history)
    match pattern:
        case CountPattern():
            return sorted(_count(pattern, events))
        case SequencePattern():
            return sorted(_sequence(pattern, events))
        case AbsencePattern():
            return sorted(_absence(pattern, events))
        case DwellPattern():
            return sorted(_dwell(pattern, events))
        case ChangePattern():
            return sorted(_change(pattern, events, since_us))


def _count(pattern: CountPattern, events: list[Happening]) -> list[Expected]:
    out, start = [], 0
    events = [e for e in events if is_step(pattern.step, e)]
    if pattern.distinct:
        events = [e for e in events if e.who is not None]
    for index, event in enumerate(events):
        window = [e for e in events[start : index + 1] if e.at_us > event.at_us - pattern.within_us]
        if pattern.distinct:
            window = [e for i, e in enumerate(window) if e.who not in {x.who for x in window[i + 1 :]}]
        if len(window) >= pattern.at_least:
            id_ = completion_id(pattern.key, [e.digest for e in window])
            out.append(Expected(event.at_us, id_, event.attributes))
            start = index + 1
    return out


def link_holds(link: Expression | None, event: Happening, run: list[Happening]) -> bool:
    if link is None:
        return True
    earlier = run[0] if link is SAME_CALLER else run[-1]
    return event.who is not None and event.who == earlier.who


def _sequence(pattern: SequencePattern, events: list[Happening]) -> list[Expected]:
    out: list[Expected] = []
    runs: list[list[Happening]] = []

    def moves(run: list[Happening], event: Happening) -> bool:
        step = pattern.steps[len(run)]
        return is_step(step, event) and link_holds(step.link, event, run)

    for event in events:
        runs = [] if is_step(pattern.without, event) else runs
        runs = [run for run in runs if event.at_us - run[0].at_us <= pattern.within_us]
        complete = [run for run in runs if len(run) == len(pattern.steps) - 1 and moves(run, event)]
        if complete:
            id_ = completion_id(pattern.key, [e.digest for e in (*complete[-1], event)])
            out.append(Expected(event.at_us, id_, event.attributes))
            runs = []
            continue
        runs = [[*run, event] if moves(run, event) else run for run in runs]
        if is_step(pattern.steps[0], event):
            runs.append([event])
    return out


def _absence(pattern: AbsencePattern, events: list[Happening]) -> list[Expected]:
    out, index = [], 0
    while index < len(events):
        opening = events[index]
        if not is_step(pattern.after, opening):
            index += 1
            continue
        due_us = opening.at_us + pattern.for_us
        rest = range(index + 1, len(events))
        ended = [
            i
            for i in rest
            if opening.at_us < events[i].at_us <= due_us and is_step(pattern.absent, events[i])
        ]
        if ended:
            index = ended[0]
            continue
        id_ = completion_id(pattern.key, [opening.digest], due_us)
        out.append(Expected(due_us, id_, opening.attributes))
        index = next((i for i in rest if events[i].at_us > due_us), len(events))
    return out


def _dwell(pattern: DwellPattern, events: list[Happening]) -> list[Expected]:
    out = []
    seen = [(e.at_us, e.digest, e.cell) for e in events if e.cell]
    entered: tuple[int, int] | None = None
    for at_us, digest, cell in [*seen, (2**62, 0, "")]:
        inside = cell in PLACES and pattern.category in PLACES[cell].categories
        if entered is None and inside:
            entered = at_us, digest
        elif entered is not None and not inside:
            due_us = entered[0] + pattern.for_us
            if at_us > due_us:
                out.append(Expected(due_us, completion_id(pattern.key, [entered[1]], due_us)))
            entered = None
    return out


def _change(pattern: ChangePattern, events: list[Happening], since_us: int | None) -> list[Expected]:
    events = [e for e in events if is_step(pattern.step, e)]
    days = pattern.days

    def figure(among: list[Happening], after: int, until: int) -> float:
        inside = [e for e in among if after < local_day(e.at_us, ZONE) <= until]
        return float(sum((Fraction(e.amount) if pattern.value else Fraction(1)) for e in inside))

    def covered(day: int) -> bool:
        return since_us is not None and local_day(since_us, ZONE) <= day - 2 * days

    out: list[Expected] = []
    rested = -(10**9)
    if pattern.rises_to is not None:
        for index, event in enumerate(events):
            day = local_day(event.at_us, ZONE)
            before = figure(events, day - 2 * days, day - days)
            this = figure(events[: index + 1], day - days, day)
            enough = before >= pattern.at_least and this >= pattern.rises_to * before
            if enough and covered(day) and day >= rested + days:
                rested = day
                out.append(Expected(event.at_us, completion_id(pattern.key, [event.digest])))
        return out
    if not events:
        return out
    assert pattern.falls_to is not None
    first, last = local_day(events[0].at_us, ZONE), local_day(events[-1].at_us, ZONE)
    for today in range(first, last + 2 * days + 3):
        yesterday = today - 1
        before = figure(events, yesterday - 2 * days, yesterday - days)
        this = figure(events, yesterday - days, yesterday)
        enough = before >= pattern.at_least and this <= pattern.falls_to * before
        if enough and covered(yesterday) and today >= rested + days:
            rested = today
            due_us = instant_of(today, 0, ZONE)
            out.append(Expected(due_us, completion_id(pattern.key, [], due_us)))
    return out


def expected_handsets(history: Sequence[Happening], known: str = "") -> list[tuple[int, str, str]]:
    """(when, new, previous) of each change."""
    out = []
    for event in in_order(history):
        if known and known[:14] != event.imei[:14]:
            out.append((event.at_us, event.imei, known))
        known = event.imei
    return out
