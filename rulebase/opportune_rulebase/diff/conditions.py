"""Conditions side by side: their parts as they are written, and whether one lets in less than another.

What is said here is certain: `implies` is False wherever the two cannot be compared part by part. It holds
for what is unknown too: whoever makes the first condition true makes the second one true, and whoever makes
the second one false makes the first one false. So it serves conditions that must be true to count and those
that count unless they are false (suppressions) alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from opportune_rulebase.expressions import Expression
from opportune_rulebase.nodes import Call, Node
from opportune_rulebase.satisfiable import Possible, comparisons
from opportune_rulebase.unparse import unparse

AND, OR, NOT = "_&&_", "_||_", "!_"

_MOST_PAIRS = 10_000
"""Two conditions of a hundred parts each. Beyond that nobody reads why one is narrower."""

_SIGNS = {AND: "&&", OR: "||"}
_TOKEN = re.compile(
    r"""
    (?P<text> [bB]?[rR][bB]?(?: \"{3}.*?\"{3} | '{3}.*?'{3} | "[^"\n]*" | '[^'\n]*' )
            | [bB]?(?: \"{3}(?:\\.|[^\\])*?\"{3} | '{3}(?:\\.|[^\\])*?'{3}
                     | "(?:\\.|[^"\\\n])*" | '(?:\\.|[^'\\\n])*' ) )
  | (?P<comment> //[^\n]* )
  | (?P<space> \s+ )
  | (?P<word> \w+ )
  | (?P<sign> &&|\|\||. )
    """,
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, eq=False)
class Clause:
    """A condition, or part of one: as it is written, without comments, and as a tree.

    Two are equal if they have the same `meaning`.
    """

    text: str
    node: Node

    def __eq__(self, other: object) -> bool:
        # The texts first: most are the same, and what they mean takes longer to tell.
        return isinstance(other, Clause) and (self.text == other.text or self.meaning == other.meaning)

    def __hash__(self) -> int:
        return hash(self.meaning)

    @cached_property
    def meaning(self) -> str:
        """Equal for conditions that differ in spaces, brackets and the order of what they join only."""
        return _canonical(self.node) or self.text

    @cached_property
    def all_of(self) -> tuple[Clause, ...]:
        """What it joins by `&&`; itself if it joins nothing."""
        return tuple(_parts(self, AND))

    @cached_property
    def any_of(self) -> tuple[Clause, ...]:
        """What it joins by `||`; itself if it joins nothing."""
        return tuple(_parts(self, OR))


def clause(expression: Expression) -> Clause:
    """The whole of an expression."""
    return Clause(_tidy(expression.text), expression.tree)


def implies(one: Clause, other: Clause) -> bool:
    """Whether the first lets in nobody whom the second does not. True is certain, False is not."""
    if one == other:
        return True
    if len(one.any_of) > 1:
        return _few(one.any_of, other.any_of) and all(implies(each, other) for each in one.any_of)
    if len(other.all_of) > 1:
        return _few(one.all_of, other.all_of) and all(implies(one, each) for each in other.all_of)
    if len(other.any_of) > 1 and any(implies(one, each) for each in other.any_of):
        return True
    if len(one.all_of) > 1:
        return any(implies(each, other) for each in one.all_of)
    left, right = _denied(one), _denied(other)
    if left is not None and right is not None:
        return implies(right, left)
    return _compared(one.node, other.node)


def without(clauses: Iterable[Clause], others: Iterable[Clause]) -> list[Clause]:
    """Those of the clauses that are not among the others, in order."""
    known = {each.meaning for each in others}
    return [each for each in clauses if each.meaning not in known]


def joined(clauses: Iterable[Clause], sign: str) -> str:
    """The clauses as one text. `sign`: AND or OR."""
    parts = tuple(clauses)
    if len(parts) == 1:
        return parts[0].text
    loose = (OR, "_?_:_") if sign == AND else ("_?_:_",)
    return f" {_SIGNS[sign]} ".join(
        f"({each.text})" if isinstance(each.node, Call) and each.node.function in loose else each.text
        for each in parts
    )


def _few(left: tuple[Clause, ...], right: tuple[Clause, ...]) -> bool:
    return len(left) * len(right) <= _MOST_PAIRS


def _denied(condition: Clause) -> Clause | None:
    """What a condition says the contrary of."""
    node = condition.node
    if not (isinstance(node, Call) and node.function == NOT):
        return None
    return Clause(_unbracketed(condition.text.removeprefix("!").strip()), node.args[0])


def _compared(one: Node, other: Node) -> bool:
    """Whether what one says of a thing lies within what the other says of the same thing."""
    left, right = comparisons(one, True), comparisons(other, True)
    if len(left) != 1 or len(right) != 1 or left[0][0] != right[0][0]:
        return False
    possible = []
    for thing, function, constants in (left[0], right[0]):
        found = Possible()
        found.narrow(function, constants, whole=thing.type in ("int", "uint"))
        possible.append(found)
    return possible[0] != Possible() and possible[0].within(possible[1])


def _canonical(node: Node) -> str | None:
    """As `unparse`, with the parts of `&&` and `||` in one order, each once."""
    if not (isinstance(node, Call) and node.function in _SIGNS):
        return unparse(node)
    parts = [_canonical(each) for each in _operands(node, node.function)]
    known = sorted({each for each in parts if each is not None})
    if None in parts:
        return None
    return known[0] if len(known) == 1 else f"({f' {_SIGNS[node.function]} '.join(known)})"


def _operands(node: Node, function: str) -> Iterator[Node]:
    if isinstance(node, Call) and node.function == function:
        for each in node.args:
            yield from _operands(each, function)
    else:
        yield node


def _parts(whole: Clause, function: str) -> Iterator[Clause]:
    nodes = tuple(_operands(whole.node, function))
    if len(nodes) == 1:
        yield whole
        return
    texts = tuple(_split(whole.text, _SIGNS[function]))
    for number, node in enumerate(nodes):
        # Where the text is not cut as the tree is, the tree is written out.
        written = texts[number] if len(texts) == len(nodes) else unparse(node) or whole.text
        yield Clause(written, node)


def _split(text: str, sign: str) -> Iterator[str]:
    """The text cut where the sign stands outside of brackets, also in brackets of their own."""
    text = _unbracketed(text)
    tokens = list(_tokens(text))
    found = {token for _, token, depth in tokens if depth == 0}
    if sign not in found or "?" in found or (sign == "&&" and "||" in found):
        yield text
        return
    begin = 0
    for at, token, depth in [*tokens, (len(text), sign, 0)]:
        if token == sign and depth == 0:
            yield from _split(text[begin:at].strip(), sign)
            begin = at + len(sign)


def _unbracketed(text: str) -> str:
    """The text without brackets around all of it."""
    while text.startswith("(") and text.endswith(")"):
        inside = [depth for at, _, depth in _tokens(text) if 0 < at < len(text) - 1]
        if not inside or min(inside) < 1:
            break
        text = text[1:-1].strip()
    return text


def _tokens(text: str) -> Iterator[tuple[int, str, int]]:
    """Where each begins, what it is, in how many brackets it stands; a bracket stands outside itself."""
    depth = 0
    for found in _TOKEN.finditer(text):
        token = found[0]
        if found.lastgroup == "sign" and token in (")", "]", "}"):
            depth -= 1
        yield found.start(), token, depth
        if found.lastgroup == "sign" and token in ("(", "[", "{"):
            depth += 1


def _tidy(text: str) -> str:
    """The text in one line: without comments, one space where there was any."""
    kept = ""
    for found in _TOKEN.finditer(text):
        if found.lastgroup not in ("comment", "space"):
            kept += found[0]
        elif not kept.endswith(" "):
            kept += " "
    return _unbracketed(kept.strip())


__all__ = ["AND", "OR", "Clause", "clause", "implies", "joined", "without"]
