"""A rulebase made ready to run: its engine, its admission checks and its folding plan."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
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
from opportune_service.core.patterns import Compilers, Taker, taker
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
    """What is left of a plan for events that have told one attribute."""

    metrics: tuple[Folding, ...]
    facts: tuple[Folding, ...]
    patterns: tuple[Taker, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What an event of one type goes through. `triggers`: whether it triggers campaigns. `peer`: its
    attribute that names another subscriber. `stays`: patterns that it goes through if it has a cell.
    `told`: what it tells besides. `by` is the attribute of which its filters ask most, `parts` are what is
    to be looked at by its value; None for any other.
    """

    metrics: tuple[Folding, ...]
    facts: tuple[Folding, ...]
    patterns: tuple[Taker, ...]
    triggers: bool
    peer: str | None
    stays: tuple[Taker, ...] = ()
    told: Told | None = None
    by: str | None = None
    parts: Mapping[object, Part] = field(default_factory=dict)

    def part(self, value: object) -> Plan | Part:
        """What is to be looked at if the attribute `by` has this value. Without one all is: filters then
        count what they miss."""
        return self if value is None else self.parts.get(value) or self.parts[None]

    @property
    def slow(self) -> Plan:
        """What is left of it for an event from a slow source: metrics in days, what it tells besides."""
        metrics = tuple(m for m in self.metrics if isinstance(m.of, Metric) and m.of.days)
        return Plan(metrics, (), (), False, None, (), self.told)

    def __bool__(self) -> bool:
        return bool(self.metrics or self.facts or self.patterns or self.triggers or self.stays or self.told)


class Revision:
    """One revision, ready to run. Everything that does not depend on an event is computed here, once.

    `plans` has a plan for each event type that anything looks at, `slow_plans` what is left of it for slow
    sources. `cell_plan` is the plan of an event with a cell that nothing else looks at, if there are stays.
    `tests` gives expressions as functions. `foldings` says by key how each metric and fact takes events in,
    `readers` by name with what key and how each metric is read. `coverage` maps the key of a metric, fact
    or pattern to the instant since when it has been folded, `births` to the last log position before that;
    `keys` are all such keys. `newest_birth` is the greatest of `births`. `patterns_by_key` finds the
    pattern of a timer.
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
        self.readers = {m.name: (m.key, metric_read(m)) for m in rulebase.metrics.values()}
        self.plans = _plans(rulebase, self.foldings, compilers(engine))
        self.slow_plans = {name: plan.slow for name, plan in self.plans.items() if plan.slow}
        stays = tuple(_takers(rulebase, compilers(engine), None).values())
        self.cell_plan = Plan((), (), (), False, None, stays) if stays else None
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


def _plans(rulebase: Rulebase, foldings: Mapping[str, Folding], compile_: Compilers) -> dict[str, Plan]:
    triggers = {name for campaign in rulebase.campaigns.values() for name in campaign.on}
    stays = _takers(rulebase, compile_, None)
    told = told_by(rulebase)
    plans = {}
    for name, event_type in rulebase.vocabulary.events.items():
        takers = _takers(rulebase, compile_, name)
        plan = Plan(
            metrics=tuple(foldings[m.key] for m in rulebase.metrics.values() if name in m.of),
            facts=tuple(foldings[f.key] for f in rulebase.facts.values() if name in f.on),
            patterns=tuple(takers.values()),
            triggers=name in triggers,
            peer=event_type.peer,
            # A derived event is where the event is that it was derived of.
            stays=() if event_type.derived else tuple(stays.values()),
            told=told.get(name),
        )
        if plan:
            plans[name] = _parted(plan, rulebase, compile_, name, takers)
    return plans


def _parted(
    plan: Plan, rulebase: Rulebase, compile_: Compilers, type_: str, takers: Mapping[str, Taker]
) -> Plan:
    """The plan with its parts, if any filter asks for a value of an attribute."""
    patterns = [rulebase.patterns[name] for name in takers]
    wheres = [where for each in (*plan.metrics, *plan.facts) if (where := _where(each)) is not None]
    by = told_apart([*wheres, *(where for pattern in patterns for where in filters(pattern, type_))])
    if by is None:
        return plan
    name, values = by
    parts: dict[object, Part] = {}
    for value in (*sorted(values), None):
        left = [narrowed(pattern, name, value) for pattern in patterns]
        parts[value] = Part(
            _left(plan.metrics, name, value),
            _left(plan.facts, name, value),
            tuple(
                takers[pattern.name]
                if pattern is before
                else taker(pattern, type_, _carried(rulebase, pattern, type_), compile_)
                for pattern, before in zip(left, patterns, strict=True)
                if type_ in types_of(pattern)
            ),
        )
    return replace(plan, by=name, parts=parts)


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


def _takers(rulebase: Rulebase, compile_: Compilers, type_: str | None) -> dict[str, Taker]:
    """By name, of the patterns that name an event type; None: of those that look at every event with a
    cell."""
    return {
        pattern.name: taker(pattern, type_ or "", _carried(rulebase, pattern, type_), compile_)
        for pattern in rulebase.patterns.values()
        if (isinstance(pattern, DwellPattern) if type_ is None else type_ in types_of(pattern))
    }


def _carried(rulebase: Rulebase, pattern: Pattern, type_: str | None) -> frozenset[str] | None:
    events = rulebase.vocabulary.events
    declared = frozenset(events[pattern.name].attributes)
    return None if type_ and events[type_].attributes.keys() <= declared else declared


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
