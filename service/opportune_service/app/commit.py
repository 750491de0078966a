"""Commit a group of observed batches: one transaction, in the ledger's thread.

Order within the transaction: log rows; then moments and responses, in the order in which they were
observed, for a response answers what was decided before it, and may bear on the next moment; then touches
and counts. A campaign that an alarm pauses is paused for the next moment. All of it becomes durable
together or not at all.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence, Set

from opportune_service.app.alarms import hours_watched, tell, too_many
from opportune_service.app.faults import FaultyEventError
from opportune_service.app.log import log_row
from opportune_service.app.ports import Ledger, LedgerTransaction
from opportune_service.app.quarantine import MOST
from opportune_service.app.records import LogKind, Pause
from opportune_service.app.works import HOUR_US, Batch, Group, Shadowed
from opportune_service.core.decide import decide, usage_keys
from opportune_service.core.events import Event
from opportune_service.core.revision import Revision
from opportune_service.core.verdict import (
    EventKey,
    History,
    Moment,
    Response,
    Usage,
    UsageKey,
    Verdict,
)

log = logging.getLogger(__name__)


def alone(_: LedgerTransaction) -> None:
    """The guard of a process that shares its ledger with nobody."""


def commit_group(
    ledger: Ledger, group: Group, guard: Callable[[LedgerTransaction], None] = alone
) -> Sequence[Verdict]:
    """Make a group durable, its decisions included; the verdicts that are new.

    `guard`: what may forbid it at the last moment (`Membership.guard`); what it raises, this raises, and
    nothing is durable. Nor is it after `FaultyEventError`, and after `StoreUnavailableError` unless the
    connection was lost while the store committed."""
    batches = group.batches
    if not batches and not group.rejected:
        return ()
    rows = [
        log_row(batch.position, batch.kind, batch.source, batch.now_us, batch.revision.stamp, batch.items)
        for batch in batches
        if batch.kind is not None
    ]
    counts = _counts(group)
    with ledger.transaction() as tx:
        guard(tx)
        tx.append_log(rows)
        verdicts, pauses = _take_steps(tx, batches)
        if group.touches:
            tx.record_touches(group.touches)
        if counts:
            tx.count_events(counts)
        if group.rejected:
            tx.quarantine(group.rejected, MOST)
    tell(pauses)
    return verdicts


def decide_apart(ledger: Ledger, moments: Sequence[Shadowed]) -> Sequence[Verdict]:
    """Decide moments of a shadow, in a ledger of its own; the verdicts that are new. Raises
    `StoreUnavailableError`: then nothing of it is durable."""
    with ledger.transaction() as tx:
        deciding = _Deciding(tx, moments, frozenset())
        for revision, moment in moments:
            deciding.verdict(revision, moment)
        deciding.record()
        for pause in deciding.pauses:
            tx.pause(pause)
    return list(deciding.fresh.values())


def names_of(counters: Collection[UsageKey]) -> set[str]:
    """Under which names these counters are held (`LedgerTransaction.lock`), of whatever period."""
    return {f"{key.kind.value}/{key.name}" for key in counters}


def _counts(group: Group) -> Mapping[tuple[str, int], int]:
    """Events by type and hour."""
    counts = Counter(group.derived)
    for batch in group.batches:
        if batch.kind is LogKind.EVENTS:
            events = [each for each in batch.items if type(each) is Event]
            times_us = [event.occurred_at_us for event in events]
            hour = min(times_us) // HOUR_US
            if max(times_us) // HOUR_US == hour:  # nearly always so, and pairs take much longer to count
                for name, count in Counter([event.type for event in events]).items():
                    counts[name, hour] += count
            else:
                counts.update([(event.type, event.occurred_at_us // HOUR_US) for event in events])
    return counts


def _take_steps(tx: LedgerTransaction, batches: Sequence[Batch]) -> tuple[list[Verdict], list[Pause]]:
    if not any(batch.steps for batch in batches):
        return [], []
    decided = [
        (batch.revision.of(step.key.subscriber_id), step)
        for batch in batches
        for step in batch.steps
        if isinstance(step, Moment)
    ]
    responses = (step for batch in batches for step in batch.steps if isinstance(step, Response))
    deciding = _Deciding(tx, decided, {step.subscriber_id for step in responses})
    for batch in batches:
        for step in batch.steps:
            if isinstance(step, Moment):
                batch.verdicts.append(deciding.verdict(batch.revision.of(step.key.subscriber_id), step))
            else:
                deciding.hear(step)
    deciding.record()
    for pause in deciding.pauses:
        tx.pause(pause)
    return list(deciding.fresh.values()), deciding.pauses


class _Deciding:
    """The steps of one group, one after the other, on what the ledger knows. `decided`: all moments with
    the revision that decides each; `heard`: who answers something."""

    def __init__(
        self, tx: LedgerTransaction, decided: Sequence[tuple[Revision, Moment]], heard: Set[str]
    ) -> None:
        self._tx = tx
        self.fresh: dict[EventKey, Verdict] = {}
        self.pauses: list[Pause] = []
        self._unrecorded: list[Verdict] = []
        self._heard: dict[str, list[Response]] = {}
        self._histories: dict[str, History] = {}
        self._stored: Mapping[EventKey, Verdict] = {}
        self._usage: Usage = {}
        self._paused: frozenset[str] = frozenset()
        if not decided:
            return
        moments = [moment for _, moment in decided]
        subscribers = {moment.key.subscriber_id for moment in moments}
        counters: set[UsageKey] = set()
        for revision, moment in decided:
            counters |= usage_keys(revision.rulebase, moment) | hours_watched(revision.rulebase, moment)
        tx.lock(subscribers | heard, names_of(counters))
        self._stored = tx.verdicts([moment.key for moment in moments])
        lookback_us = max(revision.lookback_us for revision, _ in decided)
        earliest_us = min(moment.now_us for moment in moments)
        self._histories = tx.histories(subscribers, earliest_us - lookback_us, earliest_us)
        self._usage = tx.usage(counters)
        self._paused = tx.paused()

    def verdict(self, revision: Revision, moment: Moment) -> Verdict:
        """Decide a moment. One that has a verdict already (its event was sent again after a crash) keeps
        it."""
        subscriber_id = moment.key.subscriber_id
        if subscriber_id in self._heard:
            self.record()
        known = self._stored.get(moment.key) or self.fresh.get(moment.key)
        if known is not None:
            return known
        history = self._histories[subscriber_id]
        try:
            verdict = decide(revision.rulebase, moment, history, self._usage, self._paused)
        except Exception as error:
            raise FaultyEventError(moment.key) from error
        self.fresh[moment.key] = verdict
        self._unrecorded.append(verdict)
        for pause in too_many(revision.rulebase, verdict, self._usage):
            if pause.campaign not in self._paused:
                self._paused |= {pause.campaign}
                self.pauses.append(pause)
        return verdict

    def hear(self, response: Response) -> None:
        """A response answers what was decided before it."""
        self._heard.setdefault(response.subscriber_id, []).append(response)

    def record(self) -> None:
        """Put down what was decided and answered so far. Of one subscriber, all that was decided came
        before what was answered."""
        if self._unrecorded:
            self._tx.record_verdicts(self._unrecorded)
            self._unrecorded = []
        if self._heard:
            for subscriber_id in sorted(self._heard.keys() & self._histories.keys()):
                outcomes = self._tx.respond(self._heard.pop(subscriber_id))
                self._histories[subscriber_id].outcomes += outcomes
            others = [response for responses in self._heard.values() for response in responses]
            if others:
                self._tx.respond(others)
            self._heard = {}
