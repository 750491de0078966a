"""Find the subscribers for whom a trigger by date or schedule is due, and hand them over to the pipeline.

When the clock passes a moment of a trigger in a time zone, all known subscribers of that zone are looked
at: that is a **sweep**. A sweep is noted in the ledger when it is through. One that a crash, a reload or a
failing store cut off is made again from its beginning; the verdict of a subscriber is kept under trigger
and instant, so that nobody is decided twice.

Sweeps that were missed in the last day are made up; a campaign's `fresh_for` turns away what comes too late
for it. None is made up from before the trigger became active. A subscriber whose date or zone is imported
after the sweep of a day waits for the next one that fits.

Lots are drawn for the order in which people are handed over: where a quota is not enough for all, everybody
is as likely as anybody else to be within it, on another day others. The lots depend on subscriber ids and
the instant alone, neither on the order in which live state keeps them nor on the process that sweeps.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from datetime import tzinfo
from heapq import merge
from itertools import islice

from opportune_rulebase.model import Trigger
from xxhash import xxh3_64_intdigest

from opportune_service.app.errors import NoRulebaseError, OpportuneError
from opportune_service.app.ledger_thread import LedgerThread
from opportune_service.app.ports import Clock, Ledger, LiveState
from opportune_service.app.records import Sweep
from opportune_service.app.revisions import LiveRevision
from opportune_service.core.calendars import DAY_US
from opportune_service.core.events import Due
from opportune_service.core.revision import Revision
from opportune_service.core.schedule import due_at, moments

log = logging.getLogger(__name__)

Settle = Callable[[Sequence[Due]], Awaitable[object]]
"""Takes in what is due and waits until it is durable. Raises `StoreUnavailableError`."""

RETRY_SECONDS = 1.0

CHUNK = 100
"""Subscribers that are looked at in one go. A batch of events takes some turns of the event loop until it
is answered, and waits for one such look in each: half a millisecond."""

BATCH = 200
"""What is due is handed over in pieces of this size: so much is decided in one commit, and events wait."""

_RUN = 2_000
"""Subscribers that are put in order in one go: half a millisecond, too."""

MAKE_UP_US = DAY_US
_KEEP_US = 2 * DAY_US
# Finished sweeps are remembered for longer than they could be made up.

_CENSUS_US = 3_600_000_000
"""How often to look which time zones there are besides the operator's: so late may a new one be noticed."""


def trigger_key(name: str) -> str:
    """Under what the ledger keeps since when a trigger has been active, next to the coverage of metrics."""
    return f"trigger/{name}"


class Schedule:
    """The sweeps of one service. `run` makes them as the clock goes; `turn` those that are due now."""

    def __init__(
        self,
        live: LiveRevision,
        states: LiveState,
        ledger: Ledger,
        thread: LedgerThread,
        clock: Clock,
        settle: Settle,
    ) -> None:
        self._live = live
        self._states = states
        self._ledger = ledger
        self._thread = thread
        self._clock = clock
        self._settle = settle
        self._zones: dict[str, tzinfo] = {}
        self._census_us = 0
        self._turn = asyncio.Lock()
        # When a turn has something to do: under another revision, or outside of this span.
        self._revision: Revision | None = None
        self._idle_us = (0, 0)

    async def run(self, every_seconds: float, leads: Callable[[], bool]) -> None:
        """Look at the clock so often, and make the sweeps that are due while this process leads; until
        cancelled."""
        while True:
            try:
                if leads():
                    await self.turn()
            except NoRulebaseError:
                pass  # nothing is due
            except OpportuneError as error:
                log.warning("a sweep was cut off and will be made again: %s", error)
                await asyncio.sleep(RETRY_SECONDS)
            await asyncio.sleep(every_seconds)

    async def turn(self) -> None:
        """Make all sweeps that are due by now and not done. Raises `NoRulebaseError`, and
        `StoreUnavailableError` when one was cut off: the next turn makes it again."""
        async with self._turn:
            await self._make_due()

    async def _make_due(self) -> None:
        revision, now_us = self._live.current, self._clock.now_us()
        since_us, until_us = self._idle_us
        if revision is self._revision and since_us <= now_us < until_us:
            return
        until_us = now_us + _CENSUS_US
        if revision.triggers:
            known = revision is self._revision and 0 <= now_us - self._census_us < _CENSUS_US
            if not known and not await self._scan(revision, []):
                return  # another revision has come
            while pending := await self._pending(revision, now_us):
                log.info("sweeping for %s", ", ".join(sorted({each.trigger for each in pending})))
                if not await self._scan(revision, pending):
                    return
                await self._thread.run(self._finish, pending, now_us - _KEEP_US)
            until_us = self._next_us(revision, now_us, until_us)
        self._revision, self._idle_us = revision, (now_us, until_us)

    async def _pending(self, revision: Revision, now_us: int) -> list[Sweep]:
        """The sweeps that are due and not done, in the order in which they fell due."""
        due = {
            Sweep(trigger.name, zone, at_us)
            for trigger in revision.triggers.values()
            for zone, tz in self._zones.items()
            for at_us in moments(trigger, tz, self._from_us(revision, trigger, now_us), now_us)
        }
        if due:
            due -= await self._thread.run(self._ledger.sweeps)
        return sorted(due, key=lambda sweep: (sweep.due_us, sweep.trigger, sweep.zone))

    def _from_us(self, revision: Revision, trigger: Trigger, now_us: int) -> int:
        active_us = revision.coverage.get(trigger_key(trigger.name), now_us)
        return max(active_us, now_us - MAKE_UP_US)

    def _next_us(self, revision: Revision, now_us: int, until_us: int) -> int:
        """When the next sweep is due, at the latest `until_us`."""
        coming = [
            at_us
            for trigger in revision.triggers.values()
            for tz in self._zones.values()
            for at_us in moments(trigger, tz, now_us, until_us)
        ]
        return min(coming, default=until_us)

    async def _scan(self, revision: Revision, sweeps: Sequence[Sweep]) -> bool:
        """Look at everybody: settle whoever is due in these sweeps, and note which time zones there are.
        False: another revision became active on the way, or somebody was erased, and the scan ended."""
        tasks: dict[str, list[tuple[Sweep, Callable[[Mapping[str, object]], bool]]]] = defaultdict(list)
        for sweep in sweeps:
            trigger = revision.triggers[sweep.trigger]
            tasks[sweep.zone].append((sweep, due_at(trigger, self._zones[sweep.zone], sweep.due_us)))
        zones: dict[str, tzinfo] = {str(revision.rulebase.time_zone): revision.rulebase.time_zone}
        generation = self._live.generation
        at_us = sweeps[0].due_us if sweeps else 0
        everybody = await _by_lot(await self._states.subscribers(), at_us)
        dues: list[Due] = []
        while some := list(islice(everybody, CHUNK)):
            if self._live.current is not revision:
                return False
            contexts = await self._states.contexts(some)
            for subscriber_id in some:
                context = contexts.get(subscriber_id)
                if context is None:
                    continue
                zone = revision.zone_of(context)
                name = str(zone)
                zones[name] = zone
                known = {**revision.defaults, **context}
                dues += [
                    Due(subscriber_id, sweep.trigger, sweep.due_us)
                    for sweep, is_due in tasks.get(name, ())
                    if is_due(known) and _concerns(sweep.trigger, revision, subscriber_id)
                ]
            while len(dues) >= BATCH:
                if self._live.generation != generation:
                    return False
                await self._settle(dues[:BATCH])
                del dues[:BATCH]
            await asyncio.sleep(0)
        if dues:
            if self._live.generation != generation:
                return False
            await self._settle(dues)
        self._zones, self._census_us = zones, self._clock.now_us()
        return True

    def _finish(self, sweeps: Sequence[Sweep], forget_before_us: int) -> None:
        """In the ledger's thread."""
        with self._ledger.transaction() as tx:
            tx.finish_sweeps(sweeps, forget_before_us)


async def _by_lot(subscriber_ids: Sequence[str], at_us: int) -> Iterator[str]:
    """These in an order that is drawn for the instant, without keeping the event loop from its work for as
    long as sorting a million takes."""

    def lot(subscriber_id: str) -> int:
        return xxh3_64_intdigest(subscriber_id.encode(), at_us)

    runs: list[list[str]] = []
    for start in range(0, len(subscriber_ids), _RUN):
        runs.append(sorted(subscriber_ids[start : start + _RUN], key=lot))
        await asyncio.sleep(0)
    return merge(*runs, key=lot)


def _concerns(trigger: str, revision: Revision, subscriber_id: str) -> bool:
    """Whether the trigger is one of the revision that decides for the subscriber, or of the shadow."""
    if not revision.beside:
        return True
    deciding = (revision.of(subscriber_id), revision.shadow)
    return any(trigger in each.rulebase.triggers for each in deciding if each)
