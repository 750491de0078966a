"""Expressions where they stand in YAML: compiled once, faults placed in the file, reads restricted."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from opportune_rulebase.errors import ExpressionError, Position
from opportune_rulebase.expressions import Expression, Scope
from opportune_rulebase.loading.constants import Constants
from opportune_rulebase.loading.problems import Code, Report
from opportune_rulebase.loading.source import ScalarNode

MAX_FAULTY: Final = 300
"""After so many faulty expressions no more are compiled: a hostile rulebase has thousands."""
MAX_EXPRESSIONS: Final = 50_000
"""Of a rulebase, variables in content among them: three thousand campaigns have fifteen thousand."""
MAX_SIZE: Final = 120_000
"""Names, constants and operations of all different expressions: three thousand campaigns have half."""

_OF_STEPS: Final = ("first", "previous")


class Conditions:
    """Compiles the expressions of one rulebase. Remembers every variable that any of them reads."""

    def __init__(self, report: Report, scope: Scope) -> None:
        self._report = report
        self._scope = scope
        self._constants = Constants()
        self._count = self._faulty = 0
        self._given_up = False
        self.read: set[str] = set()

    def compile(
        self,
        node: ScalarNode | None,
        what: str,
        *,
        expect: Collection[str] = ("bool",),
        may_read: Collection[str] | None = None,
    ) -> Expression | None:
        """The expression of a scalar; None if there is none or it is wrong (then it is in the report).

        `expect`: CEL types the result may have. `may_read`: prefixes (`sub`, `terminal`) that it may
        read; None means any but those of earlier steps.
        """
        if node is None:
            return None
        return self.compile_text(node.text, node, 0, what, expect=expect, may_read=may_read)

    def compile_text(
        self,
        text: str,
        node: ScalarNode,
        offset: int,
        what: str,
        *,
        expect: Collection[str] = ("bool",),
        may_read: Collection[str] | None = None,
    ) -> Expression | None:
        """Like `compile`, for an expression that starts at `offset` of the scalar's text."""
        if not self._within_bounds(node.at):
            return None
        only = next(iter(expect)) if len(expect) == 1 else None
        try:
            expression = self._scope.compile(text, node.locate(offset), expect=only)
        except ExpressionError as error:
            for line, column, message in error.faults:
                at = node.locate(offset + _offset(text, line, column))
                self._fault(at, message)
            self._faulty += 1
            return None
        self.read |= expression.reads
        if expression.type not in expect:
            self._report.error(
                expression.position,
                Code.BAD_EXPRESSION,
                f"{what} must be of type {' or '.join(expect)}, this is {expression.type}",
            )
            return None
        refused = sorted(set(self._constants.refused(expression)))
        for index, fault, hint in refused:
            self._report.error(
                node.locate(offset + index),
                Code.BAD_EXPRESSION,
                fault,
                hint,
            )
        self._faulty += bool(refused)
        return expression if self._allowed(expression, what, may_read) and not refused else None

    def derived(self, text: str, at: Position) -> Expression | None:
        """A condition that the loader put together of parts that are right by themselves.

        What can still be wrong is CEL's own limits; then None, and the fault in the report at `at`.
        """
        if not self._within_bounds(at):
            return None
        try:
            expression = self._scope.compile(text, at, expect="bool")
        except ExpressionError as error:
            for _, _, message in error.faults:
                self._fault(at, message)
            return None
        self.read |= expression.reads
        return expression

    def _within_bounds(self, at: Position) -> bool:
        """Whether one more expression may be compiled; if not, that is said once."""
        self._count += 1
        reason, code = "", Code.TOO_MANY
        if self._faulty >= MAX_FAULTY:
            reason = f"{MAX_FAULTY} expressions before this one are wrong; the others are not checked"
            code = Code.TOO_MANY_PROBLEMS
        elif self._count > MAX_EXPRESSIONS or self._scope.size > MAX_SIZE:
            reason = f"more than {MAX_EXPRESSIONS} expressions, or {MAX_SIZE} names and operations in them"
        if reason and not self._given_up:
            self._given_up = True
            self._report.error(at, code, reason, "mend those first" if self._faulty else "make it smaller")
        return not self._given_up

    def _fault(self, at: Position, message: str) -> None:
        message, _, hint = message.partition(": did you mean ")
        self._report.error(at, Code.BAD_EXPRESSION, message, f"did you mean {hint}" if hint else "")

    def _allowed(self, expression: Expression, what: str, may_read: Collection[str] | None) -> bool:
        spaces = {name: name.partition(".")[0] for name in expression.reads}
        if may_read is None:
            wrong = sorted(name for name, space in spaces.items() if space in _OF_STEPS)
            hint = "only 'link' in a step of a sequence may read that"
        else:
            wrong = sorted(name for name, space in spaces.items() if space not in may_read)
            hint = f"it may read {', '.join(may_read)} only"
        if wrong:
            self._report.error(
                expression.position,
                Code.NOT_ALLOWED_HERE,
                f"{what} cannot read {', '.join(wrong)}",
                hint,
            )
        return not wrong


def _offset(text: str, line: int, column: int) -> int:
    """The index in `text` of a line and column that count from 1."""
    lines = text.split("\n")
    before = sum(len(each) + 1 for each in lines[: max(line, 1) - 1])
    return min(before + max(column, 1) - 1, len(text))
