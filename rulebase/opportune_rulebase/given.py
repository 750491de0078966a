"""Values of variables as JSON says them: their types, and whether they fit what is declared."""

from __future__ import annotations

import base64
import binascii
import difflib
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import cast

from opportune_rulebase.errors import Position
from opportune_rulebase.expressions import RESERVED, Expression, Scope, Unknown
from opportune_rulebase.model import Vocabulary
from opportune_rulebase.variables import declared

SPACES = frozenset(
    (
        *("event", "first", "previous", "sub", "peer", "terminal", "place", "metric", "fact", "behaviour"),
        *("scene", "calendar"),
    )
)
"""Names under which an object holds variables of that space."""

_TRUTHS = ("fact", "behaviour", "scene")
_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
_DEEPEST = 30
# What CEL's binding takes only where the type is declared.
_NOT_DYN = ("uint", "timestamp", "duration")
# CEL's binding takes the ends of the calendar for the infinite past and future.
_ENDS = (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))


class BindingError(ValueError):
    """Values that cannot be bound: the message names the first that is wrong, and says why."""


@dataclass(frozen=True, slots=True)
class Bound:
    """A CEL type name and a value as CEL's binding takes it; None for missing."""

    type: str
    value: object


def flat(given: Mapping[str, object]) -> Iterator[tuple[str, Bound]]:
    """Qualified names with their values. Raises BindingError."""
    seen: set[str] = set()
    for name, value in given.items():
        inside = name in SPACES
        if inside and (not isinstance(value, Mapping) or _is_form(value)):
            raise BindingError(f"{name!r} must be an object: names with their values")
        members = cast(Mapping[str, object], value) if inside else {"": value}
        for plain_name, member in members.items():
            qualified = f"{name}.{plain_name}" if inside else name
            if not _NAME.fullmatch(qualified) or RESERVED & set(qualified.split(".")):
                raise BindingError(f"{qualified!r} cannot be the name of a variable")
            if qualified in seen:
                raise BindingError(f"{qualified!r} is bound twice")
            seen.add(qualified)
            yield qualified, _inferred(member, qualified, 0)


def _is_form(value: Mapping[str, object]) -> bool:
    return len(value) == 1 and next(iter(value)).startswith("$")


def _inferred(value: object, name: str, depth: int) -> Bound:
    if depth > _DEEPEST:
        raise BindingError(f"{name!r} is nested too deeply")
    match value:
        case None:
            return Bound("dyn", None)
        case bool():
            return Bound("bool", value)
        case int():
            return _integer(value, "int", name)
        case float():
            return Bound("double", value)
        case str():
            return Bound("string", _text(value, name))
        case list():
            items = [_inferred(each, name, depth + 1) for each in value]
            return Bound(f"list<{_common(items, name)}>", [each.value for each in items])
        case dict() if _is_form(value):
            ((form, said),) = value.items()
            return _special(form, said, name, depth)
        case dict():
            entries = {_text(key, name): _inferred(each, name, depth + 1) for key, each in value.items()}
            type_ = f"map<string, {_common(entries.values(), name)}>"
            return Bound(type_, {key: each.value for key, each in entries.items()})
    raise BindingError(f"{name!r} is no JSON value")


def _common(items: Collection[Bound], name: str) -> str:
    types = {"dyn" if each.value is None else each.type for each in items}
    if len(types) == 1:
        return types.pop()
    if any(special in each for each in types for special in _NOT_DYN):
        raise BindingError(
            f"{name!r} holds values of several types; then none may be {', '.join(_NOT_DYN)}"
        )
    return "dyn"


def _text(value: str, name: str) -> str:
    if any(0xD800 <= ord(character) <= 0xDFFF for character in value):
        raise BindingError(f"{name!r} is not valid Unicode: it has a lone surrogate")
    return value


def _integer(value: object, type_: str, name: str) -> Bound:
    lowest, highest = (0, 2**64 - 1) if type_ == "uint" else (-(2**63), 2**63 - 1)
    if isinstance(value, str) and re.fullmatch(r"-?\d{1,20}", value, re.ASCII):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= highest:
        raise BindingError(f"{name!r} is no {type_} of 64 bits")
    return Bound(type_, value)


def _special(form: str, said: object, name: str, depth: int) -> Bound:
    """A value said by a form such as {"$duration": "90s"}."""
    match form, said:
        case (("$timestamp" | "$duration"), str()):
            type_ = form[1:]
            value = _converter(type_).evaluate({"text": _text(said, name)})
            if not isinstance(value, Unknown) and value not in _ENDS:
                return Bound(type_, value)
        case (("$int" | "$uint"), _):
            return _integer(said, form[1:], name)
        case "$double", bool():
            pass
        case "$double", int() | float() | str():
            try:
                return Bound("double", float(said))
            except (ValueError, OverflowError):
                pass
        case "$bytes", str():
            try:
                return Bound("bytes", base64.b64decode(said, validate=True))
            except (binascii.Error, ValueError):
                pass
        case "$missing", str() if depth == 0:
            return Bound(said, None)
    raise BindingError(f"{name!r}: {form} cannot be said so, or not here")


@cache
def _converter(type_: str) -> Expression:
    return Scope({"text": "string"}).compile(f"{type_}(text)", Position(type_), expect=type_)


def own_types(bound: Mapping[str, Bound]) -> dict[str, str]:
    """The types of bound names where no rulebase declares them. Built-in names have their own."""
    built_in = declared(Vocabulary({}, {}, {}, {}, {}), {}, ())
    return {
        name: "bool" if name.partition(".")[0] in _TRUTHS and "." in name else built_in.get(name, each.type)
        for name, each in bound.items()
    }


def fitted(name: str, bound: Bound, types: Mapping[str, str]) -> object:
    """The value as one of the declared type; None if it is missing."""
    type_ = types.get(name)
    if type_ is None:
        close = difflib.get_close_matches(name, types, n=1)
        raise BindingError(f"unknown name {name!r}" + (f": did you mean {close[0]!r}?" if close else ""))
    value = bound.value
    if value is None and bound.type in ("dyn", type_):
        return None
    if bound.type == type_:
        return value
    if type_ == "double" and bound.type == "int":
        return float(cast(int, value))
    if type_ == "timestamp" and isinstance(value, str):
        return _special("$timestamp", value, name, 0).value
    if value in ([], {}) and bound.type.partition("<")[0] == type_.partition("<")[0]:
        return value  # empty: of any type
    raise BindingError(f"{name!r} is of type {type_}, this is {bound.type}")


__all__ = ["SPACES", "BindingError", "Bound", "fitted", "flat", "own_types"]
