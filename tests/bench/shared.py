"""Ingest of service processes that share PostgreSQL and Redis, on the loopback, with durable commits.

The traffic of `ingest/embedded`, against the same ceiling. Three installations, each new, in turn: one
process; two, whose collectors shard by subscriber; two, whose collectors do not. Of each a round to warm
up, then three; the median counts. What a second process costs is counted in processor time of the service
processes, not of the stores: the machine may have no more processors than one process and its stores need.
Checked in the same run: every event is accepted once, and as many have a verdict as must have.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from zlib import crc32

import traffic
from harness import Row, console
from ingest import (
    BATCH,
    EVENTS,
    HERE,
    ROUNDS,
    Server,
    count_verdicts,
    encoded,
    import_contexts,
    serving,
    stream,
)
from opportune_service.core.events import Event
from rich.table import Table
from support.servers import Postgres, RedisServer, postgres, redis

PREFIX = "ingest/redis_postgres"


@dataclass(slots=True)
class Measured:
    """Rounds of one installation: events a second, and processor time of its service processes an event."""

    rates: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return statistics.median(self.rates)

    @property
    def cpu(self) -> float:
        return statistics.median(self.cpu_us)


def rows(only: str) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder, postgres() as ledger, redis() as live_state:
        rulebase = Path(folder, "rulebase")
        for name, content in traffic.rulebase_files().items():
            path = rulebase / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        ceiling = _ceiling(folder)
        found = {"one process": _measure(ledger, live_state, rulebase, 1, sharded=True)}
        if only != f"{PREFIX}/1":
            found["two, sharded"] = _measure(ledger, live_state, rulebase, 2, sharded=True)
            found["two, not sharded"] = _measure(ledger, live_state, rulebase, 2, sharded=False)
    return _report(found, ceiling)


def _ceiling(folder: str) -> Measured:
    measured = Measured()
    with serving(str(HERE / "ceiling.py"), f"{folder}/ceiling.db") as server:
        for number in range(ROUNDS):
            _round([server], [encoded(_events(number, "ceiling"))], measured)
    return measured


def _events(number: int, prefix: str) -> list[Event]:
    return traffic.events(number, EVENTS, time.time_ns() // 1_000 - 1_000_000, f"{prefix}{number}")


def _measure(
    ledger: Postgres, live_state: RedisServer, rulebase: Path, processes: int, *, sharded: bool
) -> Measured:
    measured = Measured()
    with ledger.database() as url, _services(url, live_state, rulebase, processes) as services:
        import_contexts(services[0].target)
        for number in range(ROUNDS + 1):
            parts = _parts(_events(number, "round"), processes, sharded=sharded)
            accepted = _round(services, list(map(encoded, parts)), measured)
            if accepted != EVENTS:
                raise RuntimeError(f"{accepted} of {EVENTS} events were accepted")
        del measured.rates[0], measured.cpu_us[0]  # the round to warm up
        expected = sum(
            traffic.matches(event)
            for number in range(ROUNDS + 1)
            for event in traffic.events(number, EVENTS, 0, "")
        )
        verdicts = count_verdicts(services[-1].target)
        if verdicts != expected:
            raise RuntimeError(f"{verdicts} verdicts, but {expected} events have a candidate")
    return measured


@contextmanager
def _services(
    url: str, live_state: RedisServer, rulebase: Path, processes: int
) -> Iterator[Sequence[Server]]:
    with live_state.connect() as client:
        client.flushall()
    settings = {"OPPORTUNE_LIVE_STATE": live_state.url, "OPPORTUNE_DATABASE": url}
    serve = ("-m", "opportune_service.cli", "serve", "--listen", "127.0.0.1:0", "--rulebase", str(rulebase))
    with ExitStack() as stack:
        yield [stack.enter_context(serving(*serve, settings=settings)) for _ in range(processes)]


def _parts(events: Sequence[Event], count: int, *, sharded: bool) -> list[Sequence[Event]]:
    """What each collector sends: that of its own subscribers, or every second batch."""
    if sharded:
        return [[e for e in events if crc32(e.subscriber_id.encode()) % count == n] for n in range(count)]
    batches = [events[start : start + BATCH] for start in range(0, len(events), BATCH)]
    return [[event for batch in batches[n::count] for event in batch] for n in range(count)]


def _round(services: Sequence[Server], messages: Sequence[list[bytes]], measured: Measured) -> int:
    """Each collector streams to a process of its own, all at once; the events accepted."""
    before = sum(service.cpu_seconds() for service in services)
    began = time.perf_counter()
    with ThreadPoolExecutor(len(services)) as pool:
        done = list(pool.map(stream, [service.target for service in services], messages))
    measured.rates.append(EVENTS / (time.perf_counter() - began))
    spent = sum(service.cpu_seconds() for service in services) - before
    measured.cpu_us.append(spent / EVENTS * 1e6)
    return sum(accepted for _, accepted in done)


def _report(found: dict[str, Measured], ceiling: Measured) -> list[Row]:
    table = Table(
        title=f"ingest on PostgreSQL and Redis: batches of {BATCH}, {traffic.CAMPAIGNS} campaigns"
    )
    for heading in ("service", "events/s", "lowest", "highest", "CPU us/event", "of the ceiling"):
        table.add_column(heading, justify="right")
    for name, each in {**found, "ceiling": ceiling}.items():
        table.add_row(
            name,
            f"{each.rate:,.0f}",
            f"{min(each.rates):,.0f}",
            f"{max(each.rates):,.0f}",
            f"{each.cpu:.1f}",
            f"{each.rate / ceiling.rate:.2f}",
        )
    console.print(table)
    one = found["one process"]
    made = [
        Row(f"{PREFIX}/1", one.rate, "events/s", "ingest/ceiling", one.rate / ceiling.rate),
        Row(f"{PREFIX}/cpu_1", one.cpu, "us/event", "ingest/ceiling_cpu", ceiling.cpu / one.cpu),
    ]
    for name, key in (("two, sharded", "cpu_ratio_2"), ("two, not sharded", "cpu_ratio_2_unsharded")):
        if name in found:
            made.append(Row(f"{PREFIX}/{key}", found[name].cpu / one.cpu, "ratio"))
    return made
