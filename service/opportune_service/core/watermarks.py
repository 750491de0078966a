"""How far the sources have come, so that no timer fires while what would have stopped it may be on its way.

A timer that is due at T awaits events of some types. It is settled by its **relevant sources**: those
that are declared to send such a type; where none is declared, those that have sent one; where nobody has,
every source that was heard of. Slow sources never count: their events take part in no pattern. A stay
awaits every event that tells a cell. A type that is derived stands for the types it is derived from.

    fire    every relevant source has shown an event past T, or is idle, and then T + GRACE is over
    drop    the service has listened for SOURCE_TIMEOUT since T, and some relevant source still lags
    wait    otherwise

A source is **idle** if it has sent nothing for GRACE and its last word was current: its newest event no
older than GRACE when it came. One that fell silent in the middle of a backlog lags, and so does one that is
declared and never came. Nobody can send while the service does not listen, so after a start, or when the
store was away, both times begin anew: nobody counts as idle before GRACE, and no timer is dropped before
SOURCE_TIMEOUT. A source that is not declared and has been silent for a day is no source any more: what it
may still hold back would be refused as too late.

Watermarks are of sources, not of subscribers: a source that mixes old and new events is taken by its
newest. What still comes late is folded like any late event; no completion is taken back.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum

import msgspec
from opportune_rulebase.model import AbsencePattern, ChangePattern, DwellPattern, Pattern, Rulebase

from opportune_service.core.events import MAX_LATENESS_US, Event
from opportune_service.core.patterns.handset import HANDSET_CHANGED
from opportune_service.core.plans import types_of
from opportune_service.core.revision import span_us

GRACE_US = 60_000_000
"""Collectors send within seconds what they have; after a minute of silence there is nothing."""

SOURCE_TIMEOUT_US = 15 * 60_000_000
"""How long a timer waits for a source that lags. Later the moment would have passed for most offers."""

GONE_US = 24 * 3600 * 1_000_000
"""Sources that are not declared are forgotten after so long a silence."""

MAX_SOURCES = 1_000
"""Sources that are followed. Their names are the senders' own, and a sender at fault could make up many."""

CELL = "*cell"
"""Stands for "any event that tells a cell"; no event type has such a name."""

IMEI = "*imei"
"""The same for a handset: any of them may show that it is another."""

_ENDLESS = 2**63 - 1


class SourceMark(msgspec.Struct, array_like=True):
    """How far one source has come. `shown_us`: the newest event time it has shown. `heard_us`: when it last
    sent anything, by the service's clock. `types`: the event types it has shown, CELL and IMEI."""

    shown_us: int
    heard_us: int
    types: set[str]


class Word(Enum):
    """What becomes of a timer that is due."""

    FIRE = "fire"
    WAIT = "wait"
    DROP = "drop"


@dataclass(frozen=True, slots=True)
class Horizon:
    """How far the relevant sources of a timer have come. `shown_us`: all have shown it. `busy_us`: all that
    are not idle have. `slowest`: the source that is furthest behind, "" if none is relevant."""

    shown_us: int
    busy_us: int
    slowest: str


def awaited_by(pattern: Pattern, rulebase: Rulebase) -> frozenset[str]:
    """The types that collectors send, CELL and IMEI among them, of which the timer of a pattern must have
    seen all."""
    return awaited_types(pattern, rulebase) - rulebase.patterns.keys()


def awaited_types(pattern: Pattern, rulebase: Rulebase) -> frozenset[str]:
    """The same, and the derived types among those."""
    match pattern:
        case AbsencePattern():
            return _with_sources(pattern.absent.of, rulebase)
        case DwellPattern():
            return frozenset((CELL,))
        case ChangePattern():
            return _with_sources(pattern.step.of, rulebase)
        case _:
            return frozenset()


def _with_sources(types: Collection[str], rulebase: Rulebase) -> frozenset[str]:
    """The types, and all that they are derived of."""
    found = set(types)
    for name in types:
        pattern = rulebase.patterns.get(name)
        if name == HANDSET_CHANGED:
            found.add(IMEI)
            if not any(name in source.events for source in rulebase.vocabulary.sources.values()):
                found.discard(name)  # whoever sends it tells a handset, too
        elif isinstance(pattern, DwellPattern):
            found.add(CELL)
        elif pattern is not None:
            found |= _with_sources(tuple(types_of(pattern)), rulebase)
    return frozenset(found)


def known_from_us(pattern: Pattern, rulebase: Rulebase, coverage: Mapping[str, int], whole_us: int) -> int:
    """The earliest instant at which a wait of the pattern may have begun and nothing of what it awaits was
    missed since. `coverage`: pattern key -> since when it has been folded. `whole_us`: since when the
    service has missed nothing."""
    known_us = max(whole_us, coverage.get(pattern.key, 0))
    if not isinstance(pattern, AbsencePattern):
        return known_us
    awaited = (rulebase.patterns[name] for name in pattern.absent.of if name in rulebase.patterns)
    return max([known_us, *(_whole_from_us(each, rulebase, coverage, whole_us) for each in awaited)])


def _whole_from_us(pattern: Pattern, rulebase: Rulebase, coverage: Mapping[str, int], whole_us: int) -> int:
    """From when on every completion of the pattern is seen: as long after the beginning as one may take."""
    made_of = (rulebase.patterns[name] for name in types_of(pattern) if name in rulebase.patterns)
    begun = [_whole_from_us(each, rulebase, coverage, whole_us) for each in made_of]
    return max(whole_us, coverage.get(pattern.key, 0), *begun) + span_us(pattern)


class Watermarks:
    """How far each source has come. `listening_us`: since when the service has listened without a break."""

    def __init__(self, listening_us: int, marks: Mapping[str, SourceMark] | None = None) -> None:
        self.listening_us = listening_us
        self._marks = dict(marks or {})

    def hear(self, source: str, events: Collection[Event], now_us: int) -> None:
        """The source has sent something; `events` are those that were understood."""
        mark = self._marks.get(source)
        if mark is None:
            if len(self._marks) >= MAX_SOURCES:
                del self._marks[min(self._marks, key=lambda name: self._marks[name].heard_us)]
            mark = self._marks[source] = SourceMark(0, 0, set())
        mark.heard_us = max(mark.heard_us, now_us)
        if events:
            mark.shown_us = max(mark.shown_us, *[event.occurred_at_us for event in events])
            mark.types.update({event.type for event in events})
            if CELL not in mark.types and any(event.cell_id for event in events):
                mark.types.add(CELL)
            if IMEI not in mark.types and any(
                event.imei or event.type == HANDSET_CHANGED for event in events
            ):
                mark.types.add(IMEI)

    def marks(self) -> dict[str, SourceMark]:
        """A copy, to be kept."""
        return {
            name: SourceMark(mark.shown_us, mark.heard_us, set(mark.types))
            for name, mark in self._marks.items()
        }

    def merge(self, marks: Mapping[str, SourceMark]) -> None:
        """What others heard of sources, which may be the same ones."""
        for source, theirs in marks.items():
            own = self._marks.setdefault(source, SourceMark(0, 0, set()))
            own.shown_us = max(own.shown_us, theirs.shown_us)
            own.heard_us = max(own.heard_us, theirs.heard_us)
            own.types |= theirs.types

    def horizon(self, awaited: Collection[str], rulebase: Rulebase, now_us: int) -> Horizon:
        """How far those have come that are relevant for these types."""
        shown_us = busy_us = _ENDLESS
        slowest = ""
        for source in sorted(self._relevant(awaited, rulebase, now_us)):
            mark = self._marks.get(source)
            reached_us = mark.shown_us if mark else 0
            if reached_us < shown_us:
                shown_us, slowest = reached_us, source
            if mark is None or not self._is_idle(mark, now_us):
                busy_us = min(busy_us, reached_us)
        if not slowest:
            # Nobody to wait for: the grace alone decides, once it is known that nobody comes.
            return Horizon(0, _ENDLESS if now_us >= self.listening_us + GRACE_US else 0, "")
        return Horizon(shown_us, busy_us, slowest)

    def word(self, horizon: Horizon, due_us: int, now_us: int) -> Word:
        """What becomes of a timer that is due at `due_us`."""
        if horizon.shown_us > due_us or (horizon.busy_us > due_us and now_us >= due_us + GRACE_US):
            return Word.FIRE
        if now_us >= max(due_us, self.listening_us) + SOURCE_TIMEOUT_US:
            return Word.DROP
        return Word.WAIT

    def _is_idle(self, mark: SourceMark, now_us: int) -> bool:
        silent_since_us = max(mark.heard_us, self.listening_us)
        return now_us >= silent_since_us + GRACE_US and mark.shown_us >= mark.heard_us - GRACE_US

    def _relevant(self, awaited: Collection[str], rulebase: Rulebase, now_us: int) -> set[str]:
        sources = rulebase.vocabulary.sources
        slow = {name for name, source in sources.items() if source.max_lateness_us > MAX_LATENESS_US}
        heard = {
            name
            for name, mark in self._marks.items()
            if name not in slow
            and (name in sources or now_us < max(mark.heard_us, self.listening_us) + GONE_US)
        }
        relevant: set[str] = set()
        for type_ in awaited:
            relevant |= (
                {name for name, source in sources.items() if type_ in source.events and name not in slow}
                or {name for name in heard if type_ in self._marks[name].types}
                or heard
            )
        return relevant
