"""A rehearsal against real traffic of 1,000 events a second: how many times faster it is.

Both runs, candidate and baseline, are in it, with starting the process and loading both rulebases: as a
service does it for its log (`rehearse/speed_vs_realtime`), and as the command does it for a file
(`rehearse/file_vs_realtime`). Checked in the same run: every event is decided on, and what is decided is
what the edit makes of it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from itertools import chain

import msgspec
import traffic
from harness import Row, console
from opportune_rulebase import to_archive
from opportune_service.adapters.processes.rehearsal import rehearse_in_process
from opportune_service.app.log import log_row
from opportune_service.app.records import LogKind
from opportune_service.app.rehearsal import Input, Opening, Output, Recorded, Report
from opportune_service.bootstrap import run_process
from opportune_service.core.events import ContextRecord, ImportMode
from opportune_service.rehearsing import rehearse_in
from rich.table import Table

EVENTS = 300_000
PER_SECOND = 1_000
BATCH = 200
SOURCES = ("a", "b")
BEGIN_US = 1_795_147_200_000_000

Run = Callable[[Opening, AsyncIterator[Input]], AsyncGenerator[Output, None]]


def _row(kind: LogKind, source: str, now_us: int, items: list) -> Recorded:  # type: ignore[type-arg]
    return Recorded(kind, source, now_us, log_row(0, kind, source, now_us, "", items).payload)


def recording(*, own_time: bool) -> tuple[Opening, list[Recorded]]:
    """The ingest benchmark's traffic, evenly in time; the candidate allows one contact a day more."""
    files = traffic.rulebase_files()
    edited = files | {"policies.yaml": files["policies.yaml"].replace(b"limit: 1,", b"limit: 2,")}
    assert edited != files
    step_us = 1_000_000 // PER_SECOND
    made = traffic.events(1, EVENTS, 0, "bench")
    events = [
        msgspec.structs.replace(each, occurred_at_us=BEGIN_US + n * step_us) for n, each in enumerate(made)
    ]
    people = [
        ContextRecord(who, BEGIN_US - 2, ImportMode.UPSERT, known) for who, known in traffic.contexts()
    ]
    context = [
        _row(LogKind.CONTEXT, "crm", BEGIN_US - 1, people[start : start + 1_000])
        for start in range(0, len(people), 1_000)
    ]
    cuts = range(0, EVENTS, BATCH)
    rows = [
        _row(
            LogKind.EVENTS,
            "file" if own_time else SOURCES[n % 2],
            0 if own_time else events[start + BATCH - 1].occurred_at_us + 500_000,
            events[start : start + BATCH],
        )
        for n, start in enumerate(cuts)
    ]
    opening = Opening(
        candidate=to_archive(edited),
        baseline=to_archive(files),
        engine="network",
        since_us=BEGIN_US,
        until_us=BEGIN_US + EVENTS * step_us,
        covered_us=BEGIN_US - 1,
        sample_size=10,
        total=EVENTS,
        own_time=own_time,
    )
    return opening, list(chain(context, rows))


async def _given(rows: list[Recorded]) -> AsyncIterator[Input]:
    for row in rows:
        yield row


async def _report(run: Run, opening: Opening, rows: list[Recorded]) -> Report:
    last = None
    async for output in run(opening, _given(rows)):
        last = output
        await asyncio.sleep(0)
    assert isinstance(last, Report), last
    return last


def _measure(name: str, run: Run, *, own_time: bool) -> tuple[Row, str]:
    opening, rows_ = recording(own_time=own_time)
    began = time.perf_counter()
    report = run_process(_report(run, opening, rows_))
    seconds = time.perf_counter() - began
    more = sum(each.won - each.lost for each in report.differences)
    right = (
        report.events == EVENTS
        and report.contacts - report.baseline_contacts == more > 0
        and not report.rejected
    )
    speed = EVENTS / PER_SECOND / seconds if right else None
    return Row(f"rehearse/{name}", speed, "x", None, None), f"{report.contacts:,}, {more:+,}"


def rows(only: str) -> list[Row]:
    """`rehearse/...`"""
    table = Table(title=f"Rehearsal of {EVENTS:,} events, with its baseline, against {PER_SECOND:,}/s")
    for heading in ("row", "times faster", "contacts, more than the baseline"):
        table.add_column(heading, justify="right")
    found = []
    for name, run, own_time in (
        ("speed_vs_realtime", rehearse_in_process, False),
        ("file_vs_realtime", rehearse_in, True),
    ):
        if not f"rehearse/{name}".startswith(only):
            continue
        row, said = _measure(name, run, own_time=own_time)
        found.append(row)
        table.add_row(row.name, f"{row.value:.1f}" if row.value else "wrong", said)
    console.print(table)
    return found
