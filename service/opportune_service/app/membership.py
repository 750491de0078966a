"""This process among the members: equal processes that share a ledger and a store of live state.

A member holds the subscribers of what it is just taking in; nobody else touches them meanwhile
(`LiveState`). What it commits is guarded: it fails if the others took this member for dead, or if what all
of them work under is another by now (a revision was activated). So whoever was only slow does no harm:

    silent for SILENT_US  ->  another member expels it, which waits for its commit under way;
                              folds what it committed into the states that lack it;
                              and takes whom it held for free.

Whatever must be done once, whoever does it, is done by the **leader**, the oldest member that lives: timers
whose member died, triggers, what was deferred, expiry.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, TypeVar

from opportune_service.app.errors import StoreUnavailableError
from opportune_service.app.ledger_thread import LedgerThread
from opportune_service.app.log import items_of
from opportune_service.app.ports import Clock, Ledger, LedgerTransaction, LiveState
from opportune_service.app.records import Member
from opportune_service.app.recover import Recovered, Refolder, recovered_only
from opportune_service.core.revision import EngineFactory
from opportune_service.core.state import SubscriberState
from opportune_service.core.watermarks import SourceMark

log = logging.getLogger(__name__)

T = TypeVar("T")

SILENT_US = 5_000_000
"""A member that has said nothing for so long is taken for dead."""

BEAT_SECONDS = 1.0

_SETTLED = 3
"""So many beats after it has joined, all others know of a member, and it of them."""

_MEMBER_BITS = 10
_TAKEOVER = "takeover"
_FOLD_AT_ONCE = 32
_PATIENCE_SECONDS = 5.0
_LOOK_AGAIN_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class Pulse:
    """What a beat tells: the members, the generation, how far the sources of all have come, and the members
    that are to be taken over."""

    members: tuple[Member, ...]
    generation: int
    sources: Mapping[str, SourceMark]
    silent: frozenset[int] = frozenset()

    def knows(self, number: int) -> bool:
        """Whether this member is one of them still."""
        return any(each.number == number and not each.expelled for each in self.members)


class Membership:
    """`number` tells this member from all others that there ever were; `generation` is that of what it
    works under. `ledger` and `thread` are a connection of its own, so that no long work keeps it from
    saying that it lives; what it writes with the pipeline goes by the pipeline's.

    Use: `join` before anything is loaded; `beat` every BEAT_SECONDS; `guard` in every commit.
    """

    def __init__(self, ledger: Ledger, thread: LedgerThread, states: LiveState, clock: Clock) -> None:
        self._ledger = ledger
        self._thread = thread
        self._states = states
        self._clock = clock
        self._present: set[int] = set()
        self._gone: set[int] = set()
        self._living: tuple[int, ...] = ()
        self._silent: frozenset[int] = frozenset()
        self._beats = 0
        self.number = 0
        self.generation = 0

    # -- log positions ------------------------------------------------------------------------------

    def positions(self) -> Callable[[int], int]:
        """Gives the position after one: later than it, not earlier than now, and never that of another
        member. (A hybrid logical clock: Kulkarni and others, 2014.)"""
        now = self._clock.now_us()
        low = self.number % (1 << _MEMBER_BITS)

        def following(position: int) -> int:
            return (max((position >> _MEMBER_BITS) + 1, now) << _MEMBER_BITS) + low

        return following

    def now_position(self) -> int:
        """All that this member logs later is logged under positions above it."""
        return self._clock.now_us() << _MEMBER_BITS

    # -- being a member -----------------------------------------------------------------------------

    async def join(self) -> None:
        """Become a member, for the first time or anew: nothing that was loaded before is known any more.
        Raises `StoreUnavailableError`."""
        self.number, self.generation = await self._thread.run(self._join)
        self._states.become(self.number)
        self._present, self._living, self._beats = set(), (), 0
        await self.beat({})
        log.info("joined as member %d", self.number)

    def _join(self) -> tuple[int, int]:
        with self._ledger.transaction() as tx:
            number = tx.join(self.now_position())
        return number, self._ledger.generation()

    def guard(self, tx: LedgerTransaction) -> None:
        """Raises `ExpelledError`, `SupersededError`."""
        tx.guard(self.number, self.generation)

    async def beat(self, marks: Mapping[str, SourceMark]) -> Pulse:
        """Say that this member lives, and how far its sources have come; what the others say. Raises
        `StoreUnavailableError`."""
        before, self._silent = self._silent, frozenset()
        pulse = await self._thread.run(self._beat, marks)
        self._silent = frozenset(each.number for each in pulse.members if not _lives(each))
        # Twice in a row: when the store was away, everybody was silent.
        pulse = replace(pulse, silent=self._silent & before)
        present = {each.number for each in pulse.members}
        if present != self._present:
            # Numbers are given in order: those missing among them are of members that are gone.
            for number in set(range(1, max(present, default=1))) - present - self._gone:
                self._gone.add(number)
                await self._states.take_over(number)
        self._present = present
        self._living = tuple(each.number for each in pulse.members if _lives(each))
        self._beats += 1
        return pulse

    def _beat(self, marks: Mapping[str, SourceMark]) -> Pulse:
        with self._ledger.transaction() as tx:
            tx.beat(self.number)
            tx.save_heartbeat(self._clock.now_us(), marks)
        ledger = self._ledger
        members, generation = tuple(ledger.members()), ledger.generation()
        return Pulse(members, generation, ledger.heartbeat()[1])

    @property
    def leads(self) -> bool:
        """Whether this member does what is to be done once. Two may for a moment, when one was silent."""
        return self._beats >= _SETTLED and self._living[:1] == (self.number,)

    def share(self, amount: int) -> int:
        """This member's part of an amount that all of them share; together they are no more than it."""
        if self._beats < _SETTLED or self.number not in self._living:
            return 0
        whole, rest = divmod(amount, len(self._living))
        return whole + (self._living.index(self.number) < rest)

    async def leave(self) -> None:
        """When all is committed, saved and snapshotted: nobody has to take over. Raises
        `StoreUnavailableError`."""
        await self._thread.run(self._leave)

    def _leave(self) -> None:
        with self._ledger.transaction() as tx:
            tx.leave(self.number)


def _lives(member: Member) -> bool:
    return not member.expelled and member.silent_us < SILENT_US


# -- taking over ------------------------------------------------------------------------------------
#
# In the thread of the pipeline's ledger, while the pipeline waits. Folding is one transaction with its end:
# if this member dies on the way, the next one begins anew.


@dataclass(frozen=True, slots=True)
class Folding:
    """What taking over needs: the pipeline's ledger, and live state, whose calls are for the event loop."""

    ledger: Ledger
    states: LiveState
    make_engine: EngineFactory
    loop: asyncio.AbstractEventLoop

    def wait(self, call: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(call, self.loop).result()


async def enter(
    membership: Membership,
    ledger: Ledger,
    thread: LedgerThread,
    states: LiveState,
    make_engine: EngineFactory,
) -> Recovered:
    """Join for the first time, with the pipeline's ledger and its thread: live state is then the one that
    goes with the ledger. Raises `StoreUnavailableError`."""
    await membership.join()
    folding = Folding(ledger, states, make_engine, asyncio.get_running_loop())
    await thread.run(rebuild, folding, membership.number)
    return await thread.run(recovered_only, ledger)


def take_over(with_: Folding, own: int, numbers: Collection[int]) -> list[int]:
    """Expel those of these members that are still silent, and finish what they left; who they were.
    Raises `StoreUnavailableError`: then nothing of it has happened as far as anybody can tell."""
    with with_.ledger.transaction() as tx:
        dead = _dead(with_.ledger, own, numbers)
        for number in dead:
            tx.expel(number)  # for good: it is not to come back in the middle of what follows
    if not dead:
        return []
    with _taking(with_, dead), with_.ledger.transaction() as tx:
        tx.lock((), [_TAKEOVER])
        members = {each.number: each for each in with_.ledger.members()}
        left = [members[number] for number in dead if number in members]  # another may have been quicker
        if own not in members or not left:
            raise StoreUnavailableError("others have taken over meanwhile")
        marks = {each.number % (1 << _MEMBER_BITS) for each in left}
        after = min(each.checkpoint for each in left)
        _fold(with_, after, lambda position: position % (1 << _MEMBER_BITS) in marks)
        # What they touched is snapshotted by this member now.
        tx.save_checkpoint(min(after, members[own].checkpoint), own)
        for each in left:
            tx.leave(each.number)
    return dead


def _dead(ledger: Ledger, own: int, numbers: Collection[int]) -> list[int]:
    members = {each.number: each for each in ledger.members()}
    if own not in members:
        return []
    return [number for number in numbers if number in members and not _lives(members[number])]


@contextmanager
def _taking(with_: Folding, numbers: Collection[int]) -> Iterator[None]:
    """Whom these hold is free for the block, and from then on if it succeeds."""
    for number in numbers:
        with_.wait(with_.states.take_over(number))
    try:
        yield
    except BaseException:
        for number in numbers:
            with_.wait(with_.states.leave_be(number))
        raise


def rebuild(with_: Folding, own: int) -> bool:
    """Make live state what the record says, if its store is not the one that goes with the ledger any more:
    it is new, or was restarted and may have lost something. All other members are expelled, and join anew.
    False: there was nothing to do. Raises `ExpelledError`, `StoreUnavailableError`."""
    with with_.ledger.transaction() as tx:
        tx.guard(own, with_.ledger.generation())
        tx.lock((), [_TAKEOVER])
        identity, before = with_.wait(with_.states.identity()), with_.ledger.live_state_id()
        if before == identity:
            return False
        after = with_.ledger.checkpoint()
        others = [each.number for each in with_.ledger.members() if each.number != own]
        with_.wait(_forget_all(with_.states, own))
        for number in others:
            tx.expel(number)
        with _taking(with_, others):
            rows = _fold(with_, after, lambda _: True)
        tx.save_live_state_id(identity)
        tx.save_checkpoint(after, own)
        for number in others:
            tx.leave(number)
    if before:
        log.warning("the store of live state is not the one before: rebuilt it from %d log rows", rows)
    return True


async def _forget_all(states: LiveState, own: int) -> None:
    states.become(own)


def _fold(with_: Folding, after: int, wanted: Callable[[int], bool]) -> int:
    """Fold the rows after a position into the states that lack them; how many rows there were. Whoever is
    held by a member that lives lacks nothing of one that is expelled: it gave them away when they were
    saved."""
    refolder = Refolder(with_.ledger, with_.make_engine)
    rows = (row for row in with_.ledger.read_log(after) if wanted(row.position))
    count = 0
    try:
        while some := list(islice(rows, _FOLD_AT_ONCE)):
            count += len(some)
            told = [(row, items_of(row)) for row in some]
            named = {item.subscriber_id for _, items in told for item in items}
            states = dict(with_.wait(with_.states.load(named)))
            for row, items in told:
                refolder.fold(row, items, states)
            with_.wait(with_.states.save(states.keys()))
    finally:
        refolder.close()
    return count


async def hold(states: LiveState, subscriber_ids: Collection[str]) -> dict[str, SubscriberState]:
    """The states of all of these, as soon as no other member holds any of them. The caller must hold nobody
    else, or two members could wait for each other. Raises `StoreUnavailableError` if it takes too long."""
    held = dict(await states.load(subscriber_ids))
    waited = 0.0
    while missing := set(subscriber_ids) - held.keys():
        if waited >= _PATIENCE_SECONDS:
            await states.release(held)
            raise StoreUnavailableError("others are at work on these subscribers; try again")
        await asyncio.sleep(_LOOK_AGAIN_SECONDS)
        waited += _LOOK_AGAIN_SECONDS
        held.update(await states.load(missing))
    return held
