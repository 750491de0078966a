"""Finish what others left: members that fell silent, or all of them when shared live state was lost.

In the thread of the pipeline's ledger, while the pipeline waits. Folding is one transaction with its end:
if this member dies on the way, the next one begins anew.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeVar

from opportune_service.app.errors import StoreUnavailableError
from opportune_service.app.ledger_thread import LedgerThread
from opportune_service.app.log import items_of
from opportune_service.app.membership import Membership, lives, writer_of
from opportune_service.app.ports import Ledger, LiveState
from opportune_service.app.recover import Recovered, Refolder, recovered_only
from opportune_service.app.timers import due_in
from opportune_service.core.revision import EngineFactory
from opportune_service.core.state import SubscriberState

log = logging.getLogger(__name__)

T = TypeVar("T")

_TAKEOVER = "takeover"
"""The name that whoever takes over holds: one does at a time."""
_FOLD_AT_ONCE = 4
"""Rows of the log. In between the store hears of this transaction, which it would end if it were idle."""
_SNAPSHOTS_AT_ONCE = 2_000
_HELD_AT_ONCE = 100_000
"""Subscribers whose states are in memory together: the log is read once for so many."""
_PATIENCE_SECONDS = 5.0
_LOOK_AGAIN_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class Folding:
    """What taking over needs: the pipeline's ledger, and live state, whose calls are for the event loop.
    `begun`: of whom some may be folded. If it fails, the caller makes them what the record says."""

    ledger: Ledger
    states: LiveState
    make_engine: EngineFactory
    loop: asyncio.AbstractEventLoop
    begun: set[str] = field(default_factory=set)

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
    recovered = await thread.run(recovered_only, ledger)
    recovered.position = max(recovered.position, membership.joined_at)
    return recovered


def take_over(with_: Folding, own: int, numbers: Collection[int]) -> list[int]:
    """Expel those of these members that are still silent, and finish what they left; who they were.
    Raises `StoreUnavailableError`: then nobody else can tell that anything has happened, and it is to be
    made again; but the states of those whom it had `begun` are half folded, and held."""
    with with_.ledger.transaction() as tx:
        tx.lock((), [_TAKEOVER])
        dead = _dead(with_.ledger, own, numbers)
        for number in dead:
            tx.expel(number)  # for good: it is not to come back in the middle of what follows
    if not dead:
        return []
    with _taking(with_) as take, with_.ledger.transaction() as tx:
        tx.lock((), [_TAKEOVER])
        members = {each.number: each for each in with_.ledger.members()}
        left = [members[number] for number in dead if number in members]  # another may have been quicker
        if own not in members or not left:
            raise StoreUnavailableError("others have taken over meanwhile")
        take(dead)
        living = {writer_of(number) for number in members if number not in dead}
        after = min(each.checkpoint for each in left)
        # Not only what they wrote: also what they had taken over, and not snapshotted yet.
        _fold(with_, after, lambda position: writer_of(position) not in living)
        # What is folded is snapshotted by this member now.
        tx.save_checkpoint(min(after, members[own].checkpoint), own)
        for each in left:
            tx.leave(each.number)
    return dead


def _dead(ledger: Ledger, own: int, numbers: Collection[int]) -> list[int]:
    members = {each.number: each for each in ledger.members()}
    if own not in members:
        return []
    return [number for number in sorted(numbers) if number in members and not lives(members[number])]


@contextmanager
def _taking(with_: Folding) -> Iterator[Callable[[Collection[int]], None]]:
    """Gives what frees those whom members hold: for the block, and from then on if it succeeds."""
    taken: list[int] = []

    def take(numbers: Collection[int]) -> None:
        for number in numbers:
            taken.append(number)
            with_.wait(with_.states.take_over(number))

    try:
        yield take
    except BaseException:
        for number in taken:
            with_.wait(with_.states.leave_be(number))
        raise


def rebuild(with_: Folding, own: int) -> bool:
    """Make live state what the record says, if its store is not the one that goes with the ledger any more:
    it is new, or was restarted and may have lost something. All other members are expelled, and join anew.
    False: there was nothing to do. Raises `ExpelledError`, `StoreUnavailableError`."""
    with _taking(with_) as take, with_.ledger.transaction() as tx:
        tx.lock((), [_TAKEOVER])  # first: two that had locked out their own commits would wait in a circle
        tx.outlast(own)  # what this member was committing when it lost the connection may still come in
        tx.guard(own, with_.ledger.generation())
        identity, before = with_.wait(with_.states.identity()), with_.ledger.live_state_id()
        if before == identity:
            return False
        after = with_.ledger.checkpoint()
        others = [each.number for each in with_.ledger.members() if each.number != own]
        with_.wait(_forget_all(with_.states, own))
        for number in others:
            tx.expel(number)
        take(others)
        _note_timers(with_)  # before what is folded is saved, with newer ones
        rows = _fold(with_, after, lambda _: True)
        tx.save_live_state_id(identity)
        tx.save_checkpoint(after, own)
        for number in others:
            tx.leave(number)
    if before:
        log.warning("the store of live state is not the one before: rebuilt it from %d log rows", rows)
    return True


def _note_timers(with_: Folding) -> None:
    """Those of subscribers who are not in the log since the checkpoint: nobody would look at them."""
    rows = with_.ledger.load_states()
    while some := list(islice(rows, _SNAPSHOTS_AT_ONCE)):
        due = [(subscriber_id, at_us) for subscriber_id, _, body in some if (at_us := due_in(body))]
        if due:
            with_.wait(with_.states.note_due(due))


async def _forget_all(states: LiveState, own: int) -> None:
    states.become(own)


def _fold(with_: Folding, after: int, wanted: Callable[[int], bool]) -> int:
    """Fold the rows after a position into the states that lack them; how many rows there were. Whoever is
    held by a member that lives lacks nothing of one that is expelled: it gave them away when they were
    saved."""
    done: set[str] = set()
    while True:
        count, held = _fold_some(with_, after, wanted, done)
        if len(held) < _HELD_AT_ONCE:
            return count
        done |= held


def _fold_some(
    with_: Folding, after: int, wanted: Callable[[int], bool], done: Collection[str]
) -> tuple[int, Set[str]]:
    """The same for so many subscribers as are held at once, without those who are done; who they were.

    They are held until all rows are folded: to another member that waits for them, a state that lacks the
    rest of the rows would look like one that lacks nothing."""
    refolder = Refolder(with_.ledger, with_.make_engine)
    rows = (row for row in with_.ledger.read_log(after) if wanted(row.position))
    turn: dict[str, None] = {}
    count = 0
    try:
        while some := list(islice(rows, _FOLD_AT_ONCE)):
            count += len(some)
            told = [(row, items_of(row)) for row in some]
            named = dict.fromkeys(item.subscriber_id for _, items in told for item in items)
            new = [each for each in named if each not in turn and each not in done]
            begun = new[: _HELD_AT_ONCE - len(turn)]
            turn.update(dict.fromkeys(begun))
            with_.begun.update(begun)
            states = dict(with_.wait(with_.states.load([each for each in named if each in turn])))
            for row, items in told:
                refolder.fold(row, items, states)
            with_.ledger.generation()
    finally:
        refolder.close()
    everybody = iter(turn)
    while some_of_them := list(islice(everybody, _SNAPSHOTS_AT_ONCE)):
        held = with_.wait(with_.states.load(some_of_them)).keys()
        # What was said is among it, perhaps.
        with_.wait(with_.states.save(held, held))
        # Also those whom a member holds that lives: perhaps it only reads.
        with_.states.still_dirty(some_of_them)
        with_.ledger.generation()
    return count, turn.keys()


async def hold(states: LiveState, subscriber_ids: Collection[str]) -> dict[str, SubscriberState]:
    """The states of all of these, as soon as no other member holds any of them. The caller must hold nobody
    else, or two members could wait for each other. Raises `StoreUnavailableError`, also if it takes too
    long: then none is held."""
    held: dict[str, SubscriberState] = {}
    try:
        for _ in range(int(_PATIENCE_SECONDS / _LOOK_AGAIN_SECONDS)):
            held.update(await states.load(set(subscriber_ids) - held.keys()))
            missing = set(subscriber_ids) - held.keys()
            if not missing:
                return held
            await states.ask_for(missing)
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)
    except BaseException:
        await states.release(subscriber_ids)  # some of a load that failed may be in use
        raise
    await states.release(held)
    raise StoreUnavailableError("others are at work on these subscribers; try again")
