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
_FIRST, _LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


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
        case "event" | "first" | "previous" | "sub" | "peer" | "terminal":
            value = _attribute(facts, name, vocabulary)
        case "metric":
            figure, covered = facts.metric(rest)
            value = figure if covered else None
        case "fact":
            value = facts.fact(rest)
        case "behaviour" | "scene":
            value = facts.sub.get(name) if name in vocabulary.subscriber else definition(name)
        case "place":
            if facts.place is not None:
                value = facts.place.name if rest == "name" else list(facts.place.categories)
        case "calendar":
            day, calendar = facts.local.date(), facts.calendar
            value = calendar.is_workday(day) if rest == "workday" else calendar.is_holiday(day)
        case "now":
            value = facts.now
        case "zone":
            value = zone_name(facts.zone)
        case _:
            value = facts.others.get(name)
    return value


def _attribute(facts: Facts, qualified: str, vocabulary: Vocabulary) -> object:
    space, _, name = qualified.partition(".")
    match space:
        case "event":
            if name == "type":
                return facts.type
            return _typed_value(facts.event.get(name), _event_attribute(vocabulary, name, facts.type))
        case "sub":
            return _or_default(facts.sub.get(name), vocabulary.subscriber.get(name))
        case "peer":
            # Defaults are in it already: of somebody unknown nothing is known, no default either.
            return _typed_value(facts.peer.get(name), vocabulary.subscriber.get(name))
        case "terminal":
            return _or_default(facts.terminal.get(name), vocabulary.terminal.get(name))
    return _typed_value(facts.others.get(qualified), _event_attribute(vocabulary, name, facts.type))


def _event_attribute(vocabulary: Vocabulary, name: str, type_: str) -> Attribute | None:
    """An attribute of events of this type, else of any other: one name has one type."""
    event = vocabulary.events.get(type_)
    if event is not None and name in event.attributes:
        return event.attributes[name]
    found = (each.attributes.get(name) for each in vocabulary.events.values())
    return next((attribute for attribute in found if attribute is not None), None)


def _or_default(value: object, attribute: Attribute | None) -> object:
    return _typed_value(attribute.default if value is None and attribute else value, attribute)


def _typed_value(value: object, attribute: Attribute | None) -> object:
    """Instants as datetimes. One that CEL cannot take is missing."""
    if attribute is None or attribute.type is not ValueType.TIMESTAMP or not isinstance(value, int):
        return value
    try:
        moment = _EPOCH + timedelta(microseconds=value)
    except OverflowError:
        return None
    # CEL's binding takes the ends of the calendar for the infinite past and future.
    return None if moment in (_FIRST, _LAST) else moment
