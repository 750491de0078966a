"""What state costs, and what folding and matching an event cost: 1,000 campaigns, 50 metrics, 50 patterns.

`state/bytes_per_subscriber` is the memory of a subscriber at rest after a weekday, beyond the context;
`state/ready` the same of one who is kept ready to use. `fold_match/1000` is an admitted event's whole way
through `observe`; `fold_match/without_folding/1000` the same with nothing to fold but what rules read;
`fold_match/durable_rules_direct/1000` is durable_rules matching the same rules, with figures given to it.
Answers are compared with an oracle that recomputes each figure that rules read.
"""

from __future__ import annotations

import asyncio
import cProfile
import gc
import pstats
import random
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from statistics import median
from time import process_time_ns
from typing import Any

from contenders import durable_rules_direct
from harness import Row, console
from life import HOUR_US, context, day, rulebase, subscriber_ids
from opportune_rulebase.model import Rulebase
from opportune_rulebase.network import NetworkEngine
from opportune_service.adapters.memory import MemoryLiveState
from opportune_service.core.events import Event
from opportune_service.core.observe import observe
from opportune_service.core.revision import Revision
from opportune_service.core.state import SubscriberState
from rich.table import Table
from support.rulebases import NOON_US
from workload import BELOW, METRICS, TYPES, expected, make

__all__ = ["profile", "rows"]

SIZE = 1_000
PEOPLE = 2_000
WEIGHED = 1_000
"""Subscribers whose memory is measured: tracing it makes everything slow."""
ROOM = 10
"""Subscribers who are kept ready where the others are at rest: so few that they do not count."""

EVENTS_EACH = 40
"""Events of a subscriber on a weekday."""
TIMED = 20_000
BATCH = 500
ROUNDS = 5
DIRECT_EVENTS = 500
LATER_US = NOON_US + 14 * HOUR_US
"""When the day is over that the states are made with."""

Admitted = Sequence[tuple[Event, dict[str, Any]]]


def rows(only: str = "") -> Iterator[Row]:
    table = Table(title="folding: 1,000 campaigns, 50 metrics, 50 patterns")
    for column in ("what", "figure", "against"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for first, measure in (("state", _state), ("fold_match", _fold_match)):
        if not (first.startswith(only) or only.startswith(first)):
            continue
        for row in measure():
            against = f"{row.ratio}x as good as {row.against}" if row.ratio else ""
            table.add_row(row.name, f"{row.value} {row.unit}", against)
            yield row
    console.print(table)


def _ready(loaded: Rulebase) -> Revision:
    every = (*loaded.metrics.values(), *loaded.facts.values(), *loaded.patterns.values())
    return Revision(loaded, NetworkEngine(loaded), {each.key: 0 for each in every})


def _known(people: Sequence[str]) -> dict[str, SubscriberState]:
    return {who: SubscriberState(known=True, context=context(who)) for who in people}


def _observe(revision: Revision, states: Mapping[str, SubscriberState], events: Admitted) -> list[Any]:
    moments: list[Any] = []
    for start in range(0, len(events), BATCH):
        moments += observe(revision, "bench", events[start : start + BATCH], states, 1, None).moments
    return moments


def _state() -> Iterator[Row]:
    """Memory of a subscriber after a weekday, less that of one of whom only the context is known."""
    revision = _ready(rulebase(make(SIZE, 1, 1)))
    people = subscriber_ids(WEIGHED)
    used = {
        (room, events): asyncio.run(_memory(revision, people, room, events))
        for room in (WEIGHED, ROOM)
        for events in (0, EVENTS_EACH)
    }
    ready, at_rest = ((used[room, EVENTS_EACH] - used[room, 0]) / WEIGHED for room in (WEIGHED, ROOM))
    yield Row("state/ready", round(ready), "bytes")
    yield Row(
        "state/bytes_per_subscriber", round(at_rest), "bytes", "state/ready", round(ready / at_rest, 2)
    )


async def _memory(revision: Revision, people: Sequence[str], room: int, events_each: int) -> int:
    """Bytes that the live state of these people takes after a day of so many events each."""
    gc.collect()
    tracemalloc.start()
    live = MemoryLiveState(max_decoded=room)
    for start in range(0, len(people), ROOM):
        for who, state in (await live.load(people[start : start + ROOM])).items():
            state.known, state.context = True, context(who)
    admitted = day(1, people, events_each)
    while some := list(islice(admitted, ROOM)):
        states = await live.load({event.subscriber_id for event, _ in some})
        observe(revision, "bench", some, states, 1, None)
    del admitted, some
    gc.collect()
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return used


def _fold_match() -> Iterator[Row]:
    people = subscriber_ids(PEOPLE)
    workload = make(SIZE, 1, 1)
    warm = list(day(1, people, EVENTS_EACH))
    folding, matching = (_ready(rulebase(workload, metrics=n, patterns=m)) for n, m in ((50, 50), (10, 0)))
    runs: dict[str, tuple[Revision, dict[str, SubscriberState]]] = {
        name: (revision, _known(people))
        for name, revision in (
            (f"fold_match/{SIZE}", folding),
            (f"fold_match/without_folding/{SIZE}", matching),
        )
    }
    for revision, states in runs.values():
        _observe(revision, states, warm)
    direct = durable_rules_direct(workload)
    rnd = random.Random(20261120)
    times: dict[str, list[float]] = {}
    wrong = _wrong(workload, folding, people)
    for number in range(ROUNDS):
        begin_us = LATER_US + number * HOUR_US
        events = list(day(2 + number, people, TIMED // PEOPLE, begin_us))
        for name, (revision, states) in runs.items():
            taken = _timed(partial(_observe, revision, states, events))
            times.setdefault(name, []).append(taken / len(events))
        # Levels are drawn evenly, and so the newest ones are.
        figures = [{name: rnd.randrange(BELOW[name]) for name in METRICS} for _ in range(DIRECT_EVENTS)]
        few = zip(events, figures, strict=False)
        prepared = direct.prepare([_flat(*event, given) for event, given in few])
        taken = _timed(partial(direct.answer, prepared))
        times.setdefault("direct", []).append(taken / DIRECT_EVENTS)
    direct.close()
    micros = {name: round(median(each) / 1000, 2) for name, each in times.items()}
    against = f"fold_match/durable_rules_direct/{SIZE}"
    yield Row(against, micros["direct"], "us/event")
    for name in runs:
        value = None if wrong else micros[name]
        ratio = None if value is None else round(micros["direct"] / value, 2)
        yield Row(name, value, "us/event", against, ratio)


def _timed(call: Callable[[], object]) -> int:
    """Nanoseconds of the processor. The collector of cyclic garbage waits meanwhile, as for matching."""
    gc.collect()
    gc.disable()
    before = process_time_ns()
    call()
    taken = process_time_ns() - before
    gc.enable()
    return taken


def _flat(event: Event, attributes: Mapping[str, Any], figures: Mapping[str, int]) -> dict[str, int | str]:
    """An event as the matcher's contenders take it. A figure of nothing is one that no rule wants."""
    known: dict[str, Any] = context(event.subscriber_id)
    return {
        "type": event.type,
        "kind": attributes["kind"],
        "amount": attributes["amount"],
        **known,
        **{metric: figures.get(metric, -1) for metric in METRICS},
    }


def _wrong(workload: Any, revision: Revision, people: Sequence[str]) -> bool:
    """Whether any moment differs from the oracle's: figures recomputed, every rule of the type tried."""
    events = list(day(99, people[:50], 100))
    newest: dict[str, dict[str, int]] = {}
    given = []
    for event, attributes in events:
        figures = newest.setdefault(event.subscriber_id, {})
        figures[METRICS[TYPES.index(event.type) % len(METRICS)]] = attributes["level"]
        given.append(_flat(event, attributes, figures))
    whole = [all(each[metric] != -1 for metric in METRICS) for each in given]
    answers = expected(workload, given)
    moments = _observe(revision, _known(people[:50]), events)
    found = {
        moment.key.event_id: frozenset(candidate.campaign for candidate in moment.candidates)
        for moment in moments
    }
    pairs = zip(events, answers, whole, strict=True)
    right = all(
        found.get(event.id, frozenset()) == answer for (event, _), answer, complete in pairs if complete
    )
    return not right or not any(answers)


def profile() -> None:
    """Where the time of an event goes, by functions."""
    people = subscriber_ids(PEOPLE)
    revision, states = _ready(rulebase(make(SIZE, 1, 1))), _known(people)
    _observe(revision, states, list(day(1, people, 10)))
    events = list(day(2, people, 10, LATER_US))
    gc.disable()
    running = cProfile.Profile()
    running.runcall(_observe, revision, states, events)
    gc.enable()
    pstats.Stats(running).sort_stats("tottime").print_stats(25)
