"""The generated function that matches events of one type.

def match(X):
    alive = (all campaigns of this type, one bit each)
    v = X.event.get('amount')                    for each indexed key, cheap and telling ones first
    ... alive &= (campaigns that hold for v)
    if not alive: return NOTHING
    ...
    for each campaign alive: what the index did not cover
"""

from __future__ import annotations

from collections.abc import Sequence

from opportune_rulebase.model import Campaign
from opportune_rulebase.network.codegen import Generator, Translator
from opportune_rulebase.network.conditions import Condition, Test, as_test, conditions, cost
from opportune_rulebase.network.index import Group, choices, indexable, regions, truths
from opportune_rulebase.nodes import Variable

# Below this many campaigns an index costs more than it saves.
_FEW = 4
# At most so many campaigns are asked one by one for the rest; a crowd is narrowed by the index first.
_CROWD = 4
_RULES_OUT = {"_==_": 0.85, "@in": 0.6, "_!=_": 0.1}
# A key that fewer campaigns ask about is left to those campaigns.
_SHARED = 3


def matcher_source(generator: Generator, name: str, campaigns: Sequence[Campaign]) -> str:
    """Source of functions for one event type, of which the one called `name` takes facts.

    `campaigns` are those that the event type triggers, in the order of the results. Binds what the
    source needs in the generator's namespace.
    """
    definitions = generator.rulebase.definitions
    split = [conditions(each.when, definitions) if each.when else [] for each in campaigns]
    groups = _groups(split) if len(campaigns) >= _FEW else []
    if not groups:
        return _straight(generator, name, campaigns, split)
    front = _front(groups, len(campaigns))
    everyone = (1 << len(campaigns)) - 1
    nothing = generator.bind((), "nothing")
    lines = [f"def {name}(X):", f" alive = {generator.bind(everyone, 'all')}"]
    for number, group in enumerate(groups):
        if number == front:
            lines.append(f" if alive.bit_count() > {_CROWD}:")
        indent = " " if number < front else "  "
        if number and group.members != everyone:
            lines.append(f"{indent}if alive & {generator.bind(group.members, 'members')}:")
            indent += " "
        body = [*_step(generator, group, everyone), f"if not alive: return {nothing}"]
        lines += [indent + line for line in body]
    checked = {(bit, id(test.condition)) for group in groups[:front] for bit, test in group.tests}
    rests, functions = [], []
    for bit, found in enumerate(split):
        rest = [each for each in found if (bit, id(each)) not in checked]
        rests.append(generator.fresh("rest") if rest else "None")
        if rest:
            functions += [f"def {rests[-1]}(X):", f" return {_all(generator, rest)}"]
    table, chosen = generator.fresh("rests"), generator.bind(tuple(campaigns), "campaigns")
    return "\n".join(
        [
            *functions,
            f"{table} = ({', '.join(rests)},)",
            *lines,
            " found = []",
            " while alive:",
            "  bit = alive & -alive",
            "  number = bit.bit_length() - 1",
            f"  rest = {table}[number]",
            f"  if rest is None or rest(X): found.append({chosen}[number])",
            "  alive ^= bit",
            " return found",
            "",
        ]
    )


def _front(groups: Sequence[Group], campaigns: int) -> int:
    """How many of the groups every event goes through: until few campaigns can be expected to be left."""
    hopes = [1.0] * campaigns
    for number, group in enumerate(groups):
        if sum(hopes) < _CROWD / 2:
            return number
        for bit, test in group.tests:
            hopes[bit] *= 1 - _rules_out(test)
    return len(groups)


def _straight(
    generator: Generator, name: str, campaigns: Sequence[Campaign], residuals: Sequence[list[Condition]]
) -> str:
    """A few campaigns, one after the other."""
    lines = [f"def {name}(X):", " found = []"]
    for campaign, residual in zip(campaigns, residuals, strict=True):
        found = f"found.append({generator.bind(campaign, 'campaign')})"
        lines.append(f" if {_all(generator, residual)}: {found}" if residual else f" {found}")
    return "\n".join([*lines, " return found", ""])


def _all(generator: Generator, residual: Sequence[Condition]) -> str:
    parts = []
    for each in sorted(residual, key=lambda condition: cost(condition.node)):
        translator = Translator(generator, each.owner)
        parts.append(translator.true(each.node) if each.positive else translator.false(each.node))
    return " and ".join(parts)


def _groups(split: Sequence[Sequence[Condition]]) -> list[Group]:
    """Tests by key, the most telling for their price first; keys that few campaigns share are left out."""
    groups: dict[str, Group] = {}
    for bit, found in enumerate(split):
        for condition in found:
            test = as_test(condition)
            if test is None or not indexable(test):
                continue
            # By text, because 0.0 equals -0.0 and yet they divide differently. `is` on a comparison's own
            # key never meets a comparison of it: the types differ.
            group = groups.setdefault(repr(test.key), Group(test.key, condition.owner, []))
            group.tests.append((bit, test))
    shared = [group for group in groups.values() if len({bit for bit, _ in group.tests}) >= _SHARED]
    return sorted(shared, key=lambda group: (-_worth(group), repr(group.key)))


def _worth(group: Group) -> float:
    """Campaigns that a look at the key can be hoped to rule out, by the price of the look."""
    return sum(_rules_out(test) for _, test in group.tests) / cost(group.key)


def _rules_out(test: Test) -> float:
    """The share of events that a test can be hoped to rule out. Only speed depends on it."""
    return _RULES_OUT.get(test.function, 0.5)


def _step(generator: Generator, group: Group, everyone: int) -> list[str]:
    """Lines that narrow `alive` by one key."""
    key, outside = group.key, generator.bind(everyone & ~group.members, "outside")
    translator = Translator(generator, group.owner)
    if isinstance(key, Variable) and key.name.startswith("metric."):
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
    cut = regions(group, everyone)
    masks, bounds = generator.bind(cut.masks, "masks"), generator.bind(cut.bounds, "bounds")
    metric = generator.rulebase.metrics[key.name.removeprefix("metric.")]
    known = outside
    if metric.non_negative:
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


__all__ = ["matcher_source"]
