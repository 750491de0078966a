"""Reloads under load: how long callers wait while a rulebase is activated, and what memory activations
keep.

A stream sends batches evenly, and revisions of the same 200 campaigns are activated one after the other.

`reload/pause_p99_ms`: meanwhile single events are published at random instants (Poisson), whether or not
earlier ones have been answered; of those that were under way while something was being activated, the 99th
percentile of latency, from the instant at which the call was due. `reload/quiet_p99_ms` is that of the
others.

`reload/mb_per_1000/<engine>`: by how many MB a thousand activations make the process grow: the slope of its
resident memory over all but the first of them, as a straight line fits it.

Checked in the same run: no call fails, every event of the stream is accepted, and every answer and every
decision names a revision that was in force while it was under way.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count, islice
from threading import Event
from typing import Any

import grpc
import traffic
from harness import Row, console
from ingest import BATCH, Server, embedded_service, encoded, message
from latency import at_random, quantile, streaming
from opportune.v1 import event_service_pb2 as pb
from opportune.v1 import event_service_pb2_grpc as stubs
from opportune.v1 import insight_service_pb2 as insight
from opportune.v1 import insight_service_pb2_grpc as insight_stubs
from opportune.v1 import rulebase_service_pb2 as rulebases_pb
from opportune.v1.rulebase_service_pb2_grpc import RulebaseServiceStub
from opportune_rulebase import to_archive
from rich.table import Table

__all__ = ["rows"]

ENGINES = ("network", "durable")
EVENTS_A_SECOND = 5_000
FEW_EVENTS_A_SECOND = 500
"""While memory is measured: of the same customers again and again, for whoever is new takes memory too."""
PUBLISHED_A_SECOND = 100
SECONDS = 30
EVERY_SECONDS = 1.0
"""Between the ends of two activations, while latency is measured."""
ACTIVATIONS = 120
"""While memory is measured, one right after the other. The first third is not looked at: what is kept for
good grows on, what is kept for later does not."""
REVISIONS = 3
MIB = 1024 * 1024


def rows(only: str) -> list[Row]:
    """`reload/...`."""
    found: list[Row] = []
    pauses = Table(title=f"ms of a publish, {EVENTS_A_SECOND:,} events/s coming in")
    for heading in ("publishes", "number", "p50", "p90", "p99", "most"):
        pauses.add_column(heading, justify="right")
    if any(name.startswith(only) for name in ("reload/pause_p99_ms", "reload/quiet_p99_ms")):
        during, quiet = _pauses()
        for name, each in (("during an activation", during), ("at other times", quiet)):
            quantiles = [f"{quantile(each, q):.1f}" for q in (0.5, 0.9, 0.99, 1)]
            pauses.add_row(name, str(len(each)), *quantiles)
        console.print(pauses)
        p99, quiet_p99 = quantile(during, 0.99), quantile(quiet, 0.99)
        found += [
            Row("reload/pause_p99_ms", p99, "ms", "reload/quiet_p99_ms", quiet_p99 / p99),
            Row("reload/quiet_p99_ms", quiet_p99, "ms"),
        ]
    memory = Table(title=f"memory over {ACTIVATIONS} activations, in MB")
    for heading in ("engine", "first", "last", "most", "for 1,000 more"):
        memory.add_column(heading, justify="right")
    for engine in ENGINES:
        if (name := f"reload/mb_per_1000/{engine}").startswith(only) or only.startswith(name):
            used, slope = _memory(engine)
            memory.add_row(
                engine, *(f"{each / MIB:.0f}" for each in (used[0], used[-1], max(used))), f"{slope:.1f}"
            )
            found.append(Row(name, round(slope, 1), "MB"))
    console.print(memory)
    return found


def _pauses() -> tuple[list[float], list[float]]:
    """Latencies in ms, in order of size: of calls during an activation, and of the others."""
    sent = list(islice(_traffic(), EVENTS_A_SECOND * (SECONDS + 15) // BATCH))
    with _reloading("network", iter(sent), EVENTS_A_SECOND) as reloader:
        now_us = time.time_ns() // 1_000
        requests = [
            pb.PublishEventsRequest(
                source="bench-unary", events=[message(traffic.matching_event(n, now_us, "unary"))]
            )
            for n in range(PUBLISHED_A_SECOND * SECONDS)
        ]
        with ThreadPoolExecutor() as pool:
            ending = Event()
            activating = pool.submit(reloader.activate_until, lambda: ending.wait(EVERY_SECONDS))
            try:
                publish = stubs.EventServiceStub(reloader.channel).PublishEvents
                calls = at_random(publish, requests, PUBLISHED_A_SECOND)
            finally:
                ending.set()
            activating.result()
        if any(call.answer.accepted_count != 1 for call in calls):
            raise RuntimeError("not every event was accepted")
        for call in calls:
            reloader.check(call.answer.revision, call.began, call.ended)
    during = [
        any(call.began < of.ended and of.began < call.ended for of in reloader.made) for call in calls
    ]
    return (
        sorted(call.ms for call, inside in zip(calls, during, strict=True) if inside),
        sorted(call.ms for call, inside in zip(calls, during, strict=True) if not inside),
    )


def _memory(engine: str) -> tuple[list[int], float]:
    """Bytes after each activation that counts, and MB by which a thousand of them grow."""
    used: list[int] = []
    with _reloading(engine, _traffic(same=True), FEW_EVENTS_A_SECOND) as reloader:

        def enough() -> bool:
            used.append(reloader.service.memory())
            return len(used) >= ACTIVATIONS

        reloader.activate_until(enough)
    counted = used[ACTIVATIONS // 3 :]
    middle, mean = (len(counted) - 1) / 2, sum(counted) / len(counted)
    slope = sum((n - middle) * (each - mean) for n, each in enumerate(counted)) / sum(
        (n - middle) ** 2 for n in range(len(counted))
    )
    return counted, slope * 1_000 / MIB


@dataclass(frozen=True, slots=True)
class Activated:
    """An activation: of what, and from when to when the call was under way, by the monotonic clock."""

    revision: str
    began: float
    ended: float


@dataclass
class Reloader:
    """Activates one revision after the other, and knows which was in force when."""

    service: Server
    channel: grpc.Channel
    revisions: Sequence[str]
    current: str
    made: list[Activated] = field(default_factory=list)

    def activate_until(self, enough: Callable[[], bool]) -> None:
        activate = RulebaseServiceStub(self.channel).ActivateRulebase
        while not enough():
            following = self.revisions[len(self.made) % len(self.revisions)]
            request = rulebases_pb.ActivateRulebaseRequest(
                revision=following, expected_current_revision=self.current
            )
            began = time.perf_counter()
            activate(request, timeout=60)
            self.made.append(Activated(following, began, time.perf_counter()))
            self.current = following

    def check(self, revision: str, began: float, ended: float) -> None:
        """Raises `RuntimeError` if the revision was not in force at any instant of this span."""
        ends = [each.ended for each in self.made[1:]] + [float("inf")]
        spans = [(each.revision, each.began, end) for each, end in zip(self.made, ends, strict=True)]
        if began < self.made[0].ended:  # what was there before is not known by name
            return
        if not any(revision == name and first < ended and began < last for name, first, last in spans):
            raise RuntimeError(f"an answer names revision {revision[:12]}, which was not in force")


@contextmanager
def _reloading(engine: str, sent: Iterator[bytes], rate: float) -> Iterator[Reloader]:
    """The service under this stream, and revisions to activate; checks the stream and the decisions."""
    with (
        tempfile.TemporaryDirectory() as folder,
        embedded_service(folder, {"OPPORTUNE_ENGINE": engine}) as service,
        grpc.insecure_channel(service.target) as channel,
    ):
        upload = RulebaseServiceStub(channel).UploadRulebase
        revisions = []
        for version in range(REVISIONS):
            files = traffic.rulebase_files(f"v{version}")
            archive = rulebases_pb.RulebaseArchive(data=to_archive(files))
            revisions.append(upload(rulebases_pb.UploadRulebaseRequest(archive=archive)).rulebase.revision)
        current = RulebaseServiceStub(channel).GetRulebase(rulebases_pb.GetRulebaseRequest()).rulebase
        reloader = Reloader(service, channel, revisions, current.revision)
        ending, late = Event(), list[float]()
        with streaming(channel, sent, rate, ending, late):
            yield reloader
        _check_decisions(channel, {current.revision, *revisions})


def _traffic(*, same: bool = False) -> Iterator[bytes]:
    """Batches without end. `same`: each of the same customers."""
    for number in count(1):
        made = traffic.events(
            0 if same else number, BATCH, time.time_ns() // 1_000 - 1_000_000, f"load{number}"
        )
        yield from encoded(made, number)


def _check_decisions(channel: grpc.Channel, revisions: set[str]) -> None:
    """Every decision was made by one of these."""
    list_decisions: Any = insight_stubs.InsightServiceStub(channel).ListDecisions
    token = ""
    seen = 0
    while True:
        page = list_decisions(insight.ListDecisionsRequest(page_size=1_000, page_token=token))
        seen += len(page.decisions)
        if wrong := [each.revision for each in page.decisions if each.revision not in revisions]:
            raise RuntimeError(f"{len(wrong)} decisions name revisions that were never active: {wrong[:3]}")
        token = page.next_page_token
        if not token:
            break
    if not seen:
        raise RuntimeError("nothing was decided")
