"""Backups of a ledger that one process has for itself: made by the service, while it works."""

from __future__ import annotations

import asyncio
import logging
import threading
from pathlib import Path

from opportune_service.app.errors import StoreUnavailableError
from opportune_service.app.ports import BackedUp, Clock, Ledger
from opportune_service.app.recover import uncover

log = logging.getLogger(__name__)

_RETRY_SECONDS = 60.0


class Backups:
    """Keeps a backup of the ledger at `path` that is not older than `every_seconds`, while `run` runs."""

    def __init__(self, ledger: BackedUp, clock: Clock, path: Path, every_seconds: float) -> None:
        self._ledger = ledger
        self._clock = clock
        self._path = path
        self._every_seconds = every_seconds
        self._asked = asyncio.Event()

    def ask(self) -> None:
        """Make one now, not only when the last one has grown old."""
        self._asked.set()

    async def run(self) -> None:
        """Make one whenever the last has grown old, or one is asked for, until cancelled. A failure is
        said, and tried again after a minute; the last one stays."""
        while True:
            try:
                async with asyncio.timeout(self._due_in_seconds()):
                    await self._asked.wait()
            except TimeoutError:
                pass
            self._asked.clear()
            try:
                await self.make()
            except StoreUnavailableError as error:
                log.error("%s", error)  # noqa: TRY400 - it says all there is to say
                await asyncio.sleep(_RETRY_SECONDS)

    async def make(self) -> None:
        """Write a backup and wait for it. Raises `StoreUnavailableError`: then the last one stays."""
        given_up = threading.Event()
        copying = asyncio.ensure_future(
            asyncio.to_thread(self._ledger.back_up, self._path, given_up.is_set)
        )
        try:
            await asyncio.shield(copying)
        except asyncio.CancelledError:
            given_up.set()  # the ledger is about to be closed
            await asyncio.wait([copying])
            raise
        log.info("a backup is written to %s", self._path)

    def _due_in_seconds(self) -> float:
        try:
            made_seconds = self._path.stat().st_mtime
        except OSError:
            return 0.0
        age_seconds = self._clock.now_us() / 1_000_000 - made_seconds
        # One from the future was made by a clock that has jumped.
        return max(0.0, self._every_seconds - age_seconds) if age_seconds >= 0 else 0.0


def note_restored(ledger: Ledger, now_us: int) -> None:
    """Put down in a ledger that was restored that what came after its backup is lost: nothing counts as
    covered from before now."""
    with ledger.transaction() as tx:
        uncover(ledger, tx, now_us)
