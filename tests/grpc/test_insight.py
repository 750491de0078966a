"""Decisions explained and listed."""

from __future__ import annotations

import json
from typing import Any

import grpc
import pytest
from opportune.v1 import advice_service_pb2 as advice
from opportune.v1 import insight_service_pb2 as pb
from opportune.v1 import types_pb2 as types
from support.rulebases import NOON_US
from support.server import Service, in_loop, refusal, running_service
from support.small_rulebase import small_rulebase, subscribers
from support.wire import SOMEBODY, event, import_batch, import_header, publish, timestamp

EAGER = small_rulebase(threshold=1)


async def refused(call: Any) -> Any:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return refusal(caught.value)


async def publish_for(service: Service, people: list[str], id_: str = "1") -> None:
    records = {person: {"age": 30} for person in people}
    await service.subscribers.ImportSubscribers(iter([import_header(), import_batch(records)]))
    await service.events.PublishEvents(publish(*[event(id_, person) for person in people]))


@in_loop
async def test_a_decision_is_explained_by_its_id_and_by_its_event() -> None:
    async with running_service(files=EAGER) as service:
        await publish_for(service, [SOMEBODY])
        key = pb.EventKey(subscriber_id=SOMEBODY, source="smsc", event_id="1")
        by_event = await service.insight.ExplainDecision(pb.ExplainDecisionRequest(event=key))
        decision = by_event.verdict.decisions[0]
        request = pb.ExplainDecisionRequest(decision_id=decision.decision_id)
        assert await service.insight.ExplainDecision(request) == by_event

        assert by_event.verdict.revision == decision.revision == service.app.live.id
        assert (decision.reason, decision.mode) == (types.REASON_DECIDED, types.MODE_AUTOMATIC)
        assert (decision.campaign_label, decision.product_label) == (
            "MMS bundle for heavy senders", "MMS bundle",
        )  # fmt: skip
        assert (decision.content, decision.channel) == ("MMS for less: MMS bundle", "sms")
        assert decision.occurred_at == decision.decided_at == timestamp(NOON_US)
        assert decision.delivery_state == types.DELIVERY_STATE_PENDING
        findings = {each.name: each for each in decision.trace.findings}
        assert json.loads(findings["metric.mms_30d"].value_json) == 1
        behaviour = findings["behaviour.often_sends_mms"]
        assert (behaviour.label, behaviour.value_json) == ("often sends MMS", "true")
        assert behaviour.expression == "metric.mms_30d >= 1"
        assert decision.trace.checks[0].reason == types.REASON_STALE
        assert all(each.passed for each in decision.trace.checks)
        assert decision.trace.HasField("arbitration")

        await service.advice.ReportOutcome(
            advice.ReportOutcomeRequest(decision_id=decision.decision_id, kind=types.OUTCOME_KIND_DELIVERED)
        )
        told = (await service.insight.ExplainDecision(request)).verdict.decisions[0]
        assert [each.kind for each in told.outcomes] == [types.OUTCOME_KIND_DELIVERED]
        assert told.delivery_state == types.DELIVERY_STATE_DELIVERED


@in_loop
async def test_a_cap_shows_in_the_trace() -> None:
    async with running_service(files=small_rulebase(threshold=1, weekly_limit=1)) as service:
        await publish_for(service, [SOMEBODY])
        await publish_for(service, [SOMEBODY], "2")
        key = pb.EventKey(subscriber_id=SOMEBODY, source="smsc", event_id="2")
        found = await service.insight.ExplainDecision(pb.ExplainDecisionRequest(event=key))
        decision = found.verdict.decisions[0]
        assert (decision.reason, decision.fate) == (types.REASON_CAPPED, types.FATE_DROP)
        last = decision.trace.checks[-1]
        assert (last.reason, last.channel, last.passed) == (types.REASON_CAPPED, "sms", False)
        assert last.detail


@in_loop
async def test_what_is_not_there_is_not_found() -> None:
    async with running_service() as service:
        explain = service.insight.ExplainDecision
        said = await refused(explain(pb.ExplainDecisionRequest(decision_id="x")))
        assert (said.code, said.reason) == (grpc.StatusCode.NOT_FOUND, "UNKNOWN_DECISION")
        nobody = pb.EventKey(subscriber_id=SOMEBODY, source="smsc", event_id="1")
        said = await refused(explain(pb.ExplainDecisionRequest(event=nobody)))
        assert (said.code, said.reason) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
        assert (await refused(explain(pb.ExplainDecisionRequest()))).fields == ["target"]


@in_loop
async def test_a_list_pages_backwards_and_is_followed_forwards() -> None:
    async with running_service(files=EAGER) as service:
        people = subscribers(7)
        await publish_for(service, people[:5])
        ask = service.insight.ListDecisions
        first = await ask(pb.ListDecisionsRequest(page_size=3))
        assert [each.subscriber_id for each in first.decisions] == people[4:1:-1]
        assert first.decisions[0].content == "MMS for less: MMS bundle"
        assert not first.decisions[0].HasField("trace")
        rest = await ask(pb.ListDecisionsRequest(page_size=3, page_token=first.next_page_token))
        assert [each.subscriber_id for each in rest.decisions] == people[1::-1]
        assert not rest.next_page_token

        await publish_for(service, people[5:])
        for start in (first.cursor, rest.cursor):
            fresh = await ask(pb.ListDecisionsRequest(after=start, include_trace=True))
            assert [each.subscriber_id for each in fresh.decisions] == people[5:]
            assert fresh.decisions[0].HasField("trace")
        nothing = await ask(pb.ListDecisionsRequest(after=fresh.cursor))
        assert not nothing.decisions
        assert nothing.cursor == fresh.cursor
        everything = await ask(pb.ListDecisionsRequest(after="0"))
        assert [each.subscriber_id for each in everything.decisions] == people


@in_loop
async def test_a_list_can_be_narrowed() -> None:
    async with running_service(files=EAGER) as service:
        await publish_for(service, subscribers(3))
        ask = service.insight.ListDecisions

        async def count(**where: Any) -> int:
            return len((await ask(pb.ListDecisionsRequest(**where))).decisions)

        assert await count(subscriber_id=subscribers(3)[1]) == 1
        assert await count(campaign="mms-bundle") == 3
        assert await count(campaign="care-plan") == 0
        assert await count(reasons=[types.REASON_CAPPED]) == 0
        assert await count(reasons=[types.REASON_CAPPED, types.REASON_DECIDED]) == 3
        assert await count(since=timestamp(NOON_US + 1)) == 0
        assert await count(until=timestamp(NOON_US)) == 0
        assert await count(since=timestamp(NOON_US), until=timestamp(NOON_US + 1)) == 3


@pytest.mark.parametrize(
    ("where", "field"),
    [
        ({"reasons": [0]}, "reasons"),
        ({"reasons": [99]}, "reasons"),
        ({"page_size": 1_001}, "page_size"),
        ({"page_token": "x"}, "page_token"),
        ({"after": "-1"}, "after"),
        ({"after": "1", "page_token": "1"}, "after"),
        ({"subscriber_id": "x"}, "subscriber_id"),
    ],
)
def test_a_bad_question_names_the_field(where: dict[str, Any], field: str) -> None:
    @in_loop
    async def body() -> None:
        async with running_service(files={}) as service:
            said = await refused(service.insight.ListDecisions(pb.ListDecisionsRequest(**where)))
            assert (said.code, said.fields) == (grpc.StatusCode.INVALID_ARGUMENT, [field])

    body()


@in_loop
async def test_a_filter_of_a_later_release_is_refused() -> None:
    async with running_service(files={}) as service:
        said = await refused(service.insight.ListDecisions(pb.ListDecisionsRequest(revision="x")))
        assert said.metadata["missing"] == "ListDecisionsRequest.revision"
