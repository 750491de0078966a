"""What is old leaves the ledger: written to the archive first, then deleted, a little at a time.

A day goes as a whole (days in UTC), at the first look after it has grown old enough. Everything happens in
steps of the ledger's thread that take some milliseconds, with as long a rest after each, so that commits
have their turn. What the archive has is deleted only if it is still what was written: what changed
meanwhile stays, and is written again at the next look. So a crash anywhere loses nothing, and leaves at
worst some of it in two files.

One process does this for a ledger; several would do no harm, but the same work twice.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import ParamSpec, TypeVar

from opportune_service.app.errors import NoRulebaseError, OpportuneError
from opportune_service.app.ledger_thread import LedgerThread
from opportune_service.app.ports import Archive, Clock, Ledger
from opportune_service.app.records import Aged, Kept, Place
from opportune_service.app.retention import Horizon, Keep, horizons
from opportune_service.app.revisions import LiveRevision
from opportune_service.core.calendars import DAY_US

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

EVERY_SECONDS = 3600.0
"""How often to look. A look that finds no new day costs nothing."""

_STEP = {Kept.LOG: 16, Kept.HISTORY: 50, Kept.USAGE: 1_000}
_STEP_ELSE = 200
"""What is read or deleted in one go: some milliseconds, for which commits wait at most."""

PIECE_BYTES = 16 * 1024 * 1024
"""About so much goes into one file of the archive; it is held in memory meanwhile."""


class Housekeeping:
    """The housekeeping of one ledger. `archive` None: what is old is deleted and kept nowhere. `mine` tells
    whether it is this process that does it."""

    def __init__(
        self,
        live: LiveRevision,
        ledger: Ledger,
        thread: LedgerThread,
        clock: Clock,
        keep: Keep,
        archive: Archive | None = None,
        mine: Callable[[], bool] = lambda: True,
    ) -> None:
        self._live = live
        self._ledger = ledger
        self._thread = thread
        self._clock = clock
        self._keep = keep
        self._archive = archive
        self._mine = mine
        self._done: dict[Kept, int] = {}
        self._said: set[tuple[str, int]] = set()

    async def run(self, every_seconds: float = EVERY_SECONDS) -> None:
        """Look so often, until cancelled. A clock that jumps ahead, and back before the next look, makes
        nothing old."""
        now_us = self._clock.now_us()
        while True:
            await asyncio.sleep(every_seconds)
            earlier_us, now_us = now_us, self._clock.now_us()
            if not self._mine():
                continue
            try:
                await self.turn(min(earlier_us, now_us))
            except NoRulebaseError:
                pass  # nobody knows what it will need
            except (OpportuneError, OSError) as error:
                log.warning("housekeeping was cut off, nothing is lost; it goes on later: %s", error)

    async def turn(self, now_us: int) -> Mapping[Kept, int]:
        """Prune all that is old by then; how much of each kind. Raises `NoRulebaseError`,
        `StoreUnavailableError`, and OSError if the archive cannot be written: the next turn goes on."""
        pruned: Counter[Kept] = Counter()
        for kind, horizon in horizons(self._live.current, self._keep, now_us).items():
            self._say_once(horizon)
            if horizon.before_us > self._done.get(kind, 0):
                pruned[kind] = await self._prune(kind, horizon.before_us)
                self._done[kind] = horizon.before_us
        found = {kind: count for kind, count in pruned.items() if count}
        if found:
            kept = "archived and pruned" if self._archive else "pruned"
            log.info("%s: %s", kept, ", ".join(f"{count} of {kind.value}" for kind, count in found.items()))
        return found

    async def _prune(self, kind: Kept, before_us: int) -> int:
        pruned = 0
        async with aclosing(self._pieces(kind, before_us)) as pieces:
            async for piece in pieces:
                gone = await self._let_go(piece)
                pruned += gone
                if kind is Kept.LOG and gone < len(piece.rows):
                    break  # a log with a hole would count as whole from before it
        return pruned

    async def _pieces(self, kind: Kept, before_us: int) -> AsyncGenerator[_Piece, None]:
        """What is old, in pieces for the archive; without one, as it is read."""
        piece, place = _Piece(), Place()
        while True:
            found, after = await self._step(self._ledger.aged, kind, before_us, place, step_of(kind))
            for each in found:
                if piece.rows and (piece.day != each.at_us // DAY_US or piece.bytes >= PIECE_BYTES):
                    yield piece
                    piece = _Piece()
                piece.add(each)
            if piece.rows and (after is None or self._archive is None):
                yield piece
                piece = _Piece()
            if after is None:
                return
            place = after

    async def _let_go(self, piece: _Piece) -> int:
        """Archive and delete; how many are gone."""
        rows = list(piece.rows.values())
        if self._archive is not None:
            await asyncio.to_thread(self._archive.put, rows[0].kind, piece.day, rows)
        gone, size = 0, step_of(rows[0].kind)
        for begin in range(0, len(rows), size):
            some = rows[begin : begin + size]
            deleted = await self._step(self._delete, some)
            gone += deleted
            if some[0].kind is Kept.LOG and deleted < len(some):
                break
        return gone

    def _delete(self, rows: list[Aged]) -> int:
        """In the ledger's thread."""
        with self._ledger.transaction() as tx:
            return tx.prune(rows)

    async def _step(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """One step in the ledger's thread, then a rest of the same length."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        result = await self._thread.run(call, *args, **kwargs)
        await asyncio.sleep(loop.time() - began)
        return result

    def _say_once(self, horizon: Horizon) -> None:
        said = (horizon.setting, horizon.days)
        if horizon.days > horizon.wanted_days and said not in self._said:
            self._said.add(said)
            log.warning(
                "%s is %d, but the rulebase looks back further: %d days are kept",
                *(horizon.setting, horizon.wanted_days, horizon.days),
            )


def step_of(kind: Kept) -> int:
    """How many of a kind are looked at in one go."""
    return _STEP.get(kind, _STEP_ELSE)


class _Piece:
    """What goes into one file: of one day, each once, though several pages may have it."""

    def __init__(self) -> None:
        self.rows: dict[tuple[object, ...], Aged] = {}
        self.day = 0
        self.bytes = 0

    def add(self, each: Aged) -> None:
        self.day = each.at_us // DAY_US
        if each.key not in self.rows:
            self.rows[each.key] = each
            self.bytes += sum(
                len(value)
                for _, columns in each.rows
                for value in columns.values()
                if isinstance(value, bytes | str)
            )
