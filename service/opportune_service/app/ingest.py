"""Take in batches: admit, observe, decide, commit, acknowledge. The heart of the service.

One coroutine works through what callers queued. Batches that wait together form a **commit group**:

    1. admit and observe every batch, in order (core; on the event loop, no await per event)
    2. in the ledger's thread, one transaction (`commit.py`): append the log rows, decide the moments
       against the ledger's history, record the verdicts with their reservations and deliveries
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

from opportune_service.app.checkpoint import Checkpoints
from opportune_service.app.commit import Batch, commit_group
from opportune_service.app.errors import OpportuneError, StoreUnavailableError
from opportune_service.app.ledger_thread import LedgerThread
from opportune_service.app.ports import Clock, Ledger, LiveState
from opportune_service.app.recover import recover_some
from opportune_service.app.revisions import LiveRevision
from opportune_service.core.admit import Attributes
from opportune_service.core.context import apply_context
from opportune_service.core.events import ContextRecord, Event, Rejection
from opportune_service.core.observe import observe
from opportune_service.core.revision import EngineFactory, Revision
from opportune_service.core.state import SubscriberState
from opportune_service.core.verdict import Verdict

log = logging.getLogger(__name__)

GROUP_EVENTS = 2_000
"""A commit group takes waiting batches up to about this many events: a disk write is then a small part
of the cost, and nobody waits long for the rest of the group."""

MAX_QUEUED_EVENTS = 50_000
"""More than this waiting means that callers are faster than the service; further batches wait outside."""


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
class _Group:
    """Batches that are committed together, with what to answer, and the subscribers they touch."""

    batches: list[tuple[_Work, Batch, Receipt]] = field(default_factory=list)
    touched: set[str] = field(default_factory=set)

    def works(self) -> list[_Work]:
        return [work for work, _, _ in self.batches]


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
        # Set and read in the ledger's thread: what was submitted after a failed commit must not be written.
        self._commit_failed = False
        self._checkpoints = Checkpoints(states, ledger, thread, lambda: self._commit_failed, self._wake.set)
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

    def request_checkpoint(self) -> None:
        """Begin a round of snapshots of all subscribers changed since the last one."""
        self._checkpoints.due = True
        self._wake.set()

    # -- the loop ---------------------------------------------------------------------------------

    async def run(self) -> None:
        """Work until `close`. A failed commit is recovered from here, whether or not anybody calls."""
        try:
            await self._work()
        except BaseException:
            # Nobody may wait for an answer that cannot come any more.
            self._closing = True
            self.healthy.clear()
            self._refuse_queued("the service has failed")
            raise

    async def _work(self) -> None:
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
            if self._checkpoints.due and not self._astray:
                await self._checkpoint_step()
            if self._closing:
                self._wake.set()
        await self._finish()

    async def _checkpoint_step(self) -> None:
        if self._checkpoints.saving:
            return  # its end wakes the loop
        if not self._checkpoints.begun and self._committing is not None:
            await self._committing
        if not self._astray:
            self._checkpoints.step(self._position)

    async def _finish(self) -> None:
        """The last commit and a snapshot of everything, so that the next start has nothing to replay."""
        if self._committing is not None:
            await self._committing
        if not self._astray:
            self._checkpoints.due = True
            while self._checkpoints.due:
                await self._checkpoints.wait()
                self._checkpoints.step(self._position)
            await self._checkpoints.wait()

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
        group = _Group()
        for work in works:
            try:
                await self._observe(work, group)
            except OpportuneError as error:
                if not work.done.done():  # the caller may have gone
                    work.done.set_exception(error)
            except Exception as error:
                # A fault of ours in one batch: its states may be half changed, so they are rebuilt.
                log.exception("observing a batch failed")
                self._fail(works, error, group.touched)
                return
        if self._committing is not None:
            await self._committing
        if self._astray:
            self._fail(group.works(), None, group.touched)
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
            # Another revision may have made them, whose campaign was not what it is in this one.
            prompts={c: id_ for c, id_ in work.prompts.items() if revision.shows(c, work.touch_point)},
        )
        outdated = 0
        for record in work.records:
            outdated += not apply_context(record, states[record.subscriber_id], position)
        if observed.events or work.records:
            self._position = position
        batch = Batch(
            position=position,
            source=work.source,
            now_us=now_us or 0,
            revision=revision,
            events=observed.events,
            records=work.records,
            moments=observed.moments,
        )
        receipt = Receipt(
            accepted=len(observed.events) + len(work.records),
            duplicates=observed.duplicates,
            rejections=rejections,
            verdicts=batch.verdicts,
            revision=revision.id,
            ignored_attributes=revision.admission.ignored.total - ignored_before,
            outdated=outdated,
        )
        group.batches.append((work, batch, receipt))

    def _retire(self, work: _Work, revision: Revision) -> None:
        revision.close()
        if not work.done.done():
            work.done.set_result(Receipt(0, 0, [], [], revision.id))

    def _commit(self, group: _Group) -> None:
        """In the ledger's thread."""
        if self._commit_failed:
            raise StoreUnavailableError("an earlier commit failed; the service is recovering")
        try:
            commit_group(self._ledger, [batch for _, batch, _ in group.batches])
        except BaseException:
            self._commit_failed = True
            raise

    async def _settle(self, group: _Group, commit: asyncio.Future[None]) -> None:
        """After the commit: the live state is saved, the callers are answered."""
        try:
            await commit
        except Exception as error:
            if not isinstance(error, StoreUnavailableError):
                log.exception("a commit failed")
            self._fail(group.works(), error, group.touched)
            return
        await self._states.save(group.touched)
        for work, _, receipt in group.batches:
            if not work.done.done():
                work.done.set_result(receipt)
        verdicts = [verdict for _, batch, _ in group.batches for verdict in batch.verdicts]
        if verdicts:
            self._on_verdicts(verdicts)

    # -- when a commit has failed -----------------------------------------------------------------

    def _fail(self, works: Sequence[_Work], error: BaseException | None, touched: Collection[str]) -> None:
        self._astray |= set(touched) or {""}
        self.healthy.clear()
        self._wake.set()
        for work in works:
            if work.retire is not None:
                self._retire(work, work.retire)
            elif not work.done.done():
                unavailable = StoreUnavailableError("the batch could not be made durable; send it again")
                unavailable.__cause__ = error
                work.done.set_exception(unavailable)

    async def _recover(self) -> None:
        """Rebuild what a failed commit left astray; until that works, refuse what comes."""
        if self._committing is not None:
            await self._committing
        self._refuse_queued("the store is unavailable; try again")
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
        self._checkpoints.abandon()
        if not self._astray:
            self.healthy.set()
            log.info("recovered %d subscribers after a failed commit", len(astray))
        self._wake.set()

    def _read_back(self, subscriber_ids: Collection[str]) -> tuple[Mapping[str, SubscriberState], int]:
        states = recover_some(self._ledger, self._make_engine, subscriber_ids)
        with self._ledger.transaction() as tx:
            # Reading may work where writing does not (a full disk): only a write shows that it is over.
            tx.save_checkpoint(self._ledger.checkpoint())
        self._commit_failed = False
        return states, self._ledger.last_position()

    def _refuse_queued(self, message: str) -> None:
        while self._queue:
            for work in self._take():
                if work.retire is not None:
                    self._retire(work, work.retire)
                elif not work.done.done():
                    work.done.set_exception(StoreUnavailableError(message))
