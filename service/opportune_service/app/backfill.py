"""Backfill metrics that have just become live from the log of events, next to the service's other work.

The log is read in pages through the ledger's thread and folded aside in a thread of its own. What comes out
goes through the pipeline like anything else that changes states, is logged and made durable with it; at the
end the ledger's coverage of the metrics is set back. A backfill that is cut off, by a crash, a reload or a
failing store, is made again from its beginning: subscribers that have taken it in do not take it in twice.
Backfills are made in the order of their boundaries (see `Fill`), one after the other.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

from opportune_rulebase import from_archive, load
from opportune_rulebase.errors import RulebaseError
from opportune_rulebase.model import Metric, Vocabulary

from opportune_service.app.errors import NoRulebaseError, OpportuneError, OutdatedError, SupersededError
from opportune_service.app.ingest import Ingest
from opportune_service.app.ledger_thread import LedgerThread
from opportune_service.app.log import events_of
from opportune_service.app.ports import Clock, Ledger, LiveState
from opportune_service.app.records import LogKind, LogRow
from opportune_service.app.recover import LOG_KEY
from opportune_service.app.revisions import LiveRevision
from opportune_service.core.backfill import Aside, Fill, fillable, fills_of, logged_under
from opportune_service.core.calendars import DAY_US
from opportune_service.core.events import MAX_SKEW_US, Event
from opportune_service.core.revision import EngineFactory, Revision, stamped
from opportune_service.core.state import SubscriberState

log = logging.getLogger(__name__)

T = TypeVar("T")

_PAGE = 16
"""Rows that are read in one go: commits wait for some milliseconds at most."""

_SLACK_US = 3 * DAY_US
"""Rows that were taken in so long before the longest window hold nothing that is still read: zones, late
events and clocks that are ahead come to less."""

_FILLS = 500
_RETRY_SECONDS = 1.0
_SAY_EVERY = 10_000
"""Rows of the log between two words on how far it is."""


@dataclass(slots=True)
class BackfillStatus:
    """How far the backfill is that runs now. `row` of `rows` log rows are read; then `filled` of
    `subscribers` subscribers are brought what was found."""

    metrics: tuple[str, ...]
    row: int
    rows: int
    subscribers: int = 0
    filled: int = 0


class Backfill:
    """The backfills of one service. `status` is None while none runs."""

    def __init__(
        self,
        live: LiveRevision,
        states: LiveState,
        ledger: Ledger,
        thread: LedgerThread,
        clock: Clock,
        make_engine: EngineFactory,
        ingest: Ingest,
    ) -> None:
        self._live = live
        self._states = states
        self._ledger = ledger
        self._thread = thread
        self._clock = clock
        self._make_engine = make_engine
        self._ingest = ingest
        self._task: asyncio.Task[None] | None = None
        self.status: BackfillStatus | None = None

    def start(self) -> None:
        """Make whatever waits in the ledger, in the background. A run under way is given up: it was for a
        revision that is not live any more."""
        if self._task is not None:
            self._task.cancel()
        self._task = asyncio.create_task(self._run())

    def resume(self) -> None:
        """The same where whoever was at it may have died. A run under way goes on."""
        if self._task is None or self._task.done():
            self.start()

    async def wait(self) -> None:
        """Until nothing waits."""
        if self._task is not None:
            await self._task

    async def close(self) -> None:
        """Give up what runs; the next start of the service begins it anew."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        while True:
            try:
                revision = self._live.current
                for boundary, keys in sorted((await self._thread.run(self._waiting)).items()):
                    await self._make(revision, boundary, keys)
            except NoRulebaseError:
                return
            except OpportuneError as error:
                log.warning("a backfill was cut off and begins anew: %s", error)
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                return
            finally:
                self.status = None

    def _waiting(self) -> dict[int, set[str]]:
        """Boundary -> keys that wait. In the ledger's thread."""
        births = self._ledger.births()
        waiting: dict[int, set[str]] = defaultdict(set)
        for key in self._ledger.backfills():
            waiting[births[key]].add(key)
        return waiting

    async def _make(self, revision: Revision, boundary: int, keys: Set[str]) -> None:
        wanted = {
            each: [
                metric
                for metric in each.rulebase.metrics.values()
                if metric.key in each.own_keys & keys and fillable(metric, each.rulebase.vocabulary)
            ]
            for each in revision.side_by_side
        }
        wanted = {each: metrics for each, metrics in wanted.items() if metrics}
        metrics = [metric for some in wanted.values() for metric in some]
        since_us: Mapping[str, int] = {}
        generation = self._live.generation
        if metrics:
            names = tuple(metric.name for metric in metrics)
            log.info("backfilling %s from the log up to position %d", ", ".join(names), boundary)
            self.status = BackfillStatus(names, 0, boundary)
            with _Worker(wanted, self._make_engine) as worker:
                since_us = await self._read(worker, metrics, revision, boundary, self.status)
                await self._bring(worker, boundary, generation, self.status)
        await self._ingest.forewarn()
        await self._ingest.between(lambda: self._finish(revision, boundary, keys, since_us))
        if metrics:
            log.info("backfilled %s", ", ".join(metric.name for metric in metrics))

    async def _read(
        self,
        worker: _Worker,
        metrics: Sequence[Metric],
        revision: Revision,
        boundary: int,
        status: BackfillStatus,
    ) -> dict[str, int]:
        """Fold the log up to the boundary aside. Metric key -> since when its events were taken in without
        a break; those of which they were not up to the end are left out."""
        reach = _Reach(metrics, revision.rulebase.vocabulary, self._vocabulary)
        window_us = max(metric.last_us or (metric.days or 0) * DAY_US for metric in metrics)
        oldest_us = self._clock.now_us() - window_us - _SLACK_US
        after = 0
        while after < boundary and (rows := await self._thread.run(self._page, after)):
            for row in rows:
                after = row.position
                if row.position > boundary:
                    break
                status.row = row.position
                if row.position % _SAY_EVERY == 0:
                    log.info("backfill: %d of %d log rows read", row.position, boundary)
                if row.kind is not LogKind.EVENTS:
                    continue
                if 0 < row.now_us < oldest_us:
                    continue
                events = await worker.do(events_of, row)
                new = {event.subscriber_id for event in events} - worker.states.keys()
                known = await self._states.contexts(new)
                contexts = {id_: dict(context) for id_, context in known.items()}
                await worker.do(worker.fold, row.source, events, contexts)
                await reach.see(row, events)
        return reach.since_us

    def _page(self, after: int) -> list[LogRow]:
        """In the ledger's thread."""
        return list(islice(self._ledger.read_log(after), _PAGE))

    async def _vocabulary(self, revision: str) -> Vocabulary | None:
        """That of an earlier revision; None if it cannot be told any more."""
        # Events are taken in as the first of those that a row is stamped with declares them.
        archive = await self._thread.run(self._ledger.rulebase_archive, stamped(revision)[0])
        if archive is None:
            return None
        try:
            return (await asyncio.to_thread(lambda: load(from_archive(archive)))).vocabulary
        except RulebaseError:
            return None

    async def _bring(self, worker: _Worker, boundary: int, generation: int, status: BackfillStatus) -> None:
        """What was found, to the subscribers, some at a time."""
        status.subscribers = len(worker.states)
        while worker.states:
            fills = worker.fills(boundary, _FILLS)
            if self._live.generation != generation:
                raise OutdatedError("what was read of the log need not be in it any more")
            if fills:
                await self._ingest.fill(fills)
            status.filled = status.subscribers - len(worker.states)

    async def _finish(
        self, revision: Revision, boundary: int, keys: Collection[str], since_us: Mapping[str, int]
    ) -> None:
        """Between two commit groups: whatever is committed later, by any member, knows what is covered."""
        if self._live.current is not revision:
            raise SupersededError("another revision has become live meanwhile")
        revisions = [each.id for each in revision.side_by_side]
        finished = await self._thread.run(self._set_back, revisions, boundary, keys, since_us)
        generation, position, coverage, births = finished
        revision.live_since(coverage, births)
        self._ingest.begin_generation(generation, position)

    def _set_back(
        self,
        revisions: Sequence[str],
        boundary: int,
        keys: Collection[str],
        since_us: Mapping[str, int],
    ) -> tuple[int, int, Mapping[str, int], Mapping[str, int]]:
        """In the ledger's thread; the generation that begins with it, the position of the last that was
        logged before, coverage and births as they are then."""
        with self._ledger.transaction() as tx:
            generation, births = tx.advance(), self._ledger.births()
            if [each.revision for each in self._ledger.in_force()] != revisions or any(
                births.get(key, boundary) != boundary for key in keys
            ):
                raise SupersededError("another member has activated a revision meanwhile")
            whole_us = self._ledger.coverage().get(LOG_KEY, 0)
            tx.finish_backfill(keys, {key: max(each, whole_us) for key, each in since_us.items()})
            return generation, self._ledger.last_position(), self._ledger.coverage(), births


class _Worker:
    """A thread that folds aside metrics of revisions that run side by side, with engines of its own. What
    is under way when it is left is finished before the engines are closed."""

    def __init__(self, wanted: Mapping[Revision, Collection[Metric]], make_engine: EngineFactory) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="backfill")
        self.states: dict[str, SubscriberState] = {}
        self._revisions: list[Revision] = []
        self._asides: list[Aside] = []
        for each, metrics in wanted.items():
            revision = Revision(each.rulebase, make_engine(each.rulebase), each.coverage, each.births)
            self._revisions.append(revision)
            self._asides.append(Aside(revision, metrics, self.states))

    def fold(self, source: str, events: Sequence[Event], contexts: Mapping[str, Mapping[str, Any]]) -> None:
        """See `Aside.fold`."""
        for each in self._asides:
            each.fold(source, events, contexts)

    def fills(self, boundary: int, most: int) -> list[Fill]:
        """Of all metrics of a subscriber together: whoever has taken in a backfill takes in no other of the
        same boundary."""
        return fills_of(self.states, boundary, most)

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *_: object) -> None:
        for revision in self._revisions:
            self._executor.submit(revision.close)
        self._executor.shutdown(wait=False)

    async def do(self, call: Callable[..., T], *args: object) -> T:
        return await asyncio.wrap_future(self._executor.submit(call, *args))


class _Reach:
    """Since when the events of some metrics were taken in without a break, as rows of the log tell that are
    seen in order: while a revision was live that did not declare them so, they were rejected."""

    def __init__(
        self,
        metrics: Sequence[Metric],
        vocabulary: Vocabulary,
        vocabulary_of: Callable[[str], Awaitable[Vocabulary | None]],
    ) -> None:
        self._metrics = metrics
        self._vocabulary = vocabulary
        self._vocabulary_of = vocabulary_of
        self._lacking: dict[str, frozenset[str]] = {}
        self.since_us: dict[str, int] = {}

    async def see(self, row: LogRow, events: Sequence[Event]) -> None:
        lacking = self._lacking.get(row.revision)
        if lacking is None:
            lacking = self._lacking[row.revision] = await self._lacking_in(row.revision)
        at_us = row.now_us or min(event.occurred_at_us for event in events)
        for metric in self._metrics:
            if metric.key in lacking:
                self.since_us.pop(metric.key, None)
            else:
                self.since_us.setdefault(metric.key, at_us + MAX_SKEW_US)

    async def _lacking_in(self, revision: str) -> frozenset[str]:
        then = await self._vocabulary_of(revision)
        return frozenset(
            metric.key
            for metric in self._metrics
            if then is None or not logged_under(metric, self._vocabulary, then)
        )
