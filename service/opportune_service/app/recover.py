"""Rebuild live state from the durable record: the last snapshot, then folding of the log after it.

The same way after a crash, and after a commit that failed while its batch was already folded. What goes
with live state is rebuilt along with it: when whose timer is due, and how far the sources have come.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from opportune_service.app.log import Item, items_of
from opportune_service.app.ports import Ledger, LedgerTransaction, LiveState
from opportune_service.app.records import LogKind, LogRow
from opportune_service.app.revisions import stored_revision
from opportune_service.app.schedule import trigger_key
from opportune_service.app.timers import due_in
from opportune_service.core.backfill import Fill, renew, take_fill
from opportune_service.core.context import apply_context
from opportune_service.core.events import MAX_LATENESS_US, MAX_SKEW_US, ContextRecord, Due, Event
from opportune_service.core.observe import refold, refold_due
from opportune_service.core.revision import EngineFactory, Revision
from opportune_service.core.state import SubscriberState, decode_state
from opportune_service.core.watermarks import Watermarks

T = TypeVar("T")

LOG_KEY = "log"
"""Under what the ledger keeps, next to the coverage of metrics, since when the log has everything: since
its beginning, or since the service last missed something."""


@dataclass(slots=True)
class Recovered:
    """What was rebuilt next to the states. `due_us`: subscriber id -> when the first timer is due, 0 for
    none. `position` is that of the last log row."""

    watermarks: Watermarks
    due_us: dict[str, int] = field(default_factory=dict)
    position: int = 0


class Refolder:
    """Folds log rows into states, each row under the revision that it was processed with."""

    def __init__(self, ledger: Ledger, make_engine: EngineFactory) -> None:
        self._ledger = ledger
        self._make_engine = make_engine
        self._revisions: dict[str, Revision] = {}

    def fold(self, row: LogRow, items: Sequence[Item], states: dict[str, SubscriberState]) -> None:
        """Fold one row, which holds `items`, into those of `states` that do not hold it yet."""
        revision = self._revisions.get(row.revision)
        if revision is None:
            revision = stored_revision(self._ledger, row.revision, self._make_engine)
            self._revisions[row.revision] = revision
        # Looked up before anything is changed: a row may hold several items of one subscriber.
        named = {item.subscriber_id for item in items} & states.keys()
        behind = {each: states[each] for each in named if states[each].position < row.position}
        for state in behind.values():
            renew(state, revision)
        if row.kind is LogKind.EVENTS:
            refold(revision, row.source, _only(Event, items), behind, row.position)
        elif row.kind is LogKind.TIMERS:
            refold_due(revision, _only(Due, items), behind, row.position)
        for item in items:
            if item.subscriber_id not in behind:
                continue
            if isinstance(item, ContextRecord):
                apply_context(item, behind[item.subscriber_id], row.position, revision=revision)
            elif isinstance(item, Fill):
                take_fill(item, behind[item.subscriber_id], revision, row.position)

    def close(self) -> None:
        for revision in self._revisions.values():
            revision.close()


def recover_some(
    ledger: Ledger, make_engine: EngineFactory, subscriber_ids: Collection[str]
) -> tuple[dict[str, SubscriberState], Recovered]:
    """The states of these subscribers as the record has them; reads the log since the checkpoint."""
    states = {subscriber_id: SubscriberState() for subscriber_id in subscriber_ids}
    for subscriber_id, _, blob in ledger.load_states(subscriber_ids):
        states[subscriber_id] = decode_state(blob)
    recovered = Recovered(_stored_watermarks(ledger))
    refolder = Refolder(ledger, make_engine)
    try:
        for row in ledger.read_log(ledger.checkpoint()):
            items = items_of(row)
            _hear(recovered.watermarks, row, items)
            refolder.fold(row, items, states)
    finally:
        refolder.close()
    recovered.due_us = {subscriber_id: state.due_us for subscriber_id, state in states.items()}
    recovered.position = ledger.last_position()
    return states, recovered


def recovered_only(ledger: Ledger) -> Recovered:
    """What goes with live state, as it was put down last, without a look at the log."""
    return Recovered(_stored_watermarks(ledger), position=ledger.last_position())


async def recover_all(ledger: Ledger, make_engine: EngineFactory, live: LiveState) -> Recovered:
    """At start: restore every snapshot and fold the log after the checkpoint.

    Every snapshot is read as far as its timers, and stays encoded. Blocks the event loop: nothing is served
    before it is done.
    """
    recovered = Recovered(_stored_watermarks(ledger))
    live.restore(_snapshots(ledger, recovered.due_us))
    refolder = Refolder(ledger, make_engine)
    try:
        for row in ledger.read_log(ledger.checkpoint()):
            items = items_of(row)
            _hear(recovered.watermarks, row, items)
            touched = sorted({item.subscriber_id for item in items})
            states = dict(await live.load(touched))
            refolder.fold(row, items, states)
            recovered.due_us.update({each: state.due_us for each, state in states.items()})
            await live.save(touched)
    finally:
        refolder.close()
    recovered.position = ledger.last_position()
    return recovered


def note_listening(ledger: Ledger, now_us: int) -> int:
    """Put down that the service listens from now on, after recovery; for how long nobody had listened, in
    microseconds, if that is longer than events may be late, else 0.

    After so long a break events may be lost for good, so no definition counts as covered from before it,
    and neither does the log. Triggers need no events: what they missed is made up.
    """
    alive_us, sources = ledger.heartbeat()
    silent_us = now_us - alive_us if alive_us else 0
    lost = silent_us > MAX_LATENESS_US
    with ledger.transaction() as tx:
        if lost:
            uncover(ledger, tx, now_us)
        tx.save_heartbeat(now_us, sources)
    return silent_us if lost else 0


def uncover(ledger: Ledger, tx: LedgerTransaction, now_us: int) -> None:
    """Events from before now may be lost: no definition counts as covered from before, nor does the log."""
    # Clocks of collectors may be ahead: what they lost may lie somewhat after now.
    keys = [key for key in ledger.coverage() if not key.startswith(trigger_key(""))]
    tx.reset_coverage(keys, now_us + MAX_SKEW_US)


def _only(type_: type[T], items: Sequence[Item]) -> list[T]:
    return [item for item in items if isinstance(item, type_)]


def _stored_watermarks(ledger: Ledger) -> Watermarks:
    return Watermarks(0, ledger.heartbeat()[1])


def _hear(watermarks: Watermarks, row: LogRow, items: Sequence[Item]) -> None:
    """What the pipeline heard when it took the row in."""
    if row.kind is LogKind.EVENTS:
        events = _only(Event, items)
        watermarks.hear(row.source, events, row.now_us or max(event.occurred_at_us for event in events))


def _snapshots(ledger: Ledger, due_us: dict[str, int]) -> Iterator[tuple[str, bytes]]:
    """All snapshots; when the first timer of each is due is put down on the way."""
    for subscriber_id, _, blob in ledger.load_states():
        if at_us := due_in(blob):
            due_us[subscriber_id] = at_us
        yield subscriber_id, blob
