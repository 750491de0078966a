"""`behaviours.yaml` and `scenes.yaml`: metrics, static behaviours and scenes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from opportune_rulebase.errors import Position
from opportune_rulebase.loading.conditions import Conditions
from opportune_rulebase.loading.fields import DAY_US, Fields
from opportune_rulebase.loading.problems import Code, Report, clip
from opportune_rulebase.loading.source import Node, ScalarNode
from opportune_rulebase.model import (
    Bound,
    Definition,
    DefinitionKind,
    Metric,
    MetricKind,
    ValueType,
    Vocabulary,
)

MAX_DAYS: Final = 400
_WHERE_READS: Final = ("event", "sub", "terminal", "place")
_NO_OTHER_FIGURE: Final = "use 'count' or 'sum'"
_LATER_METRIC: Final = {
    "distinct": _NO_OTHER_FIGURE,
    "min": _NO_OTHER_FIGURE,
    "max": _NO_OTHER_FIGURE,
    "latest": _NO_OTHER_FIGURE,
}
_LATER: Final = {"patterns": "leave it out", "facts": "leave it out"}
_LATER_DEFINITION: Final = {"remember": "leave it out", "imported": "import it as a subscriber attribute"}


@dataclass(slots=True)
class RawMetric:
    metric: Metric
    where: ScalarNode | None
    at: Position
    sound: bool


@dataclass(slots=True)
class RawDefinition:
    name: str
    kind: DefinitionKind
    label: str
    when: ScalarNode | None
    at: Position


@dataclass(slots=True)
class RawDefinitions:
    """Metrics and definitions before their expressions are compiled."""

    metrics: dict[str, RawMetric]
    definitions: dict[str, RawDefinition]


def read_definitions(
    behaviours: Node | None, scenes: Node | None, vocabulary: Vocabulary, report: Report
) -> RawDefinitions:
    """Everything but the expressions; errors go to `report`."""
    first = Fields(report, behaviours, "behaviours.yaml", ("metrics", "behaviours", "scenes"), later=_LATER)
    second = Fields(report, scenes, "scenes.yaml", ("scenes",), later=_LATER)
    raw = RawDefinitions({}, {})
    for key, value in first.named("metrics", "metric", identifier=True):
        raw.metrics[key.text] = _metric(key, value, vocabulary, report)
    for kind, fields, section in (
        (DefinitionKind.BEHAVIOUR, first, "behaviours"),
        (DefinitionKind.SCENE, first, "scenes"),
        (DefinitionKind.SCENE, second, "scenes"),
    ):
        for key, value in fields.named(section, kind, identifier=True):
            definition = _definition(key, value, kind, report)
            other = raw.definitions.setdefault(definition.name, definition)
            if other is not definition:
                report.error(
                    key.at, Code.DUPLICATE_NAME, f"{definition.name!r} is declared twice", f"see {other.at}"
                )
    return raw


def _metric(key: ScalarNode, value: Node, vocabulary: Vocabulary, report: Report) -> RawMetric:
    name = key.text
    keys = ("count", "sum", "of", "days", "last", "where", "label")
    fields = Fields(report, value, f"metric {name!r}", keys, later=_LATER_METRIC, at=key.at)
    kind = MetricKind.COUNT if fields.node("count") is not None else MetricKind.SUM
    _exactly_one(fields, "count", "sum")
    _exactly_one(fields, "last", "days")
    summed: str | None = None
    if kind is MetricKind.COUNT:
        of = fields.choices("count", "event type", vocabulary.events)
        sound = bool(of)
        if fields.node("of") is not None:
            hint = "name the event types under 'count'"
            report.error(fields.key_at("of"), Code.CONFLICTING_KEYS, "'of' belongs to 'sum'", hint)
    else:
        if fields.node("sum") is not None:
            fields.require("of")
        of = fields.choices("of", "event type", vocabulary.events)
        summed = _summed(fields, of, vocabulary, report)
        sound = summed is not None
    days = fields.integer("days", 1, least=1, most=MAX_DAYS) if fields.node("days") is not None else None
    last = fields.duration("last", DAY_US, most=DAY_US) if fields.node("last") is not None else None
    where = fields.scalar("where", "an expression")
    content = [kind, sorted(of), summed, where.text.strip() if where else None, last, days]
    canonical = json.dumps(content, ensure_ascii=False).encode()
    metric = Metric(
        name=name,
        key=hashlib.sha256(canonical).hexdigest()[:32],
        label=fields.text("label", name),
        kind=kind if sound else MetricKind.COUNT,
        of=of,
        value=summed,
        where=None,
        last_us=last,
        days=days,
        bound=Bound.LOWER
        if kind is MetricKind.COUNT or _non_negative(of, summed, vocabulary)
        else Bound.NONE,
        type=_type_of(of, summed, vocabulary),
    )
    return RawMetric(metric, where, key.at, sound)


def _type_of(of: tuple[str, ...], summed: str | None, vocabulary: Vocabulary) -> str:
    types = {vocabulary.events[event].attributes[summed].type for event in of} if summed else set()
    return "double" if ValueType.DOUBLE in types else "int"


def _exactly_one(fields: Fields, first: str, second: str) -> None:
    present = [key for key in (first, second) if fields.node(key) is not None]
    if len(present) == 2:
        message = f"{fields.what} has both {first!r} and {second!r}"
        fields.report.error(fields.key_at(second), Code.CONFLICTING_KEYS, message, "keep one of them")
    elif not present:
        message = f"{fields.what} has neither {first!r} nor {second!r}"
        fields.report.error(fields.at, Code.MISSING_KEY, message, "add one of them")


def _summed(fields: Fields, of: tuple[str, ...], vocabulary: Vocabulary, report: Report) -> str | None:
    """The attribute of `sum: event.amount`; every summed event type must have it as a number."""
    node = fields.scalar("sum", "an attribute of the event")
    if node is None or not of:
        return None
    prefix, _, attribute = node.text.partition(".")
    if prefix != "event" or not attribute:
        report.error(
            node.at,
            Code.BAD_VALUE,
            f"cannot sum {clip(node.text)!r}",
            "name one attribute of the event, such as event.amount",
        )
        return None
    for event in of:
        declared = vocabulary.events[event].attributes
        if attribute not in declared:
            hint = report.suggest(attribute, declared)
            report.error(
                node.at,
                Code.ATTRIBUTE_NOT_ON_EVENT,
                f"event type {event!r} has no attribute {attribute!r}",
                hint,
            )
            return None
        if declared[attribute].type not in {ValueType.INT, ValueType.DOUBLE}:
            report.error(
                node.at, Code.BAD_VALUE, f"{node.text!r} is not a number", "sum an int or a double"
            )
            return None
    return attribute


def _non_negative(of: tuple[str, ...], attribute: str | None, vocabulary: Vocabulary) -> bool:
    if attribute is None:
        return False
    bounds = [vocabulary.events[event].attributes[attribute].minimum for event in of]
    return all(bound is not None and bound >= 0 for bound in bounds)


def _definition(key: ScalarNode, value: Node, kind: DefinitionKind, report: Report) -> RawDefinition:
    fields = Fields(
        report, value, f"{kind} {key.text!r}", ("label", "when"), later=_LATER_DEFINITION, at=key.at
    )
    fields.require("when")
    when = fields.scalar("when", "an expression")
    return RawDefinition(f"{kind}.{key.text}", kind, fields.text("label", key.text), when, key.at)


def compile_metrics(raw: RawDefinitions, conditions: Conditions) -> Mapping[str, Metric]:
    """The metrics with their filters compiled."""
    return MappingProxyType(
        {
            name: replace(
                each.metric,
                where=conditions.compile(each.where, "'where' of a metric", may_read=_WHERE_READS),
            )
            for name, each in raw.metrics.items()
        }
    )


def compile_definitions(
    raw: RawDefinitions, conditions: Conditions, report: Report
) -> Mapping[str, Definition]:
    """The definitions, each after all that it reads. Circles are reported, one error a circle."""
    compiled: dict[str, Definition] = {}
    for name, each in raw.definitions.items():
        when = conditions.compile(each.when, f"'when' of the {each.kind}")
        if when is not None:
            compiled[name] = Definition(name, each.kind, each.label, when)
    ordered: dict[str, Definition] = {}
    for name in compiled:
        _place(name, compiled, ordered, raw, report)
    return MappingProxyType(ordered)


def _place(
    root: str,
    compiled: Mapping[str, Definition],
    ordered: dict[str, Definition],
    raw: RawDefinitions,
    report: Report,
) -> None:
    """Depth first, without recursion: a chain of definitions may be longer than Python's stack."""
    path: dict[str, list[str]] = {}  # the way from the root, with what is still to be visited
    stack = [root]
    while stack:
        name = stack[-1]
        if name not in path and name not in ordered:
            path[name] = sorted(compiled[name].when.reads & compiled.keys())
        pending = path.get(name, [])
        if not pending:
            path.pop(name, None)
            ordered.setdefault(name, compiled[name])
            stack.pop()
            continue
        following = pending.pop(0)
        if following in path:
            circle = [*list(path)[list(path).index(following) :], following]
            report.error(
                raw.definitions[following].at,
                Code.CIRCLE,
                f"definitions read each other in a circle: {' -> '.join(circle)}",
                "break it at one of them",
            )
        elif following not in ordered:
            stack.append(following)
