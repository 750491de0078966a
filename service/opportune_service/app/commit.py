"""Commit a group of observed batches: one transaction, in the ledger's thread.

Order within the transaction: log rows, then verdicts with their reservations and deliveries. All of it
becomes durable together or not at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from opportune_service.app.log import Item, log_row
from opportune_service.app.ports import Ledger, LedgerTransaction
from opportune_service.app.quarantine import MOST
from opportune_service.app.records import LogKind, Quarantined
from opportune_service.core.decide import decide
from opportune_service.core.revision import Revision
from opportune_service.core.verdict import EventKey, Moment, Verdict


@dataclass(slots=True)
class Batch:
    """What was observed under one log position: all there is to make durable of it.

    `items` are those accepted, without duplicates; never empty. `now_us` 0: the own time of each.
    `verdicts` is filled by the commit: one for each moment, decided now or before.
    """

    position: int
    kind: LogKind
    source: str
    now_us: int
    revision: Revision
    verdicts: list[Verdict]
    items: list[Item] = field(default_factory=list)
    moments: list[Moment] = field(default_factory=list)


def commit_group(ledger: Ledger, batches: Sequence[Batch], rejected: Sequence[Quarantined] = ()) -> None:
    """Make a group durable, its decisions included. Raises `StoreUnavailableError`: then nothing is."""
    if not batches and not rejected:
        return
    rows = [
        log_row(batch.position, batch.kind, batch.source, batch.now_us, batch.revision.id, batch.items)
        for batch in batches
    ]
    with ledger.transaction() as tx:
        tx.append_log(rows)
        _decide(tx, batches)
        if rejected:
            tx.quarantine(rejected, MOST)


def _decide(tx: LedgerTransaction, batches: Sequence[Batch]) -> None:
    """Decide all moments in order. One that has a verdict already (its event was sent again after a
    crash) keeps it."""
    moments = [moment for batch in batches for moment in batch.moments]
    if not moments:
        return
    stored = tx.verdicts([moment.key for moment in moments])
    lookback_us = max(batch.revision.lookback_us for batch in batches)
    earliest_us = min(moment.now_us for moment in moments)
    subscribers = {moment.key.subscriber_id for moment in moments}
    histories = tx.histories(subscribers, earliest_us - lookback_us, earliest_us)
    fresh: dict[EventKey, Verdict] = {}
    for batch in batches:
        for moment in batch.moments:
            verdict = stored.get(moment.key) or fresh.get(moment.key)
            if verdict is None:
                history = histories[moment.key.subscriber_id]
                verdict = fresh[moment.key] = decide(batch.revision.rulebase, moment, history)
            batch.verdicts.append(verdict)
    tx.record_verdicts(list(fresh.values()))
