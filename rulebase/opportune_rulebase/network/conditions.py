"""A condition, taken apart into tests that must all hold, each on one thing that can be looked up.

A `when` is split at its top-level `&&` (and a negated one at `||`); behaviours and scenes on the way are
replaced by what they are made of, because a definition is true exactly when its own conditions are. So
the index works on the few variables of the vocabulary, whatever number of definitions stands between.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from opportune_rulebase.expressions import Expression
from opportune_rulebase.intervals import is_structure
from opportune_rulebase.model import Definition
from opportune_rulebase.nodes import Call, Constant, ListLiteral, Node, Opaque, Variable, reads, walk

_MIRRORED = {"_<_": "_>_", "_<=_": "_>=_", "_>_": "_<_", "_>=_": "_<=_", "_==_": "_==_", "_!=_": "_!=_"}
_ORDERED = frozenset({"int", "double", "string"})
# How dear it is to look a key up, in comparison with an attribute of the event.
_COST_CALL, _COST_FOREIGN = 2, 30
_COST_OF_SPACE = {"now": 10, "metric": 6, "behaviour": 6, "scene": 6}


@dataclass(frozen=True, slots=True)
class Condition:
    """An atom of `owner` that must be true (`positive`) or false, for certain."""

    node: Node
    owner: Expression
    positive: bool


@dataclass(frozen=True, slots=True)
class Test:
    """A condition as a question about the value of `key`.

    `function` is a comparison (`_<_` ...) with the one constant, `@in` among constants, or `is` (the key
    is boolean and must be `constants[0]`).
    """

    key: Node
    function: str
    constants: tuple[bool | int | float | str, ...]
    condition: Condition


def conditions(expression: Expression, definitions: Mapping[str, Definition]) -> list[Condition]:
    """Conditions that hold together exactly when `expression` is true."""
    found: dict[tuple[int, bool], Condition] = {}
    opened: set[tuple[str, bool]] = set()

    def split(node: Node, owner: Expression, positive: bool) -> None:
        if isinstance(node, Variable) and node.name in definitions:
            # Each definition is opened once: repeating it adds nothing, and could grow without bound.
            if (node.name, positive) not in opened:
                opened.add((node.name, positive))
                when = definitions[node.name].when
                split(when.tree, when, positive)
        elif isinstance(node, Call) and node.function == "!_":
            split(node.args[0], owner, not positive)
        elif (
            isinstance(node, Call)
            and is_structure(node)
            and node.function == ("_&&_" if positive else "_||_")
        ):
            for operand in node.args:
                split(operand, owner, positive)
        elif not (isinstance(node, Constant) and node.value is positive):
            found[id(node), positive] = Condition(node, owner, positive)

    split(expression.tree, expression, True)
    return list(found.values())


def as_test(condition: Condition) -> Test | None:
    """The condition as a question about one key; None if it is not one.

    Structures are not (they are alternatives, not one question), nor is what CEL alone can read: two
    such nodes may look alike and differ.
    """
    node = condition.node
    if (
        is_structure(node)
        or isinstance(node, Constant)
        or any(isinstance(each, Opaque) for each in walk(node))
    ):
        return None
    if isinstance(node, Call) and len(node.args) == 2:
        for key, function, constants in _questions(node):
            return Test(key, function, constants, condition)
    return Test(node, "is", (condition.positive,), condition)


def _questions(node: Call) -> Iterator[tuple[Node, str, tuple[bool | int | float | str, ...]]]:
    left, right = node.args
    if node.function in _MIRRORED and left.type == right.type and left.type in _ORDERED:
        if isinstance(right, Constant):
            yield left, node.function, _values((right,))
        elif isinstance(left, Constant):
            yield right, _MIRRORED[node.function], _values((left,))
    elif node.function == "@in" and isinstance(right, ListLiteral) and right.type == f"list<{left.type}>":
        items = tuple(item for item in right.items if isinstance(item, Constant))
        if len(items) == len(right.items) and left.type in ("int", "string"):
            yield left, "@in", _values(items)


def _values(constants: tuple[Constant, ...]) -> tuple[bool | int | float | str, ...]:
    return tuple(each.value for each in constants if isinstance(each.value, bool | int | float | str))


def cost(node: Node) -> int:
    """About how dear it is to evaluate `node`; an attribute of the event or the subscriber is 1."""
    total = 1
    for each in walk(node):
        if isinstance(each, Call):
            total += _COST_CALL
        elif isinstance(each, Opaque):
            total += _COST_FOREIGN
    return total + sum(_COST_OF_SPACE.get(name.partition(".")[0], 0) for name in reads(node))
