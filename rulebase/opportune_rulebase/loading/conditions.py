"""Expressions where they stand in YAML: compiled once, faults placed in the file, reads restricted."""

from __future__ import annotations

from collections.abc import Collection

from opportune_rulebase.errors import ExpressionError, Position
from opportune_rulebase.expressions import Call, Constant, Expression, Node, Scope
from opportune_rulebase.loading.problems import Code, Report
from opportune_rulebase.loading.source import ScalarNode


class Conditions:
    """Compiles the expressions of one rulebase. Remembers every variable that any of them reads."""

    def __init__(self, report: Report, scope: Scope) -> None:
        self._report = report
        self._scope = scope
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
        read; None means any.
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
        only = next(iter(expect)) if len(expect) == 1 else None
        try:
            expression = self._scope.compile(text, node.locate(offset), expect=only)
        except ExpressionError as error:
            for line, column, message in error.faults:
                at = node.locate(offset + _offset(text, line, column))
                self._fault(at, message)
            return None
        self.read |= expression.reads
        if expression.type not in expect:
            self._report.error(
                expression.position,
                Code.BAD_EXPRESSION,
                f"{what} must be of type {' or '.join(expect)}, this is {expression.type}",
            )
            return None
        return expression if self._allowed(expression, what, may_read) else None

    def derived(self, text: str, at: Position) -> Expression | None:
        """A condition that the loader put together of parts that are right by themselves.

        What can still be wrong is CEL's own limits; then None, and the fault in the report at `at`.
        """
        try:
            expression = self._scope.compile(text, at, expect="bool")
        except ExpressionError as error:
            for _, _, message in error.faults:
                self._fault(at, message)
            return None
        self.read |= expression.reads
        return expression

    def _fault(self, at: Position, message: str) -> None:
        message, _, hint = message.partition(": did you mean ")
        self._report.error(at, Code.BAD_EXPRESSION, message, f"did you mean {hint}" if hint else "")

    def _allowed(self, expression: Expression, what: str, may_read: Collection[str] | None) -> bool:
        if may_read is None:
            return True
        wrong = sorted(name for name in expression.reads if name.partition(".")[0] not in may_read)
        if wrong:
            self._report.error(
                expression.position,
                Code.NOT_ALLOWED_HERE,
                f"{what} cannot read {', '.join(wrong)}",
                f"it may read {', '.join(may_read)} only",
            )
        return not wrong


def never_true(node: Node) -> bool:
    """Whether a condition is the constant false, or a conjunction with it."""
    if isinstance(node, Constant):
        return node.value is False
    return isinstance(node, Call) and node.function == "_&&_" and any(never_true(arg) for arg in node.args)


def _offset(text: str, line: int, column: int) -> int:
    """The index in `text` of a line and column that count from 1."""
    lines = text.split("\n")
    before = sum(len(each) + 1 for each in lines[: max(line, 1) - 1])
    return min(before + max(column, 1) - 1, len(text))
