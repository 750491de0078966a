"""Which campaigns are reached through an element of a rulebase, however far away it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from opportune_rulebase.expressions import Expression
from opportune_rulebase.graph import graph
from opportune_rulebase.model import Campaign, Rulebase
from opportune_rulebase.policies import Selector

_TABLES = {"table.places": "place.", "table.terminals": "terminal.", "calendar": "calendar."}


class Reach:
    """What depends on what in one rulebase: from what happens and is known, through definitions and
    policies, to campaigns."""

    def __init__(self, rulebase: Rulebase) -> None:
        self._dependents: dict[str, set[str]] = {}
        for source, target in _arrows(rulebase):
            self._dependents.setdefault(source, set()).add(target)
        for table, prefix in _TABLES.items():
            for name in [each for each in self._dependents if each.startswith(prefix)]:
                self._dependents.setdefault(table, set()).add(name)

    def campaigns(self, nodes: Iterable[str]) -> set[str]:
        """The names of all campaigns that any of the nodes leads to."""
        found, pending = set(nodes), list(nodes)
        while pending:
            new = self._dependents.get(pending.pop(), set()) - found
            found |= new
            pending += new
        return {name for space, _, name in (each.partition(".") for each in found) if space == "campaign"}


def _arrows(rulebase: Rulebase) -> Iterator[tuple[str, str]]:
    """(What is read or happens, what that is to) for all of it."""
    for edge in graph(rulebase).edges:
        yield edge.source, edge.target
    words, policies = rulebase.vocabulary, rulebase.policies
    for source in words.sources.values():
        for event in source.events:
            yield f"source.{source.name}", f"event.{event}"
        for attribute in source.subscriber:
            yield f"source.{source.name}", f"sub.{attribute}"
    for channel in words.channels.values():
        yield from _read(f"channel.{channel.name}", channel.needs)
    for product in words.products.values():
        yield from _read(f"product.{product.name}", product.needs)
        for other in product.excludes:
            # While this one is on offer, that one is not.
            yield f"product.{product.name}", f"product.{other}"
    for suppression in policies.suppressions:
        yield from _read(f"suppression.{suppression.name}", suppression.when)
    for window in policies.quiet_hours:
        if window.kinds:
            yield "calendar", f"quiet_hours.{window.name}"
    yield from _read("policy.preference", policies.preference.segment, *policies.preference.scores.values())
    for campaign in rulebase.campaigns.values():
        target = f"campaign.{campaign.name}"
        for node in _around(campaign, rulebase):
            yield node, target


def _around(campaign: Campaign, rulebase: Rulebase) -> Iterator[str]:
    """What a campaign depends on besides what the graph shows."""
    policies, conversion = rulebase.policies, campaign.conversion
    if policies.replies is not None:
        yield f"event.{policies.replies.event}"
    yield from ("rulebase", f"product.{campaign.product}", f"fit.{campaign.product}")
    yield from (f"channel.{channel}" for channel in campaign.channels)
    yield from (f"consent.channel/{channel}" for channel in campaign.channels)
    yield f"consent.category/{campaign.category}"
    for each in campaign.content.values():
        yield from _names(*(part for part in each.parts if isinstance(part, Expression)))
    if conversion is not None:
        yield f"event.{conversion.event}"
        yield from _names(conversion.when)
    for cap in policies.caps:
        if cap.name not in campaign.exempt and _means(cap.applies_to, campaign):
            yield f"cap.{cap.name}"
    for window in policies.quiet_hours:
        if _means(window.applies_to, campaign):
            yield f"quiet_hours.{window.name}"
    for suppression in policies.suppressions:
        if _means(suppression.applies_to, campaign):
            yield f"suppression.{suppression.name}"
    yield from (f"cool_down.{cool_down.name}" for cool_down in policies.cool_downs)
    yield from (f"policy.{name}" for name in ("arbitration", "deferral", "status", "preference", "replies"))
    if not campaign.control_exempt:
        yield "policy.control"
    if campaign.alarm is None:
        yield "policy.alarm"


def _means(selector: Selector, campaign: Campaign) -> bool:
    """Whether a policy means any contact of the campaign."""
    return any(
        selector.selects(
            campaign=campaign.name,
            product=campaign.product,
            category=campaign.category,
            channel=channel,
            mode=campaign.mode,
        )
        for channel in campaign.channels
    )


def _read(target: str, *expressions: Expression | None) -> Iterator[tuple[str, str]]:
    for name in _names(*expressions):
        yield name, target


def _names(*expressions: Expression | None) -> Iterator[str]:
    for expression in expressions:
        yield from (expression.reads if expression is not None else ())
