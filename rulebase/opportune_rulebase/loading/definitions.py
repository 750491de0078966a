"""`behaviours.yaml` and `scenes.yaml`: all that is defined of events and subscribers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from opportune_rulebase.errors import Position
from opportune_rulebase.language import keys_in
from opportune_rulebase.loading.common import exactly_one
from opportune_rulebase.loading.conditions import Conditions
from opportune_rulebase.loading.facts import RawFact, compile_facts, read_facts
from opportune_rulebase.loading.fields import DAY_US, Fields
from opportune_rulebase.loading.metrics import RawMetric, compile_metrics, read_metrics
from opportune_rulebase.loading.order import in_order
from opportune_rulebase.loading.patterns import RawPattern, compile_patterns, read_patterns
from opportune_rulebase.loading.problems import Code, Report
from opportune_rulebase.loading.source import Node, ScalarNode
from opportune_rulebase.model import (
    Attribute,
    Definition,
    DefinitionKind,
    Fact,
    ImportedBehaviour,
    Metric,
    Pattern,
    Tables,
    ValueType,
    Vocabulary,
)

MAX_VALID_US: Final = 400 * DAY_US


@dataclass(slots=True)
class RawDefinition:
    name: str
    kind: DefinitionKind
    label: str
    when: ScalarNode | None
    at: Position
    imported: ImportedBehaviour | None = None


@dataclass(slots=True)
class RawDefinitions:
    """All definitions before their expressions are compiled.

    `vocabulary` has the event types of the patterns and, as attributes of the subscriber, the imported
    behaviours. `definitions` has the imported ones too.
    """

    vocabulary: Vocabulary
    patterns: dict[str, RawPattern]
    metrics: dict[str, RawMetric]
    facts: dict[str, RawFact]
    definitions: dict[str, RawDefinition]

    @property
    def imported(self) -> Mapping[str, ImportedBehaviour]:
        """The imported behaviours by their qualified names."""
        found = {name: each.imported for name, each in self.definitions.items() if each.imported}
        return MappingProxyType(found)

    @property
    def event_types_in_use(self) -> frozenset[str]:
        """Every event type that a metric, a pattern or a fact takes in."""
        taken = [name for metric in self.metrics.values() for name in metric.metric.of]
        taken += [name for fact in self.facts.values() for name in fact.on]
        return frozenset(taken).union(*(pattern.takes_in for pattern in self.patterns.values()))


@dataclass(frozen=True, slots=True)
class Definitions:
    """All definitions as a `Rulebase` has them."""

    patterns: Mapping[str, Pattern]
    metrics: Mapping[str, Metric]
    facts: Mapping[str, Fact]
    definitions: Mapping[str, Definition]


def read_definitions(
    behaviours: Node | None, scenes: Node | None, vocabulary: Vocabulary, tables: Tables, report: Report
) -> RawDefinitions:
    """Everything but the expressions; errors go to `report`."""
    first = Fields(report, behaviours, "behaviours.yaml", keys_in("behaviours"))
    second = Fields(report, scenes, "scenes.yaml", keys_in("scenes"))
    patterns, vocabulary = read_patterns(first, vocabulary, tables, report)
    metrics = read_metrics(first, vocabulary, _keys(patterns), report)
    facts = read_facts(first, vocabulary, report)
    definitions: dict[str, RawDefinition] = {}
    for kind, fields, section in (
        (DefinitionKind.BEHAVIOUR, first, "behaviours"),
        (DefinitionKind.SCENE, first, "scenes"),
        (DefinitionKind.SCENE, second, "scenes"),
    ):
        for key, value in fields.named(section, kind, identifier=True):
            definition = _definition(key, value, kind, report)
            other = definitions.setdefault(definition.name, definition)
            if other is not definition:
                report.error(
                    key.at, Code.DUPLICATE_NAME, f"{definition.name!r} is declared twice", f"see {other.at}"
                )
    raw = RawDefinitions(vocabulary, patterns, metrics, facts, definitions)
    imported = {i.name: Attribute(i.name, ValueType.BOOL, i.label) for i in raw.imported.values()}
    subscriber = MappingProxyType({**vocabulary.subscriber, **imported})
    raw.vocabulary = replace(vocabulary, subscriber=subscriber)
    return raw


def _keys(patterns: Mapping[str, RawPattern]) -> dict[str, str]:
    return {name: each.pattern.key for name, each in patterns.items() if each.pattern}


def _definition(key: ScalarNode, value: Node, kind: DefinitionKind, report: Report) -> RawDefinition:
    what, name = f"{kind} {key.text!r}", f"{kind}.{key.text}"
    fields = Fields(report, value, what, keys_in(kind), at=key.at)
    label = fields.text("label", key.text)
    imported = None
    if fields.node("imported") is not None:
        exactly_one(fields, ("when", "imported"))
        inner = Fields(
            report,
            fields.node("imported"),
            f"'imported' of {what}",
            keys_in("imported"),
            at=fields.key_at("imported"),
        )
        inner.require("valid_for")
        imported = ImportedBehaviour(name, label, inner.duration("valid_for", DAY_US, most=MAX_VALID_US))
    else:
        fields.require("when")
    return RawDefinition(name, kind, label, fields.scalar("when", "an expression"), key.at, imported)


def compile_definitions(raw: RawDefinitions, conditions: Conditions, report: Report) -> Definitions:
    """All definitions with their expressions compiled, in dependency order; errors go to `report`."""
    vocabulary = raw.vocabulary
    definitions = _conditions(raw, conditions, report)
    return Definitions(
        patterns=compile_patterns(raw.patterns, vocabulary, conditions, report),
        metrics=compile_metrics(raw.metrics, vocabulary, conditions, report),
        facts=compile_facts(raw.facts, definitions, _keys(raw.patterns), vocabulary, conditions, report),
        definitions=definitions,
    )


def _conditions(raw: RawDefinitions, conditions: Conditions, report: Report) -> Mapping[str, Definition]:
    """Behaviours and scenes, each after all that it reads."""
    compiled: dict[str, Definition] = {}
    for name, each in raw.definitions.items():
        when = conditions.compile(each.when, f"'when' of the {each.kind}")
        if when is not None and each.imported is None:
            compiled[name] = Definition(name, each.kind, each.label, when)
    needs = {name: each.when.reads & compiled.keys() for name, each in compiled.items()}
    at = {name: raw.definitions[name].at for name in compiled}
    order = in_order(needs, at, "definitions read each other", report)
    return MappingProxyType({name: compiled[name] for name in order})
