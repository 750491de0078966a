"""The section `patterns`: what is recognised over time. Each pattern is an event type of its own."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final

from opportune_rulebase.errors import Position
from opportune_rulebase.loading.common import (
    NUMBERS,
    TOLD_APART,
    attribute_of,
    content_key,
    exactly_one,
    refuse_same,
)
from opportune_rulebase.loading.conditions import Conditions
from opportune_rulebase.loading.fields import DAY_US, HOUR_US, Fields, keys_of
from opportune_rulebase.loading.order import in_order
from opportune_rulebase.loading.problems import Code, Report
from opportune_rulebase.loading.source import MapNode, Node, ScalarNode
from opportune_rulebase.loading.steps import (
    RawStep,
    compile_link,
    compile_where,
    content_of,
    filtered,
    read_sequence,
    read_step,
)
from opportune_rulebase.model import (
    AbsencePattern,
    Attribute,
    ChangePattern,
    CountPattern,
    DwellPattern,
    EventType,
    Pattern,
    SequencePattern,
    Step,
    Tables,
    Vocabulary,
)

# State is bounded: what a pattern keeps of one subscriber follows from these.
MAX_WITHIN_US: Final = 7 * DAY_US
MAX_AT_LEAST: Final = 1_000
MAX_ABSENCE_US: Final = 30 * DAY_US
MAX_DWELL_US: Final = DAY_US
MAX_CHANGE_DAYS: Final = 100

MAX_DERIVED: Final = 1_000
"""How many derived events one event can lead to at most. Patterns of patterns multiply, and each event is
taken to its end before the next."""

_KEYS: Final = {
    "count": ("distinct", "at_least", "within", "where"),
    "sequence": ("within", "without"),
    "after": ("absent", "for"),
    "dwell": ("for",),
    "change": ("of", "where", "days", "rises_to", "falls_to", "at_least"),
}


@dataclass(slots=True)
class RawPattern:
    """A pattern before its conditions are compiled; `steps` has those of `pattern`, in order."""

    name: str
    kind: str
    fields: Fields
    at: Position
    steps: list[RawStep] = field(default_factory=list)
    without: RawStep | None = None
    pattern: Pattern | None = None

    @property
    def takes_in(self) -> frozenset[str]:
        """The event types that it names."""
        steps = [*self.steps, self.without] if self.without else self.steps
        return frozenset(name for step in steps for name in step.of)


def read_patterns(
    section: Fields, vocabulary: Vocabulary, tables: Tables, report: Report
) -> tuple[dict[str, RawPattern], Vocabulary]:
    """The patterns in dependency order, and the vocabulary with their event types. Errors: `report`."""
    entries: list[tuple[ScalarNode, Node]] = []
    for key, value in section.named("patterns", "pattern"):
        if key.text in vocabulary.events:
            message = f"there is an event type {key.text!r} already"
            report.error(key.at, Code.DUPLICATE_NAME, message, "a pattern gives events of its own name")
        elif len(entries) < MAX_DERIVED:
            entries.append((key, value))
        else:
            message = f"there are more than {MAX_DERIVED} patterns"
            report.error(key.at, Code.TOO_MANY, message, "leave out those that nothing uses")
            break
    known = vocabulary.events.keys() | {key.text for key, _ in entries}
    drafts = {key.text: _draft(key, value, known, vocabulary, report) for key, value in entries}
    order = in_order(
        {name: draft.takes_in & drafts.keys() for name, draft in drafts.items()},
        {name: draft.at for name, draft in drafts.items()},
        "patterns take in each other's events",
        report,
    )
    # Types of events that are read before they are known stand in a circle, which is reported.
    events = dict(vocabulary.events) | {n: EventType(n, n, {}, derived=True) for n in drafts}
    vocabulary = replace(vocabulary, events=MappingProxyType(events))
    categories = None
    if tables.cells and any(draft.kind == "dwell" for draft in drafts.values()):
        categories = frozenset(c for place in set(tables.cells.values()) for c in place.categories)
    keys: dict[str, str] = {}
    sound: dict[str, str] = {}
    for name in order:
        draft, before = drafts[name], report.count
        pattern = draft.pattern = _finish(draft, vocabulary, categories, keys, report)
        if pattern is None:
            continue
        keys[name] = pattern.key
        if report.count == before and all(step.of for step in draft.steps):
            sound[name] = pattern.key
        completing = _completing(draft)
        attributes = MappingProxyType(_common(completing, vocabulary))
        events[name] = EventType(name, pattern.label, attributes, derived=True)
    refuse_same("pattern", sound, {name: each.at for name, each in drafts.items()}, report)
    _check_volume([drafts[name] for name in order], vocabulary, report)
    return {name: drafts[name] for name in order}, vocabulary


def _draft(
    key: ScalarNode, value: Node, known: Collection[str], vocabulary: Vocabulary, report: Report
) -> RawPattern:
    """The kind of the pattern and the events that it takes in."""
    what = f"pattern {key.text!r}"
    written = keys_of(value)
    kinds = [kind for kind in _KEYS if kind in written]
    if not kinds and "absent" in written:
        kinds = ["after"]
    if len(kinds) != 1:
        every = (*_KEYS, *(each for keys in _KEYS.values() for each in keys), "label")
        fields = Fields(report, value, what, every, at=key.at)
        if isinstance(value, MapNode):
            exactly_one(fields, tuple(_KEYS))
        return RawPattern(key.text, "", fields, key.at)
    kind = kinds[0]
    fields = Fields(report, value, what, (kind, *_KEYS[kind], "label"), at=key.at)
    draft = RawPattern(key.text, kind, fields, key.at)
    match kind:
        case "count":
            draft.steps = [filtered(fields, "count", known, vocabulary)]
        case "sequence":
            draft.steps = list(read_sequence(fields, known, vocabulary))
            if fields.node("without") is not None:
                draft.without = read_step(fields, "without", known, vocabulary)
        case "after":
            fields.require("after", "absent")
            draft.steps = [read_step(fields, each, known, vocabulary) for each in ("after", "absent")]
        case "change":
            fields.require("of")
            draft.steps = [filtered(fields, "of", known, vocabulary)]
    return draft


def _finish(
    draft: RawPattern,
    vocabulary: Vocabulary,
    categories: frozenset[str] | None,
    keys: Mapping[str, str],
    report: Report,
) -> Pattern | None:
    """The pattern without its conditions; None if it has no kind. `keys`: content keys of earlier ones.

    `categories`: those of all places; None without places.
    """
    name, fields, steps = draft.name, draft.fields, [Step(step.of) for step in draft.steps]
    label = fields.text("label", name)
    content = [content_of(step, keys) for step in draft.steps]
    match draft.kind:
        case "count":
            fields.require("at_least", "within")
            of = steps[0].of
            distinct = attribute_of(fields, "distinct", of, vocabulary, TOLD_APART)
            at_least = fields.integer("at_least", 2, least=2, most=MAX_AT_LEAST)
            within_us = fields.duration("within", HOUR_US, most=MAX_WITHIN_US)
            key = content_key("count", content, distinct, at_least, within_us)
            return CountPattern(name, key, label, steps[0], distinct, at_least, within_us)
        case "sequence":
            fields.require("within")
            without = Step(draft.without.of) if draft.without else None
            within_us = fields.duration("within", HOUR_US, most=MAX_WITHIN_US)
            forbidden = content_of(draft.without, keys) if draft.without else None
            key = content_key("sequence", content, forbidden, within_us)
            return SequencePattern(name, key, label, tuple(steps), without, within_us, frozenset())
        case "after":
            fields.require("for")
            for_us = fields.duration("for", HOUR_US, most=MAX_ABSENCE_US)
            key = content_key("absence", content, for_us)
            return AbsencePattern(name, key, label, steps[0], steps[1], for_us)
        case "dwell":
            fields.require("for")
            category = _category(fields, categories, report)
            for_us = fields.duration("for", HOUR_US, most=MAX_DWELL_US)
            return DwellPattern(name, content_key("dwell", category, for_us), label, category, for_us)
        case "change":
            return _change(name, label, fields, steps[0], content, vocabulary)
    return None


def _category(fields: Fields, categories: frozenset[str] | None, report: Report) -> str:
    node = fields.scalar("dwell", "a category of places")
    if node is None:
        return ""
    if categories is not None and node.text not in categories:
        report.unknown(node.at, "category of places", node.text, categories)
    return node.text


def _change(
    name: str, label: str, fields: Fields, step: Step, content: list[list[object]], vocabulary: Vocabulary
) -> ChangePattern:
    fields.require("days", "at_least")
    report = fields.report
    figure = fields.scalar("change", "'count' or an attribute of the event")
    value = None
    if figure is not None and figure.text != "count":
        value = attribute_of(fields, "change", step.of, vocabulary, NUMBERS)
    days = fields.integer("days", 1, least=1, most=MAX_CHANGE_DAYS)
    exactly_one(fields, ("rises_to", "falls_to"))
    rises_to = falls_to = None
    if fields.node("rises_to") is not None:
        rises_to = fields.number("rises_to", 1.0, least=1.0, most=1e6)
    elif fields.node("falls_to") is not None:
        falls_to = fields.number("falls_to", 0.0, least=0.0, most=1.0)
        if falls_to == 1.0:
            hint = "write a share such as 0.5"
            report.error(fields.place("falls_to"), Code.BAD_VALUE, "'falls_to' must be less than 1", hint)
    at_least = fields.number("at_least", 1.0, least=0.0, most=1e15)
    if at_least == 0.0:
        hint = "of nothing, any figure is many times as much"
        report.error(fields.place("at_least"), Code.BAD_VALUE, "'at_least' must be more than 0", hint)
    key = content_key("change", content, value, days, rises_to, falls_to, at_least)
    return ChangePattern(name, key, label, step, value, days, rises_to, falls_to, at_least)


def _completing(draft: RawPattern) -> tuple[str, ...]:
    """The event types whose attributes the derived event carries."""
    match draft.kind, draft.steps:
        case ("count", [step]) | ("after", [step, _]) | ("sequence", [*_, step]):
            return step.of
    return ()


def _common(of: Collection[str], vocabulary: Vocabulary) -> Mapping[str, Attribute]:
    """The attributes that all these event types have, bounded as widely as any of them."""
    if not of:
        return {}
    first, *others = [vocabulary.events[name].attributes for name in of]
    if not others:
        return first
    shared = first.keys() & set.intersection(*(set(other) for other in others))
    return {
        name: _wide([attribute, *(other[name] for other in others)])
        for name, attribute in first.items()
        if name in shared
    }


def _wide(same: list[Attribute]) -> Attribute:
    """One attribute that has any value that one of these may have."""
    minima = [each.minimum for each in same if each.minimum is not None]
    values = [each.values for each in same if each.values is not None]
    minimum = min(minima) if len(minima) == len(same) else None
    every = tuple(dict.fromkeys(v for each in values for v in each)) if len(values) == len(same) else None
    if (minimum, every) == (same[0].minimum, same[0].values):
        return same[0]
    return replace(same[0], minimum=minimum, values=every)


def _check_volume(drafts: Iterable[RawPattern], vocabulary: Vocabulary, report: Report) -> None:
    """Refuse patterns by which one event could lead to very many."""
    most: dict[str, int] = {}  # pattern -> how often one event may complete it
    total = 0
    for draft in drafts:
        # Whatever takes several events to complete passes on a share; timers complete once. A sequence of
        # which no step could be read has none.
        needed = max(1, len(draft.steps)) if draft.kind == "sequence" else 1
        if isinstance(draft.pattern, CountPattern):
            needed = draft.pattern.at_least
        own = any(not vocabulary.events[name].derived for name in draft.takes_in)
        taken = own + sum(most.get(name, 0) for name in draft.takes_in)
        repeats = draft.kind in ("count", "sequence")
        most[draft.name] = max(1, -(-taken // needed)) if repeats else 1
        total += most[draft.name]
        if total > MAX_DERIVED:
            message = f"with {draft.name!r}, one event could lead to more than {MAX_DERIVED} derived ones"
            report.error(draft.at, Code.TOO_MANY, message, "build fewer patterns on patterns")
            return


def compile_patterns(
    raw: Mapping[str, RawPattern], vocabulary: Vocabulary, conditions: Conditions, report: Report
) -> Mapping[str, Pattern]:
    """The patterns with their conditions compiled, in the same order."""
    found: dict[str, Pattern] = {}
    for name, draft in raw.items():
        steps = []
        for number, step in enumerate(draft.steps):
            where = compile_where(step, draft.fields.what, vocabulary, conditions, report)
            link = None
            if step.link is not None:
                link = compile_link(
                    step, draft.steps[0], draft.steps[number - 1], vocabulary, conditions, report
                )
            steps.append(Step(step.of, where, link))
        match draft.pattern:
            case CountPattern() | ChangePattern() as pattern:
                found[name] = replace(pattern, step=steps[0])
            case AbsencePattern() as pattern:
                found[name] = replace(pattern, after=steps[0], absent=steps[1])
            case SequencePattern() as pattern:
                without = None
                if draft.without:
                    where = compile_where(draft.without, draft.fields.what, vocabulary, conditions, report)
                    without = Step(draft.without.of, where)
                links = [step.link for step in steps if step.link]
                kept = frozenset(read.partition(".")[2] for link in links for read in link.reads)
                found[name] = replace(pattern, steps=tuple(steps), without=without, kept=kept)
            case DwellPattern() as pattern:
                found[name] = pattern
    return MappingProxyType(found)
