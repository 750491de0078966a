"""What reads what in a rulebase, as a graph: from events and attributes to campaigns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from opportune_rulebase.expressions import Expression
from opportune_rulebase.model import (
    AbsencePattern,
    ChangePattern,
    CountPattern,
    DateTrigger,
    DwellPattern,
    Pattern,
    Rulebase,
    SequencePattern,
    Step,
)


class NodeKind(StrEnum):
    EVENT = "event"
    TRIGGER = "trigger"
    ATTRIBUTE = "attribute"
    METRIC = "metric"
    PATTERN = "pattern"
    FACT = "fact"
    IMPORTED = "imported"
    BEHAVIOUR = "behaviour"
    SCENE = "scene"
    CAMPAIGN = "campaign"


class EdgeKind(StrEnum):
    """`to` takes in events of `from`, or looks at its value."""

    TRIGGERS = "triggers"
    READS = "reads"


@dataclass(frozen=True, slots=True)
class Node:
    """`id` is unique in the graph. `name` is what expressions or files call it, `label` is for people."""

    id: str
    kind: NodeKind
    name: str
    label: str


@dataclass(frozen=True, slots=True, order=True)
class Edge:
    """An arrow from what is read or happens to what reads it or is triggered by it; ids of nodes."""

    source: str
    target: str
    kind: EdgeKind


@dataclass(frozen=True, slots=True)
class Graph:
    """Nodes by id, sorted by kind and name, and edges, sorted. Every edge joins two nodes of the graph."""

    nodes: Mapping[str, Node]
    edges: tuple[Edge, ...]


_ATTRIBUTES = ("sub", "peer", "terminal", "place", "calendar")
_KINDS = tuple(NodeKind)


def graph(rulebase: Rulebase, campaign: str = "") -> Graph:
    """All campaigns and definitions with what they read, and that in turn; or what one campaign reads.

    Attributes of events do not stand apart from their event, nor do `now` and `zone`. A campaign of the
    matrix reads the behaviours of its rows and is triggered by the events of its columns. Raises KeyError
    if there is no such campaign.
    """
    edges: set[Edge] = set()
    for target, kind, sources in _edges(rulebase):
        edges.update(Edge(source, target, kind) for source in sources)
    wanted = {f"campaign.{name}" for name in rulebase.campaigns}
    if campaign:
        wanted = {f"campaign.{rulebase.campaigns[campaign].name}"}
    else:
        wanted |= set(rulebase.definitions) | set(rulebase.imported)
        wanted |= {f"metric.{name}" for name in rulebase.metrics} | {f"fact.{n}" for n in rulebase.facts}
        wanted |= {f"event.{name}" for name in rulebase.patterns}
    ids = _reached(wanted, edges)
    nodes = sorted((_node(rulebase, each) for each in ids), key=lambda n: (_KINDS.index(n.kind), n.name))
    return Graph({node.id: node for node in nodes}, tuple(sorted(e for e in edges if e.target in ids)))


def _edges(rulebase: Rulebase) -> Iterator[tuple[str, EdgeKind, Iterable[str]]]:
    """Target, kind and sources; patterns have the id of the event that they give."""
    for metric in rulebase.metrics.values():
        target = f"metric.{metric.name}"
        yield target, EdgeKind.TRIGGERS, _events(metric.of)
        yield target, EdgeKind.READS, _reads(metric.where)
    for fact in rulebase.facts.values():
        yield f"fact.{fact.name}", EdgeKind.TRIGGERS, _events(fact.on)
        yield f"fact.{fact.name}", EdgeKind.READS, _reads(fact.when)
    for pattern in rulebase.patterns.values():
        for step in _steps(pattern):
            yield f"event.{pattern.name}", EdgeKind.TRIGGERS, _events(step.of)
            yield f"event.{pattern.name}", EdgeKind.READS, _reads(step.where)
        if isinstance(pattern, DwellPattern):
            yield f"event.{pattern.name}", EdgeKind.READS, ("place.categories",)
    for trigger in rulebase.triggers.values():
        if isinstance(trigger, DateTrigger):
            yield f"event.{trigger.name}", EdgeKind.READS, (f"sub.{trigger.attribute}",)
    for definition in rulebase.definitions.values():
        yield definition.name, EdgeKind.READS, _reads(definition.when)
    for campaign in rulebase.campaigns.values():
        target = f"campaign.{campaign.name}"
        yield target, EdgeKind.TRIGGERS, _events(campaign.on)
        yield target, EdgeKind.READS, _reads(campaign.when, campaign.target, campaign.propensity)


def _steps(pattern: Pattern) -> tuple[Step, ...]:
    match pattern:
        case CountPattern() | ChangePattern():
            return (pattern.step,)
        case SequencePattern():
            return (*pattern.steps, *([pattern.without] if pattern.without else []))
        case AbsencePattern():
            return (pattern.after, pattern.absent)
        case DwellPattern():
            return ()


def _events(names: Iterable[str]) -> Iterator[str]:
    return (f"event.{name}" for name in names)


def _reads(*expressions: Expression | None) -> Iterator[str]:
    """What the expressions read that has a node of its own."""
    for expression in expressions:
        for name in expression.reads if expression else ():
            space, dot, _ = name.partition(".")
            if space in (*_ATTRIBUTES, "metric", "fact", "behaviour", "scene") and dot:
                yield name


def _reached(wanted: set[str], edges: Iterable[Edge]) -> set[str]:
    """`wanted` and everything from which an arrow leads to it."""
    sources: dict[str, list[str]] = {}
    for edge in edges:
        sources.setdefault(edge.target, []).append(edge.source)
    found, pending = set(wanted), list(wanted)
    while pending:
        new = [each for each in sources.get(pending.pop(), ()) if each not in found]
        found.update(new)
        pending += new
    return found


def _node(rulebase: Rulebase, node_id: str) -> Node:
    space, _, name = node_id.partition(".")
    kind, label = NodeKind.ATTRIBUTE, ""
    match space:
        case "event":
            kind, label = _event_kind(rulebase, name), rulebase.vocabulary.events[name].label
        case "metric":
            kind, label = NodeKind.METRIC, rulebase.metrics[name].label
        case "fact":
            kind, label = NodeKind.FACT, rulebase.facts[name].label
        case "campaign":
            kind, label = NodeKind.CAMPAIGN, rulebase.campaigns[name].label
        case "behaviour" if node_id in rulebase.imported:
            kind, label = NodeKind.IMPORTED, rulebase.imported[node_id].label
        case "behaviour" | "scene":
            kind, label = NodeKind(space), rulebase.definitions[node_id].label
        case "sub" | "peer":
            label, name = rulebase.vocabulary.subscriber[name].label, node_id
        case "terminal":
            label, name = rulebase.vocabulary.terminal[name].label, node_id
        case _:
            name = node_id
    return Node(node_id, kind, name, label or name)


def _event_kind(rulebase: Rulebase, name: str) -> NodeKind:
    if name in rulebase.patterns:
        return NodeKind.PATTERN
    return NodeKind.TRIGGER if name in rulebase.triggers else NodeKind.EVENT
