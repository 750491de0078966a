"""Unparsed trees mean what they meant: compiled again, they give the same tree."""

from __future__ import annotations

import pytest
from opportune_rulebase.errors import Position
from opportune_rulebase.expressions import Scope
from opportune_rulebase.unparse import unparse

SCOPE = Scope(
    {
        "event.x": "int",
        "event.d": "double",
        "event.s": "string",
        "sub.list": "list<string>",
        "sub.flags": "map<string, bool>",
        "scene.a": "bool",
        "now": "timestamp",
        "zone": "string",
    }
)


@pytest.mark.parametrize(
    "text",
    [
        "event.x >= -5 && !(scene.a || event.s == 'a')",
        r"""event.s == 'quote \' " back \\ tab \t line \n null \x00 é 中 \U0001F600'""",
        "event.x == -9223372036854775808",
        "-event.x < 3 || event.x - -3 > 1",
        "(event.x + 1) * 2 % 3 == event.x / 2",
        "event.d > 1e-7 && event.d < 1e300 || event.d == -1.5 || event.d == 1e22 || event.d == 3.0",
        "event.s in ['a', 'b'] ? scene.a : event.x == 1",
        "sub.list[0] == 'a' && sub.flags['a']",
        "size(sub.list) > 2 && event.s.startsWith('x') && event.s.matches('^a.*[0-9]$')",
        "now.getHours(zone) >= 19 && now.getMonth() == 1",
        "now - timestamp('2026-01-01T00:00:00Z') > duration('3h')",
        "int(event.d) == 3 && string(event.x) == '3' && double(event.x) == 3.0",
        "dyn(event.x) == null",
        "uint(event.x) == 3u",
        "dyn(event.x) < 2.5 && event.x in dyn([1.0])",
        "type(event.x) == type(1) || type(now) == type(timestamp(0))",
        "now.getHours('Asia/Kolkata') == 3 && (now - now).getSeconds() == 0",
        "[1.5, event.d][0] < 1e308 && -(-event.d) == 0.0",
        "sub.flags == sub.flags && null == null",
        "bytes(event.s) == bytes('a') && string(bytes(event.s)) == event.s",
    ],
)
def test_round_trip(text: str) -> None:
    tree = SCOPE.compile(text, Position("test")).tree
    written = unparse(tree)
    assert written is not None
    assert SCOPE.compile(written, Position("test")).tree == tree


@pytest.mark.parametrize(
    "text",
    [
        "type(event.x) == int",
        "sub.list.exists(each, each == 'a')",
        "{'a': 1} == {'a': 1}",
        "scene.a && sub.list.all(p, p != '')",
    ],
)
def test_what_the_tree_does_not_say_is_not_written(text: str) -> None:
    assert unparse(SCOPE.compile(text, Position("test")).tree) is None
