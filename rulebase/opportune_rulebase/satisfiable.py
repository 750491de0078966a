"""Whether a condition can ever be true: contradictions that a person would see, found by bounds and values.

A condition is taken apart into alternatives, each a set of literals that must hold together. A literal
that compares one thing with constants narrows what that thing may be; when nothing is left the alternative
is impossible. Everything else is taken to be possible, so "no" is certain and "yes" is not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from opportune_rulebase.nodes import Call, Constant, ListLiteral, Node, Opaque, Variable, walk

MAX_ALTERNATIVES = 64
"""A condition with more alternatives is not looked into: no person writes such a contradiction."""

_MIRRORED = {"_<_": "_>_", "_<=_": "_>=_", "_>_": "_<_", "_>=_": "_<=_", "_==_": "_==_", "_!=_": "_!=_"}
_CONTRARY = {"_<_": "_>=_", "_<=_": "_>_", "_>_": "_<=_", "_>=_": "_<_", "_==_": "_!=_", "_!=_": "_==_"}
_PARTS_OF_TIME = {
    "getHours": (0, 23),
    "getMinutes": (0, 59),
    "getSeconds": (0, 59),
    "getDayOfWeek": (0, 6),
    "getMonth": (0, 11),
    "getDate": (1, 31),
    "getDayOfMonth": (0, 30),
    "getDayOfYear": (0, 365),
}

MAX_LITERALS = 200
"""The same for an alternative that is longer."""

Literal = tuple[Node, bool]
"""A node that is no `&&`, `||` or `!`, and whether it must be true or false."""

Alternatives = tuple[tuple[Literal, ...], ...]

Opened = Mapping[tuple[str, bool], Alternatives | None]
"""(Qualified name of a definition, whether it must be true or false) -> its alternatives; None if there are
too many."""


@dataclass(slots=True)
class Possible:
    """What one thing may still be: numbers in [least, most] without `not_`, or one of `values`."""

    least: float = -math.inf
    most: float = math.inf
    values: set[object] | None = None
    not_: set[object] = field(default_factory=set)

    def narrow(self, function: str, constants: tuple[object, ...], *, whole: bool) -> None:
        """Take in that a comparison holds; `whole` for integers."""
        if function in ("@in", "_==_"):
            self.values = set(constants) if self.values is None else self.values & set(constants)
            return
        if function == "_!=_":
            self.not_.update(constants)
            return
        bound = constants[0]
        if not isinstance(bound, int | float):
            return  # texts are not ordered here
        step = 1 if whole else 0
        match function:
            case "_<_":
                self.most = min(self.most, bound - step if whole else math.nextafter(bound, -math.inf))
            case "_<=_":
                self.most = min(self.most, bound)
            case "_>_":
                self.least = max(self.least, bound + step if whole else math.nextafter(bound, math.inf))
            case "_>=_":
                self.least = max(self.least, bound)

    def allows(self, value: object) -> bool:
        """Whether it may be this value."""
        if value in self.not_ or (self.values is not None and value not in self.values):
            return False
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return not number or self.least <= value <= self.most  # type: ignore[operator] # it is a number

    def within(self, other: Possible) -> bool:
        """Whether `other` may be everything that this may be."""
        if self.values is not None:
            return all(other.allows(value) for value in self.values if self.allows(value))
        return (
            other.values is None
            and other.least <= self.least
            and self.most <= other.most
            and not any(map(self.allows, other.not_))
        )

    @property
    def nothing(self) -> bool:
        """Whether no value is left."""
        if self.least > self.most:
            return True
        return self.values is not None and not any(map(self.allows, self.values))


def open_definitions(definitions: Mapping[str, Node]) -> Opened:
    """What definitions come to. `definitions`: name -> condition, each after all that it reads."""
    opened: dict[tuple[str, bool], Alternatives | None] = {}
    for name, condition in definitions.items():
        for positive in (True, False):
            inner = _alternatives(condition, positive, opened)
            # The definition's own literal stays: with it and its contrary nothing is possible.
            own: Literal = (Variable(name, "bool"), positive)
            opened[name, positive] = None if inner is None else _joined(((own,),), inner)
    return opened


def satisfiable(
    conditions: Iterable[Node], opened: Opened, domain: Callable[[str], Possible | None]
) -> bool:
    """Whether all of `conditions` can be true together. False is certain.

    `domain` says what a variable may be at all, by qualified name; None for anything.
    """
    alternatives: Alternatives = ((),)
    for condition in conditions:
        more = _alternatives(condition, True, opened)
        joined = None if more is None else _joined(alternatives, more)
        if joined is None:
            return True
        alternatives = joined
    return any(_possible(each, domain) for each in alternatives)


def conjuncts(node: Node) -> list[Node]:
    """What a condition joins by `&&`; the condition itself if it joins nothing."""
    if isinstance(node, Call) and node.function == "_&&_":
        return [part for operand in node.args for part in conjuncts(operand)]
    return [node]


def _joined(left: Alternatives, right: Alternatives) -> Alternatives | None:
    """Every alternative of one with every one of the other; None if they are too many, or too long."""
    if len(left) * len(right) > MAX_ALTERNATIVES:
        return None
    found = tuple(_once((*one, *other)) for one in left for other in right)
    return None if any(len(each) > MAX_LITERALS for each in found) else found


def _once(literals: tuple[Literal, ...]) -> tuple[Literal, ...]:
    """Without those that a definition which is read twice brings twice: the very same nodes."""
    return tuple({(id(node), positive): (node, positive) for node, positive in literals}.values())


def _alternatives(node: Node, positive: bool, opened: Opened) -> Alternatives | None:
    """The alternatives of a condition; None if they are too many."""
    if isinstance(node, Call) and node.function == "!_":
        return _alternatives(node.args[0], not positive, opened)
    if isinstance(node, Variable) and (node.name, positive) in opened:
        return opened[node.name, positive]
    if isinstance(node, Call) and node.function in ("_&&_", "_||_"):
        together = (node.function == "_&&_") is positive
        found: Alternatives | None = ((),) if together else ()
        for operand in node.args:
            part = _alternatives(operand, positive, opened)
            if part is None or found is None:
                return None
            found = _joined(found, part) if together else (*found, *part)
        return found if found is None or len(found) <= MAX_ALTERNATIVES else None
    return (((node, positive),),)


def _possible(literals: tuple[Literal, ...], domain: Callable[[str], Possible | None]) -> bool:
    things: dict[str, Possible] = {}
    for node, positive in literals:
        if isinstance(node, Constant):
            if node.value is not positive:
                return False
            continue
        for thing, function, constants in comparisons(node, positive):
            name = thing.name if isinstance(thing, Variable) else repr(thing)
            if name not in things:
                things[name] = _known_of(thing, domain)
            things[name].narrow(function, constants, whole=thing.type in ("int", "uint"))
    return not any(each.nothing for each in things.values())


def comparisons(node: Node, positive: bool) -> list[tuple[Node, str, tuple[object, ...]]]:
    """What a literal says of one thing in terms of constants; empty if nothing."""
    if any(isinstance(each, Opaque) for each in walk(node)):
        return []  # two such nodes may look alike and differ
    if isinstance(node, Call) and len(node.args) == 2:
        left, right = node.args
        if node.function in _MIRRORED:
            function = node.function if positive else _CONTRARY[node.function]
            if left.type != right.type or left.type == "dyn":
                return []  # what CEL makes of values of different types is left to CEL
            if left.type == "double" and not positive:
                return []  # for NaN, neither a comparison nor its contrary holds
            if isinstance(right, Constant):
                return [(left, function, (right.value,))]
            if isinstance(left, Constant):
                return [(right, _MIRRORED[function], (left.value,))]
            return []
        if node.function == "@in" and isinstance(right, ListLiteral):
            items = [
                each.value for each in right.items if isinstance(each, Constant) and each.type == left.type
            ]
            if len(items) == len(right.items):
                return [(left, "@in" if positive else "_!=_", tuple(items))]
    return [(node, "_==_", (positive,))] if node.type == "bool" else []


def _known_of(thing: Node, domain: Callable[[str], Possible | None]) -> Possible:
    if isinstance(thing, Variable):
        return domain(thing.name) or Possible()
    if isinstance(thing, Call) and thing.function in _PARTS_OF_TIME and thing.args[0].type == "timestamp":
        # Of a duration these are the whole of it in hours, minutes or seconds.
        least, most = _PARTS_OF_TIME[thing.function]
        return Possible(least, most)
    if isinstance(thing, Call) and thing.function == "size":
        return Possible(least=0)
    return Possible()


__all__ = [
    "MAX_ALTERNATIVES",
    "MAX_LITERALS",
    "Opened",
    "Possible",
    "comparisons",
    "conjuncts",
    "open_definitions",
    "satisfiable",
]
