"""The network engine beyond its answers: hostile rulebases, ill-typed facts, counting, indexing."""

from __future__ import annotations

from datetime import date

import pytest
from opportune_rulebase.errors import ExpressionError, Position
from opportune_rulebase.model import Calendar, Place
from opportune_rulebase.network import NetworkEngine
from support.oracle import naive_match, naive_value
from support.rulebases import attribute, make_facts, make_rulebase, make_scope

HERE = Position("x", 1, 1)
BASE = make_rulebase(
    events={"sms_sent": {"amount": "int", "name": "string", "ratio": "double"}},
    subscriber={
        "age": "int",
        "brand": attribute("brand", "string", default="gotone"),
        "flags": "map<string, bool>",
        "products": "list<string>",
    },
    metrics={
        "sms": {"of": ("sms_sent",), "days": 7},
        "net": {"of": ("sms_sent",), "value": "amount", "bound": "none"},
        "least": {"of": ("sms_sent",), "value": "amount", "kind": "min"},
        "last": {"of": ("sms_sent",), "value": "name", "kind": "latest"},
    },
    definitions={
        "behaviour.young": "sub.age < 25",
        "scene.odd": "behaviour.young || event.amount % 2 == 1",
    },
)
SCOPE = make_scope(BASE)


def truth(text: str, **facts: object) -> object:
    event = {"amount": 3, "name": "x"}
    return NetworkEngine(BASE).truth(SCOPE.compile(text, HERE), make_facts("sms_sent", event, **facts))  # type: ignore[arg-type]  # keywords of make_facts


def test_a_figure_that_may_fall_is_not_bounded() -> None:
    assert truth("metric.net >= 3", metrics={"net": (5, False)}) is None


def test_an_absent_context_value_takes_its_default_and_a_null_is_absent() -> None:
    assert truth("sub.brand == 'gotone'") is True
    assert truth("sub.brand == 'gotone'", sub={"brand": None}) is True
    assert truth("sub.age > 3", sub={"age": None}) is None


def test_the_place_is_read_and_may_be_unknown() -> None:
    here = Place("hall", "大厅", ("station", "mall"))

    assert truth("'mall' in place.categories && place.name == 'hall'", place=here) is True
    assert truth("'mall' in place.categories") is None


@pytest.mark.parametrize("size", [2, 9])
def test_values_of_the_wrong_type_never_raise_and_count_as_missing(size: int) -> None:
    texts = (
        "event.amount > 2",
        "event.name.startsWith('x')",
        "event.ratio > 0.5",
        "'a' in sub.products",
        "sub.flags['a']",
    )
    rulebase = make_rulebase(
        events={"sms_sent": {"amount": "int", "name": "string", "ratio": "double"}},
        subscriber={"flags": "map<string, bool>", "products": "list<string>"},
        campaigns={
            f"c{number}": {"when": texts[number % len(texts)]} for number in range(size * len(texts))
        },
    )
    engine = NetworkEngine(rulebase)

    for wrong in ("text", 7, 2**70, 1.5, True, [1], {"a": 1}, object()):
        facts = make_facts(
            "sms_sent",
            dict.fromkeys(("amount", "name", "ratio"), wrong),
            sub={"flags": wrong, "products": wrong},
        )
        engine.match(facts)
        for campaign in rulebase.campaigns.values():
            assert campaign.when is not None
            truth = engine.truth(campaign.when, facts)
            assert engine.test(campaign.when)(facts) is (truth is True)
    wrong_everywhere = make_facts(
        "sms_sent", {"amount": "7", "name": 7, "ratio": "x"}, sub={"flags": 1, "products": 1}
    )
    assert list(engine.match(wrong_everywhere)) == []


def test_an_event_type_without_campaigns_or_unknown_matches_nothing() -> None:
    engine = NetworkEngine(BASE)

    assert list(engine.match(make_facts("sms_sent"))) == []
    assert list(engine.match(make_facts("never_declared"))) == []


def test_what_was_missing_is_counted_by_name() -> None:
    engine = NetworkEngine(BASE)
    expression = SCOPE.compile("scene.odd && metric.sms > 5", HERE)

    assert engine.unknowns() == {}
    engine.truth(expression, make_facts("sms_sent"))

    counted = engine.unknowns()
    assert set(counted) == {"sub.age", "behaviour.young", "event.amount", "scene.odd", "metric.sms"}
    assert all(count == 1 for count in counted.values())


def test_what_was_missing_of_other_spaces_is_counted_by_name() -> None:
    rulebase = make_rulebase(
        events={"sms_sent": {"amount": "int"}},
        subscriber={"age": "int"},
        facts={"told": {"on": ("sms_sent",)}},
        imported={"behaviour.mined": 1},
    )
    engine, scope = NetworkEngine(rulebase), make_scope(rulebase)
    names = {"peer.age > 1", "fact.told", "behaviour.mined", "calendar.workday", "first.amount > 1"}

    outside = Calendar(last=date(2020, 1, 1))
    for text in names:
        assert engine.truth(scope.compile(text, HERE), make_facts("sms_sent", calendar=outside)) is None

    assert engine.unknowns() == dict.fromkeys({text.removesuffix(" > 1") for text in names}, 1)


def test_a_definition_is_computed_once_an_event() -> None:
    engine = NetworkEngine(BASE)
    facts = make_facts("sms_sent", {"amount": 3})
    expression = SCOPE.compile("(behaviour.young || behaviour.young) && scene.odd && behaviour.young", HERE)

    engine.truth(expression, facts)

    assert engine.unknowns()["sub.age"] == 1
    assert facts.memo == {"behaviour.young": None, "scene.odd": True}


def test_an_unknown_definition_counts_once_an_event_and_only_if_it_is_reached() -> None:
    rulebase = make_rulebase(
        events={"sms_sent": {"amount": "int"}},
        subscriber={"age": "int"},
        definitions={"scene.s": "sub.age < 20 || sub.age > 60"},
        campaigns={f"c{number}": {"when": f"scene.s && event.amount > {number}"} for number in range(3)},
    )
    engine = NetworkEngine(rulebase)

    engine.match(make_facts("sms_sent", {"amount": 0}))
    assert engine.unknowns() == {}
    engine.match(make_facts("sms_sent", {"amount": 9}))
    assert engine.unknowns()["scene.s"] == 1


def test_a_figure_that_is_high_enough_is_not_unknown() -> None:
    texts = ("metric.sms >= 3", "metric.sms >= 4 && event.amount > 1", "metric.sms < 5")
    rulebase = make_rulebase(
        events={"sms_sent": {"amount": "int"}},
        metrics={"sms": {"of": ("sms_sent",), "days": 7}},
        campaigns={f"c{number}": {"when": text} for number, text in enumerate(texts)},
    )
    engine = NetworkEngine(rulebase)

    found = engine.match(make_facts("sms_sent", {"amount": 2}, metrics={"sms": (6, False)}))

    assert [each.name for each in found] == ["c0", "c1"]
    assert engine.unknowns() == {}
    engine.match(make_facts("sms_sent", {"amount": 2}, metrics={"sms": (2, False)}))
    assert set(engine.unknowns()) == {"metric.sms"}


def test_the_subscribers_own_clock_is_read() -> None:
    # The default moment of the facts is noon in Shanghai, a Friday.
    assert truth("now.getHours(zone) == 12 && now.getHours() == 4 && now.getDayOfWeek(zone) == 5") is True


@pytest.mark.parametrize(
    "text",
    [
        "event.name == '\\'); raise SystemExit #'",
        'event.name == "\\"\\"\\"\\n\\u0000{0}{}"',
        "event.name in ['{0}', '{', '%s', '\\\\']",
        "event.ratio < 1e400",
        "event.amount > -9223372036854775808 && event.amount < 9223372036854775807",
    ],
)
def test_literals_never_become_anything_but_literals(text: str) -> None:
    facts = make_facts("sms_sent", {"amount": 3, "name": "{0}", "ratio": 0.5})
    expression = SCOPE.compile(text, HERE)
    rulebase = make_rulebase(
        events={"sms_sent": {"amount": "int", "name": "string", "ratio": "double"}},
        campaigns={f"c{number}": {"when": text} for number in range(6)},
    )

    assert NetworkEngine(BASE).truth(expression, facts) is naive_value(BASE, expression, facts)
    assert [each.name for each in NetworkEngine(rulebase).match(facts)] == naive_match(rulebase, facts)


@pytest.mark.parametrize(
    ("start", "inner", "end"),
    [
        ("-(", "event.amount", ")"),
        ("1 + 2 * (3 - ", "event.amount", ")"),
        ("(event.amount > 0 && event.amount + 1 == 2 * -(", "event.amount", ") ? 1 : 2)"),
        ("(true || event.amount > 1 && (", "event.amount > 2", "))"),
        ("(event.amount > 1 ? (", "event.amount > 2", ") : event.amount > 3)"),
        ("(event.amount > 1) == (false || ", "event.amount > 2", ")"),
        ("((", "event.amount > 1", ") ? event.amount > 2 : event.amount > 3)"),
        ("[1].exists(a, ", "event.amount > 2", ")"),
    ],
)
def test_the_deepest_expression_that_compiles_also_runs(start: str, inner: str, end: str) -> None:
    facts = make_facts("sms_sent", {"amount": 3})
    engine, deepest = NetworkEngine(BASE), 0
    for depth in range(1, 60):
        try:
            expression = SCOPE.compile(start * depth + inner + end * depth, HERE)
        except ExpressionError:
            break
        deepest = depth
        assert engine.value(expression, facts) == naive_value(BASE, expression, facts)
    assert 5 < deepest < 59


def test_many_alternatives_compile_to_source_of_proportional_size() -> None:
    chain = " || ".join(f"event.amount == {number}" for number in range(400))
    rulebase = make_rulebase(events={"sms_sent": {"amount": "int"}}, campaigns={"c": {"when": chain}})
    engine = NetworkEngine(rulebase)

    assert [each.name for each in engine.match(make_facts("sms_sent", {"amount": 399}))] == ["c"]
    assert len(engine.source("sms_sent")) < 20 * len(chain)


def test_definitions_that_double_at_each_step_do_not_grow_the_engine() -> None:
    definitions = {"scene.s0": "sub.age > 10"}
    for number in range(1, 60):
        definitions[f"scene.s{number}"] = f"scene.s{number - 1} && scene.s{number - 1}"
    rulebase = make_rulebase(
        events={"sms_sent": {}},
        subscriber={"age": "int"},
        definitions=definitions,
        campaigns={f"c{number}": {"when": "scene.s59"} for number in range(6)},
    )
    engine = NetworkEngine(rulebase)

    assert len(engine.match(make_facts("sms_sent", sub={"age": 11}))) == 6
    assert len(engine.match(make_facts("sms_sent", sub={"age": 10}))) == 0


def test_a_definition_of_many_conditions_is_not_repeated_for_each_campaign() -> None:
    large = " && ".join(f"event.amount != {number}" for number in range(50)) + " && sub.age > 10"
    rulebase = make_rulebase(
        events={"sms_sent": {"amount": "int", "name": "string"}},
        subscriber={"age": "int"},
        definitions={"scene.large": large},
        campaigns={f"c{n:03}": {"when": f"scene.large && event.name == 'n{n}'"} for n in range(200)},
    )
    engine = NetworkEngine(rulebase)

    def match(amount: int) -> list[str]:
        facts = make_facts("sms_sent", {"amount": amount, "name": "n7"}, sub={"age": 11})
        return [each.name for each in engine.match(facts)]

    assert match(50) == ["c007"]
    assert match(49) == []
    conditions = 50 + 200 * 2
    assert engine.source("sms_sent").count(" if ") + engine.source("").count(" if ") < 5 * conditions


def test_lists_of_values_do_not_multiply_the_source() -> None:
    names = ("a", "b", "c", "d", "e", "f")
    attributes = dict.fromkeys(names, "string")
    rulebase = make_rulebase(
        events={"sms_sent": attributes},
        campaigns={
            f"c{number:03}": {
                "when": " && ".join(
                    f"event.{each} in ['{number}', '{number + 1}', '{number + 2}']" for each in names
                )
            }
            for number in range(100)
        },
    )
    engine = NetworkEngine(rulebase)

    found = engine.match(make_facts("sms_sent", dict.fromkeys(names, "42")))

    assert [each.name for each in found] == ["c040", "c041", "c042"]
    assert len(engine.source("sms_sent")) < 10 * sum(
        len(each.when.text) for each in rulebase.campaigns.values() if each.when
    )


@pytest.mark.parametrize("size", [4, 12, 60])
def test_campaigns_found_in_several_ways_come_in_order_of_name(size: int) -> None:
    """By a table of names, by another of amounts, one by one, or as a crowd; some figures from below."""
    texts = (
        "event.name == 'n{0}' && metric.sms >= 2",
        "event.amount in [{0}, 5] && metric.sms >= 1",
        "metric.sms == {0}",
        "metric.sms >= {0} && event.amount < 50",
        "event.amount == {0} && metric.sms < 9",
        "event.name == 'n{0}' && event.name != 'n1'",
    )
    rulebase = make_rulebase(
        events={"sms_sent": {"amount": "int", "name": "string"}},
        metrics={"sms": {"of": ("sms_sent",), "days": 7}},
        campaigns={
            f"c{(number * 37) % 101:03}": {"when": texts[number % len(texts)].format(number // len(texts))}
            for number in range(size)
        },
    )
    engine, seen = NetworkEngine(rulebase), 0

    for value in range(12):
        for figure in ((value, True), (value, False), (9, False), (None, False)):
            facts = make_facts("sms_sent", {"amount": value, "name": f"n{value}"}, metrics={"sms": figure})
            found = [each.name for each in engine.match(facts)]
            assert found == naive_match(rulebase, facts)
            seen += len(found) > 1
    assert seen


def test_campaigns_come_in_order_of_name() -> None:
    rulebase = make_rulebase(
        events={"sms_sent": {"amount": "int"}},
        campaigns={name: {"when": "event.amount > 1"} for name in ("b", "a10", "a9", "Z", "é", "c")},
    )

    found = [each.name for each in NetworkEngine(rulebase).match(make_facts("sms_sent", {"amount": 2}))]

    assert found == sorted(rulebase.campaigns)


def test_the_source_can_be_read_and_closing_twice_is_allowed() -> None:
    engine = NetworkEngine(BASE)

    assert "behaviour.young" in engine.source("")
    with pytest.raises(KeyError):
        engine.source("never_declared")
    engine.close()
    engine.close()
