"""Shapes of values in the rulebase language: as JSON Schema, and in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from opportune_rulebase.model import ValueType


@dataclass(frozen=True, slots=True)
class Shape:
    """What a value looks like: as JSON Schema, and in words."""

    schema: Mapping[str, Any]
    words: str


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a mapping. `text` is one line for people; `default` is in words, "" if there is none."""

    shape: Shape
    text: str
    required: bool = False
    default: str = ""


def one_of(*values: str) -> Shape:
    """One of a few words."""
    return Shape({"enum": list(values)}, " or ".join(f"`{value}`" for value in values))


def whole(least: int, most: int) -> Shape:
    """A whole number within bounds."""
    return Shape({"type": "integer", "minimum": least, "maximum": most}, f"{least} to {most}")


def listed(shape: Shape) -> Shape:
    """A list; a single value stands for a list of one."""
    return Shape(
        {"anyOf": [shape.schema, {"type": "array", "items": shape.schema}]}, f"{shape.words}, or a list"
    )


def section(name: str) -> Shape:
    """A mapping with keys of its own."""
    return Shape({"$ref": f"#/$defs/{name}"}, f"[{name}](#{name.replace('_', '-')})")


def by_name(shape: Shape) -> Shape:
    """A mapping from names that are being declared."""
    return Shape({"type": "object", "additionalProperties": shape.schema}, f"name: {shape.words}")


def several(shape: Shape) -> Shape:
    """A list, even of one."""
    return Shape({"type": "array", "items": shape.schema}, f"list of {shape.words}")


def either(*shapes: Shape) -> Shape:
    """One of several shapes."""
    return Shape({"anyOf": [each.schema for each in shapes]}, "; or ".join(each.words for each in shapes))


TEXT: Final = Shape({"type": ["string", "number"]}, "text")
NAME: Final = Shape({"type": "string", "pattern": "^[a-z][a-z0-9_-]{0,63}$"}, "name")
FLAG: Final = Shape({"type": "boolean"}, "`true` or `false`")
NUMBER: Final = Shape({"type": "number"}, "number")
DURATION: Final = Shape({"type": "string", "pattern": "^[0-9]{1,9}[smhd]$"}, "duration")
SHARE: Final = Shape(
    {"type": "string", "pattern": r"^(100(\.00?)?|[1-9]?[0-9](\.[0-9]{1,2})?) ?%$"}, "share such as `2.5%`"
)
DATE: Final = Shape({"type": "string", "pattern": "^20[0-9]{2}-[0-9]{2}-[0-9]{2}$"}, "date")
CLOCK: Final = Shape(
    {"type": "string", "pattern": "^([01][0-9]|2[0-3]):[0-5][0-9]$|^24:00$"}, "time of day"
)
EXPRESSION: Final = Shape({"type": ["string", "boolean", "number"]}, "expression")
CONDITION: Final = Shape({"type": ["string", "boolean"]}, "condition")
ANY: Final = Shape({}, "any value")
EVENT_TYPE: Final = Shape(NAME.schema, "event type")
EVENT_TYPES: Final = listed(EVENT_TYPE)
ATTRIBUTE_NAME: Final = Shape(
    {"type": "string", "pattern": r"^event\.[a-z][a-z0-9_]*$"}, "`event.ATTRIBUTE`"
)
TYPE: Final = Shape(
    {"enum": [*ValueType, "map<string,bool>"]}, ", ".join(f"`{each}`" for each in ValueType)
)
LABEL: Final = Key(TEXT, "for people, in any language", default="the name")
INSTANT: Final = Shape({"type": "string"}, "instant with its offset")
INSTANT_OR_AFTER: Final = either(INSTANT, DURATION)
ATTRIBUTES: Final = Shape({"type": "object"}, "name: value")
EVENT: Final = Shape(
    {"type": "object", "required": ["type"], "properties": {"type": NAME.schema}}, "`type`, attributes"
)
STEP: Final = either(EVENT_TYPES, section("step"))
