"""Touch points that ask, and report what came of it."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from opportune.v1 import advice_service_pb2 as pb
from opportune.v1 import types_pb2 as types
from support.server import Service, in_loop, refusal, running_service
from support.wire import SOMEBODY, event, import_batch, import_header, publish


def visit(**changes: Any) -> pb.AdviseRequest:
    fields = {"request_id": "v1", "subscriber_id": SOMEBODY, "touch_point": "counter"} | changes
    return pb.AdviseRequest(**fields)


async def interested(service: Service) -> None:
    """Somebody whom the counter has something to offer."""
    await service.subscribers.ImportSubscribers(iter([import_header(), import_batch({SOMEBODY: {}})]))
    await service.events.PublishEvents(publish(event("large", attributes={"size_kb": 200})))


async def refused(call: Any) -> Any:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return refusal(caught.value)


@in_loop
async def test_advice_is_the_same_for_the_same_request() -> None:
    async with running_service() as service:
        await interested(service)
        answer = await service.advice.Advise(visit(agent="clerk"))
        assert [each.campaign for each in answer.advices] == ["care-plan"]
        assert answer.advices[0].content == "Offer the care plan."
        assert answer.advices[0].campaign_label == "Care plan at the counter"
        assert list(answer.advices[0].reasons) == ["metric.large_24h = 1"]
        assert answer.revision == service.app.live.id
        position = await service.app.thread.run(service.app.ledger.last_position)
        assert await service.advice.Advise(visit()) == answer
        assert await service.app.thread.run(service.app.ledger.last_position) == position


@in_loop
async def test_nobody_known_is_answered_not_refused() -> None:
    async with running_service() as service:
        answer = await service.advice.Advise(visit(subscriber_id="8613999999999"))
        assert not answer.advices
        assert answer.revision == service.app.live.id


@in_loop
async def test_an_outcome_is_recorded_once() -> None:
    async with running_service() as service:
        await interested(service)
        advice = (await service.advice.Advise(visit())).advices[0]
        report = pb.ReportOutcomeRequest(
            decision_id=advice.decision_id, kind=types.OUTCOME_KIND_REFUSED, agent="clerk"
        )
        assert not (await service.advice.ReportOutcome(report)).already_known
        assert (await service.advice.ReportOutcome(report)).already_known
        # Refused: the next visit has nothing to offer, for that product cools off.
        assert not (await service.advice.Advise(visit(request_id="v2"))).advices


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"request_id": ""}, "request_id"),
        ({"request_id": "x" * 65}, "request_id"),
        ({"subscriber_id": "12"}, "subscriber_id"),
        ({"touch_point": "sms"}, "touch_point"),
        ({"touch_point": "nonsense"}, "touch_point"),
        ({"event_type": "nonsense"}, "event_type"),
        ({"attributes": b"{"}, "attributes"),
        ({"attributes_encoding": 9}, "attributes_encoding"),
        ({"agent": "x" * 65}, "agent"),
    ],
)
def test_a_bad_visit_names_the_field(changes: dict[str, Any], field: str) -> None:
    @in_loop
    async def body() -> None:
        async with running_service() as service:
            said = await refused(service.advice.Advise(visit(**changes)))
            assert (said.code, said.fields) == (grpc.StatusCode.INVALID_ARGUMENT, [field])

    body()


@in_loop
async def test_a_bad_outcome_is_refused() -> None:
    async with running_service() as service:
        report, asked = service.advice.ReportOutcome, types.OUTCOME_KIND_INQUIRED
        unknown = await refused(report(pb.ReportOutcomeRequest(decision_id="x", kind=asked)))
        assert (unknown.code, unknown.reason) == (grpc.StatusCode.NOT_FOUND, "UNKNOWN_DECISION")
        assert (await refused(report(pb.ReportOutcomeRequest(decision_id="x")))).fields == ["kind"]
        wordy = pb.ReportOutcomeRequest(decision_id="x", kind=asked, detail="x" * 501)
        assert (await refused(report(wordy))).fields == ["detail"]
