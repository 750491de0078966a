"""A rulebase made ready to run: its engine, its admission checks and its folding plan."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import tzinfo
from types import MappingProxyType
from typing import NamedTuple

from opportune_rulebase.engine import Engine
from opportune_rulebase.expressions import Expression
from opportune_rulebase.model import (
    AbsencePattern,
    Campaign,
    ChangePattern,
    CountPattern,
    DwellPattern,
    Fact,
    Metric,
    Pattern,
    Rulebase,
    SequencePattern,
)
from opportune_rulebase.policies import Fate, Mode, Suppression

from opportune_service.core.admit import Admission
from opportune_service.core.calendars import DAY_US, zone_named
from opportune_service.core.events import MAX_LATENESS_US
from opportune_service.core.fold import Fold, fact_fold, metric_fold, metric_read
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
from opportune_service.core.state import SubscriberState

EngineFactory = Callable[[Rulebase], Engine]

_MINUTE_US = 60_000_000
_CALENDAR_LOOKBACK_US = 32 * 24 * 60 * _MINUTE_US
"""Longer than any month, in any time zone."""


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
    they miss.
    """

    whole: Part
    triggers: bool = False
    peer: str | None = None
    stays: Stays = ()
    told: Told | None = None
    by: str | None = None
    parts: Mapping[object, Part] = field(default_factory=dict)

    def __bool__(self) -> bool:
        sure, asked, patterns, changes = self.whole
        folds = sure or asked or patterns.marks or patterns.asked or changes
        return bool(folds or self.triggers or self.stays or self.told)


class Revision:
    """One revision, ready to run. Everything that does not depend on an event is computed here, once.

    `plans` has a plan for each event type that anything looks at, `slow_plans` what is left of it for slow
    sources. `cell_plan` is the plan of an event with a cell that nothing else looks at, if there are stays.
    `tests` gives expressions as functions. `foldings` says by key how each metric and fact takes events in,
    `readers` by name how each metric is read. `coverage` maps the key of a metric, fact
    or pattern to the instant since when it has been folded, `births` to the last log position before that;
    `keys` are all such keys. `newest_birth` is the greatest of `births`. `patterns_by_key` finds the
    pattern of a timer, `machines` how it gets on.
    `lookback_us` is how far back any contact policy looks. `defers`: whether any policy defers.
    Not thread-safe (the engine is not); close it when it is retired.
    """

    def __init__(
        self,
        rulebase: Rulebase,
        engine: Engine,
        coverage: Mapping[str, int],
        births: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        self.rulebase = rulebase
        self.engine = engine
        self.live_since(coverage, births)
        self.admission = Admission(rulebase.vocabulary, rulebase.metrics)
        self.tests: Mapping[Expression, Holds] = _Tests(engine)
        self.foldings = _foldings(rulebase, self.tests)
        compile_ = compilers(engine)
        self.machines = Machines(rulebase.patterns.values(), _declared(rulebase), compile_)
        self.plans = _plans(rulebase, self.foldings, self.machines, compile_)
        self.slow_plans = _slow_plans(rulebase, self.foldings)
        stays = self.machines.stays
        self.cell_plan = Plan(part_of((), no_roles()), stays=stays) if stays else None
        self.patterns_by_key = {pattern.key: pattern for pattern in rulebase.patterns.values()}
        self.keys = frozenset(
            each.key
            for each in (*rulebase.metrics.values(), *rulebase.facts.values(), *rulebase.patterns.values())
        )
        self.suppressions_of = {c.name: _suppressions(rulebase, c) for c in rulebase.campaigns.values()}
        self.defaults = {
            a.name: a.default for a in rulebase.vocabulary.subscriber.values() if a.default is not None
        }
        self.lookback_us = _lookback_us(rulebase)
        self.defers = _defers(rulebase)

    def live_since(self, coverage: Mapping[str, int], births: Mapping[str, int]) -> None:
        """Note since when its definitions have been folded."""
        self.coverage = _whole(self.rulebase, coverage)
        self.readers = {
            metric.name: metric_read(metric, self.coverage.get(metric.key))
            for metric in self.rulebase.metrics.values()
        }
        self.births = births
        self.newest_birth = max(births.values(), default=-1)

    @property
    def id(self) -> str:
        return self.rulebase.revision

    def zone_of(self, context: Mapping[str, object]) -> tzinfo:
        """The subscriber's time zone if it is known and exists, else the operator's."""
        name = context.get("time_zone")
        zone = zone_named(name) if isinstance(name, str) else None
        return zone or self.rulebase.time_zone

    def lateness_us(self, source: str) -> int:
        """How old events of a source may be when they come in."""
        declared = self.rulebase.vocabulary.sources.get(source)
        return declared.max_lateness_us if declared else MAX_LATENESS_US

    def valid_context(self, state: SubscriberState, at_us: int) -> Mapping[str, object]:
        """The context as of an instant: imported behaviours that are no longer valid are left out."""
        imported = self.rulebase.imported
        if not imported or not state.context:
            return state.context
        expired = [
            name
            for name, behaviour in imported.items()
            if name in state.context and at_us >= state.as_of_us.get(name, 0) + behaviour.valid_for_us
        ]
        if not expired:
            return state.context
        return {name: value for name, value in state.context.items() if name not in expired}

    def shows(self, campaign: str, touch_point: str) -> bool:
        """Whether people at the touch point have the campaign to offer, in this revision."""
        found = self.rulebase.campaigns.get(campaign)
        return found is not None and found.mode is Mode.MANUAL and touch_point in found.channels

    def close(self) -> None:
        self.engine.close()


class _Tests(dict[Expression, Holds]):
    """Expressions as functions, made when first asked for."""

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self._engine = engine

    def __missing__(self, expression: Expression) -> Holds:
        test = self[expression] = self._engine.test(expression)
        return test


def _foldings(rulebase: Rulebase, tests: Mapping[Expression, Holds]) -> dict[str, Folding]:
    found: dict[str, Folding] = {}
    for metric in rulebase.metrics.values():
        found[metric.key] = Folding(
            metric, tests[metric.where] if metric.where else None, metric_fold(metric)
        )
    for fact in rulebase.facts.values():
        found[fact.key] = Folding(fact, tests[fact.when] if fact.when else None, fact_fold(fact))
    return found


def _plans(
    rulebase: Rulebase, foldings: Mapping[str, Folding], machines: Machines, compile_: Compilers
) -> dict[str, Plan]:
    triggers = {name for campaign in rulebase.campaigns.values() for name in campaign.on}
    told = told_by(rulebase)
    plans = {}
    for name, event_type in rulebase.vocabulary.events.items():
        patterns = [each for each in rulebase.patterns.values() if name in types_of(each)]
        folded = [foldings[m.key] for m in rulebase.metrics.values() if name in m.of]
        folded += [foldings[f.key] for f in rulebase.facts.values() if name in f.on]
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


def _slow_plans(rulebase: Rulebase, foldings: Mapping[str, Folding]) -> dict[str, Plan]:
    """What is left for events from slow sources: metrics in days, and what they tell besides."""
    told = told_by(rulebase)
    in_days = [metric for metric in rulebase.metrics.values() if metric.days]
    plans = {
        name: Plan(
            part_of((foldings[m.key] for m in in_days if name in m.of), no_roles()), told=told.get(name)
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


def span_us(pattern: Pattern) -> int:
    """How long a completion may take, from the first event that contributes."""
    match pattern:
        case AbsencePattern() | DwellPattern():
            return pattern.for_us
        case ChangePattern():
            return (2 * pattern.days + 1) * DAY_US
        case CountPattern() | SequencePattern():
            return pattern.within_us


def _whole(rulebase: Rulebase, coverage: Mapping[str, int]) -> dict[str, int]:
    """Since when everything that counts toward a definition has been seen. Of derived events those are
    missed that began before their pattern was folded: all are seen as long after as one may take."""
    whole = dict(coverage)
    all_seen_us: dict[str, int] = {}

    def delay(key: str, types: Iterable[str]) -> None:
        if key in whole:
            whole[key] = max([whole[key], *(all_seen_us[name] for name in types if name in all_seen_us)])

    for name, pattern in rulebase.patterns.items():
        delay(pattern.key, types_of(pattern))
        if pattern.key in whole:
            all_seen_us[name] = whole[pattern.key] + span_us(pattern)
    for metric in rulebase.metrics.values():
        delay(metric.key, metric.of)
    for fact in rulebase.facts.values():
        delay(fact.key, fact.on)
    return whole


def _suppressions(rulebase: Rulebase, campaign: Campaign) -> tuple[Suppression, ...]:
    """Those that may bear on the campaign, on one of its channels at least."""
    return tuple(
        s
        for s in rulebase.policies.suppressions
        if any(
            s.applies_to.selects(
                campaign=campaign.name,
                product=campaign.product,
                category=campaign.category,
                channel=channel,
                mode=campaign.mode,
            )
            for channel in campaign.channels
        )
    )


def _lookback_us(rulebase: Rulebase) -> int:
    policies = rulebase.policies
    spans = [cap.rolling_us or _CALENDAR_LOOKBACK_US for cap in policies.caps]
    spans += [cool_down.for_us for cool_down in policies.cool_downs]
    # An offer that is open may have been answered since.
    spans += [campaign.open_for_us for campaign in rulebase.campaigns.values()]
    if any(len(campaign.channels) > 1 for campaign in rulebase.campaigns.values()):
        spans.append(policies.preference.within_us)
    return max(spans, default=0)


def _defers(rulebase: Rulebase) -> bool:
    policies = rulebase.policies
    fates = [cap.otherwise for cap in policies.caps]
    fates += [window.otherwise for window in policies.quiet_hours]
    fates += [channel.otherwise for channel in rulebase.vocabulary.channels.values()]
    fates += [campaign.quota.otherwise for campaign in rulebase.campaigns.values() if campaign.quota]
    return policies.settle_us > 0 or Fate.DEFER in fates


def peers_of(revision: Revision, told: Iterable[tuple[str, Mapping[str, object]]]) -> set[str]:
    """The subscribers whose context expressions may ask for as that of a peer."""
    names = {event.name: event.peer for event in revision.rulebase.vocabulary.events.values() if event.peer}
    if not names:
        return set()
    named = (attributes.get(names[type_]) for type_, attributes in told if type_ in names)
    return {peer for peer in named if isinstance(peer, str)}
