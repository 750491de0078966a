"""Facts without what cannot be used: the answer to values that are not of their declared types."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime

from opportune_rulebase.engine import Facts, Truth
from opportune_rulebase.model import Attribute, Metric, ValueType, Vocabulary

_INT_MIN, _INT_MAX = -(2**63), 2**63 - 1


def usable(facts: Facts, vocabulary: Vocabulary, metrics: Mapping[str, Metric]) -> Facts:
    """The same facts; a value that does not have its declared type is missing."""
    event = vocabulary.events.get(facts.type)

    def metric(name: str) -> tuple[object, bool]:
        value, covered = facts.metric(name)
        fitting = name in metrics and fits(value, ValueType(metrics[name].type))
        return (value, covered) if fitting else (None, False)

    def fact(name: str) -> Truth:
        truth = facts.fact(name)
        return truth if isinstance(truth, bool) else None

    return Facts(
        type=facts.type,
        event=_fitting(facts.event, event.attributes if event else {}),
        sub=_fitting(facts.sub, vocabulary.subscriber),
        terminal=_fitting(facts.terminal, vocabulary.terminal),
        place=facts.place,
        metric=metric,
        now_us=facts.now_us,
        zone=facts.zone,
        peer=_fitting(facts.peer, vocabulary.subscriber),
        fact=fact,
        calendar=facts.calendar,
        others={
            name: value for name, value in facts.others.items() if _fits_other(name, value, vocabulary)
        },
    )


def _fits_other(name: str, value: object, vocabulary: Vocabulary) -> bool:
    """Attributes of earlier events; anything else was declared elsewhere and is left as it is."""
    space, _, rest = name.partition(".")
    if space not in ("first", "previous"):
        return True
    found = (each.attributes.get(rest) for each in vocabulary.events.values())
    return any(attribute is not None and fits(value, attribute.type) for attribute in found)


def _fitting(values: Mapping[str, object], declared: Mapping[str, Attribute]) -> dict[str, object]:
    return {
        name: value
        for name, value in values.items()
        if name in declared and fits(value, declared[name].type)
    }


def fits(value: object, type_: ValueType) -> bool:
    """Whether `value` is one of the declared type."""
    return _FITS[type_](value)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and _INT_MIN <= value <= _INT_MAX


def _is_string(value: object) -> bool:
    return isinstance(value, str)


def _is_flags(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(key, str) and isinstance(each, bool) for key, each in value.items()
    )


_FITS: dict[ValueType, Callable[[object], bool]] = {
    ValueType.INT: _is_int,
    ValueType.DOUBLE: lambda value: isinstance(value, float) or _is_int(value),
    ValueType.BOOL: lambda value: isinstance(value, bool),
    ValueType.STRING: _is_string,
    ValueType.DATE: _is_string,
    ValueType.SUBSCRIBER: _is_string,
    ValueType.TIMESTAMP: lambda value: isinstance(value, datetime) or _is_int(value),
    ValueType.STRINGS: lambda value: isinstance(value, list | tuple) and all(map(_is_string, value)),
    ValueType.INTS: lambda value: isinstance(value, list | tuple) and all(map(_is_int, value)),
    ValueType.FLAGS: _is_flags,
}
