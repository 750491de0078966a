"""The elements of a rulebase that people speak of, each with all that it says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from opportune_rulebase.diff.says import (
    Said,
    Says,
    any_order,
    below,
    condition,
    day,
    duration,
    flag,
    number,
    ordered,
    says,
    share,
    template,
    word,
)
from opportune_rulebase.model import (
    AbsencePattern,
    Attribute,
    Campaign,
    ChangePattern,
    CountPattern,
    DwellPattern,
    EventType,
    Metric,
    Pattern,
    Rulebase,
    SequencePattern,
    Step,
)
from opportune_rulebase.policies import Alarm, Fate


@dataclass(frozen=True, slots=True)
class Element:
    """`kind` and `name` are unique together. `nodes`: what of the graph of `reach` it is. `state`: what its
    live state is kept under; "" if it has none."""

    kind: str
    name: str
    label: str
    says: Says
    nodes: tuple[str, ...]
    state: str = ""


def elements(rulebase: Rulebase) -> Iterator[Element]:
    """All but policies and tables."""
    yield _rulebase(rulebase)
    for campaign in rulebase.campaigns.values():
        found = _campaign(campaign, rulebase)
        yield Element("campaign", campaign.name, campaign.label, found, (f"campaign.{campaign.name}",))
    for definition in rulebase.definitions.values():
        name = definition.name.partition(".")[2]
        when = says(when=condition(definition.when))
        yield Element(definition.kind.value, name, definition.label, when, (definition.name,))
    for each in rulebase.imported.values():
        valid = says(imported__valid_for=duration(each.valid_for_us))
        yield Element("behaviour", each.name.partition(".")[2], each.label, valid, (each.name,))
    for metric in rulebase.metrics.values():
        node = (f"metric.{metric.name}",)
        yield Element("metric", metric.name, metric.label, _metric(metric), node, metric.key)
    for pattern in rulebase.patterns.values():
        node = (f"event.{pattern.name}",)
        yield Element("pattern", pattern.name, pattern.label, _pattern(pattern), node, pattern.key)
    for fact in rulebase.facts.values():
        found = says(on=any_order(fact.on), when=condition(fact.when), for_=duration(fact.for_us))
        yield Element("fact", fact.name, fact.label, found, (f"fact.{fact.name}",), fact.key)
    yield from _vocabulary(rulebase)


def _rulebase(rulebase: Rulebase) -> Element:
    found = says(rulebase=word(rulebase.name), time_zone=word(rulebase.time_zone.key))
    return Element("rulebase", "rulebase", rulebase.label, found, ("rulebase",))


def _campaign(campaign: Campaign, rulebase: Rulebase) -> Says:
    zone, quota, conversion = rulebase.time_zone, campaign.quota, campaign.conversion
    found = says(
        product=word(campaign.product),
        on=any_order(campaign.on),
        when=condition(campaign.when),
        target=condition(campaign.target),
        mode=word(campaign.mode),
        channels=ordered(campaign.channels),
    )
    found |= {f"content.{channel}": template(each) for channel, each in campaign.content.items()}
    found |= says(
        priority=number(campaign.priority),
        value=number(campaign.value),
        propensity=condition(campaign.propensity),
        valid__from=day(campaign.valid_from_us, zone),
        valid__to=day(campaign.valid_to_us, zone, last=True),
        fresh_for=duration(campaign.fresh_for_us),
        expires_after=duration(campaign.expires_after_us),
        allow_unknown=flag(campaign.allow_unknown),
        open_for=duration(campaign.open_for_us),
        exclusive_group=word(campaign.group),
        control_group=word("exempt") if campaign.control_exempt else share(campaign.control_share),
        baseline=word(campaign.baseline),
        exempt=any_order(campaign.exempt),
        branches=any_order(campaign.branches),
    )
    if quota is not None:
        found |= says(
            quota__per_day=number(quota.per_day),
            quota__total=number(quota.total),
            quota__budget=number(quota.budget),
            quota__otherwise=fate(quota.otherwise),
        )
    if campaign.alarm is not None:
        found |= below("alarm", alarm(campaign.alarm))
    if conversion is not None:
        found |= says(
            conversion__event=word(conversion.event),
            conversion__when=condition(conversion.when),
            conversion__within=duration(conversion.within_us),
        )
    return found


def fate(chosen: Fate) -> Said | None:
    """What happens to what is stopped; that it is dropped goes without saying."""
    return None if chosen is Fate.DROP else word(chosen)


def alarm(of: Alarm) -> Says:
    """When campaigns pause themselves; nothing if they never do."""
    found = says(per_hour=number(of.per_hour))
    if of.complaint_rate is not None:
        rate = Said(f"{of.complaint_rate * 100:.15g}%", of.complaint_rate)
        found |= says(complaint_rate=rate, at_least=number(of.at_least), within=duration(of.within_us))
    return found


def _metric(metric: Metric) -> Says:
    events = any_order(metric.of)
    figure = word(f"event.{metric.value}") if metric.value else events
    found = {metric.kind.value: figure} if figure else {}
    return found | says(
        of=events if metric.value else None,
        days=number(metric.days),
        last=duration(metric.last_us),
        where=condition(metric.where),
    )


def _pattern(pattern: Pattern) -> Says:
    match pattern:
        case CountPattern():
            return _own_step("count", pattern.step) | says(
                distinct=word(pattern.distinct and f"event.{pattern.distinct}"),
                at_least=number(pattern.at_least),
                within=duration(pattern.within_us),
            )
        case SequencePattern():
            steps = [below(f"sequence.{n}", _step(each)) for n, each in enumerate(pattern.steps, 1)]
            found = {key: said for each in steps for key, said in each.items()}
            if pattern.without is not None:
                found |= below("without", _step(pattern.without))
            return found | says(within=duration(pattern.within_us))
        case AbsencePattern():
            found = below("after", _step(pattern.after)) | below("absent", _step(pattern.absent))
            return found | says(for_=duration(pattern.for_us))
        case DwellPattern():
            return says(dwell=word(pattern.category), for_=duration(pattern.for_us))
        case ChangePattern():
            figure = f"event.{pattern.value}" if pattern.value else "count"
            return (
                says(change=word(figure))
                | _own_step("of", pattern.step)
                | says(
                    days=number(pattern.days),
                    rises_to=number(pattern.rises_to),
                    falls_to=number(pattern.falls_to),
                    at_least=number(pattern.at_least),
                )
            )


def _own_step(key: str, step: Step) -> dict[str, Said]:
    """The step of a pattern that has one only: its events are under `key`."""
    events = any_order(step.of)
    return ({key: events} if events else {}) | says(where=condition(step.where))


def _step(step: Step) -> Says:
    return says(event=any_order(step.of), where=condition(step.where), link=condition(step.link))


def _vocabulary(rulebase: Rulebase) -> Iterator[Element]:
    words = rulebase.vocabulary
    for source in words.sources.values():
        found = says(
            events=any_order(source.events),
            subscriber=any_order(source.subscriber),
            max_lateness=duration(source.max_lateness_us),
        )
        yield Element("source", source.name, source.label, found, (f"source.{source.name}",))
    for event in words.events.values():
        if not event.derived:
            yield Element("event", event.name, event.label, _event(event), (f"event.{event.name}",))
    yield from _attributes("sub", (a for a in words.subscriber.values() if "." not in a.name))
    yield from _attributes("terminal", words.terminal.values())
    for channel in words.channels.values():
        found = says(
            mode=word(channel.mode),
            needs=condition(channel.needs),
            max_segments=number(channel.max_segments),
            per_second=number(channel.per_second),
            per_day=number(channel.per_day),
            otherwise=fate(channel.otherwise),
            cost=number(channel.cost or None),
            bulk=flag(channel.bulk),
        )
        yield Element("channel", channel.name, channel.label, found, (f"channel.{channel.name}",))
    for product in words.products.values():
        found = says(
            category=word(product.category),
            needs=condition(product.needs),
            requires=any_order(product.requires),
            excludes=any_order(product.excludes),
        )
        yield Element("product", product.name, product.label, found, (f"product.{product.name}",))


def _event(event: EventType) -> Says:
    found = says(touch=word(event.touch))
    for attribute in event.attributes.values():
        inner = _attribute(attribute) | says(label=word(attribute.label))
        found |= below(f"attributes.{attribute.name}", inner)
    return found


def _attributes(space: str, attributes: Iterable[Attribute]) -> Iterator[Element]:
    for each in attributes:
        name = f"{space}.{each.name}"
        nodes = (name, f"peer.{each.name}") if space == "sub" else (name,)
        yield Element("attribute", name, each.label, _attribute(each), nodes)


def _attribute(attribute: Attribute) -> dict[str, Said]:
    default = attribute.default
    return says(
        type=word(attribute.type),
        values=any_order(attribute.values or ()),
        min=number(attribute.minimum),
        default=None if default is None else word(_written(default)),
    )


def _written(value: object) -> str:
    """A default as it is written."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_written, value))}]"
    return f"{value:.15g}" if isinstance(value, float) else str(value) or '""'
