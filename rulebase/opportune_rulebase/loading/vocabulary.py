"""`vocabulary.yaml`: events, subscriber attributes, sources, channels, products and the names of tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final

from opportune_rulebase.errors import Position
from opportune_rulebase.language import keys_in
from opportune_rulebase.loading.common import parse_date
from opportune_rulebase.loading.conditions import Conditions
from opportune_rulebase.loading.fields import Fields, parse_bool, parse_float, parse_int
from opportune_rulebase.loading.limits import MAX_CONTACTS
from opportune_rulebase.loading.problems import Code, Report, clip
from opportune_rulebase.loading.source import ListNode, MapNode, Node, ScalarNode
from opportune_rulebase.loading.sources import read_sources
from opportune_rulebase.model import (
    Attribute,
    Channel,
    EventType,
    Product,
    TouchKind,
    ValueType,
    Vocabulary,
)
from opportune_rulebase.policies import Mode

BUILT_IN_SUBSCRIBER: Final[Mapping[str, ValueType]] = MappingProxyType(
    {
        "status": ValueType.STRING,
        "products": ValueType.STRINGS,
        "do_not_contact": ValueType.BOOL,
        "consents": ValueType.FLAGS,  # keys `channel/NAME` and `category/NAME`
        "time_zone": ValueType.STRING,
        "branch": ValueType.STRING,
        "imei": ValueType.STRING,
    }
)
"""Context attributes that the service itself reads. Always declared, always of these types."""

BUILT_IN_EVENTS: Final[Mapping[str, Mapping[str, ValueType]]] = MappingProxyType(
    {"handset_changed": {"imei": ValueType.STRING, "previous_imei": ValueType.STRING}}
)
"""Event types that the service derives. A rulebase may redeclare them to give labels."""

MAX_ATTRIBUTES: Final = 200
MAX_SEGMENTS: Final = 10
MAX_PACE: Final = 100_000
MAX_COST: Final = 1_000_000_000

_TERMINAL_TYPES: Final = (ValueType.STRING, ValueType.INT, ValueType.DOUBLE, ValueType.BOOL)


@dataclass(slots=True)
class RawVocabulary:
    """The vocabulary before its expressions are compiled, and what the tables need."""

    vocabulary: Vocabulary
    needs: dict[tuple[str, str], ScalarNode] = field(default_factory=dict)
    tables: dict[str, ScalarNode] = field(default_factory=dict)
    positions: dict[tuple[str, str], Position] = field(default_factory=dict)


def read_vocabulary(node: Node | None, report: Report) -> RawVocabulary:
    """Everything of `vocabulary.yaml` but the `needs` expressions; errors go to `report`."""
    top = Fields(
        report,
        node,
        "vocabulary.yaml",
        keys_in("vocabulary"),
    )
    raw = RawVocabulary(Vocabulary({}, {}, {}, {}, {}))
    events, subscriber = _events(top, report), _subscriber(top, report)
    raw.vocabulary = Vocabulary(
        events=MappingProxyType(events),
        subscriber=MappingProxyType(subscriber),
        terminal=MappingProxyType(_terminal(top, report, raw)),
        channels=MappingProxyType(_channels(top, report, raw)),
        products=MappingProxyType(_products(top, report, raw)),
        sources=read_sources(top, events, subscriber),
    )
    places = top.node("places")
    if places is not None:
        _table(Fields(report, places, "places", keys_in("places")), "places", raw)
    return raw


def with_needs(raw: RawVocabulary, conditions: Conditions) -> Vocabulary:
    """The vocabulary with what channels and products need of the terminal compiled."""
    compiled = {
        key: conditions.compile(node, f"'needs' of the {key[0]}", may_read=("terminal",))
        for key, node in raw.needs.items()
    }
    words = raw.vocabulary
    channels = {n: replace(c, needs=compiled.get(("channel", n))) for n, c in words.channels.items()}
    products = {n: replace(p, needs=compiled.get(("product", n))) for n, p in words.products.items()}
    return replace(words, channels=MappingProxyType(channels), products=MappingProxyType(products))


def _events(top: Fields, report: Report) -> dict[str, EventType]:
    found: dict[str, EventType] = {
        name: EventType(name, name, MappingProxyType({a: Attribute(a, t) for a, t in attributes.items()}))
        for name, attributes in BUILT_IN_EVENTS.items()
    }
    types: dict[str, tuple[ValueType, str]] = {
        a: (t, name) for name, attributes in BUILT_IN_EVENTS.items() for a, t in attributes.items()
    }
    for key, value in top.named("events", "event type"):
        name = key.text
        fields = Fields(report, value, f"event type {name!r}", keys_in("event_type"), at=key.at)
        attributes: dict[str, Attribute] = {}
        for attribute_key, declared in fields.named("attributes", "attribute", identifier=True):
            attribute = _attribute(attribute_key, declared, report, defaults=False)
            if attribute is None:
                continue
            if attribute.name == "type":
                report.error(
                    attribute_key.at,
                    Code.RESERVED_NAME,
                    "'type' is the type of the event",
                    "use another name",
                )
                continue
            attributes[attribute.name] = attribute
            type_, other = types.setdefault(attribute.name, (attribute.type, name))
            if type_ is not attribute.type:
                report.error(
                    declared.at,
                    Code.TYPE_CONFLICT,
                    f"attribute {attribute.name!r} is {attribute.type} here and {type_} on {other!r}",
                    "give it one type on all event types, or another name",
                )
        if name in BUILT_IN_EVENTS:
            attributes = dict(found[name].attributes) | attributes
        if len(attributes) > MAX_ATTRIBUTES:
            message = f"event type {name!r} has more than {MAX_ATTRIBUTES} attributes"
            report.error(key.at, Code.TOO_MANY, message, "declare those that rules read")
        peers = [a.name for a in attributes.values() if a.type is ValueType.SUBSCRIBER]
        if len(peers) > 1:
            message = f"event type {name!r} names {len(peers)} subscribers: {', '.join(peers)}"
            hint = "'peer' can be one of them: declare the others as string"
            report.error(key.at, Code.BAD_VALUE, message, hint)
        touch = fields.choice("touch", "kind of touch", tuple(TouchKind))
        found[name] = EventType(
            name,
            fields.text("label", name),
            MappingProxyType(attributes),
            touch=TouchKind(touch) if touch else None,
        )
    return found


def _subscriber(top: Fields, report: Report) -> dict[str, Attribute]:
    found = {name: Attribute(name, type_) for name, type_ in BUILT_IN_SUBSCRIBER.items()}
    for key, value in top.named("subscriber", "subscriber attribute", identifier=True):
        attribute = _attribute(key, value, report, defaults=True)
        if attribute is None:
            continue
        built_in = BUILT_IN_SUBSCRIBER.get(attribute.name)
        if built_in and (built_in is not attribute.type or attribute.default is not None):
            report.error(
                key.at,
                Code.RESERVED_NAME,
                f"{attribute.name!r} has a fixed meaning; its type is {built_in} and it has no default",
                f"declare it as {built_in}, leave it out, or use another name",
            )
            continue
        found[attribute.name] = attribute
    return found


def _terminal(top: Fields, report: Report, raw: RawVocabulary) -> dict[str, Attribute]:
    node = top.node("terminals")
    if node is None:
        return {}
    fields = Fields(report, node, "terminals", keys_in("terminals"))
    _table(fields, "terminals", raw)
    fields.require("attributes")
    found: dict[str, Attribute] = {}
    for key, value in fields.named("attributes", "terminal attribute", identifier=True):
        attribute = _attribute(key, value, report, defaults=False)
        if attribute is None:
            continue
        if attribute.type not in _TERMINAL_TYPES or attribute.name == "tac":
            report.error(
                value.at,
                Code.BAD_VALUE,
                f"terminal attribute {attribute.name!r} cannot come from a column of the table",
                f"use one of the types {', '.join(_TERMINAL_TYPES)}; 'tac' is the table's key",
            )
            continue
        found[attribute.name] = attribute
    return found


def _table(fields: Fields, kind: str, raw: RawVocabulary) -> None:
    fields.require("table")
    name = fields.scalar("table", "a file name")
    if name is not None:
        raw.tables[kind] = name


def _channels(top: Fields, report: Report, raw: RawVocabulary) -> dict[str, Channel]:
    found: dict[str, Channel] = {}
    for key, value in top.named("channels", "channel"):
        name = key.text
        raw.positions["channel", name] = key.at
        fields = Fields(report, value, f"channel {name!r}", keys_in("channel"), at=key.at)
        fields.require("mode")
        fields.goes_with("otherwise", "per_day")
        mode = Mode(fields.choice("mode", "mode", tuple(Mode)) or Mode.AUTOMATIC)
        max_segments = None
        if fields.node("max_segments") is not None:
            max_segments = fields.integer("max_segments", 1, least=1, most=MAX_SEGMENTS)
            if mode is Mode.MANUAL:
                message = f"channel {name!r} is manual: nothing of it is sent as SMS"
                at = fields.key_at("max_segments")
                report.error(at, Code.BAD_VALUE, message, "leave 'max_segments' out")
        bulk = fields.flag("bulk")
        if mode is Mode.MANUAL and not bulk and fields.node("per_second") is not None:
            message = f"channel {name!r} is manual: people have a pace of their own"
            hint = "leave 'per_second' out, or add 'bulk: true' if it takes files"
            report.error(fields.key_at("per_second"), Code.BAD_VALUE, message, hint)
        found[name] = Channel(
            name=name,
            label=fields.text("label", name),
            mode=mode,
            max_segments=max_segments,
            per_second=fields.count("per_second", least=1, most=MAX_PACE),
            per_day=fields.count("per_day", least=1, most=MAX_CONTACTS),
            otherwise=fields.fate(),
            cost=fields.integer("cost", 0, most=MAX_COST),
            bulk=bulk,
        )
        needs = fields.scalar("needs", "an expression")
        if needs is not None:
            raw.needs["channel", name] = needs
    return found


def _products(top: Fields, report: Report, raw: RawVocabulary) -> dict[str, Product]:
    entries = list(top.named("products", "product"))
    names = {key.text for key, _ in entries}
    found: dict[str, Product] = {}
    for key, value in entries:
        name = key.text
        raw.positions["product", name] = key.at
        fields = Fields(report, value, f"product {name!r}", keys_in("product"), at=key.at)
        requires = fields.choices("requires", "product", names)
        excludes = fields.choices("excludes", "product", names)
        for other in {name, *requires}.intersection(excludes) | {name}.intersection(requires):
            report.error(
                key.at,
                Code.BAD_VALUE,
                f"product {name!r} can never be offered: {other!r} stands in its way",
                "take it out of 'requires' or 'excludes'",
            )
        category = fields.scalar("category")
        found[name] = Product(
            name,
            fields.text("label"),
            category.text if category else "",
            requires=requires,
            excludes=excludes,
        )
        needs = fields.scalar("needs", "an expression")
        if needs is not None:
            raw.needs["product", name] = needs
    return found


def _attribute(key: ScalarNode, value: Node, report: Report, *, defaults: bool) -> Attribute | None:
    """An attribute from `int` or `{type: int, label: ..., values: [...], min: 0, default: ...}`."""
    if isinstance(value, ScalarNode):
        type_ = _type(value, report)
        return Attribute(key.text, type_) if type_ else None
    keys = [key for key in keys_in("attribute") if defaults or key != "default"]
    fields = Fields(report, value, f"attribute {key.text!r}", keys, at=key.at)
    fields.require("type")
    written = fields.scalar("type", "a type")
    type_ = _type(written, report) if written else None
    if type_ is None:
        return None
    values = _values(fields, type_, report)
    minimum = _minimum(fields, type_, report)
    default = fields.node("default")
    attribute = Attribute(key.text, type_, fields.text("label"), values, minimum)
    return (
        attribute if default is None else replace(attribute, default=_default(default, attribute, report))
    )


def _type(node: ScalarNode, report: Report) -> ValueType | None:
    text = "".join(node.text.split()).replace(",", ", ")
    if text not in tuple(ValueType):
        report.unknown(node.at, "type", node.text, tuple(ValueType))
        return None
    return ValueType(text)


def _values(fields: Fields, type_: ValueType, report: Report) -> tuple[str, ...] | None:
    if fields.node("values") is None:
        return None
    if type_ is not ValueType.STRING:
        report.error(
            fields.key_at("values"), Code.BAD_VALUE, "only a string can be closed to a list of values"
        )
        return None
    found = tuple(dict.fromkeys(node.text for node in fields.scalars("values", "text")))
    if not found:
        report.error(
            fields.place("values"),
            Code.BAD_VALUE,
            "'values' is empty",
            "list at least one, or leave it out",
        )
    return found


def _minimum(fields: Fields, type_: ValueType, report: Report) -> int | float | None:
    if fields.node("min") is None:
        return None
    if type_ is ValueType.INT:
        return fields.integer("min", 0, least=-(2**53))
    if type_ is ValueType.DOUBLE:
        return fields.number("min", 0.0, least=-1e300, most=1e300)
    report.error(fields.key_at("min"), Code.BAD_VALUE, "only an int or a double can have a 'min'")
    return None


def _default(node: Node, attribute: Attribute, report: Report) -> object:
    value = _value(node, attribute.type)
    wrong = value is None or (attribute.values is not None and value not in attribute.values)
    if isinstance(value, int | float) and attribute.minimum is not None:
        wrong = value < attribute.minimum
    if not wrong:
        return value
    shown = clip(node.text) if isinstance(node, ScalarNode) else "this"
    report.error(
        node.at, Code.BAD_VALUE, f"{shown!r} cannot be the default of {attribute.name!r} ({attribute.type})"
    )
    return None


def _value(node: Node, type_: ValueType) -> object:
    """A written value of a type, or None if it is not one.

    Timestamps, flags and subscribers cannot be written.
    """
    if isinstance(node, ListNode) and type_ in {ValueType.STRINGS, ValueType.INTS}:
        inner = ValueType.STRING if type_ is ValueType.STRINGS else ValueType.INT
        items = tuple(_value(item, inner) for item in node.items)
        return None if None in items else items
    if isinstance(node, ListNode | MapNode) or node.is_null:
        return None
    if type_ is ValueType.STRING:
        return node.text
    if type_ is ValueType.DATE:
        return node.text if parse_date(node.text) else None
    if node.style:
        return None
    read = {ValueType.INT: parse_int, ValueType.DOUBLE: parse_float, ValueType.BOOL: parse_bool}.get(type_)
    return read(node.text) if read else None
