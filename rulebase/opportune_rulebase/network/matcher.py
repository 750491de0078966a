"""The source that matches events of one type.

1. Campaigns that ask for one value of a key (`event.kind == 'mms'`) are found in a table by that value.
2. A few campaigns become straight-line source (`block`).
3. Many campaigns are narrowed by sets of bits first (`crowd`).

Each campaign stands in the source once (four times at most, where it lists values), so the source grows
with the text of the rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from opportune_rulebase.model import Campaign
from opportune_rulebase.network.block import Candidate, Known, block, look_up, plain
from opportune_rulebase.network.codegen import Generator
from opportune_rulebase.network.conditions import Condition, Odds, Opened, Test, conditions
from opportune_rulebase.network.crowd import crowd

# More campaigns than this are not asked one by one.
_CROWD = 64
# A table is as dear as so many comparisons; fewer values than that are compared.
_TABLE = 5
_COPIES = 4
DONE = "return in_order(found) if found else found"


def matcher_source(generator: Generator, name: str, campaigns: Sequence[Campaign], opened: Opened) -> str:
    """Source of functions for one event type, of which the one called `name` takes facts.

    `campaigns` are those that the event type triggers; the function gives those that match, in the order
    of their names. Binds what the source needs in the generator's namespace.
    """
    candidates = [
        Candidate(each, tuple(conditions(each.when, opened)) if each.when else ()) for each in campaigns
    ]
    odds = Odds(test for each in candidates for _, test in each.parts())
    lines: list[str] = []
    _function(generator, odds, name, candidates, lines)
    return "\n".join([*lines, ""])


def _function(
    generator: Generator, odds: Odds, name: str, candidates: Sequence[Candidate], lines: list[str]
) -> None:
    """Append the lines of a function and of those that it calls."""
    body, known = ["found = ()"], Known()
    while table := _table(odds, candidates, known):
        choose = generator.fresh("choose")
        body += look_up(generator, table.name, candidates, known)
        body.append(f"found += {choose}({known[table.name].exact}, nobody)(X)")
        functions = {}
        for value, members in table.by_value().items():
            functions[value] = generator.fresh("match")
            _function(generator, odds, functions[value], members, lines)
        entries = ", ".join(f"{generator.literal(value)}: {each}" for value, each in functions.items())
        lines.append(f"{choose} = {{{entries}}}.get")
        candidates = table.others
    if len(candidates) > _CROWD:
        body += crowd(generator, odds, candidates, lines, DONE)
    else:
        body += block(generator, odds, candidates, known)
    lines += generator.lines_of(name, [*body, DONE])


@dataclass(frozen=True, slots=True)
class _Table:
    name: str
    members: list[tuple[Candidate, Condition, Test]]
    others: list[Candidate]

    def by_value(self) -> dict[int | str, list[Candidate]]:
        found: dict[int | str, list[Candidate]] = {}
        for candidate, part, test in self.members:
            for value in dict.fromkeys(test.constants):
                assert isinstance(value, int | str)  # noqa: S101 - for the type checker
                found.setdefault(value, []).append(candidate.given([part]))
        return found


def _table(odds: Odds, candidates: Sequence[Candidate], known: Known) -> _Table | None:
    """The key by whose value most campaigns are told apart, if that is worth a table."""
    keys: dict[str, list[tuple[Candidate, Condition, Test]]] = {}
    for candidate in candidates:
        names: set[str] = set()
        for part, test in candidate.parts():
            if test.name not in names and _names_values(candidate, test):
                names.add(test.name)
                keys.setdefault(test.name, []).append((candidate, part, test))
    best, most = None, 0.0
    for name, members in keys.items():
        values = {value for _, _, test in members for value in test.constants}
        if len(values) < 2 or (len(values) <= _TABLE and len(candidates) <= _CROWD):
            continue
        worth = sum(1 - odds.of(test) for _, _, test in members) - _TABLE
        worth -= 0 if name in known else (members[0][2].cost + 5) / 4
        if worth > most:
            best, most = name, worth
    if best is None:
        return None
    inside = {id(candidate) for candidate, _, _ in keys[best]}
    return _Table(best, keys[best], [each for each in candidates if id(each) not in inside])


def _names_values(candidate: Candidate, test: Test) -> bool:
    if test.key.type not in ("int", "string"):
        return False
    sign = plain(test)
    # The first table alone may hold a campaign more than once, or the copies would multiply.
    return sign == "==" or (sign == "in" and not candidate.held and 0 < len(test.constants) <= _COPIES)


__all__ = ["matcher_source"]
