"""Many campaigns at once: sets of bits, narrowed by one key after another, then the rest one by one.

alive = (all of them, one bit each)
v = X.event.get('amount')                    for each key, cheap and telling ones first
... alive &= (campaigns that hold for v)
if not alive: return found
...
for each campaign alive: what the keys did not cover
"""

from __future__ import annotations

from collections.abc import Sequence

from opportune_rulebase.model import Bound
from opportune_rulebase.network.block import Candidate, everything
from opportune_rulebase.network.codegen import Generator, Translator
from opportune_rulebase.network.conditions import Condition, Odds
from opportune_rulebase.network.index import Group, choices, indexable, regions, truths
from opportune_rulebase.nodes import Variable

# At most so many campaigns are asked one by one for the rest; more are narrowed further.
_FEW = 4
# A key that fewer campaigns ask about is left to those campaigns.
_SHARED = 3


def crowd(
    generator: Generator,
    odds: Odds,
    candidates: Sequence[Candidate],
    functions: list[str],
    done: str,
) -> list[str]:
    """Lines that add to `found` those of `candidates` that match, or do `done`; they call `functions`."""
    groups, parts = _groups(odds, candidates)
    front = _front(odds, groups, len(candidates))
    everyone = (1 << len(candidates)) - 1
    lines = [f"alive = {generator.bind(everyone, 'all')}"]
    for number, group in enumerate(groups):
        if number == front:
            lines.append(f"if alive.bit_count() > {_FEW}:")
        indent = "" if number < front else " "
        if number and group.members != everyone:
            lines.append(f"{indent}if alive & {generator.bind(group.members, 'members')}:")
            indent += " "
        body = [*_step(generator, group, everyone), f"if not alive: {done}"]
        lines += [indent + line for line in body]
    rests, table = [], generator.fresh("rests")
    for bit, candidate in enumerate(candidates):
        held = [part for group in groups[:front] for part in parts[group.name].get(bit, ())]
        source = everything(generator, odds, candidate.given(held), {})
        rests.append(generator.fresh("rest") if source else "None")
        if source:
            functions += generator.lines_of(rests[-1], [f"return {source}"])
    functions.append(f"{table} = ({', '.join(rests)},)")
    chosen = generator.bind(tuple((each.campaign,) for each in candidates), "campaigns")
    return [
        *lines,
        "while alive:",
        " bit = alive & -alive",
        " number = bit.bit_length() - 1",
        f" rest = {table}[number]",
        f" if rest is None or rest(X): found += {chosen}[number]",
        " alive ^= bit",
    ]


def _front(odds: Odds, groups: Sequence[Group], campaigns: int) -> int:
    """How many of the groups every event goes through: until few campaigns can be expected to be left."""
    hopes = [1.0] * campaigns
    for number, group in enumerate(groups):
        if sum(hopes) < _FEW / 2:
            return number
        for bit, test in group.tests:
            hopes[bit] *= odds.of(test)
    return len(groups)


def _groups(
    odds: Odds, candidates: Sequence[Candidate]
) -> tuple[list[Group], dict[str, dict[int, list[Condition]]]]:
    """Tests by key, the most telling for their price first; keys that few campaigns share are left out.

    And for each key and bit, the parts that its tests stand for.
    """
    groups: dict[str, Group] = {}
    parts: dict[str, dict[int, list[Condition]]] = {}
    for bit, candidate in enumerate(candidates):
        for part, test in candidate.parts():
            if indexable(test):
                group = groups.setdefault(test.name, Group(test.name, test.key, test.owner, []))
                group.tests.append((bit, test))
                parts.setdefault(test.name, {}).setdefault(bit, []).append(part)
    shared = [group for group in groups.values() if len(parts[group.name]) >= _SHARED]

    def worth(group: Group) -> float:
        """Campaigns that a look at the key can be hoped to rule out, by the price of the look."""
        return sum(1 - odds.of(test) for _, test in group.tests) / group.tests[0][1].cost

    return sorted(shared, key=lambda group: (-worth(group), group.name)), parts


def _step(generator: Generator, group: Group, everyone: int) -> list[str]:
    """Lines that narrow `alive` by one key."""
    key, outside = group.key, generator.bind(everyone & ~group.members, "outside")
    translator = Translator(generator, group.owner)
    if isinstance(key, Variable) and generator.bound(key.name) is not Bound.NONE:
        return _figure_step(generator, group, key, everyone, outside)
    if isinstance(key, Variable):
        lines = [f"v = {generator.reader(key.name, key.type)}"]
        missing = [f" miss({key.name!r})"]
    else:
        boolean = group.tests[0][1].function == "is"
        lines = [f"v = {translator.structure(key) if boolean else translator.value(key)}"]
        missing = []
    return [
        *lines,
        "if v is None:",
        *missing,
        f" alive &= {outside}",
        "else:",
        f" alive &= {_held(generator, group, everyone)}",
    ]


def _held(generator: Generator, group: Group, everyone: int) -> str:
    """Source for the campaigns that hold for a known `v`."""
    if group.tests[0][1].function == "is":
        when_true, when_false = truths(group, everyone)
        return f"{generator.bind(when_true, 'yes')} if v is True else {generator.bind(when_false, 'no')}"
    chosen = choices(group, everyone)
    if chosen is not None:
        return f"{generator.bind(chosen.masks.get, 'choose')}(v, {generator.bind(chosen.other, 'other')})"
    cut = regions(group, everyone)
    held = f"{generator.bind(cut.masks, 'masks')}[bisect_right({generator.bind(cut.bounds, 'bounds')}, v)]"
    return f"{held} if v == v else {generator.bind(cut.nan, 'nan')}" if group.key.type == "double" else held


def _figure_step(
    generator: Generator, group: Group, key: Variable, everyone: int, outside: str
) -> list[str]:
    cut = regions(group, everyone, generator.bound(key.name))
    masks, bounds = generator.bind(cut.masks, "masks"), generator.bind(cut.bounds, "bounds")
    known = f"{generator.bind(cut.bounded, 'bounded')}[bisect_right({bounds}, v)]"
    return [
        f"v, covered = {generator.figure(key.name, key.type)}",
        "if covered and v is not None:",
        f" alive &= {masks}[bisect_right({bounds}, v)]",
        "else:",
        f" held = {outside} if v is None else {known}",
        f" if alive & ~held: miss({key.name!r})",
        " alive &= held",
    ]


__all__ = ["crowd"]
