"""The order in which things are computed that build on each other."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Final

from opportune_rulebase.errors import Position
from opportune_rulebase.loading.problems import Code, Report

MAX_CHAIN: Final = 100
"""How many may build on each other in a row. People lose track far below; evaluation nests as deep."""


def in_order(
    needs: Mapping[str, Set[str]], at: Mapping[str, Position], clause: str, report: Report
) -> tuple[str, ...]:
    """The keys of `needs`, each after all that it needs; what is needed but is no key is passed over.

    Circles are reported, one error a circle, and so are chains of more than MAX_CHAIN. `clause` says what
    they do, such as "definitions read each other".
    """
    ordered: dict[str, int] = {}  # name -> how long the longest chain is that ends in it
    for root in needs:
        _place(root, needs, ordered, at, clause, report)
    for name, length in ordered.items():
        if length == MAX_CHAIN + 1:
            message = f"{clause} in a chain of more than {MAX_CHAIN}: {name!r} is one too many"
            report.error(at[name], Code.TOO_DEEP, message, "name fewer steps on the way")
    return tuple(ordered)


def _place(
    root: str,
    needs: Mapping[str, Set[str]],
    ordered: dict[str, int],
    at: Mapping[str, Position],
    clause: str,
    report: Report,
) -> None:
    """Depth first, without recursion: a chain may be longer than Python's stack, until it is refused."""
    path: dict[str, list[str]] = {}  # the way from the root, with what is still to be visited
    stack = [root]
    while stack:
        name = stack[-1]
        if name not in path and name not in ordered:
            path[name] = sorted(needs[name] & needs.keys())
        pending = path.get(name, [])
        if not pending:
            path.pop(name, None)
            before = max((ordered.get(each, 0) for each in needs[name]), default=0)
            ordered.setdefault(name, before + 1)
            stack.pop()
            continue
        following = pending.pop(0)
        if following in path:
            circle = [*list(path)[list(path).index(following) :], following]
            report.error(
                at[following],
                Code.CIRCLE,
                f"{clause} in a circle: {' -> '.join(circle)}",
                "break it at one of them",
            )
        elif following not in ordered:
            stack.append(following)
