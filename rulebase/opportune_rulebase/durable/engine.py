"""`DurableEngine`: CEL evaluates the atoms, durable_rules chains facts, definitions and triggers.

Each event type has its own durable_rules rulesets (`plan`). An atom of unknown truth is simply no fact.

`truth` and `value`, which are asked of single expressions outside matching (targets, suppressions,
content), do not go through durable_rules: a session for each question would cost more than the answer.
CEL evaluates the atoms and the three-valued structure is computed over them, definitions first. What
`match` has already derived for the event is reused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from opportune_rulebase.durable.plan import Plan, plans
from opportune_rulebase.engine import Facts, Truth
from opportune_rulebase.expressions import Expression, Unknown
from opportune_rulebase.intervals import atom_truth, structure_truth
from opportune_rulebase.model import Bound, Campaign, Rulebase
from opportune_rulebase.nodes import Node, Variable
from opportune_rulebase.variables import bindings


class DurableEngine:
    """The `Engine` over durable_rules. See `opportune_rulebase.engine.Engine` for what it guarantees.

    Close it: what durable_rules holds for it is given back by that alone.
    """

    def __init__(self, rulebase: Rulebase) -> None:
        """Compile. Raises RulebaseError, naming every campaign that durable_rules cannot hold."""
        self._rulebase = rulebase
        self._unknowns: Counter[str] = Counter()
        self._parts: dict[int, Expression] = {}  # by identity of a node, which the part keeps alive
        self._plans = plans(rulebase, self._part)

    def match(self, facts: Facts) -> Sequence[Campaign]:
        plan = self._plans.get(facts.type)
        if plan is None:
            return ()
        truths = self._atom_truths(plan, facts)
        found: list[Campaign] = []
        for shard in plan.shards:
            members = [member for key, truth, member in shard.ruleset.reads if truths[key] is truth]
            derived = shard.ruleset.run(members)
            found.extend(campaign for literal, campaign in shard.campaigns if literal in derived)
            facts.memo.update((key, truth) for key, truth in derived if key in self._rulebase.definitions)
        return found

    def truth(self, expression: Expression, facts: Facts) -> Truth:
        missing: set[str] = set()
        truth = self._truth(expression, facts, missing)
        self._unknowns.update(missing)
        return truth

    def test(self, expression: Expression) -> Callable[[Facts], bool]:
        return lambda facts: self.truth(expression, facts) is True

    def value(self, expression: Expression, facts: Facts) -> object:
        if expression.type == "bool":
            return self.truth(expression, facts)
        missing: set[str] = set()
        bound = self._bindings(expression.reads, facts, missing)
        value = expression.evaluate(bound)
        if not isinstance(value, Unknown):
            return value
        self._unknowns.update(missing | (expression.reads - bound.keys()))
        return None

    def unknowns(self) -> Mapping[str, int]:
        return dict(self._unknowns)

    def close(self) -> None:
        for plan in self._plans.values():
            for shard in plan.shards:
                shard.ruleset.close()

    def _atom_truths(self, plan: Plan, facts: Facts) -> dict[str, Truth]:
        truths: dict[str, Truth] = {}
        if plan.batch is None:
            return truths
        missing: set[str] = set()
        bound = self._bindings(plan.batch.reads, facts, missing)
        plan.batch.evaluate(bound, lambda atom: self._atom_truth(atom, bound, facts), truths)
        if None in truths.values():
            for atom in plan.atoms:
                if truths[atom.key] is None:
                    missing.update(atom.expression.reads - bound.keys())
            for name in plan.definitions:  # durable_rules cannot tell unknown from not derived
                self._definition(name, facts, missing)
            self._unknowns.update(missing)
        return truths

    def _truth(self, expression: Expression, facts: Facts, missing: set[str]) -> Truth:
        """As `truth`; puts into `missing` what made anything unknown."""

        def atom(node: Node) -> Truth:
            if isinstance(node, Variable) and node.name in self._rulebase.definitions:
                return self._definition(node.name, facts, missing)
            part = self._part(expression, node)
            bound = self._bindings(part.reads, facts, missing)
            truth = self._atom_truth(part, bound, facts)
            if truth is None:
                missing.update(part.reads - bound.keys())
            return truth

        return structure_truth(expression.tree, atom)

    def _definition(self, name: str, facts: Facts, missing: set[str]) -> Truth:
        """The truth of a definition for this event, computed once."""
        if name not in facts.memo:
            facts.memo[name] = self._truth(self._rulebase.definitions[name].when, facts, missing)
            if facts.memo[name] is None:
                missing.add(name)
        return facts.memo[name]

    def _bindings(self, reads: Iterable[str], facts: Facts, missing: set[str]) -> dict[str, object]:
        return bindings(
            facts, reads, self._rulebase.vocabulary, lambda name: self._definition(name, facts, missing)
        )

    def _atom_truth(self, atom: Expression, bound: Mapping[str, object], facts: Facts) -> Truth:
        return atom_truth(atom, bound, facts.metric, self._bound, self._part)

    def _bound(self, name: str) -> Bound:
        return self._rulebase.metrics[name].bound

    def _part(self, expression: Expression, node: Node) -> Expression:
        part = self._parts.get(id(node))
        if part is None:
            part = self._parts[id(node)] = expression.part(node)
        return part
