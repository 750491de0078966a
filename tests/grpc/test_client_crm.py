"""The client of business systems over real streams, against the fake that users get for their own tests."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from datetime import date

import grpc
import pytest
from opportune.v1 import advice_service_pb2 as advice_pb
from opportune.v1 import types_pb2
from opportune_client import (
    AsyncCrmClient,
    BusyError,
    CrmClient,
    DeadlineError,
    ImportMode,
    NotFoundError,
    OperatorClient,
    OutcomeKind,
    RequestError,
    SubscriberRecord,
    connect,
)
from opportune_client.testing import FakeOpportune
from support.fakes import NOON, NUMBER, in_loop


def test_import_and_look_up(fake: FakeOpportune, channel: grpc.Channel) -> None:
    crm = CrmClient(channel)
    records = [
        SubscriberRecord(
            f"86139{n:08}",
            {"age": n},
            consents={"all": False},
            behaviours={"often_off": True},
            metrics={"mms_30d": {date(2014, 6, 1): n}},
        )
        for n in range(1_200)
    ]
    response = crm.import_subscribers(iter(records), NOON, ImportMode.PATCH, origin="bass")
    assert response.imported_count == len(fake.subscribers) == 1_200
    assert [(header.mode, header.origin) for header in fake.import_headers] == [(ImportMode.PATCH, "bass")]
    stored = fake.subscribers[records[7].subscriber_id]
    assert stored.consents[0].state == types_pb2.CONSENT_STATE_REFUSED
    assert stored.behaviours[0].holds
    assert (stored.metrics[0].days[0].date, stored.metrics[0].days[0].value_json) == ("2014-06-01", "7")
    assert crm.get_subscriber(records[7].subscriber_id).attributes == b'{"age":7}'
    with pytest.raises(NotFoundError) as caught:
        crm.get_subscriber("8613800000000")
    assert caught.value.reason == "NOT_FOUND"


def test_an_import_raises_what_its_records_raise(fake: FakeOpportune, channel: grpc.Channel) -> None:
    def records() -> Iterator[SubscriberRecord]:
        yield SubscriberRecord(NUMBER)
        raise OSError("the extract ends in mid-line")

    with pytest.raises(OSError, match="mid-line"):
        CrmClient(channel).import_subscribers(records(), NOON, ImportMode.UPSERT)


def test_advice_and_its_outcome(fake: FakeOpportune, channel: grpc.Channel) -> None:
    fake.advices.append(advice_pb.Advice(decision_id="d1", content="Would you like ..."))
    crm = CrmClient(channel)
    for _ in range(2):
        answer = crm.advise(NUMBER, "counter", request_id="visit-1", attributes={"topic": "bill"})
        assert [advice.decision_id for advice in answer.advices] == ["d1"]
    assert [visit.attributes for visit in fake.visits] == [b'{"topic":"bill"}']
    assert crm.report_outcome("d1", OutcomeKind.ACCEPTED, occurred_at=NOON)
    assert not crm.report_outcome("d1", OutcomeKind.ACCEPTED)
    with pytest.raises(NotFoundError):
        crm.report_outcome("d2", OutcomeKind.ACCEPTED)


def test_calls_that_may_be_repeated_are(fake: FakeOpportune, channel: grpc.Channel) -> None:
    fake.fail("Advise", "UNAVAILABLE", times=2)
    CrmClient(channel).advise(NUMBER, "counter", request_id="visit-1")
    assert fake.calls == ["Advise"] * 3


def test_an_activation_is_never_repeated_by_itself(fake: FakeOpportune, channel: grpc.Channel) -> None:
    fake.fail("ActivateRulebase", "UNAVAILABLE")
    with pytest.raises(Exception, match="the test wants it so"):
        OperatorClient(channel).activate("r")
    assert fake.calls == ["ActivateRulebase"]


def test_errors_carry_what_the_service_says(fake: FakeOpportune, channel: grpc.Channel) -> None:
    crm = CrmClient(channel)
    fake.fail("Advise", "INVALID_ARGUMENT", violations={"touch_point": "no such channel"})
    with pytest.raises(RequestError) as refused:
        crm.advise(NUMBER, "moon", request_id="visit-1")
    assert [(item.field, item.message) for item in refused.value.violations] == [
        ("touch_point", "no such channel")
    ]
    fake.fail("Advise", "RESOURCE_EXHAUSTED", retry_after=2.5)
    with pytest.raises(BusyError) as busy:
        crm.advise(NUMBER, "counter", request_id="visit-1")
    assert busy.value.retry_after == 2.5


def test_a_deadline_is_an_error_of_its_own() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as mute,
        connect(f"127.0.0.1:{mute.getsockname()[1]}") as channel,
        pytest.raises(DeadlineError),
    ):
        CrmClient(channel).advise(NUMBER, "counter", request_id="visit-1", timeout=0.05)


def test_async_crm_client(fake: FakeOpportune) -> None:
    async def body() -> None:
        async with fake.connect_async() as channel:
            crm = AsyncCrmClient(channel)
            response = await crm.import_subscribers([SubscriberRecord(NUMBER)], NOON, ImportMode.UPSERT)
            assert response.imported_count == 1
            assert (await crm.get_subscriber(NUMBER)).subscriber_id == NUMBER
            assert not (await crm.advise(NUMBER, "counter", request_id="visit-1")).advices
            with pytest.raises(NotFoundError):
                await crm.report_outcome("d1", OutcomeKind.REFUSED)
            fake.fail("ImportSubscribers", "INVALID_ARGUMENT")
            with pytest.raises(RequestError):
                await crm.import_subscribers([SubscriberRecord(NUMBER)] * 5_000, NOON, ImportMode.UPSERT)

    in_loop(body)
