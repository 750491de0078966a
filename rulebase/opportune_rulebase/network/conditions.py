"""A condition, taken apart into tests that must all hold, each on one thing that can be looked up.

A `when` is split at its top-level `&&` (and a negated one at `||`). A behaviour or scene on the way stays
one condition, with those that it is made of beside it: a definition is true exactly when its own conditions
all are. So campaigns are told apart by the few variables of the vocabulary, whatever number of definitions
stands between.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

from opportune_rulebase.expressions import Expression
from opportune_rulebase.intervals import is_structure
from opportune_rulebase.model import Definition
from opportune_rulebase.nodes import Call, Constant, ListLiteral, Node, Opaque, Variable, reads, walk

_MIRRORED = {"_<_": "_>_", "_<=_": "_>=_", "_>_": "_<_", "_>=_": "_<=_", "_==_": "_==_", "_!=_": "_!=_"}
_ORDERED = frozenset({"int", "double", "string"})
# How dear it is to look a key up, in comparison with an attribute of the event.
_COST_CALL, _COST_FOREIGN = 2, 30
_COST_OF_SPACE = {"now": 10, "metric": 6, "behaviour": 6, "scene": 6, "fact": 6, "calendar": 10}
# A definition made of more than this is asked as a whole, and only so many of its conditions are tested
# before: work and source stay in proportion to the text, however many campaigns name the definition.
_OPENED = 12


@dataclass(frozen=True, slots=True)
class Test:
    """A condition as a question about the value of `key`.

    `function` is a comparison (`_<_` ...) with the one constant, `@in` among constants, or `is` (the key
    is boolean and must be `constants[0]`). Tests with the same `name` ask about the same key. A test that
    is not `positive` must fail, for certain. `cost` is about how dear it is to look the key up; an
    attribute of the event or the subscriber is 1.
    """

    name: str
    key: Node
    owner: Expression
    function: str
    constants: tuple[bool | int | float | str, ...]
    positive: bool
    cost: int


@dataclass(frozen=True, slots=True, eq=False)
class Condition:
    """A node of `owner` that must be true (`positive`) or false, for certain. Compared by identity.

    For a definition, `opened` are conditions that it implies; together they are all of it if `whole`.
    Any other condition has no `opened`; it may be a `test`.
    """

    node: Node
    owner: Expression
    positive: bool
    test: Test | None = None
    opened: tuple[Condition, ...] = ()
    whole: bool = False

    @property
    def parts(self) -> tuple[Condition, ...]:
        """What can be tested of it: conditions that it implies and that are not definitions."""
        return self.opened or (self,)

    def follows_from(self, held: Set[Condition]) -> bool:
        """Whether it is true if all of `held` are."""
        return self in held or (self.whole and held >= set(self.opened))


Opened = Mapping[tuple[str, bool], tuple[tuple[Condition, ...], bool]]
"""(Definition, whether it must be true or false) -> conditions that it implies, whether they are all."""


def open_definitions(definitions: Mapping[str, Definition]) -> Opened:
    """What each definition is made of, down to variables. `definitions` are in dependency order."""
    opened: dict[tuple[str, bool], tuple[tuple[Condition, ...], bool]] = {}
    for name, definition in definitions.items():
        for positive in (True, False):
            found = conditions(definition.when, opened, positive=positive)
            parts = dict.fromkeys(part for each in found for part in each.parts)
            whole = len(parts) <= _OPENED and all(each.whole or not each.opened for each in found)
            tests = [part for part in parts if whole or part.test is not None]
            opened[name, positive] = tuple(tests[:_OPENED]), whole
    return opened


def conditions(expression: Expression, opened: Opened, *, positive: bool = True) -> list[Condition]:
    """Conditions that hold together exactly when `expression` is true (or false)."""
    return list(dict(_conditions(expression.tree, expression, opened, positive)).values())


def _conditions(
    node: Node, owner: Expression, opened: Opened, positive: bool
) -> Iterator[tuple[tuple[object, bool], Condition]]:
    """By what makes two of them the same."""
    if isinstance(node, Call) and node.function == "!_":
        yield from _conditions(node.args[0], owner, opened, not positive)
    elif (
        isinstance(node, Call) and is_structure(node) and node.function == ("_&&_" if positive else "_||_")
    ):
        for operand in node.args:
            yield from _conditions(operand, owner, opened, positive)
    elif isinstance(node, Variable) and (node.name, positive) in opened:
        key = (node.name, positive)
        yield key, Condition(node, owner, positive, None, *opened[key])
    elif not (isinstance(node, Constant) and node.value is positive):
        yield (id(node), positive), Condition(node, owner, positive, _test(node, owner, positive))


def _test(node: Node, owner: Expression, positive: bool) -> Test | None:
    """The condition as a question about one key; None if it is not one.

    Structures are not (they are alternatives, not one question), nor is what CEL alone can read: two
    such nodes may look alike and differ.
    """
    if (
        is_structure(node)
        or isinstance(node, Constant)
        or any(isinstance(each, Opaque) for each in walk(node))
    ):
        return None
    if isinstance(node, Call) and len(node.args) == 2:
        for key, function, constants in _questions(node):
            return Test(_name(key), key, owner, function, constants, positive, cost(key))
    return Test(_name(node), node, owner, "is", (positive,), True, cost(node))


def _name(key: Node) -> str:
    """By text, because 0.0 equals -0.0 and yet they divide differently. `is` on a comparison's own key
    never meets a comparison of it: the types differ."""
    return key.name if isinstance(key, Variable) else repr(key)


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


class Odds:
    """How likely tests are to hold. A guess, on which only speed depends.

    The constants with which rules compare a key stand in for the values that it takes: who writes
    `sub.age < 60` beside 18, 25, 30 and 40 expects most subscribers to pass.
    """

    def __init__(self, tests: Iterable[Test]) -> None:
        values: dict[str, set[bool | int | float | str]] = {}
        for test in tests:
            values.setdefault(test.name, set()).update(test.constants)
        self._values: dict[str, Sequence[int | float | str]] = {
            name: sorted(each) for name, each in values.items()
        }

    def of(self, test: Test) -> float:
        """Between 0 and 1, both excluded."""
        values = self._values[test.name]
        match test.function:
            case "is":
                return 0.5
            case "_==_" | "_!=_" | "@in":
                among = len(test.constants) / (len(values) + 1)
                odds = 1 - among if test.function == "_!=_" else among
            case _:
                below = (bisect_left(values, test.constants[0]) + 0.5) / len(values)
                odds = below if test.function in ("_<_", "_<=_") else 1 - below
        odds = odds if test.positive else 1 - odds
        return min(0.98, max(0.02, odds))

    def price(self, condition: Condition) -> float:
        """What asking for a condition costs for each candidate that it rules out: the less, the sooner."""
        passes, price = 0.5, cost(condition.node)
        tests = [part.test for part in condition.parts if part.test is not None]
        if tests:
            passes = math.prod(map(self.of, tests))
        if condition.opened:
            price += sum(test.cost for test in tests)
        return price / (1 - passes)


__all__ = ["Condition", "Odds", "Opened", "Test", "conditions", "cost", "open_definitions"]
