"""The life of a revision over the wire, by known callers: nobody gets past a gate, and all is kept."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
from opportune.v1 import rulebase_service_pb2 as pb
from opportune.v1 import types_pb2 as types
from opportune_rulebase import from_archive, load
from opportune_service.app import promotions
from support.operators import Person, Team, refused, team
from support.rulebases import NOON_US
from support.server import in_loop, running_service
from support.small_rulebase import small_rulebase
from support.wire import archive, timestamp

CASE = """\
now: 2026-11-20T12:00:00+08:00
cases:
  - name: a heavy sender is offered the bundle
    subscriber: {id: "8613800000001"}
    given: {metric.mms_30d: 25}
    events: [{type: mms_sent, size_kb: 80}]
    expect: [{campaign: mms-bundle, channel: sms}]
  - name: somebody who sends little is not
    subscriber: {id: "8613800000001"}
    given: {metric.mms_30d: 0}
    events: [{type: mms_sent, size_kb: 80}]
    expect: []
"""
WRONG = CASE.replace("metric.mms_30d: 0", "metric.mms_30d: 30")
BROKEN = CASE.replace("expect: []", "expect: [{campaign: nonsense}]")

IN_FORCE = small_rulebase()
CURRENT = load(IN_FORCE).revision
FULL, CANARY, SHADOW = (
    types.ACTIVATION_MODE_FULL,
    types.ACTIVATION_MODE_CANARY,
    types.ACTIVATION_MODE_SHADOW,
)
DENIED, NOT_READY = grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.FAILED_PRECONDITION


def better(text: str = "A better text", case: str = CASE) -> dict[str, bytes]:
    """Another revision, with tests."""
    return small_rulebase(text=text) | {"tests/bundle_test.yaml": case.encode()}


async def approved(people: Team, text: str) -> str:
    """A revision by ann that amy has approved."""
    revision = await people.ann.upload(better(text))
    await people.ann.test(revision)
    await people.amy.approve(revision)
    return revision


async def in_full_force(person: Person) -> str:
    return (await person.get()).rulebase.revision


@in_loop
async def test_the_whole_way_of_a_revision(tmp_path: Path) -> None:
    async with team(tmp_path, IN_FORCE) as people:
        revision = await people.ann.upload(better(), "less is more")
        assert await people.victor.state(revision) == "CHECKED"
        await people.ann.test(revision)
        assert await people.victor.state(revision) == "TESTED"
        approved = await people.amy.approve(revision, "reads well")
        assert approved.state == pb.RULEBASE_STATE_APPROVED
        assert (approved.author, approved.approver) == ("ann", "amy")
        assert approved.approved_at == timestamp(NOON_US)
        answer = await people.olga.activate(revision, CURRENT, comment="go")
        assert answer.previous_revision == CURRENT
        assert await people.victor.state(revision) == "ACTIVE"
        assert await people.victor.state(CURRENT) == "SUPERSEDED"
        back = await people.amy.roll_back(revision, comment="too pushy")
        assert (back.activation.revision, back.previous_revision) == (CURRENT, revision)
        assert back.activation.comment == "too pushy"
        assert people.service.app.live.id == CURRENT
        found = await people.victor.get(revision)
        assert found.rulebase.state == pb.RULEBASE_STATE_SUPERSEDED
        assert [(each.action, each.actor, each.comment) for each in found.history] == [
            ("activated", "olga", "go"),
            ("approved", "amy", "reads well"),
            ("tested", "ann", "2 cases passed"),
            ("uploaded", "ann", "less is more"),
        ]
        assert [each.mode for each in found.history] == [FULL, 0, 0, 0]
        current = await people.victor.get()
        assert [(each.action, each.actor) for each in current.history][:1] == [("rolled-back", "amy")]
        assert list(current.activations) == [back.activation]


@in_loop
async def test_another_process_and_the_next_one_answer_the_same(tmp_path: Path) -> None:
    """All that is answered is in the store."""
    async with team(tmp_path, IN_FORCE) as people:
        revision = await approved(people, "A better text")
        canary = await people.olga.activate(
            revision, CURRENT, mode=CANARY, canary_share=0.05, comment="try"
        )
        assert canary.activation.canary_share == pytest.approx(0.05)
        before = await people.victor.get(revision)
    async with team(tmp_path, {}) as people:
        after = await people.victor.get(revision)
        assert after == pb.GetRulebaseResponse(
            rulebase=before.rulebase, activations=before.activations, history=before.history
        )
        modes = [(each.revision, each.mode, each.actor, each.comment) for each in after.activations]
        assert modes == [(CURRENT, FULL, "test", ""), (revision, CANARY, "olga", "try")]
        assert after.history[0].mode == CANARY
        assert after.history[0].canary_share == pytest.approx(0.05)


@in_loop
async def test_tests_that_come_later(tmp_path: Path) -> None:
    """They are no part of what a revision is named by; so it is uploaded again with them, and whoever does
    so has had a part in it."""
    files = better()
    without = {path: text for path, text in files.items() if not path.startswith("tests/")}
    async with team(tmp_path, IN_FORCE) as people:
        revision = await people.ann.upload(without)
        assert (await refused(people.olga.approve(revision))).reason == "NOT_READY"
        again = pb.UploadRulebaseRequest(archive=archive(files))
        assert not (await people.amy.call("UploadRulebase", again)).already_known
        assert (await people.amy.call("UploadRulebase", again)).already_known
        await people.ann.test(revision)
        assert (await refused(people.amy.approve(revision))).code == DENIED
        await people.olga.approve(revision)
        # Others again: what passed is not what it carries now.
        await people.ann.upload(better(case=WRONG))
        assert await people.victor.state(revision) == "APPROVED"
        answer = await people.ann.call("TestRulebase", pb.TestRulebaseRequest(revision=revision))
        assert not answer.passed


@in_loop
async def test_nobody_approves_what_he_uploaded(tmp_path: Path) -> None:
    async with team(tmp_path, IN_FORCE) as people:
        revision = await people.amy.upload(better())
        early = await refused(people.amy.approve(revision))
        await people.amy.test(revision)
        for said in (early, await refused(people.amy.approve(revision))):
            assert (said.code, said.reason) == (DENIED, "FORBIDDEN")
            assert "amy" in said.message
        refusal = await refused(people.amy.activate(revision, CURRENT))
        assert (refusal.code, refusal.reason) == (NOT_READY, "NOT_READY")
        assert "ApproveRulebase" in refusal.message
        assert await people.victor.state(revision) == "TESTED"
        # Uploading it too makes nobody else its author: nothing was stored.
        assert await people.ann.upload(better()) == revision
        await people.olga.approve(revision)
        assert await people.victor.state(revision) == "APPROVED"


@in_loop
async def test_approval_needs_tests_that_passed(tmp_path: Path) -> None:
    async with team(tmp_path, IN_FORCE) as people:
        untested = await people.ann.upload(small_rulebase(text="None at all"))
        wrong = await people.ann.upload(better("Wrong", WRONG))
        for revision, cases in ((untested, 0), (wrong, 2)):
            answer = await people.ann.call("TestRulebase", pb.TestRulebaseRequest(revision=revision))
            assert (answer.passed, len(answer.results)) == (False, cases)
            said = await refused(people.amy.approve(revision))
            assert (said.code, said.reason) == (NOT_READY, "NOT_READY")
            assert "TestRulebase" in said.message
            assert await people.victor.state(revision) == "CHECKED"


@in_loop
async def test_part_of_the_tests_is_not_enough(tmp_path: Path) -> None:
    async with team(tmp_path, IN_FORCE) as people:
        revision = await people.ann.upload(better())
        for only, count in (("heavy", 1), ("bundle_test", 2), ("there is none", 0)):
            request = pb.TestRulebaseRequest(revision=revision, filter=only)
            answer = await people.ann.call("TestRulebase", request)
            assert (len(answer.results), answer.passed) == (count, count > 0)
            assert await people.victor.state(revision) == "CHECKED"


@in_loop
async def test_approving_again_changes_nothing(tmp_path: Path) -> None:
    async with team(tmp_path, IN_FORCE) as people:
        revision = await people.ann.upload(better())
        await people.ann.test(revision)
        first = await people.amy.approve(revision, "yes")
        await people.ann.test(revision)
        assert await people.olga.approve(revision, "me too") == first
        history = (await people.victor.get(revision)).history
        assert [each.action for each in history] == ["approved", "tested", "uploaded"]


@in_loop
async def test_without_an_approval_only_a_shadow(tmp_path: Path) -> None:
    async with team(tmp_path, IN_FORCE) as people:
        revision = await people.ann.upload(better())
        for fields in ({}, {"mode": CANARY, "canary_share": 0.1}):
            said = await refused(people.olga.activate(revision, CURRENT, **fields))
            assert (said.code, said.reason) == (NOT_READY, "NOT_READY")
            attempt = (await people.victor.get()).last_attempt
            assert (attempt.revision, attempt.succeeded) == (revision, False)
            assert "approved" in attempt.message
        answer = await people.olga.activate(revision, CURRENT, mode=SHADOW)
        assert [(each.revision, each.mode) for each in answer.activations] == [
            (CURRENT, FULL),
            (revision, SHADOW),
        ]
        assert await people.victor.state(revision) == "ACTIVE"
        # It has decided, for nobody: that lets it into no other mode.
        await people.olga.activate(CURRENT, CURRENT, comment="end the shadow")
        assert await people.victor.state(revision) == "SUPERSEDED"
        assert (await refused(people.olga.activate(revision, CURRENT))).reason == "NOT_READY"
        assert (await refused(people.olga.roll_back(CURRENT, revision=revision))).reason == "NOT_READY"
        await people.ann.test(revision)
        await people.amy.approve(revision)
        assert await people.victor.state(revision) == "APPROVED"
        await people.olga.activate(revision, CURRENT)


@in_loop
async def test_what_was_in_full_force_needs_no_approval_to_come_back(tmp_path: Path) -> None:
    async with team(tmp_path, IN_FORCE) as people:
        revision = await approved(people, "A better text")
        await people.olga.activate(revision, CURRENT)
        answer = await people.olga.activate(CURRENT, revision)
        assert (answer.activation.revision, answer.previous_revision) == (CURRENT, revision)


@in_loop
async def test_a_rollback_goes_to_what_was_in_full_force_before(tmp_path: Path) -> None:
    async with team(tmp_path, IN_FORCE) as people:
        second, third = await approved(people, "Second"), await approved(people, "Third")
        nothing = await refused(people.olga.roll_back(CURRENT))
        assert (nothing.code, nothing.reason) == (NOT_READY, "NOT_READY")
        await people.olga.activate(second, CURRENT)
        await people.olga.activate(third, second, mode=CANARY, canary_share=0.5)
        assert (await people.olga.roll_back(second)).activation.revision == CURRENT
        assert len((await people.victor.get()).activations) == 1, "the canary has ended"
        never = await refused(people.olga.roll_back(CURRENT, revision=third))
        assert (never.code, never.reason) == (NOT_READY, "NOT_READY")
        assert "never" in never.message
        await people.olga.activate(third, CURRENT)
        assert (await people.olga.roll_back(third, revision=second)).activation.revision == second
        assert await in_full_force(people.victor) == second


@in_loop
async def test_a_rollback_expects_what_is_in_full_force(tmp_path: Path) -> None:
    async with team(tmp_path, IN_FORCE) as people:
        revision = await approved(people, "A better text")
        await people.olga.activate(revision, CURRENT)
        said = await refused(people.olga.roll_back(""))
        assert (said.code, said.fields) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            ["expected_current_revision"],
        )
        for fields in ({}, {"revision": CURRENT}):
            for wrong in (CURRENT, "0" * 64):
                said = await refused(people.olga.roll_back(wrong, **fields))
                assert (said.code, said.reason) == (grpc.StatusCode.ABORTED, "CONFLICT")
        unknown = await refused(people.olga.roll_back(revision, revision="0" * 64))
        assert (unknown.code, unknown.reason) == (grpc.StatusCode.NOT_FOUND, "UNKNOWN_REVISION")
        assert await in_full_force(people.victor) == revision


@in_loop
async def test_a_repetition_by_its_id_succeeds_and_is_one_step(tmp_path: Path) -> None:
    async with team(tmp_path, IN_FORCE) as people:
        revision = await approved(people, "A better text")
        trial = {"mode": CANARY, "canary_share": 0.2, "request_id": "1"}
        assert await people.olga.activate(revision, CURRENT, **trial) == await people.olga.activate(
            revision, CURRENT, **trial
        )
        first = await people.olga.activate(revision, CURRENT, comment="go", request_id="2")
        assert await people.olga.activate(revision, CURRENT, comment="go", request_id="2") == first
        back = await people.olga.roll_back(revision, request_id="3")
        assert await people.olga.roll_back(revision, request_id="3") == back
        assert (await refused(people.olga.roll_back(revision))).reason == "CONFLICT"
        assert (
            await refused(people.olga.activate(revision, revision, request_id="2"))
        ).reason == "CONFLICT"
        actions = [each.action for each in (await people.victor.get(revision)).history]
        assert actions.count("activated") == 2
        assert [each.action for each in (await people.victor.get()).history].count("rolled-back") == 1


@in_loop
async def test_ending_a_canary_by_what_is_in_full_force(tmp_path: Path) -> None:
    async with team(tmp_path, IN_FORCE) as people:
        revision = await approved(people, "A better text")
        for _ in range(2):  # the second time it is no repetition of the first
            await people.olga.activate(revision, CURRENT, mode=CANARY, canary_share=0.2)
            answer = await people.olga.activate(CURRENT, CURRENT, request_id="end")
            assert [each.revision for each in answer.activations] == [CURRENT]


@in_loop
async def test_tests_that_take_too_long_give_their_turn_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = pb.TestRulebaseRequest(archive=archive(better()))
    async with team(tmp_path, IN_FORCE) as people:
        with monkeypatch.context() as patch:
            patch.setattr(promotions, "_MOST_SECONDS", 0)
            said = await refused(people.ann.call("TestRulebase", request))
        assert (said.code, said.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "NOT_READY")
        assert "opportune test" in said.message
        assert (await people.ann.call("TestRulebase", request)).passed


@in_loop
async def test_tests_say_what_they_found(tmp_path: Path) -> None:
    async with team(tmp_path, IN_FORCE) as people:
        request = pb.TestRulebaseRequest(archive=archive(better(case=WRONG)))
        answer = await people.ann.call("TestRulebase", request)
        assert not answer.passed
        assert [(each.line, each.name, each.passed) for each in answer.results] == [
            (3, "a heavy sender is offered the bundle", True),
            (8, "somebody who sends little is not", False),
        ]
        assert "mms-bundle was decided on sms" in answer.results[1].difference
        covered = {each.name: (each.held_count, each.not_held_count) for each in answer.coverage}
        assert covered == {"behaviour.often_sends_mms": (2, 0), "care-plan": (0, 0), "mms-bundle": (2, 0)}
        right = pb.TestRulebaseRequest(archive=archive(better()))
        answer = await people.ann.call("TestRulebase", right)
        covered = {each.name: (each.held_count, each.not_held_count) for each in answer.coverage}
        assert answer.passed
        assert covered["mms-bundle"] == covered["behaviour.often_sends_mms"] == (1, 1)
        broken = pb.TestRulebaseRequest(archive=archive(better(case=BROKEN)))
        answer = await people.ann.call("TestRulebase", broken)
        assert (answer.passed, list(answer.results)) == (False, [])
        assert any("nonsense" in each.message for each in answer.problems)
        junk = pb.TestRulebaseRequest(archive=pb.RulebaseArchive(data=b"no zip"))
        assert (await people.ann.call("TestRulebase", junk)).problems
        listed = (await people.victor.call("ListRulebases", pb.ListRulebasesRequest())).rulebases
        assert [each.revision for each in listed] == [CURRENT], "nothing of it was stored"
        unknown = pb.TestRulebaseRequest(revision="0" * 64)
        assert (await refused(people.ann.call("TestRulebase", unknown))).reason == "UNKNOWN_REVISION"


@in_loop
async def test_lists_by_state_come_in_whole_pages(tmp_path: Path) -> None:
    async with team(tmp_path, IN_FORCE) as people:
        uploads = [await people.ann.upload(better(f"Text {n}")) for n in range(6)]
        for revision in uploads[::2]:
            await people.ann.test(revision)
        found: list[str] = []
        request = pb.ListRulebasesRequest(state=pb.RULEBASE_STATE_TESTED, page_size=2)
        while True:
            page = await people.victor.call("ListRulebases", request)
            found += [each.revision for each in page.rulebases]
            assert all(each.state == pb.RULEBASE_STATE_TESTED for each in page.rulebases)
            if not page.next_page_token:
                break
            assert len(page.rulebases) == 2
            request.page_token = page.next_page_token
        assert sorted(found) == sorted(uploads[::2])


@in_loop
async def test_pauses_are_part_of_the_history(tmp_path: Path) -> None:
    async with team(tmp_path, IN_FORCE) as people:
        pause = pb.PauseCampaignRequest(campaign="mms-bundle", reason="wrong price")
        await people.olga.call("PauseCampaign", pause)
        await people.amy.call("ResumeCampaign", pb.ResumeCampaignRequest(campaign="mms-bundle"))
        history = (await people.victor.get()).history
        assert [(each.action, each.actor, each.comment) for each in history[:3]] == [
            ("resumed", "amy", "mms-bundle"),
            ("paused", "olga", "mms-bundle: wrong price"),
            ("activated", "test", ""),
        ]


@in_loop
async def test_the_difference_to_what_is_in_force(tmp_path: Path) -> None:
    async with team(tmp_path, IN_FORCE) as people:
        revision = await people.ann.upload(better())
        request = pb.DiffRulebasesRequest(to_revision=revision)
        answer = await people.victor.call("DiffRulebases", request)
        assert [(each.kind, each.element, each.name) for each in answer.changes] == [
            (pb.CHANGE_KIND_CHANGED, "campaign", "mms-bundle")
        ]
        (change,) = answer.changes
        assert any("A better text" in each.after for each in change.keys)
        assert list(change.affected_campaigns) == ["mms-bundle"]
        same = pb.DiffRulebasesRequest(from_revision=revision, to_revision=revision)
        assert not (await people.victor.call("DiffRulebases", same)).changes
        from_nothing = {"from_revision": "x", "to_revision": revision}
        for unknown in ({"to_revision": "0" * 64}, {"to_revision": ""}, from_nothing):
            said = await refused(people.victor.call("DiffRulebases", pb.DiffRulebasesRequest(**unknown)))
            assert (said.code, said.reason) == (grpc.StatusCode.NOT_FOUND, "UNKNOWN_REVISION")


@in_loop
async def test_without_known_callers_there_is_no_gate() -> None:
    """Everybody is the same, so there is nobody else who could approve."""
    async with running_service(files=IN_FORCE) as service:
        uploaded = await service.rulebases.UploadRulebase(
            pb.UploadRulebaseRequest(archive=archive(better()))
        )
        revision = uploaded.rulebase.revision
        request = pb.ActivateRulebaseRequest(revision=revision, expected_current_revision=CURRENT)
        await service.rulebases.ActivateRulebase(request)
        assert service.app.live.id == revision
        test = pb.TestRulebaseRequest(revision=revision)
        assert (await service.rulebases.TestRulebase(test)).passed
        approval = service.rulebases.ApproveRulebase(pb.ApproveRulebaseRequest(revision=revision))
        assert (await refused(approval)).code is DENIED


@in_loop
async def test_the_archive_comes_back_as_it_was_uploaded(tmp_path: Path) -> None:
    async with team(tmp_path, IN_FORCE) as people:
        revision = await people.ann.upload(better())
        found = await people.victor.get(revision, include_archive=True)
        assert found.archive.data == archive(better()).data
        assert from_archive(found.archive.data) == better()
