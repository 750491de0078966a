"""Rebuild live state from the durable record: the last snapshot, then folding of the log after it.

The same way after a crash, and after a commit that failed while its batch was already folded.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from opportune_service.app.log import context_of, events_of
from opportune_service.app.ports import Ledger, LiveState, LogKind, LogRow
from opportune_service.app.revisions import stored_revision
from opportune_service.core.context import apply_context
from opportune_service.core.events import ContextRecord, Event
from opportune_service.core.observe import refold
from opportune_service.core.revision import EngineFactory, Revision
from opportune_service.core.state import SubscriberState, decode_state


class Refolder:
    """Folds log rows into states, each row under the revision that it was processed with."""

    def __init__(self, ledger: Ledger, make_engine: EngineFactory) -> None:
        self._ledger = ledger
        self._make_engine = make_engine
        self._revisions: dict[str, Revision] = {}

    def fold(self, row: LogRow, states: dict[str, SubscriberState]) -> None:
        """Fold one row into those of `states` that do not hold it yet."""
        if row.kind is LogKind.CONTEXT:
            records = context_of(row)
            # Looked up before any is applied: a row may hold several records of one subscriber.
            named = {record.subscriber_id for record in records} & states.keys()
            behind = {each: states[each] for each in named if states[each].position < row.position}
            for record in records:
                if record.subscriber_id in behind:
                    apply_context(record, behind[record.subscriber_id], row.position)
            return
        revision = self._revisions.get(row.revision)
        if revision is None:
            revision = stored_revision(self._ledger, row.revision, self._make_engine)
            self._revisions[row.revision] = revision
        refold(revision, row.source, events_of(row), states, row.position)

    def close(self) -> None:
        for revision in self._revisions.values():
            revision.close()


def recover_some(
    ledger: Ledger, make_engine: EngineFactory, subscriber_ids: Collection[str]
) -> dict[str, SubscriberState]:
    """The states of these subscribers as the record has them; reads the log since the checkpoint."""
    states = {subscriber_id: SubscriberState() for subscriber_id in subscriber_ids}
    for subscriber_id, _, blob in ledger.load_states(subscriber_ids):
        states[subscriber_id] = decode_state(blob)
    refolder = Refolder(ledger, make_engine)
    try:
        for row in ledger.read_log(ledger.checkpoint()):
            refolder.fold(row, states)
    finally:
        refolder.close()
    return states


async def recover_all(ledger: Ledger, make_engine: EngineFactory, live: LiveState) -> int:
    """At start: restore every snapshot and fold the log after the checkpoint. Returns the last position.

    Blocks the event loop: nothing is served before it is done.
    """
    live.restore((subscriber_id, blob) for subscriber_id, _, blob in ledger.load_states())
    refolder = Refolder(ledger, make_engine)
    try:
        for row in ledger.read_log(ledger.checkpoint()):
            touched = sorted({item.subscriber_id for item in _items(row)})
            states = await live.load(touched)
            refolder.fold(row, dict(states))
            await live.save(touched)
    finally:
        refolder.close()
    return ledger.last_position()


def _items(row: LogRow) -> Sequence[Event] | Sequence[ContextRecord]:
    return context_of(row) if row.kind is LogKind.CONTEXT else events_of(row)
