"""Ingest end to end over gRPC with durable commits, against the ceiling.

Both servers run as processes of their own and get the same bytes, made beforehand, over one stream each.
Three rounds, in turn; the median counts. Checked in the same run: every event is accepted, and the service
lists as many decisions as an independent match of the same events says it must.
"""

from __future__ import annotations

import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import grpc
import traffic
from google.protobuf.timestamp_pb2 import Timestamp
from harness import Row, console
from opportune.v1 import event_service_pb2 as pb
from opportune.v1 import insight_service_pb2 as insight
from opportune.v1 import insight_service_pb2_grpc as insight_stubs
from opportune.v1 import subscriber_service_pb2 as context_pb
from opportune.v1 import subscriber_service_pb2_grpc as context_stubs
from opportune_service.core.events import Event
from rich.table import Table

BATCH = 500
EVENTS = 100_000
ROUNDS = 3
HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Server:
    target: str
    process: subprocess.Popen[str]

    def cpu_seconds(self) -> float:
        """Processor time that the process has used, user and system."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100

    def memory(self) -> int:
        """Bytes of memory that it has now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) * 1024


@contextmanager
def serving(*command: str, settings: Mapping[str, str] | None = None) -> Iterator[Server]:
    """A server process that prints where it listens; stopped at the end. `settings`: more of its
    environment."""
    environment = {**os.environ, **(settings or {})}
    process = subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.search(r"listening on (\S+)", line):
                yield Server(found[1], process)
                break
        else:
            raise RuntimeError(f"{command[0]} did not start; its message is above")
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


@contextmanager
def embedded_service(folder: str, settings: Mapping[str, str] | None = None) -> Iterator[Server]:
    """The service on SQLite in `folder`, with the workload's rulebase and customers. `settings`: more of
    its environment."""
    rulebase = Path(folder, "rulebase")
    for name, content in traffic.rulebase_files().items():
        path = rulebase / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    database = f"sqlite:///{folder}/opportune.db"
    serve = ("-m", "opportune_service.cli", "serve", "--listen", "127.0.0.1:0")
    options = ("--database", database, "--rulebase", str(rulebase))
    with serving(*serve, *options, settings=settings) as service:
        import_contexts(service.target)
        yield service


def message(event: Event) -> pb.Event:
    return pb.Event(
        id=event.id,
        subscriber_id=event.subscriber_id,
        type=event.type,
        occurred_at=Timestamp(
            seconds=event.occurred_at_us // 1_000_000, nanos=event.occurred_at_us % 1_000_000 * 1_000
        ),
        attributes=event.attributes,
        cell_id=event.cell_id,
    )


def batches(seed: int, prefix: str, count: int = EVENTS) -> list[bytes]:
    return encoded(traffic.events(seed, count, time.time_ns() // 1_000 - 1_000_000, prefix))


def encoded(made: Sequence[Event], first: int = 1) -> list[bytes]:
    """The stream's messages, encoded: what is measured is the server, not this generator. `first`: the
    number of the first batch."""
    return [
        pb.StreamEventsRequest(
            batch=pb.EventBatch(
                number=number, events=[message(event) for event in made[start : start + BATCH]]
            )
        ).SerializeToString()
        for number, start in enumerate(range(0, len(made), BATCH), start=first)
    ]


def stream(target: str, messages: list[bytes]) -> tuple[float, int]:
    """Seconds from the first batch to the last ack, and events accepted (0 from the ceiling)."""
    channel = grpc.insecure_channel(target)
    call: Any = channel.stream_stream(
        "/opportune.v1.EventService/StreamEvents",
        request_serializer=lambda data: data,
        response_deserializer=pb.StreamEventsResponse.FromString,
    )
    outgoing: SimpleQueue[bytes | None] = SimpleQueue()
    hello = pb.StreamEventsRequest(hello=pb.EventStreamHello(source="bench"))
    outgoing.put(hello.SerializeToString())
    answers = call(iter(outgoing.get, None))
    window = next(answers).welcome.max_batches_in_flight
    began = time.perf_counter()
    for data in messages[:window]:
        outgoing.put(data)
    sent, acked, accepted = min(window, len(messages)), 0, 0
    for answer in answers:
        accepted += sum(result.accepted_count for result in answer.ack.results)
        acked = answer.ack.acked_number
        while sent < min(acked + window, len(messages)):
            outgoing.put(messages[sent])
            sent += 1
        if acked == len(messages):
            break
    seconds = time.perf_counter() - began
    outgoing.put(None)
    channel.close()
    return seconds, accepted


def import_contexts(target: str) -> None:
    def requests() -> Iterator[context_pb.ImportSubscribersRequest]:
        header = context_pb.ImportHeader(mode=context_pb.IMPORT_MODE_UPSERT)
        header.as_of.GetCurrentTime()
        yield context_pb.ImportSubscribersRequest(header=header)
        everyone = [
            context_pb.SubscriberRecord(
                subscriber_id=subscriber, attributes=json.dumps(attributes).encode()
            )
            for subscriber, attributes in traffic.contexts()
        ]
        for start in range(0, len(everyone), 1_000):
            batch = context_pb.SubscriberBatch(subscribers=everyone[start : start + 1_000])
            yield context_pb.ImportSubscribersRequest(batch=batch)

    with grpc.insecure_channel(target) as channel:
        done = context_stubs.SubscriberServiceStub(channel).ImportSubscribers(requests())
    assert done.imported_count == traffic.SUBSCRIBERS, done


def count_verdicts(target: str) -> int:
    """Events with a verdict, by paging through the list of decisions."""
    events: set[tuple[str, str]] = set()
    with grpc.insecure_channel(target) as channel:
        list_decisions = insight_stubs.InsightServiceStub(channel).ListDecisions
        token = ""
        while True:
            page = list_decisions(insight.ListDecisionsRequest(page_size=1_000, page_token=token))
            events |= {(each.source, each.event_id) for each in page.decisions}
            token = page.next_page_token
            if not token:
                return len(events)


def rows(only: str) -> list[Row]:
    """`ingest/embedded...` and `ingest/ceiling...`."""
    if only.startswith("ingest/redis_postgres"):
        return []  # see shared.py
    embedded: list[float] = []
    ceiling: list[float] = []
    embedded_cpu: list[float] = []
    ceiling_cpu: list[float] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        embedded_service(folder) as service,
        serving(str(HERE / "ceiling.py"), f"{folder}/ceiling.db") as bare,
    ):
        for number in range(ROUNDS):
            for server, rates, cpu in ((bare, ceiling, ceiling_cpu), (service, embedded, embedded_cpu)):
                messages = batches(number, f"round{number}")
                before = server.cpu_seconds()
                seconds, accepted = stream(server.target, messages)
                cpu.append((server.cpu_seconds() - before) / EVENTS * 1e6)
                rates.append(EVENTS / seconds)
                if server is service and accepted != EVENTS:
                    raise RuntimeError(f"{accepted} of {EVENTS} events were accepted")
        expected = sum(
            traffic.matches(event)
            for number in range(ROUNDS)
            for event in traffic.events(number, EVENTS, 0, "")
        )
        verdicts = count_verdicts(service.target)
        if verdicts != expected:
            raise RuntimeError(f"{verdicts} verdicts, but {expected} events have a candidate")
    share = expected / (ROUNDS * EVENTS)
    return _report(embedded, ceiling, embedded_cpu, ceiling_cpu, share)


def _report(
    embedded: list[float],
    ceiling: list[float],
    embedded_cpu: list[float],
    ceiling_cpu: list[float],
    share: float,
) -> list[Row]:
    rate, most = statistics.median(embedded), statistics.median(ceiling)
    table = Table(
        title=f"ingest: batches of {BATCH}, {traffic.CAMPAIGNS} campaigns, {share:.1%} with candidates"
    )
    for heading in ("server", "events/s", "lowest", "highest", "CPU us/event", "of the ceiling"):
        table.add_column(heading, justify="right")
    for name, rates, cpu in (("embedded", embedded, embedded_cpu), ("ceiling", ceiling, ceiling_cpu)):
        table.add_row(
            name,
            f"{statistics.median(rates):,.0f}",
            f"{min(rates):,.0f}",
            f"{max(rates):,.0f}",
            f"{statistics.median(cpu):.1f}",
            f"{statistics.median(rates) / most:.2f}",
        )
    console.print(table)
    return [
        Row("ingest/embedded", rate, "events/s", "ingest/ceiling", rate / most),
        Row("ingest/ceiling", most, "events/s"),
        Row(
            "ingest/embedded_cpu",
            statistics.median(embedded_cpu),
            "us/event",
            "ingest/ceiling_cpu",
            statistics.median(ceiling_cpu) / statistics.median(embedded_cpu),
        ),
        Row("ingest/ceiling_cpu", statistics.median(ceiling_cpu), "us/event"),
    ]
