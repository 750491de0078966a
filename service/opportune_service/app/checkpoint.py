"""Snapshots of live state in the background, so that a restart has little of the log to fold again.

A round saves every subscriber that was dirty when it began, some at a time between commit groups. Each
snapshot carries the log position that it includes, so the subscribers of a round need not be of one
moment: replay skips for each what it holds already. When the round is through, replay may begin after the
position at which it began.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence

from opportune_service.app.errors import StoreUnavailableError
from opportune_service.app.ledger_thread import LedgerThread
from opportune_service.app.ports import Ledger, LiveState
from opportune_service.core.watermarks import SourceMark

log = logging.getLogger(__name__)

CHUNK = 200
"""Subscribers that are encoded at a time: about 10 ms, as a batch takes, between two commit groups."""

ROUND_S = 20
MOST_REST_S = 0.1
"""A round of many chunks is spread over so many seconds, by rests of at most a tenth: who waits for an
answer meanwhile should not notice. Where it takes longer anyway, there are none."""


Heartbeat = tuple[int, Mapping[str, SourceMark]]
"""Now, and how far the sources have come."""


class Checkpoints:
    """Rounds of snapshots. `refused` tells, in the ledger's thread, that live state is not to be trusted:
    a commit that it rests on has failed. `on_saved` is called when a `step` has ended, well or not, and
    it is time for the next. `heartbeat` gives what the end of a round puts down besides, also of one with
    nothing to save. `member` tells whose checkpoint it is; 0 where there are no others. `ended_us`: when
    the last round was completed, at first when this was made."""

    def __init__(
        self,
        states: LiveState,
        ledger: Ledger,
        thread: LedgerThread,
        refused: Callable[[], bool],
        on_saved: Callable[[], None],
        heartbeat: Callable[[], Heartbeat],
        member: Callable[[], int] = lambda: 0,
    ) -> None:
        self._states = states
        self._ledger = ledger
        self._thread = thread
        self._refused = refused
        self._on_saved = on_saved
        self._heartbeat = heartbeat
        self._member = member
        self._left: list[str] = []
        # Those of the round who were in use when it was their turn.
        self._late: list[str] = []
        self._position = 0
        self._saving: asyncio.Task[None] | None = None
        self._every_s = 0.0
        self.due = False
        self.ended_us = heartbeat()[0]
        self.resting = False

    async def step(self, position: int) -> None:
        """Snapshot some of the round's subscribers; `due` stays set until the round is through.

        Call it when live state equals what was handed to the ledger's thread up to `position`, nothing
        more: the write is queued behind the commits that it rests on. To begin a round, all of that must
        be saved (`LiveState.save`) too. Never call it while one is `saving`: were a later one to end the
        round, replay would begin after what an earlier one failed to save. Raises `StoreUnavailableError`
        when live state cannot be read: the round is abandoned. While it is `resting`, better wait.
        """
        if not self.begun:
            self._left, self._position = list(self._states.dirty()), position
            self._every_s = min(MOST_REST_S, ROUND_S * CHUNK / max(1, len(self._left)))
        next_at = asyncio.get_running_loop().time() + self._every_s
        if not self._left:
            self._left, self._late = self._late, []
        chunk, self._left = self._left[:CHUNK], self._left[CHUNK:]
        try:
            rows = await self._states.snapshot(chunk)
        except StoreUnavailableError:
            self._states.still_dirty(chunk)
            self.abandon()
            raise
        if len(rows) < len(chunk):
            left_out = set(chunk) - {each for each, _, _ in rows}
            self._late += left_out.intersection(self._states.dirty())
        self.due = self.begun
        end = None if self.due else (self._position, self._heartbeat())
        saved = self._thread.submit(self._save, rows, end)
        self._saving = asyncio.create_task(self._finish(saved, chunk, next_at))

    @property
    def begun(self) -> bool:
        """Whether a round is under way."""
        return bool(self._left or self._late)

    @property
    def waiting(self) -> bool:
        """Whether all who are left in the round were in use when it was their turn."""
        return bool(self._late) and not self._left

    @property
    def saving(self) -> bool:
        """Whether a snapshot is on its way to the ledger."""
        return self._saving is not None and not self._saving.done()

    def abandon(self) -> None:
        """End the round; what it has not saved stays dirty."""
        self._left.clear()
        self._late.clear()
        self.due = False

    async def wait(self) -> None:
        """Until everything submitted is saved or has failed."""
        if self._saving is not None:
            await self._saving

    async def _finish(self, saved: asyncio.Future[None], chunk: Sequence[str], next_at: float) -> None:
        """A snapshot that was not saved leaves its subscribers to the next round."""
        try:
            await saved
        except Exception:
            log.warning("a snapshot was not saved; the log still has everything", exc_info=True)
            self._states.still_dirty(chunk)
            self.abandon()
        if self.begun:
            self.resting = True
            asyncio.get_running_loop().call_at(next_at, self._rested)
        else:
            self._on_saved()

    def _rested(self) -> None:
        self.resting = False
        self._on_saved()

    def _save(self, rows: Sequence[tuple[str, int, bytes]], end: tuple[int, Heartbeat] | None) -> None:
        if self._refused():
            raise StoreUnavailableError("a commit failed; the service is recovering")
        with self._ledger.transaction() as tx:
            tx.save_states(rows)
            if end is not None:
                position, (alive_us, sources) = end
                tx.save_checkpoint(position, self._member())
                tx.save_heartbeat(alive_us, sources)
        if end is not None:
            self.ended_us = end[1][0]
