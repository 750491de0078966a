"""Patterns built directly from the model, for tests that do not concern loading; see `make_patterns`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

from opportune_rulebase.expressions import Expression
from opportune_rulebase.model import (
    AbsencePattern,
    ChangePattern,
    CountPattern,
    DwellPattern,
    EventType,
    Pattern,
    SequencePattern,
    Step,
)

MINUTE_US = 60_000_000

Compiled = Callable[[str | None, str, str], Expression | None]
"""(text, file, expected type) -> the expression; None for None."""


def make_patterns(
    given: Mapping[str, Mapping[str, Any]], types: Mapping[str, EventType], compiled: Compiled | None
) -> dict[str, Pattern]:
    """Patterns by name, each after those whose events it takes in.

    {"count": step, "distinct": None, "at_least": 2, "within_us": ...}
    {"sequence": [step, ...], "without": None, "within_us": ...}
    {"after": step, "absent": step, "for_us": ...}
    {"dwell": category, "for_us": ...}
    {"change": step, "value": None, "days": 7, "rises_to": None, "falls_to": None, "at_least": 1.0}

    A step is an event type, a tuple of them, or {"of": ..., "where": text, "link": text}. Times are ten
    minutes if they are not given. Without `compiled` the conditions are left out.
    """

    def step(name: str, spec: Any) -> Step:
        known = spec if isinstance(spec, Mapping) else {"of": spec}
        of = (known["of"],) if isinstance(known["of"], str) else tuple(known["of"])
        if compiled is None:
            return Step(of)
        return Step(
            of, compiled(known.get("where"), name, "bool"), compiled(known.get("link"), name, "bool")
        )

    made: dict[str, Pattern] = {}
    for name, spec in given.items():
        named = name, hashlib.sha256(repr((name, spec)).encode()).hexdigest()[:16], name
        within, for_ = spec.get("within_us", 10 * MINUTE_US), spec.get("for_us", 10 * MINUTE_US)
        if "count" in spec:
            at_least = spec.get("at_least", 2)
            made[name] = CountPattern(
                *named, step(name, spec["count"]), spec.get("distinct"), at_least, within
            )
        elif "sequence" in spec:
            steps = tuple(step(name, each) for each in spec["sequence"])
            without = step(name, spec["without"]) if spec.get("without") else None
            made[name] = SequencePattern(*named, steps, without, within, _kept(steps))
        elif "dwell" in spec:
            made[name] = DwellPattern(*named, spec["dwell"], for_)
        elif "change" in spec:
            made[name] = ChangePattern(
                *named,
                step(name, spec["change"]),
                value=spec.get("value"),
                days=spec.get("days", 7),
                rises_to=spec.get("rises_to"),
                falls_to=spec.get("falls_to"),
                at_least=spec.get("at_least", 1.0),
            )
        else:
            made[name] = AbsencePattern(*named, step(name, spec["after"]), step(name, spec["absent"]), for_)
    return made


def _kept(steps: tuple[Step, ...]) -> frozenset[str]:
    links = [each.link for each in steps if each.link is not None]
    return frozenset(name.partition(".")[2] for link in links for name in link.reads) - {"type"}


def derived_type(pattern: Pattern, types: Mapping[str, EventType]) -> EventType:
    """The type of a pattern's own events: with the attributes that all types that can complete it share."""
    of: tuple[str, ...] = ()
    match pattern:
        case CountPattern():
            of = pattern.step.of
        case SequencePattern():
            of = pattern.steps[-1].of
        case AbsencePattern():
            of = pattern.after.of
    common = [types[each].attributes for each in of]
    attributes = {
        name: each for name, each in (common[0] if common else {}).items() if all(name in a for a in common)
    }
    return EventType(pattern.name, pattern.name, attributes, derived=True)
