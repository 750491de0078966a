"""Rejected events over the wire, by the client, and on the command line."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from opportune.v1 import event_service_pb2 as events
from opportune.v1 import insight_service_pb2 as pb
from opportune.v1 import types_pb2 as types
from opportune_client import OperatorClient, RejectionReason, connect
from opportune_client.testing import FakeOpportune
from opportune_service.adapters.grpc.roles import roles_of
from opportune_service.cli import app as cli
from support.rulebases import NOON_US
from support.server import Service, in_loop, refusal, running_service
from support.wire import SOMEBODY, event, publish, timestamp
from typer.testing import CliRunner

NOON = datetime.fromtimestamp(NOON_US // 1_000_000, UTC)


async def reject(service: Service, source: str, *ids: str, type_: str = "nonsense") -> None:
    batch = [
        events.Event(id=id_, subscriber_id=SOMEBODY, type=type_, occurred_at=timestamp(NOON_US))
        for id_ in ids
    ]
    request = events.PublishEventsRequest(source=source, events=batch)
    await service.events.PublishEvents(request)


async def ids(service: Service, **conditions: Any) -> list[str]:
    answer = await service.insight.ListQuarantine(pb.ListQuarantineRequest(**conditions))
    return [each.event.id for each in answer.events]


@in_loop
async def test_an_event_is_listed_as_it_was_sent() -> None:
    async with running_service() as service:
        sent = events.Event(
            id="1",
            subscriber_id=SOMEBODY,
            type="mms_sent",
            occurred_at=timestamp(NOON_US - 1),
            cell_id="c1",
            imei="35000000123456",
            attributes=b"\x81\xa7size_kb\xa1x",
        )
        request = events.PublishEventsRequest(
            source="smsc", events=[sent], attributes_encoding=types.ATTRIBUTES_ENCODING_MSGPACK
        )
        told = (await service.events.PublishEvents(request)).rejections[0]
        (listed,) = (await service.insight.ListQuarantine(pb.ListQuarantineRequest())).events
        assert listed.event == sent
        assert (listed.source, listed.reason, listed.message) == ("smsc", told.reason, told.message)
        assert listed.attributes_encoding == types.ATTRIBUTES_ENCODING_MSGPACK
        assert listed.received_at == timestamp(NOON_US)


@in_loop
async def test_conditions_and_pages() -> None:
    async with running_service() as service:
        await reject(service, "smsc", "1", "2", "3")
        await reject(service, "gn", "4", "5")
        await service.events.PublishEvents(publish(event("", SOMEBODY)))
        assert await ids(service) == ["", "5", "4", "3", "2", "1"]
        assert await ids(service, source="gn") == ["5", "4"]
        assert await ids(service, reasons=[types.REJECTION_REASON_BAD_EVENT_ID]) == [""]
        assert await ids(service, reasons=[types.REJECTION_REASON_UNKNOWN_NAME]) == []
        assert await ids(service, since=timestamp(NOON_US + 1)) == []
        assert await ids(service, until=timestamp(NOON_US)) == []
        assert len(await ids(service, since=timestamp(NOON_US), until=timestamp(NOON_US + 1))) == 6

        request = pb.ListQuarantineRequest(page_size=2)
        pages = []
        while True:
            page = await service.insight.ListQuarantine(request)
            pages.append([each.event.id for each in page.events])
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
        assert pages == [["", "5"], ["4", "3"], ["2", "1"], []]


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        ({"page_size": 1_001}, "page_size"),
        ({"page_token": "x"}, "page_token"),
        ({"source": "x" * 65}, "source"),
        ({"reasons": [0]}, "reasons"),
        ({"reasons": [99]}, "reasons"),
    ],
)
def test_requests_that_cannot_be_answered(bad: dict[str, Any], field: str) -> None:
    @in_loop
    async def body() -> None:
        async with running_service() as service:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await service.insight.ListQuarantine(pb.ListQuarantineRequest(**bad))
            assert refusal(caught.value).fields == [field]

    body()


def test_viewers_may_not_see_it() -> None:
    roles = roles_of(pb.DESCRIPTOR.services_by_name["InsightService"])["ListQuarantine"]
    assert roles == {"ROLE_ANALYST", "ROLE_OPERATOR"}


@in_loop
async def test_the_client_lists_page_by_page() -> None:
    async with running_service() as service:
        await reject(service, "smsc", *(str(n) for n in range(5)))
        await reject(service, "gn", "x")

        def listed() -> list[list[str]]:
            with connect(service.address) as channel:
                client = OperatorClient(channel)
                return [
                    [each.event.id for each in client.list_quarantine(**asked)]  # type: ignore[arg-type]
                    for asked in (
                        {"page_size": 2},
                        {"source": "gn"},
                        {"reasons": [RejectionReason.TOO_LATE]},
                        {"since": NOON, "reasons": [RejectionReason.UNKNOWN_TYPE], "source": "gn"},
                        {"until": NOON},
                    )
                ]

        everything = ["x", "4", "3", "2", "1", "0"]
        assert await asyncio.to_thread(listed) == [everything, ["x"], [], ["x"], []]


def rejected(number: int, source: str, attributes: bytes = b'{"a": 1}') -> pb.QuarantinedEvent:
    sent = events.Event(
        id=f"e{number}",
        subscriber_id=SOMEBODY,
        type="nonsense",
        occurred_at=timestamp(NOON_US),
        attributes=attributes,
    )
    return pb.QuarantinedEvent(
        source=source,
        event=sent,
        reason=types.REJECTION_REASON_UNKNOWN_TYPE,
        message="declare it",
        received_at=timestamp(NOON_US),
    )


def test_the_command_masks_numbers_on_screens_alone() -> None:
    with FakeOpportune() as fake:
        fake.quarantine.extend([rejected(1, "gn"), rejected(2, "smsc"), rejected(3, "smsc", b"\xff")])

        def ask(*arguments: str, code: int = 0) -> str:
            result = CliRunner().invoke(cli, ["quarantine", *arguments, "--target", fake.target])
            assert result.exit_code == code, result.output
            return result.stdout

        shown = ask()
        assert SOMEBODY not in shown
        assert [line for line in shown.splitlines() if "unknown_type" in line and "declare it" in line]
        assert ask("--source", "nowhere") == "Nothing was rejected.\n"
        ask("--reason", "ugly", code=2)

        records = [json.loads(line) for line in ask("--json", "--last", "2").splitlines()]
        assert [each["event"]["id"] for each in records] == ["e3", "e2"]
        assert records[1] == {
            "received_at": "2026-11-20T04:00:00Z",
            "source": "smsc",
            "reason": "unknown_type",
            "message": "declare it",
            "event": {
                "id": "e2",
                "subscriber_id": SOMEBODY,
                "type": "nonsense",
                "occurred_at": "2026-11-20T04:00:00Z",
                "cell_id": "",
                "imei": "",
                "attributes": '{"a": 1}',
                "encoding": "json",
            },
        }
        named = ask("--json", "--reason", "unknown_type", "--source", "gn")
        assert json.loads(named)["event"]["id"] == "e1"
