"""The client of operators over real streams, against the fake that users get for their own tests."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

import grpc
import pytest
from opportune.v1 import insight_service_pb2 as insight_pb
from opportune.v1 import rulebase_service_pb2 as rulebase_pb
from opportune.v1 import types_pb2
from opportune_client import (
    ActivationMode,
    ConflictError,
    NotFoundError,
    NotReadyError,
    OperatorClient,
    Reason,
    RequestError,
    RulebaseEvent,
    RulebaseState,
    UnavailableError,
    UnsupportedError,
)
from opportune_client.testing import FakeOpportune
from support.fakes import NOON


def test_a_rulebase_from_check_to_activation(
    fake: FakeOpportune, channel: grpc.Channel, tmp_path: Path
) -> None:
    (tmp_path / "rulebase.yaml").write_text("name: x\n")
    operator = OperatorClient(channel)
    checked = operator.check(tmp_path)
    assert checked.valid
    first = operator.upload(tmp_path).rulebase.revision
    assert first == checked.revision
    assert operator.upload(fake.archives[first]).already_known
    assert operator.activate(first).previous_revision == ""
    assert operator.get(include_archive=True).archive.data == fake.archives[first]

    (tmp_path / "rulebase.yaml").write_text("name: y\n")
    second = operator.upload(tmp_path, comment="better").rulebase.revision
    with pytest.raises(ConflictError):
        operator.activate(second)
    assert operator.activate(second, expected_current=first).previous_revision == first
    assert [rulebase.revision for rulebase in operator.list_rulebases(page_size=1)] == [second, first]
    with pytest.raises(NotFoundError):
        operator.get("f" * 64)


def test_a_revision_from_test_to_rollback(fake: FakeOpportune, channel: grpc.Channel) -> None:
    operator = OperatorClient(channel)
    first, second = (operator.upload(data).rulebase.revision for data in (b"a", b"b"))
    with pytest.raises(NotReadyError, match="before"):
        operator.rollback(expected_current="")
    operator.activate(first)
    assert not operator.test(second).passed, "there are none"
    fake.test_results.extend(
        rulebase_pb.TestCaseResult(file="tests/a_test.yaml", name=name, passed=True) for name in "xy"
    )
    assert [case.name for case in operator.test(second, only="x").results] == ["x"]
    assert operator.get(second).rulebase.state == RulebaseState.CHECKED, "part of its tests is not enough"
    assert operator.test(second).passed
    assert len(operator.test_archive(b"c").results) == 2
    assert [each.revision for each in operator.list_rulebases(state=RulebaseState.TESTED)] == [second]

    fake.rehearsal.append(rulebase_pb.RehearseRulebaseResponse(report={"event_count": 7}))
    (last,) = operator.rehearse(second, since=NOON)
    assert last.report.event_count == 7
    approved = operator.approve(second, comment="fine")
    assert (approved.state, approved.approver) == (RulebaseState.APPROVED, "fake")
    assert operator.approve(second) == approved
    fake.changes.append(rulebase_pb.RulebaseChange(element="campaign", name="x"))
    assert [change.name for change in operator.diff(second)] == ["x"]

    canary = operator.activate(
        second, expected_current=first, mode=ActivationMode.CANARY, canary_share=0.1, comment="ten"
    )
    assert [(each.revision, each.mode) for each in canary.activations] == [
        (first, ActivationMode.FULL),
        (second, ActivationMode.CANARY),
    ]
    assert (canary.previous_revision, canary.activation.canary_share) == (first, 0.1)
    operator.activate(second, expected_current=first, mode=ActivationMode.SHADOW)
    whole = operator.activate(second, expected_current=first)
    assert [each.revision for each in whole.activations] == [second], "it ends canary and shadow"
    assert operator.get(first).rulebase.state == RulebaseState.SUPERSEDED
    back = operator.rollback(expected_current=second, comment="too many")
    assert (back.activation.revision, back.previous_revision) == (first, second)
    assert [entry.action for entry in operator.get(second).history] == [
        *["activated"] * 3,
        *["approved", "rehearsed", "tested", "uploaded"],
    ]
    assert operator.get().history[0].action == "rolled-back"


def test_a_work_order_is_a_draft_with_names(fake: FakeOpportune, channel: grpc.Channel) -> None:
    operator = OperatorClient(channel)
    draft = operator.order(
        "4711", "campaign: x", scene_bindings={"payday": "scene.payday"}, base_revision="b", comment="plan"
    ).rulebase
    (order,) = fake.orders
    assert (order.order_id, order.document, order.base_revision) == ("4711", "campaign: x", "b")
    assert dict(order.scene_bindings) == {"payday": "scene.payday"}
    assert draft.comment == "plan"
    fake.rulebases[draft.revision].state = rulebase_pb.RULEBASE_STATE_DRAFT
    with pytest.raises(NotReadyError):
        operator.activate(draft.revision)


def test_a_watcher_is_told_of_what_is_and_of_each_change(
    fake: FakeOpportune, channel: grpc.Channel
) -> None:
    operator = OperatorClient(channel)
    revision = operator.upload(b"a").rulebase.revision
    told = operator.watch()
    assert next(told).kind == RulebaseEvent.SNAPSHOT
    operator.activate(revision)
    activated = next(told)
    assert activated.kind == RulebaseEvent.ACTIVATED
    assert [each.revision for each in activated.activations] == [revision]
    with pytest.raises(ConflictError):
        operator.activate(revision)
    failed = next(told)
    assert (failed.kind, failed.attempt.succeeded) == (RulebaseEvent.ACTIVATION_FAILED, False)
    operator.pause("x", "price")
    paused = next(told)
    assert (paused.kind, paused.campaign) == (RulebaseEvent.PAUSED, "x")
    assert [each.campaign for each in paused.paused_campaigns] == ["x"]
    operator.pause("x", "again")
    operator.resume("x")
    assert next(told).kind == RulebaseEvent.RESUMED, "pausing again changed nothing"
    fake.stop()
    with pytest.raises(UnavailableError):
        next(told)


def test_a_bad_rulebase_is_refused_with_its_problems(fake: FakeOpportune, channel: grpc.Channel) -> None:
    fake.problems.append(
        rulebase_pb.Problem(file="a.yaml", severity=rulebase_pb.PROBLEM_SEVERITY_ERROR, message="odd")
    )
    operator = OperatorClient(channel)
    assert [problem.file for problem in operator.check(b"").problems] == ["a.yaml"]
    with pytest.raises(RequestError, match="odd"):
        operator.upload(b"")
    assert fake.archives == {}


def decision(number: int, campaign: str = "a") -> types_pb2.Decision:
    return types_pb2.Decision(
        decision_id=f"d{number}", campaign=campaign, reason=types_pb2.REASON_DECIDED, event_id=f"e{number}"
    )


def test_decisions_are_listed_page_by_page(fake: FakeOpportune, channel: grpc.Channel) -> None:
    fake.decisions.extend(decision(n, "ab"[n % 2]) for n in range(7))
    operator = OperatorClient(channel)
    assert [item.decision_id for item in operator.list_decisions(page_size=3)] == [
        f"d{n}" for n in reversed(range(7))
    ]
    assert [item.decision_id for item in operator.list_decisions(campaign="b", page_size=2)] == [
        "d5",
        "d3",
        "d1",
    ]
    assert list(operator.list_decisions(reasons=[Reason.CAPPED])) == []


def test_reports_and_why_not_answer_what_the_test_laid_out(
    fake: FakeOpportune, channel: grpc.Channel
) -> None:
    operator = OperatorClient(channel)
    since = datetime(2026, 11, 1, tzinfo=UTC)
    fake.report.reports.add(campaign="a", matched_count=3)
    found = operator.report(["a"], since=since, until=since + timedelta(days=2), period="day")
    assert found == fake.report
    [asked] = fake.report_requests
    assert list(asked.campaigns) == ["a"]
    assert asked.period == insight_pb.REPORT_PERIOD_DAY
    assert asked.until.seconds - asked.since.seconds == 2 * 86_400
    operator.report(since=since)
    assert not fake.report_requests[1].HasField("until")

    fake.why_nots["8613800000001", "a"] = insight_pb.WhyNotResponse(summary="on x: capped")
    assert operator.why_not("8613800000001", "a").summary == "on x: capped"
    with pytest.raises(NotFoundError):
        operator.why_not("8613800000001", "b")


def test_decisions_are_followed_from_now_on(fake: FakeOpportune, channel: grpc.Channel) -> None:
    fake.decisions.append(decision(0))
    later = iter([[decision(1), decision(2)], [], [decision(3)]])

    def pause(seconds: float) -> None:
        fake.decisions.extend(next(later))

    following = OperatorClient(channel).follow_decisions(pause=pause)
    assert [item.decision_id for item in islice(following, 3)] == ["d1", "d2", "d3"]


def test_explanations(fake: FakeOpportune, channel: grpc.Channel) -> None:
    fake.decisions.append(decision(1))
    operator = OperatorClient(channel)
    assert operator.explain("d1").event_id == "e1"
    assert operator.explain_event("", "", "e1").decisions[0].decision_id == "d1"
    with pytest.raises(NotFoundError):
        operator.explain("d2")


def test_what_a_service_does_not_know_is_unsupported(fake: FakeOpportune, channel: grpc.Channel) -> None:
    fake.fail("DiffRulebases", "UNIMPLEMENTED")
    with pytest.raises(UnsupportedError):
        OperatorClient(channel).diff("r")


def test_what_the_guide_says_to_operators_runs(
    fake: FakeOpportune, channel: grpc.Channel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guide = Path(__file__).parents[2] / "docs" / "guides" / "clients.md"
    section = guide.read_text(encoding="utf-8").partition("## Operate\n")[2].partition("\n## ")[0]
    (tmp_path / "rulebases" / "spring").mkdir(parents=True)
    (tmp_path / "rulebases" / "spring" / "rulebase.yaml").write_text("rulebase: spring\n")
    monkeypatch.chdir(tmp_path)
    winter = OperatorClient(channel).upload(b"winter").rulebase.revision
    OperatorClient(channel).activate(winter)
    fake.test_results.append(rulebase_pb.TestCaseResult(name="x", passed=True))
    names = {"channel": channel}
    code = re.findall(r"^```python\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    assert len(code) == 2
    for each in code:
        exec(each, names)  # noqa: S102
    assert fake.active_revision == winter
    assert [entry.action for entry in OperatorClient(channel).get().history][:1] == ["rolled-back"]
    assert fake.calls.count("ActivateRulebase") == 3
