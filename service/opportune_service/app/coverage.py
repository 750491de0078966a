"""What test cases exercise of a rulebase: seen through the engine while they run. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from opportune_rulebase.engine import Engine, Facts, Truth
from opportune_rulebase.expressions import Expression
from opportune_rulebase.model import Campaign, Rulebase
from opportune_rulebase.variables import lookup


@dataclass(slots=True)
class Seen:
    """What came about in cases, by name. Definitions are qualified; one that does not hold is false or
    unknown. `types` are event types, those of patterns and triggers among them."""

    types: set[str] = field(default_factory=set)
    matched: set[str] = field(default_factory=set)
    decided: set[str] = field(default_factory=set)
    held: set[str] = field(default_factory=set)
    not_held: set[str] = field(default_factory=set)
    facts: set[str] = field(default_factory=set)


class Watcher:
    """An `Engine` that sees everything it is asked. `asked`: campaigns whose values are wanted; `values`
    then has, for each that was triggered, what its `when` reads, as of the last event that did."""

    def __init__(self, rulebase: Rulebase, engine: Engine, asked: Iterable[str] = ()) -> None:
        self.seen = Seen()
        self.values: dict[str, dict[str, object]] = {}
        self._rulebase = rulebase
        self._engine = engine
        self._asked = frozenset(asked)

    def match(self, facts: Facts) -> Sequence[Campaign]:
        matched = self._engine.match(facts)
        seen, rulebase = self.seen, self._rulebase
        seen.types.add(facts.type)
        seen.matched.update(campaign.name for campaign in matched)
        for campaign in rulebase.campaigns.values():
            if facts.type in campaign.on:
                self._look(facts, campaign.when, campaign.target, campaign.propensity)
                if campaign.name in self._asked:
                    self.values[campaign.name] = self._values(facts, campaign.when)
        if matched:
            self._look(facts, *(suppression.when for suppression in rulebase.policies.suppressions))
        for fact in rulebase.facts.values():
            if facts.type in fact.on:
                self._look(facts, fact.when)
                if fact.when is None or self._engine.truth(fact.when, facts) is True:
                    seen.facts.add(fact.name)
        return matched

    def truth(self, expression: Expression, facts: Facts) -> Truth:
        return self._engine.truth(expression, facts)

    def test(self, expression: Expression) -> Callable[[Facts], bool]:
        return self._engine.test(expression)

    def value(self, expression: Expression, facts: Facts) -> object:
        return self._engine.value(expression, facts)

    def unknowns(self) -> Mapping[str, int]:
        return self._engine.unknowns()

    def close(self) -> None:
        """Nothing: the engine belongs to whoever made it."""

    def _look(self, facts: Facts, *expressions: Expression | None) -> None:
        """Note the definitions that these read, however deep."""
        for name, value in self._values(facts, *expressions).items():
            if name in self._rulebase.definitions or name in self._rulebase.imported:
                (self.seen.held if value is True else self.seen.not_held).add(name)

    def _values(self, facts: Facts, *expressions: Expression | None) -> dict[str, object]:
        """Everything that the expressions read with its value, definitions with what they read."""
        definitions = self._rulebase.definitions
        values: dict[str, object] = {}
        pending = [name for expression in expressions if expression for name in expression.reads]
        while pending:
            name = pending.pop()
            if name in values or name in ("now", "zone"):
                continue
            values[name] = lookup(
                facts, name, self._rulebase.vocabulary, lambda each: self._holds(each, facts)
            )
            if name in definitions:
                pending.extend(definitions[name].when.reads)
        return dict(sorted(values.items()))

    def _holds(self, definition: str, facts: Facts) -> Truth:
        return self._engine.truth(self._rulebase.definitions[definition].when, facts)


class Reached(StrEnum):
    """How far a campaign came in some case."""

    NEVER = "never"
    TRIGGERED = "triggered"
    MATCHED = "matched"
    DECIDED = "decided"


@dataclass(frozen=True, slots=True)
class Coverage:
    """What cases came to, for everything in the rulebase that they can exercise.

    `definitions`: qualified name -> (it held, it did not hold). `patterns`: completed. `facts`: set.
    """

    campaigns: Mapping[str, Reached]
    definitions: Mapping[str, tuple[bool, bool]]
    patterns: Mapping[str, bool]
    facts: Mapping[str, bool]

    def rows(self) -> list[tuple[str, int, int, list[str]]]:
        """What is counted, how many are covered, of how many, and those that are not."""
        held = {name: sides[0] for name, sides in self.definitions.items()}
        not_held = {name: sides[1] for name, sides in self.definitions.items()}
        decided = {name: reached is Reached.DECIDED for name, reached in self.campaigns.items()}
        return [
            _row("campaigns decided", decided),
            _row("definitions that held", held),
            _row("definitions that did not", not_held),
            _row("patterns completed", self.patterns),
            _row("facts set", self.facts),
        ]

    @property
    def percent(self) -> float:
        """Covered of all, over all rows; 100 if there is nothing to cover."""
        covered, total = sum(row[1] for row in self.rows()), sum(row[2] for row in self.rows())
        return 100 * covered / total if total else 100.0


def coverage(rulebase: Rulebase, seen: Sequence[Seen]) -> Coverage:
    """What cases covered together."""
    types, matched, decided, held, not_held, facts = (
        set[str]().union(*(getattr(each, name) for each in seen))
        for name in ("types", "matched", "decided", "held", "not_held", "facts")
    )

    def reached(campaign: Campaign) -> Reached:
        if campaign.name in decided:
            return Reached.DECIDED
        if campaign.name in matched:
            return Reached.MATCHED
        return Reached.NEVER if types.isdisjoint(campaign.on) else Reached.TRIGGERED

    return Coverage(
        campaigns={each.name: reached(each) for each in rulebase.campaigns.values()},
        definitions={
            name: (name in held, name in not_held) for name in (*rulebase.definitions, *rulebase.imported)
        },
        patterns={name: name in types for name in rulebase.patterns},
        facts={name: name in facts for name in rulebase.facts},
    )


def _row(what: str, covered: Mapping[str, bool]) -> tuple[str, int, int, list[str]]:
    return what, sum(covered.values()), len(covered), [name for name, is_so in covered.items() if not is_so]
