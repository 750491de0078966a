"""`format_yaml`: comments survive, meaning stays, and what is formatted stays as it is."""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass
from pathlib import Path
from textwrap import dedent

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opportune_rulebase import load
from opportune_rulebase.errors import Position, RulebaseError
from opportune_rulebase.expressions import Expression
from opportune_rulebase.formatting import FormatError, format_yaml
from opportune_service.adapters.files.rulebase_dir import read_rulebase

PACKS = Path(__file__).parents[2] / "rulebase" / "packs"
FILES = read_rulebase(PACKS / "gprs-precision")
YAMLS = sorted(n for n in FILES if n.endswith(".yaml") and not n.startswith("mappings/"))


def formatted(text: str) -> str:
    return format_yaml("x.yaml", dedent(text).encode())


def indented(text: str) -> str:
    """The same file, four columns a level."""
    doubled = re.sub(r"(?m)^( +)", r"\1\1", text)
    return re.sub(r"(?m)^( *)- ", r"\1-   ", doubled)


def spoilt(text: str) -> str:
    """The same file by a careless hand: other indents, spaces at the ends and within. At the ends of folded
    text they would be content."""
    ends = "" if ": >" in text else "  "
    lines = [f"{line}{ends}" for line in indented(text).split("\n")]
    return "\n".join(lines).replace("[{", "[ {").replace(", ", ",  ")


def comments(text: str) -> list[str]:
    """Comments of a file in which no value holds a # after a space."""
    return [match.rstrip() for match in re.findall(r"(?:^|\s)(#.*)$", text, re.MULTILINE)]


def plain(value: object) -> object:
    """A model without positions, and expressions by their text."""
    if isinstance(value, Expression):
        return value.text, value.type
    if isinstance(value, Position):
        return None
    if is_dataclass(value) and not isinstance(value, type):
        names = [f.name for f in fields(value) if f.name not in ("revision", "files", "key", "time_zone")]
        return {name: plain(getattr(value, name)) for name in names}
    if hasattr(value, "items"):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value


@pytest.mark.parametrize("pack", ["gprs-precision", "starter"])
def test_the_packs_are_formatted(pack: str) -> None:
    files = read_rulebase(PACKS / pack)
    for name, content in files.items():
        if name.endswith(".yaml") and not name.startswith("mappings/"):
            assert format_yaml(name, content) == content.decode(), name


@pytest.mark.parametrize("name", YAMLS)
def test_no_comment_of_the_sample_is_lost_however_it_was_spoilt(name: str) -> None:
    text = FILES[name].decode()
    careless = spoilt(text)
    assert careless != text
    once = format_yaml(name, careless.encode())
    assert once != careless
    # Two spaces within a text stay, so texts are compared without them.
    assert [re.sub(" +", " ", c) for c in comments(once)] == [re.sub(" +", " ", c) for c in comments(text)]
    assert format_yaml(name, once.encode()) == once


def test_the_sample_says_the_same_after_it_was_spoilt_and_formatted() -> None:
    careless = {
        name: indented(content.decode()).encode() if name in YAMLS else content
        for name, content in FILES.items()
    }
    mended = {n: format_yaml(n, c).encode() if n in YAMLS else c for n, c in careless.items()}
    assert mended != careless
    assert plain(load(mended)) == plain(load(FILES))
    changed = {**FILES, "rulebase.yaml": FILES["rulebase.yaml"].replace(b"rulebase: ", b"rulebase: x")}
    assert plain(load(changed)) != plain(load(FILES))  # the comparison can tell


def test_the_shape() -> None:
    text = """\
    # top
    a:
        # about b
        b:   1   # trailing


        list:
        - { x: 1,y: [ 1,2 ] }
        # about the second
        -   y: 'it''s'
            z: "a # b"
    # about c
    c: |
           literal\x20\x20
             # no comment
    # the end"""
    assert formatted(text) == dedent("""\
    # top
    a:
      # about b
      b: 1       # trailing


      list:
        - {x: 1, y: [1, 2]}
        # about the second
        - y: 'it''s'
          z: "a # b"
    # about c
    c: |
      literal\x20\x20
        # no comment
    # the end
    """)


@pytest.mark.parametrize(
    "text",
    [
        "a: 0123\nb: 21:00\nc: ~\nd:\ne: 1.50\nf: 0x1F\ng: no\nh: '1'\ni: 2026-11-20T20:00:00+08:00\n",
        'a: 尊敬的客户 # 注释\nb: "{{sub.brand_name}} 好"\n',
        "# nothing but a comment\n",
        "a: 1\n# between\n---\n# of the second\nb: 2\n",
        "- a: 1\n# about b\n- b: |\n    text\n\n    more\n",
        "",
    ],
)
def test_what_is_well_formed_stays_as_it_is(text: str) -> None:
    assert formatted(text) == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [1, # one\n    2]\n", "a comment would be lost"),
        ("a: {b: , c: 1}\n", "what it says would change"),
    ],
)
def test_a_file_that_would_lose_something_is_refused(text: str, said: str) -> None:
    with pytest.raises(FormatError, match=said):
        formatted(text)


@pytest.mark.parametrize("text", ["a: [1", "a: 1\na: 2\n", "a: &x 1\nb: *x\n", "a: !!int 1\n"])
def test_what_the_loader_cannot_read_is_refused_with_its_place(text: str) -> None:
    with pytest.raises(RulebaseError) as caught:
        formatted(text)
    assert caught.value.problems[0].position.file == "x.yaml"


_TEXTS = st.text(st.sampled_from("ab #:-'\"{}[],|>!&*%@?中\n\\ 01~"), max_size=12)


@settings(max_examples=300, deadline=None)
@given(st.lists(_TEXTS, max_size=8).map("\n".join))
def test_it_formats_or_refuses_and_never_twice_differently(text: str) -> None:
    try:
        once = format_yaml("x.yaml", text.encode())
    except (FormatError, RulebaseError):
        return
    assert format_yaml("x.yaml", once.encode()) == once
