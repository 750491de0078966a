"""Matching speed at 20 to 3,000 rules, against what else one might use; only right answers count.

Rows are `match/<contender>/<rules>` in microseconds an event. A ratio is the time of durable_rules used
directly divided by the contender's: 15 means fifteen times as fast. Contenders take turns of equal length,
and the median of the rounds is quoted. Answers to the timed events, and to events made to match, are
compared with an oracle.
"""

from __future__ import annotations

import gc
from collections.abc import Collection, Iterator, Sequence
from statistics import median
from time import perf_counter_ns

from contenders import CONTENDERS, Contender
from harness import Row, console
from rich.table import Table
from workload import Event, Workload, expected, make

__all__ = ["rows"]

SIZES = (20, 200, 1000, 3000)
AGAINST = "durable_rules_direct"
ROUNDS = 5
EVENTS = 10_000
PROBES = 300
ROUND_NS = 250_000_000
"""About how long one contender's turn takes: slow ones get fewer events, fast ones all of them several
times. A short turn would measure how fast the caches fill again after the contender before."""


def rows(only: str = "") -> Iterator[Row]:
    """Run it. `only` is a prefix of row names; the contender that ratios refer to always runs."""
    table = Table(title="match: microseconds an event (times as fast as durable_rules used directly)")
    table.add_column("contender")
    found: dict[str, dict[int, Row]] = {}
    notes: dict[str, str] = {}
    asked = [f"match/{name}/{size}" for size in SIZES for name in CONTENDERS]
    sizes = [
        size for size in SIZES if any(row.startswith(only) for row in asked if row.endswith(f"/{size}"))
    ]
    for size in sizes:
        table.add_column(f"{size:,} rules", justify="right")
        for row in _measure(make(size, EVENTS, PROBES), only, notes):
            found.setdefault(row.name.split("/")[1], {})[size] = row
            yield row
    for name, by_size in found.items():
        table.add_row(name, *(_cell(by_size.get(size)) for size in sizes))
    console.print(table)
    for name, note in notes.items():
        console.print(f"  {name}: {note}")


def _wanted(name: str, size: int, only: str) -> bool:
    return name == AGAINST or f"match/{name}/{size}".startswith(only)


def _measure(workload: Workload, only: str, notes: dict[str, str]) -> Iterator[Row]:
    size = len(workload.rules)
    answers = expected(workload, workload.events)
    running: dict[str, tuple[Contender, int, int]] = {}
    wrong: set[str] = set()
    times: dict[str, list[float]] = {}
    for name, compile_ in CONTENDERS.items():
        if not _wanted(name, size, only):
            continue
        try:
            contender = compile_(workload)
        except ImportError as error:
            notes[name] = f"left out: {error}"
            continue
        notes[name] = contender.note
        if _wrong(contender, workload.probes, expected(workload, workload.probes)):
            wrong.add(name)
        running[name] = (contender, *_affordable(contender, workload.events))
    for _ in range(ROUNDS):
        for name, (contender, count, passes) in running.items():
            given, nanoseconds = _timed(contender, workload.events[:count], passes)
            times.setdefault(name, []).append(nanoseconds / count / passes / 1000)
            if not _same(given, answers[:count]):
                wrong.add(name)
    for contender, *_ in running.values():
        contender.close()
    direct = None if AGAINST in wrong else median(times[AGAINST])
    for name in running:
        value = None if name in wrong else round(median(times[name]), 3)
        ratio = round(direct / value, 2) if value and direct else None
        yield Row(f"match/{name}/{size}", value, "us/event", f"match/{AGAINST}/{size}", ratio)


def _timed(contender: Contender, events: Sequence[Event], passes: int) -> tuple[list[Collection[str]], int]:
    """Answers of the last pass, and how long all took, in batches of 500 as a service would get them.

    The collector of cyclic garbage waits meanwhile, as it does in timeit: it would walk the rules of all
    contenders on the time of the one that runs.
    """
    given: list[Collection[str]] = []
    total = 0
    gc.collect()
    gc.disable()
    for _ in range(passes):
        given.clear()
        for start in range(0, len(events), 500):
            prepared = contender.prepare(events[start : start + 500])
            before = perf_counter_ns()
            given += contender.answer(prepared)
            total += perf_counter_ns() - before
    gc.enable()
    return given, total


def _affordable(contender: Contender, events: Sequence[Event]) -> tuple[int, int]:
    """How many events fit into a turn, and how often, by a first try (which also warms up)."""
    _, nanoseconds = _timed(contender, events[:500], 1)
    total = 500 * ROUND_NS // nanoseconds
    return max(500, min(len(events), total)), max(1, total // len(events))


def _wrong(contender: Contender, events: Sequence[Event], answers: Sequence[frozenset[str]]) -> bool:
    return not _same(contender.answer(contender.prepare(events)), answers)


def _same(given: Sequence[Collection[str]], answers: Sequence[frozenset[str]]) -> bool:
    return [sorted(each) for each in given] == [sorted(each) for each in answers]


def _cell(row: Row | None) -> str:
    if row is None:
        return "-"
    if row.value is None:
        return "wrong answers"
    return f"{row.value:,.2f} ({row.ratio}x)" if row.ratio else f"{row.value:,.2f}"
