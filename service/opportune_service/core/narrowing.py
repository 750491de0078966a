"""What is left of filters once an event has told one of its attributes: most ask for one value of it.

`where: event.category == "video"` is asked of every session. Where the value is looked up first, whoever
asks for another one is not looked at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from opportune_rulebase.expressions import Expression
from opportune_rulebase.model import (
    AbsencePattern,
    ChangePattern,
    CountPattern,
    DwellPattern,
    Pattern,
    SequencePattern,
    Step,
)
from opportune_rulebase.nodes import Call, Constant, ListLiteral, Node, Variable

MAX_VALUES = 200
"""Values of one attribute that are told apart. A filter that lists more is asked as it stands: getting a
revision ready takes time for every value and every filter."""

_EVENT = "event."


def filters(pattern: Pattern, type_: str) -> list[Expression]:
    """What a pattern asks of events of a type."""
    return [step.where for step in _steps(pattern) if step.where is not None and type_ in step.of]


def told_apart(wheres: Iterable[Expression]) -> tuple[str, frozenset[str]] | None:
    """The attribute whose value decides most of the filters, and the values that they ask for; None if none
    decides any, or all have too many values."""
    asked: Counter[str] = Counter()
    values: dict[str, frozenset[str]] = {}
    for where in wheres:
        for name, wanted in dict(_questions(where.tree)).items():
            asked[name] += 1
            values[name] = values.get(name, frozenset()) | wanted
    few = sorted(name for name in asked if len(values[name]) <= MAX_VALUES)
    if not few:
        return None
    name = max(few, key=lambda each: asked[each])
    return name, values[name]


def decided(where: Expression, name: str, value: str | None) -> bool | None:
    """What the filter says of events whose attribute `name` is `value` (None: none that any filter asks
    for); None if more must be asked."""
    for asked, wanted in _questions(where.tree):
        if asked == name:
            if value not in wanted:
                return False
            if not _is_joint(where.tree):
                return True
    return None


def narrowed(pattern: Pattern, name: str, value: str | None) -> Pattern:
    """The pattern as it is for such events: without the filters that they pass, and without the steps that
    they cannot be. The same object if nothing is decided."""

    def of(step: Step) -> Step:
        truth = None if step.where is None else decided(step.where, name, value)
        if truth is None:
            return step
        return replace(step, where=None) if truth else replace(step, of=())

    steps = [of(step) for step in _steps(pattern)]
    if all(one is other for one, other in zip(steps, _steps(pattern), strict=True)):
        return pattern
    match pattern:
        case CountPattern() | ChangePattern():
            return replace(pattern, step=steps[0])
        case SequencePattern():
            count = len(pattern.steps)
            without = steps[count] if pattern.without else None
            return replace(pattern, steps=tuple(steps[:count]), without=without)
        case AbsencePattern():
            return replace(pattern, after=steps[0], absent=steps[1])
        case DwellPattern():
            return pattern


def _steps(pattern: Pattern) -> tuple[Step, ...]:
    match pattern:
        case CountPattern() | ChangePattern():
            return (pattern.step,)
        case SequencePattern():
            return (*pattern.steps, pattern.without) if pattern.without else pattern.steps
        case AbsencePattern():
            return pattern.after, pattern.absent
        case DwellPattern():
            return ()


def _is_joint(node: Node) -> bool:
    return isinstance(node, Call) and node.function == "_&&_"


def _questions(node: Node) -> list[tuple[str, frozenset[str]]]:
    """(attribute, the values it may have) of each condition that must hold and is such a question."""
    if not isinstance(node, Call) or len(node.args) != 2:
        return []
    left, right = node.args
    if _is_joint(node):
        return _questions(left) + _questions(right)
    if node.function == "_==_" and isinstance(left, Constant):
        left, right = right, left
    if not isinstance(left, Variable) or left.type != "string" or not left.name.startswith(_EVENT):
        return []
    wanted: tuple[Node, ...] = ()
    if node.function == "_==_":
        wanted = (right,)
    elif node.function == "@in" and isinstance(right, ListLiteral):
        wanted = right.items
    values = [each.value for each in wanted if isinstance(each, Constant)]
    if not values or len(values) < len(wanted):
        return []
    return [(left.name[len(_EVENT) :], frozenset(each for each in values if isinstance(each, str)))]
