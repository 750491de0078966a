"""`opportune rulebases` against the fake: what is asked of the service, what is shown, how it ends."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from opportune.v1 import rulebase_service_pb2 as pb
from opportune.v1 import types_pb2
from opportune_client import ActivationMode, OperatorClient, RulebaseState
from opportune_client.testing import FakeOpportune
from opportune_service.cli import app
from opportune_service.cli.rulebase_view import event_text
from support.small_rulebase import small_rulebase
from typer.testing import CliRunner, Result


@pytest.fixture
def fake() -> Iterator[FakeOpportune]:
    with FakeOpportune() as fake:
        yield fake


class Commands:
    """`opportune rulebases ...` against a service."""

    def __init__(self, target: str) -> None:
        self._target = target

    def run(self, *arguments: object, code: int = 0, answer: str = "") -> Result:
        command = ["rulebases", *map(str, arguments), "--target", self._target]
        result = CliRunner().invoke(app, command, input=answer)
        assert result.exit_code == code, result.output
        assert "Traceback" not in result.stderr
        return result

    def json(self, *arguments: object, code: int = 0) -> Any:
        return json.loads(self.run(*arguments, "--json", code=code).stdout)


@pytest.fixture
def commands(fake: FakeOpportune) -> Commands:
    return Commands(fake.target)


@pytest.fixture
def revisions(fake: FakeOpportune) -> list[str]:
    """Two that are stored; the first one is in full force."""
    with fake.connect() as channel:
        client = OperatorClient(channel)
        found = [client.upload(data).rulebase.revision for data in (b"a", b"b")]
        client.activate(found[0])
    return found


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for name, content in small_rulebase().items():
        path = tmp_path / "rules" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "rules"


def test_upload_and_look(fake: FakeOpportune, commands: Commands, directory: Path, tmp_path: Path) -> None:
    assert commands.json("upload", directory, "--dry-run")["ok"]
    assert fake.archives == {}
    assert "stored: checked" in commands.run("upload", directory, "--comment", "new").stdout
    again = commands.json("upload", directory)
    assert again["already_known"]
    assert (again["state"], again["comment"], again["author"]) == ("checked", "new", "fake")
    (listed,) = commands.run("list", "--json").stdout.splitlines()
    assert json.loads(listed)["revision"] == again["revision"]
    assert again["revision"][:12] in commands.run("list", "--state", "checked").stdout
    assert commands.run("list", "--state", "approved").stdout == "There is none.\n"

    archive = tmp_path / "copy.zip"
    shown = commands.json("show", again["revision"][:8], "--archive", archive)
    assert [(entry["action"], entry["comment"]) for entry in shown["history"]] == [("uploaded", "new")]
    assert archive.read_bytes() == fake.archives[again["revision"]]
    assert commands.json("upload", archive)["revision"] == again["revision"], "an archive will do as well"
    assert "in force: nothing" in commands.run("show", again["revision"][:8]).stdout
    commands.run("show", code=1)  # nothing is in force


def test_a_signature_goes_with_an_archive(
    fake: FakeOpportune, commands: Commands, directory: Path, tmp_path: Path
) -> None:
    archive, signature = tmp_path / "rules.zip", tmp_path / "rules.zip.sig"
    archive.write_bytes(b"zip")
    signature.write_bytes(b"signed")
    commands.run("upload", archive, "--signature", signature)
    said = commands.run("upload", directory, "--signature", signature, code=2)
    assert "name the zip file" in said.stderr


def test_errors_are_shown_with_their_places_and_nothing_is_stored(
    fake: FakeOpportune, commands: Commands, directory: Path
) -> None:
    fake.problems.append(
        pb.Problem(
            file="a.yaml",
            line=2,
            column=3,
            severity=pb.PROBLEM_SEVERITY_ERROR,
            code="odd",
            message="that is odd",
            hint="even it",
            snippet="a: b",
        )
    )
    for arguments in (["upload", directory], ["upload", directory, "--dry-run"]):
        said = commands.run(*arguments, code=1).output
        assert "a.yaml:2:3: error: that is odd [odd]" in said
        assert "hint: even it" in said
    report = commands.json("upload", directory, "--dry-run", code=1)
    assert [(each["line"], each["severity"]) for each in report["problems"]] == [(2, "error")]
    assert fake.archives == {}
    fake.problems[0].severity = pb.PROBLEM_SEVERITY_WARNING
    assert "warning: that is odd" in commands.run("upload", directory, "--dry-run").stdout


def test_another_refusal_is_no_fault_of_the_rulebase(
    fake: FakeOpportune, commands: Commands, directory: Path
) -> None:
    fake.fail("UploadRulebase", "INVALID_ARGUMENT", violations={"comment": "is too long"})
    assert "comment: is too long" in commands.run("upload", directory, code=1).stderr


def test_what_cannot_be_read_is_said(commands: Commands, tmp_path: Path) -> None:
    assert "holds no rulebase.yaml" in commands.run("upload", tmp_path, code=5).stderr
    (tmp_path / "order.yaml").write_bytes(b"\xff")
    commands.run("order", tmp_path / "order.yaml", "--order-id", "1", code=5)


def test_a_work_order_with_its_bindings(fake: FakeOpportune, commands: Commands, tmp_path: Path) -> None:
    file = tmp_path / "payday.yaml"
    file.write_text("campaign: payday\n", encoding="utf-8")
    record = commands.json(
        *("order", file, "--order-id", 4711, "--bind", "pay day=scene.pay_day", "--bind", "a=behaviour.b"),
        *("--comment", "plan 12"),
    )
    (order,) = fake.orders
    assert (order.order_id, order.document) == ("4711", "campaign: payday\n")
    assert dict(order.scene_bindings) == {"pay day": "scene.pay_day", "a": "behaviour.b"}
    assert record["comment"] == "plan 12"
    based = commands.json("order", file, "--order-id", 4712, "--base", record["revision"][:8])
    assert fake.orders[1].base_revision == record["revision"]
    fake.rulebases[based["revision"]].state = pb.RULEBASE_STATE_DRAFT
    assert "known already: draft" in commands.run("order", file, "--order-id", 4712, "--base",
                                                  record["revision"][:8]).stdout  # fmt: skip
    said = commands.run("order", file, "--order-id", 4711, "--bind", "payday", code=2)
    assert "binds nothing" in said.stderr


def test_tests_run_by_the_service(fake: FakeOpportune, commands: Commands, revisions: list[str]) -> None:
    new = revisions[1]
    assert "0 of 0 cases" in commands.run("test", new, code=1).stdout
    fake.test_results.append(pb.TestCaseResult(file="tests/a_test.yaml", line=3, name="x", passed=True))
    assert "1 of 1 cases pass" in commands.run("test", new[:8], "--only", "x").stdout
    assert fake.rulebases[new].state == RulebaseState.CHECKED
    assert commands.json("test", new[:8])["cases"] == [
        {"file": "tests/a_test.yaml", "line": 3, "name": "x", "passed": True, "difference": ""}
    ]
    assert fake.rulebases[new].state == RulebaseState.TESTED
    fake.test_results.append(
        pb.TestCaseResult(file="tests/b_test.yaml", line=7, name="y", difference="nothing came")
    )
    said = commands.run("test", new[:8], code=1).stdout
    assert "tests/b_test.yaml:7: nothing came" in said
    assert "1 of 2 cases pass" in said


def test_approval(fake: FakeOpportune, commands: Commands, revisions: list[str]) -> None:
    assert "is approved, by fake" in commands.run("approve", revisions[1][:8], "--comment", "fine").stdout
    record = commands.json("approve", revisions[1])
    assert (record["state"], record["approver"]) == ("approved", "fake")
    fake.fail("ApproveRulebase", "PERMISSION_DENIED", message="by its author")
    assert "by its author" in commands.run("approve", revisions[1][:8], code=1).stderr


def test_activation_shows_what_changes_and_asks(
    fake: FakeOpportune, commands: Commands, revisions: list[str]
) -> None:
    old, new = revisions
    fake.changes.append(
        pb.RulebaseChange(
            kind=pb.CHANGE_KIND_CHANGED,
            element="cap",
            name="weekly",
            summary="allows more",
            keys=[pb.KeyChange(key="limit", before="2", after="3")],
            affected_campaigns=["mms-bundle"],
        )
    )
    said = commands.run("activate", new[:8], code=1, answer="n\n")
    assert f"in force: {old[:12]}, full" in said.stderr
    assert "allows more" in said.stderr
    assert "limit: 2 -> 3" in said.stderr
    assert f"Let {new[:12]} decide for everybody?" in said.stderr
    assert said.stdout == " n\n", "the runner echoes what is typed; nothing else is the answer"
    commands.run("activate", new[:8], code=1)  # nobody there to ask
    assert fake.active_revision == old
    said = commands.run("activate", new[:8], "--comment", "go", answer="y\n")
    done = f"revision {new[:12]} is in force, full; {old[:12]} was so before\n"
    assert said.stdout == f" y\n{done}"
    assert [(each.revision, each.comment) for each in fake.activations] == [(new, "go")]


def test_a_canary_then_a_shadow_then_everybody(
    fake: FakeOpportune, commands: Commands, revisions: list[str]
) -> None:
    old, new = revisions
    record = commands.json("activate", new[:8], "--canary", "12.5%", "--yes")
    assert (record["activation"]["mode"], record["activation"]["share"]) == ("canary", 0.125)
    assert record["previous"] == old
    assert [each["mode"] for each in record["in_force"]] == ["full", "canary"]
    assert f"{new[:12]}, canary for 12.5 %" in commands.run("show").stdout
    asked = commands.run("activate", new[:8], "--canary", "5%", code=1).stderr
    assert f"Let {new[:12]} decide for 5 % of the subscribers?" in asked
    assert "run as a shadow" in commands.run("activate", new[:8], "--shadow", code=1).stderr
    assert commands.json("activate", new, "--shadow", "--yes")["activation"]["mode"] == "shadow"
    commands.run("activate", new[:8], "--yes")
    assert [each.mode for each in fake.activations] == [ActivationMode.FULL]
    assert "superseded" in commands.run("list").stdout
    assert "activated, canary for 12.5 %" in commands.run("show", new[:8]).stdout
    assert [(each["mode"], each["share"]) for each in commands.json("show", new)["history"]] == [
        ("full", None),
        ("shadow", None),
        ("canary", 0.125),
        (None, None),
    ]


@pytest.mark.parametrize("share", ["0%", "100%", "10", "0.1", "ten%", "-5%", "nan%", "%"])
def test_what_is_no_share_is_a_wrong_command_line(
    commands: Commands, revisions: list[str], share: str
) -> None:
    said = commands.run("activate", revisions[1][:8], f"--canary={share}", "--yes", code=2)
    assert "is no share" in said.stderr


def test_canary_and_shadow_are_two_things(commands: Commands, revisions: list[str]) -> None:
    said = commands.run("activate", revisions[1], "--canary", "5%", "--shadow", code=2)
    assert "not both" in said.stderr


def test_nothing_is_activated_over_what_somebody_else_did(
    fake: FakeOpportune, commands: Commands, revisions: list[str]
) -> None:
    old, new = revisions
    said = commands.run("activate", new[:8], "--expect", new[:8], "--yes", code=1)
    assert "another revision is in force" in said.stderr
    commands.run("rollback", old[:8], "--expect", new[:8], "--yes", code=1)
    assert fake.active_revision == old
    assert "failed: another revision" in commands.run("show").stdout
    assert not commands.json("show")["last_attempt"]["succeeded"]


def test_the_very_first_activation(fake: FakeOpportune, commands: Commands, directory: Path) -> None:
    revision = commands.json("upload", directory)["revision"]
    said = commands.run("activate", revision[:8], answer="y\n")
    assert said.stdout == f" y\nrevision {revision[:12]} is in force, full\n"


def test_rollback(fake: FakeOpportune, commands: Commands, revisions: list[str]) -> None:
    old, new = revisions
    commands.run("rollback", "--yes", code=1)  # nothing was in force before
    commands.run("activate", new, "--yes")
    said = commands.run("rollback", code=1, answer="n\n")
    assert "Go back to the revision that was in full force before?" in said.stderr
    record = commands.json("rollback", "--yes", "--comment", "too many")
    assert (record["activation"]["revision"], record["previous"]) == (old, new)
    said = commands.run("rollback", new[:8], answer="y\n")
    assert fake.active_revision == new
    assert [entry["action"] for entry in commands.json("show", new)["history"][:2]] == [
        "rolled-back",
        "activated",
    ]


def test_diff(fake: FakeOpportune, commands: Commands, revisions: list[str]) -> None:
    old, new = revisions
    assert "nothing changes" in commands.run("diff", new[:8]).stdout
    fake.changes.append(
        pb.RulebaseChange(kind=pb.CHANGE_KIND_ADDED, element="campaign", name="x", summary="It is new.")
    )
    assert "+ campaign x" in commands.run("diff", new[:8], "--from", old[:8]).stdout
    (change,) = commands.json("diff", new[:8])
    assert (change["kind"], change["name"], change["summary"]) == ("added", "x", "It is new.")


def test_watching_tells_what_is_then_each_change_until_the_service_goes(
    fake: FakeOpportune, commands: Commands, revisions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = revisions
    shown: list[Any] = []
    with fake.connect() as channel:
        client = OperatorClient(channel)
        client.pause("mms-bundle", "price")
        then: list[Callable[[], object]] = [
            lambda: client.resume("mms-bundle"),
            lambda: client.activate(new, expected_current=old),
            fake.stop,
        ]

        def show(record: object) -> None:
            """Whatever comes next is done when the one before was shown."""
            shown.append(record)
            then.pop(0)()

        monkeypatch.setattr("opportune_service.cli.rulebases.print_json", show)
        assert "cannot be reached" in commands.run("watch", "--json", code=3).stderr
    assert [each["event"] for each in shown] == ["snapshot", "resumed", "activated"]
    assert [each["campaign"] for each in shown[0]["paused"]] == ["mms-bundle"]
    assert [each["paused"] for each in shown[1:]] == [[], []]
    assert [[each["revision"] for each in event["in_force"]] for event in shown] == [[old], [old], [new]]
    assert shown[2]["attempt"]["succeeded"]


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (pb.WatchRulebaseResponse(kind=pb.RULEBASE_EVENT_KIND_SNAPSHOT), "in force: nothing"),
        # By another process: which attempt it was is not known here.
        (
            pb.WatchRulebaseResponse(
                kind=pb.RULEBASE_EVENT_KIND_ACTIVATED,
                activations=[pb.Activation(revision="ab" * 32, mode=types_pb2.ACTIVATION_MODE_FULL)],
            ),
            "activated; in force: abababababab (full)",
        ),
        (
            pb.WatchRulebaseResponse(
                kind=pb.RULEBASE_EVENT_KIND_ACTIVATION_FAILED,
                attempt=pb.ActivationAttempt(revision="cd" * 32, message="not approved"),
            ),
            "activation failed cdcdcdcdcdcd: not approved; in force: nothing",
        ),
        (
            pb.WatchRulebaseResponse(
                kind=pb.RULEBASE_EVENT_KIND_PAUSED,
                campaign="x",
                paused_campaigns=[pb.CampaignStatus(campaign=name) for name in "xy"],
            ),
            "paused x; in force: nothing; paused: x, y",
        ),
        (pb.WatchRulebaseResponse(kind=99), "99; in force: nothing"),  # type: ignore[arg-type]
    ],
)
def test_what_a_watcher_sees_on_a_screen(event: pb.WatchRulebaseResponse, line: str) -> None:
    assert event_text(event).plain == line


@pytest.mark.parametrize("name", ["0123456", "my-rulebase", "../x", "", "g" * 12, "0" * 65])
def test_what_names_no_revision_is_a_wrong_command_line(commands: Commands, name: str) -> None:
    assert "first 8 hex digits" in commands.run("diff", name, code=2).stderr


def test_the_beginning_of_a_revision_must_be_that_of_one_alone(
    fake: FakeOpportune, commands: Commands, revisions: list[str]
) -> None:
    assert "There is no revision 00000000" in commands.run("show", "00000000", code=1).stderr
    twins = [f"{'ab' * 6}{digit}{'0' * 51}" for digit in "12"]
    for twin in twins:
        fake.rulebases[twin] = pb.Rulebase(revision=twin)
    said = commands.run("show", "AB" * 4, code=1).stderr
    assert all(twin in said for twin in twins)
    assert commands.json("show", "ab" * 6 + "2")["revision"] == twins[1]


@pytest.mark.parametrize("command", [["list"], ["show"], ["watch"], ["rollback", "--yes"]])
def test_a_service_that_is_not_there(command: list[str]) -> None:
    Commands("127.0.0.1:1").run(*command, code=3)


def test_there_is_no_such_state(commands: Commands) -> None:
    assert "checked" in commands.run("list", "--state", "finished", code=2).stderr


def completed(words: str, target: str, **variables: str) -> list[str]:
    """What the shell offers at the end of the line."""
    environment = {
        "_OPPORTUNE_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
        "OPPORTUNE_TARGET": target,
        **variables,
    }
    result = CliRunner().invoke(app, [], prog_name="opportune", env=environment)
    assert result.stderr == ""
    return result.stdout.split()


@pytest.mark.parametrize("command", ["show", "test", "approve", "activate", "rollback", "diff"])
def test_the_shell_completes_revisions(fake: FakeOpportune, revisions: list[str], command: str) -> None:
    old, new = revisions
    assert completed(f"opportune rulebases {command} {new[:3]}", fake.target) == [new[:12]]
    assert completed(f"opportune rulebases {command} {old[:20]}", fake.target) == [old[:20]]


def test_the_shell_completes_campaigns(fake: FakeOpportune, revisions: list[str]) -> None:
    with fake.connect() as channel:
        OperatorClient(channel).pause("mms-bundle", "so that the fake knows one")
    assert completed("opportune pause mms", fake.target) == ["mms-bundle"]
    assert completed("opportune why-not 8613800000001 mms", fake.target) == ["mms-bundle"]


def test_without_a_service_the_shell_completes_nothing_and_says_nothing() -> None:
    assert completed("opportune pause mms", "127.0.0.1:1") == []
    assert completed("opportune rulebases show 1", "nonsense") == []
    assert completed("opportune pause mms", "127.0.0.1:1", OPPORTUNE_CA="/absent") == []


def test_what_somebody_wrote_does_not_steer_the_terminal_of_somebody_else(
    fake: FakeOpportune, commands: Commands, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    comment = "harmless\x1b[2J\x1b[1A\x9b2J\u202e\rlooks fine\ttoo"
    record = commands.json("upload", directory, "--comment", comment)
    assert record["comment"] == comment
    shown = [
        commands.run("list"),
        commands.run("show", record["revision"]),
        commands.run("activate", record["revision"], code=1),
    ]
    for each in shown:
        assert "harmless\N{REPLACEMENT CHARACTER}[2J" in each.output
        assert not set("\x9b\u202e\r") & set(each.output)
        codes = re.findall(r"\x1b(\[[\d;]*[a-zA-Z]?)", each.output)
        assert all(code.endswith("m") for code in codes), "none but colours of our own"
    assert "\x1b[1m" in shown[1].output, "there are some"
