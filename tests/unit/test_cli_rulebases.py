"""`opportune check` and `opportune test`: what they say, and how they end."""

from __future__ import annotations

import json
from pathlib import Path
from xml.dom import minidom

import pytest
from opportune_rulebase import to_archive
from opportune_service.adapters.files.rulebase_dir import read_rulebase
from opportune_service.cli import app
from opportune_service.cli.commands import COMMANDS
from opportune_service.cli.rulebases import rulebases
from support.town import write_town
from typer.testing import CliRunner, Result


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def town(tmp_path: Path) -> Path:
    return write_town(tmp_path / "town")


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_check_says_that_a_rulebase_is_good(town: Path) -> None:
    result = run("check", town)
    assert result.exit_code == 0, result.output
    assert "3 campaigns" in result.stdout


def test_check_does_not_fail_for_warnings(town: Path) -> None:
    with (town / "behaviours.yaml").open("a") as stream:
        stream.write("scenes: {unread: {when: now > now}}\n")
    result = run("check", town, "--json")
    answer = json.loads(result.stdout)
    assert result.exit_code == 0
    assert answer["ok"]
    assert answer["errors"] == 0
    assert answer["warnings"] > 0


def test_check_shows_every_error_with_its_place(town: Path) -> None:
    change(town / "campaigns/texts.yaml", "behaviour.busy_texter", "behaviour.busy_textr")
    change(town / "policies.yaml", "daily:", "daily: {limit: two, period: day}\n  other:")
    result = run("check", town)
    lines = result.stdout.splitlines()
    assert result.exit_code == 1
    at = next(number for number, line in enumerate(lines) if "campaigns/texts.yaml:5:" in line)
    assert lines[at + 1].index("behaviour.busy_textr") == lines[at + 2].index("^")
    assert "did you mean 'behaviour.busy_texter'?" in lines[at + 3]
    assert any("policies.yaml:2:" in line for line in lines)
    assert "Traceback" not in result.output


def test_the_caret_stands_under_wide_characters(town: Path) -> None:
    text = (town / "campaigns/texts.yaml").read_text()
    (town / "campaigns/texts.yaml").write_text(
        text.replace("{{product.label}}", "短信套餐 {{product.lable}}")
    )
    lines = run("check", town).stdout.splitlines()
    caret = next(number for number, line in enumerate(lines) if line.strip() == "^")
    before = lines[caret - 1].partition("{{product.lable}}")[0]
    wide = sum(character >= "\u2e80" for character in before)
    assert lines[caret].index("^") - (len(before) + wide) in range(len("{{product.lable}}"))


def test_errors_for_programs(town: Path) -> None:
    change(town / "rulebase.yaml", "Asia/Shanghai", "Asia/Nowhere")
    result = run("check", town, "--json")
    answer = json.loads(result.stdout)
    assert result.exit_code == 1
    assert not answer["ok"]
    assert [(p["file"], p["line"], p["severity"]) for p in answer["problems"]] == [
        ("rulebase.yaml", 3, "error")
    ]


def test_a_directory_without_a_rulebase_is_an_error_not_a_crash(tmp_path: Path) -> None:
    assert run("check", tmp_path).exit_code == 5
    assert run("check", tmp_path / "absent").exit_code == 2
    (tmp_path / "broken.zip").write_bytes(b"no archive")
    assert run("check", tmp_path / "broken.zip").exit_code == 5


def test_warnings_can_be_taken_seriously(town: Path) -> None:
    assert run("check", town, "--strict").exit_code == 0
    with (town / "behaviours.yaml").open("a") as stream:
        stream.write("scenes: {unread: {when: now > now}}\n")
    assert run("check", town, "--strict").exit_code == 4
    assert run("check", town).exit_code == 0
    change(town / "rulebase.yaml", "Asia/Shanghai", "Asia/Nowhere")
    assert run("check", town, "--strict").exit_code == 1


def test_an_archive_is_checked_and_tested_like_a_directory(town: Path, tmp_path: Path) -> None:
    archive = tmp_path / "town.zip"
    archive.write_bytes(to_archive(read_rulebase(town)))
    assert run("check", archive).stdout == run("check", town).stdout
    assert run("test", archive).stdout == run("test", town).stdout
    change(town / "policies.yaml", "daily:", "daily: {limit: two, period: day}\n  other:")
    archive.write_bytes(to_archive(read_rulebase(town)))
    assert run("check", archive).exit_code == 1
    assert run("check", archive).stdout == run("check", town).stdout


def suites(path: Path) -> dict[str, list[tuple[str, str]]]:
    """Of a JUnit report: file -> (test, failure)."""
    report = minidom.parse(str(path))  # noqa: S318 - our own
    return {
        suite.getAttribute("name"): [
            (
                case.getAttribute("name"),
                "".join(f.firstChild.data for f in case.getElementsByTagName("failure")),
            )
            for case in suite.getElementsByTagName("testcase")
        ]
        for suite in report.getElementsByTagName("testsuite")
    }


def test_a_junit_report_of_a_check(town: Path, tmp_path: Path) -> None:
    report = tmp_path / "check.xml"
    with (town / "behaviours.yaml").open("a") as stream:
        stream.write("scenes: {unread: {when: now > now}}\n")
    assert run("check", town, "--junit", report).exit_code == 0
    assert not any(failure for cases in suites(report).values() for _, failure in cases)
    assert run("check", town, "--strict", "--junit", report).exit_code == 4
    assert any("scene.unread" in failure for _, failure in suites(report)["behaviours.yaml"])
    change(town / "campaigns/texts.yaml", "behaviour.busy_texter", "behaviour.busy_<textr")
    assert run("check", town, "--junit", report).exit_code == 1
    found = suites(report)
    assert all("^" in failure for _, failure in found["campaigns/texts.yaml"])
    assert found["rulebase.yaml"] == [("sound", "")]


def test_a_junit_report_of_tests(town: Path, tmp_path: Path) -> None:
    report = tmp_path / "test.xml"
    (town / "tests/texts_test.yaml").write_text(CASE % (1, "[]"))
    assert run("test", town, "--junit", report).exit_code == 1
    ((name, failure),) = suites(report)["tests/texts_test.yaml"]
    assert name == "here"
    assert "tests/texts_test.yaml:3:" in failure
    assert "not listed under expect" in failure


def test_coverage_is_told_and_can_be_asked_for(town: Path, tmp_path: Path) -> None:
    result = run("test", town, "--coverage-json", tmp_path / "coverage.json")
    told = json.loads((tmp_path / "coverage.json").read_text())
    assert told["campaigns"]["care-plan-at-counter"] == "never"
    assert told["campaigns"]["text-bundle-offer"] == "decided"
    assert told["definitions"]["behaviour.busy_texter"] == {"held": True, "not_held": True}
    assert told == json.loads(run("test", town, "--json").stdout)["coverage"]
    assert "care-plan-at-counter" in result.stdout
    assert run("test", town, "--min-coverage", int(told["percent"])).exit_code == 0
    less = run("test", town, "--min-coverage", "100")
    assert less.exit_code == 4
    assert "less than 100 %" in less.stderr


@pytest.mark.parametrize("engine", ["network", "durable"])
def test_the_tests_of_a_rulebase_pass(town: Path, engine: str) -> None:
    if engine == "durable":
        pytest.importorskip("opportune_rulebase.durable")
    result = run("test", town, "--engine", engine, "--json")
    answer = json.loads(result.stdout)
    assert result.exit_code == 0, result.output
    assert answer["ok"]
    assert answer["passed"] == len(answer["cases"]) > 5


def test_only_the_cases_asked_for_are_run(town: Path) -> None:
    answer = json.loads(run("test", town, "--only", "one contact a day", "--json").stdout)
    assert [case["name"] for case in answer["cases"]] == ["one contact a day"]
    by_campaign = json.loads(run("test", town, "--only", "picture-bundle", "--json").stdout)
    assert [case["name"] for case in by_campaign["cases"]] == ["a handset that cannot show pictures"]
    assert run("test", town, "--only", "no such case").exit_code == 1


CASE = """\
now: 2026-11-20T12:00:00+08:00
cases:
  - name: here
    given: {metric.texts_24h: %s}
    events: [{type: sms_sent}]
    expect: %s
"""


@pytest.mark.parametrize(
    ("texts", "expect", "failure"),
    [
        (1, "[]", "not listed under expect"),
        (0, "[{campaign: text-bundle-offer}]", "metric.texts_24h is 1"),
        (1, "[{campaign: text-bundle-offer, reason: capped}]", "automatic decided on sms"),
        (1, "[{campaign: text-bundle-offer, content: nothing}]", "saying '短信套餐: reply YES'"),
        (
            1,
            "[{campaign: text-bundle-offer}, {campaign: text-bundle-offer}]",
            "text-bundle-offer should be",
        ),
        (1, "[{campaign: text-bundle-offer}, {campaign: care-plan-at-counter}]", "it is on counter_visit"),
    ],
)
def test_a_case_that_fails_says_what_happened_instead(
    town: Path, texts: int, expect: str, failure: str
) -> None:
    (town / "tests/texts_test.yaml").write_text(CASE % (texts, expect))
    result = run("test", town, "--json")
    case = json.loads(result.stdout)["cases"][0]
    assert result.exit_code == 1
    assert len(case["failures"]) == 1
    assert failure in case["failures"][0]
    assert "FAILED" in run("test", town).stdout


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("expect: []\n    evnts: []", "unknown key 'evnts'"),
        ("expect: [{campaign: text-bundle-ofer}]", "did you mean 'text-bundle-offer'?"),
        ("expect: []\n    subscriber: {agee: 3}", "did you mean 'age'?"),
        ("expect: []\n    subscriber: {age: old}", "Expected `int`"),
        ("expect: []\n    subscriber: {age: 3, known: false}", "not known"),
        ("expect: []\n    history: {contacts: [{campaign: text-bundle-offer}]}", "no 'before'"),
        ("expect: []\n    now: yesterday", "is not an instant"),
    ],
)
def test_a_wrong_test_file_is_refused_with_its_place(town: Path, line: str, message: str) -> None:
    text = CASE.replace("expect: %s", line) % 1
    (town / "tests/texts_test.yaml").write_text(text)
    result = run("test", town)
    assert result.exit_code == 1
    assert "tests/texts_test.yaml:" in result.stderr
    assert message in result.stderr


@pytest.mark.parametrize(
    "value", ["{metric.texts_24h: -1}", "{metric.nope: 1}", "{terminal.mms: 3}", "{control: true}"]
)
def test_a_value_that_cannot_be_given_is_refused(town: Path, value: str) -> None:
    (town / "tests/texts_test.yaml").write_text(CASE.replace("{metric.texts_24h: %s}", value) % "[]")
    assert run("test", town).exit_code == 1


def test_every_command_explains_itself_with_an_example() -> None:
    assert all(name in run("--help").stdout for name in COMMANDS)
    for name in [*COMMANDS, *(f"rulebases {each.name}" for each in rulebases.registered_commands)]:
        result = run(*name.split(), "--help")
        assert result.exit_code == 0
        assert f"Example: opportune {name}" in result.stdout


def test_version() -> None:
    assert run("version").stdout.startswith("opportune ")
