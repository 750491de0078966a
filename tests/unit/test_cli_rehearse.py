"""`opportune rehearse` of files, and what the report looks like."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from opportune_service.adapters.files.event_files import write_events
from opportune_service.cli import app
from support.small_rulebase import small_rulebase, subscribers, traffic
from typer.testing import CliRunner

runner = CliRunner()


def write(directory: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return directory


@pytest.fixture
def asked(tmp_path: Path) -> list[str]:
    """A rulebase that asks for less, against the small one, over some traffic."""
    new = write(tmp_path / "new", small_rulebase(threshold=1))
    old = write(tmp_path / "old", small_rulebase())
    events = tmp_path / "events.jsonl"
    write_events(events, traffic(1, 200))
    options = {"--rulebase": new, "--against": old, "--events": events}
    return ["rehearse", "--known", *(str(each) for pair in options.items() for each in pair)]


def test_it_shows_what_becomes_different(asked: list[str], tmp_path: Path) -> None:
    page = tmp_path / "report.md"
    done = runner.invoke(app, [*asked, "--report", str(page)])
    assert done.exit_code == 0, done.output
    assert "mms-bundle" in done.stdout
    assert "won" in done.stdout
    text = page.read_text(encoding="utf-8")
    assert text.startswith("# Rehearsal\n")
    assert "| mms-bundle |" in text
    assert "looks further back" in text
    for shown in (done.output, text):
        for who in subscribers(5):
            assert who not in shown


def test_json_is_whole(asked: list[str]) -> None:
    done = runner.invoke(app, [*asked, "--json", "--samples", "3"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["contacts"] - report["baseline"]["contacts"] == sum(
        each["won"] - each["lost"] for each in report["differences"]
    )
    samples = [sample for each in report["differences"] for sample in each["samples"]]
    assert samples
    assert {(sample["after"] or sample["before"])["subscriber_id"] for sample in samples} <= set(
        subscribers(5)
    )
    assert sum(each["contacts"] for each in report["volumes"]) == report["contacts"]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["rehearse"], 2),
        (["rehearse", "zz"], 2),
        (["rehearse", "--since", "soon", "3f6c0d1b"], 2),
        (["rehearse", "3f6c0d1b", "--target", "127.0.0.1:1"], 3),
    ],
)
def test_wrong_command_lines_say_so(arguments: list[str], code: int) -> None:
    assert runner.invoke(app, arguments).exit_code == code


def test_files_and_a_service_do_not_mix(asked: list[str]) -> None:
    assert runner.invoke(app, [*asked, "3f6c0d1b"]).exit_code == 2
    assert runner.invoke(app, [*asked, "--test", "8613800000001"]).exit_code == 2


def test_no_events_is_no_rehearsal(asked: list[str], tmp_path: Path) -> None:
    write_events(tmp_path / "events.jsonl", [])
    assert runner.invoke(app, asked).exit_code == 1
