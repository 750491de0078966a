"""Which channel carries an offer: how well it fits the product, and what the customer likes better."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Final

from opportune_rulebase.expressions import Expression
from opportune_rulebase.language import keys_in
from opportune_rulebase.loading.conditions import Conditions
from opportune_rulebase.loading.fields import DAY_US, Fields, keys_of
from opportune_rulebase.loading.problems import Code, clip
from opportune_rulebase.loading.source import ScalarNode
from opportune_rulebase.loading.standing import compile_standing
from opportune_rulebase.model import Definition, Vocabulary
from opportune_rulebase.policies import Fit, Preference

MAX_HABIT_US: Final = 400 * DAY_US

_WHY_NOT: Final = "that belongs to one event; what somebody likes does not"


def read_fit(policies: Fields, vocabulary: Vocabulary) -> Mapping[str, Mapping[str, Fit]]:
    """Product -> channel -> fit; errors go to the report of `policies`."""
    report = policies.report
    found: dict[str, Mapping[str, Fit]] = {}
    for product, node in policies.entries("fit"):
        fields = Fields(report, node, f"the fit of {product.text!r}", keys_of(node), at=product.at)
        if product.text not in vocabulary.products:
            report.unknown(product.at, "product", product.text, vocabulary.products)
        of_product: dict[str, Fit] = {}
        for channel in keys_of(node):
            if channel not in vocabulary.channels:
                report.unknown(fields.key_at(channel), "channel", channel, vocabulary.channels)
            elif chosen := fields.choice(channel, "fit", tuple(Fit)):
                of_product[channel] = Fit(chosen)
        found[product.text] = MappingProxyType(of_product)
    return MappingProxyType(found)


def read_preference(
    policies: Fields,
    vocabulary: Vocabulary,
    definitions: Mapping[str, Definition],
    conditions: Conditions,
) -> Preference:
    """What customers like better; errors go to the report of `policies`."""
    report, default = policies.report, Preference()
    fields = Fields(report, policies.node("preference"), "preference", keys_in("preference"))

    def compiled(node: ScalarNode | None, what: str, expect: Collection[str]) -> Expression | None:
        return compile_standing(node, what, _WHY_NOT, conditions, definitions, report, expect=expect)

    written = fields.node("scores")
    scores = Fields(report, written, "scores", keys_of(written))
    found: dict[str, Expression] = {}
    for channel in keys_of(written):
        score = compiled(scores.scalar(channel, "an expression"), "a score", ("double", "int"))
        if channel not in vocabulary.channels:
            report.unknown(scores.key_at(channel), "channel", channel, vocabulary.channels)
        elif score is not None:
            found[channel] = score
    fields.goes_with("segment", "segments")
    fields.goes_with("segments", "segment")
    segment = compiled(fields.scalar("segment", "an expression"), "'segment'", ("string",))
    return Preference(
        from_contacts=fields.integer("from_contacts", default.from_contacts, least=1, most=1_000),
        within_us=fields.duration("within", default.within_us, most=MAX_HABIT_US),
        scores=MappingProxyType(found),
        segment=segment,
        segments=_segments(fields, segment, vocabulary),
    )


def _segments(
    fields: Fields, segment: Expression | None, vocabulary: Vocabulary
) -> Mapping[str, tuple[str, ...]]:
    """Channels in order, by segment. A segment that the attribute cannot name is warned of."""
    node = fields.node("segments")
    orders = Fields(fields.report, node, "segments", keys_of(node))
    found = {}
    for name in keys_of(node):
        channels = orders.choices(name, "channel", vocabulary.channels)
        if not orders.scalars(name, "a channel"):
            message = f"segment {clip(name)!r} has no channels"
            fields.report.error(orders.place(name), Code.BAD_VALUE, message, "name at least one")
        found[name] = channels
    attribute = vocabulary.subscriber.get(segment.text.strip().removeprefix("sub.")) if segment else None
    if attribute is not None and attribute.values is not None:
        for name in sorted(found.keys() - set(attribute.values)):
            message = f"nobody is in the segment {clip(name)!r}: sub.{attribute.name} has no such value"
            hint = fields.report.suggest(name, attribute.values)
            fields.report.warning(orders.key_at(name), Code.NEVER_TRUE, message, hint)
    return MappingProxyType(found)
