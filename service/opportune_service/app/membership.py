"""This process among the members: equal processes that share a ledger and a store of live state.

A member holds the subscribers of what it is just taking in; nobody else touches them meanwhile
(`LiveState`). What it commits is guarded: it fails if the others took this member for dead, or if what all
of them work under is another by now (a revision was activated). So whoever was only slow does no harm:

    silent for SILENT_US  ->  another member expels it, which waits for its commit under way;
                              folds what it committed into the states that lack it;
                              and takes whom it held for free (`takeover.py`).

Whatever must be done once, whoever does it, is done by the **leader**, the oldest member that lives: timers
whose member died, triggers, what was deferred, expiry.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

from opportune_service.app.ledger_thread import LedgerThread
from opportune_service.app.ports import Clock, Ledger, LedgerTransaction, LiveState
from opportune_service.app.records import Member
from opportune_service.core.stable import digest
from opportune_service.core.watermarks import SourceMark

log = logging.getLogger(__name__)

SILENT_US = 5_000_000
"""A member that has said nothing for so long is taken for dead."""

BEAT_SECONDS = 1.0

_SETTLED = 3
"""So many beats after it has joined, all others know of a member, and it of them."""

_TURN_US = 5_000_000
_PAUSE_US = 1_000_000
"""So long into a turn, what whoever had the one before did in it still counts."""
_TURNS = b"opp-turn"

_MEMBER_BITS = 10


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
    works under; all that it logs is to be above the position `joined_at`. `ledger` and `thread` are a
    connection of its own, so that no long work keeps it from saying that it lives; what it writes with the
    pipeline goes by the pipeline's.

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
        self.joined_at = 0
        self.number = 0
        self.generation = 0

    # -- log positions ------------------------------------------------------------------------------

    def positions(self) -> Callable[[int], int]:
        """Gives the position after one: later than it, not earlier than now, and never that of another
        member. (A hybrid logical clock: Kulkarni and others, 2014.)"""
        now = self._clock.now_us()
        low = writer_of(self.number)

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
        self.joined_at = self.now_position()
        self.number, self.generation = await self._thread.run(self._join)
        self._states.become(self.number)
        self._present, self._living, self._beats = set(), (), 0
        await self.beat({})
        log.info("joined as member %d", self.number)

    def _join(self) -> tuple[int, int]:
        with self._ledger.transaction() as tx:
            number = tx.join(self.joined_at)
        return number, self._ledger.generation()

    def guard(self, tx: LedgerTransaction) -> None:
        """Raises `ExpelledError`, `SupersededError`."""
        tx.guard(self.number, self.generation)

    async def beat(self, marks: Mapping[str, SourceMark]) -> Pulse:
        """Say that this member lives, and how far its sources have come; what the others say. Raises
        `StoreUnavailableError`."""
        before, self._silent = self._silent, frozenset()
        pulse = await self._thread.run(self._beat, marks)
        self._silent = frozenset(each.number for each in pulse.members if not lives(each))
        # Twice in a row: when the store was away, everybody was silent.
        pulse = replace(pulse, silent=self._silent & before)
        present = {each.number for each in pulse.members}
        if present != self._present:
            # Numbers are given in order: those missing among them are of members that are gone.
            known = set(range(1, max(present, default=1))) | self._present
            for number in known - present - self._gone:
                self._gone.add(number)
                await self._states.take_over(number)
        self._present = present
        self._living = tuple(each.number for each in pulse.members if lives(each))
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

    @property
    def others(self) -> Collection[int]:
        """All other members that live."""
        return [each for each in self._living if each != self.number]

    def share(self, amount: int) -> int:
        """This member's part now of what all of them may do in a second, whenever that begins; together
        they are no more than it, as far as their clocks agree. What does not divide goes to one after the
        other, so that no member is left without for good."""
        if self._beats < _SETTLED or self.number not in self._living:
            return 0
        whole, rest = divmod(amount, len(self._living))
        turn, into_us = divmod(self._clock.now_us(), _TURN_US)
        if into_us < _PAUSE_US:
            return whole
        # An order that does not depend on who lives: two that do not agree on that never both have it.
        order = sorted(self._living, key=lambda number: digest(_TURNS, str(turn), str(number)))
        return whole + (order.index(self.number) < rest)

    async def leave(self) -> None:
        """When all is committed, saved and snapshotted: nobody has to take over. Raises
        `StoreUnavailableError`."""
        await self._thread.run(self._leave)

    def _leave(self) -> None:
        with self._ledger.transaction() as tx:
            tx.leave(self.number)


def lives(member: Member) -> bool:
    """Whether the others still count on it."""
    return not member.expelled and member.silent_us < SILENT_US


def writer_of(position: int) -> int:
    """The last bits of a log position tell the member that wrote the row: those of its number."""
    return position % (1 << _MEMBER_BITS)
