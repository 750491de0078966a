"""Campaigns and definitions, compiled to clauses and cut into rulesets that durable_rules can hold.

Each event type gets rulesets of its own: its campaigns in the order of their names, cut into shards
within the limits of `cage`. Every shard holds the definitions that its campaigns read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from opportune_rulebase.durable import cage
from opportune_rulebase.durable.atoms import Atom, Batch
from opportune_rulebase.durable.horn import ALWAYS, NEVER, Clause, Formula, Literal, clauses, formula
from opportune_rulebase.errors import Problem, RulebaseError
from opportune_rulebase.expressions import Expression, Scope
from opportune_rulebase.model import Campaign, Rulebase
from opportune_rulebase.nodes import Node, Variable
from opportune_rulebase.unparse import unparse
from opportune_rulebase.variables import declared


@dataclass(frozen=True, slots=True)
class Shard:
    """A ruleset, and the campaigns whose triggers it derives, by the literal that says so."""

    ruleset: cage.Ruleset
    campaigns: tuple[tuple[Literal, Campaign], ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What events of one type need: atoms (also as one batch), definitions, and rulesets in order."""

    atoms: tuple[Atom, ...]
    batch: Batch | None
    definitions: tuple[str, ...]
    shards: tuple[Shard, ...]


def plans(rulebase: Rulebase, part: Callable[[Expression, Node], Expression]) -> Mapping[str, Plan]:
    """A plan for each event type that triggers a campaign. `part` is `Expression.part`, perhaps cached.

    Raises RulebaseError with every campaign that is too large, before anything is given to durable_rules.
    """
    translator = _Translator(rulebase, part)
    campaigns = [rulebase.campaigns[name] for name in sorted(rulebase.campaigns)]
    needed = {campaign.name: translator.campaign(campaign) for campaign in campaigns}
    oversize = [each for each in campaigns if not cage.fits(needed[each.name])]
    if oversize:
        raise RulebaseError(tuple(sorted(_problem(each, needed[each.name]) for each in oversize)))
    definitions = (*rulebase.definitions, *rulebase.imported)
    scope = Scope(declared(rulebase.vocabulary, rulebase.metrics, definitions, rulebase.facts))
    types = dict.fromkeys(type_ for campaign in campaigns for type_ in campaign.on)
    made = {}
    for type_ in types:
        triggered = [campaign for campaign in campaigns if type_ in campaign.on]
        heads = {clause.head.key for campaign in triggered for clause in needed[campaign.name]}
        shards = tuple(_shards(triggered, needed))
        keys = sorted({key for shard in shards for key, _, _ in shard.ruleset.reads})
        atoms = tuple(translator.atoms[key] for key in keys)
        definitions = tuple(name for name in rulebase.definitions if name in heads)
        made[type_] = Plan(atoms, Batch(atoms, scope) if atoms else None, definitions, shards)
    return made


class _Translator:
    """Translates the expressions of one rulebase, gathering their atoms by key."""

    def __init__(self, rulebase: Rulebase, part: Callable[[Expression, Node], Expression]) -> None:
        self._definitions = rulebase.definitions
        self._part = part
        self._bodies: dict[Literal, Formula] = {}
        self._derivations: dict[Literal, tuple[Clause, ...]] = {}
        self.atoms: dict[str, Atom] = {}

    def campaign(self, campaign: Campaign) -> tuple[Clause, ...]:
        """The clauses of a campaign's trigger and of all definitions that it reads, each once."""
        head = _head(campaign)
        if campaign.when is None:
            return (Clause(head, ()),)
        return self._with_definitions(head, self._formula(campaign.when, True))

    def _with_definitions(self, head: Literal, body: Formula) -> tuple[Clause, ...]:
        """The clauses from which `head` follows, with those of all definitions below, each once."""
        own = tuple(
            clauses(
                head, body, derived=lambda key: key in self._definitions, most_derived=cage.MOST_DERIVED
            )
        )
        found = dict.fromkeys(own)
        for literal in (literal for clause in own for literal in clause.body):
            if literal.key in self._definitions:
                found.update(dict.fromkeys(self._derivation(literal)))
        return tuple(found)

    def _derivation(self, literal: Literal) -> tuple[Clause, ...]:
        if literal not in self._derivations:
            self._derivations[literal] = self._with_definitions(literal, self._bodies[literal])
        return self._derivations[literal]

    def _formula(self, expression: Expression, truth: bool) -> Formula:
        return formula(expression.tree, truth, lambda node, wanted: self._leaf(expression, node, wanted))

    def _leaf(self, expression: Expression, node: Node, truth: bool) -> Formula:
        """A definition, unless it is always or never so; or an atom.

        Atoms of the same text are the same atom wherever they stand.
        """
        if isinstance(node, Variable) and node.name in self._definitions:
            literal = Literal(node.name, truth)
            if literal not in self._bodies:
                self._bodies[literal] = self._formula(self._definitions[node.name].when, truth)
            return self._bodies[literal] if self._bodies[literal] in (ALWAYS, NEVER) else literal
        text = unparse(node)
        key = text if text is not None else f"opaque {id(node)}"  # the rulebase keeps the node alive
        if key not in self.atoms:
            self.atoms[key] = Atom(key, text, self._part(expression, node))
        return Literal(key, truth)


def _head(campaign: Campaign) -> Literal:
    # The space keeps the key apart from definitions' names; no atom is written so either.
    return Literal(f"campaign {campaign.name}", True)


def _shards(campaigns: Sequence[Campaign], needed: Mapping[str, tuple[Clause, ...]]) -> Iterator[Shard]:
    members: list[tuple[Literal, Campaign]] = []
    together: dict[Clause, None] = {}
    for campaign in campaigns:
        merged = together | dict.fromkeys(needed[campaign.name])
        if members and not cage.fits(merged):
            yield Shard(cage.Ruleset(tuple(together)), tuple(members))
            members, merged = [], dict.fromkeys(needed[campaign.name])
        members.append((_head(campaign), campaign))
        together = merged
    if members:
        yield Shard(cage.Ruleset(tuple(together)), tuple(members))


def _problem(campaign: Campaign, needed: Sequence[Clause]) -> Problem:
    return Problem(
        campaign.position,
        "engine-limit",
        f"campaign '{campaign.name}' and the definitions it reads take {len(needed)} rules over "
        f"{len(cage.given(needed))} conditions; one ruleset of durable_rules holds {cage.MOST_CLAUSES} "
        f"over {cage.MOST_GIVEN}",
        "use the network engine, or split the campaign (a long `a == 1 || a == 2` is also `a in [1, 2]`)",
    )
