"""Run recorded events through the same pipeline on a virtual clock: each event decides at its own time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice

from opportune_service.app.ingest import Ingest
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
    while batch := list(islice(remaining, BATCH)):
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
    while ingest.next_timer_us <= until_us:
        for verdict in (await ingest.settle_timers(until_us)).verdicts:
            _count(report, verdict)
    return report


def _count(report: ReplayReport, verdict: Verdict) -> None:
    for decision in verdict.decisions:
        if decision.reason is Reason.DECIDED:
            report.decided[decision.campaign] += 1
        else:
            report.lost[(decision.campaign, decision.reason)] += 1
