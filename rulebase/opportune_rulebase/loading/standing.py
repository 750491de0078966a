"""Expressions about a subscriber as such, whatever event is at hand: suppressions, channel preference."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from opportune_rulebase.expressions import Expression
from opportune_rulebase.loading.conditions import Conditions
from opportune_rulebase.loading.problems import Code, Report
from opportune_rulebase.loading.source import ScalarNode
from opportune_rulebase.model import Definition

STANDING_READS: Final = (
    *("sub", "terminal", "metric", "fact", "behaviour", "scene", "calendar", "now", "zone"),
)


def compile_standing(
    node: ScalarNode | None,
    what: str,
    why_not: str,
    conditions: Conditions,
    definitions: Mapping[str, Definition],
    report: Report,
    *,
    expect: Collection[str] = ("bool",),
) -> Expression | None:
    """The expression, which may not read the event, its place or its peer, nor by way of definitions.

    None if there is none or it is wrong; then it is in the report, where `why_not` is the hint for what a
    definition reads.
    """
    expression = conditions.compile(node, what, expect=expect, may_read=STANDING_READS)
    if expression is None:
        return None
    known: set[str] = set()
    waiting = [(name, name) for name in sorted(expression.reads & definitions.keys())]
    while waiting:
        name, first = waiting.pop()
        for read in sorted(definitions[name].when.reads - known):
            known.add(read)
            if read in definitions:
                waiting.append((read, first))
            elif read.partition(".")[0] not in STANDING_READS:
                message = f"{what} cannot read {read} (by way of {first})"
                report.error(expression.position, Code.NOT_ALLOWED_HERE, message, why_not)
    return expression
