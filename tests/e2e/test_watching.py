"""`opportune serve` as an orchestrator sees it: probes, metrics, and in which order it goes."""

from __future__ import annotations

import json
import os
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

from support.commands import COMMAND
from support.processes import write_rulebase
from support.servers import free_port, until
from support.small_rulebase import small_rulebase

PHONE, NOON = "8613912345678", "2026-11-20T12:00:00+08:00"


def get(port: int, path: str) -> tuple[int, str]:
    """Status and body; (0, "") if nobody answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


def test_a_process_lives_is_ready_leaves_and_ends(tmp_path: Path) -> None:
    rulebase = write_rulebase(tmp_path / "rulebase", small_rulebase())
    port = free_port()
    (tmp_path / "opportune.toml").write_text(
        f'listen = "127.0.0.1:0"\nmetrics_listen = "127.0.0.1:{port}"\nleave_seconds = 30\n'
        f'database = "sqlite:///{tmp_path}/opportune.db"\nrulebase = "{rulebase}"\n'
    )
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [*COMMAND, "serve", "--log-format", "json"],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        try:
            until(lambda: get(port, "/healthz")[0] == 200, "the process lives")
            assert process.stdout is not None
            target = process.stdout.readline().split()[-1]
            assert get(port, "/readyz") == (200, "ok\n")
            event = {"id": "1", "subscriber_id": PHONE, "type": "sms_sent", "occurred_at": NOON}
            (tmp_path / "events.jsonl").write_text(json.dumps(event) + "\n")
            options = ["--source", "t", "--rebase", "now", "--target", target]
            subprocess.run([*COMMAND, "send", "events.jsonl", *options], cwd=tmp_path, check=True)
            _, metrics = get(port, "/metrics")
            assert 'opportune_events_total{result="accepted",type="sms_sent"} 1.0' in metrics
            process.terminate()
            until(lambda: get(port, "/readyz") == (503, "the service is shutting down\n"), "it leaves")
            assert get(port, "/healthz")[0] == 200
            # It still takes calls; health is one.
            asked = subprocess.run(
                [*COMMAND, "health", "--target", target], cwd=tmp_path, check=False, capture_output=True
            )
            assert asked.returncode == 1
        finally:
            process.kill()
            process.communicate(timeout=30)
    assert PHONE not in (tmp_path / "log").read_text()


def test_an_address_for_metrics_that_is_not_to_be_had_ends_the_start(tmp_path: Path) -> None:
    options = ["--listen", "127.0.0.1:0", "--database", "sqlite://", "--metrics-listen", "192.0.2.1:9464"]
    said = subprocess.run(
        [*COMMAND, "serve", *options],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert said.returncode == 1
    assert "cannot listen for metrics" in said.stderr.replace("\n", " ")


def test_a_collector_of_traces_that_is_gone_keeps_nobody_from_anything(tmp_path: Path) -> None:
    rulebase = write_rulebase(tmp_path / "rulebase", small_rulebase())
    process = subprocess.Popen(
        [*COMMAND, "serve", "--listen", "127.0.0.1:0", "--database", "sqlite://", "--rulebase", rulebase],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OPPORTUNE_TRACE_ENDPOINT": "http://127.0.0.1:1"},
    )
    try:
        assert process.stdout is not None
        target = process.stdout.readline().split()[-1]
        subprocess.run([*COMMAND, "health", "--target", target], check=True, capture_output=True)
        process.terminate()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.communicate(timeout=30)
