"""What a pipeline does because it shares its stores with those of other members: works under the generation
that has begun, takes over from members that died, joins anew when it was taken for dead itself.

All of it `between` two commit groups.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence

from opportune_service.app.aside import aside
from opportune_service.app.errors import ExpelledError
from opportune_service.app.ledger_thread import LedgerThread
from opportune_service.app.membership import Membership
from opportune_service.app.observing import Observer
from opportune_service.app.ports import Ledger, LiveState
from opportune_service.app.records import InForce
from opportune_service.app.revisions import LiveRevision, Made, make, runs, stored_archive
from opportune_service.app.takeover import Folding, rebuild, take_over
from opportune_service.core.revision import EngineFactory

log = logging.getLogger(__name__)


class Fellowship:
    """The pipeline of one member. All of it raises `StoreUnavailableError`."""

    def __init__(
        self,
        membership: Membership,
        live: LiveRevision,
        states: LiveState,
        ledger: Ledger,
        thread: LedgerThread,
        observer: Observer,
        make_engine: EngineFactory,
    ) -> None:
        self.membership = membership
        self._live = live
        self._states = states
        self._ledger = ledger
        self._thread = thread
        self._observer = observer
        self._make_engine = make_engine
        self.taken_over = 0
        """How many members this one has taken over from."""

    def _folding(self, begun: set[str]) -> Folding:
        return Folding(self._ledger, self._states, self._make_engine, asyncio.get_running_loop(), begun)

    async def take_over(self, silent: Collection[int], begun: set[str]) -> None:
        """`begun` gets those whose states are not what the record says if it fails."""
        gone = await self._thread.run(take_over, self._folding(begun), self.membership.number, silent)
        if gone:
            self.taken_over += len(gone)
            log.warning("took over from members that fell silent: %s", ", ".join(map(str, gone)))

    async def rejoin(self) -> bool:
        """Be a member whose live state goes with the ledger; whether all that was loaded is forgotten."""
        forgotten = False
        while True:
            try:
                forgotten |= await self._thread.run(rebuild, self._folding(set()), self.membership.number)
            except ExpelledError:
                await self.membership.join()
                self._observer.position = max(self._observer.position, self.membership.joined_at)
                forgotten = True
            else:
                return forgotten

    async def adopt(self, made: Made | None = None) -> None:
        """Work under the present generation. `made`: what may have been made ready for it before."""
        generation, in_force, position, since = await self._thread.run(self._present)
        if made is not None and not made.fits(self._live, in_force):
            made.close()
            made = None
        if made is None and not runs(self._live, in_force):
            made = await self.make_ready()
        if made is not None:
            for each in self._live.swap(made.revision):
                each.close()
            log.info("in force: %s", ", ".join(f"{each.revision[:12]} ({each.mode})" for each in in_force))
        if self._live.id:
            # Also where they are the same: one may have gone and come back, or a backfill has ended.
            self._live.current.live_since(*since)
        self._observer.deferrals.forget()  # what was taken for a commit that failed is still due
        self.begin_generation(generation, position)

    async def make_ready(self) -> Made | None:
        """What is in force, ready to be swapped in; None if it is live already. At any time."""
        in_force = await self._thread.run(self._ledger.in_force)
        if runs(self._live, in_force):
            return None
        archives = await self._thread.run(self._archives, in_force)
        full = self._live.current if self._live.id == in_force[0].revision else None
        return await aside(lambda: make(archives, in_force, full, self._make_engine))

    def begin_generation(self, generation: int, position: int) -> None:
        """Work under it from now on; all that was logged before it began is up to this position."""
        self._observer.position = max(self._observer.position, position)
        self._live.generation = self.membership.generation = generation

    def _archives(self, in_force: Sequence[InForce]) -> dict[str, bytes]:
        """In the ledger's thread."""
        return {each.revision: stored_archive(self._ledger, each.revision) for each in in_force}

    def _present(
        self,
    ) -> tuple[int, Sequence[InForce], int, tuple[Mapping[str, int], Mapping[str, int]]]:
        """In the ledger's thread. The generation first: if another begins meanwhile, guards will tell."""
        generation, in_force = self._ledger.generation(), self._ledger.in_force()
        since = self._ledger.coverage(), self._ledger.births()
        return generation, in_force, self._ledger.last_position(), since
