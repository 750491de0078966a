"""A few campaigns as straight-line source: what several ask is looked up once, each campaign is one `if`.

v1 = X.event.get('amount')
if v1 is None: v1 = missing('event.amount')
v2, covered = metrics['sms_7d'](X)
...
if v3 == 'gotone':
 if v2 < 20 and v1 >= 100 and ...: found += campaign1
if v1 < 50 and ...: found += campaign2
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from opportune_rulebase.model import Bound, Campaign
from opportune_rulebase.network.codegen import Generator, Translator
from opportune_rulebase.network.conditions import Condition, Odds, Test
from opportune_rulebase.nodes import Variable

_SIGNS = {"_<_": "<", "_<=_": "<=", "_>_": ">", "_>=_": ">=", "_==_": "==", "_!=_": "!="}
_NEGATED = {"_<_": ">=", "_<=_": ">", "_>_": "<=", "_>=_": "<", "_==_": "!=", "_!=_": "=="}
_ONE_WAY = {Bound.LOWER: (">", ">="), Bound.UPPER: ("<", "<="), Bound.NONE: ()}
# Source may be indented only so far.
_DEEPEST = 6


@dataclass(frozen=True, slots=True)
class Candidate:
    """A campaign, what must hold for it, and which parts of that are known to hold at this point."""

    campaign: Campaign
    conditions: tuple[Condition, ...]
    held: frozenset[Condition] = frozenset()

    def parts(self) -> list[tuple[Condition, Test]]:
        """What can be tested and is not yet known to hold."""
        parts = dict.fromkeys(part for each in self.conditions for part in each.parts)
        return [(part, part.test) for part in parts if part.test is not None and part not in self.held]

    def given(self, parts: Iterable[Condition]) -> Candidate:
        """The same, where `parts` are known to hold as well."""
        return replace(self, held=self.held.union(parts))


@dataclass(frozen=True, slots=True)
class Local:
    """Local variables with the value of a key. Where it is unknown every comparison of `plain` fails.

    They differ for a figure of which only a bound may be known: `edge` is what those comparisons look at
    that a bound can decide.
    """

    exact: str
    edge: str


Known = dict[str, Local]


def plain(test: Test) -> str | None:
    """The Python operator that decides the test on a `Local`; None if there is none."""
    if test.function == "is":
        return "is"
    if test.function == "@in":
        return "in" if test.positive else None
    if not test.positive and test.key.type == "double":
        return None  # for NaN, neither a comparison nor its contrary holds
    sign = (_SIGNS if test.positive else _NEGATED)[test.function]
    return None if sign == "!=" or (test.key.type == "string" and sign != "==") else sign


def look_up(generator: Generator, name: str, candidates: Sequence[Candidate], known: Known) -> list[str]:
    """Lines that look a key up, which is put into `known`; none if it is known already.

    `candidates` are all campaigns that will use what is found.
    """
    if name in known:
        return []
    tests = [test for each in candidates for _, test in each.parts() if test.name == name]
    lines, known[name] = _looked_up(generator, tests)
    return lines


def _looked_up(generator: Generator, tests: Sequence[Test]) -> tuple[list[str], Local]:
    key, name, v = tests[0].key, tests[0].name, generator.fresh("v")
    if isinstance(key, Variable) and generator.bound(name) is not Bound.NONE:
        return _figure_looked_up(generator, tests)
    number = key.type in ("int", "double")
    if isinstance(key, Variable):
        otherwise = f"{v} = missing({name!r})" if number else f"miss({name!r})"
        return [f"{v} = {generator.reader(name, key.type)}", f"if {v} is None: {otherwise}"], Local(v, v)
    translator = Translator(generator, tests[0].owner)
    lines = [f"{v} = {translator.structure(key) if key.type == 'bool' else translator.value(key)}"]
    return [*lines, f"if {v} is None: {v} = nan"] if number else lines, Local(v, v)


def _figure_looked_up(generator: Generator, tests: Sequence[Test]) -> tuple[list[str], Local]:
    name, v = tests[0].name, generator.fresh("v")
    bound, constants = generator.bound(name), [each for test in tests for each in test.constants]
    if bound is Bound.LOWER:
        known = f"from_below({name!r}, {v}, {generator.literal(max(constants, default=0))})"
    else:
        known = f"from_above({name!r}, {v}, {generator.literal(min(constants, default=0))})"
    unknown = f"not covered or {v} is None" if generator.may_lack(name[len("metric.") :]) else "not covered"
    lines = [f"{v}, covered = {generator.figure(name, tests[0].key.type)}"]
    decided = {plain(test) in _ONE_WAY[bound] for test in tests}
    if len(decided) == 1:
        return [*lines, f"if {unknown}: {v} = {known}[{0 if True in decided else 1}]"], Local(v, v)
    exact = generator.fresh("v")
    return [*lines, f"{exact} = {v}", f"if {unknown}: {v}, {exact} = {known}"], Local(exact, v)


def compared(generator: Generator, test: Test, local: Local) -> str:
    """Source for whether a test for which there is a `plain` operator holds."""
    sign = plain(test)
    assert sign is not None  # noqa: S101 - for the type checker
    constants = [generator.literal(each) for each in test.constants]
    against = f"({' '.join(f'{each},' for each in constants)})" if sign == "in" else constants[0]
    edge = sign in _ONE_WAY[generator.bound(test.name)]
    return f"{local.edge if edge else local.exact} {sign} {against}"


def everything(generator: Generator, odds: Odds, candidate: Candidate, known: Known) -> str:
    """Source for all that must still hold for a campaign, what tells most for its price first; or ""."""
    parts: list[tuple[float, str]] = []
    held = set(candidate.held)
    for part, test in candidate.parts():
        if test.name in known and plain(test):
            parts.append((1 / (1 - odds.of(test)), compared(generator, test, known[test.name])))
            held.add(part)
    for each in candidate.conditions:
        if not each.follows_from(held):
            translator = Translator(generator, each.owner)
            source = translator.true(each.node) if each.positive else translator.false(each.node)
            parts.append((odds.price(each), source))
    parts.sort(key=lambda part: part[0])
    return " and ".join(source for _, source in parts)


def block(
    generator: Generator, odds: Odds, candidates: Sequence[Candidate], known: Known, depth: int = 0
) -> list[str]:
    """Lines that add to `found` those of `candidates` that match. `known` has been looked up before."""
    known = dict(known)
    lines: list[str] = []
    groups: list[tuple[Test, list[Candidate]]] = []
    singles = list(candidates)
    while depth < _DEEPEST and (shared := _shared(odds, singles, known)):
        for _, members in shared:
            singles = [each for each in singles if all(each is not member for member, _ in members)]
        groups += [(test, [each.given([part]) for each, part in members]) for test, members in shared]
        lines += look_up(generator, shared[0][0].name, candidates, known)
    for name in _worth_reading(odds, singles, known):
        lines += look_up(generator, name, candidates, known)
    for test, inside in groups:
        lines.append(f"if {compared(generator, test, known[test.name])}:")
        lines += [f" {line}" for line in block(generator, odds, inside, known, depth + 1)]
    for each in singles:
        source = everything(generator, odds, each, known)
        add = f"found += {generator.bind((each.campaign,), 'campaign')}"
        lines.append(f"if {source}: {add}" if source else add)
    return lines


Members = list[tuple[Candidate, Condition]]


def _shared(odds: Odds, candidates: Sequence[Candidate], known: Known) -> list[tuple[Test, Members]]:
    """Tests on one key, each shared by several campaigns, that save most if asked once; [] if none does.

    The unit is one comparison of a local.
    """
    keys: dict[str, dict[object, tuple[Test, Members]]] = {}
    for candidate in candidates:
        names: set[str] = set()
        for part, test in candidate.parts():
            sign = plain(test)
            if sign and test.name not in names and odds.of(test) <= 0.5:
                names.add(test.name)
                same = keys.setdefault(test.name, {}).setdefault((sign, repr(test.constants)), (test, []))
                same[1].append((candidate, part))
    best: list[tuple[Test, Members]] = []
    most = 0.0
    for name, by_test in keys.items():
        groups = [(test, members) for test, members in by_test.values() if _saves(odds, test, members) > 0]
        if groups:
            saved = sum(_saves(odds, test, members) for test, members in groups)
            saved -= 0 if name in known else (groups[0][0].cost + 5) / 4
            if saved > most:
                best, most = groups, saved
    return best


def _saves(odds: Odds, test: Test, members: Members) -> float:
    return len(members) * (1 - odds.of(test)) - 1


def _worth_reading(odds: Odds, candidates: Sequence[Candidate], known: Known) -> list[str]:
    """Keys to look up for several campaigns at once, so that nearly all are ruled out by one comparison."""
    waiting: list[dict[str, tuple[float, int]]] = []
    for candidate in candidates:
        tests = [(test, odds.of(test)) for _, test in candidate.parts() if plain(test)]
        limit = max(0.35, 1.5 * min((each for _, each in tests), default=1.0))
        telling = {test.name: (1 - each, test.cost) for test, each in tests if each <= limit}
        if telling and not telling.keys() & known.keys():
            waiting.append(telling)
    chosen: list[str] = []
    while True:
        worth: dict[str, float] = {}
        asked: dict[str, int] = {}
        for telling in waiting:
            for name, (rules_out, price) in telling.items():
                worth[name] = worth.get(name, 0.0) + rules_out / price
                asked[name] = asked.get(name, 0) + 1
        names = [name for name in worth if asked[name] > 1]
        if not names:
            return chosen
        chosen.append(max(names, key=lambda name: worth[name]))
        waiting = [telling for telling in waiting if chosen[-1] not in telling]


__all__ = ["Candidate", "Known", "Local", "block", "compared", "everything", "look_up", "plain"]
