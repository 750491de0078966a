"""Expressions of patterns as functions."""

from __future__ import annotations

from datetime import UTC
from functools import partial

from opportune_rulebase.engine import Engine, Facts
from opportune_rulebase.expressions import Expression
from opportune_rulebase.nodes import Call, Variable

from opportune_service.core.patterns import Compilers, Link
from opportune_service.core.patterns.sighting import Holds, Told

_PLAIN = frozenset({"int", "string", "bool"})
"""Types of which equal values are equal to CEL and to Python alike."""


def compilers(engine: Engine) -> Compilers:
    """How the engine's expressions become what patterns ask."""
    return Compilers(partial(_test, engine), partial(_link, engine))


def _test(engine: Engine, expression: Expression) -> Holds:
    return engine.test(expression)


def _link(engine: Engine, expression: Expression) -> Link:
    def by_engine(own: Told, first: Told, previous: Told) -> bool:
        earlier = {f"first.{name}": value for name, value in first.items()}
        earlier |= {f"previous.{name}": value for name, value in previous.items()}
        facts = Facts(
            type="",
            event=own,
            sub={},
            terminal={},
            place=None,
            metric=_no_metric,
            now_us=0,
            zone=UTC,
            others=earlier,
        )
        return engine.truth(expression, facts) is True

    sides = _equated(expression)
    if sides is None:
        return by_engine
    name, space, earlier_name = sides
    of_first = space == "first"

    def equal(own: Told, first: Told, previous: Told) -> bool:
        mine = own.get(name)
        earlier = (first if of_first else previous).get(earlier_name)
        if mine is None or earlier is None:
            return by_engine(own, first, previous)  # false; the engine counts what was missing
        return mine == earlier

    return equal


def _equated(expression: Expression) -> tuple[str, str, str] | None:
    """(x, "first" or "previous", y) of ``event.x == first.y``, which is what nearly every link says."""
    tree = expression.tree
    if not isinstance(tree, Call) or tree.function != "_==_":
        return None
    sides = [each for each in tree.args if isinstance(each, Variable) and each.type in _PLAIN]
    if len(sides) != 2 or sides[0].type != sides[1].type:
        return None
    (space, _, name), (other_space, _, other_name) = sorted(each.name.partition(".") for each in sides)
    if space != "event" or other_space not in ("first", "previous"):
        return None
    return name, other_space, other_name


def _no_metric(_: str) -> tuple[object, bool]:
    return None, False
