"""Bounds at burst: 500 events within one second over eight streams, each of which would bring an offer, get
exactly as many as the bound allows: no more, and no fewer."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from textwrap import dedent

import pytest
from opportune.v1 import insight_service_pb2 as insight
from opportune.v1 import types_pb2 as types
from opportune_service.adapters.grpc.event_service import WINDOW
from opportune_service.adapters.sql.transaction import SqlTransaction
from opportune_service.clocks import ManualClock
from opportune_service.core.verdict import History
from support.rulebases import NOON_US
from support.server import Service, in_loop, running_service
from support.small_rulebase import subscribers
from support.wire import SOMEBODY, batch, event, hello, import_batch, import_header

EVENTS, STREAMS = 500, 8
CAP, QUOTA = 3, 7


def eager_rulebase() -> dict[str, bytes]:
    """Every event brings an offer of both products, as long as the customer's cap and a quota let it."""
    files = {
        "rulebase.yaml": "rulebase: eager\ntime_zone: Asia/Shanghai\n",
        "vocabulary.yaml": """\
            events: {mms_sent: {attributes: {size_kb: {type: int, min: 0}}}}
            channels: {sms: {mode: automatic}}
            products:
              data: {label: Data, category: data}
              music: {label: Music, category: music}
            """,
        "policies.yaml": f"""\
            caps: {{weekly: {{limit: {CAP}, period: {{rolling: 7d}}}}}}
            arbitration: {{max_automatic: 2}}
            """,
    }
    for name, quota in (("data", ""), ("music", f"quota: {{total: {QUOTA}, otherwise: next}}")):
        files[f"campaigns/{name}.yaml"] = f"""\
            campaign: {name}
            product: {name}
            on: [mms_sent]
            mode: automatic
            channels: [sms]
            content: {{sms: "More {name}."}}
            {quota}
            """
    return {name: dedent(text).encode() for name, text in files.items()}


async def burst(directory: Path, people: Sequence[str]) -> list[insight.Decision]:
    """All events of these people over all streams at once; then everything that was decided."""
    clock = ManualClock(NOON_US + 1_000_000)
    async with running_service(directory, eager_rulebase(), clock=clock, timer_seconds=3600) as service:
        known = [import_header(), import_batch({who: {} for who in people})]
        assert (await service.subscribers.ImportSubscribers(iter(known))).imported_count == len(people)
        await asyncio.gather(*(send(service, stream, people) for stream in range(STREAMS)))
        asked = insight.ListDecisionsRequest(page_size=1_000)
        decisions = list((await service.insight.ListDecisions(asked)).decisions)
        assert len(decisions) == 2 * EVENTS
        return [each for each in decisions if each.reason == types.REASON_DECIDED]


async def send(service: Service, stream: int, people: Sequence[str]) -> None:
    """Every eighth event, as fast as the stream takes them."""
    call = service.events.StreamEvents()
    await call.write(hello(f"collector-{stream}"))
    assert (await call.read()).WhichOneof("message") == "welcome"
    events = [
        event(f"e{n}", people[n % len(people)], at_us=NOON_US + n * 2_000)
        for n in range(stream, EVENTS, STREAMS)
    ]
    size = -(-len(events) // WINDOW)
    batches = [events[start : start + size] for start in range(0, len(events), size)]
    for number, part in enumerate(batches, start=1):
        await call.write(batch(number, *part))
    accepted = acked = 0
    while acked < len(batches):
        ack = (await call.read()).ack
        acked = ack.acked_number
        accepted += sum(result.accepted_count for result in ack.results)
    assert accepted == len(events)
    call.cancel()


@in_loop
async def test_one_customer_gets_exactly_the_cap(tmp_path: Path) -> None:
    assert len(await burst(tmp_path, [SOMEBODY])) == CAP


@in_loop
async def test_many_customers_get_exactly_the_quota(tmp_path: Path) -> None:
    people = subscribers(100)
    made = await burst(tmp_path, people)
    assert sum(each.campaign == "music" for each in made) == QUOTA
    each_got = Counter(each.subscriber_id for each in made)
    assert dict(each_got) == dict.fromkeys(people, CAP), "the other campaign takes what is left"


def test_control_without_the_history_the_cap_is_exceeded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def blind(_: object, ids: Sequence[str], since_us: int, now_us: int) -> dict[str, History]:
        return {who: History() for who in ids}

    monkeypatch.setattr(SqlTransaction, "histories", blind)

    @in_loop
    async def body() -> None:
        assert len(await burst(tmp_path, [SOMEBODY])) > CAP

    body()
