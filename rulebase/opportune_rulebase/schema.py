"""JSON Schema of the files of a rulebase, for editors: completion, and the plain mistakes while typing.

`check` alone knows whether a rulebase is right: names that meet and expressions are beyond a schema.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from opportune_rulebase.language import FILES, SECTIONS
from opportune_rulebase.shapes import Key

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schemas() -> dict[str, dict[str, Any]]:
    """File name of each schema (`campaigns.schema.json`) -> the schema."""
    return {schema_name(path): _schema(path, name) for path, name in FILES.items()}


def schema_name(path: str) -> str:
    """The schema of a file of a rulebase: `vocabulary.yaml` -> `vocabulary.schema.json`."""
    return f"{path.removesuffix('.yaml').partition('/')[0]}.schema.json"


def schema_text(schema: Mapping[str, Any]) -> str:
    """The schema as it is shipped."""
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def _schema(path: str, name: str) -> dict[str, Any]:
    root: dict[str, Any] = {"$ref": f"#/$defs/{name}"}
    definitions = {each: _mapping(SECTIONS[each]) for each in _needed(name)}
    if name == "campaign":
        definitions["template"] = _template()
        document = {
            "if": {"required": ["template"]},
            "then": {"$ref": "#/$defs/template"},
            "else": {"$ref": "#/$defs/campaign"},
        }
        root = {"anyOf": [{"type": "array", "items": document}, document]}
    return {"$schema": _DIALECT, "title": f"Opportune: {path}", **root, "$defs": definitions}


def _template() -> dict[str, Any]:
    """A campaign without its name, of which nothing need be there."""
    campaign = SECTIONS["campaign"]
    keys = {name: replace(key, required=False) for name, key in campaign.items() if name != "campaign"}
    return _mapping({"template": campaign["campaign"], **keys})


def _mapping(keys: Mapping[str, Key]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            name: {**key.shape.schema, "description": _described(key)} for name, key in keys.items()
        },
    }
    required = [name for name, key in keys.items() if key.required]
    # A campaign may have anything but its name from a template.
    if "like" in keys and len(required) > 1:
        found |= {"if": {"not": {"required": ["like"]}}, "then": {"required": required}}
        required = ["campaign"]
    return found | ({"required": required} if required else {})


def _described(key: Key) -> str:
    return f"{key.text} (default: {key.default.replace('`', '')})" if key.default else key.text


def _needed(name: str) -> list[str]:
    """A section and those below it, each once, in the order in which they are met."""
    found: dict[str, None] = {}
    pending = [name]
    while pending:
        each = pending.pop(0)
        if each not in found:
            found[each] = None
            pending += [ref for key in SECTIONS[each].values() for ref in _refs(key.shape.schema)]
    return list(found)


def _refs(schema: object) -> Iterator[str]:
    if isinstance(schema, Mapping):
        for name, value in schema.items():
            if name == "$ref":
                yield str(value).removeprefix("#/$defs/")
            else:
                yield from _refs(value)
    elif isinstance(schema, list):
        for each in schema:
            yield from _refs(each)


__all__ = ["schema_name", "schema_text", "schemas"]
