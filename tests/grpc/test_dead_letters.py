"""Dead letters by the client, and on the command line."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta

import pytest
from opportune.v1 import delivery_service_pb2 as pb
from opportune_client import OperatorClient, RequestError, connect
from opportune_client.testing import FakeOpportune
from opportune_service.app.clearance import MAX_ATTEMPTS
from opportune_service.app.deliver import Settled
from opportune_service.app.records import Settlement
from opportune_service.cli import app as cli
from opportune_service.clocks import ManualClock
from support.rulebases import NOON_US
from support.server import in_loop, running_service
from support.small_rulebase import small_rulebase, subscribers
from support.wire import SOMEBODY, event, import_batch, import_header, publish, timestamp
from typer.testing import CliRunner

SECOND_US = 1_000_000


def letter(n: int, channel: str = "sms", campaign: str = "c") -> pb.DeadLetter:
    return pb.DeadLetter(
        delivery_id=f"d{n}",
        decision_id=f"d{n}",
        subscriber_id=SOMEBODY,
        channel=channel,
        campaign=campaign,
        content="Good night",
        attempt_count=5,
        last_detail=f"no route to {SOMEBODY}",
        dead_at=timestamp(NOON_US),
        expires_at=timestamp(NOON_US + 3_600 * SECOND_US),
    )


@in_loop
async def test_an_operator_lists_and_redrives() -> None:
    clock = ManualClock(NOON_US)
    async with running_service(files=small_rulebase(threshold=1), clock=clock) as service:
        person = subscribers(1)[0]
        await service.subscribers.ImportSubscribers(iter([import_header(), import_batch({person: {}})]))
        await service.events.PublishEvents(publish(event("m", person)))

        deliveries = service.app.deliveries
        for _ in range(MAX_ATTEMPTS):
            (lease,) = await deliveries.lease("sms", 1)
            said = Settled(lease.decision_id, lease.token, lease.attempt, Settlement.RETRY, "down")
            assert await deliveries.settle([said]) == [True]
            clock.value_us += 61 * SECOND_US
        assert await deliveries.lease("sms", 1) == []

        def redrive() -> None:
            with connect(service.address) as channel:
                operators = OperatorClient(channel)
                (dead,) = operators.list_dead_letters(page_size=1)
                assert (dead.subscriber_id, dead.attempt_count, dead.last_detail) == (person, 5, "down")
                answer = operators.redrive([dead.delivery_id, "x"], expires_in=timedelta(hours=1))
                assert (answer.redriven_count, list(answer.skipped_delivery_ids)) == (1, ["x"])
                assert not list(operators.list_dead_letters(channel="sms", campaign="mms-bundle"))
                with pytest.raises(RequestError, match="delivery_ids"):
                    operators.redrive()
                for far in (timedelta(days=367), timedelta(days=3_000_000), -timedelta(days=1)):
                    with pytest.raises(RequestError, match="expires_in"):
                        operators.redrive([dead.delivery_id], expires_in=far)

        await asyncio.to_thread(redrive)
        (lease,) = await deliveries.lease("sms", 1)
        assert (lease.subscriber_id, lease.attempt) == (person, 1)


def test_the_command_lists_redrives_and_masks_numbers_on_screens_alone() -> None:
    with FakeOpportune() as fake:
        fake.dead_letters.extend([letter(1), letter(2, campaign="x"), letter(3, "wap")])

        def ask(*arguments: str, code: int = 0) -> str:
            result = CliRunner().invoke(cli, ["deadletters", *arguments, "--target", fake.target])
            assert result.exit_code == code, result.output
            assert "--json" in arguments or SOMEBODY not in result.output
            return result.stdout

        shown = ask()
        assert [line for line in shown.splitlines() if "no route" in line and "d3" in line]
        records = [json.loads(line) for line in ask("--json", "--channel", "sms").splitlines()]
        assert [each["delivery_id"] for each in records] == ["d2", "d1"]
        assert records[1] == {
            "delivery_id": "d1",
            "subscriber_id": SOMEBODY,
            "channel": "sms",
            "campaign": "c",
            "content": "Good night",
            "attempts": 5,
            "detail": f"no route to {SOMEBODY}",
            "dead_at": "2026-11-20T04:00:00Z",
            "expires_at": "2026-11-20T05:00:00Z",
        }
        assert [json.loads(line)["delivery_id"] for line in ask("--json", "--last", "1").splitlines()] == [
            "d3"
        ]
        assert json.loads(ask("--redrive", "d1", "d9", "--hours", "2", "--json", code=1)) == {
            "redriven": 1,
            "skipped": ["d9"],
        }
        assert ask("--redrive", "--channel", "sms", "--comment", "mended") == "1 will be tried again.\n"
        ask("--redrive", "--channel", "wap")
        assert ask() == "No message is given up.\n"
        for wrong in (
            ["d1"],
            ["--hours", "1"],
            ["--comment", "x"],
            ["--redrive"],
            ["--redrive", "d1", "--channel", "sms"],
        ):
            ask(*wrong, code=2)
