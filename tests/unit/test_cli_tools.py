"""`opportune new`, `fmt`, `graph`, `test --watch` and completion: what they do, and how they end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from xml.dom import minidom

import pytest
from opportune_rulebase import load
from opportune_service.adapters.files.rulebase_dir import read_rulebase
from opportune_service.cli import app
from support.commands import INTERRUPTIBLE, TIMEOUT_SECONDS, opportune
from support.town import write_town
from typer.testing import CliRunner, Result


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def town(tmp_path: Path) -> Path:
    return write_town(tmp_path / "town")


def test_a_new_rulebase_is_sound_and_its_tests_pass_and_cover_it(tmp_path: Path) -> None:
    made = run("new", tmp_path / "First Steps")
    assert made.exit_code == 0, made.output
    assert run("check", tmp_path / "First Steps", "--strict").exit_code == 0
    tested = run("test", tmp_path / "First Steps", "--min-coverage", "100")
    assert tested.exit_code == 0, tested.output
    assert run("fmt", tmp_path / "First Steps", "--check").exit_code == 0
    rulebase = load(read_rulebase(tmp_path / "First Steps"))
    assert rulebase.name == "first-steps"
    assert (len(rulebase.campaigns), len(rulebase.patterns)) == (1, 1)


def test_every_file_of_a_new_rulebase_names_a_schema_that_is_there(tmp_path: Path) -> None:
    made = run("new", tmp_path / "First Steps")
    assert f"opportune check '{tmp_path}/First Steps'" in made.output.replace("\n", "")
    files = list((tmp_path / "First Steps").rglob("*.yaml"))
    assert len(files) == 6
    for file in files:
        line = file.read_text(encoding="utf-8").split("\n")[0]
        assert (file.parent / line.partition("$schema=")[2]).is_file(), line


def test_the_name_of_a_new_rulebase(tmp_path: Path) -> None:
    assert run("new", tmp_path / "a", "--name", "summer-2027").exit_code == 0
    assert load(read_rulebase(tmp_path / "a")).name == "summer-2027"
    assert run("new", tmp_path / "b", "--name", "Summer 2027").exit_code == 2
    assert not (tmp_path / "b").exists()
    assert run("new", tmp_path / "促销").exit_code == 0
    assert load(read_rulebase(tmp_path / "促销")).name == "my-rulebase"


def test_nothing_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    result = run("new", tmp_path)
    assert result.exit_code == 1
    assert "not empty" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def spoil(path: Path) -> str:
    """Other indents, and a comment."""
    before = path.read_text()
    path.write_text("# kept\n" + before.replace("  ", "    "))
    return "# kept\n" + before


def test_fmt_mends_what_is_spoilt_and_leaves_the_rest(town: Path) -> None:
    run("fmt", town)
    others = {path: path.stat().st_mtime_ns for path in town.rglob("*") if path.name != "policies.yaml"}
    revision = load(read_rulebase(town)).revision
    wanted = spoil(town / "policies.yaml")
    (town / "policies.yaml").chmod(0o640)
    result = run("fmt", town)
    assert result.exit_code == 0
    assert result.stdout.startswith("1 of ")
    assert (town / "policies.yaml").read_text() == wanted
    assert (town / "policies.yaml").stat().st_mode & 0o777 == 0o640
    files = {path: path.stat().st_mtime_ns for path in others if path.is_file()}
    assert files == {path: changed for path, changed in others.items() if path.is_file()}
    assert load(read_rulebase(town)).revision != revision  # the comment
    assert run("fmt", town).stdout.startswith("0 of ")


@pytest.mark.parametrize("option", ["--check", "--diff"])
def test_fmt_can_only_look(town: Path, option: str) -> None:
    run("fmt", town)
    assert run("fmt", town, option).exit_code == 0
    spoil(town / "policies.yaml")
    before = (town / "policies.yaml").read_bytes()
    result = run("fmt", town, option)
    assert (town / "policies.yaml").read_bytes() == before
    assert result.exit_code == (1 if option == "--check" else 0)
    shown = "would be formatted: policies.yaml" if option == "--check" else "+caps:"
    assert shown in result.stdout or "+  daily:" in result.stdout


def test_fmt_names_what_it_refuses_and_formats_the_rest(town: Path) -> None:
    run("fmt", town)
    (town / "policies.yaml").write_text("caps: {a: 1, # one\n  b: 2}\n")
    (town / "rulebase.yaml").write_text("rulebase: [town\n")
    spoil(town / "behaviours.yaml")
    result = run("fmt", town)
    assert result.exit_code == 1
    assert "policies.yaml is left as it is: a comment would be lost" in result.stderr
    assert "rulebase.yaml:" in result.stderr
    assert "1 of" in result.stdout
    assert "2 refused" in result.stdout
    assert (town / "policies.yaml").read_text() == "caps: {a: 1, # one\n  b: 2}\n"


def test_fmt_takes_one_file_and_leaves_mappings_alone(town: Path) -> None:
    (town / "mappings").mkdir()
    (town / "mappings/calls.yaml").write_text("a:    &x 1\n")
    assert run("fmt", town).exit_code == 0
    spoil(town / "policies.yaml")
    spoil(town / "behaviours.yaml")
    assert run("fmt", town / "policies.yaml").stdout.startswith("1 of 1 ")
    assert run("fmt", town, "--check").exit_code == 1


def test_graph_draws_a_rulebase_or_one_campaign(town: Path, tmp_path: Path) -> None:
    whole = run("graph", town)
    assert whole.exit_code == 0
    assert minidom.parseString(whole.stdout)  # noqa: S318 - our own
    part = tmp_path / "part.svg"
    result = run("graph", town, "--campaign", "text-bundle-offer", "--out", part)
    assert result.exit_code == 0
    assert "常发短信" in part.read_text("utf-8")
    assert "picture-bundle-offer" in whole.stdout
    assert "picture-bundle-offer" not in part.read_text("utf-8")


def test_graph_of_what_is_not_there(town: Path, tmp_path: Path) -> None:
    result = run("graph", town, "--campaign", "text-bundle-ofer")
    assert result.exit_code == 1
    assert "Did you mean text-bundle-offer?" in result.stderr
    assert run("graph", tmp_path).exit_code == 5
    assert run("graph", town, "--out", tmp_path / "no/such/place.svg").exit_code == 1


def test_tests_are_run_again_when_a_file_changes(town: Path) -> None:
    command = [*INTERRUPTIBLE, "test", str(town), "--watch", "--json"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        patience = threading.Timer(TIMEOUT_SECONDS, process.kill)  # then there is nothing more to read
        patience.start()
        try:
            assert process.stdout is not None
            assert json.loads(process.stdout.readline())["failed"] == 0
            path = town / "campaigns/texts.yaml"
            good = path.read_text()
            path.write_text(good.replace("behaviour.busy_texter", "sub.age == 1"))
            assert json.loads(process.stdout.readline())["failed"] > 0
            path.write_text("campaign: [")  # an error does not end it
            assert process.stderr is not None
            assert any("this is not valid YAML" in line for line in process.stderr)
            assert json.loads(process.stdout.readline())["problems"][0]["code"] == "bad-yaml"
            path.write_text(good)
            assert json.loads(process.stdout.readline())["failed"] == 0
            process.send_signal(signal.SIGINT)
            assert process.wait(TIMEOUT_SECONDS) == 0
        finally:
            patience.cancel()
            process.kill()


def test_only_a_directory_can_be_watched(town: Path, tmp_path: Path) -> None:
    (tmp_path / "town.zip").write_bytes(b"")
    assert run("test", tmp_path / "town.zip", "--watch").exit_code == 2


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("opportune gr", "graph"),
        ("opportune test --min", "--min-coverage"),
        ("opportune rulebases rol", "rollback"),
        ("opportune rulebases activate --can", "--canary"),
    ],
)
def test_completion(words: str, wanted: str, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "_OPPORTUNE_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    script = "from opportune_service.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    assert done.stdout.split() == [wanted]


def test_the_commands_work_as_a_process(tmp_path: Path) -> None:
    assert opportune("new", "mine", cwd=tmp_path).returncode == 0
    assert opportune("test", "mine", cwd=tmp_path).returncode == 0
    assert opportune("graph", "mine", "--out", "mine.svg", cwd=tmp_path).returncode == 0
    assert (tmp_path / "mine.svg").stat().st_size > 1000


def test_errors_of_test_files_are_in_the_reports_too(town: Path, tmp_path: Path) -> None:
    (town / "tests" / "wrong_test.yaml").write_text("cases: [{name: a, expct: []}]")
    result = run("test", town, "--json", "--junit", tmp_path / "test.xml")
    assert result.exit_code == 1
    said = json.loads(result.stdout)
    assert not said["ok"]
    codes = [each["code"] for each in said["problems"]]
    assert "unknown-key" in codes
    root = minidom.parse(str(tmp_path / "test.xml")).documentElement  # noqa: S318 - our own
    assert root is not None
    assert root.getAttribute("failures") == str(len(codes))


def test_the_json_tells_what_becomes_of_what_was_stopped() -> None:
    pack = Path(__file__).parents[2] / "rulebase" / "packs" / "gprs-precision"
    said = json.loads(run("test", pack, "--only", "fates", "--json").stdout)
    decisions = [decision for case in said["cases"] for decision in case["decisions"]]
    assert {decision["fate"] for decision in decisions} == {None, "drop", "defer", "next"}
    assert all(bool(decision["due"]) == (decision["fate"] == "defer") for decision in decisions)
