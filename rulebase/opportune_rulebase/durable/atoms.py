"""Atoms: the leaves of boolean structure, evaluated by CEL's own evaluator, many in one call.

A call of the evaluator costs far more than a comparison inside it. So the atoms of an event type are
evaluated as one CEL list, `[event.amount > 3, sub.age < 30, ...]`. If that fails, because one of them is
unknown, its two halves are tried, down to the single atom. Halves are compiled when first needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from opportune_rulebase.engine import Truth
from opportune_rulebase.errors import ExpressionError
from opportune_rulebase.expressions import Expression, Scope

TruthOf = Callable[[Expression], Truth]
"""Evaluates one atom on its own."""


@dataclass(frozen=True, slots=True)
class Atom:
    """One condition. `text` is CEL for it, None where it cannot be written back."""

    key: str
    text: str | None
    expression: Expression


class Batch:
    """Atoms that are evaluated together; at least one."""

    def __init__(self, atoms: Sequence[Atom], scope: Scope) -> None:
        """Atoms that read the same are put side by side, so that missing data costs few calls."""
        self._atoms = sorted(atoms, key=lambda atom: (atom.text is None, sorted(atom.expression.reads)))
        self._scope = scope
        self.reads = frozenset[str]().union(*(atom.expression.reads for atom in atoms))
        self._together: Expression | None = None
        self._halves: tuple[Batch, ...] | None = None
        self._compiled = False

    def evaluate(self, bindings: Mapping[str, object], truth_of: TruthOf, found: dict[str, Truth]) -> None:
        """Put the truth of every atom into `found`, by key. `bindings` leave out what is missing."""
        if len(self._atoms) == 1:
            atom = self._atoms[0]
            found[atom.key] = truth_of(atom.expression)
            return
        if not self._compiled:
            self._together, self._compiled = self._compile(), True
        if self._together is not None and self.reads <= bindings.keys():
            values = self._together.evaluate(bindings)
            if isinstance(values, list):
                found.update(zip((atom.key for atom in self._atoms), values, strict=True))
                return
        if self._halves is None:
            self._halves = self._split()
        for half in self._halves:
            half.evaluate(bindings, truth_of, found)

    def _compile(self) -> Expression | None:
        """All atoms as one list, or None if that is not possible (too long, too deep, no text)."""
        texts = [atom.text for atom in self._atoms if atom.text is not None]
        if not texts or len(texts) < len(self._atoms):
            return None
        try:
            return self._scope.compile(f"[{', '.join(texts)}]", self._atoms[0].expression.position)
        except ExpressionError:  # the halves are smaller; a single atom needs no compiling
            return None

    def _split(self) -> tuple[Batch, ...]:
        middle = len(self._atoms) // 2
        return (Batch(self._atoms[:middle], self._scope), Batch(self._atoms[middle:], self._scope))
