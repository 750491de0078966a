"""Short ways to write campaigns: templates, and the matrix as a table. Each equals the long way."""

from __future__ import annotations

from dataclasses import fields

import pytest
from opportune_rulebase import Campaign, Code, RulebaseError, load
from opportune_rulebase.expressions import Expression
from support.workbooks import workbook

BASE = {
    "rulebase.yaml": b"rulebase: tests\ntime_zone: UTC\n",
    "vocabulary.yaml": b"""
events: {called: {attributes: {seconds: int}}, charged: {}}
subscriber: {age: int}
channels: {sms: {mode: automatic, max_segments: 1}, push: {mode: automatic}}
products: {one: {label: One}, two: {label: Two}}
""",
    "behaviours.yaml": b"behaviours: {often: {when: sub.age > 30}, seldom: {when: sub.age > 60}}\n",
}
LONG = b"""
campaign: first
product: one
on: called
when: event.seconds > 5
mode: automatic
channels: [sms, push]
content: {sms: short, push: "{{product.label}}!"}
fresh_for: 1h
"""


def shown(campaign: Campaign) -> dict[str, object]:
    """Everything that a campaign says, without places and without compiled expressions."""

    def plain(value: object) -> object:
        return value.text if isinstance(value, Expression) else value

    found = {each.name: plain(getattr(campaign, each.name)) for each in fields(campaign)}
    content = {channel: list(map(plain, each.parts)) for channel, each in campaign.content.items()}
    return found | {"content": content, "position": None}


def campaign(files: dict[str, bytes], name: str = "first") -> Campaign:
    return load(BASE | files).campaigns[name]


def codes_of(files: dict[str, bytes]) -> set[str]:
    with pytest.raises(RulebaseError) as caught:
        load(BASE | files)
    return {problem.code for problem in caught.value.problems}


def test_a_campaign_like_a_template_equals_the_one_written_out() -> None:
    short = {
        "campaigns/a.yaml": b"{campaign: first, like: quick, product: one, content: {sms: short}}",
        "campaigns/templates.yaml": b"""
template: general
on: called
when: event.seconds > 9
mode: automatic
channels: [sms, push]
content: {sms: long, push: "{{product.label}}!"}
---
template: quick
like: general
when: event.seconds > 5
fresh_for: 1h
""",
    }
    assert shown(campaign(short)) == shown(campaign({"campaigns/a.yaml": LONG}))


def test_what_is_inherited_stays_where_it_is_written() -> None:
    found = campaign(
        {
            "campaigns/a.yaml": b"{campaign: first, like: t, content: {sms: mine}}",
            "campaigns/t.yaml": LONG.replace(b"campaign: first", b"template: t"),
        }
    )
    assert found.when is not None
    assert str(found.when.position) == "campaigns/t.yaml:5:7"
    assert str(found.content["sms"].position) == "campaigns/a.yaml:1:43"
    assert str(found.content["push"].position) == "campaigns/t.yaml:8:29"
    assert str(found.position) == "campaigns/a.yaml:1:12"


def test_content_of_channels_that_are_not_used_is_left_behind() -> None:
    files = {
        "campaigns/a.yaml": b"{campaign: first, like: t, channels: push}",
        "campaigns/t.yaml": LONG.replace(b"campaign: first", b"template: t"),
    }
    assert list(campaign(files).content) == ["push"]


def test_twenty_campaigns_are_twenty_short_documents() -> None:
    documents = "\n---\n".join(
        f"{{campaign: c{n}, like: t, product: {'one' if n % 2 else 'two'}, content: {{sms: text {n}}}}}"
        for n in range(20)
    )
    rulebase = load(
        BASE
        | {
            "campaigns/all.yaml": documents.encode(),
            "campaigns/t.yaml": LONG.replace(b"campaign: first", b"template: t"),
        }
    )
    assert len(rulebase.campaigns) == 20
    assert {each.content["sms"].text for each in rulebase.campaigns.values()} == {
        f"text {n}" for n in range(20)
    }
    assert {each.product for each in rulebase.campaigns.values()} == {"one", "two"}


WITHOUT_ON = {
    "campaigns/a.yaml": LONG.replace(b"on: called\n", b"").replace(b"event.seconds > 5", b"sub.age < 99"),
    "campaigns/b.yaml": b"{campaign: second, product: two, mode: automatic, channels: push, "
    b"content: {push: x}}",
}
ROWS = [["behaviour", "called", "charged"], ["often", "first; second", ""], ["seldom", "", "first"]]
IN_YAML = b"""
columns: [called, charged]
rows: {often: {called: [first, second]}, seldom: {charged: first}}
"""
IN_CSV = "\n".join(",".join(row) for row in ROWS).encode()


@pytest.mark.parametrize(
    "matrix",
    [
        {"matrix.csv": IN_CSV},
        {"matrix.csv": b"\xef\xbb\xbf" + IN_CSV.replace(b"\n", b"\r\n").replace(b"; ", b"|")},
        {"matrix.xlsx": workbook(ROWS)},
    ],
    ids=["csv", "csv of a spreadsheet", "xlsx"],
)
def test_the_matrix_says_the_same_in_every_form(matrix: dict[str, bytes]) -> None:
    expected = load(BASE | WITHOUT_ON | {"matrix.yaml": IN_YAML}).campaigns
    found = load(BASE | WITHOUT_ON | matrix).campaigns
    assert {name: shown(each) for name, each in found.items()} == {
        name: shown(each) for name, each in expected.items()
    }
    assert found["first"].on == ("called", "charged")


def test_faults_in_a_workbook_name_row_and_column() -> None:
    rows = [*ROWS[:2], ["sledom", "", "first"], ["seldom", "frist", ""]]
    with pytest.raises(RulebaseError) as caught:
        load(BASE | WITHOUT_ON | {"matrix.xlsx": workbook(rows)})
    assert [(str(p.position), p.hint) for p in caught.value.problems if p.code == Code.UNKNOWN_NAME] == [
        ("matrix.xlsx:3:1", "did you mean 'seldom'?"),
        ("matrix.xlsx:4:2", "did you mean 'first'?"),
    ]


def test_one_form_of_the_matrix_is_enough() -> None:
    both = {"matrix.csv": IN_CSV, "matrix.xlsx": workbook(ROWS)}
    assert codes_of(WITHOUT_ON | both) == {Code.CONFLICTING_KEYS}


@pytest.mark.parametrize(
    ("text", "fits"),
    [("x" * 160, True), ("x" * 161, False), ("中" * 70, True), ("中" * 71, False), ("x" * 70 + "€", True)],
)
def test_a_text_that_is_too_long_without_its_variables_is_refused(text: str, fits: bool) -> None:
    written = LONG.replace(b"sms: short", f'sms: "{text}{{{{sub.age}}}}"'.encode())
    if fits:
        assert campaign({"campaigns/a.yaml": written}).content["sms"].parts[0] == text
    else:
        assert codes_of({"campaigns/a.yaml": written}) == {Code.TOO_LARGE}
