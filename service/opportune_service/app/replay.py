"""Run recorded events through the same pipeline on a virtual clock: each event decides at its own time.

What was deferred is decided again at its time, between batches. A batch therefore ends where something is
due; and if the rulebase defers, no batch is longer than `settle`, or goes on into another minute. Before
that nothing falls due that is deferred in it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from opportune_service.app.defer import decide_deferred, look_ahead
from opportune_service.app.ingest import Ingest
from opportune_service.core.calendars import DAY_US
from opportune_service.core.deferral import MINUTE_US
from opportune_service.core.events import Event
from opportune_service.core.verdict import Reason, Verdict

BATCH = 1_000


@dataclass(slots=True)
class ReplayReport:
    """What a replay came to. Counters are by name."""

    events: int = 0
    duplicates: int = 0
    subscribers: set[str] = field(default_factory=set)
    first_us: int = 0
    last_us: int = 0
    by_type: Counter[str] = field(default_factory=Counter)
    rejections: Counter[str] = field(default_factory=Counter)
    decided: Counter[str] = field(default_factory=Counter)
    lost: Counter[tuple[str, Reason]] = field(default_factory=Counter)

    def reasons(self) -> Counter[str]:
        """Candidates by reason, the decided ones included."""
        reasons: Counter[str] = Counter()
        for (_, reason), count in self.lost.items():
            reasons[reason.value] += count
        if self.decided:
            reasons[Reason.DECIDED.value] = self.decided.total()
        return reasons


async def replay(
    ingest: Ingest,
    source: str,
    events: Iterable[Event],
    progress: Callable[[int], None] = lambda _: None,
    *,
    until_us: int = 0,
) -> ReplayReport:
    """Publish `events`, which must be in order of time, and count what comes of them.

    `now` of each event is its own time, so nothing is stale and nothing too late. Timers are settled at the
    time when they are due, among the events; after the last event time runs on to `until_us`. `progress` is
    called with the number of events done.
    """
    report = ReplayReport()
    remaining = iter(events)
    first = next(remaining, None)
    while first is not None:
        for verdict in await run_on(ingest, first.occurred_at_us - 1):
            _count(report, verdict)
        batch, first = _batch(first, remaining, _end_us(ingest, first.occurred_at_us))
        receipt = await ingest.publish(source, batch, at_event_time=True)
        report.events += receipt.accepted
        report.duplicates += receipt.duplicates
        rejected = {rejection.index for rejection in receipt.rejections}
        for rejection in receipt.rejections:
            report.rejections[rejection.reason.value] += 1
        for index, event in enumerate(batch):
            if index in rejected:
                continue
            report.by_type[event.type] += 1
            report.subscribers.add(event.subscriber_id)
            report.first_us = min(report.first_us or event.occurred_at_us, event.occurred_at_us)
            report.last_us = max(report.last_us, event.occurred_at_us)
        for verdict in receipt.verdicts:
            _count(report, verdict)
        progress(report.events + report.duplicates + report.rejections.total())
        await asyncio.sleep(0)
    for verdict in await run_on(ingest, until_us):
        _count(report, verdict)
    return report


async def run_on(ingest: Ingest, until_us: int) -> list[Verdict]:
    """Let time run on without events: timers, and what was deferred, each at the time when it is due."""
    verdicts: list[Verdict] = []
    while True:
        await look_ahead(ingest, until_us, DAY_US)
        first_us = min(ingest.next_timer_us, ingest.deferrals.next_us())
        if first_us > until_us:
            return verdicts
        end_us = min(until_us, _end_us(ingest, first_us))
        verdicts += await decide_deferred(ingest, end_us)
        if ingest.next_timer_us <= end_us:
            verdicts += (await ingest.settle_timers(end_us)).verdicts


def _end_us(ingest: Ingest, begin_us: int) -> int:
    """The last instant of what is taken in at once from `begin_us` on."""
    end_us = min(ingest.deferrals.next_us(), ingest.deferrals.until_us)
    if ingest.revision.defers:
        end_us = min(end_us, begin_us // MINUTE_US * MINUTE_US + MINUTE_US - 1)
        settle_us = ingest.revision.rulebase.policies.settle_us
        if settle_us:
            end_us = min(end_us, begin_us + settle_us - 1)
    return end_us


def _batch(first: Event, remaining: Iterator[Event], end_us: int) -> tuple[list[Event], Event | None]:
    """A batch that begins with `first`, and the first event that is not in it."""
    batch = [first]
    for event in remaining:
        if len(batch) == BATCH or event.occurred_at_us > end_us:
            return batch, event
        batch.append(event)
    return batch, None


def _count(report: ReplayReport, verdict: Verdict) -> None:
    for decision in verdict.decisions:
        if decision.reason is Reason.DECIDED:
            report.decided[decision.campaign] += 1
        else:
            report.lost[(decision.campaign, decision.reason)] += 1
