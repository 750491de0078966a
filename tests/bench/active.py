"""What the state of an active subscriber costs: 1,000 campaigns, 50 metrics, 50 patterns.

`state/bytes_per_subscriber` is the memory of a subscriber at rest, beyond the context, at 23:59 of a
weekday in the made-up province: about 100 events each. The metrics and patterns are those of `active.yaml`,
over the vocabulary of the sample rulebase. Timers are settled when they are due. Times are whole seconds,
as network elements and billing write them into their records; `.../microseconds` is the same with the
simulator's own. `.../days/7` is the same after a week, when most windows in days are full. `.../harsh` is a
day in which everybody sends all twenty types of the matcher's benchmark, evenly (`life.py`).

`state/ready` is a subscriber who is kept ready to use (`MAX_DECODED` are); `state/encode`, `state/decode`
is what becoming a subscriber at rest, or ready, takes. Counted are the bytes objects of `MemoryLiveState`,
and the slots of its dictionary, less those of the same people with their context alone.
"""

from __future__ import annotations

import asyncio
import gc
import random
import sys
import tracemalloc
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from time import process_time_ns
from typing import Any

import msgspec
from harness import Row, console
from life import context, day, rulebase, subscriber_ids
from opportune_rulebase import load
from opportune_rulebase.model import Rulebase
from opportune_rulebase.network import NetworkEngine
from opportune_service.adapters.memory import MemoryLiveState
from opportune_service.app.timers import Timers, pending
from opportune_service.core.events import Due, Event
from opportune_service.core.observe import forget, observe, observe_due
from opportune_service.core.packing import Packing
from opportune_service.core.revision import Revision
from opportune_service.core.state import SubscriberState, decode_state, encode_state
from opportune_service.simulator import Province
from rich.table import Table
from support.rulebases import DAY_US, NOON_US
from workload import make

__all__ = ["rows"]

PACK = Path(__file__).parents[2] / "rulebase" / "packs" / "gprs-precision"
CAMPAIGNS = 1_000
PEOPLE = 1_000
FEWER = 200
"""Subscribers of the rows that are for comparison."""
SAMPLE = 200
"""Subscribers whose states are weighed when they are ready: tracing memory is slow."""

HARSH_EACH = 40
BATCH = 500
MIDNIGHT_US = NOON_US + DAY_US // 2
MINUTE_US = 60_000_000

Admitted = Iterable[tuple[Event, Any]]
States = dict[str, SubscriberState]


def rows(only: str = "") -> Iterator[Row]:
    table = Table(title="state: 1,000 campaigns, 50 metrics, 50 patterns")
    for column in ("what", "figure"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for row in _rows():
        if row.name.startswith(only):
            table.add_row(row.name, f"{row.value} {row.unit}")
            yield row
    console.print(table)


def _rows() -> Iterator[Row]:
    revision = _ready(load(files()))
    name = "state/bytes_per_subscriber"
    states = _lived(revision, PEOPLE, days=1, unit_us=1_000_000)
    ready = _decoded(states)
    yield Row("state/ready", round(ready), "bytes")
    yield Row(name, round(_at_rest(revision, states)), "bytes")
    for each, taken in _codec(states).items():
        yield Row(f"state/{each}", taken, "us")
    yield Row(
        f"{name}/microseconds",
        round(_at_rest(revision, _lived(revision, FEWER, days=1, unit_us=1))),
        "bytes",
    )
    yield Row(
        f"{name}/days/7",
        round(_at_rest(revision, _lived(revision, FEWER, days=7, unit_us=1_000_000))),
        "bytes",
    )
    people = subscriber_ids(FEWER)
    harsh = {who: SubscriberState(known=True, context=context(who)) for who in people}
    harsh_revision = _ready(rulebase(make(CAMPAIGNS, 1, 1)))
    _observe(harsh_revision, harsh, day(1, people, HARSH_EACH))
    yield Row(f"{name}/harsh", round(_at_rest(harsh_revision, harsh)), "bytes")


def files() -> dict[str, bytes]:
    """The rulebase: vocabulary and tables of the sample, what `active.yaml` says, and campaigns."""
    kept = ("rulebase.yaml", "vocabulary.yaml", "places.csv", "terminals.csv")
    found = {name: (PACK / name).read_bytes() for name in kept}
    found["behaviours.yaml"] = (Path(__file__).parent / "active.yaml").read_bytes()
    rnd = random.Random(20261120)
    types = ("sms_sent", "call_made", "data_session", "charge", "riding", "surfing", "call_back")
    documents = [
        f"campaign: c{number}\non: [{rnd.choice(types)}]\nproduct: mms-bundle\nmode: automatic\n"
        f"when: metric.sessions_30d >= {rnd.randrange(100)} && metric.sms_24h >= {rnd.randrange(50)}\n"
        f"target: sub.age >= {rnd.randrange(90)}\nchannels: [sms]\ncontent: {{default: '{number}'}}\n"
        for number in range(CAMPAIGNS)
    ]
    found["campaigns/all.yaml"] = "---\n".join(documents).encode()
    return found


def _ready(loaded: Rulebase) -> Revision:
    every = (*loaded.metrics.values(), *loaded.facts.values(), *loaded.patterns.values())
    return Revision(loaded, NetworkEngine(loaded), {each.key: 0 for each in every})


def _lived(revision: Revision, people: int, *, days: int, unit_us: int) -> States:
    """The states of so many people after so many days, the last of which is a Friday."""
    tables = revision.rulebase.tables
    begin_us = MIDNIGHT_US - days * DAY_US
    zone = revision.rulebase.time_zone
    province = Province(1, people, begin_us, zone, tables.cells, tables.terminals)
    states = {who: SubscriberState(known=True, context=known) for who, known in province.context()}

    def admitted() -> Admitted:
        for event in province.events(MIDNIGHT_US - MINUTE_US):
            at_us = event.occurred_at_us // unit_us * unit_us
            states.setdefault(event.subscriber_id, SubscriberState())
            attributes = revision.admission.admit(event, 0, at_us)
            assert isinstance(attributes, dict), attributes
            yield msgspec.structs.replace(event, occurred_at_us=at_us), attributes

    _observe(revision, states, admitted())
    return states


def _observe(revision: Revision, states: States, admitted: Admitted) -> None:
    """All events in order, and timers when their sources have been silent for a minute."""
    timers = Timers()
    left = iter(admitted)
    while batch := list(islice(left, BATCH)):
        _settle(revision, states, timers, batch[0][0].occurred_at_us - MINUTE_US)
        for who in observe(revision, "bench", batch, states, 1, None).timers:
            timers.set(who, states[who].due_us)


def _settle(revision: Revision, states: States, timers: Timers, until_us: int) -> None:
    while (who := timers.first(until_us)) is not None:
        due = pending(revision, states[who])
        if due and due[0][0] < until_us:
            observe_due(revision, [Due(who, due[0][1], due[0][0])], states, 1, None)
        timers.set(who, states[who].due_us)


def _at_rest(revision: Revision, states: States) -> float:
    """Bytes of a subscriber at rest, less those of one of whom only the context is known."""
    alone = {
        who: SubscriberState(known=state.known, context=state.context) for who, state in states.items()
    }
    return (_weight(revision, states) - _weight(revision, alone)) / len(states)


def _weight(revision: Revision, states: States) -> int:
    live = MemoryLiveState(max_decoded=50, tidy=lambda state: forget(state, revision))
    live.restore((who, encode_state(state)) for who, state in states.items())

    async def rest() -> None:
        for who in [*states, *states]:  # twice: the first to rest are packed without an example
            await live.load([who])
        await live.load([f"nobody {number}" for number in range(50)])

    asyncio.run(rest())
    held = live._encoded
    return sys.getsizeof(held) + sum(sys.getsizeof(who) + sys.getsizeof(data) for who, data in held.items())


def _decoded(states: States) -> float:
    """The same of one who is ready, of a sample."""
    return _traced(list(states.values())[:SAMPLE], whole=True) - _traced(
        list(states.values())[:SAMPLE], whole=False
    )


def _traced(states: Sequence[SubscriberState], *, whole: bool) -> float:
    encoded = [
        encode_state(state if whole else SubscriberState(known=True, context=state.context))
        for state in states
    ]
    gc.collect()
    tracemalloc.start()
    decoded = [decode_state(data) for data in encoded]
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return used / len(decoded)


def _codec(states: States) -> dict[str, float]:
    """Microseconds of the processor for a state."""
    some = list(states.values())[:SAMPLE]
    packing = Packing()
    packing.prime(some[:12])
    began = process_time_ns()
    encoded = [packing.encode(state) for state in some]
    between = process_time_ns()
    for data in encoded:
        packing.decode(data)
    ended = process_time_ns()
    return {
        "encode": round((between - began) / len(some) / 1_000),
        "decode": round((ended - between) / len(some) / 1_000),
    }
