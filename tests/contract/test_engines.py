"""One suite of cases for both engines: they may differ in speed only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opportune_rulebase.durable import DurableEngine
from opportune_rulebase.durable.cage import fnv_1a
from opportune_rulebase.engine import Engine, Facts
from opportune_rulebase.errors import Position
from opportune_rulebase.model import Rulebase
from opportune_rulebase.network import NetworkEngine
from opportune_service.app.engines import KeptEngines
from support.engine_cases import CASES, COLLIDING, VOCABULARY, Case
from support.figure_cases import FIGURE_CASES
from support.rulebases import make_facts, make_rulebase, make_scope

ALL_CASES = (*CASES, *FIGURE_CASES)


def given_back(make: Callable[[Rulebase], Engine]) -> Callable[[Rulebase], Engine]:
    """Makes engines that somebody has had before."""
    engines = KeptEngines(make)

    def make_again(rulebase: Rulebase) -> Engine:
        engines(rulebase).close()
        return engines(rulebase)

    return make_again


ENGINES: dict[str, Callable[[Rulebase], Engine]] = {
    "network": NetworkEngine,
    "durable": DurableEngine,
    "network, kept": given_back(NetworkEngine),
}


def build(given_case: Case) -> Rulebase:
    return make_rulebase(
        **VOCABULARY,
        definitions=given_case.definitions,
        campaigns={name: {} if text is None else {"when": text} for name, text in given_case.when.items()},
    )


@pytest.fixture(params=ENGINES)
def engine_of(request: pytest.FixtureRequest) -> Iterator[Callable[[Rulebase], Engine]]:
    made: list[Engine] = []

    def make(rulebase: Rulebase) -> Engine:
        made.append(ENGINES[request.param](rulebase))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


def names(engine: Engine, facts: Facts) -> list[str]:
    return [campaign.name for campaign in engine.match(facts)]


@pytest.mark.parametrize("each", ALL_CASES, ids=lambda each: each.what)
def test_match(each: Case, engine_of: Callable[[Rulebase], Engine]) -> None:
    engine = engine_of(build(each))
    for _ in range(2):  # nothing is left over from the event before
        assert names(engine, make_facts(each.type, **each.facts)) == sorted(each.expect)


@pytest.mark.parametrize("each", ALL_CASES, ids=lambda each: each.what)
def test_a_test_says_whether_it_is_true(each: Case, engine_of: Callable[[Rulebase], Engine]) -> None:
    rulebase = build(each)
    engine = engine_of(rulebase)
    for campaign in rulebase.campaigns.values():
        if campaign.when is not None:
            truth = engine.truth(campaign.when, make_facts(each.type, **each.facts))
            assert engine.test(campaign.when)(make_facts(each.type, **each.facts)) is (truth is True)


@pytest.mark.parametrize("each", ALL_CASES, ids=lambda each: each.what)
def test_truth_agrees_with_match(each: Case, engine_of: Callable[[Rulebase], Engine]) -> None:
    rulebase = build(each)
    engine = engine_of(rulebase)
    found = [
        campaign.name
        for campaign in rulebase.campaigns.values()
        if campaign.when is None or engine.truth(campaign.when, make_facts(each.type, **each.facts)) is True
    ]
    assert found == sorted(each.expect)


def test_campaigns_come_in_the_order_of_their_names_and_only_for_their_events(
    engine_of: Callable[[Rulebase], Engine],
) -> None:
    on = {"b": ("sms",), "a": ("call", "sms"), "c": ("call",)}
    engine = engine_of(
        make_rulebase(**VOCABULARY, campaigns={name: {"on": types} for name, types in on.items()})
    )
    assert names(engine, make_facts("sms")) == ["a", "b"]
    assert names(engine, make_facts("call")) == ["a", "c"]
    assert names(engine, make_facts("something else")) == []


def test_one_event_does_not_see_another(engine_of: Callable[[Rulebase], Engine]) -> None:
    when = {"young": "sub.age < 30", "old": "sub.age >= 30", "heavy": "behaviour.heavy"}
    engine = engine_of(
        make_rulebase(
            **VOCABULARY,
            definitions={"behaviour.heavy": "metric.sms_7d > 5 && sub.age > 0"},
            campaigns={name: {"when": text} for name, text in when.items()},
        )
    )
    for turn in range(40):
        sub = {"age": 20 if turn % 2 else 40} if turn % 3 else {}
        facts = make_facts("sms", sub=sub, metrics={"sms_7d": turn % 8})
        expect = [("young" if turn % 2 else "old")] if sub else []
        assert names(engine, facts) == sorted(expect + (["heavy"] if sub and turn % 8 > 5 else []))


def test_values(engine_of: Callable[[Rulebase], Engine]) -> None:
    rulebase = make_rulebase(**VOCABULARY, definitions={"scene.s": "sub.age < 30"})
    engine = engine_of(rulebase)
    texts = {
        "sub.age + event.amount": 24,
        "sub.brand": "gotone",
        "event.cost * 2.0": None,
        "scene.s": True,
        "event.flag": None,
        "[sub.age, event.amount]": [20, 4],
        "metric.sms_7d": None,
    }
    facts = make_facts("sms", {"amount": 4}, sub={"age": 20}, metrics={"sms_7d": (3, False)})
    scope = make_scope(rulebase)
    found = {text: engine.value(scope.compile(text, Position("test")), facts) for text in texts}
    assert found == texts


def test_what_was_unknown_is_counted(engine_of: Callable[[Rulebase], Engine]) -> None:
    engine = engine_of(
        make_rulebase(
            **VOCABULARY,
            definitions={"scene.s": "sub.age < 30"},
            campaigns={"a": {"when": "scene.s && event.amount > 3"}},
        )
    )
    engine.match(make_facts("sms", {"amount": 4}, sub={"age": 20}))
    assert not engine.unknowns()
    engine.match(make_facts("sms", {"amount": 4}))
    counts = dict(engine.unknowns())
    assert counts.pop("sub.age") == 1
    assert counts in ({}, {"scene.s": 1}), "an engine need not compute a definition to match"


def test_close_twice(engine_of: Callable[[Rulebase], Engine]) -> None:
    engine = engine_of(make_rulebase(**VOCABULARY, campaigns={"a": {}}))
    engine.close()
    engine.close()


def test_the_colliding_pair_collides() -> None:
    assert COLLIDING[0] != COLLIDING[1]
    assert fnv_1a(COLLIDING[0]) == fnv_1a(COLLIDING[1])


# Random rulebases and facts

ATOMS = st.sampled_from(
    [
        *(
            f"event.amount {operator} {number}"
            for operator in ("<", ">=", "==", "!=")
            for number in (0, 2, 4)
        ),
        *(
            f"metric.sms_7d {operator} {number}"
            for operator in ("<", "<=", ">", ">=", "==")
            for number in (0, 2)
        ),
        *(f"2 {operator} metric.sms_7d" for operator in ("<", "==", "!=")),
        "metric.spend > 1",
        *(f"metric.least {operator} 2" for operator in ("<", "<=", ">", ">=", "==", "!=")),
        "2 <= metric.least",
        "metric.last_to == 'a'",
        "metric.last_flag",
        "behaviour.mined",
        "fact.told",
        "peer.age < 30",
        "calendar.workday",
        "has(sub.flags.a)",
        "sub.age < 30",
        "sub.age in [20, 40]",
        "sub.brand == 'gotone'",
        "event.flag",
        "event.to.startsWith('a')",
        "'mms' in sub.products",
        "sub.products.exists(p, p == event.to)",
        "event.amount / sub.age > 0",
        "now.getHours(zone) >= 12",
        "event.flag == (sub.age < 30)",
        "true",
    ]
)


def conditions(leaves: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            inner.map(lambda text: f"!({text})"),
            st.tuples(inner, st.sampled_from(["&&", "||"]), inner).map(lambda each: f"({' '.join(each)})"),
            st.tuples(inner, inner, inner).map(lambda each: f"({each[0]} ? {each[1]} : {each[2]})"),
        ),
        max_leaves=6,
    )


@st.composite
def rulebases(draw: st.DrawFn) -> Rulebase:
    known: list[str] = []
    definitions = {}
    for number in range(draw(st.integers(0, 4))):
        definitions[f"scene.s{number}"] = draw(
            conditions(st.one_of(ATOMS, st.sampled_from(known)) if known else ATOMS)
        )
        known.append(f"scene.s{number}")
    leaves = st.one_of(ATOMS, st.sampled_from(known)) if known else ATOMS
    texts = draw(st.lists(conditions(leaves), min_size=1, max_size=6))
    return make_rulebase(
        **VOCABULARY,
        definitions=definitions,
        campaigns={f"c{number}": {"when": text} for number, text in enumerate(texts)},
    )


def some(**values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=values)


FACTS = st.fixed_dictionaries(
    {
        "event": some(amount=st.integers(-1, 5), flag=st.booleans(), to=st.sampled_from(["a", "mms", "x"])),
        "sub": some(
            age=st.sampled_from([0, 20, 40]),
            brand=st.sampled_from(["gotone", "mzone"]),
            products=st.lists(st.sampled_from(["a", "mms"]), max_size=2),
            flags=st.dictionaries(st.just("a"), st.booleans()),
        )
        | some(**{"behaviour.mined": st.booleans()}),
        "peer": some(age=st.sampled_from([0, 40])),
        "facts": some(told=st.booleans()),
        "metrics": some(
            sms_7d=st.one_of(st.integers(0, 4), st.tuples(st.integers(0, 4), st.just(False))),
            spend=st.one_of(st.integers(-1, 4), st.tuples(st.integers(-1, 4), st.just(False))),
            least=st.tuples(st.none() | st.integers(0, 4), st.booleans()),
            last_to=st.tuples(st.none() | st.sampled_from(["a", "x"]), st.just(True)),
            last_flag=st.booleans(),
        ),
    }
)


@settings(max_examples=60, deadline=None)
@given(rulebases(), st.lists(FACTS, min_size=1, max_size=6))
def test_both_engines_agree(rulebase: Rulebase, events: list[dict[str, Any]]) -> None:
    with closing(NetworkEngine(rulebase)) as network, closing(DurableEngine(rulebase)) as durable:
        for each in events:
            assert names(durable, make_facts("sms", **each)) == names(network, make_facts("sms", **each))
            one, other = make_facts("sms", **each), make_facts("sms", **each)
            for definition in rulebase.definitions.values():
                assert durable.truth(definition.when, one) is network.truth(definition.when, other)
