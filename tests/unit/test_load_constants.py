"""A constant that CEL refuses whatever the event makes a condition unknown for ever: an error at load."""

from __future__ import annotations

import pytest
from opportune_rulebase import RulebaseError, load
from opportune_rulebase.errors import Problem
from opportune_rulebase.loading import constants

FILES = {
    "rulebase.yaml": "rulebase: constant\ntime_zone: Asia/Shanghai\n",
    "vocabulary.yaml": "subscriber: {age: int, name: string, since: timestamp, names: list<string>}\n",
}


def problems(*conditions: str) -> list[Problem]:
    lines = "".join(f"  b{n}:\n    when: >-\n      {each}\n" for n, each in enumerate(conditions))
    files = FILES | {"behaviours.yaml": f"behaviours:\n{lines}"}
    try:
        load({path: text.encode() for path, text in files.items()})
    except RulebaseError as error:
        return list(error.problems)
    return []


@pytest.mark.parametrize(
    ("condition", "wrong", "says"),
    [
        ("sub.name.matches('[')", "'['", "missing ]"),
        ("matches(sub.name, 'a(?=b)')", "'a(?=b)'", "invalid perl operator"),
        ("sub.names.exists(n, n.matches('('))", "'('", "missing )"),
        ("now.getHours('Nowhere') > 3", "'Nowhere'", "timezone"),
        ("now - sub.since > duration('1d')", "'1d'", "Duration"),
        ("now > timestamp('2026-02-29T00:00:00Z')", "'2026", "Timestamp"),
        ("now > timestamp('2026-11-20')", "'2026", "Timestamp"),
        ("sub.age == int('many')", "'many'", "int"),
        ("sub.age % 0 == 1 || sub.age > 5", "0 ==", "zero"),
        ("'é𝒳' == sub.name && now.getDate('Foo') == 1", "'Foo') ==", "timezone"),
    ],
)
def test_it_is_refused_where_it_stands(condition: str, wrong: str, says: str) -> None:
    [problem] = problems(condition)
    assert (problem.code, problem.position.line) == ("bad-expression", 4)
    assert problem.position.column == 7 + condition.index(wrong)
    assert says in problem.message


@pytest.mark.parametrize(
    "zone",
    [
        "'/dev/stdin'",
        "'file:/dev/stdin'",
        "'../../../dev/stdin'",
        "'Asia/' + sub.name",
        "sub.name",
        "sub.age > 3 ? zone : '/dev/stdin'",
    ],
)
def test_no_time_zone_opens_a_file(zone: str) -> None:
    """CEL takes a path for a zone and reads that file: it would wait for a pipe for ever."""
    [problem] = problems(f"now.getHours({zone}) == 1")
    assert problem.message == "a time zone is a name, or 'zone'"
    [problem] = problems(f"[sub.name].exists(zone, now.getHours(zone) == 1) || ({zone}) == 'a'")
    assert problem.message == "a time zone is a name, or 'zone'"


def test_every_one_is_named() -> None:
    found = problems("sub.name.matches('[') || sub.age / 0 > 1", "true", "now > timestamp('x')")
    assert [(each.position.line, each.position.column) for each in found] == [(4, 24), (4, 42), (10, 23)]


@pytest.mark.parametrize(
    "condition",
    [
        "sub.name.matches('^[a-m]+$')",
        "now.getHours('Asia/Kolkata') > 3 && now.getHours('+08:00') > 1",
        "now - sub.since > duration('1h30m')",
        "now > timestamp('2024-02-29T23:59:59.5+08:00')",
        "sub.age / 2 > 1 && double(sub.age) / 0.0 > 1.0",
        "now.getHours(zone) == 1 && sub.name.matches(sub.name) && int(sub.name) > 1",
        "sub.name == \"matches('[')\"",
    ],
)
def test_what_may_have_a_value_is_not(condition: str) -> None:
    assert problems(condition) == []


def test_no_more_are_tried_than_cost_little(monkeypatch: pytest.MonkeyPatch) -> None:
    many = [f"sub.name.matches('[{'a' * 100}{n}')" for n in range(20)]
    assert len(problems(*many)) == 20
    monkeypatch.setattr(constants, "MAX_TRIED", 1_000)
    assert 0 < len(problems(*many)) < 10


def test_a_pattern_that_would_cost_much_at_every_event_is_refused() -> None:
    """CEL compiles it each time; a longer one was seen to take 184 ms."""
    costly = "(x{100}y{100}z{100}){9}|"
    [problem] = problems(f"sub.name.matches('{costly * 10}')")
    assert problem.message == "a pattern may have 200 characters"
    assert problems(f"sub.name.matches('{'a' * 200}')") == []
