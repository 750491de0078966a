"""The cage around durable_rules: names, limits, and what it is there to prevent."""

from __future__ import annotations

import json
from contextlib import closing

import durable_rules_engine as binding
import pytest
from opportune_rulebase.durable import DurableEngine, cage
from opportune_rulebase.durable.horn import Clause, Literal
from opportune_rulebase.errors import RulebaseError
from support.rulebases import make_rulebase

COLLIDING = ("48600462789", "48600679192")


def given(number: int) -> Literal:
    return Literal(f"given {number}", True)


def head(number: int) -> Literal:
    return Literal(f"head {number}", True)


def derive(ruleset: cage.Ruleset, known: set[Literal]) -> set[Literal]:
    return ruleset.run([member for key, truth, member in ruleset.reads if Literal(key, truth) in known])


def test_names_are_told_apart_by_their_hash_and_renamed_when_it_collides() -> None:
    def coarse(name: str) -> int:
        return cage.fnv_1a(name) % 127

    names = cage.short_names(60, coarse)
    assert len({coarse(name) for name in names}) == len(names) == 60
    assert names != [f"f{number}" for number in range(60)], "nothing collided: this test shows nothing"
    assert len({cage.fnv_1a(name) for name in cage.short_names(5000)}) == 5000


@pytest.mark.parametrize("word", ["sid", "id", "$s"])
def test_no_name_has_the_hash_of_a_reserved_word(word: str) -> None:
    assert cage.fnv_1a(word) not in map(cage.fnv_1a, cage.short_names(1000))
    assert "f0" not in cage.short_names(5, lambda name: 0 if name in (word, "f0") else cage.fnv_1a(name))


def test_uncaged_two_subscribers_share_a_session() -> None:
    """The control: why subscribers' numbers never reach durable_rules."""
    rules = {"r": {"all": [{"m0": {"a": True}}, {"m1": {"b": True}}]}}
    handle = binding.create_ruleset("uncaged", json.dumps(rules))
    try:
        binding.assert_fact(handle, json.dumps({"sid": COLLIDING[0], "id": "1", "a": True}))
        unhandled, _ = binding.assert_fact(handle, json.dumps({"sid": COLLIDING[1], "id": "2", "b": True}))
        assert not unhandled, "a rule fired over the facts of two subscribers"
    finally:
        binding.delete_ruleset(handle)


def test_clauses_chain_and_leave_nothing_behind() -> None:
    clauses = [
        Clause(head(0), (given(0), given(1))),
        Clause(head(1), (head(0), given(2))),
        Clause(head(2), (head(1), head(0))),
        Clause(head(3), ()),
        Clause(head(1), (given(3),)),
    ]
    with closing(cage.Ruleset(clauses)) as ruleset:
        for _ in range(3):
            assert derive(ruleset, {given(0), given(1), given(2)}) == {head(0), head(1), head(2), head(3)}
            assert derive(ruleset, {given(0), given(2)}) == {head(3)}
            assert derive(ruleset, {given(3)}) == {head(1), head(3)}
            assert derive(ruleset, set()) == {head(3)}


def test_a_full_ruleset_with_everything_true() -> None:
    per_clause = cage.MOST_GIVEN // cage.MOST_CLAUSES
    clauses = [
        Clause(head(number), tuple(given(number * per_clause + each) for each in range(per_clause)))
        for number in range(cage.MOST_CLAUSES)
    ]
    with closing(cage.Ruleset(clauses)) as ruleset:
        everything = {literal for clause in clauses for literal in clause.body}
        assert len(everything) == cage.MOST_GIVEN
        assert derive(ruleset, everything) == {clause.head for clause in clauses}


def test_the_widest_join() -> None:
    clauses = [Clause(head(number), (given(number),)) for number in range(cage.MOST_DERIVED)]
    clauses.append(Clause(head(99), (given(99), *(head(number) for number in range(cage.MOST_DERIVED)))))
    with closing(cage.Ruleset(clauses)) as ruleset:
        known = {given(number) for number in (*range(cage.MOST_DERIVED), 99)}
        assert head(99) in derive(ruleset, known)
        assert head(99) not in derive(ruleset, known - {given(7)})


@pytest.mark.parametrize(
    "clauses",
    [
        [Clause(head(number), (given(0),)) for number in range(cage.MOST_CLAUSES + 1)],
        [Clause(head(0), tuple(map(given, range(cage.MOST_GIVEN + 1))))],
    ],
    ids=["clauses", "conditions"],
)
def test_a_ruleset_past_a_limit_is_refused_before_it_is_made(clauses: list[Clause]) -> None:
    with pytest.raises(ValueError, match="split them"):
        cage.Ruleset(clauses)


def test_every_campaign_that_is_too_large_is_named() -> None:
    wide = " || ".join(f"event.amount == {number}" for number in range(cage.MOST_CLAUSES + 1))
    rulebase = make_rulebase(
        events={"sms": {"amount": "int"}},
        campaigns={
            "b": {"when": wide},
            "ok": {"when": "event.amount == 1"},
            "a": {"when": f"!({wide})"},
            "c": {"when": wide},
        },
    )
    with pytest.raises(RulebaseError) as caught:
        DurableEngine(rulebase)
    assert [problem.code for problem in caught.value.problems] == ["engine-limit", "engine-limit"]
    assert [problem.position for problem in caught.value.problems] == [
        rulebase.campaigns[name].position for name in ("b", "c")
    ]
    assert all("network engine" in problem.hint for problem in caught.value.problems)
