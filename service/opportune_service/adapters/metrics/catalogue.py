"""Every metric by its name, with what it means and where its value comes from.

Names of calls are those of gRPC's own monitoring libraries, so that common dashboards work. A figure of
the ledger (deliveries, leases) is the same whichever process of several is asked: take the greatest, not
the sum.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate

from prometheus_client import Metric

from opportune_service.adapters.metrics.watched import Seen
from opportune_service.app.figures import Histogram

Labels = tuple[str, ...]
Value = float | Histogram


class Kind(StrEnum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Figure:
    """One metric: `read` gives its values by the values of `labels`; none as long as it has none."""

    name: str
    kind: Kind
    help: str
    labels: Labels
    read: Callable[[Seen], Iterable[tuple[Labels, Value]]]

    @property
    def series(self) -> tuple[str, ...]:
        """The names under which its values are stored."""
        if self.kind is Kind.HISTOGRAM:
            return (f"{self.name}_bucket", f"{self.name}_count", f"{self.name}_sum")
        return (self.name,)

    def family(self, seen: Seen) -> Metric:
        """Its values now, as the client library writes them."""
        metric = Metric(self.name.removesuffix("_total"), self.help, self.kind.value)
        for values, value in self.read(seen):
            labels = dict(zip(self.labels, values, strict=True))
            if isinstance(value, Histogram):
                for end, count in zip((*value.bounds, math.inf), accumulate(value.counts), strict=True):
                    le = "+Inf" if end == math.inf else str(end)
                    metric.add_sample(f"{self.name}_bucket", {**labels, "le": le}, count)
                metric.add_sample(f"{self.name}_count", labels, sum(value.counts))
                metric.add_sample(f"{self.name}_sum", labels, value.sum)
            else:
                metric.add_sample(self.name, labels, value)
        return metric


def _one(value: float) -> list[tuple[Labels, float]]:
    return [((), value)]


def _seconds_since(at_us: int, now_us: int) -> float:
    return max(0, now_us - at_us) / 1_000_000


def _call_labels(method: str) -> Labels:
    service, _, name = method.partition("/")
    return service, name


def _begun(seen: Seen) -> Iterator[tuple[Labels, float]]:
    for method, figures in seen.calls.figures.items():
        yield _call_labels(method), figures.begun


def _ended(seen: Seen) -> Iterator[tuple[Labels, float]]:
    for method, figures in seen.calls.figures.items():
        for code, count in figures.ended.items():
            yield (*_call_labels(method), code), count


def _call_seconds(seen: Seen) -> Iterator[tuple[Labels, Histogram]]:
    for method, figures in seen.calls.figures.items():
        if figures.begun:
            yield _call_labels(method), figures.seconds


def _timers_overdue(seen: Seen) -> float:
    return _seconds_since(seen.ingest.next_timer_us, seen.now_us)


def _rulebase(seen: Seen) -> list[tuple[Labels, float]]:
    if not seen.live.id:
        return []
    return [((seen.live.id, seen.live.current.rulebase.name), 1)]


def _unknowns(seen: Seen) -> Iterator[tuple[Labels, float]]:
    counts: Counter[str] = Counter()
    for each in seen.live.current.side_by_side if seen.live.id else ():
        counts.update(each.engine.unknowns())
    for name, count in counts.items():
        yield (name,), count


def _subscribers(seen: Seen) -> list[tuple[Labels, float]]:
    if seen.held is None:
        return []
    return [(("ready",), seen.held[0]), (("at_rest",), seen.held[1])]


def _shadowed(seen: Seen) -> list[tuple[Labels, float]]:
    decided, lost = seen.shadow.decided, seen.shadow.lost
    return [(("decided",), decided), (("lost",), lost)] if decided or lost else []


FIGURES: Sequence[Figure] = (
    Figure(
        "opportune_build_info",
        Kind.GAUGE,
        "Always 1: which version this is.",
        ("version",),
        lambda seen: [((seen.version,), 1)],
    ),
    Figure(
        "opportune_rulebase_info",
        Kind.GAUGE,
        "1 for the active revision of the rulebase; no value if none is active.",
        ("revision", "rulebase"),
        _rulebase,
    ),
    Figure(
        "opportune_store_up",
        Kind.GAUGE,
        "1 if what comes in can be made durable, 0 while the service recovers from a failed commit.",
        (),
        lambda seen: _one(seen.ingest.healthy.is_set()),
    ),
    Figure(
        "opportune_ready",
        Kind.GAUGE,
        "1 if the service wants calls: /readyz as a figure.",
        (),
        lambda seen: _one(not seen.not_ready),
    ),
    Figure(
        "opportune_leads",
        Kind.GAUGE,
        "1 if this process does what is to be done once: of those that share a ledger, one does.",
        (),
        lambda seen: _one(seen.leads),
    ),
    Figure(
        "opportune_callers_refused",
        Kind.GAUGE,
        "1 if the newest file of callers has faults, so that an older one is in force. No value without "
        "one.",
        (),
        lambda seen: [] if seen.access is None else _one(bool(seen.access.refused)),
    ),
    Figure(
        "opportune_shadow_moments_total",
        Kind.COUNTER,
        "What a shadow had to decide: decided, or lost because its ledger failed or did not keep up. No "
        "value without one.",
        ("result",),
        _shadowed,
    ),
    Figure(
        "grpc_server_started_total",
        Kind.COUNTER,
        "Calls that were begun. Less those handled: calls and streams that are open.",
        ("grpc_service", "grpc_method"),
        _begun,
    ),
    Figure(
        "grpc_server_handled_total",
        Kind.COUNTER,
        "Calls that have ended, by status code.",
        ("grpc_service", "grpc_method", "grpc_code"),
        _ended,
    ),
    Figure(
        "grpc_server_handling_seconds",
        Kind.HISTOGRAM,
        "How long calls took; a stream lasts as long as it is open.",
        ("grpc_service", "grpc_method"),
        _call_seconds,
    ),
    Figure(
        "opportune_events_total",
        Kind.COUNTER,
        "Events that became durable or were rejected: accepted, duplicate or rejected. A type that the "
        "vocabulary does not have counts as (undeclared).",
        ("type", "result"),
        lambda seen: seen.figures.events.items(),
    ),
    Figure(
        "opportune_events_rejected_total",
        Kind.COUNTER,
        "Rejected events, by reason. The quarantine has the newest of them.",
        ("type", "reason"),
        lambda seen: seen.figures.rejections.items(),
    ),
    Figure(
        "opportune_event_lag_seconds",
        Kind.HISTOGRAM,
        "For each batch, the age of its newest event when the batch was durable and decided.",
        (),
        lambda seen: [((), seen.figures.lag)],
    ),
    Figure(
        "opportune_ingest_queued_events",
        Kind.GAUGE,
        "Events and the like that wait to be taken in. From 50,000 on callers are held back.",
        (),
        lambda seen: _one(seen.ingest.queued),
    ),
    Figure(
        "opportune_commit_seconds",
        Kind.HISTOGRAM,
        "From a commit group's submission until it is durable, decisions included.",
        (),
        lambda seen: [((), seen.figures.commit_seconds)],
    ),
    Figure(
        "opportune_commit_size",
        Kind.HISTOGRAM,
        "Events and the like in a commit group.",
        (),
        lambda seen: [((), seen.figures.commit_sizes)],
    ),
    Figure(
        "opportune_commits_failed_total",
        Kind.COUNTER,
        "Commit groups that were not made durable; their senders were told so.",
        (),
        lambda seen: _one(seen.figures.failed_commits),
    ),
    Figure(
        "opportune_decisions_total",
        Kind.COUNTER,
        "Decisions on candidates: the funnel. The fate is empty where none was needed.",
        ("campaign", "reason", "fate"),
        lambda seen: seen.figures.decisions.items(),
    ),
    Figure(
        "opportune_unknown_evaluations_total",
        Kind.COUNTER,
        "How often a variable or definition came out unknown where a campaign asked for it, since the "
        "revision became active.",
        ("definition",),
        _unknowns,
    ),
    Figure(
        "opportune_timers_fired_total",
        Kind.COUNTER,
        "Timers of patterns that fired.",
        (),
        lambda seen: _one(seen.ingest.timers.fired),
    ),
    Figure(
        "opportune_timers_dropped_total",
        Kind.COUNTER,
        "Timers that were dropped because events may be missing, by pattern.",
        ("pattern",),
        lambda seen: (((name,), count) for name, count in seen.ingest.timers.dropped.items()),
    ),
    Figure(
        "opportune_timers_overdue_seconds",
        Kind.GAUGE,
        "How late the earliest timer is to be looked at; it may wait for a source on purpose.",
        (),
        lambda seen: _one(_timers_overdue(seen)),
    ),
    Figure(
        "opportune_deliveries_waiting",
        Kind.GAUGE,
        "Messages that wait for a channel client, by channel. Those after a failed attempt wait later.",
        ("channel",),
        lambda seen: (((each.channel,), each.waiting) for each in seen.backlogs),
    ),
    Figure(
        "opportune_deliveries_oldest_waiting_seconds",
        Kind.GAUGE,
        "How long the first of them has been waiting.",
        ("channel",),
        lambda seen: (
            ((each.channel,), _seconds_since(each.since_us, seen.now_us))
            for each in seen.backlogs
            if each.waiting
        ),
    ),
    Figure(
        "opportune_deliveries_leased",
        Kind.GAUGE,
        "Messages that channel clients hold leases of, by channel.",
        ("channel",),
        lambda seen: (((each.channel,), each.leased) for each in seen.backlogs),
    ),
    Figure(
        "opportune_lease_oldest_seconds",
        Kind.GAUGE,
        "Age of the oldest lease that has not run out, by channel; at `lease_seconds` another gets it.",
        ("channel",),
        lambda seen: (
            ((each.channel,), _seconds_since(each.leased_until_us - seen.lease_us, seen.now_us))
            for each in seen.backlogs
            if each.leased
        ),
    ),
    Figure(
        "opportune_subscribers",
        Kind.GAUGE,
        "Subscribers whose live state this process holds: ready to use, or at rest. None with Redis.",
        ("state",),
        _subscribers,
    ),
    Figure(
        "opportune_checkpoint_age_seconds",
        Kind.GAUGE,
        "Since when this process has completed no round of snapshots: a restart replays that of its log.",
        (),
        lambda seen: _one(_seconds_since(seen.ingest.snapshotted_us, seen.now_us)),
    ),
)


def families(seen: Seen) -> list[Metric]:
    """All of them, as they are now."""
    return [figure.family(seen) for figure in FIGURES]
