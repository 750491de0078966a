"""Ack means durable: kill -9 in mid-stream, restart, send again; nothing lost, nothing decided twice."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import SimpleQueue

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from opportune.v1 import event_service_pb2 as events_pb
from opportune.v1 import event_service_pb2_grpc as events_stub
from opportune.v1 import insight_service_pb2 as insight_pb
from opportune.v1 import insight_service_pb2_grpc as insight_stub
from opportune.v1 import subscriber_service_pb2 as context_pb
from opportune.v1 import subscriber_service_pb2_grpc as context_stub
from opportune.v1 import types_pb2
from opportune_service.core.events import Event
from support.processes import Served, serving, write_rulebase
from support.small_rulebase import small_rulebase, subscribers, traffic

PEOPLE = 5
BATCH = 10
EVENTS = 1_500
KILLS = 4


def message(event: Event) -> events_pb.Event:
    at = Timestamp(
        seconds=event.occurred_at_us // 1_000_000, nanos=event.occurred_at_us % 1_000_000 * 1_000
    )
    return events_pb.Event(
        id=event.id,
        subscriber_id=event.subscriber_id,
        type=event.type,
        occurred_at=at,
        attributes=event.attributes,
    )


def publish(
    target: str,
    source: str,
    batches: Sequence[Sequence[Event]],
    on_ack: Callable[[int], None] = lambda _: None,
) -> int:
    """Stream the batches, a window of them in flight; how many were acknowledged before the service went
    away. `on_ack` is told how many are."""
    acked = 0
    outgoing: SimpleQueue[events_pb.StreamEventsRequest | None] = SimpleQueue()
    outgoing.put(events_pb.StreamEventsRequest(hello=events_pb.EventStreamHello(source=source)))
    with grpc.insecure_channel(target) as channel:
        answers = events_stub.EventServiceStub(channel).StreamEvents(iter(outgoing.get, None), timeout=60)
        try:
            window = next(answers).welcome.max_batches_in_flight
            sent = 0
            while acked < len(batches):
                while sent < min(acked + window, len(batches)):
                    events = [message(event) for event in batches[sent]]
                    sent += 1
                    batch = events_pb.EventBatch(number=sent, events=events)
                    outgoing.put(events_pb.StreamEventsRequest(batch=batch))
                ack = next(answers).ack
                for result in ack.results:
                    assert not result.rejections
                    assert result.accepted_count + result.duplicate_count == len(batches[result.number - 1])
                acked = ack.acked_number
                on_ack(acked)
        except grpc.RpcError as error:
            if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
                raise
        finally:
            outgoing.put(None)
    return acked


def know(target: str) -> None:
    def requests() -> list[context_pb.ImportSubscribersRequest]:
        header = context_pb.ImportHeader(mode=context_pb.IMPORT_MODE_PATCH)
        header.as_of.GetCurrentTime()
        records = [
            context_pb.SubscriberRecord(subscriber_id=each, attributes=b"{}")
            for each in subscribers(PEOPLE)
        ]
        return [
            context_pb.ImportSubscribersRequest(header=header),
            context_pb.ImportSubscribersRequest(batch=context_pb.SubscriberBatch(subscribers=records)),
        ]

    with grpc.insecure_channel(target) as channel:
        done = context_stub.SubscriberServiceStub(channel).ImportSubscribers(iter(requests()), timeout=30)
    assert done.imported_count == PEOPLE


def outcome(target: str) -> tuple[dict[str, int], Counter[str], list[tuple[str, str]]]:
    """MMS counted of each subscriber; verdicts by event; what was decided, in order."""
    with grpc.insecure_channel(target) as channel:
        context = context_stub.SubscriberServiceStub(channel)
        counted = {}
        for each in subscribers(PEOPLE):
            answer = context.GetSubscriber(context_pb.GetSubscriberRequest(subscriber_id=each), timeout=30)
            metrics = {metric.name: metric for metric in answer.subscriber.metrics}
            counted[each] = int(json.loads(metrics["mms_30d"].value_json))
        insight = insight_stub.InsightServiceStub(channel)
        decisions: list[types_pb2.Decision] = []
        token = ""
        while True:
            request = insight_pb.ListDecisionsRequest(page_size=500, page_token=token)
            page = insight.ListDecisions(request, timeout=30)
            decisions += page.decisions
            token = page.next_page_token
            if not token:
                break
    verdicts = Counter(f"{each.source}/{each.event_id}/{each.campaign}" for each in decisions)
    decided = sorted(
        (d.subscriber_id, d.event_id) for d in decisions if d.reason == types_pb2.REASON_DECIDED
    )
    return counted, verdicts, decided


def made() -> list[Sequence[Event]]:
    """The same traffic in every run of this test process, just now."""
    events = list(traffic(seed=11, count=EVENTS, people=PEOPLE, start_us=START_US, step_us=STEP_US))
    return [events[n : n + BATCH] for n in range(0, len(events), BATCH)]


STEP_US = 100_000
# So far in the past that all of it has happened, and fresh enough to be decided.
START_US = time.time_ns() // 1_000 - EVENTS * STEP_US


def killed_run(
    folder: Path, rulebase: Path, source_of: str
) -> tuple[dict[str, int], Counter[str], list[tuple[str, str]]]:
    """Stream everything through `KILLS` crashes, each with batches in flight. `source_of` is formatted
    with the number of the try."""
    rng = random.Random(5)
    batches = made()
    done = 0
    for attempt in range(KILLS + 1):
        with serving(folder / "o.db", rulebase) as service:
            if attempt == 0:
                know(service.target)
            # What was under way when it crashed is sent again, and the batch before as well: a collector
            # that lost its own note of an ack does that.
            done = max(0, done - 1)
            source = source_of.format(attempt)
            if attempt < KILLS:
                crash_at = rng.randrange(2, (len(batches) - done) // (KILLS + 1 - attempt))
                done += publish(service.target, source, batches[done:], crash_after(service, crash_at))
                assert done < len(batches), "it did not crash in mid-stream: the test shows nothing"
            else:
                done += publish(service.target, source, batches[done:])
                assert done == len(batches)
                result = outcome(service.target)
                assert service.stop() == 0
    return result


def crash_after(service: Served, batches: int) -> Callable[[int], None]:
    """Kill the service as soon as so many batches of its stream are acknowledged."""

    def on_ack(acked: int) -> None:
        if acked >= batches and service.process.poll() is None:
            service.kill()

    return on_ack


@pytest.fixture
def rulebase(tmp_path: Path) -> Path:
    return write_rulebase(tmp_path / "rulebase", small_rulebase())


def test_kill_9_loses_nothing_and_decides_nothing_twice(tmp_path: Path, rulebase: Path) -> None:
    with serving(tmp_path / "clean.db", rulebase) as service:
        know(service.target)
        assert publish(service.target, "collector", made()) == len(made())
        clean = outcome(service.target)
    truth = Counter({(e.subscriber_id, e.id) for batch in made() for e in batch if e.type == "mms_sent"})
    assert clean[0] == dict(Counter(subscriber for subscriber, _ in truth))
    assert clean[2], "nothing was decided: the test shows nothing"

    crashed = killed_run(tmp_path, rulebase, "collector")
    assert crashed == clean
    assert max(crashed[1].values()) == 1


def test_control_without_deduplication_the_same_crashes_count_twice(tmp_path: Path, rulebase: Path) -> None:
    """Under another source name an event sent again is another event: the check above would notice."""
    crashed = killed_run(tmp_path, rulebase, "collector-{}")
    truth = Counter({(e.subscriber_id, e.id) for batch in made() for e in batch if e.type == "mms_sent"})
    assert crashed[0] != dict(Counter(subscriber for subscriber, _ in truth))
