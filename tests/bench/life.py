"""A rulebase that folds, and the days of the subscribers it folds: for the benchmarks of state and of
folding.

The rules are those of the matcher's benchmark, so that its contenders can be asked the same. The metrics
that rules read are folded here: the level of the newest event of some types. Forty more metrics and fifty
patterns of all kinds are folded besides, as in a rulebase in service.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from opportune_rulebase.model import Place, Rulebase
from opportune_service.core.events import Event
from support.rulebases import DAY_US, NOON_US, make_rulebase
from workload import BELOW, BRANDS, KINDS, METRICS, TYPES, Behaviour, Rule, Test, Workload

__all__ = ["context", "cycle", "day", "rulebase", "subscriber_ids"]

HOUR_US = 3_600_000_000
MINUTE_US = 60_000_000
CELLS = {f"c{n}": Place(f"p{n}", "", ("station",) if n % 10 == 0 else ("mall",)) for n in range(100)}


def subscriber_ids(count: int) -> list[str]:
    return [f"8613{n:09d}" for n in range(count)]


def context(subscriber_id: str) -> dict[str, object]:
    rnd = random.Random(subscriber_id)
    return {
        "age": rnd.randrange(BELOW["age"]),
        "points": rnd.randrange(BELOW["points"]),
        "brand": rnd.choice(BRANDS),
    }


def day(
    seed: int, people: Sequence[str], events_each: int, begin_us: int = NOON_US
) -> Iterator[tuple[Event, dict[str, Any]]]:
    """Admitted events of fourteen hours, in order of time. Half of them tell one of a subscriber's
    cells."""
    rnd = random.Random(seed)
    count = len(people) * events_each
    for n in range(count):
        who = rnd.choice(people)
        cell = f"c{(int(who) + rnd.choice((0, 0, 0, 1, 2))) % 100}" if rnd.random() < 0.5 else ""
        at_us = begin_us + 14 * HOUR_US * n // count
        attributes = {
            "kind": rnd.choice(KINDS),
            "amount": rnd.randrange(BELOW["amount"]),
            "level": rnd.randrange(BELOW[METRICS[0]]),
        }
        yield Event(f"{seed}-{n}", who, rnd.choice(TYPES), at_us, cell_id=cell), attributes


def cycle(items: Sequence[str], start: int, count: int) -> tuple[str, ...]:
    return tuple(items[(start + n) % len(items)] for n in range(count))


def rulebase(workload: Workload, metrics: int = 50, patterns: int = 50) -> Rulebase:
    """The workload's rules as campaigns, over this many folded metrics and patterns."""
    return make_rulebase(
        events={type_: {"kind": "string", "amount": "int", "level": "int"} for type_ in TYPES},
        subscriber={"age": "int", "points": "int", "brand": "string"},
        metrics={f"m{n}": _metric(n) for n in range(metrics)},
        patterns={f"p{n}": _pattern(n) for n in range(patterns)},
        definitions={
            f"behaviour.{each.name}": _condition(each, each.below) for each in workload.behaviours
        },
        campaigns={
            rule.name: {"on": (rule.type,), "when": _condition(rule, rule.behaviour)}
            for rule in workload.rules
        },
        cells=CELLS,
    )


def _condition(of: Rule | Behaviour, reads: Behaviour | None) -> str:
    return " && ".join([*map(_cel, of.tests), *([f"behaviour.{reads.name}"] if reads else [])])


def _cel(test: Test) -> str:
    space = {"kind": "event", "amount": "event"}.get(
        test.field, "metric" if test.field in METRICS else "sub"
    )
    value = f"'{test.value}'" if isinstance(test.value, str) else test.value
    return f"{space}.{test.field} {test.operator} {value}"


def _metric(n: int) -> Mapping[str, Any]:
    """The first ten are read by rules. One in three of the others has a filter."""
    if n < len(METRICS):
        return {"kind": "latest", "of": (TYPES[n], TYPES[n + 10]), "value": "level", "last_us": DAY_US}
    of = (TYPES[n % len(TYPES)],)
    where = f"event.kind == '{KINDS[n % len(KINDS)]}'" if n % 3 == 0 else None
    spec: dict[str, Any] = [
        {"kind": "count", "days": 30},
        {"kind": "sum", "value": "amount", "days": 30},
        {"kind": "count", "last_us": HOUR_US},
        {"kind": "max", "value": "amount", "days": 90},
        {"kind": "distinct", "value": "kind", "days": 30},
        {"kind": "sum", "value": "amount", "last_us": DAY_US},
    ][n % 6]
    return {**spec, "of": of, "where": where}


def _pattern(n: int) -> Mapping[str, Any]:
    """Twenty repetitions, twelve sequences, eight absences, eight changes, two stays."""
    one, two = TYPES[n % len(TYPES)], TYPES[(n + 7) % len(TYPES)]
    where = {"of": one, "where": f"event.kind == '{KINDS[n % len(KINDS)]}'"}
    if n < 20:
        rare = {"count": where, "at_least": 3, "within_us": HOUR_US}
        return (
            rare if n % 2 else {"count": one, "distinct": "kind", "at_least": 5, "within_us": 2 * HOUR_US}
        )
    if n < 26:
        return {"sequence": [one, two], "within_us": 10 * MINUTE_US}
    if n < 32:
        linked = {"of": two, "link": "event.kind == first.kind"}
        return {"sequence": [where, linked], "without": TYPES[(n + 3) % 20], "within_us": HOUR_US}
    if n < 40:
        return {"after": where, "absent": two, "for_us": 24 * HOUR_US}
    if n < 48:
        return {"change": where, "days": 7, "rises_to": 2.0, "at_least": 5}
    return {"dwell": "station", "for_us": 30 * MINUTE_US}
