"""Channels and effect on the command line: from the event to the SMS centre and back, and into a report."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from opportune_client import (
    CrmClient,
    Event,
    EventCollector,
    ImportMode,
    OperatorClient,
    SubscriberRecord,
    connect,
)
from opportune_client.sms_text import text_of
from opportune_service.cli import app
from support.commands import INTERRUPTIBLE, TIMEOUT_SECONDS, serving
from support.processes import write_rulebase
from support.shop_rulebase import shop_rulebase
from support.smsc import Smsc, running_smsc
from typer.testing import CliRunner

ANNE, BOB, STRANGER = "8613800000001", "8613800000002", "8613900000009"
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def target(tmp_path: Path) -> Iterator[str]:
    rulebase = write_rulebase(tmp_path / "shop", shop_rulebase())
    with serving(["--rulebase", rulebase, "--database", f"sqlite:///{tmp_path}/l.db"], tmp_path) as address:
        yield address


@pytest.fixture
def centre() -> Iterator[Smsc]:
    with running_smsc() as running:
        yield running


def ask(target: str, *arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [*map(str, arguments), "--target", target])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.stderr
    return result.stdout if code == 0 else result.stderr


def happen(target: str, type_: str, *who: str, **said: Any) -> None:
    with connect(target) as channel:
        records = [SubscriberRecord(each, {"age": 30}) for each in who]
        CrmClient(channel).import_subscribers(records, datetime.now(UTC), ImportMode.PATCH)
        with EventCollector(channel, "msc") as collector:
            for each in who:
                collector.send(Event(f"{type_}-{each}", each, type_, datetime.now(UTC), said))


@contextmanager
def command(
    *arguments: object, cwd: Path, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """One that runs until it is interrupted, which it is at the end; it must end cleanly."""
    with subprocess.Popen(
        [*INTERRUPTIBLE, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | (environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=TIMEOUT_SECONDS)
            assert process.returncode == 0, errors
            assert "Traceback" not in errors
            assert "8613" not in errors, "a number in the log"
        finally:
            process.kill()


def smpp(target: str, centre: Smsc, cwd: Path, *more: object) -> Any:
    arguments = ("--host", "127.0.0.1", "--port", centre.port, "--system-id", "opp", "--sender", "10086")
    password = {"OPPORTUNE_SMPP_PASSWORD": "secret"}
    return command("smpp", "sms", *arguments, "--target", target, *more, cwd=cwd, environment=password)


def until(seen: Callable[[], bool]) -> None:
    """Ask again and again; each time is a call to the service."""
    end = time.monotonic() + TIMEOUT_SECONDS
    while not seen():
        assert time.monotonic() < end, "it never came"


def explained(target: str, who: str) -> dict[str, Any]:
    with connect(target) as channel:
        [decision] = OperatorClient(channel).list_decisions(subscriber_id=who)
    found: dict[str, Any] = json.loads(ask(target, "explain", decision.decision_id, "--json"))
    [record] = found["decisions"]
    return dict(record)


def outcomes(target: str, who: str) -> list[str]:
    return sorted(each["outcome"] for each in explained(target, who)["outcomes"])


def test_from_the_event_to_the_sms_centre_and_back(tmp_path: Path, target: str, centre: Smsc) -> None:
    happen(target, "call_made", ANNE, BOB)
    with smpp(target, centre, tmp_path, "--replies", "reply_received"):
        taken = {each.to: each for each in (centre.taken.get(timeout=TIMEOUT_SECONDS) for _ in "12")}
        assert set(taken) == {ANNE, BOB}
        assert text_of(taken[ANNE].data, taken[ANNE].data_coding) == "尊敬的客户，回复1领取礼包"
        for each in taken.values():
            centre.report(each.id)
        until(lambda: explained(target, ANNE)["delivery"] == "delivered")
        assert outcomes(target, ANNE) == ["delivered"]

        reply = {"destination_addr": "10086", "esm_class": 0}
        centre.deliver(source_addr=f"+{ANNE}", short_message=b"1", **reply)
        until(lambda: outcomes(target, ANNE) == ["accepted", "delivered"])
        centre.deliver(source_addr=BOB, short_message=b"STOP!", **reply)
        until(lambda: "no_channel" in ask(target, "why-not", BOB, "gift"))
        assert "channel/sms" in ask(target, "why-not", BOB, "gift")
    assert centre.taken.empty(), "each was sent once"


def test_nothing_is_taken_before_the_centre_is_there(tmp_path: Path, target: str, centre: Smsc) -> None:
    happen(target, "call_made", ANNE)
    wrong = {"OPPORTUNE_SMPP_PASSWORD": "wrong"}
    arguments = ("--host", "127.0.0.1", "--port", centre.port, "--system-id", "opp", "--target", target)
    with command("smpp", "sms", *arguments, cwd=tmp_path, environment=wrong) as process:
        assert process.stdout is not None
        assert "connecting" in process.stdout.readline()
        until(lambda: centre.binds > 0)
        assert explained(target, ANNE)["delivery"] == "pending"
    assert explained(target, ANNE)["delivery"] == "pending"


def test_without_a_password_it_says_which_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPPORTUNE_SMPP_PASSWORD", raising=False)
    said = ask("127.0.0.1:1", "smpp", "sms", "--host", "x", "--system-id", "opp", code=2)
    assert "OPPORTUNE_SMPP_PASSWORD" in said


def test_a_bulk_channel_gets_files_with_manifests(tmp_path: Path, target: str) -> None:
    happen(target, "counter_visit", ANNE, BOB)
    files = tmp_path / "out"
    with command(
        "interface-files", "outbound", files, "--every", 0.5, "--most", 2, "--target", target, cwd=tmp_path
    ):
        until(lambda: sum(json.loads(each.read_text())["rows"] for each in files.glob("*.json")) == 2)
    rows = []
    for each in files.glob("*.json"):
        manifest = json.loads(each.read_text())
        data = (files / manifest["file"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == manifest["sha256"]
        rows += list(csv.DictReader(io.StringIO(data.decode())))
    assert {row["subscriber_id"] for row in rows} == {ANNE, BOB}
    assert {row["content"] for row in rows} == {"Ask, how it went"}
    report = json.loads(ask(target, "report", "care", "--json"))["campaigns"][0]
    assert (report["matched"], report["decided"], report["sent"]) == (2, 2, 2)


def test_interface_files_need_a_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said = ask("127.0.0.1:1", "interface-files", "outbound", tmp_path / "file" / "below", code=1)
    assert "cannot be used" in said


def test_why_not_says_what_stands_in_the_way(target: str) -> None:
    happen(target, "counter_visit", ANNE)
    assert "on call_made: nothing stands in its way" in ask(target, "why-not", ANNE, "gift")
    record = json.loads(ask(target, "why-not", ANNE, "gift", "--json"))
    assert record["would_decide"] is True
    assert record["decisions"][0]["checks"][-1] == {
        **{"policy": "control", "channel": "", "passed": True, "detail": ""},
        **{"count": None, "limit": None, "clear_at": ""},
    }
    shown = ask(target, "why-not", STRANGER, "gift")
    assert "no_context: nothing is known of the subscriber" in shown
    assert STRANGER not in shown
    assert "NOT_FOUND" not in ask(target, "why-not", ANNE, "absent", code=1)


def test_a_report_for_people_for_programs_and_as_a_picture(tmp_path: Path, target: str) -> None:
    happen(target, "call_made", ANNE, BOB)
    happen(target, "ordered", ANNE, product="gift")
    picture = tmp_path / "report.svg"
    table = ask(target, "report", "gift", "care", "--svg", picture)
    [line] = [each for each in table.splitlines() if "积分兑换" in each]
    assert line.split()[1:5] == ["2", "2", "2", "0"]
    assert "Subscribers by number of contacts: 1: 2" in table
    assert "Wilson" in table

    days = [
        each for each in ask(target, "report", "gift", "--by", "day").splitlines() if "积分兑换" in each
    ]
    assert len(days) >= 8, "the seven days before this moment touch eight"

    record = json.loads(ask(target, "report", "--json"))
    by_name = {each["campaign"]: each for each in record["campaigns"]}
    assert set(by_name) == {"care", "gift"}
    gift = by_name["gift"]
    assert (gift["events"], gift["treated"], gift["treated_converted"], gift["control"]) == (2, 2, 1, 0)
    assert (gift["success_rate"], gift["uplift"], gift["lost"]) == (None, None, {})
    assert record["subscribers_by_contacts"] == {"1": 2}

    rows = list(csv.DictReader(io.StringIO(ask(target, "report", "--csv"))))
    assert [row["campaign"] for row in rows] == ["care", "gift"]
    assert rows[1]["treated_converted"] == "1"
    assert rows[1]["uplift"] == rows[1]["uplift_low"] == ""

    drawn = ElementTree.parse(picture).getroot()  # noqa: S314 - we wrote it
    assert drawn.tag == f"{SVG}svg"
    stages = ("matched", "decided", "sent", "delivered", "answered", "converted")
    assert len(drawn.findall(f"{SVG}rect")) == 2 * len(stages)
    texts = [each.text for each in drawn.findall(f"{SVG}text")]
    assert "Care & <comfort>" in texts
    assert "积分兑换" in texts


def test_a_report_that_makes_no_sense_is_refused(target: str) -> None:
    for arguments, code, said in (
        (["absent"], 1, "absent"),
        (["--since", "2026-11-02", "--until", "2026-11-01"], 1, "since must be before until"),
        (["--since", "2000-01-01", "--by", "hour"], 1, "1000 periods"),
        (["--since", "yesterday"], 2, "'yesterday' is no time"),
        (["--json", "--csv"], 2, "not both"),
    ):
        assert said in ask(target, "report", *arguments, code=code)
