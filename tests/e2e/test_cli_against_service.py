"""The commands against a service that runs as a process of its own."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from opportune_service.cli import app
from support.commands import INTERRUPTIBLE, TIMEOUT_SECONDS, opportune, serving
from support.town import write_town
from typer.testing import CliRunner


@pytest.fixture
def town(tmp_path: Path) -> Path:
    return write_town(tmp_path / "town")


@pytest.fixture
def target(tmp_path: Path, town: Path) -> Iterator[str]:
    with serving(
        ["--rulebase", town, "--database", f"sqlite:///{tmp_path}/ledger.db"], tmp_path
    ) as address:
        yield address


def write_events(path: Path) -> None:
    lines = [
        {
            "id": f"e{n}",
            "subscriber_id": "8613800000001",
            "type": "sms_sent",
            "occurred_at": 1_700_000_000 + n,
        }
        for n in range(4)
    ]
    lines.append(lines[0] | {"id": "e9", "type": "parcel_sent"})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_send_tail_explain_advise_and_reload(tmp_path: Path, town: Path, target: str) -> None:
    events, people = tmp_path / "events.jsonl", tmp_path / "people.jsonl"
    write_events(events)
    people.write_text('{"subscriber_id": "8613800000001", "age": 30}\n')

    def ask(*arguments: object, code: int = 0) -> str:
        # In this process: each of them would spend most of its time on starting Python.
        result = CliRunner().invoke(app, [*map(str, arguments), "--target", target])
        assert result.exit_code == code, result.output
        assert "Traceback" not in result.stderr
        return result.stdout

    assert ask("health") == "ready\n"
    sending = ("send", events, "--rebase", "now", "--context", people, "--json")
    summary = json.loads(ask(*sending, code=1))
    assert summary["accepted"] == 4
    assert summary["rejected"] == {"unknown_type": 1}
    rejected = json.loads(ask("quarantine", "--json"))
    assert (rejected["event"]["type"], rejected["reason"]) == ("parcel_sent", "unknown_type")

    tailed = [json.loads(line) for line in ask("tail", "--no-follow", "--json").splitlines()]
    assert [(each["campaign"], each["reason"]) for each in tailed] == [
        ("text-bundle-offer", "decided"),
        ("text-bundle-offer", "capped"),
        ("text-bundle-offer", "capped"),
    ]
    shown = ask("tail", "--no-follow", "--last", 1)
    assert "capped (daily: 1 " in shown
    assert "8613800000001" not in shown

    explained = ask("explain", tailed[0]["decision_id"])
    assert "metric.texts_24h = 2" in explained
    assert "behaviour.busy_texter = true" in explained
    record = json.loads(ask("explain", tailed[1]["decision_id"], "--json"))
    check = record["decisions"][0]["checks"][-1]
    assert (check["policy"], check["channel"], check["passed"]) == ("cap", "sms", False)
    assert check["detail"].startswith("daily: 1 ")
    ask("explain", "no-such-decision", code=1)

    advising = ("advise", "8613800000002", "--at", "counter", "--request-id", "visit-1", "--json")
    advice = json.loads(ask(*advising))
    assert [each["campaign"] for each in advice] == ["care-plan-at-counter"]
    assert json.loads(ask(*advising)) == advice
    ask("advise", "8613800000002", "--at", "nowhere", code=1)

    assert "active already" in ask("reload", town)
    (town / "campaigns/care.yaml").unlink()
    ask("reload", town, code=0)
    assert json.loads(ask("advise", "8613800000003", "--json")) == []
    (town / "rulebase.yaml").write_text("rulebase: [\n")
    ask("reload", town, code=1)
    assert ask("health") == "ready\n"


def test_revisions_of_a_service_that_asks_nobody_who_calls(tmp_path: Path, town: Path, target: str) -> None:
    def ask(*arguments: object, code: int = 0) -> str:
        command = ["rulebases", *map(str, arguments), "--target", target]
        result = CliRunner().invoke(app, command)
        assert result.exit_code == code, result.output
        return result.stdout

    (first,) = [json.loads(line)["revision"] for line in ask("list", "--json").splitlines()]
    (town / "campaigns/care.yaml").unlink()
    second = json.loads(ask("upload", town, "--comment", "no care", "--json"))["revision"]
    (change,) = json.loads(ask("diff", second[:8], "--json"))
    assert (change["kind"], change["name"]) == ("removed", "care-plan-at-counter")
    ask("test", second[:8])
    ask("approve", second[:8], code=1)  # anonymous is its author
    for how, share in (("--shadow", None), ("--canary=25%", 0.25)):
        said = json.loads(ask("activate", second[:8], how, "--yes", "--json"))
        assert (said["in_force"][0]["revision"], said["activation"]["share"]) == (first, share)
    ask("activate", second[:8], "--yes")
    assert json.loads(ask("show", "--json"))["revision"] == second
    ask("activate", first[:8], "--expect", first[:8], "--yes", code=1)
    ask("rollback", "--yes")
    shown = json.loads(ask("show", "--archive", tmp_path / "old.zip", "--json"))
    assert (shown["revision"], len(shown["in_force"])) == (first, 1)
    assert opportune("check", "old.zip", cwd=tmp_path).returncode == 0


def test_a_service_that_is_not_there() -> None:
    for arguments in (["health"], ["advise", "8613800000001"], ["tail", "--no-follow"]):
        result = CliRunner().invoke(app, [*arguments, "--target", "127.0.0.1:1"])
        assert result.exit_code == 3, result.output
        assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--database", "sqlite:///absent/ledger.db"], 3),
        (["--database", "sqlite://", "--listen", "0.0.0.0:0"], 1),
        (["--database", "sqlite://", "--listen", "nonsense"], 1),
        (["--database", "sqlite://", "--rulebase", "."], 1),
    ],
)
def test_serve_says_why_it_cannot_start(tmp_path: Path, arguments: list[str], code: int) -> None:
    result = opportune("serve", *arguments, cwd=tmp_path)
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    assert result.stderr.strip()


def test_two_services_on_one_ledger(tmp_path: Path, target: str) -> None:
    result = opportune("serve", "--database", f"sqlite:///{tmp_path}/ledger.db", cwd=tmp_path)
    assert result.returncode == 3
    assert "another process has it open" in result.stderr


def test_tail_follows(tmp_path: Path, target: str) -> None:
    write_events(tmp_path / "events.jsonl")
    command = [*INTERRUPTIBLE, "tail", "--json", "--last", "100", "--target", target]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            seen = []
            for _ in range(2):  # the first may come as past or as news, the second comes as news
                opportune("send", "events.jsonl", "--rebase", "now", "--target", target, cwd=tmp_path)
                expected = len(seen) + (3 if not seen else 4)
                while len(seen) < expected:
                    seen.append(json.loads(process.stdout.readline())["decision_id"])
            assert len(set(seen)) == len(seen)
            process.send_signal(signal.SIGINT)
            assert process.wait(TIMEOUT_SECONDS) == 0
        finally:
            process.kill()
