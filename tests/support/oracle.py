"""What a rulebase means by CEL's own evaluator, without any engine: slow and plain."""

from __future__ import annotations

from functools import lru_cache

from opportune_rulebase.engine import Facts, Truth
from opportune_rulebase.expressions import Expression, Unknown
from opportune_rulebase.intervals import atom_truth, structure_truth
from opportune_rulebase.model import Rulebase
from opportune_rulebase.nodes import Node
from opportune_rulebase.variables import bindings


def naive_value(rulebase: Rulebase, expression: Expression, facts: Facts) -> object:
    """The value of any expression, None for unknown."""
    if expression.type == "bool":
        return naive_truth(rulebase, expression, facts)
    result = expression.evaluate(_bindings(rulebase, expression, facts))
    return None if isinstance(result, Unknown) else result


def naive_truth(rulebase: Rulebase, expression: Expression, facts: Facts) -> Truth:
    """The truth of a boolean expression: CEL for each atom, three-valued logic above."""
    bound = _bindings(rulebase, expression, facts)

    def atom(node: Node) -> Truth:
        return atom_truth(
            _part(expression, id(node), node),
            bound,
            facts.metric,
            lambda name: rulebase.metrics[name].bound,
        )

    return structure_truth(expression.tree, atom)


def naive_match(rulebase: Rulebase, facts: Facts) -> list[str]:
    """Names of the campaigns that the event triggers."""
    return [
        name
        for name, campaign in sorted(rulebase.campaigns.items())
        if facts.type in campaign.on
        and (campaign.when is None or naive_truth(rulebase, campaign.when, facts) is True)
    ]


@lru_cache(maxsize=20_000)
def _part(expression: Expression, _identity: int, node: Node) -> Expression:
    """Equal nodes of one tree may differ (see `Opaque`), so the node's identity is part of the key."""
    return expression.part(node)


def _bindings(rulebase: Rulebase, expression: Expression, facts: Facts) -> dict[str, object]:
    def definition(name: str) -> Truth:
        return naive_truth(rulebase, rulebase.definitions[name].when, facts)

    return bindings(facts, expression.reads, rulebase.vocabulary, definition)
