"""Figures of what the service does: plain counters in memory that whoever watches it reads now and then.

They are kept on the event loop, once a commit group or call, and begin at 0 with the process. No label is a
subscriber or anything else that a sender makes up: event types are those of the vocabulary, campaigns and
patterns those of the rulebase.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter

from opportune_service.app.records import LogKind
from opportune_service.app.revisions import LiveRevision
from opportune_service.app.works import Group
from opportune_service.core.events import Event
from opportune_service.core.verdict import Verdict

UNDECLARED = "(undeclared)"
"""Stands for all event types that the vocabulary does not have."""

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_LAGS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0)
_SIZES = (1.0, 10.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2000.0, 5000.0)

_type_of = attrgetter("type")
_occurred = attrgetter("occurred_at_us")


class Histogram:
    """How often a value lay in which range. `bounds` are the upper ends, inclusive; `counts` has one more,
    for what lies above them all."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float] = _SECONDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


@dataclass(slots=True)
class PipelineFigures:
    """What became of events and decisions, and how commits went.

    `events`: by (type, result), the result being accepted, duplicate or rejected. `rejections`: by (type,
    reason). `decisions`: by (campaign, reason, fate), each once however often it is asked for. `lag`: for
    each batch, the age of its newest event when it was durable. `commit_seconds` begin when it is queued
    for the ledger's thread. `commit_sizes` in events and the like.
    """

    events: Counter[tuple[str, str]] = field(default_factory=Counter)
    rejections: Counter[tuple[str, str]] = field(default_factory=Counter)
    decisions: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    lag: Histogram = field(default_factory=lambda: Histogram(_LAGS))
    commit_seconds: Histogram = field(default_factory=Histogram)
    commit_sizes: Histogram = field(default_factory=lambda: Histogram(_SIZES))
    failed_commits: int = 0

    def committed(
        self,
        group: Group,
        verdicts: Iterable[Verdict],
        live: LiveRevision,
        seconds: float,
        now_us: int,
    ) -> None:
        """A group is durable; `verdicts` are its new ones. Some tenths of a microsecond an event."""
        declared = live.current.rulebase.vocabulary.events if live.id else {}
        self.commit_seconds.add(seconds)
        self.commit_sizes.add(sum(work.size for work, _ in group.answers))
        self._count_events(group, declared, now_us)
        for verdict in verdicts:
            for decision in verdict.decisions:
                fate = decision.fate.value if decision.fate else ""
                self.decisions[decision.campaign, decision.reason.value, fate] += 1

    def _count_events(self, group: Group, declared: Collection[str], now_us: int) -> None:
        sent: Counter[str] = Counter()
        duplicates = 0
        for work, receipt in group.answers:
            if work.events:
                sent.update(map(_type_of, work.events))
                duplicates += receipt.duplicates
                if work.now_us is not None:
                    self.lag.add(max(0, now_us - max(map(_occurred, work.events))) / 1_000_000)
        rejected: Counter[str] = Counter()
        for each in group.rejected:
            rejected[each.event.type] += 1
            known = each.event.type if each.event.type in declared else UNDECLARED
            self.rejections[known, each.reason.value] += 1
        taken = sent - rejected
        accepted = _logged(group) if duplicates else taken
        for result, counts in (
            ("accepted", accepted),
            ("duplicate", taken - accepted),
            ("rejected", rejected),
        ):
            for type_, count in counts.items():
                self.events[type_ if type_ in declared else UNDECLARED, result] += count


def _logged(group: Group) -> Counter[str]:
    """The events that were accepted, by type. Those that the service itself derives are no rows."""
    counts: Counter[str] = Counter()
    for batch in group.batches:
        if batch.kind is LogKind.EVENTS:
            counts.update(item.type for item in batch.items if isinstance(item, Event))
    return counts
