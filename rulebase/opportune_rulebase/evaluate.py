"""One expression against given values, by the network engine's compiled code or by CEL's own evaluator.

evaluate("event.amount * 2 > x", {"event": {"amount": 3}, "x": 5})                              True
evaluate("now.getHours(zone)", {"now": {"$timestamp": "2026-11-20T12:00:00Z"}, "zone": "Asia/Tokyo"})    21

Bindings are names with JSON values. A name is plain (`x`) or qualified (`event.amount`); an object under
the name of a space (`event`, `sub`, `metric` ...) holds names of that space. Types are those of the values:
int, double, bool, string, list, map; null is missing data of unknown type. What JSON cannot say is said so:

{"$timestamp": "2026-11-20T20:00:00+08:00"}  {"$duration": "90s"}  {"$bytes": "base64"}
{"$int": 1}  {"$uint": 1}  {"$double": 1}    numbers may stand as text ("NaN", "Infinity")
{"$missing": "int"}                          declared with this type, and missing

With a rulebase its names and types are those declared. A metric is then exact, and what is bound to a
definition stands for it.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from typing import Literal, cast
from zoneinfo import ZoneInfo

from opportune_rulebase.engine import Facts, Truth
from opportune_rulebase.errors import Position
from opportune_rulebase.expressions import Expression, Scope, Unknown
from opportune_rulebase.given import SPACES, BindingError, Bound, fitted, flat, own_types
from opportune_rulebase.model import Attribute, Calendar, Place, Rulebase, Tables, ValueType, Vocabulary
from opportune_rulebase.network import NetworkEngine
from opportune_rulebase.policies import Policies
from opportune_rulebase.variables import bindings as bound_values
from opportune_rulebase.variables import declared

Via = Literal["network", "cel"]

_ZONE = re.compile(r"([+-])(\d\d):(\d\d)")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MISSING = re.compile(r'No value with name "(.*?)" found in Activation')
_STATUS = re.compile(r"^[A-Z_]+: ")


def evaluate(
    text: str, given: Mapping[str, object], *, rulebase: Rulebase | None = None, via: Via = "network"
) -> object:
    """The value of an expression as plain Python, or `Unknown` with the reason.

    Raises ExpressionError if the text does not compile, BindingError if `given` cannot be bound.
    """
    bound = dict(flat(given))
    if rulebase is None:
        types = own_types(bound)
        rulebase = _empty(bound)
    else:
        names = (*rulebase.definitions, *rulebase.imported)
        types = declared(rulebase.vocabulary, rulebase.metrics, names, rulebase.facts)
    values = {name: fitted(name, each, types) for name, each in bound.items()}
    try:
        scope = Scope(types)
    except (ValueError, RuntimeError) as error:
        raise BindingError(str(error)) from None
    expression = scope.compile(text, Position("expression", 1, 1))
    needed = _needed(expression, rulebase, values)
    days = {name for name in needed if name.startswith("calendar.") and values.get(name) is None}
    if ("now" in needed or days) and values.get("now") is None:
        raise BindingError('\'now\' is needed: {"now": {"$timestamp": "2026-11-20T20:00:00+08:00"}}')
    facts = _facts(values, rulebase)
    result = _by_cel(expression, facts, rulebase)
    if via == "network":
        engine = NetworkEngine(rulebase)
        value = engine.value(expression, facts)
        engine.close()
        # The engine says None for unknown; the reason, or that null is the value, is CEL's to say.
        if value is not None or result is None or isinstance(result, Unknown):
            return result if value is None else value
        return Unknown("the network engine cannot tell")
    return result


def plain(value: object) -> object:
    """A result as JSON can hold it.

    Instants are RFC 3339 in UTC, durations like ``90.5s`` (both to the microsecond), bytes base64, a double
    without a number "NaN", "Infinity" or "-Infinity", types their names; keys of maps become text.
    """
    match value:
        case bool() | int() | str() | None:
            return value
        case float():
            if math.isfinite(value):
                return value
            return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        case bytes() | bytearray():
            return base64.b64encode(value).decode()
        case datetime():
            moment = value.astimezone(UTC).replace(tzinfo=None).isoformat()
            return (moment.rstrip("0") if "." in moment else moment) + "Z"
        case timedelta():
            return _seconds(value)
        case list() | tuple():
            return [plain(each) for each in value]
        case dict():
            # Sorted: CEL has no order of its own, and gives them in any.
            return {_key(key): plain(value[key]) for key in sorted(value, key=_key)}
    return _TYPE_NAMES.get(str(value).partition("<")[0], str(value))


_TYPE_NAMES = {
    **{each.upper(): each for each in ("bool", "int", "uint", "double", "string", "bytes", "list", "map")},
    "NULL": "null_type",
    "TYPE": "type",
    "TIMESTAMP": "google.protobuf.Timestamp",
    "DURATION": "google.protobuf.Duration",
}


def _key(key: object) -> str:
    return str(key).lower() if isinstance(key, bool) else str(key)


def _seconds(value: timedelta) -> str:
    microseconds = value // timedelta(microseconds=1)
    whole, rest = divmod(abs(microseconds), 1_000_000)
    fraction = f".{rest:06}".rstrip("0") if rest else ""
    return f"{'-' if microseconds < 0 else ''}{whole}{fraction}s"


def _needed(expression: Expression, rulebase: Rulebase, values: Mapping[str, object]) -> set[str]:
    """Every variable that the value may depend on, down through definitions that are not bound."""
    needed: set[str] = set()
    waiting = set(expression.reads)
    while waiting:
        name = waiting.pop()
        needed.add(name)
        if name in rulebase.definitions and name not in values:
            waiting |= rulebase.definitions[name].when.reads - needed
    return needed


# The facts


@dataclass(frozen=True, slots=True)
class _Said(Calendar):
    """A calendar of which what was bound is said, of any day; None: as the other one says."""

    workday: bool | None = None
    holiday: bool | None = None
    otherwise: Calendar = field(default_factory=Calendar)

    def is_workday(self, day: date) -> bool | None:
        return self.otherwise.is_workday(day) if self.workday is None else self.workday

    def is_holiday(self, day: date) -> bool | None:
        return self.otherwise.is_holiday(day) if self.holiday is None else self.holiday


def _empty(bound: Mapping[str, Bound]) -> Rulebase:
    """A rulebase that declares nothing. Behaviours and scenes are as if they were imported."""
    imported = [name for name in bound if name.partition(".")[0] in ("behaviour", "scene") and "." in name]
    return Rulebase(
        name="",
        label="",
        revision="",
        time_zone=ZoneInfo("UTC"),
        vocabulary=Vocabulary({}, {name: Attribute(name, ValueType.BOOL) for name in imported}, {}, {}, {}),
        tables=Tables({}, {}),
        metrics={},
        definitions={},
        campaigns={},
        policies=Policies(),
    )


def _facts(values: Mapping[str, object], rulebase: Rulebase) -> Facts:
    def space(of: str) -> dict[str, object]:
        return {
            name.removeprefix(f"{of}."): each for name, each in values.items() if name.startswith(f"{of}.")
        }

    metrics, told, sub = space("metric"), cast(dict[str, Truth], space("fact")), space("sub")
    sub |= {name: each for name, each in values.items() if name in rulebase.vocabulary.subscriber}
    place, days, moment, event = space("place"), space("calendar"), values.get("now"), space("event")
    facts = Facts(
        type=cast(str, event.pop("type", None)) or "",
        event=event,
        sub=sub,
        terminal=space("terminal"),
        place=_place(place) if any(each is not None for each in place.values()) else None,
        metric=lambda name: (metrics.get(name), metrics.get(name) is not None),
        now_us=(moment - _EPOCH) // timedelta(microseconds=1) if isinstance(moment, datetime) else 0,
        zone=_zone(values.get("zone")) or rulebase.time_zone,
        peer=space("peer"),
        fact=told.get,
        calendar=_Said(
            workday=cast(Truth, days.get("workday")),
            holiday=cast(Truth, days.get("holiday")),
            otherwise=rulebase.calendar,
        ),
        others=values,
    )
    facts.memo.update((name, cast(Truth, values[name])) for name in rulebase.definitions if name in values)
    return facts


def _place(known: Mapping[str, object]) -> Place:
    """Of a place that is known at all, what is not bound is empty."""
    categories = cast(list[str], known.get("categories") or [])
    return Place(cast(str, known.get("name") or ""), "", tuple(categories))


def _zone(name: object) -> tzinfo | None:
    if not isinstance(name, str):
        return None
    if offset := _ZONE.fullmatch(name):
        minutes = int(offset[2]) * 60 + int(offset[3])
        if minutes < 24 * 60:
            return timezone(timedelta(minutes=minutes if offset[1] == "+" else -minutes))
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise BindingError(
            f"'zone': {name!r} is no time zone; write one like Asia/Shanghai or +08:00"
        ) from None


def _by_cel(expression: Expression, facts: Facts, rulebase: Rulebase) -> object:
    """By CEL's own evaluator alone: definitions too."""
    known: dict[str, Truth] = dict(facts.memo)
    reasons: dict[str, str] = {}

    def value(each: Expression) -> object:
        result = each.evaluate(bound_values(facts, each.reads, rulebase.vocabulary, definition))
        return Unknown(reason(result.reason)) if isinstance(result, Unknown) else result

    def reason(said: str) -> str:
        missing = _MISSING.search(said)
        if missing is None:
            return _STATUS.sub("", said)
        name = missing[1]
        return f"{name} is unknown: {reasons[name]}" if name in reasons else f"{name} is missing"

    def definition(name: str) -> Truth:
        if name not in known:
            truth = value(rulebase.definitions[name].when)
            known[name] = truth if isinstance(truth, bool) else None
            if isinstance(truth, Unknown):
                reasons[name] = truth.reason
        return known[name]

    return value(expression)


__all__ = ["SPACES", "BindingError", "Via", "evaluate", "plain"]
