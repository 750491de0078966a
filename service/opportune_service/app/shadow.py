"""What a shadow decides: in a ledger of its own, so that it contacts nobody and bears on nothing.

The shadow folds and matches beside the revision in full force; its moments come here once the commit that
they were observed with is durable, and are decided in a thread and a ledger apart. Its caps, quotas and
cool-downs count what it would have contacted itself, from when it began. Nobody is attached to that ledger,
so what it reserves is never handed out.

No fault of it harms what is real: where its ledger cannot be written, or does not keep up, moments are
dropped and counted (`lost`). A crash may lose the last of them. One thing does not let it be: whoever is
erased is erased here too, or the erasure fails.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from typing import Protocol, TypeVar

from opportune_service.app.commit import decide_apart
from opportune_service.app.errors import NotReadyError, OpportuneError
from opportune_service.app.housekeeping import Housekeeping
from opportune_service.app.ledger_thread import LedgerThread
from opportune_service.app.ports import Clock, Ledger, LiveState
from opportune_service.app.records import Kept
from opportune_service.app.retention import Keep, horizons
from opportune_service.app.revisions import LiveRevision
from opportune_service.app.works import Shadowed
from opportune_service.core.erase import Erasing
from opportune_service.core.observe import observe_deferred
from opportune_service.core.revision import peers_of

log = logging.getLogger(__name__)

T = TypeVar("T")

MOST_WAITING = 2_000
"""Moments that wait to be decided; what comes on top is dropped. A ledger in a file decides as many in
about a second."""

_DEFERRALS = 200
_EXPIRE_AT_ONCE = 1_000


class Clearable(Ledger, Protocol):
    """A ledger that can be emptied."""

    def clear(self) -> None:
        """Empty it, as if it had just been made."""
        ...


OpenShadow = Callable[[bool], Clearable | None]
"""Opens the ledger of the shadow: (whether to make one) -> None if there is none. Blocking. Raises
`StoreUnavailableError`."""


class Shadow:
    """The ledger of the shadow, opened when it is first needed. `decided` moments, and those `lost`, since
    the start."""

    def __init__(self, live: LiveRevision, states: LiveState, clock: Clock, open_: OpenShadow) -> None:
        self._live = live
        self._states = states
        self._clock = clock
        self._open = open_
        self._ledger: Clearable | None = None
        self._waiting = 0
        self._fails = False
        self._pieces: set[asyncio.Future[None]] = set()
        self.thread = LedgerThread()
        self.decided = 0
        self.lost = 0

    async def begin(self) -> None:
        """Make sure that there is a ledger. Raises `StoreUnavailableError`."""
        await self.thread.run(self._opened)

    async def begin_anew(self) -> None:
        """Forget what shadows have decided so far. If that fails it is said, and nothing else comes of
        it."""
        try:
            await self.thread.run(lambda: self._opened().clear())
        except OpportuneError as error:
            log.warning("what an earlier shadow decided was not emptied out: %s", error)

    def take(self, moments: Sequence[Shadowed]) -> None:
        """Have these decided; waits for nothing and raises nothing."""
        if self._waiting + len(moments) > MOST_WAITING:
            self._lose(len(moments), "its ledger does not keep up")
            return
        self._waiting += len(moments)
        piece = asyncio.ensure_future(self._decide(moments))
        self._pieces.add(piece)
        piece.add_done_callback(self._pieces.discard)

    async def _decide(self, moments: Sequence[Shadowed]) -> None:
        try:
            await self.thread.run(lambda: decide_apart(self._opened(), moments))
        except OpportuneError as error:
            self._lose(len(moments), str(error))
        except Exception:
            log.exception("deciding for the shadow failed")
            self._lose(len(moments), "a fault")
        else:
            self.decided += len(moments)
            self._fails = False
        finally:
            self._waiting -= len(moments)

    def _lose(self, count: int, why: str) -> None:
        self.lost += count
        if not self._fails:
            log.warning("the shadow loses decisions, nothing else is harmed: %s", why)
        self._fails = True

    async def settle_due(self) -> None:
        """Decide again what the shadow deferred and is due by now, each subscriber's together, with the
        state of this moment. Raises nothing."""
        try:
            while await self._settle_some():
                pass
        except OpportuneError as error:
            self._lose(0, str(error))
        except Exception:
            log.exception("deciding again what the shadow deferred failed")

    async def _settle_some(self) -> bool:
        """Whether there may be more."""
        shadow = self._live.current.shadow if self._live.id else None
        if shadow is None or not shadow.defers:
            return False
        now_us = self._clock.now_us()
        found = await self.thread.run(lambda: self._opened().due_deferrals(now_us, _DEFERRALS))
        for subscriber_id in sorted({each.subscriber_id for each in found}):
            due = [each for each in found if each.subscriber_id == subscriber_id]
            told = [(each.trigger.type, each.trigger.attributes) for each in due]
            state = await self._states.view(subscriber_id, peers_of(shadow, told))
            if self._live.current.shadow is not shadow:
                return False  # its engine is closed
            moment = observe_deferred(shadow, due, state, now_us, peers=self._states.peek)
            await self._decide_now(Shadowed(shadow, moment))
        return len(found) >= _DEFERRALS

    async def _decide_now(self, moment: Shadowed) -> None:
        await self.thread.run(lambda: decide_apart(self._opened(), [moment]))
        self.decided += 1

    async def ledger(self) -> Ledger:
        """The ledger, to be read in `thread`. Raises `NotReadyError` if no shadow ever decided anything,
        `StoreUnavailableError`."""
        found = await self.thread.run(self._found)
        if found is None:
            raise NotReadyError("no revision was ever activated as a shadow: nothing is decided in one")
        return found

    async def blot_out(self, erasing: Erasing, others: Collection[str]) -> None:
        """As of the ledger's transaction, if there is anything. Raises `StoreUnavailableError`."""

        def write(ledger: Ledger) -> None:
            with ledger.transaction() as tx:
                tx.lock({erasing.number, *others})
                tx.blot_out(erasing, others)

        await self._if_there(write)

    async def erase(self, erasing: Erasing, others: Collection[str], by: str, reason: str) -> None:
        """The same of erasing. Raises `StoreUnavailableError`."""

        def write(ledger: Ledger) -> None:
            with ledger.transaction() as tx:
                tx.lock({erasing.number, *others})
                tx.blot_out(erasing, others)
                tx.erase(erasing, self._clock.now_us(), by, reason)

        await self._if_there(write)

    async def prune(self, keep: Keep, now_us: int) -> None:
        """Let go what is old, as of the ledger that counts, but to no archive. Raises `NoRulebaseError`,
        `StoreUnavailableError`."""
        ledger = await self.thread.run(self._found)
        if ledger is None:
            return
        # Nobody ever sends what it has decided, so it would be held for ever.
        until_us = horizons(self._live.current, keep, now_us)[Kept.HISTORY].before_us - 1
        while await self.thread.run(_expire, ledger, until_us) == _EXPIRE_AT_ONCE:
            pass
        await Housekeeping(self._live, ledger, self.thread, self._clock, keep).turn(now_us)

    async def settled(self) -> None:
        """Until all that was taken is decided or lost."""
        await asyncio.gather(*self._pieces)

    async def close(self) -> None:
        """Decide what was taken, then close."""
        await self.settled()
        await self.thread.run(self._close)
        self.thread.close()

    async def _if_there(self, call: Callable[[Ledger], None]) -> None:
        ledger = await self.thread.run(self._found)
        if ledger is not None:
            await self.thread.run(call, ledger)

    # -- in the thread ------------------------------------------------------------------------------

    def _found(self) -> Clearable | None:
        if self._ledger is None:
            self._ledger = self._open(False)
        return self._ledger

    def _opened(self) -> Clearable:
        if self._ledger is None:
            self._ledger = self._open(True)
        assert self._ledger is not None  # noqa: S101 - it makes one
        return self._ledger

    def _close(self) -> None:
        if self._ledger is not None:
            self._ledger.close()


def _expire(ledger: Ledger, until_us: int) -> int:
    with ledger.transaction() as tx:
        return tx.expire(until_us, _EXPIRE_AT_ONCE)
