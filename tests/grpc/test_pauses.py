"""Campaigns paused and resumed over the wire."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest
from opportune.v1 import insight_service_pb2 as insight
from opportune.v1 import rulebase_service_pb2 as pb
from opportune.v1 import types_pb2 as types
from support.applications import activate
from support.callers import bearer, caller, token_line, tokens, write_callers
from support.rulebases import NOON_US
from support.server import Service, in_loop, refusal, running_service
from support.small_rulebase import small_rulebase
from support.wire import SOMEBODY, event, import_batch, import_header, publish, timestamp

EAGER = small_rulebase(threshold=1)
NAME = "mms-bundle"


async def pause(service: Service, campaign: str = NAME, reason: str = "wrong price") -> pb.CampaignStatus:
    request = pb.PauseCampaignRequest(campaign=campaign, reason=reason)
    return (await service.rulebases.PauseCampaign(request)).campaign


async def resume(service: Service, campaign: str = NAME) -> pb.CampaignStatus:
    request = pb.ResumeCampaignRequest(campaign=campaign, reason="all is well")
    return (await service.rulebases.ResumeCampaign(request)).campaign


async def decide(service: Service, event_id: str) -> int:
    await service.subscribers.ImportSubscribers(
        iter([import_header(), import_batch({SOMEBODY: {"age": 3}})])
    )
    await service.events.PublishEvents(publish(event(event_id)))
    key = insight.EventKey(subscriber_id=SOMEBODY, source="smsc", event_id=event_id)
    explained = await service.insight.ExplainDecision(insight.ExplainDecisionRequest(event=key))
    reason: int = explained.verdict.decisions[0].reason
    return reason


async def statuses(service: Service) -> dict[str, pb.CampaignStatus]:
    shown = await service.rulebases.GetRulebase(pb.GetRulebaseRequest())
    return {each.campaign: each for each in shown.rulebase.campaigns}


async def refused(call: Any) -> Any:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return refusal(caught.value)


@in_loop
async def test_a_pause_holds_for_the_next_decision_over_a_restart_until_it_is_resumed(
    tmp_path: Path,
) -> None:
    async with running_service(tmp_path, EAGER) as service:
        status = await pause(service)
        assert (status.paused, status.paused_by, status.pause_reason) == (True, "anonymous", "wrong price")
        assert (status.label, status.product) == ("MMS bundle for heavy senders", NAME)
        assert status.paused_at == timestamp(NOON_US)
        assert await decide(service, "1") == types.REASON_NOT_LIVE
        assert (await pause(service, reason="another")).pause_reason == "wrong price", "as it was"
    async with running_service(tmp_path, EAGER) as service:
        shown = await statuses(service)
        assert shown[NAME] == status
        assert not shown["care-plan"].paused
        assert await decide(service, "2") == types.REASON_NOT_LIVE
        assert not (await resume(service)).paused
        assert await decide(service, "3") == types.REASON_DECIDED
        assert not (await statuses(service))[NAME].paused
        assert not (await resume(service)).paused, "again changes nothing"


@in_loop
async def test_a_message_that_waits_is_not_sent() -> None:
    async with running_service(files=EAGER) as service:
        assert await decide(service, "1") == types.REASON_DECIDED
        await pause(service)
        assert await service.app.deliveries.lease("sms", 10) == []
        await resume(service)
        assert await decide(service, "2") == types.REASON_DECIDED
        assert [each.campaign for each in await service.app.deliveries.lease("sms", 10)] == [NAME]


@in_loop
async def test_what_a_later_rulebase_has_no_more_can_be_resumed() -> None:
    async with running_service(files=EAGER) as service:
        await pause(service)
        without = {name: text for name, text in EAGER.items() if NAME not in name}
        revision, _ = await service.app.rulebases.upload(without, "test", "")
        await service.app.activations.activate(revision.revision, None, "test", "")
        assert await resume(service) == pb.CampaignStatus(campaign=NAME)
        assert (await refused(resume(service))).code is grpc.StatusCode.NOT_FOUND
        assert await service.app.pauses.paused() == {}


@pytest.mark.parametrize("reason", ["", "x" * 501])
def test_a_pause_needs_a_reason(reason: str) -> None:
    @in_loop
    async def body() -> None:
        async with running_service(files=EAGER) as service:
            said = await refused(pause(service, reason=reason))
            assert (said.code, said.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["reason"])

    body()


@in_loop
async def test_an_unknown_campaign_is_not_found() -> None:
    async with running_service(files=EAGER) as service:
        assert (await refused(pause(service, "x"))).code is grpc.StatusCode.NOT_FOUND
        assert (await refused(pause(service, ""))).fields == ["campaign"]
        assert (await refused(resume(service, "x"))).code is grpc.StatusCode.NOT_FOUND
    async with running_service(files={}) as service:
        assert (await refused(pause(service))).reason == "NO_RULEBASE"


@in_loop
async def test_an_operator_of_a_branch_touches_the_campaigns_of_that_branch_alone(tmp_path: Path) -> None:
    files = small_rulebase(threshold=1)
    for name, serves in ((NAME, b"[hangzhou]"), ("care-plan", b"[hangzhou, ningbo]")):
        files[f"campaigns/{name}.yaml"] += b"branches: %s\n" % serves
    made = tokens("hangzhou", "both", "all")
    path = write_callers(
        tmp_path / "callers.yaml",
        [
            caller("hangzhou", "operator", tokens=[token_line(made["hangzhou"])], branches=["hangzhou"]),
            caller("both", "operator", tokens=[token_line(made["both"])], branches=["ningbo", "hangzhou"]),
            caller("all", "operator", tokens=[token_line(made["all"])]),
        ],
    )
    everything = {NAME, "care-plan"}
    may = {"hangzhou": {NAME}, "both": everything, "all": everything}
    async with running_service(files=files, callers=path) as service:
        pauses, resumes = service.rulebases.PauseCampaign, service.rulebases.ResumeCampaign
        for name, campaigns in may.items():
            metadata = bearer(made[name])
            for campaign in everything:
                change = pb.PauseCampaignRequest(campaign=campaign, reason="r")
                back = pb.ResumeCampaignRequest(campaign=campaign, reason="r")
                if campaign in campaigns:
                    await pauses(change, metadata=metadata)
                    await resumes(back, metadata=metadata)
                    continue
                for call, request in ((pauses, change), (resumes, back)):
                    said = await refused(call(request, metadata=metadata))
                    assert (said.code, said.reason) == (grpc.StatusCode.PERMISSION_DENIED, "FORBIDDEN")
                    assert "ningbo" in said.message
        # A paused campaign that the rulebase has no more may have been anybody's.
        await pauses(pb.PauseCampaignRequest(campaign=NAME, reason="r"), metadata=bearer(made["hangzhou"]))
        await activate(service.app, {key: text for key, text in files.items() if NAME not in key})
        back = pb.ResumeCampaignRequest(campaign=NAME, reason="r")
        assert (await refused(resumes(back, metadata=bearer(made["hangzhou"])))).reason == "FORBIDDEN"
        await resumes(back, metadata=bearer(made["all"]))
        assert await service.app.pauses.paused() == {}
