"""Rehearsals over the wire."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from opportune.v1 import delivery_service_pb2 as delivery_pb
from opportune.v1 import insight_service_pb2 as insight_pb
from opportune.v1 import rulebase_service_pb2 as pb
from opportune.v1 import types_pb2 as types
from opportune_service import bootstrap
from opportune_service.adapters.processes.rehearsal import rehearse_in_process
from opportune_service.clocks import ManualClock
from support.rehearsals import without_end
from support.rulebases import NOON_US
from support.server import Service, in_loop, refusal, running_service
from support.small_rulebase import small_rulebase, subscribers
from support.wire import archive, event, import_batch, import_header, publish, timestamp

HOUR_US = 3_600_000_000
SMALL, EAGER = small_rulebase(), small_rulebase(threshold=1, text="Hello {{sub.age}}")
PEOPLE = subscribers(3)


async def with_events(service: Service) -> str:
    """Two messages of each, an hour ago; the revision that would have answered the first."""
    records = {id_: {"age": 30 + n} for n, id_ in enumerate(PEOPLE)}
    await service.subscribers.ImportSubscribers(iter([import_header(), import_batch(records)]))
    for n in range(2):
        sent = [event(f"{id_}-{n}", id_, at_us=NOON_US + n) for id_ in PEOPLE]
        assert not (await service.events.PublishEvents(publish(*sent))).rejections
    clock = service.app.clock
    assert isinstance(clock, ManualClock)
    clock.value_us = NOON_US + HOUR_US
    uploaded = await service.rulebases.UploadRulebase(pb.UploadRulebaseRequest(archive=archive(EAGER)))
    return str(uploaded.rulebase.revision)


def request(revision: str, **fields: Any) -> pb.RehearseRulebaseRequest:
    return pb.RehearseRulebaseRequest(revision=revision, **{"since": timestamp(NOON_US - HOUR_US)} | fields)


async def rehearsed(service: Service, asked: pb.RehearseRulebaseRequest) -> pb.RehearsalReport:
    said = [message async for message in service.rulebases.RehearseRulebase(asked)]
    assert all(message.WhichOneof("message") == "progress" for message in said[:-1])
    return said[-1].report


@in_loop
async def test_progress_comes_first_and_the_report_last() -> None:
    async with running_service(files=SMALL) as service:
        revision = await with_events(service)
        report = await rehearsed(service, request(revision))
        assert (report.revision, report.baseline_revision) == (revision, service.app.live.id)
        assert (report.event_count, report.decided_count, report.baseline_decided_count) == (6, 6, 0)
        (difference,) = report.differences
        assert (difference.campaign, difference.won_count, difference.lost_count) == ("mms-bundle", 6, 0)
        assert len(difference.samples) == 6
        sample = difference.samples[0]
        assert not sample.HasField("before")
        assert sample.after.reason == types.REASON_DECIDED
        assert sample.after.campaign_label == "MMS bundle for heavy senders"
        assert sample.after.content.startswith("Hello 3")
        (volume,) = report.volumes
        assert (volume.campaign, volume.decided_count) == ("mms-bundle", 6)
        assert volume.hour == timestamp(NOON_US)
        assert report.volume_period.seconds == 3600
        assert any("looks further back" in warning for warning in report.warnings)
        # It is a step of the revision's history, and contacted nobody.
        history = (await service.rulebases.GetRulebase(pb.GetRulebaseRequest(revision=revision))).history
        assert "rehearsed" in {entry.action for entry in history}
        listed = await service.insight.ListDecisions(insight_pb.ListDecisionsRequest())
        assert not [each for each in listed.decisions if each.reason == types.REASON_DECIDED]


@in_loop
async def test_a_revision_of_before_may_be_the_baseline() -> None:
    async with running_service(files=SMALL) as service:
        revision = await with_events(service)
        report = await rehearsed(service, request(revision, baseline_revision=revision, sample_size=0))
        assert report.baseline_revision == revision
        assert not report.differences


@in_loop
async def test_test_sends_go_to_listed_numbers_and_count_nowhere() -> None:
    """One number has a message of its own; the other was not reached and gets the text as it is written."""
    async with running_service(files=SMALL) as service:
        revision = await with_events(service)
        stream = service.deliveries.Attach()
        hello = delivery_pb.AttachHello(channel="sms", client_name="gateway", credit=10)
        await stream.write(delivery_pb.AttachRequest(hello=hello))
        assert (await stream.read()).HasField("welcome")
        stranger = "8613900000000"
        asked = request(revision, test_subscriber_ids=[PEOPLE[0], stranger])
        report = asyncio.create_task(rehearsed(service, asked))
        leases = []
        for _ in range(2):
            leases.append((await stream.read()).lease)
            assert leases[-1].test
        for lease in leases:
            ack = delivery_pb.Ack(
                delivery_id=lease.delivery_id,
                lease_token=lease.lease_token,
                result=delivery_pb.DELIVERY_RESULT_SENT,
            )
            await stream.write(delivery_pb.AttachRequest(ack=ack))
            answer = (await stream.read()).ack_result
            assert answer.status == delivery_pb.ACK_STATUS_ACCEPTED
            assert answer.delivery_state == types.DELIVERY_STATE_SENT
        assert {(lease.subscriber_id, lease.content) for lease in leases} == {
            (PEOPLE[0], "[TEST] Hello 30"),
            (stranger, "[TEST] Hello {{sub.age}}"),
        }
        assert (await report).test_send_count == 2
        # A receipt that comes later is taken, and counts nowhere either.
        receipt = delivery_pb.Receipt(decision_id=leases[0].decision_id, kind=types.OUTCOME_KIND_COMPLAINED)
        await stream.write(delivery_pb.AttachRequest(receipt=receipt))
        answer = (await stream.read()).receipt_result
        assert answer.status == delivery_pb.RECEIPT_STATUS_ACCEPTED
        contacts = await service.app.thread.run(
            lambda: service.app.ledger.contacts_of(PEOPLE[0], 0, 2**62, 10)
        )
        assert not contacts
        await stream.done_writing()


@in_loop
async def test_tests_that_nobody_takes_are_told_of() -> None:
    async with running_service(files=SMALL) as service:
        service.app.rehearsals.test_seconds = 0.01
        revision = await with_events(service)
        report = await rehearsed(service, request(revision, test_subscriber_ids=[PEOPLE[0]]))
        assert report.test_send_count == 0
        assert any("not confirmed" in warning and "sms" in warning for warning in report.warnings)
        assert not service.app.deliveries.tests.take("sms", 10)  # nobody gets it any more


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"since": None}, "since"),
        ({"since": timestamp(NOON_US + 9 * HOUR_US)}, "since"),
        ({"until": timestamp(NOON_US - 2 * HOUR_US)}, "until"),
        ({"folded_since": timestamp(NOON_US)}, "folded_since"),
        ({"sample_size": 1_001}, "sample_size"),
        ({"sample_size": -1}, "sample_size"),
        ({"test_subscriber_ids": PEOPLE * 7}, "test_subscriber_ids"),
        ({"test_subscriber_ids": ["+86138"]}, "test_subscriber_ids[0]"),
        ({"test_sends_per_campaign": 11}, "test_sends_per_campaign"),
        ({"revision": ""}, "revision"),
        ({"revision": "x" * 65}, "revision"),
    ],
)
def test_hostile_requests_are_refused(fields: dict[str, Any], field: str) -> None:
    @in_loop
    async def run() -> None:
        async with running_service(files=SMALL) as service:
            given = {"revision": service.app.live.id, "since": timestamp(NOON_US - HOUR_US)} | fields
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await rehearsed(service, pb.RehearseRulebaseRequest(**given))
            said = refusal(caught.value)
            assert said.code is grpc.StatusCode.INVALID_ARGUMENT
            assert field in said.fields

    run()


@in_loop
async def test_an_unknown_revision_is_not_found() -> None:
    async with running_service(files=SMALL) as service:
        for fields in ({"revision": "0" * 64}, {"baseline_revision": "0" * 64}):
            given = {"revision": service.app.live.id, "since": timestamp(NOON_US - HOUR_US)} | fields
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await rehearsed(service, pb.RehearseRulebaseRequest(**given))
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_a_caller_who_cancels_ends_it_and_leaves_no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    workers = iter([without_end, rehearse_in_process])
    monkeypatch.setattr(bootstrap, "rehearse_in_process", lambda *given: next(workers)(*given))  # noqa: PLW0108 - one for each call

    @in_loop
    async def run() -> None:
        async with running_service(files=SMALL) as service:
            revision = await with_events(service)
            call = service.rulebases.RehearseRulebase(request(revision))
            await call.read()
            call.cancel()
            while True:  # until the service has noticed
                try:
                    report = await rehearsed(service, request(revision, baseline_revision=revision))
                except grpc.aio.AioRpcError as error:
                    if "one process does one at a time" not in str(error.details()):
                        raise
                else:
                    break
            assert report.event_count == 6
            asked = pb.GetRulebaseRequest(revision=revision)
            history = (await service.rulebases.GetRulebase(asked)).history
            assert [entry.action for entry in history].count("rehearsed") == 1

    run()
