"""Context in, and what is known of a subscriber out."""

from __future__ import annotations

import json
from typing import Any

import grpc
import pytest
from opportune.v1 import subscriber_service_pb2 as pb
from opportune.v1 import types_pb2 as types
from support.rulebases import NOON_US
from support.server import Service, in_loop, refusal, running_service
from support.small_rulebase import small_rulebase
from support.wire import SOMEBODY, event, import_batch, import_header, publish, timestamp

HOUR_US = 3_600_000_000


async def bring(service: Service, *messages: pb.ImportSubscribersRequest) -> pb.ImportSubscribersResponse:
    answer: pb.ImportSubscribersResponse = await service.subscribers.ImportSubscribers(iter(messages))
    return answer


async def refused(call: Any) -> Any:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return refusal(caught.value)


async def context(service: Service) -> dict[str, Any]:
    request = pb.GetSubscriberRequest(subscriber_id=SOMEBODY)
    known: dict[str, Any] = json.loads(
        (await service.subscribers.GetSubscriber(request)).subscriber.attributes
    )
    return known


@in_loop
async def test_bad_records_are_rejected_by_their_place_in_the_call() -> None:
    async with running_service() as service:
        answer = await bring(
            service,
            import_header(origin="bass"),
            import_batch({SOMEBODY: {"age": 30, "shoe_size": 43}, "12": {}}),
            import_batch({"8613800000002": {"age": "old"}, "8613800000003": {"shoe_size": 40}}),
        )
        assert (answer.imported_count, answer.outdated_count, answer.rejected_count) == (2, 0, 2)
        assert [(each.index, each.reason) for each in answer.rejections] == [
            (1, types.REJECTION_REASON_BAD_SUBSCRIBER_ID),
            (2, types.REJECTION_REASON_BAD_ATTRIBUTES),
        ]
        assert dict(answer.ignored_attribute_counts) == {"shoe_size": 2}


@in_loop
async def test_the_newest_wins_in_whatever_order() -> None:
    async with running_service() as service:
        for as_of_us, age, outdated in (
            (NOON_US, 30, 0),
            (NOON_US - HOUR_US, 29, 1),
            (NOON_US + 1, 31, 0),
        ):
            answer = await bring(service, import_header(as_of_us), import_batch({SOMEBODY: {"age": age}}))
            assert (answer.imported_count, answer.outdated_count) == (1 - outdated, outdated)
        assert await context(service) == {"age": 31}
        patch = import_header(NOON_US + 2, mode=pb.IMPORT_MODE_PATCH)
        await bring(service, patch, import_batch({SOMEBODY: {"status": "active"}}))
        assert await context(service) == {"age": 31, "status": "active"}
        await bring(service, import_header(NOON_US + 3), import_batch({SOMEBODY: {"age": 32}}))
        assert await context(service) == {"age": 32}


@in_loop
async def test_a_subscriber_is_shown_with_metrics_and_how_far_they_can_be_trusted() -> None:
    async with running_service() as service:
        known = {"age": 30, "consents": {"channel/sms": False}}
        await bring(service, import_header(), import_batch({SOMEBODY: known}))
        sent = event("1", attributes={"size_kb": 200}, cell_id="c1", imei="35000000000001")
        await service.events.PublishEvents(publish(sent))
        request = pb.GetSubscriberRequest(subscriber_id=SOMEBODY)
        shown = (await service.subscribers.GetSubscriber(request)).subscriber
        assert json.loads(shown.attributes) == known
        assert shown.as_of == shown.last_event_at == timestamp(NOON_US)
        assert [(each.scope, each.state) for each in shown.consents] == [
            ("channel/sms", types.CONSENT_STATE_REFUSED)
        ]
        assert [(each.name, each.value_json, each.coverage) for each in shown.metrics] == [
            (name, "1", types.COVERAGE_AT_LEAST) for name in ("mms_30d", "large_24h")
        ]
        assert (shown.cell_id, shown.imei) == ("c1", "35000000000001")
        assert shown.revision == service.app.live.id


def with_all_that_is_shown() -> dict[str, bytes]:
    files = small_rulebase()
    more = b"""
  smallest_30d: {min: event.size_kb, of: mms_sent, days: 30}
  last_size: {latest: event.size_kb, of: mms_sent, days: 30}
facts:
  sends_large: {on: [mms_sent], when: event.size_kb > 100, for: 30d}
behaviours:
  night_owl: {label: night owl, imported: {valid_for: 30d}}
"""
    return files | {"behaviours.yaml": files["behaviours.yaml"].replace(b"\nbehaviours:\n", more)}


@in_loop
async def test_behaviours_facts_and_seeds_are_shown() -> None:
    async with running_service(files=with_all_that_is_shown()) as service:
        record = pb.SubscriberRecord(
            subscriber_id=SOMEBODY,
            behaviours=[pb.ImportedBehaviour(name="night_owl", holds=True)],
            metrics=[
                pb.MetricSeed(
                    name="mms_30d",
                    days=[
                        pb.MetricSeedDay(date=f"2026-11-{day}", value_json=figure)
                        for day, figure in (("18", "4"), ("19", "5"), ("20", "100"))
                    ],
                )
            ],
        )
        batch = pb.ImportSubscribersRequest(batch=pb.SubscriberBatch(subscribers=[record]))
        answer = await bring(service, import_header(NOON_US - 1), batch)
        assert (answer.imported_count, answer.rejected_count) == (1, 0)
        for n, size_kb in enumerate((200, 90)):
            sent = event(f"{n}", at_us=NOON_US + n, attributes={"size_kb": size_kb})
            await service.events.PublishEvents(publish(sent))
        request = pb.GetSubscriberRequest(subscriber_id=SOMEBODY)
        shown = (await service.subscribers.GetSubscriber(request)).subscriber
        assert shown.attributes == b"", "what was imported apart is shown apart"
        assert [(each.name, each.holds, each.valid_until) for each in shown.behaviours] == [
            ("night_owl", True, timestamp(NOON_US - 1 + 30 * 24 * HOUR_US))
        ]
        assert [(each.name, each.expires_at) for each in shown.facts] == [
            ("sends_large", timestamp(NOON_US + 30 * 24 * HOUR_US))
        ]
        metrics = {each.name: (each.value_json, each.coverage) for each in shown.metrics}
        assert metrics["mms_30d"] == ("11", types.COVERAGE_AT_LEAST), "4 + 5, and 2 that were folded"
        assert metrics["smallest_30d"] == ("90", types.COVERAGE_AT_MOST)
        assert metrics["last_size"] == ("200", types.COVERAGE_COVERED), "as of now"


@in_loop
async def test_a_bad_seed_is_rejected_with_its_record() -> None:
    async with running_service() as service:
        seed = pb.MetricSeed(name="mms_30d", days=[pb.MetricSeedDay(date="2026-11-18", value_json="many")])
        record = pb.SubscriberRecord(subscriber_id=SOMEBODY, metrics=[seed])
        batch = pb.ImportSubscribersRequest(batch=pb.SubscriberBatch(subscribers=[record]))
        answer = await bring(service, import_header(), batch)
        (rejected,) = answer.rejections
        assert rejected.reason == types.REJECTION_REASON_BAD_ATTRIBUTES
        assert "metric.mms_30d" in rejected.message


@in_loop
async def test_a_stranger_is_not_found() -> None:
    async with running_service() as service:
        get = service.subscribers.GetSubscriber
        said = await refused(get(pb.GetSubscriberRequest(subscriber_id="8613999999999")))
        assert (said.code, said.reason) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
        assert (await refused(get(pb.GetSubscriberRequest(subscriber_id="x")))).fields == ["subscriber_id"]


@pytest.mark.parametrize(
    ("messages", "field"),
    [
        ([], "header"),
        ([import_batch({})], "header"),
        ([import_header(), import_header()], "batch"),
        ([import_header(mode=pb.IMPORT_MODE_UNSPECIFIED)], "header.mode"),
        ([import_header(mode=9)], "header.mode"),
        ([import_header(attributes_encoding=9)], "header.attributes_encoding"),
        ([import_header(NOON_US + HOUR_US)], "header.as_of"),
        ([pb.ImportSubscribersRequest(header=pb.ImportHeader(mode=pb.IMPORT_MODE_PATCH))], "header.as_of"),
        ([import_header(), import_batch({f"86138{n:08}": {} for n in range(1_001)})], "batch.subscribers"),
    ],
)
def test_a_bad_import_names_the_field(messages: list[pb.ImportSubscribersRequest], field: str) -> None:
    @in_loop
    async def body() -> None:
        async with running_service() as service:
            said = await refused(bring(service, *messages))
            assert (said.code, said.fields) == (grpc.StatusCode.INVALID_ARGUMENT, [field])

    body()


@in_loop
async def test_consents_come_with_a_record_each_as_of_its_own_time() -> None:
    async with running_service() as service:
        refused_sms = types.Consent(
            scope="channel/sms", state=types.CONSENT_STATE_REFUSED, as_of=timestamp(NOON_US - 1)
        )
        allowed_care = types.Consent(scope="category/care", state=types.CONSENT_STATE_ALLOWED)
        listed = types.Consent(scope="all", state=types.CONSENT_STATE_REFUSED)
        wrong = types.Consent(scope="channel/pigeon", state=types.CONSENT_STATE_REFUSED)
        early = types.Consent(scope="all", state=types.CONSENT_STATE_REFUSED, as_of=timestamp(2 * NOON_US))
        odd = types.Consent(scope="all", state=77)  # type: ignore[arg-type]
        stranger = "8613800000077"
        records = [
            pb.SubscriberRecord(
                subscriber_id=SOMEBODY, attributes=b'{"age": 30}', consents=[refused_sms, allowed_care]
            ),
            pb.SubscriberRecord(subscriber_id=SOMEBODY, attributes=b'{"age": 99}', consents=[wrong]),
            pb.SubscriberRecord(subscriber_id=stranger, consents=[listed]),
            pb.SubscriberRecord(subscriber_id=SOMEBODY, consents=[listed, early]),
            pb.SubscriberRecord(subscriber_id=SOMEBODY, consents=[listed, odd]),
        ]
        batch = pb.ImportSubscribersRequest(batch=pb.SubscriberBatch(subscribers=records))
        patch = import_header(NOON_US - HOUR_US, mode=pb.IMPORT_MODE_PATCH)
        answer = await bring(service, patch, batch)
        assert (answer.imported_count, answer.rejected_count) == (2, 3)
        assert [(each.index, each.reason) for each in answer.rejections] == [
            (1, types.REJECTION_REASON_UNKNOWN_NAME),
            (3, types.REJECTION_REASON_BAD_VALUE),
            (4, types.REJECTION_REASON_BAD_VALUE),
        ]
        request = pb.GetSubscriberRequest(subscriber_id=SOMEBODY)
        shown = (await service.subscribers.GetSubscriber(request)).subscriber
        assert json.loads(shown.attributes)["age"] == 30
        assert {each.scope: (each.state, each.as_of) for each in shown.consents} == {
            "channel/sms": (types.CONSENT_STATE_REFUSED, timestamp(NOON_US - 1)),
            "category/care": (types.CONSENT_STATE_ALLOWED, timestamp(NOON_US - HOUR_US)),
        }
        state = (await service.app.states.load([stranger]))[stranger]
        assert (state.known, state.context) == (False, {"do_not_contact": True})


@in_loop
async def test_what_is_not_honoured_yet_is_refused() -> None:
    async with running_service() as service:
        behaviour = pb.ImportedBehaviour(name="b", valid_until=timestamp(NOON_US))
        record = pb.SubscriberRecord(subscriber_id=SOMEBODY, behaviours=[behaviour])
        message = pb.ImportSubscribersRequest(batch=pb.SubscriberBatch(subscribers=[record]))
        said = await refused(bring(service, import_header(), message))
        assert said.code is grpc.StatusCode.UNIMPLEMENTED
        assert said.metadata["missing"] == "ImportedBehaviour.valid_until"
