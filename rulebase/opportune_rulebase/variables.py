"""The variables of the language: what is declared for expressions, and what an event's facts bind.

| variable | type | |
|---|---|---|
| `event.<attribute>` | as declared | an attribute of the event; missing if this type has none such |
| `event.type` | string | the event's type |
| `first.<attribute>`, `previous.<attribute>` | as declared | in steps of a sequence: of earlier steps |
| `sub.<attribute>` | as declared | subscriber context, or the attribute's default |
| `peer.<attribute>` | as declared | context of the subscriber that the event names |
| `terminal.<attribute>` | as declared | a capability of the handset |
| `place.name`, `place.categories` | string, list<string> | where the event's cell is |
| `metric.<name>` | the metric's | missing to CEL while not covered; see `intervals` |
| `fact.<name>` | bool | remembered facts |
| `behaviour.<name>`, `scene.<name>` | bool | definitions, and behaviours that are imported |
| `calendar.workday`, `calendar.holiday` | bool | of the event's local day |
| `now` | timestamp | the event's time |
| `zone` | string | time zone of the subscriber, else of the operator |
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta, tzinfo

from opportune_rulebase.engine import Facts, Truth
from opportune_rulebase.model import Attribute, Metric, ValueType, Vocabulary

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def declared(
    vocabulary: Vocabulary,
    metrics: Mapping[str, Metric],
    definition_names: Iterable[str],
    fact_names: Iterable[str] = (),
) -> dict[str, str]:
    """Every variable that an expression may read: qualified name -> CEL type name, for `Scope`.

    `definition_names` are qualified, those of imported behaviours among them; `fact_names` are plain. The
    built-in names win over attributes of the same name.
    """
    types: dict[str, str] = {}
    for event in vocabulary.events.values():
        for space in ("event", "first", "previous"):
            types |= _typed(space, event.attributes)
    for space in ("sub", "peer"):
        types |= _typed(space, vocabulary.subscriber)
    types |= _typed("terminal", vocabulary.terminal)
    types |= {f"metric.{metric.name}": metric.type for metric in metrics.values()}
    types |= dict.fromkeys(definition_names, "bool")
    types |= {f"fact.{name}": "bool" for name in fact_names}
    return types | {
        "event.type": "string",
        "place.name": "string",
        "place.categories": "list<string>",
        "calendar.workday": "bool",
        "calendar.holiday": "bool",
        "now": "timestamp",
        "zone": "string",
    }


def _typed(space: str, attributes: Mapping[str, Attribute]) -> dict[str, str]:
    """Imported behaviours stand among the subscriber's attributes under a qualified name: not here."""
    return {f"{space}.{name}": a.type.in_expressions for name, a in attributes.items() if "." not in name}


def zone_name(zone: tzinfo) -> str:
    """A time zone as CEL takes it: the IANA name, or `+08:00` for a fixed offset."""
    key = getattr(zone, "key", None)
    if isinstance(key, str):
        return key
    offset = zone.utcoffset(None) or timedelta()
    minutes = offset // timedelta(minutes=1)
    return f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}"


def bindings(
    facts: Facts,
    reads: Iterable[str],
    vocabulary: Vocabulary,
    definition: Callable[[str], Truth],
) -> dict[str, object]:
    """What CEL is given of `facts` for an expression that mentions `reads`.

    Missing data is absent: None values, uncovered metrics, unknown definitions. `definition` gives the
    truth of a definition by its qualified name. Timestamps among attributes are microseconds since
    1970 or aware datetimes, and are bound as the latter.
    """
    bound: dict[str, object] = {}
    for name in reads:
        value = lookup(facts, name, vocabulary, definition)
        if value is not None:
            bound[name] = value
    return bound


def lookup(facts: Facts, name: str, vocabulary: Vocabulary, definition: Callable[[str], Truth]) -> object:
    """The value of one variable, None if it is missing. Arguments as for `bindings`."""
    space, _, rest = name.partition(".")
    value: object = None
    match space:
        case "event" if rest == "type":
            value = facts.type
        case "event":
            event = vocabulary.events.get(facts.type)
            value = _attribute(facts.event, rest, event.attributes if event else {})
        case "sub":
            value = _attribute(facts.sub, rest, vocabulary.subscriber)
        case "terminal":
            value = _attribute(facts.terminal, rest, vocabulary.terminal)
        case "peer":
            # Defaults are in it already: of somebody unknown nothing is known, no default either.
            value = _attribute(facts.peer, rest, {}) if facts.peer else None
        case "fact":
            value = facts.fact(rest)
        case "calendar":
            day = facts.local.date()
            calendar = facts.calendar
            value = calendar.is_workday(day) if rest == "workday" else calendar.is_holiday(day)
        case "first" | "previous":
            value = facts.others.get(name)
        case "behaviour" if name in vocabulary.subscriber:
            value = facts.sub.get(name)
        case "place":
            if facts.place is not None:
                value = facts.place.name if rest == "name" else list(facts.place.categories)
        case "metric":
            figure, covered = facts.metric(rest)
            value = figure if covered else None
        case "now":
            value = facts.now
        case "zone":
            value = zone_name(facts.zone)
        case _:
            value = definition(name)
    return value


def _attribute(values: Mapping[str, object], name: str, declared: Mapping[str, Attribute]) -> object:
    value = values.get(name)
    attribute = declared.get(name)
    if attribute is None:
        return value
    if value is None:
        value = attribute.default
    if attribute.type is ValueType.TIMESTAMP and isinstance(value, int):
        return _EPOCH + timedelta(microseconds=value)
    return value
