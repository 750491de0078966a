"""Let stored revisions decide. A failure of any kind keeps the last good revision and says so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from opportune_rulebase.errors import Problem, RulebaseError

from opportune_service.app.errors import OpportuneError, RulebaseRefusedError
from opportune_service.app.ingest import Ingest
from opportune_service.app.ledger_thread import LedgerThread
from opportune_service.app.ports import Clock, Ledger
from opportune_service.app.recover import LOG_KEY
from opportune_service.app.revisions import LiveRevision, stored_rulebase
from opportune_service.app.schedule import trigger_key
from opportune_service.core.events import MAX_SKEW_US
from opportune_service.core.revision import EngineFactory, Revision

_PASSED_BY_US = MAX_SKEW_US + 60_000_000
"""An event may lie ahead of the clock, and some come in before a reload has taken place: up to so long
after the activation, events may have passed under the revision before, which did not fold them."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """How an attempt to activate went. `message` is empty if it succeeded."""

    revision: str
    at_us: int
    message: str = ""
    problems: tuple[Problem, ...] = ()


class Activations:
    """Which revisions are in force, and how another one comes to be."""

    def __init__(
        self,
        live: LiveRevision,
        ingest: Ingest,
        ledger: Ledger,
        thread: LedgerThread,
        clock: Clock,
        make_engine: EngineFactory,
        on_activated: Callable[[], None],
    ) -> None:
        self._live = live
        self._ingest = ingest
        self._ledger = ledger
        self._thread = thread
        self._clock = clock
        self._make_engine = make_engine
        self._on_activated = on_activated
        self._activating = asyncio.Lock()
        self.last_attempt: Attempt | None = None
        """The last attempt to activate a revision since the start."""

    async def activate(
        self, revision: str, expected: str | None, by: str, comment: str, *, backfill: bool = True
    ) -> str:
        """Make an uploaded revision live for every batch from now on; returns the one it replaces.

        `expected` is the revision that the caller believes to be active ("" for none); None means
        whichever is. `backfill`: whether metrics that become live with it are filled from the log, in the
        background; without, they are covered from now on only. All or nothing: on any error the live
        revision stays. Raises `UnknownRevisionError`, `StoreConflictError` (another one is active),
        `RulebaseRefusedError`, `StoreUnavailableError`.
        """
        # A caller that goes away in the middle must not leave the store and the live revision apart.
        return await asyncio.shield(
            asyncio.create_task(self._try_activate(revision, expected, by, comment, backfill))
        )

    async def _try_activate(
        self, revision: str, expected: str | None, by: str, comment: str, backfill: bool
    ) -> str:
        at_us = self._clock.now_us()
        try:
            previous = await self._swap(revision, expected, by, comment, backfill)
        except OpportuneError as error:
            problems = error.problems if isinstance(error, RulebaseRefusedError) else ()
            self.last_attempt = Attempt(revision, at_us, str(error), problems)
            raise
        self.last_attempt = Attempt(revision, at_us)
        return previous

    async def _swap(
        self, revision: str, expected: str | None, by: str, comment: str, backfill: bool
    ) -> str:
        async with self._activating:
            try:
                rulebase = await self._thread.run(stored_rulebase, self._ledger, revision)
                engine = await asyncio.to_thread(self._make_engine, rulebase)
            except RulebaseError as error:
                raise RulebaseRefusedError(error.problems) from error
            try:
                # Made before the ledger calls it active: nothing that may fail comes after.
                ready = Revision(rulebase, engine, {})
                previous = await self._put_in_place(ready, expected, by, comment, backfill)
            except BaseException:
                engine.close()
                raise
            self._on_activated()
            if previous is None:
                return ""
            await self._ingest.retire(previous)
            return previous.id

    async def _put_in_place(
        self, ready: Revision, expected: str | None, by: str, comment: str, backfill: bool
    ) -> Revision | None:
        """Between two commit groups: what the log holds by then was folded before, all that comes after it
        is folded under this revision. Returns the one that was live before."""
        replaced: list[Revision | None] = []

        async def swap() -> None:
            begun = await self._thread.run(self._activate, ready, expected, by, comment, backfill)
            self._ingest.begin_generation(*begun)
            replaced.append(self._live.swap(ready))

        await self._ingest.between(swap)
        return replaced[0]

    def _activate(
        self, revision: Revision, expected: str | None, by: str, comment: str, backfill: bool
    ) -> tuple[int, int]:
        """The generation that begins with it, and the position of the last that was logged before."""
        rulebase = revision.rulebase
        with self._ledger.transaction() as tx:
            # Whatever is being committed elsewhere is so under the revision before; nothing is after.
            generation = tx.advance()
            active, now_us = self._ledger.active_revision(), self._clock.now_us()
            since_us = now_us + _PASSED_BY_US if active else now_us
            from_now = [LOG_KEY, *map(trigger_key, rulebase.triggers)]
            tx.activate(
                revision.id,
                active if expected is None else expected,
                now_us,
                by,
                comment,
                dict.fromkeys(revision.keys, since_us) | dict.fromkeys(from_now, now_us),
                {metric.key for metric in rulebase.metrics.values()} if backfill else (),
            )
            revision.live_since(self._ledger.coverage(), self._ledger.births())
            return generation, self._ledger.last_position()
