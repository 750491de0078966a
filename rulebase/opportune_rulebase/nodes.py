"""The typed tree of an expression: five kinds of node, all frozen values.

`Call` names operators as CEL's checker does (`_&&_`, `_>=_`, `@in`), with the overloads that it chose.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Constant:
    """A literal. `type` is a CEL type name: int, double, bool, string, null_type, bytes, uint."""

    value: object
    type: str


@dataclass(frozen=True, slots=True)
class Variable:
    """A declared variable by its resolved, qualified name."""

    name: str
    type: str


@dataclass(frozen=True, slots=True)
class Call:
    """An operator or function as the checker names it (`_&&_`, `_>=_`, `@in`, `getHours` ...).

    For a member call the receiver is the first of `args`. `overloads` are the overload ids that the
    checker left possible (more than one only for `dyn`).
    """

    function: str
    args: tuple[Node, ...]
    type: str
    overloads: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ListLiteral:
    items: tuple[Node, ...]
    type: str


@dataclass(frozen=True, slots=True)
class Opaque:
    """Anything else (comprehension, map, message, select): left to CEL's own evaluator.

    `reads` are the variables below it. Two opaque nodes may be equal and mean different things.
    """

    kind: str
    type: str
    reads: frozenset[str]


Node = Constant | Variable | Call | ListLiteral | Opaque


def children(node: Node) -> tuple[Node, ...]:
    """The nodes directly below, from left to right."""
    match node:
        case Call():
            return node.args
        case ListLiteral():
            return node.items
    return ()


def walk(node: Node) -> Iterator[Node]:
    """The node and all below it: parents before children, left before right."""
    yield node
    for child in children(node):
        yield from walk(child)


def reads(node: Node) -> frozenset[str]:
    """The qualified variables that the node mentions."""
    names: set[str] = set()
    for each in walk(node):
        if isinstance(each, Variable):
            names.add(each.name)
        elif isinstance(each, Opaque):
            names |= each.reads
    return frozenset(names)
