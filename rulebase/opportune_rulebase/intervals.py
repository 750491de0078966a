"""Figures that are only partly known: what a comparison with an uncovered metric means.

The rule, for every engine. `Facts.metric` gives (value, covered). A covered metric is exact; its value may
be None, which is a minimum, maximum or latest value of nothing, and missing. Of one that is not covered its
`bound` is known: LOWER, it lies in [value, infinity); UPPER, in (-infinity, value]; NONE, nothing is known.
An **atom** is a leaf of an expression's boolean structure, that is of `&&`, `||`, `!` and a `?:` of
booleans, from the root downwards (`atoms`). In an atom that is a comparison with a bare ``metric.x``
on one side, and on the other something of the same type that can be evaluated without uncovered metrics,
the comparison is True if it holds for the whole interval, False if for none of it, else unknown. Everywhere
else an uncovered metric is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeGuard

from opportune_rulebase.engine import Truth
from opportune_rulebase.expressions import Expression
from opportune_rulebase.model import Bound
from opportune_rulebase.nodes import Call, Node, Variable

_MIRRORED = {"_<_": "_>_", "_<=_": "_>=_", "_>_": "_<_", "_>=_": "_<=_", "_==_": "_==_", "_!=_": "_!=_"}
_STRUCTURE = ("_&&_", "_||_", "!_", "_?_:_")

MetricReader = Callable[[str], tuple[object, bool]]
"""Plain metric name -> (value, covered), as `Facts.metric`."""


def is_structure(node: Node) -> bool:
    """Whether `node` only joins other booleans."""
    return isinstance(node, Call) and node.type == "bool" and node.function in _STRUCTURE


def atoms(tree: Node) -> Iterator[Node]:
    """The atoms of a boolean expression, from left to right."""
    if is_structure(tree):
        assert isinstance(tree, Call)  # noqa: S101 - for the type checker
        for operand in tree.args:
            yield from atoms(operand)
    else:
        yield tree


def metric_sides(node: Node) -> tuple[tuple[str, str, Node], ...]:
    """The bare metrics that `node` compares: (plain metric name, function with it on the left, other side).

    Empty if `node` is no such comparison; two if a bare metric stands on both sides.
    """
    if not isinstance(node, Call) or node.function not in _MIRRORED:
        return ()
    left, right = node.args
    if left.type != right.type:  # dyn, whose comparisons are left to CEL
        return ()
    sides = ((left, node.function, right), (right, _MIRRORED[node.function], left))
    return tuple(
        (side.name.removeprefix("metric."), function, other)
        for side, function, other in sides
        if isinstance(side, Variable) and side.name.startswith("metric.")
    )


def bounded(bound: Bound, function: str, value: int | float, other: int | float) -> Truth:
    """``x function other`` for an x of which `value` is only the lower or upper bound."""
    if bound is Bound.NONE:
        return None
    # Seen from an upper bound the line runs the other way.
    upper = bound is Bound.UPPER
    within, beyond = (value <= other, value < other) if upper else (value >= other, value > other)
    match _MIRRORED[function] if upper else function:
        case "_>=_":
            return True if within else None
        case "_>_" | "_!=_":
            return True if beyond else None
        case "_<_":
            return False if within else None
        case "_<=_" | "_==_":
            return False if beyond else None
    return None


def atom_truth(
    atom: Expression,
    bindings: Mapping[str, object],
    metric: MetricReader,
    bound: Callable[[str], Bound],
    part: Callable[[Expression, Node], Expression] = Expression.part,
) -> Truth:
    """The truth of one atom (`Expression.part` of a node from `atoms`) by CEL's own evaluator.

    `bindings` leave out uncovered metrics (`variables.bindings` does). `bound` is asked by plain
    metric name. `part` may be an `Expression.part` that remembers, for it compiles.
    """
    result = atom.evaluate(bindings)
    if isinstance(result, bool):
        return result
    for name, function, other in metric_sides(atom.tree):
        value, covered = metric(name)
        if not covered and is_number(value):
            against = part(atom, other).evaluate(bindings)
            if is_number(against):
                truth = bounded(bound(name), function, value, against)
                if truth is not None:
                    return truth
    return None


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a figure, or what it is compared with, has an order."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def structure_truth(tree: Node, atom: Callable[[Node], Truth]) -> Truth:
    """The truth of a boolean structure, given that of its atoms. CEL's commutative logic."""
    if not is_structure(tree):
        return atom(tree)
    assert isinstance(tree, Call)  # noqa: S101 - for the type checker
    if tree.function == "!_":
        value = structure_truth(tree.args[0], atom)
        return None if value is None else not value
    if tree.function in ("_&&_", "_||_"):
        decisive = tree.function == "_||_"
        values = [structure_truth(operand, atom) for operand in tree.args]
        return decisive if decisive in values else None if None in values else not decisive
    condition, then, otherwise = tree.args
    chosen = structure_truth(condition, atom)
    return None if chosen is None else structure_truth(then if chosen else otherwise, atom)


__all__ = [
    "MetricReader",
    "atom_truth",
    "atoms",
    "bounded",
    "is_number",
    "is_structure",
    "metric_sides",
    "structure_truth",
]
