"""durable_rules 2.0.28, caged: only what was measured to hold up is used, and limits are checked first.

The release is the last one and is not maintained. What shapes the cage (docs/decisions/0002-two-engines.md
has the figures, tests/bench/durable_limits.py measures them again):

- The C binding is called directly. `durable.engine.Host` starts timer threads that race with the caller.
- One fixed session. Attribute names, fact ids and session ids are told apart by a 32-bit hash only, and
  subscribers' numbers collide. Here the session and every id and name are chosen by the cage.
- Every value is `True`. Comparisons of strings, nulls, large integers and mixed types are unsound.
- `assert_fact`, never `assert_event`, which fires one of several matching rules. No `not`, no `$or`.
- A derived fact outlives what it was derived from, so every fact is retracted at the end of a run.
- Deleting a ruleset forgets its session without freeing it, so the session is deleted first. Deleting one
  that never fired frees memory that was never set, so a rule that is there for this alone fires before.
- Some limits hang the process or crash it rather than report an error, so no ruleset comes near them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import count

import durable_rules_engine as binding

from opportune_rulebase.durable.horn import Clause, Literal

MOST_CLAUSES = 60  # 64 conditions may hold for one fact; with the 65th none fires
MOST_GIVEN = 240  # 252 properties a fact, less its id, its session and a margin
MOST_DERIVED = 15  # 16 patterns a rule, one of them the event's

_SESSION = "0"
_EVENT = "e"  # the id of the fact that carries the event's literals
_ALWAYS = "t"  # a property of every event's fact, for clauses without conditions
_LAST = "z"  # the id and the property of the fact that is asserted when a ruleset is closed
_RESERVED = ("sid", "id", "$s", "$m", "m", _SESSION, _EVENT, _ALWAYS, _LAST)

_ruleset_numbers = count()


def fnv_1a(name: str) -> int:
    """The 32-bit hash by which durable_rules tells names and ids apart."""
    value = 0x811C9DC5
    for byte in name.encode():
        value = ((value ^ byte) * 0x01000193) & 0xFFFFFFFF
    return value


def short_names(number: int, hashed: Callable[[str], int] = fnv_1a) -> list[str]:
    """`number` short names of which no two, and none and a reserved word, have the same hash."""
    taken = {hashed(word) for word in _RESERVED}
    names: list[str] = []
    for candidate in (f"f{serial}" for serial in count()):
        if len(names) == number:
            break
        if hashed(candidate) not in taken:
            taken.add(hashed(candidate))
            names.append(candidate)
    return names


def given(clauses: Iterable[Clause]) -> tuple[Literal, ...]:
    """The literals that the clauses read and do not derive, in order of appearance."""
    every = tuple(clauses)
    heads = {clause.head for clause in every}
    return tuple(dict.fromkeys(lit for clause in every for lit in clause.body if lit not in heads))


def fits(clauses: Collection[Clause]) -> bool:
    """Whether one ruleset can hold these clauses."""
    return len(clauses) <= MOST_CLAUSES and len(given(clauses)) <= MOST_GIVEN


class Ruleset:
    """A set of clauses inside durable_rules. One thread at a time.

    `reads`: (key, truth, member of the event's fact) of each literal that is given from outside.

    Give it clauses that `fits`, and `close` it: else its memory is never given back.
    """

    def __init__(self, clauses: Sequence[Clause]) -> None:
        if not fits(clauses):
            raise ValueError(f"{len(clauses)} clauses are more than one ruleset can hold; split them")
        heads = {clause.head for clause in clauses}
        literals = [*given(clauses), *dict.fromkeys(clause.head for clause in clauses)]
        names = dict(zip(literals, short_names(len(literals)), strict=True))
        self.reads = tuple((*literal, f'"{names[literal]}":true') for literal in given(clauses))
        self._heads = [clause.head for clause in clauses]
        joined = heads.intersection(literal for clause in clauses for literal in clause.body)
        self._facts = {head: _fact(names[head], f'"{names[head]}":true') for head in joined}
        rules = {
            str(number): {"all": _patterns(clause, heads, names)} for number, clause in enumerate(clauses)
        }
        rules[str(len(clauses))] = {"all": [{"m0": {_LAST: True}}]}
        self._handle: int | None = binding.create_ruleset(f"r{next(_ruleset_numbers)}", json.dumps(rules))

    def run(self, members: Iterable[str]) -> set[Literal]:
        """All heads that follow; `members` are those from `reads` of the literals that hold."""
        facts = [_fact(_EVENT, f'"{_ALWAYS}":true', *members)]
        found: set[Literal] = set()
        for _, fact in facts:  # grows while it is read: what was derived is asserted in turn
            for rule in self._assert(fact):
                head = self._heads[rule]
                if head not in found:
                    found.add(head)
                    if head in self._facts:
                        facts.append(self._facts[head])
        for identity, _ in reversed(facts):
            binding.retract_fact(self._handle, identity)
        return found

    def _assert(self, fact: str) -> list[int]:
        """Assert one fact and collect the numbers of the rules that fire."""
        unhandled, state = binding.assert_fact(self._handle, fact)
        fired: list[int] = []
        started = None if unhandled else binding.start_action_for_state(self._handle, state)
        firing = started[1] if started else None
        while firing:
            fired.append(int(firing[2 : firing.index('"', 2)]))  # {"<rule>": {...}}
            firing = binding.complete_and_start_action(self._handle, state)
        return fired

    def close(self) -> None:
        """Delete the ruleset and its session. Idempotent."""
        if self._handle is not None:
            identity, fact = _fact(_LAST, f'"{_LAST}":true')
            self._assert(fact)
            binding.retract_fact(self._handle, identity)
            binding.delete_state(self._handle, _SESSION)
            binding.delete_ruleset(self._handle)
            self._handle = None


def _fact(name: str, *members: str) -> tuple[str, str]:
    """A fact as JSON: what identifies it, for taking it back, and all of it."""
    identity = f'"sid":"{_SESSION}","id":"{name}"'
    return f"{{{identity}}}", f"{{{','.join((identity, *members))}}}"


def _patterns(
    clause: Clause, heads: Collection[Literal], names: Mapping[Literal, str]
) -> list[dict[str, object]]:
    """One pattern for the event's fact and one for each derived fact."""
    tests = [names[literal] for literal in clause.body if literal not in heads]
    joined = [names[literal] for literal in clause.body if literal in heads]
    if len(joined) > MOST_DERIVED:
        raise ValueError(f"a clause joins {len(joined)} derived facts; durable_rules joins {MOST_DERIVED}")
    if not clause.body:
        tests = [_ALWAYS]
    patterns: list[dict[str, object]] = []
    if tests:
        patterns.append({"m0": {"$and": [{name: True} for name in tests]}})
    patterns.extend({f"m{number}": {name: True}} for number, name in enumerate(joined, 1))
    return patterns
