"""Take in batches: admit, observe, decide, commit, acknowledge. The heart of the service.

One coroutine works through what callers queued. Batches that wait together form a **commit group**:

    1. observe every batch, and what is due, in order (`observing.py`; on the event loop, with no await
       per event)
    2. in the ledger's thread, one transaction (`commit.py`): append the log rows, decide the moments
       against the ledger's history, record the verdicts with their reservations and deliveries
    3. mark the live state as saved
    4. answer the callers

While a group commits, the next one is observed, and whoever comes meanwhile joins it. Nothing is
acknowledged before its transaction has ended. When a transaction fails, its group and the group observed
after it are answered with `StoreUnavailableError`, and the states they touched are rebuilt from the durable
record: a failure is recovered from in the same way as a crash. So is a fault of ours; where it is known on
which event we failed, that one is rejected, and nobody else is turned away.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

from opportune_service.app.aside import let_go
from opportune_service.app.checkpoint import Checkpoints
from opportune_service.app.commit import alone, commit_group
from opportune_service.app.deferrals import MOST as MOST_DEFERRALS
from opportune_service.app.deferrals import Deferrals
from opportune_service.app.errors import (
    ExpelledError,
    NoRulebaseError,
    OutdatedError,
    StoreUnavailableError,
    SupersededError,
)
from opportune_service.app.faults import Faults, FaultyEventError
from opportune_service.app.fellowship import Fellowship
from opportune_service.app.figures import PipelineFigures
from opportune_service.app.ledger_thread import LedgerThread
from opportune_service.app.membership import SILENT_US, Membership, Pulse
from opportune_service.app.observing import Observer, TimerStatus
from opportune_service.app.ports import Clock, Ledger, LiveState
from opportune_service.app.recover import Recovered, note_listening, recover_some, recovered_only
from opportune_service.app.revisions import LiveRevision
from opportune_service.app.work_queue import GROUP_EVENTS, WorkQueue
from opportune_service.app.works import Group, Receipt, Shadowed, Work
from opportune_service.core.backfill import Fill
from opportune_service.core.events import ContextRecord, Due, Event
from opportune_service.core.revision import EngineFactory, Revision
from opportune_service.core.state import SubscriberState
from opportune_service.core.verdict import OpenPrompt, Verdict
from opportune_service.core.watermarks import SourceMark

__all__ = ["Ingest", "Receipt"]

log = logging.getLogger(__name__)

_BUSY_SECONDS = 0.002
"""How long to wait when other members hold everybody: a good part of a commit."""

_TIMERS_AT_ONCE = 1_000
_HEARD_US = 1_000_000
"""So long after a member died, whoever has something waiting of those whom it held has asked for them."""
_UNAVAILABLE = "the store is unavailable; try again"
_RECOVER_SECONDS = 0.5
_LAST_SECONDS = 3.0
"""So long after it was told to end a pipeline still tries to recover: a store that is restarted is back by
then, and others need not take over."""


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
        recovered: Recovered,
        on_verdicts: Callable[[Sequence[Verdict]], None],
        membership: Membership | None = None,
        on_shadowed: Callable[[Sequence[Shadowed]], None] = lambda _: None,
    ) -> None:
        self._live = live
        self._states = states
        self._ledger = ledger
        self._thread = thread
        self._clock = clock
        self._make_engine = make_engine
        self._membership = membership
        self._observer = Observer(live, states, recovered, clock.now_us(), membership)
        self._fellowship = (
            Fellowship(membership, live, states, ledger, thread, self._observer, make_engine)
            if membership
            else None
        )
        self._on_verdicts = on_verdicts
        self._on_shadowed = on_shadowed
        self._wake = asyncio.Event()
        self._queue = WorkQueue(self._wake.set)
        self._closing = False
        self._committing: asyncio.Task[None] | None = None
        # The group that is not handed to the ledger's thread yet.
        self._observing = Group()
        # Subscribers whose live state is ahead of the record because a commit failed.
        self._astray: set[str] = set()
        # Works to be taken in again, for another revision was activated by another member meanwhile.
        self._again: list[Work] = []
        # Subscribers whose last commit is durable but not in live state yet: they were in use again.
        self._carried: set[str] = set()
        # Those of whom something is said in the group that is being committed.
        self._said: set[str] = set()
        self._taking_over = False
        self._doubt: BaseException | None = None
        self._faults = Faults()
        self._recover_at = 0.0
        self._end_by = 0.0
        self.drained = False
        """Whether it has ended with everything in the snapshots: nobody has to finish anything."""
        self._tending: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tending.set_result(None)
        # Set and read in the ledger's thread: what was submitted after a failed commit must not be written.
        self._commit_failed = False
        self._checkpoints = Checkpoints(
            *(states, ledger, thread, lambda: self._commit_failed, self._wake.set, self._heartbeat),
            member=lambda: membership.number if membership else 0,
        )
        self.figures = PipelineFigures()
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
        work = Work(
            _unanswered(), source=source, events=events, touch_point=touch_point, prompts=prompts or {}
        )
        work.now_us = None if at_event_time else self._clock.now_us()
        return await self._submit(work)

    async def offer(self, source: str, events: Sequence[Event]) -> asyncio.Future[Receipt]:
        """Queue a batch as soon as there is room; the future is its receipt, with the errors of `publish`.

        Batches that one caller offers one after the other are taken in in that order.
        """
        self._check_healthy()
        done = _unanswered()
        work = Work(done, source=source, events=events, now_us=self._clock.now_us())
        await self._queue.put(work, ahead=True)
        return done

    async def import_context(self, source: str, records: Sequence[ContextRecord]) -> Receipt:
        """Take in static data of subscribers, checked already, and wait until it is durable."""
        return await self._submit(
            Work(_unanswered(), source=source, records=records, now_us=self._clock.now_us())
        )

    async def fill(self, fills: Sequence[Fill]) -> Receipt:
        """Take in what a backfill found, and wait until it is durable. Errors as of `publish`."""
        work = Work(_unanswered(), fills=fills, now_us=self._clock.now_us())
        work.generation = self._live.generation
        return await self._submit(work)

    async def settle_due(self, dues: Sequence[Due], *, at_due_time: bool = False) -> Receipt:
        """Settle what the caller knows to be due, in the order given, and wait until it is durable.

        The same trigger again gives the verdict that is stored. With `at_due_time` each is decided at its
        own time, after all timers that are due before it. A few hundred at a time keep nobody waiting.
        Errors as of `publish`.
        """
        now_us = None if at_due_time else self._clock.now_us()
        work = Work(_unanswered(), dues=dues, now_us=now_us, generation=self._live.generation)
        return await self._submit(work)

    async def between(self, call: Callable[[], Awaitable[None]], about: str = "") -> None:
        """Await `call` when everything observed so far is durable, and before anything else is observed;
        `about` whom it is: not before what waits of that subscriber, whom another member holds. Raises what
        it raises, and `StoreUnavailableError` if it was not called."""
        await self._submit(Work(_unanswered(), between=call, about=about))

    def forget(self, subscriber_id: str) -> None:
        """Drop what the service itself holds of a subscriber who is erased: call it `between`, before
        anything is awaited."""
        self._queue.forget(subscriber_id)
        self._observer.forget(subscriber_id)

    async def show(self, channel: str, prompts: Sequence[OpenPrompt]) -> Receipt:
        """Decide these prompts again, to be shown on a bulk channel, and wait until it is durable. Errors
        as of `publish`."""
        work = Work(_unanswered(), showing=prompts, touch_point=channel, now_us=self._clock.now_us())
        work.generation = self._live.generation
        return await self._submit(work)

    async def settle_timers(self, until_us: int | None = None) -> Receipt:
        """Take one turn at the timers that are due by the clock, and wait until it is durable.

        A timer that waits for a source is looked at again a second later. With `until_us` (replay): those
        due up to then, each at its own time, waiting for no source. More may be due after a turn: see
        `next_timer_us`. Errors as of `publish`.
        """
        if until_us is not None:
            return await self._submit(Work(_unanswered(), run_to_us=until_us))
        now_us = self._clock.now_us()
        return await self._submit(Work(_unanswered(), run_to_us=now_us, now_us=now_us))

    async def settle_deferred(self, until_us: int | None = None) -> Receipt:
        """Take one turn at what was deferred and is due by the clock, and wait until it is durable.

        With `until_us` (replay): what is due up to then, each at its own time. Only what was read before
        (`read_deferrals`) is known to be due; more may be after a turn. Errors as of `publish`.
        """
        if until_us is not None:
            return await self._submit(Work(_unanswered(), deferred_to_us=until_us))
        now_us = self._clock.now_us()
        return await self._submit(Work(_unanswered(), deferred_to_us=now_us, now_us=now_us))

    async def read_deferrals(self, until_us: int) -> None:
        """Read from the ledger what will be due before then, or the first of it. Raises
        `StoreUnavailableError`."""

        async def read() -> None:
            # Nothing is being committed meanwhile: what was taken for a decision has ended or is still due.
            found = await self._thread.run(self._ledger.due_deferrals, until_us - 1, MOST_DEFERRALS)
            self.deferrals.read(found, until_us)

        self._check_healthy()
        await self._at_once(read)  # it waits for nobody whom other members hold, and nobody for it

    @property
    def revision(self) -> Revision:
        """The active one. Raises `NoRulebaseError`."""
        return self._live.current

    @property
    def deferrals(self) -> Deferrals:
        """What was deferred and is due soon."""
        return self._observer.deferrals

    @property
    def queued(self) -> int:
        """How many events and the like wait to be taken in."""
        return self._queue.events

    @property
    def snapshotted_us(self) -> int:
        """When the last round of snapshots was completed; at first when the pipeline was made."""
        return self._checkpoints.ended_us

    @property
    def next_timer_us(self) -> int:
        """When the next timer is to be looked at; an instant far away if there is none."""
        return self._observer.timers.next_us()

    @property
    def timers(self) -> TimerStatus:
        """How timers were settled since the start."""
        return self._observer.status

    async def retire(self, revision: Revision) -> None:
        """Close a revision that was swapped out, after the last batch that uses it."""
        await self._submit(Work(done=_unanswered(), retire=revision))

    async def _submit(self, work: Work) -> Receipt:
        if work.retire is None:  # that is done even now
            self._check_healthy()
        await self._queue.put(work)
        return await work.done

    def _check_healthy(self) -> None:
        """Whoever calls while the store is away is told at once, however long it takes to try again."""
        if not self.healthy.is_set():
            raise StoreUnavailableError(_UNAVAILABLE)

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
            self._close()
            self.healthy.clear()
            self._queue.put_back(self._again)
            self._refuse_queued("the service has failed")
            raise

    async def _work(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._astray:
                if not await self._recover():
                    break
                continue
            works = self._queue.take()
            if works and works[0].between is not None:
                await self._do_between(works[0], works[0].between)
            elif works:
                await self._process(works)
            elif self._closing:
                if self._committing is not None:
                    await self._committing
                if not self._astray:  # else something of it may have to be taken in again
                    break
            if self._checkpoints.due and not self._astray:
                await self._checkpoint_step()
            if self._closing:
                self._wake.set()
        await self._finish()

    async def _checkpoint_step(self) -> None:
        if self._checkpoints.saving or (self._checkpoints.resting and not self._closing):
            return  # its end wakes the loop
        if self._committing is not None and (not self._checkpoints.begun or self._checkpoints.waiting):
            await self._committing
        if not self._astray:
            try:
                await self._checkpoints.step(self._observed_to())
            except StoreUnavailableError as error:
                self._fail([], error, ())

    def _observed_to(self) -> int:
        """Nothing will be logged at or before this position that is not observed yet."""
        if self._membership is None:
            return self._observer.position
        # Also of a member that has nothing to do: replay would begin ever further back.
        self._observer.position = max(self._observer.position, self._membership.now_position())
        return self._observer.position

    async def _finish(self) -> None:
        """The last commit and a snapshot of everything, so that the next start has nothing to replay."""
        if self._committing is not None:
            await self._committing
        if not self._astray:
            # A round that is under way would leave out what was changed since it began.
            await self._checkpoints.wait()
            self._checkpoints.abandon()
            self._checkpoints.due = True
            try:
                while self._checkpoints.due:
                    await self._checkpoints.wait()
                    await self._checkpoints.step(self._observed_to())
            except StoreUnavailableError as error:  # nothing is lost: the log has all of it
                log.warning("ending while the store is unavailable: %s", error)
            await self._checkpoints.wait()
            with contextlib.suppress(StoreUnavailableError):  # the others will take who is left
                await self._states.hand_over()
        self.drained = not self._astray and not self._states.dirty()

    async def close(self) -> None:
        """Take no more, finish what is queued, snapshot everything; `run` then returns."""
        self._end_by = asyncio.get_running_loop().time() + _LAST_SECONDS
        self._close()
        self._wake.set()

    def _close(self) -> None:
        self._closing = True
        self._queue.close()

    async def _begin_carefully(self) -> None:
        """What the next group observes has to be taken back, perhaps: to what was saved."""
        if self._states.careful and self._committing is not None:
            await self._committing

    async def _process(self, works: list[Work]) -> None:
        if self._fellowship is not None and not self._live.id:
            await self._begin(self._fellowship)
        await self._begin_carefully()
        # Once it is acknowledged, what was said is to be seen at all members: in use again, it could not be
        # written before the next commit, or the one after that.
        among_others = self._fellowship is not None and not self._idle
        group = self._observing = Group(busy=set(self._said) if among_others else set())
        group.waits = self._queue.waiting.comes_first if self._queue.waiting else None
        taken = list(works)
        sound = await self._observe(works, group, taken)
        while sound and not self._astray and not self._idle and _size(taken) < GROUP_EVENTS:
            # Whoever comes while an earlier group commits need not wait for one more commit after it.
            self._wake.clear()
            await self._wake.wait()
            more = self._queue.take_more(_size(taken))
            taken += more
            sound = await self._observe(more, group, taken)
        if not sound:
            return
        self._wake.set()  # whatever else it was set for
        for rest in group.rests:
            self._queue.waiting.put(rest)
        if self._committing is not None:
            await self._committing
        if self._astray:
            self._fail(group.works, self._doubt, group.held)
            return
        if group.rests and not group.batches:
            await asyncio.sleep(_BUSY_SECONDS)
        self._said = group.said
        commit = self._thread.submit(self._commit, group)
        self._committing = asyncio.create_task(self._settle(group, commit))
        self._committing.add_done_callback(lambda _: self._wake.set())
        self._observing = Group()

    @property
    def _idle(self) -> bool:
        """Whether nothing is being committed."""
        return self._committing is None or self._committing.done()

    async def _observe(self, works: Sequence[Work], group: Group, taken: Sequence[Work]) -> bool:
        """Observe works for a group, of which so much was `taken`; whether it is sound."""
        for number, work in enumerate(works, start=1):
            try:
                if work.retire is not None:
                    self._retire(work, work.retire)
                elif work.touch_point and work.done.cancelled():
                    continue  # whoever asked has gone, and nothing can be shown to nobody
                else:
                    await self._observer.observe(work, group)
            except (NoRulebaseError, OutdatedError) as error:
                if not work.done.done():  # the caller may have gone
                    work.done.set_exception(error)
            except FaultyEventError as fault:
                left = [*group.rests, *works[number:]]
                self._faults.put_aside(fault, [*group.works, *left])
                for each in left:  # what waits since before any of it is not in this group, perhaps
                    self._queue.waiting.put(each)
                self._fail(group.works, fault, group.held)
                return False
            except Exception as error:
                # A fault of ours in one batch: its states may be half changed, so they are rebuilt.
                if not isinstance(error, StoreUnavailableError):
                    log.exception("observing a batch failed")
                self._fail([*taken, *group.rests], error, group.held)
                return False
        return True

    async def _do_between(self, work: Work, call: Callable[[], Awaitable[None]]) -> None:
        if self._committing is not None:
            await self._committing
        if self._astray:
            self._fail([work], self._doubt, ())
            return
        try:
            await call()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is for whoever asked
            if not work.done.done():
                work.done.set_exception(error)
        else:
            if not work.done.done():
                work.done.set_result(Receipt(0, 0, [], [], self._live.id))

    def _retire(self, work: Work, revision: Revision) -> None:
        revision.close()
        let_go(revision.rulebase.campaigns.values())
        if not work.done.done():
            work.done.set_result(Receipt(0, 0, [], [], revision.id))

    def _commit(self, group: Group) -> Sequence[Verdict]:
        """In the ledger's thread; the verdicts that are new."""
        if self._commit_failed:
            raise StoreUnavailableError("an earlier commit failed; the service is recovering")
        try:
            return commit_group(self._ledger, group, self._membership.guard if self._membership else alone)
        except BaseException:
            self._commit_failed = True
            raise

    async def _settle(self, group: Group, commit: asyncio.Future[Sequence[Verdict]]) -> None:
        """After the commit: the live state is saved, the callers are answered."""
        begun = time.perf_counter()
        try:
            fresh = await commit
            self.deferrals.note(fresh)
        except Exception as error:
            self.figures.failed_commits += not isinstance(error, SupersededError)
            if isinstance(error, FaultyEventError):
                self._faults.put_aside(error, group.works)
            elif not isinstance(error, StoreUnavailableError):
                log.exception("a commit failed")
            later = len(self._again)  # what was observed after it may have failed before it
            self._fail(group.works, error, group.held)
            self._again = self._again[later:] + self._again[:later]
            return
        seconds = time.perf_counter() - begun
        self.figures.committed(group, fresh, self._live, seconds, self._clock.now_us())
        if not await self._give_back(group):
            return
        for work, receipt in group.answers:
            if not work.done.done():
                work.done.set_result(receipt)
        verdicts = [verdict for _, receipt in group.answers for verdict in receipt.verdicts]
        if verdicts:
            self._on_verdicts(verdicts)
        if group.shadowed:
            self._on_shadowed(group.shadowed)

    async def _give_back(self, group: Group) -> bool:
        """What is committed is saved, for others to have; but not what the next group changed further.
        False if that failed: others do not know of it yet, so nobody may be told that it holds."""
        needed = self._observing.held
        self._carried = group.touched & needed
        self._observing.touched |= self._carried
        try:
            await self._states.save(group.touched - needed if needed else group.touched, group.said)
            if len(group.held) > len(group.touched):
                # Those whom the next group holds by now, which may have begun meanwhile.
                await self._states.release(group.held - group.touched - self._observing.held)
        except StoreUnavailableError as error:
            self._fail(group.works, error, group.held)
            return False
        return True

    def _heartbeat(self) -> tuple[int, Mapping[str, SourceMark]]:
        """What a round of snapshots puts down of now."""
        return self._clock.now_us(), self._observer.watermarks.marks()

    # -- when a commit has failed -----------------------------------------------------------------

    def _fail(self, works: Sequence[Work], error: BaseException | None, held: Collection[str]) -> None:
        """What was changed of these subscribers is not backed by the record; these works are refused, or
        taken in again if all that is wrong is that another member activated a revision, or an event that is
        put aside."""
        superseded = isinstance(error, SupersededError)
        if not self._astray or not superseded:
            self._doubt = error
        self._astray |= set(held) or {""}
        self._wake.set()
        if superseded or (isinstance(error, FaultyEventError) and error.aside):
            self._again += works
            return
        if self.healthy.is_set():
            log.warning("the store is unavailable: %s", error)
        self.healthy.clear()
        again, self._again = self._again, []
        for work in [*again, *works]:
            if work.retire is not None:
                self._retire(work, work.retire)
            elif not work.done.done():
                unavailable = StoreUnavailableError("the batch could not be made durable; send it again")
                unavailable.__cause__ = error
                work.done.set_exception(unavailable)
        self._refuse_queued(_UNAVAILABLE)

    async def _recover(self) -> bool:
        """Rebuild what a failed commit left astray; until that works, refuse what comes. False if it is
        time to end without: nothing is lost, for the log has all that was acknowledged."""
        if self._committing is not None:
            await self._committing
        if not self.healthy.is_set():
            self._refuse_queued(_UNAVAILABLE)
        loop = asyncio.get_running_loop()
        if loop.time() < self._recover_at:
            return True  # only callers came
        astray = set(self._astray)
        try:
            await self._make_sound(astray - {""})
        except Exception as error:
            if self._closing and loop.time() >= self._end_by:
                if not isinstance(error, StoreUnavailableError):
                    raise
                log.warning("ending while the store is unavailable: %s", error)
                # Whatever it was: what was to be taken in again is refused now.
                self._fail([], StoreUnavailableError(_UNAVAILABLE), ())
                return False
            log.warning("the store is still unavailable; trying again in half a second", exc_info=True)
            self._recover_at = loop.time() + _RECOVER_SECONDS
            loop.call_at(self._recover_at, self._wake.set)
            return True
        self._astray -= astray
        self._checkpoints.abandon()
        again, self._again = self._again, []
        self._queue.put_back(again)
        if not self._astray and not self.healthy.is_set():
            self.healthy.set()
            log.info("recovered %d subscribers after a failed commit", len(astray))
        self._wake.set()
        return True

    async def _make_sound(self, astray: Collection[str]) -> None:
        """The states of these are what the record says, and what is in force is live."""
        now_us = self._clock.now_us()
        lost = astray
        if self._fellowship is not None:
            if isinstance(self._doubt, SupersededError):
                lost = await self._take_back(astray)
            elif await self._fellowship.rejoin():
                lost = ()
            if lost != astray:
                self._look_again(astray)
        if lost or not self.healthy.is_set():
            await self._restore(lost, now_us)
        if self._fellowship is not None:
            await self._fellowship.adopt()

    async def _restore(self, subscriber_ids: Collection[str], now_us: int) -> None:
        """Make these states what the record says, and go on from there."""
        states, recovered, since = await self._thread.run(self._read_back, subscriber_ids, now_us)
        await self._states.save(await self._states.discard(states, subscriber_ids))
        self._observer.resume(recovered, now_us)
        if self._live.id:
            self._live.current.live_since(*since)

    def _read_back(
        self, subscriber_ids: Collection[str], now_us: int
    ) -> tuple[Mapping[str, SubscriberState], Recovered, tuple[Mapping[str, int], Mapping[str, int]]]:
        if subscriber_ids or self._membership is None:
            states, recovered = recover_some(self._ledger, self._make_engine, subscriber_ids)
        else:  # how far sources have come is put down with every beat: the log need not be asked
            states, recovered = {}, recovered_only(self._ledger)
        # Reading may work where writing does not (a full disk): only a write shows that it is over.
        note_listening(self._ledger, now_us)
        self._commit_failed = False
        return states, recovered, (self._ledger.coverage(), self._ledger.births())

    def _refuse_queued(self, message: str) -> None:
        while works := self._queue.take():
            for work in works:
                if work.retire is not None:
                    self._retire(work, work.retire)
                elif not work.done.done():
                    work.done.set_exception(StoreUnavailableError(message))

    # -- among members ------------------------------------------------------------------------------

    async def beat(self) -> None:
        """Say that this member lives, and look after the others. Call it every BEAT_SECONDS."""
        fellowship = self._fellowship
        if fellowship is None:
            return
        membership = fellowship.membership
        try:
            # First: who cannot reach live state is better taken over than thought to live.
            now_us = self._clock.now_us()
            late = await self._states.due(now_us - SILENT_US, _TIMERS_AT_ONCE)
            pulse = await membership.beat(self._observer.watermarks.marks())
        except StoreUnavailableError as error:
            if self.healthy.is_set():
                self._fail([], error, ())
            return
        self._observer.watermarks.merge(pulse.sources)
        if not pulse.knows(membership.number):
            self._fail([], ExpelledError("this member was taken for dead"), ())
        elif self._tending.done():
            self._tending = asyncio.create_task(self._tend(fellowship, pulse))
        for subscriber_id, _ in late if membership.leads else ():
            # Somebody should have settled it by now: whoever loaded it last is gone.
            if subscriber_id not in self._observer.timers:
                self._observer.timers.set(subscriber_id, now_us + _HEARD_US)

    async def _tend(self, fellowship: Fellowship, pulse: Pulse) -> None:
        """What a pulse calls for; it may take longer than until the next one."""
        try:
            if pulse.generation != fellowship.membership.generation:
                made = await fellowship.make_ready()  # before the pipeline waits for it
                await self._at_once(lambda: fellowship.adopt(made))
            if pulse.silent and fellowship.membership.leads:
                await self._at_once(lambda: self._take_over(fellowship, pulse.silent))
        except StoreUnavailableError as error:
            log.info("looking after the other members was cut off, the next pulse calls for it: %s", error)
        except Exception:
            # Nobody waits for this task: without a word, a revision that does not load here went unnoticed.
            log.exception("looking after the other members failed, the next pulse tries again")

    async def _at_once(self, call: Callable[[], Awaitable[None]]) -> None:
        """As `between`, before all that waits: it may wait for just this."""
        work = Work(_unanswered(), between=call)
        self._queue.put_urgent(work)
        await work.done

    async def _take_over(self, fellowship: Fellowship, silent: Collection[int]) -> None:
        begun: set[str] = set()
        self._taking_over = True
        try:
            await fellowship.take_over(silent, begun)
        except BaseException as error:
            if begun:  # before anybody takes in more of them
                self._fail([], error, begun)
            raise
        finally:
            self._taking_over = False
        self._checkpoints.abandon()  # what they touched is to be in the next round
        # At other members may wait what stops a timer that is due by now.
        self._observer.timers.put_off(self._clock.now_us() + _HEARD_US)

    @property
    def taken_over(self) -> int:
        """How many members this one has taken over from."""
        return self._fellowship.taken_over if self._fellowship else 0

    async def _begin(self, fellowship: Fellowship) -> None:
        """Nothing is active here: another member may just have activated something."""
        if self._committing is not None:
            await self._committing
        with contextlib.suppress(StoreUnavailableError):  # what is observed next finds it out
            await fellowship.adopt()

    async def _take_back(self, subscriber_ids: Collection[str]) -> Collection[str]:
        """Undo what was observed of these and is not committed; those of whom that is not possible."""
        lost = self._carried & set(subscriber_ids)
        if not await self._states.take_back(set(subscriber_ids) - lost):
            return subscriber_ids
        await self._thread.run(self._trust)
        return lost

    def _trust(self) -> None:
        self._commit_failed = False

    def _look_again(self, subscriber_ids: Collection[str]) -> None:
        """What was taken for observed of these is not."""
        self.deferrals.forget()
        now_us = self._clock.now_us()
        for subscriber_id in subscriber_ids:
            self._observer.timers.set(subscriber_id, now_us)

    async def forewarn(self) -> None:
        """Whoever calls is about to begin another generation: the other members are to be ready for it, so
        that nobody has to wait while they recover what they have observed."""
        if self._fellowship is not None and (others := self._fellowship.membership.others):
            await self._states.forewarn(others)

    def begin_generation(self, generation: int, position: int) -> None:
        """Work under it from now on; all that was logged before it began is up to this position. Call it
        `between`."""
        if self._fellowship is not None:
            self._fellowship.begin_generation(generation, position)
        else:
            self._observer.position = max(self._observer.position, position)
            self._live.generation = generation

    def make_good(self, subscriber_ids: Collection[str], error: BaseException) -> None:
        """Whoever calls has held these and cannot tell what became of them: recovery makes them what the
        record says, and gives them up."""
        self._fail([], error, subscriber_ids)

    def check_sound(self) -> None:
        """Raises `StoreUnavailableError` while shared live state may not be what the record says."""
        if self._fellowship is not None and not self.healthy.is_set():
            raise StoreUnavailableError("live state is being made good; try again")

    def check_whole(self) -> None:
        """As `check_sound`; and while what a dead member made durable is not in all states yet, though it
        is in their contexts."""
        self.check_sound()
        if self._taking_over:
            raise StoreUnavailableError(
                "subscribers of a process that died are being taken over; try again"
            )


def _size(works: Sequence[Work]) -> int:
    return sum(work.size for work in works)


def _unanswered() -> asyncio.Future[Receipt]:
    return asyncio.get_running_loop().create_future()
