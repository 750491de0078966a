"""What events go through under one revision: its folding plan, computed once."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from opportune_rulebase.engine import Engine
from opportune_rulebase.expressions import Expression
from opportune_rulebase.model import (
    AbsencePattern,
    ChangePattern,
    CountPattern,
    DwellPattern,
    Fact,
    Metric,
    Pattern,
    Rulebase,
    SequencePattern,
)

from opportune_service.core.fold import Fold, fact_fold, metric_fold
from opportune_service.core.links import compilers
from opportune_service.core.narrowing import decided, filters, narrowed, told_apart
from opportune_service.core.patterns import (
    Compilers,
    Machines,
    Roles,
    Stays,
    Taker,
    change_taker,
    no_roles,
)
from opportune_service.core.patterns.sighting import Holds
from opportune_service.core.responses import Told, told_by


class Folding(NamedTuple):
    """How a metric or a fact takes in events for which `where` (None: always) holds."""

    of: Metric | Fact
    where: Holds | None
    fold: Fold


class Part(NamedTuple):
    """What events of one type, or those of them that have told one attribute, go through: the metrics and
    facts that take in all of them (`sure`), those that have to be asked, and patterns; `changes` are those
    that keep events of their own."""

    sure: tuple[Fold, ...]
    asked: tuple[tuple[Holds, Fold], ...]
    patterns: Roles
    changes: tuple[Taker, ...] = ()


def part_of(foldings: Iterable[Folding], patterns: Roles, changes: tuple[Taker, ...] = ()) -> Part:
    """The part with these foldings."""
    sure, asked = [], []
    for _, where, fold in foldings:
        if where is None:
            sure.append(fold)
        else:
            asked.append((where, fold))
    return Part(tuple(sure), tuple(asked), patterns, changes)


@dataclass(frozen=True, slots=True)
class Plan:
    """What an event of one type goes through. `triggers`: whether it triggers campaigns. `peer`: its
    attribute that names another subscriber. `stays`: patterns that it goes through if it has a cell.
    `told`: what it tells besides. `by` is the attribute of which its filters ask most, `parts` are what is
    to be looked at by its value; None for any other. Without one it is the `whole`: filters then count what
    they miss. `folds`: whether it changes states.
    """

    whole: Part
    triggers: bool = False
    peer: str | None = None
    stays: Stays = ()
    told: Told | None = None
    by: str | None = None
    parts: Mapping[object, Part] = field(default_factory=dict)
    folds: bool = field(init=False)

    def __post_init__(self) -> None:
        sure, asked, patterns, changes = self.whole
        folds = sure or asked or patterns.marks or patterns.asked or changes or self.stays
        object.__setattr__(self, "folds", bool(folds))

    def __bool__(self) -> bool:
        return bool(self.folds or self.triggers or self.told)


NOTHING = Plan(part_of((), no_roles()))
"""Of events at which only revisions look that run beside another."""


class OwnPlans:
    """What a revision folds itself: all of its rulebase but what is `folded` by another one. `patterns`:
    (rank, key, pattern), each with a greater rank than those whose events it takes in. Rank and key are of
    the content alone: in what order timers of one instant are settled does not depend on the revision.
    `tests` gives expressions as functions."""

    def __init__(self, rulebase: Rulebase, engine: Engine, folded: Collection[str] | None) -> None:
        self.tests: Mapping[Expression, Holds] = _Tests(engine)
        told = told_by(rulebase, orders_alone=folded is not None)
        folded = folded or ()
        patterns = [each for each in rulebase.patterns.values() if each.key not in folded]
        self.foldings = _foldings(rulebase, self.tests, folded)
        compile_ = compilers(engine)
        self.machines = Machines(patterns, _declared(rulebase), compile_)
        self.plans = _plans(rulebase, patterns, self.foldings, self.machines, compile_, told)
        self.slow_plans = _slow_plans(rulebase, self.foldings, told)
        stays = self.machines.stays
        self.cell_plan = Plan(part_of((), no_roles()), stays=stays) if stays else None
        ranks = _ranks(rulebase)
        self.patterns = [(ranks[each.name], each.key, each) for each in patterns]
        self.keys = frozenset(self.foldings) | {each.key for each in patterns}


def with_nothing(plans: Mapping[str, Plan], others: Iterable[Mapping[str, Plan]]) -> Mapping[str, Plan]:
    """These, and an empty one for each type that only others look at."""
    return {**{name: NOTHING for each in others for name in each}, **plans}


def _ranks(rulebase: Rulebase) -> dict[str, int]:
    """How many patterns follow from each other up to each one, by name."""
    ranks: dict[str, int] = {}
    for name, pattern in rulebase.patterns.items():
        ranks[name] = 1 + max((ranks.get(each, 0) for each in types_of(pattern)), default=0)
    return ranks


class _Tests(dict[Expression, Holds]):
    """Expressions as functions, made when first asked for."""

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self._engine = engine

    def __missing__(self, expression: Expression) -> Holds:
        test = self[expression] = self._engine.test(expression)
        return test


def _foldings(
    rulebase: Rulebase, tests: Mapping[Expression, Holds], folded: Collection[str]
) -> dict[str, Folding]:
    found: dict[str, Folding] = {}
    for metric in rulebase.metrics.values():
        if metric.key not in folded:
            where = tests[metric.where] if metric.where else None
            found[metric.key] = Folding(metric, where, metric_fold(metric))
    for fact in rulebase.facts.values():
        if fact.key not in folded:
            found[fact.key] = Folding(fact, tests[fact.when] if fact.when else None, fact_fold(fact))
    return found


def _plans(
    rulebase: Rulebase,
    own: Collection[Pattern],
    foldings: Mapping[str, Folding],
    machines: Machines,
    compile_: Compilers,
    told: Mapping[str, Told],
) -> dict[str, Plan]:
    triggers = {name for campaign in rulebase.campaigns.values() for name in campaign.on}
    plans = {}
    for name, event_type in rulebase.vocabulary.events.items():
        patterns = [each for each in own if name in types_of(each)]
        folded = [each for each in foldings.values() if name in _taken(each.of)]
        roles = machines.roles(patterns, name, frozenset(event_type.attributes))
        plan = Plan(
            part_of(folded, roles, _changes(patterns, name, compile_)),
            triggers=name in triggers,
            peer=event_type.peer,
            # A derived event is where the event is that it was derived of.
            stays=() if event_type.derived else machines.stays,
            told=told.get(name),
        )
        if plan:
            plans[name] = _parted(plan, folded, rulebase, machines, compile_, name, patterns)
    return plans


def _slow_plans(
    rulebase: Rulebase, foldings: Mapping[str, Folding], told: Mapping[str, Told]
) -> dict[str, Plan]:
    """What is left for events from slow sources: metrics in days, and what they tell besides."""
    in_days = [each for each in foldings.values() if isinstance(each.of, Metric) and each.of.days]
    plans = {
        name: Plan(
            part_of((each for each in in_days if name in _taken(each.of)), no_roles()), told=told.get(name)
        )
        for name in rulebase.vocabulary.events
    }
    return {name: plan for name, plan in plans.items() if plan}


def _parted(
    plan: Plan,
    folded: Sequence[Folding],
    rulebase: Rulebase,
    machines: Machines,
    compile_: Compilers,
    type_: str,
    patterns: Sequence[Pattern],
) -> Plan:
    """The plan with its parts, if any filter asks for a value of an attribute."""
    wheres = [where for each in folded if (where := _where(each)) is not None]
    by = told_apart([*wheres, *(where for pattern in patterns for where in filters(pattern, type_))])
    if by is None:
        return plan
    name, values = by
    attributes = frozenset(rulebase.vocabulary.events[type_].attributes)
    parts: dict[object, Part] = {}
    for value in (*sorted(values), None):
        left = [narrowed(pattern, name, value) for pattern in patterns]
        parts[value] = part_of(
            _left(folded, name, value),
            machines.roles(left, type_, attributes),
            _changes(left, type_, compile_),
        )
    return replace(plan, by=name, parts=parts)


def _changes(patterns: Iterable[Pattern], type_: str, compile_: Compilers) -> tuple[Taker, ...]:
    return tuple(
        change_taker(pattern, compile_)
        for pattern in patterns
        if isinstance(pattern, ChangePattern) and type_ in pattern.step.of
    )


def _where(folding: Folding) -> Expression | None:
    return folding.of.where if isinstance(folding.of, Metric) else folding.of.when


def _taken(of: Metric | Fact) -> tuple[str, ...]:
    """The event types that it takes in."""
    return of.of if isinstance(of, Metric) else of.on


def _left(foldings: Iterable[Folding], name: str, value: str | None) -> tuple[Folding, ...]:
    """Those that take in events whose attribute is this."""
    left = []
    for each in foldings:
        where = _where(each)
        truth = None if where is None else decided(where, name, value)
        if truth is not False:
            left.append(each._replace(where=None) if truth else each)
    return tuple(left)


def _declared(rulebase: Rulebase) -> dict[str, frozenset[str]]:
    """The attributes of patterns' own events."""
    events = rulebase.vocabulary.events
    return {name: frozenset(events[name].attributes) for name in rulebase.patterns}


def types_of(pattern: Pattern) -> Iterable[str]:
    """The event types that a pattern names; a stay takes in all that tell a cell, and names none."""
    match pattern:
        case CountPattern() | ChangePattern():
            return pattern.step.of
        case SequencePattern():
            without = pattern.without.of if pattern.without else ()
            return (*(name for step in pattern.steps for name in step.of), *without)
        case AbsencePattern():
            return (*pattern.after.of, *pattern.absent.of)
        case DwellPattern():
            return ()
