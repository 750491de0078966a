"""`opportune backup`, `restore` and `prune`, as an operator runs them: beside a service, and after it."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from opportune_rulebase import load, to_archive
from opportune_service.adapters.sql import SqlLedger
from opportune_service.app.records import RulebaseRow
from opportune_service.cli import app
from support.commands import serving
from support.processes import write_rulebase
from support.small_rulebase import small_rulebase, subscribers
from support.verdicts import NOON_US, shown, verdict
from typer.testing import CliRunner, Result

WHO, OTHER = subscribers(2)
LONG_AGO = "2023-11-14"
"""The day of `NOON_US`."""


@pytest.fixture(autouse=True)
def _there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


@contextmanager
def ledger_in(directory: Path) -> Iterator[SqlLedger]:
    (directory / "var").mkdir(exist_ok=True)
    with closing(SqlLedger.open(f"sqlite:///{directory}/var/opportune.db")) as ledger:
        yield ledger


def fill(directory: Path, count: int = 3) -> None:
    """Old things, under a rulebase that is active."""
    files = small_rulebase()
    revision = load(files).revision
    with ledger_in(directory) as ledger, ledger.transaction() as tx:
        tx.save_rulebase(RulebaseRow(revision, "small", NOON_US, "li", ""), to_archive(files))
        tx.activate(revision, "", NOON_US, "li", "", {})
        tx.record_verdicts([verdict(WHO, f"e{n}", shown(f"d{n}")) for n in range(count)])
        tx.count_events({("mms_sent", NOON_US // 3_600_000_000): 7})


def holds(directory: Path, decision_id: str) -> bool:
    with ledger_in(directory) as ledger:
        return ledger.verdict_of(decision_id) is not None


def test_a_dry_run_tells_what_would_go_and_changes_nothing(tmp_path: Path) -> None:
    fill(tmp_path)
    told = run("prune", "--dry-run")
    assert told.exit_code == 0, told.stderr
    lines = {line.split()[0]: line for line in told.stdout.splitlines()}
    assert f"{LONG_AGO} to {LONG_AGO}" in lines["history"]
    assert " 3 " in lines["history"]
    assert "33 days (keep_log_days is 30, the rulebase needs more)" in lines["log"]
    found = json.loads(run("prune", "--dry-run", "--json").stdout)
    assert found["history"] | {"before": ""} == {
        "days_kept": 410, "before": "", "count": 3, "by_day": {LONG_AGO: 3},
    }  # fmt: skip
    assert found["event_counts"]["count"] == 1
    assert holds(tmp_path, "d0")


def test_pruning_archives_and_deletes(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / "opportune.toml").write_text('archive = "archive"\n')
    done = run("prune", "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert {kind: each["count"] for kind, each in found.items() if each["count"]} == {
        "history": 3, "event_counts": 1, "usage": 1,
    }  # fmt: skip
    (file,) = (tmp_path / "archive").glob(f"history-{LONG_AGO}-*.jsonl.gz")
    lines = [json.loads(line) for line in gzip.decompress(file.read_bytes()).splitlines()]
    assert [line["rows"]["decisions"][0]["decision_id"] for line in lines] == ["d0", "d1", "d2"]
    assert not holds(tmp_path, "d0")


def test_without_a_rulebase_nothing_is_pruned(tmp_path: Path) -> None:
    with ledger_in(tmp_path) as ledger, ledger.transaction() as tx:
        tx.record_verdicts([verdict(WHO, "e0", shown("d0"))])
    refused = run("prune")
    assert (refused.exit_code, holds(tmp_path, "d0")) == (1, True)
    assert "No rulebase was ever activated" in refused.stderr


@pytest.mark.parametrize("command", ["backup b", "prune"])
def test_a_ledger_that_is_not_there_is_not_made(tmp_path: Path, command: str) -> None:
    refused = run(*command.split())
    assert refused.exit_code == 3
    assert "There is no ledger" in refused.stderr
    assert os.listdir(tmp_path) == []


def test_backup_and_restore(tmp_path: Path) -> None:
    fill(tmp_path)
    assert run("backup", "b").exit_code == 0
    with ledger_in(tmp_path) as ledger, ledger.transaction() as tx:
        tx.record_verdicts([verdict(OTHER, "late", shown("late"))])
    refused = run("restore", "b")
    assert refused.exit_code == 1
    assert "--replace" in refused.stderr
    assert holds(tmp_path, "late")
    done = run("restore", "b", "--replace")
    assert done.exit_code == 0, done.stderr
    assert "what was there is" in done.stdout
    assert holds(tmp_path, "d0")
    assert not holds(tmp_path, "late")
    (old,) = (tmp_path / "var").glob("opportune.db.until-*")
    with closing(SqlLedger.open(f"sqlite:///{old}")) as ledger:
        assert ledger.verdict_of("late") is not None


def test_beside_a_running_service_they_say_what_to_do(tmp_path: Path) -> None:
    write_rulebase(tmp_path / "rulebase", small_rulebase())
    fill(tmp_path)
    assert run("backup", "b").exit_code == 0
    with serving(["--rulebase", "rulebase"], tmp_path):
        for command, hint in (
            ("backup c", "OPPORTUNE_BACKUP"),
            ("restore b --replace", "stop the service first"),
            ("prune --dry-run", "stop that one first"),
        ):
            refused = run(*command.split())
            assert refused.exit_code == 3, command
            assert hint in refused.stderr
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("command", ["backup b", "restore b"])
def test_for_postgresql_there_are_other_tools(tmp_path: Path, command: str) -> None:
    url = "postgresql://nobody@127.0.0.1:1/none"
    refused = run(*command.split(), "--database", url)
    assert refused.exit_code == 2
    assert "pg_dump" in refused.stderr
