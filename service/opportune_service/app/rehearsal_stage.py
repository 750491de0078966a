"""One revision on a private copy of the state: the pipeline that serves, on a virtual clock.

Before the events that are decided come those that are only folded. They go through the same pipeline,
under the revision without its campaigns: patterns complete, timers fire, facts are remembered, and nobody
is a candidate.

Time runs in one of two ways:

- **As recorded** (the log): each batch is taken in at the instant when it came in, as it was then, late
  events and all; timers settle by the watermarks of their sources, at the end of each tick.
- **Own time** (a file, of which nobody knows when its events came in): as in replay.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Protocol

from opportune_rulebase.model import Rulebase

from opportune_service.app.defer import decide_due
from opportune_service.app.ingest import Ingest, Receipt
from opportune_service.app.ledger_thread import LedgerThread
from opportune_service.app.ports import LiveState
from opportune_service.app.recover import LOG_KEY
from opportune_service.app.rehearsal import Batch, Past
from opportune_service.app.replay import replay, run_on
from opportune_service.app.revisions import LiveRevision
from opportune_service.app.schedule import Schedule, trigger_key
from opportune_service.core.deferral import MINUTE_US
from opportune_service.core.events import Event
from opportune_service.core.revision import EngineFactory, Revision
from opportune_service.core.verdict import Usage, Verdict

_NEVER_US = 2**63 - 1
_AHEAD_US = 3_600_000_000
"""So far ahead is read what will be due."""


class SetClock(Protocol):
    """A clock that stands until it is set."""

    value_us: int

    def now_us(self) -> int: ...


Remember = Callable[[Sequence[Past], Usage], None]
"""Puts down in the private ledger what the service's own had from before. In the ledger's thread."""


class Stage:
    """Takes batches in, in order, and gives verdicts. `rejected`: events that it refused, by reason."""

    def __init__(
        self,
        rulebase: Rulebase,
        make_engine: EngineFactory,
        live: LiveRevision,
        states: LiveState,
        thread: LedgerThread,
        remember: Remember,
        ingest: Ingest,
        schedule: Schedule,
        clock: SetClock,
        *,
        own_time: bool,
    ) -> None:
        self.rulebase = rulebase
        self._make_engine = make_engine
        self._live = live
        self._states = states
        self._thread = thread
        self._remember = remember
        self._ingest = ingest
        self._schedule = schedule
        self._clock = clock
        self._own_time = own_time
        self._begun = False
        self._swept_us = 0
        self._verdicts: list[Verdict] = []
        self.rejected: Counter[str] = Counter()

    def hear(self, verdicts: Sequence[Verdict]) -> None:
        """What the pipeline has decided."""
        self._verdicts += verdicts

    def verdicts(self) -> list[Verdict]:
        """Those since the last time this was asked."""
        verdicts, self._verdicts = self._verdicts, []
        return verdicts

    # -- what was before ----------------------------------------------------------------------------

    def fold_since(self, covered_us: int) -> None:
        """Begin to fold; everything is folded since then."""
        silent = replace(self.rulebase, campaigns={})
        self._live.swap(Revision(silent, self._make_engine(silent), self._coverage(covered_us)))

    def know(self, people: Iterable[tuple[str, bytes]]) -> None:
        """Encoded states, before anything is taken in."""
        self._states.restore(people)

    async def remember(self, past: Sequence[Past], usage: Usage) -> None:
        """What was decided before."""
        await self._thread.run(self._remember, past, usage)

    async def begin(self, since_us: int, covered_us: int) -> None:
        """From now on events are decided."""
        coverage = self._coverage(covered_us)
        coverage |= {trigger_key(name): since_us for name in self.rulebase.triggers}
        revision = Revision(self.rulebase, self._make_engine(self.rulebase), coverage)

        async def swap() -> None:
            for silent in self._live.swap(revision):
                silent.close()

        await self._advance(since_us)
        await self._ingest.between(swap)
        self._swept_us = since_us - 1
        self._begun = True

    def _coverage(self, covered_us: int) -> dict[str, int]:
        rulebase = self.rulebase
        folded = (*rulebase.metrics.values(), *rulebase.facts.values(), *rulebase.patterns.values())
        return {LOG_KEY: covered_us} | {each.key: covered_us for each in folded}

    # -- what is recorded ---------------------------------------------------------------------------

    async def take(self, batches: Sequence[Batch]) -> None:
        """Take in what came in within one tick, and settle what is due by then."""
        if self._own_time:
            for batch in batches:
                await self._replay(batch)
            return
        # What was due before anything came in.
        await self._advance(batches[0].now_us - 1)
        pending: list[asyncio.Future[Receipt]] = []
        for batch in batches:
            self._set(batch.now_us)
            if batch.records:
                await self._ingest.import_context(batch.source, batch.records)
            if batch.events:
                pending.append(await self._ingest.offer(batch.source, batch.events))
        for done in pending:
            self._count(await done)
        await self._advance(batches[-1].now_us)

    async def run_to(self, until_us: int) -> None:
        """Let time pass without events."""
        await self._advance(until_us)

    async def _replay(self, batch: Batch) -> None:
        if batch.records:
            await self._ingest.import_context(batch.source, batch.records)
        if batch.events:
            await self._advance(batch.events[0].occurred_at_us - 1)
            report = await replay(self._ingest, batch.source, batch.events)
            self.rejected += report.rejections
            self._set(_latest(batch.events))

    def _count(self, receipt: Receipt) -> None:
        if receipt.rejections:
            self.rejected.update(each.reason.value for each in receipt.rejections)

    def _set(self, at_us: int) -> None:
        """Time never goes back."""
        self._clock.value_us = max(self._clock.value_us, at_us)

    async def _advance(self, to_us: int) -> None:
        while True:
            next_us = self._next_sweep_us()
            if not self._own_time:
                ingest = self._ingest
                next_us = min(next_us, ingest.next_timer_us, self._next_deferral_us())
            if next_us > to_us:
                break
            if self._own_time:
                await run_on(self._ingest, next_us - 1)
            self._set(next_us)
            await self._settle()
        if self._own_time:
            await run_on(self._ingest, to_us)
        self._set(to_us)

    async def _settle(self) -> None:
        """What is due by the virtual clock."""
        now_us = self._clock.now_us()
        if not self._own_time:
            while self._ingest.next_timer_us <= now_us:
                await self._ingest.settle_timers()
            if self._begun:
                await decide_due(self._ingest, now_us, _AHEAD_US)
        if self._next_sweep_us() <= now_us:
            self._swept_us = now_us
            await self._schedule.turn()

    def _next_sweep_us(self) -> int:
        """Triggers are due at whole minutes."""
        if not (self._begun and self.rulebase.triggers):
            return _NEVER_US
        return (self._swept_us // MINUTE_US + 1) * MINUTE_US

    def _next_deferral_us(self) -> int:
        """When something that was deferred is due, or has to be read from the ledger to know."""
        if not (self._begun and self._ingest.revision.defers):
            return _NEVER_US
        known = self._ingest.deferrals
        return min(known.next_us(), max(known.until_us, self._clock.now_us()))


def _latest(events: Sequence[Event]) -> int:
    return max(event.occurred_at_us for event in events)
