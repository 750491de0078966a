"""`opportune dev`: in one process, decisions with their reasons, and a clean end."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

from support.commands import COMMAND, TIMEOUT_SECONDS, opportune
from support.town import write_town


def test_dev_shows_decisions_and_why(tmp_path: Path) -> None:
    town = write_town(tmp_path / "town")
    result = opportune(
        "dev", "--for", 8, "--plain", "--subscribers", 60, "--speed", 600, "--rulebase", town,
        "--listen", "127.0.0.1:0", cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "短信套餐推荐 by sms: 短信套餐: reply YES (because 常发短信" in result.stdout
    assert "capped (daily: 1 " in result.stdout
    assert "\x1b" not in result.stdout
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.glob("**/*.db"))


def test_dev_for_programs(tmp_path: Path) -> None:
    town = write_town(tmp_path / "town")
    result = opportune(
        "dev", "--for", 5, "--json", "--subscribers", 60, "--speed", 600, "--rulebase", town,
        "--listen", "127.0.0.1:0", cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    records = [json.loads(line) for line in result.stdout.splitlines()]
    summary = records.pop()
    assert summary["type"] == "summary"
    assert summary["events"] > 0
    assert summary["sent"] > 0
    decided = [record for record in records if record["reason"] == "decided"]
    assert len(decided) == sum(summary["decided"].values()) > 0
    assert all(record["findings"] or record["event_type"] == "counter_visit" for record in decided)


def test_dev_ends_cleanly_on_an_interrupt_and_shows_a_changed_campaign(tmp_path: Path) -> None:
    town = write_town(tmp_path / "town")
    command = [
        *COMMAND,
        "dev",
        "--plain",
        "--for",  # should what is awaited never come
        "60",
        "--subscribers",
        "20",
        "--rulebase",
        str(town),
        "--listen",
        "127.0.0.1:0",
    ]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            lines = iter(process.stdout.readline, "")
            assert any("decided" in line for line in lines)  # the first status line: it lives
            campaign = town / "campaigns/texts.yaml"
            campaign.write_text(campaign.read_text().replace("busy_texter", "busy_textr"))
            assert any("did you mean 'behaviour.busy_texter'" in line for line in lines)
            campaign.write_text(campaign.read_text().replace("busy_textr", "busy_texter") + "# mended\n")
            assert any("is active" in line for line in lines)
            process.send_signal(signal.SIGINT)
            rest, trouble = process.communicate(timeout=TIMEOUT_SECONDS)
        finally:
            process.kill()
    assert process.returncode == 0, trouble
    assert "next: opportune check" in rest
    assert "Traceback" not in trouble


def test_a_rulebase_with_errors_is_shown_and_nothing_starts(tmp_path: Path) -> None:
    town = write_town(tmp_path / "town")
    (town / "policies.yaml").write_text("caps: {daily: {limit: two, period: day}}\n")
    result = opportune("dev", "--for", 1, "--plain", "--rulebase", town, cwd=tmp_path)
    assert result.returncode == 1
    assert "policies.yaml:1:23: error" in result.stderr
    assert "Traceback" not in result.stderr
