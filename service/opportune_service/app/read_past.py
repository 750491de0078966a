"""What a test case says of the time before its first event: who the subscriber is, who others are, what is
given, and what contacts there were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
from opportune_rulebase.language import keys_in
from opportune_rulebase.loading.common import exactly_one
from opportune_rulebase.loading.fields import Fields, keys_of, parse_bool, parse_float, parse_int
from opportune_rulebase.loading.problems import Code, Report
from opportune_rulebase.loading.source import ListNode, Node, ScalarNode
from opportune_rulebase.model import Attribute, Bound, Metric, MetricKind, Rulebase, ValueType
from opportune_rulebase.policies import OutcomeKind

from opportune_service.app.case_values import MOST_US, checked, plain
from opportune_service.core.admit import Admission, AttributesError, is_subscriber_id
from opportune_service.core.events import Encoding
from opportune_service.core.fold import MAX_RETAINED
from opportune_service.core.verdict import Contact, ContactState, Outcome

_SOMEBODY = "8613800000001"


@dataclass(slots=True)
class Given:
    """Figures of metrics, remembered facts and what the handset can do, by plain name.

    `control`: whether the subscriber is in every control group there is, or in none. `paused`: campaigns.
    `spent`: campaigns whose quota is used up, and channels (as `channel/NAME`) whose capacity is.
    """

    metrics: dict[str, object] = field(default_factory=dict)
    facts: dict[str, bool] = field(default_factory=dict)
    terminal: dict[str, object] = field(default_factory=dict)
    control: bool = False
    paused: frozenset[str] = frozenset()
    spent: frozenset[str] = frozenset()


class PastReader:
    """Reads for the cases of one rulebase; what is wrong goes to the report."""

    def __init__(self, rulebase: Rulebase, admission: Admission, report: Report) -> None:
        self.rulebase = rulebase
        self.admission = admission
        self.report = report

    def subscriber(self, node: Node | None) -> tuple[str, bool, Mapping[str, object]]:
        """Id, whether anything is known of the subscriber, and the context."""
        declared = self.rulebase.vocabulary.subscriber
        fields = Fields(self.report, node, "the subscriber", ("id", "known", *declared))
        subscriber_id, known = fields.text("id", _SOMEBODY), fields.flag("known", True)
        if not is_subscriber_id(subscriber_id):
            message = "the id must be 5 to 15 digits without a plus sign"
            self.report.error(fields.place("id"), Code.BAD_VALUE, message)
        context = self.context(fields)
        if context and not known:
            message = "nothing can be known of a subscriber that is not known"
            self.report.error(fields.at, Code.CONFLICTING_KEYS, message, "leave 'known: false' out")
        return subscriber_id, known, context

    def peers(self, case: Fields) -> dict[str, Mapping[str, object]]:
        """Others of whom something is known: id -> context."""
        found: dict[str, Mapping[str, object]] = {}
        for key, node in case.entries("peers"):
            if not is_subscriber_id(key.text):
                message = "a peer is named by 5 to 15 digits without a plus sign"
                self.report.error(key.at, Code.BAD_VALUE, message)
            fields = Fields(self.report, node, "the peer", tuple(self.rulebase.vocabulary.subscriber))
            found[key.text] = self.context(fields)
        return found

    def context(self, fields: Fields) -> Mapping[str, object]:
        declared = self.rulebase.vocabulary.subscriber
        raw = {
            name: plain(value, declared[name])
            for name in declared
            if (value := fields.node(name)) is not None
        }
        try:
            return self.admission.admit_context(msgspec.json.encode(raw), Encoding.JSON)
        except AttributesError as error:
            self.report.error(fields.at, Code.BAD_VALUE, str(error))
            return {}

    def given(self, case: Fields) -> Given:
        found = Given()
        names = {f"metric.{name}" for name in self.rulebase.metrics}
        names |= {f"fact.{name}" for name in self.rulebase.facts}
        names |= {f"terminal.{name}" for name in self.rulebase.vocabulary.terminal}
        own = Fields(self.report, case.node("given"), "given", keys_of(case.node("given")))
        for key, node in case.entries("given"):
            root, _, name = key.text.partition(".")
            if key.text == "control":
                found.control = self.control(node)
            elif key.text == "paused":
                found.paused = frozenset(own.choices("paused", "campaign", self.rulebase.campaigns))
            elif key.text == "spent":
                found.spent = frozenset(own.choices("spent", "quota", self.limited()))
            elif key.text not in names:
                self.unknown(key, names)
            elif root == "metric":
                found.metrics[name] = self.figure(self.rulebase.metrics[name], node)
            elif root == "fact":
                found.facts[name] = self.truth(node)
            else:
                found.terminal[name] = self.value(self.rulebase.vocabulary.terminal[name], node)
        return found

    def unknown(self, key: ScalarNode, names: set[str]) -> None:
        if key.text in self.rulebase.imported:
            message, hint = "an imported behaviour is no figure", "write it under 'subscriber'"
            self.report.error(key.at, Code.BAD_VALUE, message, hint)
        else:
            self.report.unknown(
                key.at, "value to be given", key.text, {*names, "control", "paused", "spent"}
            )

    def control(self, node: Node) -> bool:
        member = self.truth(node)
        shares = [campaign.control_share for campaign in self.rulebase.campaigns.values()]
        if member and not any((*shares, self.rulebase.policies.control.share)):
            message = "the rulebase has no control group"
            self.report.error(node.at, Code.BAD_VALUE, message, "leave 'control' out")
        return member

    def limited(self) -> list[str]:
        """What may be used up."""
        channels = self.rulebase.vocabulary.channels.values()
        return [
            *(each.name for each in self.rulebase.campaigns.values() if each.quota),
            *(f"channel/{each.name}" for each in channels if each.per_day is not None),
        ]

    def truth(self, node: Node) -> bool:
        value = parse_bool(node.text) if isinstance(node, ScalarNode) and not node.style else None
        if value is None:
            self.report.error(node.at, Code.WRONG_TYPE, "expected true or false")
        return bool(value)

    def figure(self, metric: Metric, node: Node) -> object:
        """A figure that the metric may have."""
        text = node.text if isinstance(node, ScalarNode) else ""
        attribute = metric_attribute(self.rulebase, metric)
        if metric.kind in (MetricKind.COUNT, MetricKind.DISTINCT):
            most, count = _most(attribute), parse_int(text)
            if count is not None and 0 <= count <= most:
                return count
            message = f"a count is a whole number from 0 to {most}"
        elif metric.kind is MetricKind.SUM or attribute is None:
            amount = parse_int(text)
            number = parse_float(text) if amount is None else amount
            if number is not None and (number >= 0 or metric.bound is not Bound.LOWER):
                return number
            message = "a sum is a number" + (", here not below 0" if metric.bound is Bound.LOWER else "")
        else:
            return self.value(attribute, node)
        self.report.error(node.at, Code.BAD_VALUE, message)
        return 0

    def value(self, attribute: Attribute, node: Node) -> object:
        try:
            value = checked(node, attribute)
        except AttributesError as error:
            self.report.error(node.at, Code.BAD_VALUE, str(error), f"it is of type {attribute.type}")
            return None
        if value is None:
            self.report.error(node.at, Code.BAD_VALUE, "nothing is given here", "leave it out")
        return value

    def history(self, node: Node | None, now_us: int) -> tuple[list[Contact], list[Outcome]]:
        """Earlier contacts and outcomes. An outcome is of the newest contact of its campaign before it."""
        fields = Fields(self.report, node, "the history", keys_in("history"))
        contacts = [
            contact
            for number, item in enumerate(items(self.report, fields, "contacts"))
            if (contact := self.contact(item, f"contact-{number}", now_us)) is not None
        ]
        campaigns = self.rulebase.campaigns
        outcomes = []
        for number, item in enumerate(items(self.report, fields, "outcomes")):
            each = Fields(self.report, item, "the outcome", keys_in("past_outcome"))
            each.require("campaign", "outcome", "before")
            campaign = campaigns.get(each.choice("campaign", "campaign", campaigns) or "")
            at_us = now_us - each.duration("before", 1, most=MOST_US)
            kind = each.choice("outcome", "outcome", [kind.value for kind in OutcomeKind])
            if campaign and kind:
                answered = [c for c in contacts if c.campaign == campaign.name and c.at_us <= at_us]
                newest = max(answered, key=lambda contact: contact.at_us, default=None)
                outcomes.append(
                    Outcome(
                        newest.decision_id if newest else f"outcome-{number}",
                        OutcomeKind(kind),
                        at_us,
                        campaign.name,
                        campaign.product,
                        campaign.category,
                    )
                )
        return contacts, outcomes

    def contact(self, node: Node, decision_id: str, now_us: int) -> Contact | None:
        """A contact of a campaign, or of another system."""
        words = self.rulebase.vocabulary
        fields = Fields(self.report, node, "the contact", keys_in("past_contact"))
        fields.require("before")
        whose = exactly_one(fields, ("campaign", "origin"))
        at_us = now_us - fields.duration("before", 1, most=MOST_US)
        channel = fields.choice("channel", "channel", words.channels)
        if whose == "campaign":
            fields.goes_with("product", "origin")
            fields.goes_with("category", "origin")
            campaigns = self.rulebase.campaigns
            campaign = campaigns.get(fields.choice("campaign", "campaign", campaigns) or "")
            if campaign is None:
                return None
            return Contact(
                decision_id=decision_id,
                campaign=campaign.name,
                product=campaign.product,
                category=campaign.category,
                channel=channel or campaign.channels[0],
                mode=campaign.mode,
                at_us=at_us,
                state=ContactState.COMMITTED,
                open_until_us=at_us + campaign.open_for_us,
            )
        if whose is None:
            return None
        fields.require("channel")
        product = words.products.get(fields.choice("product", "product", words.products) or "")
        if channel is None:
            return None
        return Contact(
            decision_id=decision_id,
            campaign="",
            product=product.name if product else "",
            category=product.category if product else fields.text("category"),
            channel=channel,
            mode=words.channels[channel].mode,
            at_us=at_us,
            state=ContactState.COMMITTED,
            origin=fields.text("origin"),
        )


def items(report: Report, fields: Fields, key: str) -> Sequence[Node]:
    """The items of the list under a key."""
    node = fields.node(key)
    if node is None or isinstance(node, ListNode):
        return node.items if node else ()
    report.error(node.at, Code.WRONG_TYPE, f"expected a list for {key!r}")
    return ()


def metric_attribute(rulebase: Rulebase, metric: Metric) -> Attribute | None:
    """The event attribute whose values the metric takes in; None for counts."""
    if metric.value is None:
        return None
    return rulebase.vocabulary.events[metric.of[0]].attributes[metric.value]


def _most(attribute: Attribute | None) -> int:
    """How far a count, or a count of different values of the attribute, can go."""
    if attribute is None:
        return MAX_RETAINED
    if attribute.type is ValueType.BOOL:
        return 2
    return MAX_RETAINED if attribute.values is None else len(attribute.values)
