"""The matcher benchmark's workload: seeded rules, behaviours and events, and an oracle in plain Python.

A rule is for one of 20 event types and has 5 or 6 conditions over event and subscriber attributes, metrics
and behaviours; a behaviour of the second level reads one of the first. The more rules there are, the more
special each is, so that about 0.9 % of the events match at every size.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Event = Mapping[str, int | str]

TYPES = [f"t{number}" for number in range(20)]
KINDS = [f"k{number}" for number in range(8)]
BRANDS = [f"b{number}" for number in range(4)]
METRICS = [f"m{number}" for number in range(10)]
# What every event carries, and in which space of the language it lives. Numbers are below the given one.
SPACES = {
    "kind": "event",
    "amount": "event",
    "age": "sub",
    "points": "sub",
    "brand": "sub",
} | dict.fromkeys(METRICS, "metric")
BELOW = {"amount": 1000, "age": 80, "points": 10_000} | dict.fromkeys(METRICS, 100)
MATCHING = 0.009
LIKELY_BEHAVIOUR = 0.3  # three tests of the second level: 0.7 * 0.7 * 0.6


@dataclass(frozen=True, slots=True)
class Test:
    """`field operator value`, where the operator is `==`, `>=` or `<`."""

    field: str
    operator: str
    value: int | str

    def holds(self, event: Event) -> bool:
        actual = event[self.field]
        match self.operator, actual, self.value:
            case ">=", int(), int():
                return actual >= self.value
            case "<", int(), int():
                return actual < self.value
        return actual == self.value


@dataclass(frozen=True, slots=True)
class Behaviour:
    """Holds if all tests do, and the behaviour below it, if there is one."""

    name: str
    tests: tuple[Test, ...]
    below: Behaviour | None = None

    def flat(self) -> tuple[Test, ...]:
        return (*(self.below.flat() if self.below else ()), *self.tests)


@dataclass(frozen=True, slots=True)
class Rule:
    name: str
    type: str
    tests: tuple[Test, ...]
    behaviour: Behaviour

    def flat(self) -> tuple[Test, ...]:
        """All tests with the behaviour written out: for engines that are faster so."""
        return (*self.tests, *self.behaviour.flat())


@dataclass(frozen=True, slots=True)
class Workload:
    """`events` are random; of `probes`, each is made to match at least one rule."""

    behaviours: tuple[Behaviour, ...]
    rules: tuple[Rule, ...]
    events: tuple[Event, ...]
    probes: tuple[Event, ...]

    def by_type(self) -> dict[str, list[Rule]]:
        found: dict[str, list[Rule]] = {type_: [] for type_ in TYPES}
        for rule in self.rules:
            found[rule.type].append(rule)
        return found


def expected(workload: Workload, events: Sequence[Event]) -> list[frozenset[str]]:
    """The right answers: names of the rules that match each event, by trying all of its type."""
    rules = {type_: [(rule.name, rule.flat()) for rule in of] for type_, of in workload.by_type().items()}
    return [
        frozenset(
            name for name, tests in rules[str(event["type"])] if all(test.holds(event) for test in tests)
        )
        for event in events
    ]


def make(size: int, events: int, probes: int, seed: int = 20261120) -> Workload:
    """The workload with `size` rules. The same arguments always give the same workload."""
    rnd = random.Random(f"{seed} {size}")
    first = [
        Behaviour(f"first{number}", (_likely(rnd, METRICS[number], 0.7), _likely(rnd, "age", 0.7)))
        for number in range(10)
    ]
    second = [
        Behaviour(f"second{number}", (_likely(rnd, METRICS[(number + 3) % 10], 0.6),), first[number])
        for number in range(10)
    ]
    rules = tuple(_rule(rnd, f"r{number:04}", TYPES[number % 20], second, size) for number in range(size))
    return Workload(
        (*first, *second),
        rules,
        tuple(_event(rnd) for _ in range(events)),
        tuple(_event(rnd, rnd.choice(rules)) for _ in range(probes)),
    )


def _likely(rnd: random.Random, field: str, probability: float) -> Test:
    """A threshold on a number that holds with about this probability."""
    below = BELOW[field]
    probability = min(0.98, max(0.02, rnd.gauss(probability, probability / 10)))
    if rnd.random() < 0.5:
        return Test(field, "<", max(1, round(below * probability)))
    return Test(field, ">=", min(below - 1, round(below * (1 - probability))))


def _rule(rnd: random.Random, name: str, type_: str, behaviours: Sequence[Behaviour], size: int) -> Rule:
    behaviour = rnd.choice(behaviours)
    tests = [Test("kind", "==", rnd.choice(KINDS))]
    left = MATCHING * len(TYPES) / size / LIKELY_BEHAVIOUR * len(KINDS)
    if rnd.random() < 0.5 and left * len(BRANDS) < 0.5:
        tests.append(Test("brand", "==", rnd.choice(BRANDS)))
        left *= len(BRANDS)
    free = sorted(set(BELOW) - {test.field for test in behaviour.flat()})
    fields = rnd.sample(free, rnd.choice((4, 5)) - len(tests))
    tests += [_likely(rnd, field, left ** (1 / len(fields))) for field in fields]
    return Rule(name, type_, tuple(tests), behaviour)


def _event(rnd: random.Random, matching: Rule | None = None) -> Event:
    event: dict[str, int | str] = {
        "type": rnd.choice(TYPES),
        "kind": rnd.choice(KINDS),
        "brand": rnd.choice(BRANDS),
        **{field: rnd.randrange(below) for field, below in BELOW.items()},
    }
    if matching is None:
        return event
    event["type"] = matching.type
    for test in matching.flat():
        while not test.holds(event):  # fields are drawn again until the rule matches
            pool = {"kind": KINDS, "brand": BRANDS}.get(test.field)
            event[test.field] = rnd.choice(pool) if pool else rnd.randrange(BELOW[test.field])
    return event if all(test.holds(event) for test in matching.flat()) else _event(rnd, matching)
