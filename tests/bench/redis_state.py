"""What live state in Redis costs: holding and loading 500 subscribers, and saving them.

The states are those of the ingest benchmark's subscribers after 200,000 events. Batches are of random
subscribers, all of whom this process has loaded before, as when collectors shard by subscriber. In the same
run, and in turn with it: MGET and MSET of the same bytes with the plain client, which holds nobody,
compares nothing, and decodes and encodes nothing. Counted is processor time of this process, and of Redis.
Checked: what Redis has at the end is what was saved.

`state/redis_roundtrip/cold` is the same when nobody was loaded before, so that every state is decoded.
"""

from __future__ import annotations

import asyncio
import gc
import random
import statistics
from collections.abc import Collection, Coroutine, Iterable, Mapping
from pathlib import Path
from time import process_time, time_ns
from typing import Any

import traffic
import uvloop
from harness import Row, console
from opportune_rulebase import load
from opportune_rulebase.network import NetworkEngine
from opportune_service.adapters.redis import RedisLiveState
from opportune_service.core.observe import observe
from opportune_service.core.revision import Revision
from opportune_service.core.state import SubscriberState, decode_state, encode_plain
from redis.asyncio import Redis
from rich.table import Table
from support.servers import RedisServer, redis

BATCH = 500
EVENTS = 200_000
BATCHES = 40
ROUNDS = 5
PATIENCE = 30.0
"""Seconds: other work on the machine is no reason to end."""
NAME = "state/redis_roundtrip"

States = Mapping[str, SubscriberState]


def rows(only: str) -> Iterable[Row]:
    del only
    gc.set_threshold(200_000, 50, 100)  # as the service does
    states = _lived()
    with redis() as server, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_measure(server, states))


def _lived() -> States:
    rulebase = load(traffic.rulebase_files())
    revision = Revision(rulebase, NetworkEngine(rulebase), {})
    states = {
        who: SubscriberState(known=True, context=known, position=1) for who, known in traffic.contexts()
    }
    now_us = time_ns() // 1_000
    events = traffic.events(1, EVENTS, now_us - EVENTS, "lived")
    for start in range(0, EVENTS, BATCH):
        admitted: list[Any] = [
            (event, revision.admission.admit(event, 0, now_us)) for event in events[start : start + BATCH]
        ]
        observe(revision, "bench", admitted, states, 1, now_us)
    return states


async def _measure(server: RedisServer, states: States) -> list[Row]:
    async def nobody(_: Collection[str]) -> Mapping[str, bytes]:
        return {}

    people = list(states)
    live = RedisLiveState(server.url, nobody, member=1, max_decoded=len(people), timeout_seconds=PATIENCE)
    other = RedisLiveState(server.url, nobody, member=2, max_decoded=0, timeout_seconds=PATIENCE)
    plain = Redis.from_url(server.url, protocol=3)
    for start in range(0, len(people), 1_000):
        some = people[start : start + 1_000]
        await live.discard({who: states[who] for who in some}, some)
        await live.save(some)
    await live.hand_over()
    positions: dict[str, int] = {}
    taken: dict[str, list[tuple[float, float]]] = {"live": [], "cold": [], "plain": []}
    rnd = random.Random(20261122)
    for _ in range(ROUNDS):
        # The other one's own: what it saves would be new to the first.
        batches, others = (
            [rnd.sample(half, BATCH) for _ in range(BATCHES)] for half in (people[::2], people[1::2])
        )
        blobs = [
            {f"plain:{who}": b"".join(encode_plain(states[who], 0)) for who in batch} for batch in batches
        ]
        taken["plain"].append(await _taken(server, _plain(plain, blobs)))
        taken["live"].append(await _taken(server, _live(live, batches, positions)))
        taken["cold"].append(await _taken(server, _live(other, others, positions)))
    snapshots = await live.snapshot(list(positions))
    if {who: position for who, position, _ in snapshots} != positions:
        raise RuntimeError("Redis does not have what was saved")
    if any(decode_state(blob).position != position for _, position, blob in snapshots[:100]):
        raise RuntimeError("what Redis has cannot be read")
    await live.close()
    await other.close()
    await plain.aclose()
    return _report(taken, statistics.mean(len(blob) for batch in blobs for blob in batch.values()))


async def _live(
    live: RedisLiveState, batches: Iterable[Collection[str]], positions: dict[str, int]
) -> None:
    for batch in batches:
        for who, state in (await live.load(batch)).items():
            state.position += 1
            positions[who] = state.position
        await live.save(batch)


async def _plain(client: Redis, blobs: Iterable[Mapping[str, bytes]]) -> None:
    for batch in blobs:
        await client.mget(batch.keys())
        await client.mset(batch)


async def _taken(server: RedisServer, work: Coroutine[Any, Any, None]) -> tuple[float, float]:
    """Microseconds of the processor for an event: of this process, and of Redis."""
    served = _served(server)
    began = process_time()
    await work
    own = process_time() - began
    events = BATCH * BATCHES
    return own / events * 1e6, (_served(server) - served) / events * 1e6


def _served(server: RedisServer) -> float:
    """Processor seconds that Redis has used."""
    nanoseconds = Path(f"/proc/{server.pid}/task/{server.pid}/schedstat").read_text().split()[0]
    return int(nanoseconds) / 1e9


def _report(taken: Mapping[str, list[tuple[float, float]]], size: float) -> list[Row]:
    table = Table(title=f"live state in Redis: batches of {BATCH}, states of {size:.0f} bytes")
    for heading in ("what", "us/event", "lowest", "us/event of Redis"):
        table.add_column(heading, justify="right")
    medians = {}
    for what, figures in taken.items():
        own, served = (statistics.median(each) for each in zip(*figures, strict=True))
        medians[what] = own
        table.add_row(what, f"{own:.1f}", f"{min(each for each, _ in figures):.1f}", f"{served:.1f}")
    console.print(table)
    against = f"{NAME}/plain"
    return [
        Row(NAME, medians["live"], "us/event", against, medians["plain"] / medians["live"]),
        Row(f"{NAME}/cold", medians["cold"], "us/event", against, medians["plain"] / medians["cold"]),
        Row(against, medians["plain"], "us/event"),
    ]
