"""What an analyst would want to know of a rulebase that has no errors. Pure.

Every warning is certain of what it says: it may miss something, but does not cry wolf.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta

from opportune_rulebase.errors import Position, Problem, Severity
from opportune_rulebase.expressions import Expression
from opportune_rulebase.intervals import atoms, metric_sides
from opportune_rulebase.loading.problems import Code
from opportune_rulebase.model import (
    AbsencePattern,
    Attribute,
    Bound,
    Campaign,
    ChangePattern,
    CountPattern,
    DwellPattern,
    Pattern,
    Rulebase,
    SequencePattern,
    Step,
    Vocabulary,
)
from opportune_rulebase.never_sent import never_sent
from opportune_rulebase.nodes import reads
from opportune_rulebase.policies import CoolDownScope, Fate, Mode, Policies
from opportune_rulebase.policy_warnings import policy_warnings
from opportune_rulebase.satisfiable import Opened, Possible, conjuncts, open_definitions, satisfiable
from opportune_rulebase.unparse import unparse

CALENDAR_NOTICE = timedelta(days=60)
"""A calendar that ends within this time is worth a warning: campaigns for then are being written now."""

MAX_COMPARED = 200_000
"""Pairs of campaigns that are compared in search of one that always loses: a second or so."""


def warnings_of(rulebase: Rulebase) -> list[Problem]:
    """Everything but `calendar_warnings`, sorted by place."""
    found = [
        *_dead_definitions(rulebase),
        *_dead_campaigns(rulebase),
        *_outranked(rulebase),
        *_suppressing_at_first(rulebase),
        *never_sent(rulebase),
        *policy_warnings(rulebase),
    ]
    if rulebase.vocabulary.sources:
        found += _without_source(rulebase)
    return sorted(set(found))


def calendar_warnings(rulebase: Rulebase, today: date) -> list[Problem]:
    """Whether the holiday calendar ends soon, seen from `today`."""
    last = rulebase.calendar.last
    if last is None or last - today > CALENDAR_NOTICE:
        return []
    message = f"the calendar {rulebase.calendar.country} is known until {last} only"
    hint = (
        "after that calendar.workday and calendar.holiday are unknown: update Opportune, or list the days"
    )
    return [_warning(Position("rulebase.yaml"), Code.CALENDAR_ENDS, message, hint)]


def _warning(at: Position, code: Code, message: str, hint: str) -> Problem:
    return Problem(at, code, message, hint, severity=Severity.WARNING)


# -- what can never be --------------------------------------------------------------------------------


def _dead_definitions(rulebase: Rulebase) -> Iterator[Problem]:
    opened, domain = _opened(rulebase), _domain(rulebase)
    for definition in rulebase.definitions.values():
        if not satisfiable([definition.when.tree], opened, domain):
            hint = "its conditions contradict each other, or a definition that it reads is never true"
            yield _warning(
                definition.when.position, Code.NEVER_TRUE, f"{definition.name!r} is never true", hint
            )


def _dead_campaigns(rulebase: Rulebase) -> Iterator[Problem]:
    opened, anything = _opened(rulebase), _domain(rulebase)
    idle = _idle_patterns(rulebase)
    for campaign in rulebase.campaigns.values():
        types = set(campaign.on)

        def domain(name: str, types: set[str] = types) -> Possible | None:
            return Possible(values=set(types)) if name == "event.type" else anything(name)

        conditions = [each for each in (campaign.when, campaign.target) if each is not None]
        if not satisfiable([each.tree for each in conditions], opened, domain):
            dead = [each for each in conditions if not satisfiable([each.tree], opened, domain)]
            what = (
                "'when' and 'target'" if not dead else "'when'" if dead[0] is campaign.when else "'target'"
            )
            are = "is never true" if dead else "are never true together"
            message = f"{what} of campaign {campaign.name!r} {are}"
            hint = "the conditions contradict each other, or a definition that they read is never true"
            yield _warning((dead or conditions[-1:])[0].position, Code.NEVER_TRUE, message, hint)
        yield from _dead_conversion(campaign, opened, anything)
        if types and types <= idle:
            never = ", ".join(sorted(types))
            message = f"campaign {campaign.name!r} can never be triggered: {never} never completes"
            yield _warning(campaign.position, Code.NEVER_TRUE, message, "mend the pattern's conditions")


def _dead_conversion(
    campaign: Campaign, opened: Opened, anything: Callable[[str], Possible | None]
) -> Iterator[Problem]:
    conversion = campaign.conversion
    if conversion is None or conversion.when is None:
        return

    def domain(name: str) -> Possible | None:
        return Possible(values={conversion.event}) if name == "event.type" else anything(name)

    if not satisfiable([conversion.when.tree], opened, domain):
        message = f"'when' of the conversion of campaign {campaign.name!r} is never true"
        hint = "no order will count as its success"
        yield _warning(conversion.when.position, Code.NEVER_TRUE, message, hint)


def _idle_patterns(rulebase: Rulebase) -> set[str]:
    """Patterns that can never complete, because a step's condition can never be true."""
    opened, domain = _opened(rulebase), _domain(rulebase)
    idle: set[str] = set()
    for pattern in rulebase.patterns.values():
        for step in _needed(pattern):
            dead = step.where is not None and not satisfiable([step.where.tree], opened, domain)
            if dead or set(step.of) <= idle:
                idle.add(pattern.name)
    return idle


def _needed(pattern: Pattern) -> tuple[Step, ...]:
    """The steps without which a pattern does not complete."""
    match pattern:
        case CountPattern() | ChangePattern():
            return (pattern.step,)
        case SequencePattern():
            return pattern.steps
        case AbsencePattern():
            return (pattern.after,)
        case DwellPattern():
            return ()


def _opened(rulebase: Rulebase) -> Opened:
    return open_definitions(
        {name: definition.when.tree for name, definition in rulebase.definitions.items()}
    )


def _domain(rulebase: Rulebase) -> Callable[[str], Possible | None]:
    """What variables may be, by what the vocabulary declares."""
    words = rulebase.vocabulary
    attributes: dict[str, Attribute] = {}
    for event in words.events.values():
        for name, attribute in event.attributes.items():
            attributes[f"event.{name}"] = _wider(attributes.get(f"event.{name}"), attribute)
    for name, attribute in words.subscriber.items():
        attributes[f"sub.{name}"] = attributes[f"peer.{name}"] = attribute
    attributes |= {f"terminal.{name}": attribute for name, attribute in words.terminal.items()}

    def domain(name: str) -> Possible | None:
        if name.startswith("metric."):
            metric = rulebase.metrics[name.removeprefix("metric.")]
            counts = metric.bound is Bound.LOWER and metric.value is None
            return Possible(least=0) if counts else None
        attribute = attributes.get(name)
        if attribute is None:
            return None
        if attribute.values is not None:
            return Possible(values=set(attribute.values))
        return None if attribute.minimum is None else Possible(least=attribute.minimum)

    return domain


def _wider(known: Attribute | None, other: Attribute) -> Attribute:
    """One attribute for two event types that bound it differently: as wide as either."""
    if known is None:
        return other
    values = None
    if known.values is not None and other.values is not None:
        values = (*known.values, *other.values)
    minimum = None
    if known.minimum is not None and other.minimum is not None:
        minimum = min(known.minimum, other.minimum)
    return Attribute(known.name, known.type, values=values, minimum=minimum)


# -- what another one always takes --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Rival:
    """A campaign with the conditions that it joins, word for word; `comparable` if all have words."""

    campaign: Campaign
    conditions: frozenset[str]
    comparable: bool


def _outranked(rulebase: Rulebase) -> Iterator[Problem]:
    """Automatic campaigns for the same product that lose every arbitration to one that is there whenever
    they are. Of prompts nothing is certain: a campaign is out of the race while a prompt of it is open."""
    policies = rulebase.policies
    alone = any(each.scope is CoolDownScope.CAMPAIGN for each in policies.cool_downs)
    if policies.max_automatic != 1 or alone or _makes_way(rulebase):
        return
    rivals: dict[tuple[str, str], list[_Rival]] = {}
    by_priority = sorted(rulebase.campaigns.values(), key=lambda campaign: -campaign.priority)
    compared = 0
    for campaign in by_priority:
        if campaign.mode is not Mode.AUTOMATIC:
            continue
        rival = _rival(campaign)
        # Whoever holds whenever this one does is triggered by the first of its events too.
        for other in rivals.get((campaign.product, min(campaign.on, default="")), ()):
            compared += 1
            if compared > MAX_COMPARED:
                return
            if _always_before(other, rival, policies):
                message = f"campaign {campaign.name!r} always loses to {other.campaign.name!r}"
                hint = (
                    f"{other.campaign.name!r} has the higher priority and holds whenever this one does: "
                    "raise the priority, or narrow the other"
                )
                yield _warning(campaign.position, Code.OUTRANKED, message, hint)
                break
        else:
            if rival.comparable:
                for name in campaign.on:
                    rivals.setdefault((campaign.product, name), []).append(rival)


def _makes_way(rulebase: Rulebase) -> bool:
    """Whether some policy lets the next candidate move up into the place of one that it stops."""
    policies = rulebase.policies
    fates = [each.otherwise for each in policies.caps]
    fates += [each.otherwise for each in policies.quiet_hours]
    fates += [each.otherwise for each in rulebase.vocabulary.channels.values()]
    fates += [each.quota.otherwise for each in rulebase.campaigns.values() if each.quota]
    return Fate.NEXT in (*fates, policies.no_channel)


def _rival(campaign: Campaign) -> _Rival:
    parts = [
        unparse(part)
        for each in (campaign.when, campaign.target)
        if each is not None
        for part in conjuncts(each.tree)
    ]
    known = frozenset(part for part in parts if part is not None)
    return _Rival(campaign, known, None not in parts)


def _always_before(one: _Rival, other: _Rival, policies: Policies) -> bool:
    first, second = one.campaign, other.campaign
    return (
        first.priority > second.priority
        and one.conditions <= other.conditions
        and set(first.on) >= set(second.on)
        and (not first.branches or (bool(second.branches) and first.branches >= second.branches))
        and (first.valid_from_us or 0) <= (second.valid_from_us or 0)
        and (
            first.valid_to_us is None or (second.valid_to_us or first.valid_to_us + 1) <= first.valid_to_us
        )
        and set(first.channels) >= set(second.channels)
        and first.fresh_for_us >= second.fresh_for_us
        and (first.allow_unknown or not second.allow_unknown)
        and not any(
            first.name in each.applies_to.campaigns and second.name not in each.applies_to.campaigns
            for each in policies.suppressions
        )
    )


# -- what is not known --------------------------------------------------------------------------------


def _suppressing_at_first(rulebase: Rulebase) -> Iterator[Problem]:
    """Suppressions that may be unknown, and then suppress, until a metric's window is covered."""
    for suppression in rulebase.policies.suppressions:
        read = sorted(suppression.when.reads & rulebase.definitions.keys())
        trees = [suppression.when.tree, *(rulebase.definitions[name].when.tree for name in read)]
        facts = {name for tree in trees for name in reads(tree) if name.startswith("fact.")}
        for name in sorted(facts):
            message = (
                f"suppression {suppression.name!r} may be unknown until {name} was watched for its whole "
                "time, and unknown suppresses"
            )
            yield _warning(
                suppression.when.position,
                Code.SUPPRESSES_AT_FIRST,
                message,
                "use an imported behaviour or attribute",
            )
        for tree in trees:
            for atom in atoms(tree):
                for metric, _, _ in metric_sides(atom):
                    message = (
                        f"suppression {suppression.name!r} may be unknown until metric.{metric} was folded "
                        "for its whole window, and unknown suppresses"
                    )
                    hint = (
                        "use an imported attribute, or let the metric be backfilled before this is active"
                    )
                    yield _warning(suppression.when.position, Code.SUPPRESSES_AT_FIRST, message, hint)


def _without_source(rulebase: Rulebase) -> Iterator[Problem]:
    """Conditions and triggers on what no declared source sends."""
    words = rulebase.vocabulary
    sent = {name for source in words.sources.values() for name in source.events}
    filled = {name for source in words.sources.values() for name in source.subscriber}
    for campaign in rulebase.campaigns.values():
        for name in campaign.on if sent else ():
            if not _comes(words, sent, name):
                message = (
                    f"campaign {campaign.name!r} is triggered by {name!r}, which no declared source sends"
                )
                yield _warning(
                    campaign.position, Code.NO_SOURCE, message, "add it to the events of a source"
                )
        conversion = campaign.conversion
        if conversion and sent and not _comes(words, sent, conversion.event):
            message = (
                f"campaign {campaign.name!r} counts {conversion.event!r} as its success, which no declared "
                "source sends"
            )
            yield _warning(campaign.position, Code.NO_SOURCE, message, "add it to the events of a source")
    replies = rulebase.policies.replies
    if replies and sent and not _comes(words, sent, replies.event):
        message = f"replies come as {replies.event!r}, which no declared source sends"
        hint = "add it to the events of a source"
        yield _warning(Position("policies.yaml"), Code.NO_SOURCE, message, hint)
    if not filled:
        return
    defaults = {a.name for a in words.subscriber.values() if a.default is not None}
    for expression, what in _all_conditions(rulebase):
        for name in sorted(expression.reads):
            space, _, rest = name.partition(".")
            if space in ("sub", "peer") and rest not in filled | defaults:
                hint = "add it to the subscriber attributes of a source, or give it a default"
                message = f"{what} reads {name}, which no declared source fills"
                yield _warning(expression.position, Code.NO_SOURCE, message, hint)


def _comes(words: Vocabulary, sent: Collection[str], event: str) -> bool:
    """Whether somebody sends events of this type, or the service makes them."""
    return words.events[event].derived or event in sent or event == "handset_changed"


def _all_conditions(rulebase: Rulebase) -> Iterable[tuple[Expression, str]]:
    for definition in rulebase.definitions.values():
        yield definition.when, definition.name
    for campaign in rulebase.campaigns.values():
        for each in (campaign.when, campaign.target):
            if each is not None:
                yield each, f"campaign {campaign.name!r}"
        if campaign.conversion and campaign.conversion.when is not None:
            yield campaign.conversion.when, f"the conversion of campaign {campaign.name!r}"
    for suppression in rulebase.policies.suppressions:
        yield suppression.when, f"suppression {suppression.name!r}"
    preference = rulebase.policies.preference
    for expression in (*preference.scores.values(), preference.segment):
        if expression is not None:
            yield expression, "the channel preference"


__all__ = ["CALENDAR_NOTICE", "calendar_warnings", "warnings_of"]
