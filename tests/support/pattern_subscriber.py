"""One subscriber with one pattern, fed event by event, and short ways to write patterns."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import tzinfo
from functools import cache

import msgspec
from opportune_rulebase.engine import Facts
from opportune_rulebase.expressions import Expression
from opportune_rulebase.model import (
    AbsencePattern,
    ChangePattern,
    CountPattern,
    DwellPattern,
    Pattern,
    SequencePattern,
    Step,
)
from opportune_service.core.cells import see_cell
from opportune_service.core.patterns import (
    MAX_JOURNAL,
    Compilers,
    Completion,
    Link,
    Machines,
    Sighting,
    change_taker,
    forget_idle,
    horizon_us,
    resolve,
    take,
    take_handset,
)
from opportune_service.core.patterns.sighting import Told
from opportune_service.core.state import PatternState, SubscriberState, decode_state, encode_state
from support.pattern_oracle import LOUD, PLACES, SAME_CALLER, ZONE, Expected, Happening
from support.rulebases import make_facts

START_US = 1_795_147_200_000_000
MINUTE_US = 60_000_000
DAY_US = 1440 * MINUTE_US
FOREVER_US = 2**62

A, B, C = Step(("a",)), Step(("b",)), Step(("c",))
LOUD_A, AB = Step(("a",), LOUD), Step(("a", "b"))


def count(step: Step, distinct: str | None, at_least: int, minutes: int) -> Pattern:
    return CountPattern("p", "key", "", step, distinct, at_least, minutes * MINUTE_US)


def sequence(*steps: Step, without: Step | None = None, minutes: int) -> Pattern:
    kept = frozenset({"who"} if any(step.link for step in steps) else ())
    return SequencePattern("p", "key", "", steps, without, minutes * MINUTE_US, kept)


def change(
    value: str | None, days: int, rises: float | None, falls: float | None, least: float, step: Step = A
) -> Pattern:
    return ChangePattern("p", "key", "", step, value, days, rises, falls, least)


@dataclass
class Subscriber:
    """One subscriber with one pattern. `rng` decides when its state is written and read back, and when
    timers that are due are settled; `lag_us`: never before the newest event is that far past them."""

    pattern: Pattern
    rng: random.Random
    lag_us: int = 0
    hurry: bool = False
    since_us: int | None = 0
    state: SubscriberState = field(default_factory=SubscriberState)
    given: list[Completion] = field(default_factory=list)

    @property
    def kept(self) -> PatternState:
        return self.state.patterns.get("key") or PatternState()

    def feed(self, history: Sequence[Happening]) -> Subscriber:
        for each in history:
            if self.hurry:
                self.settle(each.at_us - self.lag_us)
            elif self.rng.random() < 0.3:
                self.settle(self.state.latest_us - self.lag_us)
            self.take(each)
            assert len(self.state.journal) <= MAX_JOURNAL
            if self.rng.random() < 0.2:
                read_back = decode_state(encode_state(self.state))
                assert read_back == self.state
                self.state = read_back
        return self

    def take(self, each: Happening) -> None:
        self.state.latest_us = max(self.state.latest_us, each.at_us)
        if each.cell:
            see_cell(self.state, each.at_us, each.cell)
        self.given += let(self.pattern, self.state, each, ZONE, self.since_us)

    def settle(self, until_us: int) -> None:
        """Settle what was due before then."""
        while 0 < self.state.due_us < until_us:
            due_us = self.state.due_us
            completion = self.resolve(due_us)
            if completion is not None:
                assert completion.at_us == due_us
                self.given.append(completion)
            assert self.state.due_us == 0 or self.state.due_us > due_us

    def resolve(self, due_us: int, fired: bool = True) -> Completion | None:
        return settled(self.pattern, self.state, due_us, fired, ZONE, self.since_us)

    def forget(self) -> None:
        forget_idle({self.pattern.key: self.pattern}, machines(self.pattern), self.state)

    @property
    def outcome(self) -> list[Expected]:
        return sorted(Expected(each.at_us, each.id) for each in self.given)

    @property
    def meaning(self) -> object:
        """What all events together came to, whatever was given out on the way."""
        tip = self.kept.tip
        if isinstance(self.pattern, ChangePattern):
            tip = tip[:1]
        if isinstance(self.pattern, AbsencePattern | DwellPattern):
            tip = tip[:2] if tip and tip[0] else ()  # what is not settled yet is none of it
        days = self.kept.days
        buckets = [] if days is None else list(zip(days.at, days.amount, strict=True))
        return msgspec.json.decode(msgspec.json.encode((tip, buckets)))


@cache
def machines(pattern: Pattern) -> Machines:
    return Machines([pattern], {pattern.name: _DECLARED}, _COMPILERS)


def let(
    pattern: Pattern, state: SubscriberState, each: Happening, zone: tzinfo, since_us: int | None
) -> Sequence[Completion]:
    """Let an event take part."""
    facts = make_facts(each.type, each.attributes, place=PLACES.get(each.cell), now_us=each.at_us)
    horizon = horizon_us(state, each.at_us)
    if isinstance(pattern, ChangePattern):
        if each.type not in pattern.step.of:
            return ()
        coverage = {} if since_us is None else {pattern.key: since_us}
        seen = Sighting(
            *(state, facts, each.at_us, each.digest, each.attributes, each.cell, horizon, zone, coverage)
        )
        return change_taker(pattern, _COMPILERS)(seen)
    ready = machines(pattern)
    roles = ready.roles([pattern], each.type, frozenset(each.attributes))
    if each.cell:
        roles = roles.at(PLACES.get(each.cell), ready.stays)
    completions, _ = take(ready, roles, state, facts, each.digest, each.cell, horizon)
    return completions


def settled(
    pattern: Pattern,
    state: SubscriberState,
    due_us: int,
    fired: bool,
    zone: tzinfo,
    since_us: int | None,
) -> Completion | None:
    """Settle a timer."""
    return resolve(pattern, machines(pattern), state, due_us, fired, zone, since_us)


def tell(state: SubscriberState, each: Happening, imei: str) -> Sequence[Completion]:
    """Let an event tell its handset."""
    return take_handset(state, each.at_us, each.digest, each.cell, imei)


def _is_loud(_: Expression) -> Callable[[Facts], bool]:
    return lambda facts: facts.event["loud"] is True


def _same_who(expression: Expression) -> Link:
    of_first = expression is SAME_CALLER

    def link(own: Told, first: Told, previous: Told) -> bool:
        return "who" in own and own["who"] == (first if of_first else previous).get("who")

    return link


_COMPILERS = Compilers(_is_loud, _same_who)
_DECLARED = frozenset({"loud", "amount", "who"})
