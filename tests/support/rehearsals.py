"""Rehearsals in this process, of events that a test makes up, and what separate replays of them decide."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

import msgspec
from opportune_rulebase import to_archive
from opportune_service.adapters.processes.rehearsal import rehearse_in_process
from opportune_service.app.context import ImportItem, import_context
from opportune_service.app.log import log_row
from opportune_service.app.records import LogKind
from opportune_service.app.rehearsal import Input, Kind, Opening, Output, Recorded, Report
from opportune_service.app.rehearsals import Rehearsal, Rehearsals, Worker
from opportune_service.app.replay import replay
from opportune_service.bootstrap import Application, application
from opportune_service.clocks import ManualClock
from opportune_service.core.events import ContextRecord, Encoding, Event, ImportMode
from opportune_service.core.verdict import Reason, Verdict
from opportune_service.rehearsing import rehearse_in
from opportune_service.settings import Settings
from support.applications import activate

Files = Mapping[str, bytes]
Decided = tuple[str, str, str]
"""(subscriber id, event id, campaign)"""

ALL = 100_000
"""More samples than any test has differences."""


@dataclass
class Recording:
    """Events in order of time, and context as of the first."""

    events: Sequence[Event]
    context: Mapping[str, Mapping[str, object]] = field(default_factory=dict)

    @property
    def begin_us(self) -> int:
        return self.events[0].occurred_at_us

    @property
    def end_us(self) -> int:
        return self.events[-1].occurred_at_us


async def rehearse_file(
    recording: Recording,
    candidate: Files,
    baseline: Files,
    *,
    until_us: int = 0,
    since_us: int = 0,
    batch: int = 100,
    samples: int = ALL,
) -> Report:
    """What a rehearsal of these events, each at its own time, reports. Those before `since_us` are only
    folded."""
    since_us = since_us or recording.begin_us
    opening = Opening(
        candidate=to_archive(candidate),
        baseline=to_archive(baseline),
        engine="network",
        since_us=since_us,
        until_us=until_us or recording.end_us,
        covered_us=recording.begin_us,
        sample_size=samples,
        own_time=True,
    )
    return await last(opening, _inputs(recording, since_us, batch))


async def last(opening: Opening, inputs: AsyncIterator[Input]) -> Report:
    """The report of a rehearsal in this process."""
    outputs = [output async for output in rehearse_in(opening, inputs)]
    assert isinstance(outputs[-1], Report)
    return outputs[-1]


async def _inputs(recording: Recording, since_us: int, batch: int) -> AsyncIterator[Input]:
    as_of_us = recording.begin_us - 1
    records = [
        ContextRecord(who, as_of_us, ImportMode.PATCH, dict(known))
        for who, known in recording.context.items()
    ]
    if records:
        yield _row(LogKind.CONTEXT, as_of_us, records)
    before = [event for event in recording.events if event.occurred_at_us < since_us]
    for part in (before, recording.events[len(before) :]):
        for start in range(0, len(part), batch):
            yield _row(LogKind.EVENTS, 0, part[start : start + batch])


def _row(kind: LogKind, now_us: int, items: Sequence[Event] | Sequence[ContextRecord]) -> Recorded:
    return Recorded(kind, "file", now_us, log_row(1, kind, "file", now_us, "", items).payload)


async def replayed(recording: Recording, files: Files, until_us: int = 0) -> dict[Decided, Verdict]:
    """What a replay of the same events from a fresh state decides, and the verdicts."""
    settings = Settings(database="sqlite://", checkpoint_seconds=600, timer_seconds=3600)
    heard: list[Verdict] = []
    async with application(settings, ManualClock(recording.begin_us)) as app:
        await activate(app, files)
        listen(app, heard)
        people = [ImportItem(who, msgspec.json.encode(known)) for who, known in recording.context.items()]
        as_of_us = recording.begin_us - 1
        await import_context(app.live, app.ingest, people, as_of_us, ImportMode.PATCH, Encoding.JSON)
        await replay(app.ingest, "file", recording.events, until_us=until_us or recording.end_us)
    return decided(heard)


def listen(app: Application, heard: list[Verdict]) -> None:
    """Put down every verdict from now on."""
    announce = app.deliveries.announce

    def note(verdicts: Sequence[Verdict]) -> None:
        heard.extend(verdicts)
        announce(verdicts)

    app.deliveries.announce = note  # type: ignore[method-assign]


def decided(verdicts: Sequence[Verdict]) -> dict[Decided, Verdict]:
    """What was decided, with the first event that led to it: what was deferred is traced back."""
    roots: dict[str, tuple[str, str]] = {}
    found: dict[Decided, Verdict] = {}
    for verdict in verdicts:
        for decision in verdict.decisions:
            root = roots.get(decision.deferred_of, (verdict.key.subscriber_id, verdict.key.event_id))
            roots[decision.id] = root
            if decision.reason is Reason.DECIDED:
                found[*root, decision.campaign] = verdict
    return found


def by_kind(report: Report) -> dict[Kind, set[tuple[str, str]]]:
    """(subscriber id, campaign) of all differences, as the samples have them."""
    found: dict[Kind, set[tuple[str, str]]] = {kind: set() for kind in Kind}
    for difference in report.differences:
        for sample in difference.samples:
            side = sample.after or sample.before
            assert side is not None
            found[sample.kind].add((side.key.subscriber_id, difference.campaign))
    return found


async def rehearse_service(app: Application, asked: Rehearsal) -> Report:
    """What the service's own rehearsal, in a process of its own, reports."""
    outputs = [output async for output in app.rehearsals.rehearse(asked, "test")]
    assert isinstance(outputs[-1], Report)
    return outputs[-1]


def rehearsals_with(app: Application, worker: Worker) -> Rehearsals:
    """Those of a service, made by another worker: `rehearse_in` for this process."""
    stores = (app.live, app.rulebases, app.ledger, app.thread, app.clock)
    return Rehearsals(*stores, "network", worker, app.deliveries.tests)


async def without_end(opening: Opening, inputs: AsyncIterator[Input]) -> AsyncGenerator[Output, None]:
    """In a process, which waits for more as long as it lives."""

    async def endless() -> AsyncIterator[Input]:
        async for each in inputs:
            yield each
        await asyncio.Event().wait()

    async with aclosing(rehearse_in_process(opening, endless())) as outputs:
        async for output in outputs:
            yield output
