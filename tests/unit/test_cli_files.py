"""`opportune simulate` and `opportune replay`: files out, files in, and the report."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from opportune_service.cli import app
from support.town import write_town
from typer.testing import CliRunner, Result

START = "2026-11-20T08:00:00+08:00"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def town(tmp_path: Path) -> Path:
    return write_town(tmp_path / "town")


def simulate(town: Path, events: Path, context: Path) -> Result:
    return run(
        "simulate", "--out", events, "--context", context, "--subscribers", 20, "--hours", 6,
        "--start", START, "--seed", 3, "--rulebase", town,
    )  # fmt: skip


def test_the_same_arguments_write_the_same_files(town: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        result = simulate(town, tmp_path / f"{name}.jsonl", tmp_path / f"{name}-people.jsonl")
        assert result.exit_code == 0, result.output
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes() != b""
    assert (
        (tmp_path / "one-people.jsonl").read_bytes() == (tmp_path / "two-people.jsonl").read_bytes() != b""
    )


def test_replay_counts_what_the_file_holds(town: Path, tmp_path: Path) -> None:
    events, people = tmp_path / "day.jsonl", tmp_path / "people.jsonl"
    simulate(town, events, people)
    result = run("replay", events, "--rulebase", town, "--context", people, "--metrics", 2, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    records = [json.loads(line) for line in events.read_text().splitlines()]
    by_type = Counter(record["type"] for record in records)
    assert report["by_type"] == {name: by_type[name] for name in report["by_type"]}
    assert report["events"] + report["rejected"]["unknown_type"] == len(records)
    assert report["decided"]["text-bundle-offer"] > 0
    assert report["reasons"]["decided"] == sum(report["decided"].values())
    texts = Counter(record["subscriber_id"] for record in records if record["type"] == "sms_sent")
    for view in report["metrics"]:
        assert view["metrics"]["texts_24h"]["value"] == texts[view["subscriber_id"]]


def test_replay_shows_its_report_as_tables(town: Path, tmp_path: Path) -> None:
    events, people = tmp_path / "day.csv.gz", tmp_path / "people.jsonl"
    simulate(town, events, people)
    result = run("replay", events, "--rulebase", town, "--known")
    assert result.exit_code == 0, result.output
    assert "短信套餐推荐" in result.stdout
    assert "decided" in result.stdout


def test_replay_of_a_foreign_file_through_a_mapping(town: Path, tmp_path: Path) -> None:
    rows = "".join(f"{n},13800000001,2026-11-20 1{n}:00:00\n" for n in range(4))
    (tmp_path / "texts.csv").write_text("no,number,when\n" + rows)
    (tmp_path / "texts.yaml").write_text(
        "mapping: texts\ntime: {column: when, format: '%Y-%m-%d %H:%M:%S', zone: Asia/Shanghai}\n"
        "events: [{type: sms_sent, subscriber: {column: number, prefix: '86'}}]\n"
    )
    arguments = ("replay", tmp_path / "texts.csv", "--mapping", tmp_path / "texts.yaml", "--rulebase", town)
    stranger = json.loads(run(*arguments, "--json").stdout)
    assert stranger["lost"] == {"text-bundle-offer": {"no_context": 3}}
    known = json.loads(run(*arguments, "--known", "--json").stdout)
    assert known["decided"] == {"text-bundle-offer": 1}
    assert known["lost"] == {"text-bundle-offer": {"capped": 2}}


@pytest.mark.parametrize("content", ["", "nothing\n", '{"id": "1"}\n'])
def test_a_file_without_events_is_an_error_not_a_crash(town: Path, tmp_path: Path, content: str) -> None:
    (tmp_path / "day.jsonl").write_text(content)
    result = run("replay", tmp_path / "day.jsonl", "--rulebase", town)
    assert result.exit_code == 1
    assert "Traceback" not in result.output


def test_context_that_does_not_fit_stops_the_replay(town: Path, tmp_path: Path) -> None:
    events, people = tmp_path / "day.jsonl", tmp_path / "people.jsonl"
    simulate(town, events, people)
    people.write_text('{"subscriber_id": "8613800000001", "age": "old"}\n')
    result = run("replay", events, "--rulebase", town, "--context", people)
    assert result.exit_code == 1
    assert "record 1" in result.stderr
