"""Content with variables in double braces: `Dear {{sub.brand_name}} customer`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import islice
from typing import Final

from opportune_rulebase.expressions import Expression
from opportune_rulebase.loading.conditions import Conditions
from opportune_rulebase.loading.fields import is_identifier
from opportune_rulebase.loading.problems import Code, Report, clip
from opportune_rulebase.loading.source import ScalarNode
from opportune_rulebase.model import Template

MAX_CONTENT: Final = 4_000
MAX_VARIABLES: Final = 50
_SPACES: Final = ("sub", "event", "metric", "terminal", "place")
_PRINTABLE: Final = ("string", "int", "double")
_VARIABLE = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
_LITERAL_SPACES: Final = ("product", "campaign")


def read_template(
    node: ScalarNode, literals: Mapping[str, str], conditions: Conditions, report: Report
) -> Template:
    """A checked template; errors go to `report`.

    `literals` are the `product.*` and `campaign.*` names, which are put in as text at once; an empty
    one is an error where it is used.
    """
    text = node.text
    if len(text) > MAX_CONTENT:
        message = f"the content has {len(text)} characters; at most {MAX_CONTENT} are allowed"
        report.error(node.at, Code.TOO_LARGE, message, "shorten it")
        return Template("", node.at, ())
    variables = list(islice(_VARIABLE.finditer(text), MAX_VARIABLES + 1))
    if len(variables) > MAX_VARIABLES:
        message = f"the content has more than {MAX_VARIABLES} variables"
        report.error(node.at, Code.TOO_MANY, message, "shorten it")
        return Template("", node.at, ())
    parts: list[str | Expression] = []
    end = 0
    for match in variables:
        _literal(text[end : match.start()], end, node, parts, report)
        part = _variable(match, node, literals, conditions, report)
        if isinstance(part, str):
            _append(part, parts)
        elif part is not None:
            parts.append(part)
        end = match.end()
    _literal(text[end:], end, node, parts, report)
    return Template(text, node.at, tuple(parts))


def _literal(
    text: str, offset: int, node: ScalarNode, parts: list[str | Expression], report: Report
) -> None:
    for brace in ("{{", "}}"):
        index = text.find(brace)
        if index >= 0:
            report.error(
                node.locate(offset + index),
                Code.BAD_TEMPLATE,
                f"{brace!r} without its partner",
                "write a variable as {{sub.name}}",
            )
    _append(text, parts)


def _append(text: str, parts: list[str | Expression]) -> None:
    if parts and isinstance(parts[-1], str):
        parts[-1] += text
    elif text:
        parts.append(text)


def _variable(
    match: re.Match[str],
    node: ScalarNode,
    literals: Mapping[str, str],
    conditions: Conditions,
    report: Report,
) -> str | Expression | None:
    name = match[1].strip()
    space, _, rest = name.partition(".")
    if space in _LITERAL_SPACES:
        if name not in literals:
            report.unknown(node.locate(match.start()), "variable", name, literals)
        elif not literals[name]:
            message = f"{name!r} is used here, but the {space} has no {rest}"
            report.error(
                node.locate(match.start()), Code.BAD_TEMPLATE, message, f"give the {space} a {rest}"
            )
        return literals.get(name, "")
    if space not in _SPACES or not is_identifier(rest):
        report.error(
            node.locate(match.start()),
            Code.BAD_TEMPLATE,
            f"{clip(match[0])!r} is not a variable that content may show",
            f"use one name of {', '.join(f'{each}.*' for each in (*_SPACES, *_LITERAL_SPACES))}",
        )
        return None
    start = match.start(1) + len(match[1]) - len(match[1].lstrip())
    return conditions.compile_text(name, node, start, f"{name!r} in content", expect=_PRINTABLE)
