"""What events are to the patterns of a revision, and how they take part."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from opportune_rulebase.engine import Facts
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

from opportune_service.core.patterns.count import count_machine
from opportune_service.core.patterns.journal import (
    FEW,
    Going,
    Machine,
    join,
    shorten,
    take_in_order,
    take_late,
)
from opportune_service.core.patterns.sequence import sequence_machine
from opportune_service.core.patterns.sighting import Compilers, Completion, Holds, carry
from opportune_service.core.patterns.timed import (
    ABSENT,
    AFTER,
    ELSEWHERE,
    INSIDE,
    absence_machine,
    dwell_machine,
)
from opportune_service.core.state import Noted, SubscriberState

Marks = tuple[Any, ...]
"""The key of a pattern, what an event is to it, the next key, and so on."""


class _Asked(NamedTuple):
    """A pattern that must be asked what an event is to it: `always`, and the bit of each that holds."""

    machine: Machine
    always: int
    questions: tuple[tuple[int, Holds], ...]


class Roles(NamedTuple):
    """What events of one type are to patterns. `marks` where that is known before they come, and `going`
    who goes on by that. `names`: the attributes that are kept of the event; None for all. `answered`: all
    that by the answers of those that must be `asked`, and `there`: the same for events with a cell, by the
    categories of its place; both as far as they came up."""

    marks: Marks
    going: Going
    asked: tuple[_Asked, ...]
    names: frozenset[str] | None
    answered: dict[tuple[int, ...], tuple[Marks, Going]]
    there: dict[tuple[str, ...], Roles]

    def at(self, place: Place | None, stays: Stays) -> Roles:
        """What they are if they are at a place; None: off the map."""
        categories = () if place is None else place.categories
        found = self.there.get(categories)
        if found is None:
            whats = [
                (machine, INSIDE if category in categories else ELSEWHERE) for category, machine in stays
            ]
            found = self.there[categories] = self._replace(
                marks=self.marks + _marks(whats),
                going=self.going + _going(whats),
                answered={},
                there={},
            )
        return found

    def ask(self, facts: Facts) -> tuple[Marks, Going]:
        """What an event is, and who goes on by that."""
        whats: tuple[int, ...] = ()
        for _, what, questions in self.asked:
            for bit, where in questions:
                if where(facts):
                    what |= bit  # noqa: PLW2901
            whats += (what,)
        found = self.answered.get(whats)
        if found is None:
            more = [(each.machine, what) for each, what in zip(self.asked, whats, strict=True) if what]
            found = self.marks + _marks(more), self.going + _going(more)
            self.answered[whats] = found
        return found


def no_roles() -> Roles:
    """Those of events that no pattern looks at."""
    return Roles((), (), (), frozenset(), {}, {})


def _marks(whats: Iterable[tuple[Machine, int]]) -> Marks:
    return tuple(part for machine, what in whats for part in (machine.key, what))


def _going(whats: Iterable[tuple[Machine, int]]) -> Going:
    return tuple(
        (machine.key, what, bool(what & machine.begins), machine.step, machine) for machine, what in whats
    )


Stays = Sequence[tuple[str, Machine]]
"""Patterns that look at all events with a cell: the category of places of each, and how it gets on."""


class Machines(dict[str, Machine]):
    """The patterns of a revision by key, ready to run; all but changes. `stays` are some of them."""

    def __init__(
        self, patterns: Iterable[Pattern], declared: Mapping[str, frozenset[str]], compile_: Compilers
    ) -> None:
        """`declared`: the attributes of each pattern's own events, by name."""
        super().__init__()
        self._declared = declared
        self._test = compile_.test
        stays = []
        for pattern in patterns:
            if isinstance(pattern, ChangePattern):
                continue
            machine = self[pattern.key] = _machine(pattern, declared[pattern.name], compile_)
            if isinstance(pattern, DwellPattern):
                stays.append((pattern.category, machine))
        self.stays: Stays = stays
        self._known: dict[tuple[Marks, frozenset[str] | None], Roles] = {}

    def roles(self, patterns: Iterable[Pattern], type_: str, attributes: frozenset[str]) -> Roles:
        """What events of a type that has these attributes are to patterns, which may be narrowed."""
        known, asked = [], []
        names: set[str] = set()
        for pattern in patterns:
            always, questions = 0, []
            for bit, step in _bits(pattern):
                if type_ in step.of and step.where is None:
                    always |= bit
                elif type_ in step.of and step.where is not None:
                    questions.append((bit, self._test(step.where)))
            names |= _needed(
                pattern, always | sum(bit for bit, _ in questions), self._declared[pattern.name]
            )
            if questions:
                asked.append(_Asked(self[pattern.key], always, tuple(questions)))
            elif always:
                known.append((self[pattern.key], always))
        kept = None if attributes <= names else frozenset(names)
        if not asked:  # the same ones for all to whom it comes to the same
            marks = _marks(known)
            if (marks, kept) not in self._known:
                self._known[marks, kept] = Roles(marks, _going(known), (), kept, {}, {})
            return self._known[marks, kept]
        return Roles(_marks(known), _going(known), tuple(asked), kept, {}, {})


def take(
    machines: Mapping[str, Machine],
    roles: Roles,
    state: SubscriberState,
    facts: Facts,
    digest: int,
    cell_id: str,
    horizon: int,
) -> tuple[Sequence[Completion], bool]:
    """Let an event take part in all patterns that look at it; the completions to give out now, and whether
    timers may have changed. `facts` are its own; `digest`: the `ranked` hash of (source, event id);
    `cell_id`: empty without one. No event before `horizon` comes any more."""
    marks, going, asked, names, _, _ = roles
    if asked:
        marks, going = roles.ask(facts)
    if not marks:
        return _NOTHING
    at_us = facts.now_us
    attributes = facts.event if names is None else carry(facts.event, names) if names else None
    noted = Noted(at_us, digest, marks, attributes or None, cell_id)
    journal = state.journal
    if journal:
        last = journal[-1]
        if last.at_us >= at_us and (last.at_us > at_us or last.digest >= digest):
            if last.digest == digest and last.at_us == at_us and not {*last.marks[::2]} & {*marks[::2]}:
                join(last, noted)
                return take_in_order(going, state.patterns, last, horizon)
            return take_late(machines, state, noted, horizon), True
        if len(journal) >= FEW:
            shorten(machines, state, horizon)
    journal.append(noted)
    return take_in_order(going, state.patterns, noted, horizon)


_NOTHING: tuple[Sequence[Completion], bool] = ((), False)


def _machine(pattern: Pattern, declared: frozenset[str], compile_: Compilers) -> Machine:
    match pattern:
        case CountPattern():
            return count_machine(pattern, declared)
        case SequencePattern():
            return sequence_machine(pattern, declared, compile_)
        case AbsencePattern():
            return absence_machine(pattern, declared)
        case DwellPattern():
            return dwell_machine(pattern)
        case ChangePattern():
            raise TypeError("changes keep events of their own")


def _bits(pattern: Pattern) -> Iterable[tuple[int, Step]]:
    """What an event may be to a pattern, a bit each."""
    match pattern:
        case CountPattern():
            return [(1, pattern.step)]
        case SequencePattern():
            steps = (*pattern.steps, pattern.without) if pattern.without else pattern.steps
            return [(1 << n, step) for n, step in enumerate(steps)]
        case AbsencePattern():
            return [(AFTER, pattern.after), (ABSENT, pattern.absent)]
        case ChangePattern() | DwellPattern():
            return []


def _needed(pattern: Pattern, what: int, declared: frozenset[str]) -> frozenset[str]:
    """The attributes that may be needed of an event that may be this to a pattern."""
    match pattern:
        case CountPattern():
            names = declared | {pattern.distinct} if pattern.distinct else declared
            return names if what else frozenset()
        case SequencePattern():
            last = what >> (len(pattern.steps) - 1) & 1
            return (declared if last else frozenset()) | (pattern.kept if what else frozenset())
        case AbsencePattern():
            return declared if what & AFTER else frozenset()
        case ChangePattern() | DwellPattern():
            return frozenset()
