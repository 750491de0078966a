"""Three-valued logic as plain implications, which is all that durable_rules chains soundly.

Every boolean thing `x` gets two literals: "x is known true" and "x is known false". Unknown is neither.
With these, CEL's logic (Kleene's) is monotone: `a && b` is true by both, false by either; `!a` swaps the
two. So no rule ever asks for the absence of a fact, and the order of derivation does not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from opportune_rulebase.intervals import is_structure
from opportune_rulebase.nodes import Call, Constant, Node


class Literal(NamedTuple):
    """`key` is known to be `truth`. A key is an atom's, a definition's or an inner node's name."""

    key: str
    truth: bool


@dataclass(frozen=True, slots=True)
class All:
    """True when every part is; with no part, always."""

    parts: tuple[Formula, ...]


@dataclass(frozen=True, slots=True)
class Some:
    """True when one part is; with no part, never."""

    parts: tuple[Formula, ...]


Formula = Literal | All | Some


@dataclass(frozen=True, slots=True)
class Clause:
    """`head` follows from all of `body`. An empty body always holds."""

    head: Literal
    body: tuple[Literal, ...]


ALWAYS = All(())
NEVER = Some(())


def formula(node: Node, truth: bool, leaf: Callable[[Node, bool], Formula]) -> Formula:
    """The monotone formula for "`node` is known to be `truth`".

    `leaf` gives that of an atom (`intervals.atoms`) that is not a constant. ALWAYS and NEVER stand in
    no larger formula.
    """
    if isinstance(node, Constant) and isinstance(node.value, bool):
        return ALWAYS if node.value == truth else NEVER
    if not is_structure(node):
        return leaf(node, truth)
    match node:
        case Call(function="!_", args=(child,)):
            return formula(child, not truth, leaf)
        case Call(function="_&&_" | "_||_" as operator, args=args):
            parts = [formula(child, truth, leaf) for child in args]
            return _all(parts) if (operator == "_&&_") == truth else _some(parts)
        case Call(args=(condition, then, otherwise)):
            first = _all([formula(condition, True, leaf), formula(then, truth, leaf)])
            second = _all([formula(condition, False, leaf), formula(otherwise, truth, leaf)])
            return _some([first, second])
    raise AssertionError(f"structure without a formula: {node}")


def _all(parts: Sequence[Formula]) -> Formula:
    if NEVER in parts:
        return NEVER
    rest = tuple(part for part in parts if part != ALWAYS)
    return rest[0] if len(rest) == 1 else All(rest)


def _some(parts: Sequence[Formula]) -> Formula:
    if ALWAYS in parts:
        return ALWAYS
    rest = tuple(part for part in parts if part != NEVER)
    return rest[0] if len(rest) == 1 else Some(rest)


def clauses(
    head: Literal, body: Formula, *, derived: Callable[[str], bool], most_derived: int
) -> Iterator[Clause]:
    """Clauses from which `head` follows exactly when `body` holds; about as many as `body` has nodes.

    A disjunction inside a conjunction becomes a fact of its own, so nothing is multiplied out. A clause
    reads at most `most_derived` derived facts (each is one more pattern to join); more are grouped.
    `derived` tells whether a leaf's key is a derived fact; facts made up here always are.
    """
    for number, option in enumerate(_options(body)):
        place = f"{head.key}={head.truth}|{number}"
        given: dict[Literal, None] = {}  # ordered sets: the same text always gives the same rules
        joined: dict[Literal, None] = {}
        for part in _conjuncts(option):
            if isinstance(part, Literal):
                (joined if derived(part.key) else given)[part] = None
            else:
                inner = Literal(f"{place}&{len(joined)}", True)
                joined[inner] = None
                yield from clauses(inner, part, derived=derived, most_derived=most_derived)
        rest = list(joined)
        while len(rest) > most_derived:
            group = Literal(f"{place}+{len(rest)}", True)
            yield Clause(group, tuple(rest[:most_derived]))
            rest = [*rest[most_derived:], group]
        yield Clause(head, (*given, *rest))


def _options(body: Formula) -> Iterator[Literal | All]:
    if isinstance(body, Some):
        for part in body.parts:
            yield from _options(part)
    else:
        yield body


def _conjuncts(body: Formula) -> Iterator[Literal | Some]:
    if isinstance(body, All):
        for part in body.parts:
            yield from _conjuncts(part)
    else:
        yield body
