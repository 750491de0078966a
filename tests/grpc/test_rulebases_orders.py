"""Work orders over the wire: bound ones are revisions like others, unbound ones are drafts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
from opportune.v1 import rulebase_service_pb2 as pb
from opportune_rulebase import from_archive, load
from support.operators import Team, refused, team
from support.server import in_loop, running_service
from support.small_rulebase import small_rulebase
from support.work_orders import ORDER, order

BASE = small_rulebase()
CURRENT = load(BASE).revision


async def sent(people: Team, **fields: Any) -> pb.UploadRulebaseResponse:
    answer: pb.UploadRulebaseResponse = await people.ann.call("UploadRulebase", order(**fields))
    return answer


@in_loop
async def test_a_bound_order_is_the_one_in_force_with_one_campaign_more(tmp_path: Path) -> None:
    async with team(tmp_path, BASE) as people:
        stored = await sent(people)
        assert stored.rulebase.state == pb.RULEBASE_STATE_CHECKED
        assert (stored.rulebase.author, stored.rulebase.comment) == ("ann", "by the plan")
        assert [each.campaign for each in stored.rulebase.campaigns] == [
            *("autumn-mms", "care-plan", "mms-bundle")
        ]
        assert not stored.already_known
        again = await sent(people)
        assert again.already_known
        assert again.rulebase == stored.rulebase
        found = await people.victor.get(stored.rulebase.revision, include_archive=True)
        files = from_archive(found.archive.data)
        assert {path: files[path] for path in BASE} == BASE
        assert len(files) == len(BASE) + 1
        assert load(files).revision == stored.rulebase.revision
        assert [each.action for each in found.history] == ["uploaded"]
        diff = pb.DiffRulebasesRequest(to_revision=stored.rulebase.revision)
        changes = (await people.victor.call("DiffRulebases", diff)).changes
        assert [(each.kind, each.name) for each in changes] == [(pb.CHANGE_KIND_ADDED, "autumn-mms")]
        request = pb.ActivateRulebaseRequest(
            revision=stored.rulebase.revision, expected_current_revision=CURRENT
        )
        said = await refused(people.olga.call("ActivateRulebase", request))
        assert said.reason == "NOT_READY", "approval is asked for as of any other"


@in_loop
async def test_an_unbound_order_is_a_draft_that_goes_nowhere(tmp_path: Path) -> None:
    async with team(tmp_path, BASE) as people:
        stored = (await sent(people, scene_bindings={})).rulebase
        revision = stored.revision
        assert stored.state == pb.RULEBASE_STATE_DRAFT
        assert stored.name == "small"
        assert not stored.campaigns
        (unbound,) = stored.warnings
        assert (unbound.severity, unbound.code) == (pb.PROBLEM_SEVERITY_ERROR, "unknown-name")
        assert "heavy senders" in unbound.message
        found = await people.victor.get(revision, include_archive=True)
        assert found.rulebase == stored
        assert [(each.action, each.actor) for each in found.history] == [("drafted", "ann")]
        assert b"heavy senders" in b"".join(from_archive(found.archive.data).values())
        test = await people.ann.call("TestRulebase", pb.TestRulebaseRequest(revision=revision))
        assert (test.passed, bool(test.problems)) == (False, True)
        for mode in (1, 2, 3):
            request = pb.ActivateRulebaseRequest(
                revision=revision,
                expected_current_revision=CURRENT,
                mode=mode,
                canary_share=0.1 if mode == 2 else 0,
            )
            for calls, call, asked in (
                (people.olga, "ActivateRulebase", request),
                (people.amy, "ApproveRulebase", pb.ApproveRulebaseRequest(revision=revision)),
                (people.olga, "RollbackRulebase", _rollback(revision)),
                (people.victor, "DiffRulebases", pb.DiffRulebasesRequest(to_revision=revision)),
            ):
                said = await refused(calls.call(call, asked))
                assert (said.code, said.reason) == (
                    grpc.StatusCode.FAILED_PRECONDITION,
                    "NOT_READY",
                ), call
        assert (await people.victor.get()).rulebase.revision == CURRENT
        assert await people.victor.state(revision) == "DRAFT"
        drafts = pb.ListRulebasesRequest(state=pb.RULEBASE_STATE_DRAFT)
        listed = (await people.victor.call("ListRulebases", drafts)).rulebases
        assert [each.revision for each in listed] == [revision]
        # The same order with all names bound is another revision, which goes on.
        bound = await sent(people)
        assert bound.rulebase.state == pb.RULEBASE_STATE_CHECKED
        assert bound.rulebase.revision != revision


def _rollback(revision: str) -> pb.RollbackRulebaseRequest:
    return pb.RollbackRulebaseRequest(revision=revision, expected_current_revision=CURRENT)


@in_loop
async def test_without_known_callers_a_draft_goes_nowhere_either(tmp_path: Path) -> None:
    async with running_service(tmp_path, BASE) as service:
        stored = await service.rulebases.UploadRulebase(order(scene_bindings={}))
        request = pb.ActivateRulebaseRequest(
            revision=stored.rulebase.revision, expected_current_revision=CURRENT
        )
        said = await refused(service.rulebases.ActivateRulebase(request))
        assert (said.reason, service.app.live.id) == ("NOT_READY", CURRENT)


@in_loop
async def test_an_order_with_errors_is_not_stored(tmp_path: Path) -> None:
    async with team(tmp_path, BASE) as people:
        for fields, reason in (
            ({"document": ORDER.replace("product: mms-bundle", "product: nonsense")}, "RULEBASE_REFUSED"),
            ({"document": ORDER.replace("autumn-mms", "mms-bundle")}, "RULEBASE_REFUSED"),
            ({"document": "{"}, "RULEBASE_REFUSED"),
            ({"scene_bindings": {"heavy senders": "behaviour.nonsense"}}, "RULEBASE_REFUSED"),
            ({"document": ""}, "RULEBASE_REFUSED"),
            ({"order_id": ""}, "INVALID_REQUEST"),
            ({"order_id": "x" * 65}, "INVALID_REQUEST"),
            ({"base_revision": "0" * 64}, "UNKNOWN_REVISION"),
        ):
            assert (await refused(sent(people, **fields))).reason == reason, fields
        listed = (await people.victor.call("ListRulebases", pb.ListRulebasesRequest())).rulebases
        assert [each.revision for each in listed] == [CURRENT]
    async with team(tmp_path, {}, database="sqlite://") as people:
        assert (await refused(sent(people))).reason == "NO_RULEBASE"


@in_loop
async def test_an_order_for_another_revision_than_the_one_in_force(tmp_path: Path) -> None:
    async with team(tmp_path, BASE) as people:
        other = await people.ann.upload(small_rulebase(text="Another"))
        stored = await sent(people, base_revision=other)
        diff = pb.DiffRulebasesRequest(from_revision=other, to_revision=stored.rulebase.revision)
        changes = (await people.victor.call("DiffRulebases", diff)).changes
        assert [each.name for each in changes] == ["autumn-mms"]


@in_loop
async def test_a_branch_orders_for_itself(tmp_path: Path) -> None:
    vocabulary = BASE["vocabulary.yaml"].replace(b"{age: int}", b"{age: int, branch: string}")
    async with team(tmp_path, BASE | {"vocabulary.yaml": vocabulary}) as people:
        own = ORDER + "branches: [north]\n"
        assert (await people.north.call("UploadRulebase", order(document=own))).rulebase.campaigns
        for others in (ORDER, ORDER + "branches: [south]\n"):
            said = await refused(people.north.call("UploadRulebase", order(document=others, order_id="2")))
            assert (said.code, said.reason) == (grpc.StatusCode.PERMISSION_DENIED, "FORBIDDEN")
