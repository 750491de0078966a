"""Erase a subscriber: nothing of the record names the number any more, and nothing brings it back.

The log is rewritten while the service works, some rows at a time: rows that name the number are put in
place without it, together with the snapshots of others whose state named it, between two commit groups.
The last step does the same for what has come in meanwhile, and takes the subscriber out of live state and
out of all tables, in one transaction. So whatever was sent before the erasure is erased, whatever is sent
after it is new, and an erasure that a crash cut off is made whole by making it again.

What a shadow has decided is erased first, each time: where that fails, so does the erasure.

At the end a generation begins: what other members have read of the record and wait to do comes to nothing.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice

from opportune_service.app.errors import InvalidRequestError
from opportune_service.app.ingest import Ingest
from opportune_service.app.ledger_thread import LedgerThread
from opportune_service.app.log import encoded_items, items_of, log_row
from opportune_service.app.ports import Clock, Ledger, LedgerTransaction, LiveState
from opportune_service.app.records import LogRow
from opportune_service.app.shadow import Shadow
from opportune_service.app.takeover import hold
from opportune_service.core.erase import STAND_IN_DIGITS, Erasing
from opportune_service.core.state import SubscriberState, encode_state

log = logging.getLogger(__name__)

_PAGE = 64
"""Rows of the log that are looked at in one go: commits wait for some milliseconds at most."""

_NEVER = 2**63 - 1
"""A position after all others."""


@dataclass(frozen=True, slots=True)
class Erased:
    """Whether anything was known of the subscriber, and when the erasure was complete."""

    existed: bool
    at_us: int


@dataclass(slots=True)
class _Rewritten:
    """Rows of the log without the number, and the others who named it in them."""

    rows: list[LogRow]
    others: set[str]
    last: int


class Erasures:
    """The erasures of one service, one at a time. `restart_backfill` makes a backfill that runs begin anew:
    it holds what it has read of the log."""

    def __init__(
        self,
        states: LiveState,
        ledger: Ledger,
        thread: LedgerThread,
        clock: Clock,
        ingest: Ingest,
        restart_backfill: Callable[[], None],
        shadow: Shadow,
    ) -> None:
        self._states = states
        self._ledger = ledger
        self._thread = thread
        self._clock = clock
        self._ingest = ingest
        self._restart_backfill = restart_backfill
        self._shadow = shadow
        self._turn = asyncio.Lock()
        self._running: dict[str, asyncio.Task[Erased]] = {}

    async def erase(self, subscriber_id: str, by: str, reason: str) -> Erased:
        """Erase a subscriber and wait until that is durable; audited without the number. Who is unknown is
        erased as well. A call for a number that is being erased waits for that erasure, and one that is
        given up leaves it running.

        Raises `InvalidRequestError` if `reason` names the number, `StoreUnavailableError`: then part of it
        may be done, and the call is to be made again.
        """
        erasing = Erasing(subscriber_id, f"0{secrets.randbelow(10 ** (STAND_IN_DIGITS - 1)):014}")
        if erasing.names(reason):
            raise InvalidRequestError("reason", "reason must not name the number: the audit keeps it")
        task = self._running.get(subscriber_id)
        if task is None:
            task = self._running[subscriber_id] = asyncio.create_task(self._erase(erasing, by, reason))
            task.add_done_callback(lambda task: self._ended(subscriber_id, task))
        return await asyncio.shield(task)

    def _ended(self, subscriber_id: str, task: asyncio.Task[Erased]) -> None:
        del self._running[subscriber_id]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("an erasure was cut off and has to be asked for again: %s", error)

    async def _erase(self, erasing: Erasing, by: str, reason: str) -> Erased:
        async with self._turn:
            await self._shadow.settled()  # while nobody waits for it yet
            after = complete = 0
            named = False
            while True:
                complete_to, page = await self._thread.run(self._page, after)
                if not page:
                    break
                found = await asyncio.to_thread(_rewritten, page, erasing)
                if complete == after:
                    complete = min(found.last, complete_to)
                after = found.last
                if found.rows:
                    named = True
                    await self._ingest.between(partial(self._put, found, erasing))
                if len(page) < _PAGE:
                    break
            done: list[Erased] = []

            async def finish() -> None:
                done.append(await self._finish(erasing, complete, by, reason))

            await self._ingest.forewarn()
            await self._ingest.between(finish, erasing.number)
            return Erased(done[0].existed or named, done[0].at_us)

    def _page(self, after: int) -> tuple[int, list[LogRow]]:
        """Up to where no row will come in any more, and rows as they are then. Only of one member alone is
        a row that comes in later the last one."""
        complete_to = min((each.checkpoint for each in self._ledger.members()), default=_NEVER)
        return complete_to, list(islice(self._ledger.read_log(after), _PAGE))

    @asynccontextmanager
    async def _holding(self, subscriber_ids: Collection[str]) -> AsyncIterator[dict[str, SubscriberState]]:
        """The states of these, for the block to save, release or discard; if it fails, they are made
        good."""
        held = await hold(self._states, subscriber_ids)
        try:
            yield held
        except BaseException as error:
            self._ingest.make_good(held.keys(), error)
            raise

    async def _put(self, found: _Rewritten, erasing: Erasing) -> None:
        """Between two commit groups: live state is as the log has it."""
        # Before the log tells no more who the others are.
        await self._shadow.blot_out(erasing, found.others)
        async with self._holding(found.others) as held:
            states = await self._without(held, erasing)
            await self._thread.run(self._write, found, states, erasing)
            await self._replace(states)

    async def _without(
        self, held: Mapping[str, SubscriberState], erasing: Erasing
    ) -> dict[str, SubscriberState]:
        """The states of those of the others that name the number, without it; the rest are given up."""
        others = {each: erasing.state(state) for each, state in held.items() if each != erasing.number}
        await self._states.release([each for each, state in others.items() if state is None])
        return {each: state for each, state in others.items() if state is not None}

    def _write(self, found: _Rewritten, states: Mapping[str, SubscriberState], erasing: Erasing) -> None:
        """In the ledger's thread."""
        with self._ledger.transaction() as tx:
            _put_in_place(tx, found, states, erasing)

    async def _replace(self, states: Mapping[str, SubscriberState]) -> None:
        self._ingest.deferrals.forget()  # those of the others are read again
        await self._states.discard(states, states.keys())
        await self._states.save(states.keys())

    async def _finish(self, erasing: Erasing, after: int, by: str, reason: str) -> Erased:
        others: set[str] = set()
        while True:
            # From now on nobody takes in anything of the subscriber. All are held at once, or two members
            # that erase could wait for each other.
            async with self._holding({erasing.number, *others}) as held:
                tail = await self._tail(erasing, after)
                if tail.others <= others:
                    return await self._end(erasing, tail, held, by, reason)
                await self._states.release(held)
            others |= tail.others

    async def _tail(self, erasing: Erasing, after: int) -> _Rewritten:
        tail = _Rewritten([], set(), after)
        while page := (await self._thread.run(self._page, tail.last))[1]:
            found = await asyncio.to_thread(_rewritten, page, erasing)
            tail = _Rewritten(tail.rows + found.rows, tail.others | found.others, found.last)
        return tail

    async def _end(
        self,
        erasing: Erasing,
        tail: _Rewritten,
        held: Mapping[str, SubscriberState],
        by: str,
        reason: str,
    ) -> Erased:
        number = erasing.number
        await self._shadow.erase(erasing, tail.others, by, reason)
        known = held[number] != SubscriberState()
        states = await self._without(held, erasing)
        at_us = self._clock.now_us()

        def write() -> bool:
            with self._ledger.transaction() as tx:
                _put_in_place(tx, tail, states, erasing)
                return tx.erase(erasing, at_us, by, reason)

        existed = await self._thread.run(write)
        # In a transaction of its own: the commits of all others wait for it, and while the subscriber is
        # held none of them is about the number.
        self._ingest.begin_generation(*await self._thread.run(self._advance))
        self._ingest.forget(number)
        await self._replace(states)
        await self._states.discard({}, [number])
        self._restart_backfill()
        return Erased(existed or known or bool(tail.rows), at_us)

    def _advance(self) -> tuple[int, int]:
        """In the ledger's thread. The generation that begins, and the last position before it."""
        with self._ledger.transaction() as tx:
            return tx.advance(), self._ledger.last_position()


def _put_in_place(
    tx: LedgerTransaction,
    found: _Rewritten,
    states: Mapping[str, SubscriberState],
    erasing: Erasing,
) -> None:
    """All that others said in these rows, and what came of it, together: what a crash cuts off after it is
    found again by the rows that are left."""
    tx.lock({erasing.number, *found.others})
    tx.replace_log(found.rows)
    tx.blot_out(erasing, found.others)
    tx.save_states((each, state.position, encode_state(state)) for each, state in states.items())


def _rewritten(page: Sequence[LogRow], erasing: Erasing) -> _Rewritten:
    """Those rows of a page that name the number, without it. Decompressing takes the time; call it off the
    event loop."""
    found = _Rewritten([], set(), page[-1].position)
    for row in page:
        if not erasing.may_name(encoded_items(row)):
            continue
        items = items_of(row)
        left, others = erasing.items(items)
        if len(left) < len(items) or others:
            found.rows.append(log_row(row.position, row.kind, row.source, row.now_us, row.revision, left))
            found.others |= others
    return found
