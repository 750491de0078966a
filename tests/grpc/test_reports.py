"""Reports over the wire; and explanations of what was put off, held back or is waiting for better."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from opportune.v1 import advice_service_pb2 as advice
from opportune.v1 import insight_service_pb2 as pb
from opportune.v1 import types_pb2 as types
from opportune_service.app.defer import decide_due
from opportune_service.clocks import ManualClock
from opportune_service.core.estimates import METHOD
from support.guarded_rulebase import HOUR_US, MORNING_US, NIGHT_US, guarded_rulebase
from support.rulebases import NOON_US
from support.server import Service, in_loop, refusal, running_service
from support.small_rulebase import subscribers as people
from support.wire import SOMEBODY, event, import_batch, import_header, publish, timestamp

DAY_US = 24 * HOUR_US
MIDNIGHT_US = NOON_US - 12 * HOUR_US
EVERYBODY = people(40)
FAR_TOO_LATE = Timestamp(seconds=2**62)


async def know(service: Service, who: list[str]) -> None:
    records = {each: {"age": 30} for each in who}
    await service.subscribers.ImportSubscribers(iter([import_header(), import_batch(records)]))


async def happen(service: Service, type_: str, who: list[str], at_us: int = NOON_US, **said: Any) -> None:
    sent = [event(f"{type_}-{each}", each, type=type_, at_us=at_us, attributes=said) for each in who]
    answer = await service.events.PublishEvents(publish(*sent, source="msc"))
    assert not answer.rejections


async def decision_of(service: Service, who: str, event_id: str, source: str = "msc") -> types.Decision:
    key = pb.EventKey(subscriber_id=who, source=source, event_id=event_id)
    found = await service.insight.ExplainDecision(pb.ExplainDecisionRequest(event=key))
    [decision] = found.verdict.decisions
    return decision


async def report(service: Service, since: int = MIDNIGHT_US, **fields: Any) -> Any:
    request = pb.GetCampaignReportRequest(since=timestamp(since), **fields)
    return await service.insight.GetCampaignReport(request)


def at(service: Service, now_us: int) -> None:
    clock = service.app.clock
    assert isinstance(clock, ManualClock)
    clock.value_us = now_us


@in_loop
async def test_a_report_tells_the_way_from_event_to_order_and_the_effect() -> None:
    files = guarded_rulebase(gift="control_group: 50%")
    async with running_service(files=files) as service:
        await know(service, EVERYBODY)
        await happen(service, "call_made", EVERYBODY)
        decisions = {each: await decision_of(service, each, f"call_made-{each}") for each in EVERYBODY}
        held = [who for who, each in decisions.items() if each.reason == types.REASON_CONTROL]
        treated = [who for who in EVERYBODY if who not in held]
        assert 10 < len(held) < 30
        for who in treated[:8]:
            for kind in (types.OUTCOME_KIND_DELIVERED, types.OUTCOME_KIND_INQUIRED):
                await service.advice.ReportOutcome(
                    advice.ReportOutcomeRequest(decision_id=decisions[who].decision_id, kind=kind)
                )
        at(service, NOON_US + HOUR_US)
        bought = [*treated[:6], *held[:2]]
        await happen(service, "ordered", bought, NOON_US + HOUR_US, product="gift")
        again = [event(f"2-{who}", who, type="call_made", attributes={}) for who in treated[:3]]
        await service.events.PublishEvents(publish(*again, source="msc"))
        at(service, NOON_US + HOUR_US + 1)  # a report ends before the instant at which it is asked for

        found = await report(service, campaigns=["gift"])
        [gift] = found.reports
        assert (gift.campaign, gift.campaign_label) == ("gift", "A gift")
        assert (gift.period_start, gift.period_end) == (
            timestamp(MIDNIGHT_US),
            timestamp(NOON_US + HOUR_US + 1),
        )
        assert (gift.event_count, gift.matched_count) == (43, 43)
        assert gift.decided_count == gift.treated_count == len(treated)
        assert (gift.sent_count, gift.delivered_count, gift.answered_count) == (8, 8, 8)
        assert (gift.converted_count, gift.treated_converted_count) == (6, 6)
        assert (gift.control_count, gift.control_converted_count) == (len(held), 2)
        assert [(each.reason, each.count) for each in gift.losses] == [(types.REASON_CAPPED, 3)]
        assert gift.success_rate.value == 6 / 8
        assert gift.inquiry_rate.value == 1.0
        assert gift.complaint_rate.value == 0.0
        assert gift.uplift.value == pytest.approx(6 / len(treated) - 2 / len(held))
        assert gift.uplift.low < gift.uplift.value < gift.uplift.high
        assert not gift.HasField("uplift_over_mass")
        [load] = found.channel_loads
        assert (load.channel, load.decided_count) == ("sms", len(treated))
        assert load.peak_per_second == len(treated)
        assert not load.HasField("capacity")
        [often] = found.contact_frequencies
        assert (often.contact_count, often.subscriber_count) == (1, len(treated))
        assert found.interval_method == METHOD


@in_loop
async def test_a_report_is_cut_into_days_of_the_rulebase() -> None:
    async with running_service(files=guarded_rulebase()) as service:
        await know(service, EVERYBODY[:3])
        await happen(service, "call_made", EVERYBODY[:2])
        at(service, NOON_US + DAY_US)
        await happen(service, "top_up", EVERYBODY[2:3], NOON_US + DAY_US, amount=9)
        found = await report(
            service, until=timestamp(MIDNIGHT_US + 2 * DAY_US), period=pb.REPORT_PERIOD_DAY
        )
        assert [(each.campaign, each.period_start.ToMicroseconds(), each.decided_count)
                for each in found.reports] == [
            ("data", MIDNIGHT_US, 0), ("data", MIDNIGHT_US + DAY_US, 1),
            ("gift", MIDNIGHT_US, 2), ("gift", MIDNIGHT_US + DAY_US, 0),
        ]  # fmt: skip
        assert [each.decided_count for each in found.channel_loads] == [2, 1]
        for period, count in ((pb.REPORT_PERIOD_HOUR, 48), (pb.REPORT_PERIOD_WEEK, 1)):
            until = timestamp(MIDNIGHT_US + 2 * DAY_US)
            assert len((await report(service, until=until, period=period)).reports) == 2 * count


@in_loop
async def test_a_deferral_counts_once_by_its_last_word() -> None:
    async with running_service(files=guarded_rulebase(), clock=ManualClock(NIGHT_US)) as service:
        await know(service, [SOMEBODY])
        await happen(service, "call_made", [SOMEBODY], NIGHT_US)
        at(service, MORNING_US - 1)
        [gift] = (await report(service, campaigns=["gift"])).reports
        assert [(each.reason, each.count) for each in gift.losses] == [(types.REASON_QUIET_HOURS, 1)]
        at(service, MORNING_US)
        await decide_due(service.app.ingest, MORNING_US)
        at(service, MORNING_US + 1)
        [gift] = (await report(service, campaigns=["gift"])).reports
        assert (gift.matched_count, gift.decided_count, len(gift.losses)) == (1, 1, 0)


@in_loop
async def test_the_trace_of_a_deferral_says_until_when_and_of_the_next_attempt_whose_it_is() -> None:
    async with running_service(files=guarded_rulebase(), clock=ManualClock(NIGHT_US)) as service:
        await know(service, [SOMEBODY])
        await happen(service, "call_made", [SOMEBODY], NIGHT_US)
        put_off = await decision_of(service, SOMEBODY, f"call_made-{SOMEBODY}")
        assert (put_off.reason, put_off.fate) == (types.REASON_QUIET_HOURS, types.FATE_DEFER)
        assert put_off.due_at == timestamp(MORNING_US)
        assert put_off.attempt == 1
        check = put_off.trace.checks[-1]
        assert (check.reason, check.policy) == (types.REASON_QUIET_HOURS, "quiet_hours")
        assert check.clear_at == timestamp(MORNING_US)
        at(service, MORNING_US)
        await decide_due(service.app.ingest, MORNING_US)
        newest = await service.insight.ListDecisions(
            pb.ListDecisionsRequest(page_size=1, include_trace=True)
        )
        [again] = newest.decisions
        assert (again.reason, again.attempt, again.source) == (types.REASON_DECIDED, 2, "deferral")
        assert not again.HasField("due_at")
        [cap] = [each for each in again.trace.checks if each.policy == "cap"]
        assert (cap.reason, cap.count, cap.limit) == (types.REASON_CAPPED, 1, 1)
        request = pb.ExplainDecisionRequest(decision_id=again.decision_id)
        explained = await service.insight.ExplainDecision(request)
        assert explained.verdict.event_type == "call_made"


@in_loop
async def test_a_control_group_is_explained_with_what_it_bought() -> None:
    async with running_service(files=guarded_rulebase(gift="control_group: 99.99%")) as service:
        await know(service, [SOMEBODY])
        await happen(service, "call_made", [SOMEBODY])
        at(service, NOON_US + HOUR_US)
        await happen(service, "ordered", [SOMEBODY], NOON_US + HOUR_US, product="gift")
        decision = await decision_of(service, SOMEBODY, f"call_made-{SOMEBODY}")
        assert (decision.reason, decision.channel) == (types.REASON_CONTROL, "sms")
        assert decision.content == ""
        assert decision.delivery_state == types.DELIVERY_STATE_UNSPECIFIED
        check = decision.trace.checks[-1]
        assert (check.reason, check.policy, check.passed) == (types.REASON_CONTROL, "control", False)
        assert check.detail == "the subscriber is in the control group campaign/gift"
        assert [each.kind for each in decision.outcomes] == [types.OUTCOME_KIND_ORDERED]


@in_loop
async def test_what_settles_is_explained_and_then_outranked() -> None:
    files = guarded_rulebase(policies="arbitration: {settle: 5m}")
    async with running_service(files=files) as service:
        await know(service, [SOMEBODY])
        await happen(service, "call_made", [SOMEBODY])
        settling = await decision_of(service, SOMEBODY, f"call_made-{SOMEBODY}")
        due_us = NOON_US + HOUR_US // 12
        assert (settling.reason, settling.due_at) == (types.REASON_SETTLING, timestamp(due_us))
        check = settling.trace.checks[-1]
        assert (check.reason, check.policy) == (types.REASON_SETTLING, "settle")
        assert check.clear_at == timestamp(due_us)
        await happen(service, "top_up", [SOMEBODY], amount=9)
        at(service, due_us)
        await decide_due(service.app.ingest, due_us)
        newest = await service.insight.ListDecisions(
            pb.ListDecisionsRequest(page_size=2, include_trace=True)
        )
        gift, data = sorted(newest.decisions, key=lambda each: each.trace.arbitration.rank, reverse=True)
        assert (data.campaign, data.reason) == ("data", types.REASON_DECIDED)
        assert (gift.campaign, gift.reason) == ("gift", types.REASON_OUTRANKED)
        arbitration = gift.trace.arbitration
        assert (arbitration.lost_to, arbitration.rank, arbitration.priority) == ("data", 2, 10)
        assert arbitration.score == arbitration.value * arbitration.propensity


# -- errors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, "since"),
        ({"since": timestamp(NOON_US)}, "since"),  # that is now: nothing lies between
        ({"since": timestamp(NOON_US), "until": timestamp(NOON_US - 1)}, "since"),
        ({"since": timestamp(-1)}, "since"),
        ({"since": FAR_TOO_LATE}, "since"),
        ({"since": timestamp(0), "until": FAR_TOO_LATE}, "until"),
        ({"since": timestamp(0), "campaigns": ["gift", "absent"]}, "campaigns"),
        ({"since": timestamp(0), "period": pb.REPORT_PERIOD_HOUR}, "period"),
        ({"since": timestamp(0), "period": 9}, "period"),
    ],
)
def test_a_bad_question_names_the_field(fields: dict[str, Any], field: str) -> None:
    @in_loop
    async def body() -> None:
        async with running_service(files=guarded_rulebase()) as service:
            said = await refused(service, pb.GetCampaignReportRequest(**fields))
            assert (said.code, said.fields) == (grpc.StatusCode.INVALID_ARGUMENT, [field])

    body()


@in_loop
async def test_without_a_rulebase_there_is_no_report() -> None:
    async with running_service(files={}) as service:
        said = await refused(service, pb.GetCampaignReportRequest(since=timestamp(0)))
        assert said.code == grpc.StatusCode.FAILED_PRECONDITION


async def refused(service: Service, request: pb.GetCampaignReportRequest) -> Any:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await service.insight.GetCampaignReport(request)
    return refusal(caught.value)
