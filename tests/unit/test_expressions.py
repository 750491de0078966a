"""Expressions: what compiles, how faults are told, what CEL's evaluator answers, and parts."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from opportune_rulebase.errors import ExpressionError, Position
from opportune_rulebase.expressions import MAX_LENGTH, Call, Constant, Opaque, Scope, Unknown, Variable
from opportune_rulebase.nodes import walk

HERE = Position("campaigns/x.yaml", 3, 7)
SCOPE = Scope(
    {
        "event.amount": "int",
        "event.name": "string",
        "sub.score": "double",
        "sub.products": "list<string>",
        "sub.flags": "map<string, bool>",
        "now": "timestamp",
        "zone": "string",
    }
)


def faults(text: str, expect: str | None = "bool") -> tuple[tuple[int, int, str], ...]:
    with pytest.raises(ExpressionError) as caught:
        SCOPE.compile(text, HERE, expect=expect)
    return caught.value.faults


def test_the_tree_names_operators_overloads_and_resolved_variables() -> None:
    expression = SCOPE.compile("event.amount > 3", HERE)

    assert expression.tree == Call(
        "_>_", (Variable("event.amount", "int"), Constant(3, "int")), "bool", ("greater_int64",)
    )
    assert expression.position == HERE
    assert expression.type == "bool"


def test_the_receiver_of_a_member_call_is_its_first_argument() -> None:
    tree = SCOPE.compile("now.getHours(zone)", HERE).tree

    assert isinstance(tree, Call)
    assert tree.args == (Variable("now", "timestamp"), Variable("zone", "string"))


@pytest.mark.parametrize(
    ("text", "kind", "reads"),
    [
        ("sub.products.exists(p, p == event.name)", "comprehension", {"sub.products", "event.name"}),
        ("sub.flags.sms", "select", {"sub.flags"}),
        ("has(sub.flags.sms)", "select", {"sub.flags"}),
        ("{'a': event.amount > 1}", "struct", {"event.amount"}),
    ],
)
def test_what_is_left_to_cel_is_opaque_and_knows_what_it_reads(
    text: str, kind: str, reads: set[str]
) -> None:
    expression = SCOPE.compile(text, HERE)

    assert isinstance(expression.tree, Opaque)
    assert expression.tree.kind == kind
    assert expression.reads == expression.tree.reads == reads


@pytest.mark.parametrize(
    ("text", "type_"),
    [
        ("1 + 2", "int"),
        ("1.5", "double"),
        ("b'x'", "bytes"),
        ("1u", "uint"),
        ("null", "null_type"),
        ("[1, 2]", "list<int>"),
        ("{'a': true}", "map<string, bool>"),
        ("now", "timestamp"),
        ("now - now", "duration"),
        ("dyn(1)", "dyn"),
        ("type(1)", "type"),
        ("[[event.name]]", "list<list<string>>"),
    ],
)
def test_types_have_the_names_of_the_language(text: str, type_: str) -> None:
    assert SCOPE.compile(text, HERE).type == type_


def test_every_fault_is_told_with_its_place_in_the_text() -> None:
    assert [
        fault[:2] for fault in faults("event.amuont > 1 &&\n  event.nam == 'x' &&\n  nothing_like_it")
    ] == [
        (1, 1),
        (2, 3),
        (3, 3),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("event.amuont > 1", "unknown name 'event.amuont': did you mean 'event.amount'?"),
        ("event.name.startWith('a')", "unknown name 'startWith': did you mean 'startsWith'?"),
        ("qqqq", "unknown name 'qqqq'"),
        ("event.amount", "this must give bool, but gives int"),
        ("event.amount > 'x'", "'>' cannot be applied to (int, string): the types must fit exactly"),
        ("\ud800", "this is not valid Unicode: remove the lone surrogate"),
        (
            "event.amount > 1.5",
            "'>' cannot be applied to (int, double): convert one of them, with int(), uint() or double()",
        ),
        (
            "zone == null",
            "'==' cannot be applied to (string, null_type): nothing is ever null, what is missing is "
            "unknown",
        ),
        (
            "(now - now) * 2 > duration('1h')",
            "'*' cannot be applied to (duration, int): the types must fit exactly",
        ),
        (
            "[[1]] == {'a': 1}",
            "'==' cannot be applied to (list<list<int>>, map<string, int>): the types must fit exactly",
        ),
        ("string(type(1)) == ''", "'string' cannot be applied to (type(int)): the types must fit exactly"),
    ],
)
def test_a_fault_says_what_is_wrong(text: str, message: str) -> None:
    assert [fault[2] for fault in faults(text)] == [message]


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("has(event.amount) == 1", (1, 1)),
        ("true ||\n  has( sub.products ).size() > 0", (2, 3)),
        ("{'a': has(event.name)} == {'a': 'b'}", (1, 7)),
        ("sub.products.exists(p, p == '\U0001f600' && has(event.name) == p)", (1, 36)),
        ("has(event.amount)", (1, 1)),
        ("event.name == 'a' && has(event.amount)", (1, 22)),
    ],
)
def test_presence_of_a_variable_is_refused(text: str, at: tuple[int, int]) -> None:
    """CEL's checker would take `has(event.amount)` for `event.amount`."""
    found = {
        fault[:2] for fault in faults(text) if fault[2].startswith("has() tells whether a map has a key")
    }

    assert found == {at}


@pytest.mark.parametrize(
    ("text", "bindings", "value"),
    [
        ("has(sub.flags.a)", {"sub.flags": {"a": False}}, True),
        ("has(sub.flags.b)", {"sub.flags": {"a": False}}, False),
        ("[{'a': 1}].exists(event, has(event.name))", {}, False),
        ("(event.amount) > 1 && ((event.amount)) > 2", {"event.amount": 3}, True),
        ("size(event.name)+(event.amount)>(event.amount)", {"event.amount": 3, "event.name": "a"}, True),
    ],
)
def test_presence_of_a_key_is_allowed_and_brackets_are_no_macro(
    text: str, bindings: dict[str, object], value: object
) -> None:
    assert SCOPE.compile(text, HERE).evaluate(bindings) is value


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "\x00",
        "'",
        "1 +",
        "(" * 500 + "1" + ")" * 500,
        "-(" * 400 + "1" + ")" * 400,
        "+".join(["1"] * 3000),
        "[1].map(a, " * 40 + "1" + ")" * 40,
        "true" + " " * MAX_LENGTH,
        "a" * 9_999,
        "{" * 4_000,
        "\n" * 9_000 + "?",
    ],
)
def test_hostile_text_is_refused_with_a_place(text: str) -> None:
    for line, column, message in faults(text):
        assert line >= 1
        assert column >= 1
        assert message


def test_the_longest_allowed_text_compiles() -> None:
    text = "true" + " " * (MAX_LENGTH - 4)

    assert SCOPE.compile(text, HERE, expect="bool").evaluate({}) is True


@pytest.mark.parametrize("name", ["integer", "list<", "list<nothing>", "map<string>", ""])
def test_a_scope_refuses_a_type_that_does_not_exist(name: str) -> None:
    with pytest.raises(ValueError, match="not a type"):
        Scope({"event.x": name})


@pytest.mark.parametrize(
    ("text", "bindings", "value"),
    [
        ("event.amount / 2", {"event.amount": -5}, -2),
        ("event.amount > 3 || true", {}, True),
        ("event.amount > 3 && false", {}, False),
        ("false && event.amount > 3", {"event.amount": None}, False),
        ("sub.flags.sms", {"sub.flags": {"sms": False}}, False),
        ("sub.products", {"sub.products": ["a"]}, ["a"]),
        ("event.name + '!'", {"event.name": "a\0b"}, "a\0b!"),
        ("event.name == 'a'", {"event.name": "a\0b"}, False),
        ("'a\\x00' in sub.products && !('a' in sub.products)", {"sub.products": ["a\0"]}, True),
        ("sub.flags", {"sub.flags": {"a\0": True}}, {"a\0": True}),
        ("['a'].exists(zone, zone == 'a')", {"zone": "\0"}, True),
        ("['a'].exists(p, p == zone)", {"zone": "\0"}, False),
        (
            "now",
            {"now": datetime(2026, 11, 20, 4, 0, 0, 5, tzinfo=UTC)},
            datetime(2026, 11, 20, 4, 0, 0, 5, UTC),
        ),
        ("now.getHours(zone)", {"now": datetime(2026, 11, 20, 4, tzinfo=UTC), "zone": "Asia/Shanghai"}, 12),
    ],
)
def test_cel_evaluates(text: str, bindings: dict[str, object], value: object) -> None:
    assert SCOPE.compile(text, HERE).evaluate(bindings) == value


@pytest.mark.parametrize(
    ("text", "bindings"),
    [
        ("event.amount > 3", {}),
        ("event.amount > 3", {"event.amount": None}),
        ("event.amount > 3", {"event.amount": "4"}),
        ("event.amount > 3", {"event.amount": 2**63}),
        ("event.amount / 0 > 3", {"event.amount": 4}),
        ("event.amount * event.amount > 3", {"event.amount": 2**62}),
        ("event.name == 'a'", {"event.name": "\ud800"}),
        ("sub.flags.sms", {"sub.flags": {}}),
        ("now.getHours('Nowhere/Such') == 1", {"now": datetime(2026, 11, 20, tzinfo=UTC)}),
        ("now > timestamp(253402300800)", {"now": datetime(2026, 11, 20, tzinfo=UTC)}),
        ("duration('1d') > duration('1h')", {}),
        ("event.name.matches('(')", {"event.name": "a"}),
        ("int(sub.score) > 1", {"sub.score": 1e19}),
        ("int(sub.score) > 1", {"sub.score": float("nan")}),
    ],
)
def test_missing_and_unusable_data_is_unknown(text: str, bindings: dict[str, object]) -> None:
    result = SCOPE.compile(text, HERE).evaluate(bindings)

    assert isinstance(result, Unknown)
    assert result.reason


def test_a_part_is_an_expression_of_its_own() -> None:
    whole = SCOPE.compile("event.amount + 1 > 3 && sub.products.exists(p, p == event.name)", HERE)
    values = {type(node).__name__: whole.part(node) for node in walk(whole.tree)}

    bindings = {"event.amount": 7, "sub.products": ["a"], "event.name": "a"}
    assert [whole.part(node).evaluate(bindings) for node in walk(whole.tree)] == [
        True,
        True,
        8,
        7,
        1,
        3,
        True,
    ]
    assert values["Opaque"].reads == {"sub.products", "event.name"}
    assert values["Opaque"].type == "bool"


def test_a_part_of_a_part_is_still_a_part() -> None:
    whole = SCOPE.compile("event.amount + 1 > 3", HERE)
    assert isinstance(whole.tree, Call)
    total = whole.part(whole.tree.args[0])
    assert isinstance(total.tree, Call)

    assert total.part(total.tree.args[0]).evaluate({"event.amount": 7}) == 7


def test_only_the_very_node_is_a_part() -> None:
    whole = SCOPE.compile("event.amount > 3", HERE)

    with pytest.raises(ValueError, match="not a node"):
        whole.part(Constant(3, "int"))


@pytest.mark.parametrize(
    "text",
    [
        f"[event.name]{'.map(a, a + a)' * 28} == []",
        f"[sub.products]{'.map(a, [dyn(a), a])' * 28} == []",
        f"[sub.products]{'.map(a, a.map(b, dyn(a)))' * 4} == []",
    ],
)
def test_what_doubles_its_values_again_and_again_is_refused(text: str) -> None:
    """CEL's budget of iterations does not see it: 28 iterations make gigabytes of a short list."""
    with pytest.raises(ExpressionError, match="multiply"):
        SCOPE.compile(text, HERE)


@pytest.mark.parametrize(
    "text",
    [
        "sub.products.map(p, p + p).exists(p, p == 'aa')",
        f"sub.products{'.filter(p, p != event.name && size(p) > 1)' * 10}.size() > 0",
        "sub.products.all(p, sub.products.exists(q, p + q == q + p))",
        f"[sub.products]{'.map(a, a + a)' * 9}[0].size() > 1",
    ],
)
def test_what_people_write_is_not(text: str) -> None:
    assert SCOPE.compile(text, HERE).evaluate({"event.name": "a", "sub.products": ["a"]}) is not None


def test_an_unknown_name_is_one_fault() -> None:
    with pytest.raises(ExpressionError) as caught:
        SCOPE.compile("event.amuont - 1 > 2 && event.amount - 'a' > 1", HERE)
    assert [message.split(" ")[0] for _, _, message in caught.value.faults] == ["unknown", "'-'"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("event.amount >", "the expression ends too early"),
        ("event.amount > 1 2", "Syntax error: extraneous input '2'"),
        ("event.amount >> 1", "Syntax error: extraneous input '>'"),
    ],
)
def test_a_slip_is_named_without_the_grammar(text: str, says: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        SCOPE.compile(text, HERE)
    assert [message for _, _, message in caught.value.faults] == [says]
