"""A canary and a shadow over the wire: activated, told apart in decisions, read apart."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from opportune.v1 import advice_service_pb2 as advice
from opportune.v1 import insight_service_pb2 as pb
from opportune.v1 import rulebase_service_pb2 as rulebases
from opportune.v1 import types_pb2 as types
from opportune_rulebase import to_archive
from support.rulebases import NOON_US
from support.server import Service, in_loop, refusal, running_service
from support.small_rulebase import small_rulebase, subscribers
from support.wire import event, import_batch, import_header, publish, timestamp

PEOPLE = subscribers(20)


async def let(service: Service, files: dict[str, bytes], mode: Any, share: float = 0.0) -> str:
    """Upload and activate beside what is in full force; the revision."""
    archive = rulebases.RulebaseArchive(data=to_archive(files))
    uploaded = await service.rulebases.UploadRulebase(rulebases.UploadRulebaseRequest(archive=archive))
    revision: str = uploaded.rulebase.revision
    await service.rulebases.ActivateRulebase(
        rulebases.ActivateRulebaseRequest(
            revision=revision,
            expected_current_revision=service.app.live.id,
            mode=mode,
            canary_share=share,
        )
    )
    return revision


async def know(service: Service) -> None:
    records = {person: {"age": 30} for person in PEOPLE}
    await service.subscribers.ImportSubscribers(iter([import_header(), import_batch(records)]))


@in_loop
async def test_what_the_shadow_decides_is_read_apart() -> None:
    async with running_service(files=small_rulebase(threshold=3)) as service:
        await know(service)
        shadow = await let(service, small_rulebase(threshold=1), types.ACTIVATION_MODE_SHADOW)
        await service.events.PublishEvents(publish(*[event("1", person) for person in PEOPLE]))
        await service.app.shadow.settled()
        assert not (await service.insight.ListDecisions(pb.ListDecisionsRequest())).decisions
        listed = await service.insight.ListDecisions(pb.ListDecisionsRequest(shadow=True))
        assert {each.subscriber_id for each in listed.decisions} == set(PEOPLE)
        assert {(each.revision, each.reason) for each in listed.decisions} == {
            (shadow, types.REASON_DECIDED)
        }
        decision = listed.decisions[0]
        request = pb.ExplainDecisionRequest(decision_id=decision.decision_id, shadow=True)
        explained = await service.insight.ExplainDecision(request)
        assert explained.verdict.revision == shadow
        assert explained.verdict.decisions[0].trace.findings
        request.shadow = False
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await service.insight.ExplainDecision(request)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        asked = pb.GetCampaignReportRequest(since=timestamp(NOON_US - 1), until=timestamp(NOON_US + 1))
        assert {
            each.decided_count for each in (await service.insight.GetCampaignReport(asked)).reports
        } == {0}
        asked.shadow = True
        made = await service.insight.GetCampaignReport(asked)
        assert {each.campaign: each.decided_count for each in made.reports}["mms-bundle"] == len(PEOPLE)
        # Nothing of it is open at the counter, nor in anybody's contact view.
        visit = advice.AdviseRequest(
            subscriber_id=PEOPLE[0], touch_point="counter", request_id="r", event_type="counter_visit"
        )
        assert not (await service.advice.Advise(visit)).advices


@in_loop
async def test_without_a_shadow_it_is_said() -> None:
    async with running_service() as service:
        for call, request in (
            (service.insight.ListDecisions, pb.ListDecisionsRequest(shadow=True)),
            (service.insight.ExplainDecision, pb.ExplainDecisionRequest(decision_id="x", shadow=True)),
            (
                service.insight.GetCampaignReport,
                pb.GetCampaignReportRequest(since=timestamp(NOON_US - 1), shadow=True),
            ),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(request)
            assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert refusal(caught.value).reason == "NOT_READY"


@in_loop
async def test_decisions_name_the_revision_that_took_them() -> None:
    async with running_service(files=small_rulebase(threshold=1)) as service:
        await know(service)
        full = service.app.live.id
        changed = small_rulebase(threshold=1, text="Other words")
        canary = await let(service, changed, types.ACTIVATION_MODE_CANARY, 0.5)
        await service.events.PublishEvents(publish(*[event("1", person) for person in PEOPLE]))
        listed = await service.insight.ListDecisions(pb.ListDecisionsRequest())
        found = {each.subscriber_id: (each.revision, each.content) for each in listed.decisions}
        assert set(found.values()) == {(full, "MMS for less: MMS bundle"), (canary, "Other words")}
        for person in PEOPLE:
            why = await service.insight.WhyNot(
                pb.WhyNotRequest(subscriber_id=person, campaign="mms-bundle")
            )
            assert why.revision == found[person][0]
