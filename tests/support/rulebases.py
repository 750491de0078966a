"""Rulebases and facts built directly from the model, for tests that do not concern loading.

rulebase = make_rulebase(
    events={"sms_sent": {"amount": "int"}},
    subscriber={"age": "int", "brand": attribute("brand", "string", default="gotone")},
    metrics={"sms_7d": {"of": ("sms_sent",), "days": 7}},
    definitions={"scene.young": "sub.age < 25"},
    campaigns={"c1": {"on": ("sms_sent",), "when": "scene.young && event.amount > 3"}},
)
facts = make_facts("sms_sent", {"amount": 4}, sub={"age": 20})
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

from opportune_rulebase.engine import Facts, Truth
from opportune_rulebase.errors import Position
from opportune_rulebase.expressions import Expression, Scope
from opportune_rulebase.model import (
    Attribute,
    Bound,
    Calendar,
    Campaign,
    Channel,
    Definition,
    DefinitionKind,
    EventType,
    Fact,
    ImportedBehaviour,
    Metric,
    MetricKind,
    Place,
    Product,
    Rulebase,
    Source,
    Tables,
    Template,
    Trigger,
    ValueType,
    Vocabulary,
)
from opportune_rulebase.policies import Mode, Policies
from opportune_rulebase.variables import declared
from support.pattern_specs import Compiled, derived_type, make_patterns

DAY_US = 86_400_000_000
NOON_US = 1_795_147_200_000_000
"""2026-11-20T04:00:00Z, which is noon in Shanghai, a Friday."""

SHANGHAI = ZoneInfo("Asia/Shanghai")

MetricValues = Mapping[str, object]


def attribute(name: str, type_: str, **rest: Any) -> Attribute:
    return Attribute(name, ValueType(type_), **rest)


def make_scope(rulebase: Rulebase) -> Scope:
    """The scope in which the rulebase's own expressions were compiled, to compile more in."""
    definitions = (*rulebase.definitions, *rulebase.imported)
    return Scope(declared(rulebase.vocabulary, rulebase.metrics, definitions, rulebase.facts))


def make_rulebase(
    *,
    events: Mapping[str, Mapping[str, str | Attribute]],
    subscriber: Mapping[str, str | Attribute] | None = None,
    terminal: Mapping[str, str | Attribute] | None = None,
    metrics: Mapping[str, Mapping[str, Any]] | None = None,
    definitions: Mapping[str, str] | None = None,
    campaigns: Mapping[str, Mapping[str, Any]] | None = None,
    channels: Mapping[str, Channel] | None = None,
    products: Mapping[str, Product] | None = None,
    policies: Policies | None = None,
    facts: Mapping[str, Mapping[str, Any]] | None = None,
    imported: Mapping[str, int] | None = None,
    patterns: Mapping[str, Mapping[str, Any]] | None = None,
    triggers: Mapping[str, Trigger] | None = None,
    sources: Mapping[str, Source] | None = None,
    calendar: Calendar | None = None,
    cells: Mapping[str, Place] | None = None,
    terminals: Mapping[str, Mapping[str, object]] | None = None,
    time_zone: str = "Asia/Shanghai",
    name: str = "test",
) -> Rulebase:
    """A rulebase; whatever is not said is the plainest that will do.

    `definitions` must come after what they read. A metric needs `of`; `value` makes it a sum, unless
    `kind` says otherwise; `bound` and `type` follow from these. A fact needs `on`; `for_us` is a day.
    `imported` maps qualified names to how long each is valid. For `patterns` see `make_patterns`. In a
    campaign, `on` (default: every event type), `when`, `target`, `propensity` are texts, `content` maps
    channels to plain text; every other key is a field of `Campaign`. Channels and products that
    campaigns name are made up when `channels` / `products` are not given.
    """
    definitions, campaigns, metrics = definitions or {}, campaigns or {}, metrics or {}
    facts, imported, patterns, triggers = facts or {}, imported or {}, patterns or {}, triggers or {}
    channel_names = sorted({c for spec in campaigns.values() for c in spec.get("channels", ("sms",))})
    product_names = sorted({spec.get("product", "product") for spec in campaigns.values()})
    types = {each: EventType(each, each, _attributes(given)) for each, given in events.items()}
    # Their events are known before their conditions can be compiled, which read the attributes of all.
    for each in make_patterns(patterns, types, None).values():
        types[each.name] = derived_type(each, types)
    types |= {each: EventType(each, each, {}, derived=True) for each in triggers}
    vocabulary = Vocabulary(
        events=types,
        subscriber=_attributes(subscriber or {}) | {each: attribute(each, "bool") for each in imported},
        terminal=_attributes(terminal or {}),
        channels=channels or {each: Channel(each, each, Mode.AUTOMATIC) for each in channel_names},
        products=products or {each: Product(each, each, "category") for each in product_names},
        sources=sources or {},
    )
    names = (*definitions, *imported)
    scope = Scope(declared(vocabulary, _metrics(metrics, types, None), names, facts))

    def compiled(text: str | None, file: str, expect: str) -> Expression | None:
        return None if text is None else scope.compile(text, Position(file, 1, 1), expect=expect)

    made = {
        each: Definition(
            each, DefinitionKind(each.partition(".")[0]), each, _must(compiled(text, each, "bool"))
        )
        for each, text in definitions.items()
    }
    said = (name, events, subscriber, terminal, metrics, definitions, campaigns, policies)
    revision = repr((*said, facts, imported, patterns, triggers, sources, calendar))
    return Rulebase(
        name=name,
        label=name,
        revision=hashlib.sha256(revision.encode()).hexdigest(),
        time_zone=ZoneInfo(time_zone),
        vocabulary=vocabulary,
        tables=Tables(cells or {}, terminals or {}),
        metrics=_metrics(metrics, types, compiled),
        definitions=made,
        campaigns={
            each: _campaign(each, given, tuple(events), vocabulary, compiled)
            for each, given in sorted(campaigns.items())
        },
        policies=policies or Policies(),
        facts=_facts(facts, compiled),
        imported={each: ImportedBehaviour(each, each, valid) for each, valid in imported.items()},
        patterns=make_patterns(patterns, types, compiled),
        triggers=triggers,
        calendar=calendar or Calendar(),
    )


def make_facts(
    type_: str,
    event: Mapping[str, object] | None = None,
    *,
    sub: Mapping[str, object] | None = None,
    terminal: Mapping[str, object] | None = None,
    place: Place | None = None,
    metrics: MetricValues | None = None,
    now_us: int = NOON_US,
    zone: tzinfo = SHANGHAI,
    peer: Mapping[str, object] | None = None,
    facts: Mapping[str, Truth] | None = None,
    calendar: Calendar | None = None,
    others: Mapping[str, object] | None = None,
) -> Facts:
    """Facts of one event. A metric is its exact value, or (value, covered); absent: nothing known.

    `facts` gives the truth of remembered facts by plain name; absent: unknown.
    """
    known = metrics or {}

    def metric(name: str) -> tuple[object, bool]:
        value = known.get(name)
        return value if isinstance(value, tuple) else (value, value is not None)

    return Facts(
        type=type_,
        event=event or {},
        sub=sub or {},
        terminal=terminal or {},
        place=place,
        metric=metric,
        now_us=now_us,
        zone=zone or UTC,
        peer=peer or {},
        fact=(facts or {}).get,
        calendar=calendar or Calendar(),
        others=others or {},
    )


def _attributes(given: Mapping[str, str | Attribute]) -> dict[str, Attribute]:
    return {
        name: each if isinstance(each, Attribute) else attribute(name, each) for name, each in given.items()
    }


_BOUNDS = {MetricKind.MIN: Bound.UPPER, MetricKind.LATEST: Bound.NONE}


def _metrics(
    given: Mapping[str, Mapping[str, Any]], types: Mapping[str, EventType], compiled: Compiled | None
) -> dict[str, Metric]:
    made = {}
    for name, spec in given.items():
        where, value = spec.get("where"), spec.get("value")
        kind = MetricKind(spec.get("kind", MetricKind.SUM if value else MetricKind.COUNT))
        counts = value is None or kind in (MetricKind.COUNT, MetricKind.DISTINCT)
        of = types[spec["of"][0]].attributes
        made[name] = Metric(
            name=name,
            key=hashlib.sha256(repr((name, spec)).encode()).hexdigest()[:16],
            label=name,
            kind=kind,
            of=tuple(spec["of"]),
            value=value,
            where=compiled(where, name, "bool") if compiled else None,
            last_us=spec.get("last_us"),
            days=spec.get("days", None if spec.get("last_us") else 30),
            bound=Bound(spec.get("bound", _BOUNDS.get(kind, Bound.LOWER))),
            type="int" if counts else of[value].type.in_expressions,
        )
    return made


def _facts(given: Mapping[str, Mapping[str, Any]], compiled: Compiled) -> dict[str, Fact]:
    return {
        name: Fact(
            name=name,
            key=hashlib.sha256(repr((name, spec)).encode()).hexdigest()[:16],
            label=name,
            on=tuple(spec["on"]),
            when=compiled(spec.get("when"), name, "bool"),
            for_us=spec.get("for_us", DAY_US),
        )
        for name, spec in given.items()
    }


def _campaign(
    name: str,
    given: Mapping[str, Any],
    event_names: tuple[str, ...],
    vocabulary: Vocabulary,
    compiled: Compiled,
) -> Campaign:
    spec = dict(given)
    product = spec.pop("product", "product")
    channels = tuple(spec.pop("channels", ("sms",)))
    content = spec.pop("content", dict.fromkeys(channels, name))
    position = Position(f"campaigns/{name}.yaml", 1, 1)
    defaults: dict[str, Any] = {
        "label": name,
        "category": vocabulary.products[product].category,
        "on": event_names,
        "mode": Mode.AUTOMATIC,
        "priority": 0,
        "value": 1.0,
        "valid_from_us": None,
        "valid_to_us": None,
        "fresh_for_us": 300_000_000,
        "expires_after_us": 7_200_000_000,
        "allow_unknown": False,
        "exempt": frozenset(),
        "branches": frozenset(),
    }
    return Campaign(
        **defaults
        | {
            "name": name,
            "product": product,
            "channels": channels,
            "when": compiled(spec.pop("when", None), name, "bool"),
            "target": compiled(spec.pop("target", None), name, "bool"),
            "propensity": compiled(spec.pop("propensity", None), name, "double"),
            "content": {channel: Template(text, position, (text,)) for channel, text in content.items()},
            "position": position,
        }
        | spec
    )


def _must(expression: Expression | None) -> Expression:
    assert expression is not None
    return expression
