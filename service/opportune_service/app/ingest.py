"""Take in batches: admit, observe, decide, commit, acknowledge. The heart of the service.

One coroutine works through what callers queued. Batches that wait together form a **commit group**:

    1. admit and observe every batch, in order (core; on the event loop, no await per event)
    2. in the ledger's thread, one transaction: decide moments against the ledger's history, append the
       log rows, record the verdicts with their reservations and deliveries
    3. mark the live state as saved
    4. answer the callers

While a group commits, the next one is observed. Nothing is acknowledged before its transaction has
ended. When a transaction fails, its group and the group observed after it are answered with
`StoreUnavailableError`, and the states they touched are rebuilt from the durable record: a failure is
recovered from in the same way as a crash.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from opportune_service.app.errors import OpportuneError, StoreUnavailableError
from opportune_service.app.ledger_thread import LedgerThread
from opportune_service.app.log import log_row
from opportune_service.app.ports import Clock, Ledger, LedgerTransaction, LiveState, LogKind
from opportune_service.app.recover import recover_some
from opportune_service.app.revisions import LiveRevision
from opportune_service.core.admit import Attributes
from opportune_service.core.decide import decide
from opportune_service.core.events import ContextRecord, Event, Rejection
from opportune_service.core.observe import apply_context, observe
from opportune_service.core.revision import EngineFactory, Revision
from opportune_service.core.state import SubscriberState
from opportune_service.core.verdict import EventKey, Moment, Verdict

log = logging.getLogger(__name__)

GROUP_EVENTS = 2_000
"""A commit group takes waiting batches up to about this many events: a disk write is then a small part
of the cost, and nobody waits long for the rest of the group."""

MAX_QUEUED_EVENTS = 50_000
"""More than this waiting means that callers are faster than the service; further batches wait outside."""

CHECKPOINT_EVERY_US = 30_000_000
SNAPSHOT_CHUNK = 500


@dataclass(slots=True)
class Receipt:
    """What became of one batch. Given out only after everything in it is durable.

    `outdated`: context records, among those accepted, that were older than everything they named.
    """

    accepted: int
    duplicates: int
    rejections: list[Rejection]
    verdicts: list[Verdict]
    revision: str
    ignored_attributes: int = 0
    outdated: int = 0


@dataclass(slots=True)
class _Work:
    """One queued batch. `now_us` None: each event's own time (replay)."""

    done: asyncio.Future[Receipt]
    source: str = ""
    events: Sequence[Event] = ()
    records: Sequence[ContextRecord] = ()
    now_us: int | None = None
    touch_point: str = ""
    prompts: Mapping[str, str] = field(default_factory=dict)
    retire: Revision | None = None


@dataclass(slots=True)
class _Batch:
    """A batch that has been observed: what there is to commit and to answer."""

    work: _Work
    revision: Revision
    position: int
    now_us: int
    events: list[Event]
    moments: list[Moment]
    receipt: Receipt


@dataclass(slots=True)
class _Group:
    batches: list[_Batch]
    touched: set[str]


class Ingest:
    """The pipeline. Start it with `run` as a task; end it with `close`."""

    def __init__(
        self,
        live: LiveRevision,
        states: LiveState,
        ledger: Ledger,
        thread: LedgerThread,
        clock: Clock,
        make_engine: EngineFactory,
        position: int,
        on_verdicts: Callable[[Sequence[Verdict]], None],
    ) -> None:
        self._live = live
        self._states = states
        self._ledger = ledger
        self._thread = thread
        self._clock = clock
        self._make_engine = make_engine
        self._position = position
        self._on_verdicts = on_verdicts
        self._queue: deque[_Work] = deque()
        self._queued_events = 0
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._closing = False
        self._committing: asyncio.Task[None] | None = None
        # Subscribers whose live state is ahead of the record because a commit failed.
        self._astray: set[str] = set()
        self._ledger_failed = False
        self._checkpoint_due = False
        self._checkpoint_left: list[str] = []
        self._checkpoint_position = position
        self._snapshotting: asyncio.Task[None] | None = None
        self.healthy = asyncio.Event()
        self.healthy.set()

    # -- what callers use -------------------------------------------------------------------------

    async def publish(
        self,
        source: str,
        events: Sequence[Event],
        *,
        at_event_time: bool = False,
        touch_point: str = "",
        prompts: Mapping[str, str] | None = None,
    ) -> Receipt:
        """Take in a batch of events and wait until it is durable.

        Bad events are rejected one by one in the receipt. Raises `NoRulebaseError`, and
        `StoreUnavailableError` when the batch could not be made durable: then nothing of it counts and
        it may be sent again.
        """
        now_us = None if at_event_time else self._clock.now_us()
        return await self._submit(
            _Work(
                done=asyncio.get_running_loop().create_future(),
                source=source,
                events=events,
                now_us=now_us,
                touch_point=touch_point,
                prompts=prompts or {},
            )
        )

    async def offer(self, source: str, events: Sequence[Event]) -> asyncio.Future[Receipt]:
        """Queue a batch as soon as there is room; the future is its receipt, with the errors of `publish`.

        Batches that one caller offers one after the other are taken in in that order.
        """
        work = _Work(
            done=asyncio.get_running_loop().create_future(),
            source=source,
            events=events,
            now_us=self._clock.now_us(),
        )
        await self._enqueue(work)
        return work.done

    async def import_context(self, source: str, records: Sequence[ContextRecord]) -> Receipt:
        """Take in static data of subscribers, checked already, and wait until it is durable."""
        return await self._submit(
            _Work(
                done=asyncio.get_running_loop().create_future(),
                source=source,
                records=records,
                now_us=self._clock.now_us(),
            )
        )

    async def retire(self, revision: Revision) -> None:
        """Close a revision that was swapped out, after the last batch that uses it."""
        await self._submit(_Work(done=asyncio.get_running_loop().create_future(), retire=revision))

    async def _submit(self, work: _Work) -> Receipt:
        await self._enqueue(work)
        return await work.done

    async def _enqueue(self, work: _Work) -> None:
        while self._queued_events >= MAX_QUEUED_EVENTS and not self._closing:
            self._room.clear()
            await self._room.wait()
        if self._closing:
            raise StoreUnavailableError("the service is shutting down; send it again to another one")
        self._queue.append(work)
        self._queued_events += len(work.events) + len(work.records)
        self._wake.set()

    # -- the loop ---------------------------------------------------------------------------------

    async def run(self) -> None:
        """Work until `close`. A failed commit is recovered from here, whether or not anybody calls."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._astray:
                await self._recover()
                continue
            works = self._take()
            if works:
                await self._process(works)
            elif self._closing:
                break
            if self._checkpoint_due:
                await self._checkpoint_step()
            if self._closing:
                self._wake.set()
        await self._finish()

    async def _finish(self) -> None:
        """The last commit and a snapshot of everything, so that the next start has nothing to replay."""
        if self._committing is not None:
            await self._committing
        self._checkpoint_due = not self._astray
        while self._checkpoint_due:
            await self._checkpoint_step()
        if self._snapshotting is not None:
            await self._snapshotting

    async def close(self) -> None:
        """Take no more, finish what is queued, snapshot everything; `run` then returns."""
        self._closing = True
        self._wake.set()

    def _take(self) -> list[_Work]:
        works: list[_Work] = []
        size = 0
        while self._queue and size < GROUP_EVENTS:
            work = self._queue.popleft()
            works.append(work)
            size += len(work.events) + len(work.records)
        self._queued_events -= size
        if self._queue:
            self._wake.set()
        self._room.set()
        return works

    async def _process(self, works: list[_Work]) -> None:
        group = _Group([], set())
        for work in works:
            try:
                await self._observe(work, group)
            except OpportuneError as error:
                if not work.done.done():  # the caller may have gone
                    work.done.set_exception(error)
            except Exception as error:
                # A fault of ours in one batch: its states may be half changed, so they are rebuilt.
                log.exception("observing a batch failed")
                self._fail([*(b.work for b in group.batches), work], error, group.touched)
                return
        if self._committing is not None:
            await self._committing
        if self._astray:
            self._fail([b.work for b in group.batches], None, group.touched)
            return
        commit = self._thread.submit(self._commit, group)
        self._committing = asyncio.create_task(self._settle(group, commit))

    async def _observe(self, work: _Work, group: _Group) -> None:
        if work.retire is not None:
            self._retire(work, work.retire)
            return
        revision = self._live.current
        now_us = work.now_us
        admitted: list[tuple[Event, Attributes]] = []
        rejections: list[Rejection] = []
        admit = revision.admission.admit
        ignored_before = revision.admission.ignored.total
        for index, event in enumerate(work.events):
            outcome = admit(event, index, event.occurred_at_us if now_us is None else now_us)
            if isinstance(outcome, Rejection):
                rejections.append(outcome)
            else:
                admitted.append((event, outcome))
        touched = {event.subscriber_id for event, _ in admitted} | {r.subscriber_id for r in work.records}
        group.touched |= touched
        states = await self._states.load(touched)
        position = self._position + 1
        observed = observe(
            revision,
            work.source,
            admitted,
            states,
            position,
            now_us,
            touch_point=work.touch_point,
            prompts=work.prompts,
        )
        outdated = 0
        for record in work.records:
            outdated += not apply_context(record, states[record.subscriber_id], position)
        if observed.events or work.records:
            self._position = position
        group.batches.append(
            _Batch(
                work=work,
                revision=revision,
                position=position,
                now_us=now_us or 0,
                events=observed.events,
                moments=observed.moments,
                receipt=Receipt(
                    accepted=len(observed.events) + len(work.records),
                    duplicates=observed.duplicates,
                    rejections=rejections,
                    verdicts=[],
                    revision=revision.id,
                    ignored_attributes=revision.admission.ignored.total - ignored_before,
                    outdated=outdated,
                ),
            )
        )

    def _retire(self, work: _Work, revision: Revision) -> None:
        revision.close()
        if not work.done.done():
            work.done.set_result(Receipt(0, 0, [], [], revision.id))

    # -- in the ledger's thread -------------------------------------------------------------------

    def _commit(self, group: _Group) -> None:
        """One transaction for the group. Order: log rows, then decisions with reservations."""
        if self._ledger_failed:
            raise StoreUnavailableError("an earlier commit failed; the service is recovering")
        batches = [b for b in group.batches if b.events or b.work.records]
        if not batches:
            return
        try:
            rows = []
            for b in batches:
                kind = LogKind.EVENTS if b.events else LogKind.CONTEXT
                items: Sequence[Event] | Sequence[ContextRecord] = b.events or b.work.records
                rows.append(log_row(b.position, kind, b.work.source, b.now_us, b.revision.id, items))
            with self._ledger.transaction() as tx:
                tx.append_log(rows)
                decide_group(tx, [(b.revision, b.moments, b.receipt.verdicts) for b in batches])
        except BaseException:
            self._ledger_failed = True
            raise

    # -- after a commit ---------------------------------------------------------------------------

    async def _settle(self, group: _Group, commit: asyncio.Future[None]) -> None:
        works = [b.work for b in group.batches]
        try:
            await commit
        except Exception as error:
            if not isinstance(error, StoreUnavailableError):
                log.exception("a commit failed")
            self._fail(works, error, group.touched)
            return
        await self._states.save(group.touched)
        for batch in group.batches:
            if not batch.work.done.done():
                batch.work.done.set_result(batch.receipt)
        verdicts = [verdict for batch in group.batches for verdict in batch.receipt.verdicts]
        if verdicts:
            self._on_verdicts(verdicts)

    def _fail(self, works: Sequence[_Work], error: BaseException | None, touched: Collection[str]) -> None:
        self._astray |= set(touched) or {""}
        self.healthy.clear()
        self._wake.set()
        for work in works:
            if not work.done.done():
                unavailable = StoreUnavailableError("the batch could not be made durable; send it again")
                unavailable.__cause__ = error
                work.done.set_exception(unavailable)

    async def _recover(self) -> None:
        """Rebuild what a failed commit left astray; until that works, refuse what comes."""
        if self._committing is not None:
            await self._committing
        while self._queue:
            for work in self._take():
                if work.retire is not None:
                    self._retire(work, work.retire)
                elif not work.done.done():
                    work.done.set_exception(StoreUnavailableError("the store is unavailable; try again"))
        astray = set(self._astray)
        try:
            states, position = await self._thread.run(self._read_back, astray - {""})
        except Exception:
            if self._closing:
                raise  # nothing is lost: the log has all that was acknowledged
            log.warning("the store is still unavailable; trying again in half a second", exc_info=True)
            asyncio.get_running_loop().call_later(0.5, self._wake.set)
            return
        await self._states.discard(states, astray - {""})
        await self._states.save(astray - {""})
        self._position = position
        self._astray -= astray
        self._checkpoint_left.clear()
        if not self._astray:
            self.healthy.set()
            log.info("recovered %d subscribers after a failed commit", len(astray))
        self._wake.set()

    def _read_back(self, subscriber_ids: Collection[str]) -> tuple[Mapping[str, SubscriberState], int]:
        states = recover_some(self._ledger, self._make_engine, subscriber_ids)
        with self._ledger.transaction() as tx:
            # Reading may work where writing does not (a full disk): only a write shows that it is over.
            tx.save_checkpoint(self._ledger.checkpoint())
        self._ledger_failed = False
        return states, self._ledger.last_position()

    # -- snapshots --------------------------------------------------------------------------------

    def request_checkpoint(self) -> None:
        """Begin a round of snapshots of all subscribers changed since the last one."""
        self._checkpoint_due = True
        self._wake.set()

    async def _checkpoint_step(self) -> None:
        """Snapshot some of them. Called between groups, when live state equals what was submitted.

        The write is queued behind the commits that it rests on; if one of those fails, it is refused.
        """
        if not self._checkpoint_left:
            if self._committing is not None:
                await self._committing
            if self._astray:
                return
            self._checkpoint_left = list(self._states.dirty())
            self._checkpoint_position = self._position
        chunk, self._checkpoint_left = (
            self._checkpoint_left[:SNAPSHOT_CHUNK],
            self._checkpoint_left[SNAPSHOT_CHUNK:],
        )
        last = not self._checkpoint_left
        self._checkpoint_due = not last
        rows = self._states.snapshot(chunk)
        saved = self._thread.submit(self._save_snapshot, rows, self._checkpoint_position if last else None)
        self._snapshotting = asyncio.create_task(self._keep_dirty(saved, chunk, self._snapshotting))
        if not last:
            self._wake.set()

    async def _keep_dirty(
        self, saved: asyncio.Future[None], chunk: Sequence[str], previous: asyncio.Task[None] | None
    ) -> None:
        """A snapshot that was not saved leaves its subscribers to the next round."""
        if previous is not None:
            await previous
        try:
            await saved
        except Exception:
            log.warning("a snapshot was not saved; the log still has everything", exc_info=True)
            await self._states.save(chunk)
            self._checkpoint_left.clear()
            self._checkpoint_due = False

    def _save_snapshot(self, rows: list[tuple[str, int, bytes]], position: int | None) -> None:
        if self._ledger_failed:
            raise StoreUnavailableError("an earlier commit failed; the service is recovering")
        try:
            with self._ledger.transaction() as tx:
                tx.save_states(rows)
                if position is not None:
                    tx.save_checkpoint(position)
        except BaseException:
            self._ledger_failed = True
            raise


def decide_group(
    tx: LedgerTransaction, batches: Sequence[tuple[Revision, Sequence[Moment], list[Verdict]]]
) -> None:
    """Decide the moments of several batches in order, within one transaction, and record the verdicts.

    A moment that has a verdict already (its event was sent again after a crash) keeps it. The verdicts
    of each batch, old and new, are appended to its list.
    """
    moments = [moment for _, of_batch, _ in batches for moment in of_batch]
    if not moments:
        return
    stored = tx.verdicts([moment.key for moment in moments])
    lookback_us = max(revision.lookback_us for revision, _, _ in batches)
    earliest_us = min(moment.now_us for moment in moments)
    histories = tx.histories({m.key.subscriber_id for m in moments}, earliest_us - lookback_us, earliest_us)
    fresh: dict[EventKey, Verdict] = {}
    for revision, of_batch, verdicts in batches:
        for moment in of_batch:
            verdict = stored.get(moment.key) or fresh.get(moment.key)
            if verdict is None:
                verdict = decide(revision.rulebase, moment, histories[moment.key.subscriber_id])
                fresh[moment.key] = verdict
            verdicts.append(verdict)
    tx.record_verdicts(list(fresh.values()))
