"""Why a campaign does not fire, asked over the wire; and that asking changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import dedent
from typing import Any

import grpc
import pytest
import sqlalchemy as sa
from opportune.v1 import advice_service_pb2 as advice
from opportune.v1 import event_service_pb2 as events
from opportune.v1 import insight_service_pb2 as pb
from opportune.v1 import rulebase_service_pb2 as rulebases
from opportune.v1 import types_pb2 as types
from opportune_service.adapters.sql import schema
from opportune_service.clocks import ManualClock
from opportune_service.core.state import encode_state
from support.rulebases import NOON_US
from support.server import Service, in_loop, refusal, running_service
from support.wire import SOMEBODY, event, import_batch, import_header, publish

STRANGER = "8613900000009"
MINUTE_US = 60_000_000
NIGHT_US = NOON_US + 11 * 60 * MINUTE_US
"""23:00 where the subscribers are."""
CALL = {"type": "call_made", "attributes": {"seconds": 30}}


def rulebase(
    *, policies: str = "", offer: str = "", sms: str = "", others: Mapping[str, str] | None = None
) -> dict[str, bytes]:
    """A call brings an offer by SMS. `policies`, `offer` (the campaign) and `sms` (the channel) are more
    keys, or others; `others`: more campaigns, by name."""

    def campaign(name: str, more: str) -> str:
        keys = {
            "campaign": name,
            "label": "A bundle of data",
            "product": "data",
            "on": "[call_made, third_call]",
            "mode": "automatic",
            "channels": "[sms]",
            "content": '{sms: "Data for you."}',
        }
        keys |= dict(line.split(": ", 1) for line in more.splitlines())
        return "".join(f"{key}: {value}\n" for key, value in keys.items())

    files = {
        "rulebase.yaml": "rulebase: questions\ntime_zone: Asia/Shanghai\n",
        "vocabulary.yaml": f"""\
            events:
              call_made: {{attributes: {{seconds: {{type: int, min: 0}}}}}}
              sms_sent: {{}}
              counter_visit: {{}}
            subscriber: {{age: int}}
            channels: {{sms: {{mode: automatic{sms}}}, counter: {{mode: manual}}}}
            products:
              data: {{label: Data, category: data}}
              voice: {{label: Voice, category: voice}}
            """,
        "behaviours.yaml": """\
            metrics: {texts: {count: sms_sent, last: 24h}}
            patterns: {third_call: {count: call_made, at_least: 3, within: 1h}}
            behaviours:
              busy: {label: sends many texts, when: metric.texts >= 2}
              old: {label: older than sixty, when: sub.age > 60}
            """,
        "campaigns/offer.yaml": campaign("offer", offer),
        **{f"campaigns/{name}.yaml": campaign(name, more) for name, more in (others or {}).items()},
        "policies.yaml": f"""\
            quiet_hours: {{night: {{from: "21:00", to: "08:00"}}}}
            cool_downs: {{refused: {{after: [refused], for: 30d, scope: product}}}}
            {policies}
            """,
    }
    return {name: dedent(text).encode() for name, text in files.items()}


async def know(service: Service, **context: Any) -> None:
    records = {SOMEBODY: {"age": 30} | context}
    await service.subscribers.ImportSubscribers(iter([import_header(), import_batch(records)]))


async def ask(
    service: Service, campaign: str = "offer", who: str = SOMEBODY, **supposed: Any
) -> pb.WhyNotResponse:
    """`supposed`: the event, as `wire.event` takes it; none for a bare one of each trigger."""
    what = event("", **supposed) if supposed else None
    request = pb.WhyNotRequest(subscriber_id=who, campaign=campaign, event=what)
    answer: pb.WhyNotResponse = await service.insight.WhyNot(request)
    return answer


async def contacted(service: Service, id_: str = "e1") -> str:
    """Have a call decided; the id of the first decision."""
    await service.events.PublishEvents(publish(event(id_, **CALL), source="msc"))
    key = pb.EventKey(subscriber_id=SOMEBODY, source="msc", event_id=id_)
    found = await service.insight.ExplainDecision(pb.ExplainDecisionRequest(event=key))
    decision_id: str = found.verdict.decisions[0].decision_id
    return decision_id


@in_loop
async def test_nothing_stands_in_the_way() -> None:
    async with running_service(files=rulebase()) as service:
        await know(service)
        answer = await ask(service, **CALL)
        assert answer.would_decide
        assert answer.summary == "on call_made: nothing stands in its way"
        assert answer.revision == service.app.live.id
        [decision] = answer.decisions
        assert (decision.reason, decision.channel) == (types.REASON_DECIDED, "sms")
        assert decision.decision_id == "", "there is no such decision"
        assert decision.trace.checks


@in_loop
async def test_it_is_what_would_be_decided() -> None:
    async with running_service(files=rulebase(offer="when: behaviour.busy\npriority: 7")) as service:
        await know(service)
        texts = [event(f"t{n}", type="sms_sent", attributes={}) for n in range(2)]
        await service.events.PublishEvents(publish(*texts))
        [supposed] = (await ask(service, **CALL)).decisions
        decision_id = await contacted(service)
        request = pb.ExplainDecisionRequest(decision_id=decision_id)
        [decided] = (await service.insight.ExplainDecision(request)).verdict.decisions
        for each in (supposed, decided):
            for field in ("decision_id", "event_id", "source", "delivery_state"):
                each.ClearField(field)
        assert supposed == decided


@in_loop
async def test_an_unmatched_campaign_shows_what_did_not_hold() -> None:
    async with running_service(files=rulebase(offer="when: behaviour.old && event.seconds > 9")) as service:
        await know(service)
        answer = await ask(service)
        assert not answer.would_decide
        assert answer.summary == (
            "on call_made: its condition does not hold; unknown: event.seconds; "
            "on third_call: its condition does not hold; unknown: event.seconds"
        )
        assert [each.event_type for each in answer.decisions] == ["call_made", "third_call"]
        for decision in answer.decisions:
            assert decision.reason == types.REASON_UNSPECIFIED
            findings = {each.name: each for each in decision.trace.findings}
            assert findings["sub.age"].value_json == "30"
            assert findings["behaviour.old"].value_json == "false"
            assert findings["behaviour.old"].label == "older than sixty"
            assert not findings["event.seconds"].HasField("value_json")
        told = await ask(service, **CALL)
        assert told.summary == "on call_made: its condition does not hold"


@in_loop
async def test_an_event_that_does_not_trigger_it_is_told_from_one_that_completes_its_pattern() -> None:
    async with running_service(files=rulebase(offer="on: [third_call]")) as service:
        await know(service)
        answer = await ask(service, **CALL)
        assert answer.summary == "on call_made: neither this event nor what follows of it triggers it"
        await service.events.PublishEvents(publish(*[event(f"c{n}", **CALL) for n in range(2)]))
        assert (await ask(service, **CALL)).would_decide
        assert not (await ask(service, type="sms_sent", attributes={})).would_decide


@in_loop
async def test_a_manual_campaign_is_asked_about_where_the_customer_would_stand() -> None:
    manual = "mode: manual\nchannels: [counter]\non: [counter_visit]\ncontent: {counter: Offer data.}"
    async with running_service(files=rulebase(offer=manual)) as service:
        await know(service)
        answer = await ask(service)
        assert answer.would_decide
        assert answer.decisions[0].channel == "counter"
        assert answer.decisions[0].shown


# -- each reason --------------------------------------------------------------------------------------

REASONS: dict[types.Reason.ValueType, dict[str, Any]] = {
    types.REASON_STALE: {"supposed": {**CALL, "at_us": NOON_US - 6 * MINUTE_US}},
    types.REASON_NOT_LIVE: {"pause": True},
    types.REASON_NO_CONTEXT: {"who": STRANGER},
    types.REASON_NOT_ELIGIBLE: {"files": rulebase(offer="target: sub.age > 60")},
    types.REASON_SUPPRESSED: {"context": {"do_not_contact": True}},
    types.REASON_COOLING_OFF: {"contact": types.OUTCOME_KIND_REFUSED},
    types.REASON_INCONSISTENT: {
        "files": rulebase(others={"rival": "priority: 900"}, offer="priority: 100"),
        "contact": types.OUTCOME_KIND_DELIVERED,
    },
    types.REASON_OUTRANKED: {"files": rulebase(others={"rival": "product: voice\npriority: 900"})},
    types.REASON_NO_CHANNEL: {"context": {"consents": {"channel/sms": False}}},
    types.REASON_QUIET_HOURS: {"now_us": NIGHT_US},
    types.REASON_CAPPED: {
        "files": rulebase(policies="caps: {daily: {limit: 1, period: day}}"),
        "contact": types.OUTCOME_KIND_DELIVERED,
    },
    types.REASON_QUOTA: {
        "files": rulebase(offer="quota: {total: 1}"),
        "contact": types.OUTCOME_KIND_DELIVERED,
    },
    types.REASON_CAPACITY: {
        "files": rulebase(sms=", per_day: 1"),
        "contact": types.OUTCOME_KIND_DELIVERED,
    },
    types.REASON_CONTROL: {"files": rulebase(policies="control: {share: 99.99%}")},
    types.REASON_SETTLING: {"files": rulebase(policies="arbitration: {settle: 5m}")},
}


@pytest.mark.parametrize("reason", REASONS, ids=types.Reason.Name)
def test_each_reason(reason: types.Reason.ValueType) -> None:
    """With a control: where the same is sent, it ends for the same reason."""
    case = REASONS[reason]

    @in_loop
    async def body() -> None:
        now_us = case.get("now_us", NOON_US)
        files = case.get("files", rulebase())
        clock = ManualClock(NOON_US if "contact" in case else now_us)
        async with running_service(None, files, clock=clock) as service:
            await know(service, **case.get("context", {}))
            if "contact" in case:
                request = advice.ReportOutcomeRequest(
                    decision_id=await contacted(service, "before"), kind=case["contact"]
                )
                await service.advice.ReportOutcome(request)
            if "pause" in case:
                await service.rulebases.PauseCampaign(
                    rulebases.PauseCampaignRequest(campaign="offer", reason="x")
                )
            who = case.get("who", SOMEBODY)
            supposed = {**CALL, "at_us": now_us, **case.get("supposed", {})}
            before = await content(service)
            answer = await ask(service, who=who, **supposed)
            again = await ask(service, who=who, **supposed)
            assert await content(service) == before, "asking has written something"
            assert again == answer
            [decision] = answer.decisions
            assert types.Reason.Name(decision.reason) == types.Reason.Name(reason)
            assert not answer.would_decide
            word = types.Reason.Name(reason).removeprefix("REASON_").lower()
            assert answer.summary.startswith(f"on call_made: {word}: ")
            last = [check for check in decision.trace.checks if not check.passed][-1]
            assert last.reason == reason, "the step is named by its reason"
            assert last.detail
            await happens(service, who, supposed, decision)

    body()


async def happens(
    service: Service, who: str, supposed: Mapping[str, Any], expected: types.Decision
) -> None:
    """What was supposed is sent: the decision is as it was told."""
    await service.events.PublishEvents(publish(event("real", who, **supposed), source="msc"))
    key = pb.EventKey(subscriber_id=who, source="msc", event_id="real")
    found = await service.insight.ExplainDecision(pb.ExplainDecisionRequest(event=key))
    [real] = [each for each in found.verdict.decisions if each.campaign == expected.campaign]
    assert (real.reason, real.fate, real.due_at) == (expected.reason, expected.fate, expected.due_at)
    assert real.trace == expected.trace


async def content(service: Service) -> tuple[list[object], dict[str, bytes], set[str]]:
    """All that the service holds: the whole database, every live state, and who is to be saved."""
    database = await service.app.thread.run(tables, service.app.ledger)
    states: Any = service.app.states
    ready = states._decoded | states._unused
    live = {id_: encode_state(state) for id_, state in ready.items()} | states._encoded
    return database, live, set(states.dirty())


def tables(ledger: Any) -> list[object]:
    with ledger._reading() as connection:
        return [
            (table.name, tuple(row))
            for table in schema.metadata.sorted_tables
            for row in connection.execute(sa.select(table))
        ]


@in_loop
async def test_a_stranger_stays_one() -> None:
    async with running_service(None, rulebase()) as service:
        await know(service)
        before = await content(service)
        answer = await ask(service, who=STRANGER, **CALL)
        assert answer.decisions[0].reason == types.REASON_NO_CONTEXT
        assert await service.app.states.subscribers() == [SOMEBODY]
        assert await content(service) == before


@in_loop
async def test_the_comparison_can_fail() -> None:
    async with running_service(None, rulebase()) as service:
        await know(service)
        before = await content(service)
        await contacted(service)
        after = await content(service)
        assert [one != other for one, other in zip(before, after, strict=True)][:2] == [True, True]


@in_loop
async def test_a_question_under_the_id_of_a_real_event_is_answered() -> None:
    async with running_service(files=rulebase()) as service:
        await know(service)
        for id_ in ("supposed", "why-not call_made"):
            real = publish(event(id_, type="sms_sent", attributes={}), source="supposed")
            await service.events.PublishEvents(real)
        assert (await ask(service)).would_decide
        assert (await ask(service, **CALL)).would_decide


# -- errors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "code", "reason", "fields"),
    [
        ({"subscriber_id": "x"}, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", ["subscriber_id"]),
        ({"campaign": "absent"}, grpc.StatusCode.NOT_FOUND, "NOT_FOUND", []),
        ({"campaign": ""}, grpc.StatusCode.NOT_FOUND, "NOT_FOUND", []),
        ({"event": {"type": "absent"}}, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", ["event"]),
        ({"event": {"type": "third_call"}}, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", ["event"]),
        ({"event": {**CALL, "attributes": {"seconds": -1}}}, grpc.StatusCode.INVALID_ARGUMENT,
         "INVALID_REQUEST", ["event"]),
        ({"event": {**CALL, "attributes": b"no json"}}, grpc.StatusCode.INVALID_ARGUMENT,
         "INVALID_REQUEST", ["event"]),
        ({"event": {**CALL, "at_us": NOON_US + 6 * MINUTE_US}}, grpc.StatusCode.INVALID_ARGUMENT,
         "INVALID_REQUEST", ["event"]),
        ({"event": {**CALL, "at_us": NOON_US - 61 * MINUTE_US}}, grpc.StatusCode.INVALID_ARGUMENT,
         "INVALID_REQUEST", ["event"]),
        ({"event": CALL, "attributes_encoding": 9}, grpc.StatusCode.INVALID_ARGUMENT,
         "INVALID_REQUEST", ["attributes_encoding"]),
    ],
)  # fmt: skip
def test_a_bad_question(
    request_: dict[str, Any], code: grpc.StatusCode, reason: str, fields: list[str]
) -> None:
    @in_loop
    async def body() -> None:
        async with running_service(files=rulebase()) as service:
            fields_ = {"subscriber_id": SOMEBODY, "campaign": "offer"} | request_
            if "event" in fields_:
                fields_["event"] = event("", **fields_["event"])
            said = await refused(service, pb.WhyNotRequest(**fields_))
            assert (said.code, said.reason, said.fields) == (code, reason, fields)
            assert await service.app.states.subscribers() == []

    body()


@in_loop
async def test_extreme_times_are_refused() -> None:
    async with running_service(files=rulebase()) as service:
        for seconds in (-(2**62), 2**62):
            sent = events.Event(type="call_made")
            sent.occurred_at.seconds = seconds
            request = pb.WhyNotRequest(subscriber_id=SOMEBODY, campaign="offer", event=sent)
            assert (await refused(service, request)).fields == ["event"]


@in_loop
async def test_without_a_rulebase_there_is_no_answer() -> None:
    async with running_service(files={}) as service:
        said = await refused(service, pb.WhyNotRequest(subscriber_id=SOMEBODY, campaign="offer"))
        assert said.code == grpc.StatusCode.FAILED_PRECONDITION


async def refused(service: Service, request: pb.WhyNotRequest) -> Any:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await service.insight.WhyNot(request)
    return refusal(caught.value)
