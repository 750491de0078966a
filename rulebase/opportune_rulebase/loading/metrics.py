"""The section `metrics`: figures folded from events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from opportune_rulebase.errors import Position
from opportune_rulebase.loading.common import (
    NUMBERS,
    SCALARS,
    TOLD_APART,
    WHERE_READS,
    attribute_of,
    by_content,
    check_reads,
    content_key,
    event_types,
    exactly_one,
    refuse_same,
)
from opportune_rulebase.loading.conditions import Conditions
from opportune_rulebase.loading.fields import DAY_US, Fields
from opportune_rulebase.loading.problems import Code, Report
from opportune_rulebase.loading.source import Node, ScalarNode
from opportune_rulebase.model import Attribute, Bound, Metric, MetricKind, Vocabulary

MAX_DAYS: Final = 400

_KINDS: Final = tuple(kind.value for kind in MetricKind)
_TYPES: Final = {
    MetricKind.SUM: NUMBERS,
    MetricKind.MIN: NUMBERS,
    MetricKind.MAX: NUMBERS,
    MetricKind.LATEST: SCALARS,
    MetricKind.DISTINCT: TOLD_APART,
}
_BOUNDS: Final = {
    MetricKind.COUNT: Bound.LOWER,
    MetricKind.DISTINCT: Bound.LOWER,
    MetricKind.MAX: Bound.LOWER,
    MetricKind.MIN: Bound.UPPER,
    MetricKind.LATEST: Bound.NONE,
}


@dataclass(slots=True)
class RawMetric:
    """A metric before its filter is compiled."""

    metric: Metric
    where: ScalarNode | None
    at: Position


def read_metrics(
    section: Fields, vocabulary: Vocabulary, keys: Mapping[str, str], report: Report
) -> dict[str, RawMetric]:
    """The metrics; errors go to `report`. `keys`: the content keys of the patterns."""
    found: dict[str, RawMetric] = {}
    sound: dict[str, str] = {}
    for key, value in section.named("metrics", "metric", identifier=True):
        before = report.count
        found[key.text] = _metric(key, value, vocabulary, keys, report)
        if report.count == before:
            sound[key.text] = found[key.text].metric.key
    refuse_same("metric", sound, {name: each.at for name, each in found.items()}, report)
    return found


def _metric(
    key: ScalarNode, value: Node, vocabulary: Vocabulary, keys: Mapping[str, str], report: Report
) -> RawMetric:
    name = key.text
    known = (*_KINDS, "of", "days", "last", "where", "label")
    fields = Fields(report, value, f"metric {name!r}", known, at=key.at)
    kind = MetricKind(exactly_one(fields, _KINDS) or MetricKind.COUNT)
    exactly_one(fields, ("last", "days"))
    moment = fields.node("last") is not None
    attribute: str | None = None
    if kind is MetricKind.COUNT:
        of = event_types(fields, "count", vocabulary.events, vocabulary, moment=moment)
        if fields.node("of") is not None and fields.node("count") is not None:
            hint = "name the event types under 'count'"
            report.error(fields.key_at("of"), Code.CONFLICTING_KEYS, "'of' does not go with 'count'", hint)
    else:
        fields.require("of")
        of = event_types(fields, "of", vocabulary.events, vocabulary, moment=moment)
        attribute = attribute_of(fields, kind.value, of, vocabulary, _TYPES[kind])
    days = fields.integer("days", 1, least=1, most=MAX_DAYS) if fields.node("days") is not None else None
    last = fields.duration("last", DAY_US, most=DAY_US) if fields.node("last") is not None else None
    where = fields.scalar("where", "an expression")
    declared = [vocabulary.events[event].attributes[attribute] for event in of] if attribute else []
    # An attribute has one type on all event types.
    type_ = "int" if kind is MetricKind.DISTINCT or not declared else declared[0].type.in_expressions
    text = where.text.strip() if where else None
    metric = Metric(
        name=name,
        key=content_key(kind, by_content(of, keys), attribute, type_, text, last, days),
        label=fields.text("label", name),
        kind=kind,
        of=of,
        value=attribute,
        where=None,
        last_us=last,
        days=days,
        bound=_BOUNDS.get(kind) or _bound_of_sum(declared),
        type=type_,
    )
    return RawMetric(metric, where, key.at)


def _bound_of_sum(declared: list[Attribute]) -> Bound:
    """What cannot be negative can only grow."""
    return Bound.LOWER if all(a.minimum is not None and a.minimum >= 0 for a in declared) else Bound.NONE


def compile_metrics(
    raw: Mapping[str, RawMetric], vocabulary: Vocabulary, conditions: Conditions, report: Report
) -> Mapping[str, Metric]:
    """The metrics with their filters compiled."""
    found = {}
    for name, each in raw.items():
        where = conditions.compile(each.where, "'where' of a metric", may_read=WHERE_READS)
        check_reads(where, f"'where' of metric {name!r}", {"event": each.metric.of}, vocabulary, report)
        found[name] = replace(each.metric, where=where)
    return MappingProxyType(found)
