"""Let stored revisions decide. A failure of any kind keeps the last good revision and says so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from opportune_rulebase import from_archive, load
from opportune_rulebase.errors import Problem, RulebaseError
from opportune_rulebase.model import Rulebase

from opportune_service.app.aside import aside
from opportune_service.app.errors import (
    NotReadyError,
    OpportuneError,
    RulebaseRefusedError,
    StoreConflictError,
)
from opportune_service.app.ingest import Ingest
from opportune_service.app.ledger_thread import LedgerThread
from opportune_service.app.ports import Clock, Ledger
from opportune_service.app.records import ActivationMode, InForce, StepKind
from opportune_service.app.recover import LOG_KEY
from opportune_service.app.revisions import LiveRevision, alongside, joining, stored_archive
from opportune_service.app.schedule import trigger_key
from opportune_service.app.shadow import Shadow
from opportune_service.core.events import MAX_SKEW_US
from opportune_service.core.lanes import disagreements
from opportune_service.core.revision import EngineFactory, Revision

_PASSED_BY_US = MAX_SKEW_US + 60_000_000
"""An event may lie ahead of the clock, and some come in before a reload has taken place: up to so long
after the activation, events may have passed under the revision before, which did not fold them."""


_QUICKER = "another revision has come into force meanwhile: read again what is, and try again"


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
        shadow: Shadow,
        kept: Callable[[str], Rulebase | None],
    ) -> None:
        """`kept`: the rulebase of a revision if somebody has loaded it a moment ago."""
        self._live = live
        self._ingest = ingest
        self._ledger = ledger
        self._thread = thread
        self._clock = clock
        self._make_engine = make_engine
        self._on_activated = on_activated
        self._shadow = shadow
        self._kept = kept
        self._activating = asyncio.Lock()
        self.last_attempt: Attempt | None = None
        """The last attempt to activate a revision since the start."""

    async def activate(
        self,
        revision: str,
        expected: str | None,
        by: str,
        comment: str,
        *,
        backfill: bool = True,
        mode: ActivationMode = ActivationMode.FULL,
        share: int = 0,
        kind: StepKind = StepKind.ACTIVATED,
    ) -> str:
        """Let an uploaded revision take part from the next batch on; returns the one in whose place it is,
        "" if there was none.

        `expected` is the revision that the caller believes to be in full force ("" for none); None means
        whichever is. In full it takes the place of all that take part. As a canary it decides for `share`
        of a million subscribers, in the place of an earlier canary; as a shadow for nobody, in that of an
        earlier shadow; both fold beside the one in full force. `backfill`: whether metrics that become live
        with it are filled from the log, in the background; without, they are covered from now on only.
        `kind`: the step that is noted.

        All or nothing: on any error all stays as it was. Raises `UnknownRevisionError`,
        `StoreConflictError` (another one is in full force), `NotReadyError` (it cannot run beside the one
        in full force, or there is none), `RulebaseRefusedError`, `StoreUnavailableError`.
        """
        # A caller that goes away in the middle must not leave the store and what is live apart.
        asked = _Asked(revision, expected, by, comment, backfill, mode, share, kind)
        return await asyncio.shield(asyncio.create_task(self._try_activate(asked)))

    async def _try_activate(self, asked: _Asked) -> str:
        at_us = self._clock.now_us()
        try:
            previous = await self._swap(asked)
        except OpportuneError as error:
            problems = error.problems if isinstance(error, RulebaseRefusedError) else ()
            self.last_attempt = Attempt(asked.revision, at_us, str(error), problems)
            raise
        self.last_attempt = Attempt(asked.revision, at_us)
        return previous

    async def _swap(self, asked: _Asked) -> str:
        async with self._activating:
            before = await self._thread.run(self._ledger.in_force)
            archive = await self._thread.run(stored_archive, self._ledger, asked.revision)
            kept = self._kept(asked.revision)
            full = self._live.current if asked.mode is not ActivationMode.FULL and self._live.id else None
            try:
                # Made before the ledger calls it active: nothing that may fail comes after.
                ready = await aside(lambda: self._made_ready(asked, kept or archive, before, full))
            except RulebaseError as error:
                raise RulebaseRefusedError(error.problems) from error
            try:
                if asked.mode is ActivationMode.SHADOW:
                    await self._shadow.begin()
                retired = await self._put_in_place(ready, asked, full)
            except BaseException:
                for each in ready.side_by_side:
                    if full is None or each.engine is not full.engine:
                        each.close()
                raise
            if asked.mode is ActivationMode.SHADOW:
                await self._shadow.begin_anew()
            self._on_activated()
            for each in retired:
                await self._ingest.retire(each)
            return next((each.revision for each in before if each.mode is asked.mode), "")

    def _made_ready(
        self, asked: _Asked, stored: Rulebase | bytes, before: Sequence[InForce], full: Revision | None
    ) -> Revision:
        """What is to be live from now on. In a thread of its own: to load an archive takes five times as
        long as the rest."""
        rulebase = stored if isinstance(stored, Rulebase) else load(from_archive(stored))
        if asked.mode is ActivationMode.FULL:
            return Revision(rulebase, self._make_engine(rulebase), {})
        if full is None:
            raise NotReadyError("no revision is in full force: activate one before others run beside it")
        faults = disagreements(full.rulebase, rulebase)
        if faults:
            raise NotReadyError(
                f"revision {asked.revision[:12]} cannot run beside the one in full force:"
                f" {'; '.join(faults)}; activate it in full, or declare the same"
            )
        known = {each.revision.id: each.revision.rulebase for each in full.beside}
        known[rulebase.revision] = rulebase
        among = asked.put_among(before)
        if any(each.revision not in known for each in among[1:]):
            raise StoreConflictError(_QUICKER)
        return alongside(full, joining(known, among), self._make_engine)

    async def _put_in_place(
        self, ready: Revision, asked: _Asked, full: Revision | None
    ) -> Sequence[Revision]:
        """Between two commit groups: what the log holds by then was folded before, all that comes after it
        is folded under these. Returns those that are live no more."""
        retired: list[Revision] = []

        async def swap() -> None:
            if full is not None and self._live.current is not full:
                raise StoreConflictError(_QUICKER)
            begun = await self._thread.run(self._activate, ready, asked)
            self._ingest.begin_generation(*begun)
            retired.extend(self._live.swap(ready))

        await self._ingest.forewarn()
        await self._ingest.between(swap)
        return retired

    def _activate(self, ready: Revision, asked: _Asked) -> tuple[int, int]:
        """The generation that begins with it, and the position of the last that was logged before."""
        joined = next(each for each in reversed(ready.side_by_side) if each.id == asked.revision)
        with self._ledger.transaction() as tx:
            # Whatever is being committed elsewhere is so under those before; nothing is after.
            generation = tx.advance()
            before = self._ledger.in_force()
            active, now_us = self._ledger.active_revision(), self._clock.now_us()
            since_us = now_us + _PASSED_BY_US if active else now_us
            from_now = [LOG_KEY, *map(trigger_key, ready.triggers)]
            tx.activate(
                asked.revision,
                active if asked.expected is None else asked.expected,
                now_us,
                asked.by,
                asked.comment,
                dict.fromkeys(ready.keys, since_us) | dict.fromkeys(from_now, now_us),
                {metric.key for metric in joined.rulebase.metrics.values()} if asked.backfill else (),
                asked.mode,
                asked.share,
                asked.kind,
            )
            live = [each.id for each in ready.side_by_side]
            if [each.revision for each in asked.put_among(before)] != live:
                raise StoreConflictError(_QUICKER)
            ready.live_since(self._ledger.coverage(), self._ledger.births())
            return generation, self._ledger.last_position()


class _Asked(NamedTuple):
    """What `activate` was asked for."""

    revision: str
    expected: str | None
    by: str
    comment: str
    backfill: bool
    mode: ActivationMode
    share: int
    kind: StepKind

    def put_among(self, in_force: Sequence[InForce]) -> list[InForce]:
        """What is in force when this is, too."""
        own = InForce(self.revision, self.mode, self.share, 0, self.by, self.comment)
        if self.mode is ActivationMode.FULL:
            return [own]
        every = {each.mode: each for each in in_force} | {self.mode: own}
        return [every[mode] for mode in ActivationMode if mode in every]
