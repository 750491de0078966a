"""Loading: hostile files, bounds, revisions, and what the problems have in common."""

from __future__ import annotations

from pathlib import Path

import pytest
from opportune_rulebase import Code, Problem, RulebaseError, Severity, load, revision_of
from opportune_rulebase.loading.fields import (
    DAY_US,
    HOUR_US,
    MINUTE_US,
    SECOND_US,
    parse_duration,
    write_duration,
)
from opportune_rulebase.loading.order import MAX_CHAIN
from opportune_rulebase.loading.problems import MAX_PROBLEMS, Report
from opportune_rulebase.loading.source import (
    MAX_DEPTH,
    MAX_FILE_NODES,
    MAX_YAML_BYTES,
    Budget,
    decode,
    documents,
)
from support.small_rulebase import small_rulebase

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
ALERT = "campaigns/alert.yaml"
BASE = {
    "rulebase.yaml": b"rulebase: tests\ntime_zone: Europe/Berlin\n",
    "vocabulary.yaml": b"""
events: {called: {attributes: {seconds: int}}}
subscriber: {age: int}
channels: {sms: {mode: automatic}}
products: {alert: {}}
""",
    ALERT: b"""
campaign: alert
product: alert
on: called
mode: automatic
channels: sms
content: {sms: hello}
""",
}


def problems_of(files: dict[str, bytes]) -> tuple[Problem, ...]:
    with pytest.raises(RulebaseError) as caught:
        load(BASE | files)
    return caught.value.problems


def codes_of(files: dict[str, bytes]) -> set[str]:
    return {problem.code for problem in problems_of(files)}


@pytest.mark.parametrize(
    ("text", "duration_us"),
    [("30s", 30 * SECOND_US), ("10m", 10 * MINUTE_US), ("24h", 24 * HOUR_US), ("7d", 7 * DAY_US)],
)
def test_durations_are_a_number_and_a_unit(text: str, duration_us: int) -> None:
    assert parse_duration(text) == duration_us


@pytest.mark.parametrize("text", ["", "10", "m", "-5m", "1.5h", "5 m", "5M", "1h30m", "٣m", "1" * 30 + "d"])
def test_other_durations_are_refused(text: str) -> None:
    assert parse_duration(text) is None


@pytest.mark.parametrize("duration_us", [SECOND_US, 90 * SECOND_US, 36 * HOUR_US, 400 * DAY_US])
def test_durations_are_written_as_they_are_read(duration_us: int) -> None:
    assert parse_duration(write_duration(duration_us)) == duration_us


def test_the_validity_covers_whole_days_of_the_zone() -> None:
    # Summer time begins on 29 March 2026, so the two days have 47 hours.
    valid = b"valid: {from: 2026-03-28, to: 2026-03-29}\n"
    campaign = load(BASE | {"campaigns/alert.yaml": BASE["campaigns/alert.yaml"] + valid}).campaigns[
        "alert"
    ]
    assert campaign.valid_from_us is not None
    assert campaign.valid_to_us is not None
    assert campaign.valid_to_us - campaign.valid_from_us == 47 * HOUR_US


def test_numbers_stay_text_where_text_is_expected() -> None:
    rulebase = load(
        BASE | {"campaigns/alert.yaml": BASE["campaigns/alert.yaml"] + b"branches: [0755, 1e3]\n"}
    )
    assert rulebase.campaigns["alert"].branches == {"0755", "1e3"}


def test_the_same_text_is_the_same_in_flow_and_block_style() -> None:
    flow = b"quiet_hours: {night: {from: 21:00, to: 08:00}}"
    block = b"quiet_hours:\n  night:\n    from: 21:00\n    to: 08:00\n"
    loaded = [load(BASE | {"policies.yaml": text}).policies.quiet_hours for text in (flow, block)]
    assert loaded[0] == loaded[1]
    assert loaded[0][0].start_minute == 21 * 60


@pytest.mark.parametrize(
    ("path", "changes"),
    [
        ("vocabulary.yaml", True),
        ("README.md", True),
        ("tests/a_test.yaml", False),
        ("mappings/calls.yaml", False),
    ],
)
def test_the_revision_is_that_of_what_runs(path: str, changes: bool) -> None:
    more = BASE | {path: BASE.get(path, b"") + b"# more\n"}
    assert (revision_of(more) != revision_of(BASE)) is changes
    assert load(more).revision == revision_of(more)


def test_the_revision_tells_paths_from_contents() -> None:
    assert revision_of({"a": b"bc", "d": b""}) != revision_of({"a": b"", "d": b"bc"})
    assert revision_of({"ab": b"c"}) != revision_of({"a": b"bc"})


def test_a_metric_keeps_its_key_until_its_content_changes() -> None:
    def key(definition: str) -> str:
        return load(BASE | {"behaviours.yaml": f"metrics: {{m: {definition}}}".encode()}).metrics["m"].key

    first = key("{count: called, days: 3}")
    assert key("{days: 3, count: [called], label: three days}") == first
    others = [
        "{count: called, days: 4}",
        "{count: called, last: 3h}",
        "{count: handset_changed, days: 3}",
        "{sum: event.seconds, of: called, days: 3}",
        "{count: called, days: 3, where: event.seconds > 1}",
    ]
    assert len({first, *map(key, others)}) == len(others) + 1


def test_problems_are_sorted_and_have_the_line_at_fault() -> None:
    files = {"policies.yaml": b"caps:\n  b: {limit: x}\n  a: {limit: y}\n", "matrix.yaml": b"row: {}\n"}
    problems = problems_of(files)
    assert list(problems) == sorted(problems)
    for problem in problems:
        at = problem.position
        lines = (BASE | files)[at.file].decode().split("\n")
        assert problem.snippet == lines[at.line - 1]
        assert 1 <= at.column <= len(problem.snippet) + 1


def test_warnings_do_not_refuse() -> None:
    rulebase = load(BASE | {"behaviours.yaml": b"scenes: {idle: {when: sub.age > 3}}"})
    assert [(p.code, p.severity) for p in rulebase.warnings] == [(Code.UNUSED, Severity.WARNING)]


def chain(length: int) -> dict[str, bytes]:
    """A scene that builds on another, and so on, `length` of them in all."""
    scenes = "".join(f"  s{n}: {{when: scene.s{n + 1} || sub.age > {n}}}\n" for n in range(1, length))
    return {"behaviours.yaml": f"scenes:\n{scenes}  s{length}: {{when: sub.age > 0}}\n".encode()}


def test_definitions_come_after_what_they_read() -> None:
    names = list(load(BASE | chain(MAX_CHAIN)).definitions)
    assert names == [f"scene.s{n}" for n in range(MAX_CHAIN, 0, -1)]


@pytest.mark.parametrize(
    "length", [MAX_CHAIN + 1, 3_000]
)  # the latter is longer than Python's stack is deep
def test_a_longer_chain_is_refused_by_name(length: int) -> None:
    (problem,) = problems_of(chain(length))
    assert problem.code == Code.TOO_DEEP
    assert f"'scene.s{length - MAX_CHAIN}'" in problem.message


def test_not_utf8_is_placed() -> None:
    (problem,) = problems_of({"matrix.yaml": b"columns: []\nrows: {a: " + b"\xff}"})
    assert problem.code == Code.NOT_UTF8
    assert (problem.position.line, problem.position.column) == (2, 11)


def test_a_control_character_is_placed() -> None:
    (problem,) = problems_of({"matrix.yaml": b"columns: []\nrows: \x07"})
    assert problem.code == Code.BAD_YAML
    assert (problem.position.line, problem.position.column) == (2, 7)


def test_a_byte_order_mark_is_ignored() -> None:
    assert load(BASE | {"rulebase.yaml": b"\xef\xbb\xbf" + BASE["rulebase.yaml"]}).name == "tests"


def test_billion_laughs_are_refused() -> None:
    lines = [
        "a: &a [x, x]",
        *(f"{b}: &{b} [*{a}, *{a}, *{a}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
    ]
    assert Code.ALIAS in codes_of({"matrix.yaml": "\n".join(lines).encode()})


@pytest.mark.parametrize("opening", ["[", "- ", '{"a":', "? "])
@pytest.mark.parametrize("depth", [MAX_DEPTH + 2, 10_000])
def test_deep_nesting_is_refused(opening: str, depth: int) -> None:
    assert codes_of({"matrix.yaml": (opening * depth).encode()}) == {Code.TOO_DEEP}


@pytest.mark.parametrize(
    ("path", "content", "code"),
    [
        ("matrix.yaml", b"#" * (MAX_YAML_BYTES + 1), Code.TOO_LARGE),
        ("matrix.yaml", b"a: " + b"b" * (MAX_YAML_BYTES - 10), Code.TOO_LARGE),
        ("matrix.yaml", b"- [x]\n" * (MAX_FILE_NODES // 2), Code.TOO_MANY),
        ("../matrix.yaml", b"", Code.BAD_PATH),
        ("campaigns/../../x.yaml", b"", Code.BAD_PATH),
        ("policy.yaml", b"", Code.UNKNOWN_FILE),
        ("vocabulary.yaml", b"", Code.UNKNOWN_NAME),
    ],
)
def test_files_out_of_bounds_are_refused(path: str, content: bytes, code: Code) -> None:
    assert code in codes_of({path: content})


def test_the_number_of_nodes_is_bounded_over_all_files() -> None:
    report, budget = Report(), Budget(nodes=25)
    file = decode("a.yaml", b"[x, x, x, x, x, x, x, x, x]", MAX_YAML_BYTES, report)
    assert file is not None
    assert [documents(file, budget, report) is None for _ in range(3)] == [False, False, True]
    assert {problem.code for problem in report.problems({})} == {Code.TOO_MANY}


def test_the_number_of_problems_is_bounded() -> None:
    lines = "".join(f"unknown_{n}: 1\n" for n in range(MAX_PROBLEMS * 2))
    problems = problems_of({"policies.yaml": lines.encode()})
    assert len(problems) == MAX_PROBLEMS + 1
    assert problems[0].code == Code.TOO_MANY_PROBLEMS


def test_empty_files_are_empty_sections() -> None:
    empty = dict.fromkeys(
        ("behaviours.yaml", "scenes.yaml", "matrix.yaml", "policies.yaml"), b"# nothing yet\n"
    )
    assert load(BASE | empty).campaigns.keys() == {"alert"}


def test_nothing_at_all_is_refused_by_name() -> None:
    with pytest.raises(RulebaseError) as caught:
        load({})
    assert [p.position.file for p in caught.value.problems] == ["rulebase.yaml", "vocabulary.yaml"]


def test_every_code_is_documented() -> None:
    text = (REFERENCE / "problems.md").read_text(encoding="utf-8")
    assert [code for code in Code if f"`{code}`" not in text] == []


def test_half_a_character_is_refused_where_it_stands() -> None:
    """No store and no wire takes it; YAML can write it as an escape."""
    files = small_rulebase() | {"scenes.yaml": b'scenes: {late: {label: "\\ud83d", when: "true"}}\n'}
    with pytest.raises(RulebaseError) as raised:
        load(files)
    [problem] = [each for each in raised.value.problems if each.severity == "error"]
    assert (problem.code, str(problem.position)) == ("not-utf8", "scenes.yaml:1:24")


def test_an_unknown_product_hides_nothing_else() -> None:
    files = small_rulebase()
    text = files["campaigns/mms-bundle.yaml"].replace(
        b"product: mms-bundle", b"product: nothing\npriority: high"
    )
    with pytest.raises(RulebaseError) as raised:
        load(files | {"campaigns/mms-bundle.yaml": text})
    assert {each.code for each in raised.value.problems} >= {"unknown-name", "wrong-type"}
