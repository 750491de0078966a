"""A rulebase made ready to run: its engine, its admission checks, its plans, and what runs beside it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from datetime import tzinfo
from operator import itemgetter
from types import MappingProxyType

from opportune_rulebase.engine import Engine
from opportune_rulebase.model import (
    AbsencePattern,
    Campaign,
    ChangePattern,
    Channel,
    CountPattern,
    DwellPattern,
    Pattern,
    Rulebase,
    SequencePattern,
    Trigger,
)
from opportune_rulebase.policies import Fate, Mode, Suppression

from opportune_service.core.admit import Admission
from opportune_service.core.calendars import DAY_US, zone_named
from opportune_service.core.events import MAX_LATENESS_US
from opportune_service.core.fold import metric_read
from opportune_service.core.patterns.handset import HANDSET_CHANGED
from opportune_service.core.patterns.journal import Machine
from opportune_service.core.plans import NOTHING, OwnPlans, types_of, with_nothing
from opportune_service.core.stable import number_below
from opportune_service.core.state import SubscriberState

EngineFactory = Callable[[Rulebase], Engine]

_MINUTE_US = 60_000_000
_CALENDAR_LOOKBACK_US = 32 * 24 * 60 * _MINUTE_US
"""Longer than any month, in any time zone."""


PARTS = 1_000_000
"""The share of a canary is so many parts of all subscribers."""
_CANARY = b"opp-canary"


@dataclass(frozen=True, slots=True)
class Beside:
    """A revision that runs beside the one in full force. `share`: for how many of `PARTS` subscribers it
    decides in its place; None: it is a shadow, which decides for everybody and contacts nobody."""

    revision: Revision
    share: int | None


class Revision:
    """One revision, ready to run. Everything that does not depend on an event is computed here, once.

    `plans` has a plan for each event type that anything looks at, `slow_plans` what is left of it for slow
    sources. `cell_plan` is the plan of an event with a cell that nothing else looks at, if there are stays.
    `tests` gives expressions as functions. `foldings` says by key how each metric and fact takes events in,
    `readers` by name how each metric is read. `coverage` maps the key of a metric, fact
    or pattern to the instant since when it has been folded, `births` to the last log position before that;
    `keys` are all such keys. `newest_birth` is the greatest of `births`. `patterns_by_key` finds the
    pattern of a timer, each after those whose events it takes in; `machines` how it gets on.
    `pattern_names` has the names of the rulebase's patterns by key. `lookback_us` is how far back any
    contact policy looks. `defers`: whether any policy defers.

    Other revisions may run `beside` the one in full force (`alongside`), on the same states: what it folds,
    they leave out (`folded`). Of the former, `keys`, `foldings`, `patterns_by_key`, `machines` and
    `triggers` are then those of all, and so is whether there is a plan; `channels` are those of all that
    contact anybody, as the first declares them that has them. `renamed[i][j]` has, by their names
    in the i-th of those side by side, the names in the j-th of the events that the i-th derives.
    Not thread-safe (the engine is not); close it when it is retired.
    """

    def __init__(
        self,
        rulebase: Rulebase,
        engine: Engine,
        coverage: Mapping[str, int],
        births: Mapping[str, int] = MappingProxyType({}),
        folded: Collection[str] | None = None,
    ) -> None:
        """`folded`: of a revision that is to run beside another, the keys of the definitions that the other
        folds. Such a one also leaves it to the other to hear what replies mean."""
        self.rulebase = rulebase
        self.engine = engine
        self.beside: tuple[Beside, ...] = ()
        self.live_since(coverage, births)
        self.admission = Admission(rulebase.vocabulary, rulebase.metrics)
        self._own = OwnPlans(rulebase, engine, folded)
        self.tests = self._own.tests
        self.pattern_names = {pattern.key: name for name, pattern in rulebase.patterns.items()}
        self._join()
        self.suppressions_of = {c.name: _suppressions(rulebase, c) for c in rulebase.campaigns.values()}
        self.defaults = {
            a.name: a.default for a in rulebase.vocabulary.subscriber.values() if a.default is not None
        }
        self.lookback_us = lookback_us(rulebase)
        self.defers = _defers(rulebase)

    def _join(self) -> None:
        """Put together what is of all revisions that run side by side."""
        every = [self._own, *(each.revision._own for each in self.beside)]
        first, others = every[0], every[1:]
        self.machines: Mapping[str, Machine] = {
            k: each for own in every for k, each in own.machines.items()
        }
        self.foldings = {k: each for own in every for k, each in own.foldings.items()}
        ranked = sorted((each for own in every for each in own.patterns), key=itemgetter(0, 1))
        self.patterns_by_key = {key: pattern for _, key, pattern in ranked}
        self.keys = frozenset(self.foldings) | self.patterns_by_key.keys()
        self.plans = with_nothing(first.plans, [own.plans for own in others])
        self.slow_plans = with_nothing(first.slow_plans, [own.slow_plans for own in others])
        stay = any(own.cell_plan for own in others)
        self.cell_plan = first.cell_plan or (NOTHING if stay else None)
        self.triggers: Mapping[str, Trigger] = {
            name: trigger
            for revision in (*(each.revision for each in self.beside), self)
            for name, trigger in revision.rulebase.triggers.items()
        }
        deciding = [each.revision for each in reversed(self.beside) if each.share is not None]
        self.channels: Mapping[str, Channel] = {
            name: channel
            for revision in (*deciding, self)
            for name, channel in revision.rulebase.vocabulary.channels.items()
        }
        for each in self.beside:
            each.revision.machines = self.machines
        revisions = self.side_by_side
        self.renamed = tuple(tuple(_renamed(one, other) for other in revisions) for one in revisions)

    def alongside(self, beside: Sequence[Beside]) -> Revision:
        """The same with these beside it, the canary first; each folds what neither this one does nor those
        before it. This one, and whatever ran beside it, is not to be used any more."""
        joined = copy(self)
        joined.beside = tuple(beside)
        joined._join()
        return joined

    def of(self, subscriber_id: str) -> Revision:
        """The revision that decides for a subscriber."""
        for each in self.beside:
            # The name, not the revisions: whoever is in stays in when the share grows.
            if each.share and number_below(PARTS, _CANARY, self.rulebase.name, subscriber_id) < each.share:
                return each.revision
        return self

    def campaign(self, name: str) -> Campaign | None:
        """The campaign of this name: of this one, or of those beside it that contact somebody."""
        contacting = (each.revision for each in self.beside if each.share is not None)
        every = (each.rulebase.campaigns for each in (self, *contacting))
        return next((campaigns[name] for campaigns in every if name in campaigns), None)

    @property
    def shadow(self) -> Revision | None:
        """The one that contacts nobody, if there is one."""
        return next((each.revision for each in self.beside if each.share is None), None)

    @property
    def side_by_side(self) -> tuple[Revision, ...]:
        """All that fold, in order."""
        return (self, *(each.revision for each in self.beside))

    def owner(self, key: str) -> Revision:
        """The one of these that folds the definition."""
        return next(each for each in self.side_by_side if key in each.own_keys)

    @property
    def own_keys(self) -> frozenset[str]:
        """Of the definitions that this one folds itself."""
        return self._own.keys

    @property
    def stamp(self) -> str:
        """What tells from which revisions states come that were folded under this one: the ids of all, in
        order; see `stamped`."""
        return "+".join(each.id for each in self.side_by_side)

    def live_since(self, coverage: Mapping[str, int], births: Mapping[str, int]) -> None:
        """Note since when its definitions have been folded."""
        self.coverage = _whole(self.rulebase, coverage)
        self.readers = {
            metric.name: metric_read(metric, self.coverage.get(metric.key))
            for metric in self.rulebase.metrics.values()
        }
        self.births = births
        self.newest_birth = max(births.values(), default=-1)
        for each in self.beside:
            each.revision.live_since(coverage, births)

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
        """Close its engine; those of the ones beside it are theirs."""
        self.engine.close()


def stamped(stamp: str) -> tuple[str, ...]:
    """The ids in a stamp: the revision that was in full force, then those beside it."""
    return tuple(stamp.split("+"))


def _renamed(one: Revision, other: Revision) -> Mapping[str, str]:
    """The derived events that one revision completes, by its names for them -> the other's."""
    shared = one.own_keys & other.pattern_names.keys()
    return {HANDSET_CHANGED: HANDSET_CHANGED} | {
        one.pattern_names[key]: other.pattern_names[key] for key in shared if key in one.pattern_names
    }


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


def lookback_us(rulebase: Rulebase) -> int:
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
