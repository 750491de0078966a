"""The index finds exactly the campaigns that a plain loop with CEL's own evaluator finds."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from opportune_rulebase.engine import Facts
from opportune_rulebase.model import Rulebase
from opportune_rulebase.network import NetworkEngine, index
from support import expressions_strategy as strategy
from support.oracle import naive_match
from support.rulebases import make_rulebase

COMPARISONS = ("<", "<=", ">", ">=", "==", "!=")
NUMBERS = dict.fromkeys(
    ("event.amount", "sub.age", "peer.age", "first.amount", "metric.least", "metric.most"), strategy.INTS
) | {"metric.sms_7d": (0, 1, 2, 3, 4, 10)}
DOUBLES = {
    "sub.score": strategy.DOUBLES,
    "metric.spend": (0.0, 1.0, 2.5, 3.5),
    "metric.lowest": (-2.5, -1.5, 0.0, 2.5),
}
TEXTS = ("event.peer", "sub.brand", "place.name", "peer.brand", "metric.lately")
FLAGS = (
    "sub.vip",
    "event.first",
    "terminal.mms",
    *strategy.DEFINITIONS,
    *strategy.IMPORTED,
    "fact.told",
    "calendar.workday",
    "metric.flagged",
    "peer.vip",
    "'a' in sub.products",
    "sub.flags.a",
)


def condition(chance: random.Random) -> str:
    """One condition of the kinds that analysts write."""
    kind = chance.randrange(7)
    if kind <= 1:
        name = chance.choice(list(NUMBERS))
        return f"{name} {chance.choice(COMPARISONS)} {chance.choice(NUMBERS[name])}"
    if kind == 2:
        name = chance.choice(list(DOUBLES))
        number = chance.choice(DOUBLES[name])
        literal = repr(number) if abs(number) > 1e9 else f"{number:.1f}"
        return f"{literal} {chance.choice(COMPARISONS)} {name}"
    if kind == 3:
        sign = chance.choice(("==", "!=", "in", ">"))
        values = [strategy.quoted(chance.choice(strategy.STRINGS)) for _ in range(2)]
        return (
            f"{chance.choice(TEXTS)} {sign} {f'[{values[0]}, {values[1]}]' if sign == 'in' else values[0]}"
        )
    if kind == 4:
        return f"now.getHours(zone) {chance.choice(COMPARISONS)} {chance.randrange(24)}"
    return chance.choice(FLAGS)


def when(chance: random.Random) -> str | None:
    if chance.random() < 0.02:
        return None
    parts = []
    for _ in range(chance.randint(1, 4)):
        part = condition(chance)
        if chance.random() < 0.2:
            part = f"!({part})"
        if chance.random() < 0.2:
            part = f"({part} || {condition(chance)})"
        if chance.random() < 0.1:
            part = f"!({part} || {condition(chance)})"
        parts.append(part)
    return " && ".join(parts)


def rulebase(seed: int, campaigns: int) -> Rulebase:
    chance = random.Random(seed)
    return make_rulebase(
        **strategy.RULEBASE,
        campaigns={
            f"c{chance.randrange(10**6):06}": {
                "on": tuple(chance.sample(sorted(strategy.EVENTS), chance.randint(1, 2))),
                "when": when(chance),
            }
            for _ in range(campaigns)
        },
    )


SIZES = (0, 1, 3, 5, 40, 300)
RULEBASES = {size: rulebase(seed, size) for seed, size in enumerate(SIZES)}
ENGINES = {size: NetworkEngine(each) for size, each in RULEBASES.items()}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(size=st.sampled_from(SIZES), facts=strategy.facts())
def test_the_index_finds_what_a_plain_loop_finds(size: int, facts: Facts) -> None:
    assert [each.name for each in ENGINES[size].match(facts)] == naive_match(RULEBASES[size], facts)


def test_some_campaigns_match_and_some_do_not() -> None:
    """Control: the random rulebases do not make the test above empty."""
    found: list[int] = []

    @settings(max_examples=50, deadline=None, database=None, derandomize=True)
    @given(facts=strategy.facts())
    def count(facts: Facts) -> None:
        found.append(len(ENGINES[300].match(facts)))

    count()
    assert 0 < sum(found) < 300 * len(found) / 2


def test_the_comparison_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: an index that takes `>` for `>=` is found out."""
    monkeypatch.setattr(index, "_successor", lambda value: value)
    broken = NetworkEngine(RULEBASES[300])

    @settings(max_examples=200, deadline=None, database=None, derandomize=True, phases=[Phase.generate])
    @given(facts=strategy.facts())
    def search(facts: Facts) -> None:
        assert [each.name for each in broken.match(facts)] == naive_match(RULEBASES[300], facts)

    with pytest.raises(AssertionError):
        search()
