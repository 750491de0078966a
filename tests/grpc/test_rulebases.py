"""Rulebases over the wire: nothing that fails changes what is in force."""

from __future__ import annotations

import math
from typing import Any

import grpc
import pytest
from opportune.v1 import rulebase_service_pb2 as pb
from opportune.v1 import types_pb2 as types
from opportune_rulebase import from_archive, load
from support.rulebases import NOON_US
from support.server import Service, in_loop, refusal, running_service
from support.small_rulebase import small_rulebase
from support.wire import archive, timestamp

GOOD = small_rulebase()
OTHER = small_rulebase(text="Another text")
BAD = GOOD | {"campaigns/bad.yaml": b"campaign: bad\nproduct: nonsense\n"}
REVISION, OTHER_REVISION = load(GOOD).revision, load(OTHER).revision


async def refused(call: Any) -> Any:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return refusal(caught.value)


def activation(revision: str, expected: str, **fields: Any) -> pb.ActivateRulebaseRequest:
    return pb.ActivateRulebaseRequest(revision=revision, expected_current_revision=expected, **fields)


@in_loop
async def test_check_lists_every_problem_and_stores_nothing() -> None:
    async with running_service(files={}) as service:
        good = await service.rulebases.CheckRulebase(pb.CheckRulebaseRequest(archive=archive(GOOD)))
        assert (good.valid, good.revision) == (True, REVISION)
        bad = await service.rulebases.CheckRulebase(pb.CheckRulebaseRequest(archive=archive(BAD)))
        assert (bad.valid, bad.revision) == (False, "")
        unknown = next(each for each in bad.problems if "nonsense" in each.message)
        assert (unknown.file, unknown.line, unknown.column) == ("campaigns/bad.yaml", 2, 10)
        assert unknown.severity == pb.PROBLEM_SEVERITY_ERROR
        assert unknown.snippet == "product: nonsense"
        assert unknown.code
        junk = pb.CheckRulebaseRequest(archive=pb.RulebaseArchive(data=b"no zip"))
        assert len((await service.rulebases.CheckRulebase(junk)).problems) == 1
        assert not (await service.rulebases.ListRulebases(pb.ListRulebasesRequest())).rulebases


@in_loop
async def test_a_rulebase_with_errors_is_not_stored_and_the_old_one_stays() -> None:
    async with running_service(files=GOOD) as service:
        said = await refused(
            service.rulebases.UploadRulebase(pb.UploadRulebaseRequest(archive=archive(BAD)))
        )
        assert (said.code, said.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "RULEBASE_REFUSED")
        assert "campaigns/bad.yaml:2:10" in said.fields
        assert service.app.live.id == REVISION
        listed = await service.rulebases.ListRulebases(pb.ListRulebasesRequest())
        assert [each.revision for each in listed.rulebases] == [REVISION]


@in_loop
async def test_upload_activate_and_look() -> None:
    async with running_service(files=GOOD) as service:
        request = pb.UploadRulebaseRequest(archive=archive(OTHER), comment="a better text")
        stored = await service.rulebases.UploadRulebase(request)
        assert stored.rulebase.revision == OTHER_REVISION
        assert stored.rulebase.state == pb.RULEBASE_STATE_CHECKED
        assert [each.campaign for each in stored.rulebase.campaigns] == ["care-plan", "mms-bundle"]
        assert (stored.rulebase.metric_count, stored.rulebase.definition_count) == (2, 1)
        assert not stored.already_known
        again = await service.rulebases.UploadRulebase(request)
        assert again.already_known
        assert again.rulebase == stored.rulebase

        answer = await service.rulebases.ActivateRulebase(
            activation(OTHER_REVISION, REVISION, comment="go")
        )
        assert answer.previous_revision == REVISION
        assert answer.activation == pb.Activation(
            revision=OTHER_REVISION,
            mode=types.ACTIVATION_MODE_FULL,
            activated_at=timestamp(NOON_US),
            actor="anonymous",
            comment="go",
        )
        assert list(answer.activations) == [answer.activation]
        assert service.app.live.id == OTHER_REVISION

        found = await service.rulebases.GetRulebase(pb.GetRulebaseRequest(include_archive=True))
        assert found.rulebase.state == pb.RULEBASE_STATE_ACTIVE
        assert from_archive(found.archive.data) == OTHER
        assert [each.action for each in found.history] == ["activated", "uploaded"]
        assert found.last_attempt.succeeded
        old = await service.rulebases.GetRulebase(pb.GetRulebaseRequest(revision=REVISION))
        assert old.rulebase.state == pb.RULEBASE_STATE_SUPERSEDED
        assert len(old.rulebase.campaigns) == 2
        assert not old.archive.data


@in_loop
async def test_a_lost_update_is_aborted_and_said_afterwards() -> None:
    async with running_service(files=GOOD) as service:
        await service.rulebases.UploadRulebase(pb.UploadRulebaseRequest(archive=archive(OTHER)))
        for expected in ("", OTHER_REVISION, "0" * 64):
            said = await refused(service.rulebases.ActivateRulebase(activation(OTHER_REVISION, expected)))
            assert (said.code, said.reason) == (grpc.StatusCode.ABORTED, "CONFLICT")
        assert service.app.live.id == REVISION
        found = await service.rulebases.GetRulebase(pb.GetRulebaseRequest())
        assert found.rulebase.revision == REVISION
        assert not found.last_attempt.succeeded
        assert found.last_attempt.revision == OTHER_REVISION
        assert REVISION in found.last_attempt.message
        unknown = await refused(service.rulebases.ActivateRulebase(activation("0" * 64, REVISION)))
        assert (unknown.code, unknown.reason) == (grpc.StatusCode.NOT_FOUND, "UNKNOWN_REVISION")


@pytest.mark.parametrize(
    "odd", ["\0", "8613800000001", "x" * 100_000, "修订", REVISION.upper(), REVISION + "\n"]
)
def test_what_is_no_revision_is_not_found(odd: str) -> None:
    @in_loop
    async def body() -> None:
        async with running_service(files=GOOD) as service:
            for call, fields in (
                ("GetRulebase", {"revision": odd}),
                ("TestRulebase", {"revision": odd}),
                ("ApproveRulebase", {"revision": odd}),
                ("ActivateRulebase", {"revision": odd, "expected_current_revision": REVISION}),
                ("RollbackRulebase", {"revision": odd, "expected_current_revision": REVISION}),
                ("DiffRulebases", {"from_revision": odd, "to_revision": REVISION}),
                ("DiffRulebases", {"to_revision": odd}),
            ):
                request = getattr(pb, f"{call}Request")(**fields)
                said = await refused(getattr(service.rulebases, call)(request))
                assert (said.code, said.reason) == (grpc.StatusCode.NOT_FOUND, "UNKNOWN_REVISION"), call
                await _shows_no_such_attempt(service)
            for call in ("ActivateRulebase", "RollbackRulebase"):
                request = getattr(pb, f"{call}Request")(revision=REVISION, expected_current_revision=odd)
                assert (await refused(getattr(service.rulebases, call)(request))).reason == "CONFLICT"
                await _shows_no_such_attempt(service)
            request = pb.RollbackRulebaseRequest(expected_current_revision=odd)
            assert (await refused(service.rulebases.RollbackRulebase(request))).reason == "CONFLICT"
            listing = pb.ListRulebasesRequest(page_token=odd)
            assert (await refused(service.rulebases.ListRulebases(listing))).fields == ["page_token"]

    body()


async def _shows_no_such_attempt(service: Service) -> None:
    """Everybody is shown the last attempt: it is neither what one caller wrote, nor of any length."""
    shown = (await service.rulebases.GetRulebase(pb.GetRulebaseRequest())).last_attempt
    assert shown.revision in ("", REVISION)
    assert "8613800000001" not in shown.message
    assert len(shown.message) < 1_000


@in_loop
async def test_repeating_an_activation_by_its_request_id_succeeds() -> None:
    async with running_service(files=GOOD) as service:
        await service.rulebases.UploadRulebase(pb.UploadRulebaseRequest(archive=archive(OTHER)))
        request = activation(OTHER_REVISION, REVISION, request_id="r1")
        first = await service.rulebases.ActivateRulebase(request)
        assert await service.rulebases.ActivateRulebase(request) == first
        nameless = activation(OTHER_REVISION, REVISION)
        assert (await refused(service.rulebases.ActivateRulebase(nameless))).reason == "CONFLICT"


@pytest.mark.parametrize(
    ("fields", "at_fault"),
    [
        ({"mode": 9}, "mode"),
        ({"canary_share": 0.1}, "canary_share"),
        *(
            ({"mode": types.ACTIVATION_MODE_CANARY, "canary_share": share}, "canary_share")
            for share in (0, -0.1, 1, 1.5, math.inf, math.nan)
        ),
        ({"mode": types.ACTIVATION_MODE_SHADOW, "canary_share": 0.1}, "canary_share"),
        ({"comment": "x" * 2_001}, "comment"),
        ({"request_id": "x" * 65}, "request_id"),
    ],
)
def test_an_activation_that_will_not_do(fields: dict[str, Any], at_fault: str) -> None:
    @in_loop
    async def body() -> None:
        async with running_service(files=GOOD) as service:
            said = await refused(
                service.rulebases.ActivateRulebase(activation(REVISION, REVISION, **fields))
            )
            assert (said.code, said.fields) == (grpc.StatusCode.INVALID_ARGUMENT, [at_fault])

    body()


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (pb.UploadRulebaseRequest(), grpc.StatusCode.INVALID_ARGUMENT),
        (pb.UploadRulebaseRequest(work_order=pb.WorkOrder()), grpc.StatusCode.INVALID_ARGUMENT),
        (
            pb.UploadRulebaseRequest(archive=pb.RulebaseArchive(data=b"x", format=9)),
            grpc.StatusCode.INVALID_ARGUMENT,
        ),
        (
            pb.UploadRulebaseRequest(archive=pb.RulebaseArchive(data=b"x", signature=bytes(1_025))),
            grpc.StatusCode.INVALID_ARGUMENT,
        ),
        (
            pb.UploadRulebaseRequest(archive=pb.RulebaseArchive(data=bytes((16 << 20) + 1))),
            grpc.StatusCode.INVALID_ARGUMENT,
        ),
    ],
    ids=["nothing", "work order", "format", "signature", "too large"],
)
def test_an_upload_that_will_not_do(request_: pb.UploadRulebaseRequest, code: grpc.StatusCode) -> None:
    @in_loop
    async def body() -> None:
        async with running_service(files={}) as service:
            assert (await refused(service.rulebases.UploadRulebase(request_))).code is code

    body()


@in_loop
async def test_lists_come_in_pages_and_by_state() -> None:
    async with running_service(files=GOOD) as service:
        for number in range(4):
            files = small_rulebase(text=f"Text {number}")
            await service.rulebases.UploadRulebase(pb.UploadRulebaseRequest(archive=archive(files)))
        every = (await service.rulebases.ListRulebases(pb.ListRulebasesRequest())).rulebases
        assert len(every) == 5
        paged: list[str] = []
        request = pb.ListRulebasesRequest(page_size=2)
        while True:
            page = await service.rulebases.ListRulebases(request)
            paged += [each.revision for each in page.rulebases]
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
        assert paged == [each.revision for each in every]
        active = pb.ListRulebasesRequest(state=pb.RULEBASE_STATE_ACTIVE)
        assert [e.revision for e in (await service.rulebases.ListRulebases(active)).rulebases] == [REVISION]
        for bad in ({"page_size": 1_001}, {"page_size": -1}, {"page_token": "x"}, {"state": 99}):
            said = await refused(service.rulebases.ListRulebases(pb.ListRulebasesRequest(**bad)))
            assert said.fields == list(bad)
