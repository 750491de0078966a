"""Live state in Redis or Redis Cluster, for members that share it.

A subscriber whom this member has loaded is held until another member wants it: in Redis stands by whom, so
nobody else can load it, and what this member changes need not go there at once (`holding.py`). So a group
of subscribers whom nobody else uses costs one small question, whether Redis is there.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence, Set
from contextlib import suppress
from itertools import islice

from opportune_service.adapters.redis.contested import ASK_AGAIN_SECONDS
from opportune_service.adapters.redis.holding import Context, Holding, context_of
from opportune_service.adapters.redis.layout import (
    CACHED,
    FOUND,
    head_in,
    is_of,
    snapshot_in,
    state_in,
)
from opportune_service.adapters.redis.store import (
    AT_ONCE,
    Packed,
    Wish,
    entry_of,
    in_parts,
)
from opportune_service.app.errors import StoreUnavailableError
from opportune_service.core.state import SubscriberState, decode_state, pack_plain

_LOOK_AGAIN_SECONDS = 0.005
_MOST_ASKED = 10_000

_CAREFUL_SECONDS = 3.0
_FOREWARNED_SECONDS = 1.0
"""Of these three, so much must be left for those who were careful already."""


class RedisLiveState(Holding):
    """`LiveState` in Redis. Here is what members wish of each other, what they look at without holding it,
    timers and snapshots."""

    # -- among members ------------------------------------------------------------------------------

    @property
    def wanted(self) -> Set[str]:
        return self._wanted.now()

    async def ask_for(self, subscriber_ids: Collection[str]) -> None:
        """Of whom neither a `load` has just said by whom they are held, nor another member has just asked
        for them here, nobody is asked."""
        now = asyncio.get_running_loop().time()
        if len(self._asked) + len(self._holders) > _MOST_ASKED:
            self._asked.clear()
            self._holders = {each: self._holders[each] for each in subscriber_ids if each in self._holders}
        given_up = self._wanted.given_up() & set(subscriber_ids)
        if given_up:
            found = await self._store.holders(map(entry_of, given_up))
            self._holders |= found
        by_holder: defaultdict[bytes, list[str]] = defaultdict(list)
        for each in subscriber_ids:
            holder = self._holders.pop(each, None)
            if holder is not None and self._asked.get(each, 0.0) <= now - ASK_AGAIN_SECONDS:
                self._asked[each] = now
                by_holder[holder].append(each)
        if by_holder:
            await self._store.wish({holder: Wish(ids) for holder, ids in by_holder.items()})

    async def heed(self, seconds: float) -> None:
        await self._store.meet()
        wish = await self._store.wished(seconds)
        if wish is None:
            return
        if wish.careful:
            self._careful_until = asyncio.get_running_loop().time() + _CAREFUL_SECONDS
            if self._warned is None or self._warned.done():
                self._warned = asyncio.create_task(self._be_careful())
        given = []
        unknown = []
        for each in wish.give_up:
            self._wanted.hear(each, in_use=each in self._held)
            if each in self._held:
                self._contested.note(each)
            elif each in self._kept:
                self._contested.note(each)
                given.append(self._kept.pop(each))
            else:
                unknown.append(each)
        await self._give_up(given)
        if unknown:
            await self._give_up_unknown(unknown)

    async def _give_up_unknown(self, subscriber_ids: Iterable[str]) -> None:
        """In Redis this member may hold them all the same: the answer to a call was lost."""
        async with self._changing():
            for some in in_parts(entry_of(each) for each in subscriber_ids):
                await self._store.release(
                    each
                    for each in some
                    if self._own(each.subscriber_id) is None and each.subscriber_id not in self._doubtful
                )

    async def _be_careful(self) -> None:
        """Say so, as soon as Redis has all that was saved of those in use."""
        while self.careful and any(each.ahead for each in self._held.values()):  # noqa: ASYNC110 - a while
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)
        left = self._careful_until - asyncio.get_running_loop().time()
        if left > 0:
            with suppress(StoreUnavailableError):  # whoever waits for the word waits only for a moment
                await self._store.be_careful(int(left * 1_000))

    async def forewarn(self, members: Collection[int]) -> None:
        others = [b"%d" % member for member in members]
        until = asyncio.get_running_loop().time() + _FOREWARNED_SECONDS
        asked = False
        with suppress(StoreUnavailableError):
            await self._store.meet()
            while set(others) - await self._store.careful(others, int(_FOREWARNED_SECONDS * 1_000)):
                if not asked:
                    await self._store.wish(dict.fromkeys(others, Wish(careful=True)))
                    asked = True
                if asyncio.get_running_loop().time() > until:
                    break
                await asyncio.sleep(_LOOK_AGAIN_SECONDS)

    async def hand_over(self) -> None:
        while self._kept:
            some = list(islice(self._kept, AT_ONCE))
            await self._give_up([self._kept.pop(each) for each in some])

    # -- looking ------------------------------------------------------------------------------------

    def peek(self, subscriber_id: str) -> Context | None:
        entry = self._held.get(subscriber_id)
        if entry is not None:
            return context_of(entry.state)
        if subscriber_id in self._peers:
            return self._peers[subscriber_id]
        return self._viewed.get(subscriber_id)

    async def view(self, subscriber_id: str, peers: Collection[str] = ()) -> SubscriberState:
        """Raises `StoreUnavailableError` also if who holds the subscriber does not answer."""
        state = await self._view(subscriber_id)
        # Last, and not before anything else is awaited: others may view at the same time.
        self._viewed = await self._contexts(peers)
        return state

    async def _view(self, subscriber_id: str) -> SubscriberState:
        known = self._own(subscriber_id)
        if known is not None:
            return known.state
        await self._store.meet()
        entry = self._cache.get(subscriber_id) or entry_of(subscriber_id)
        gone = frozenset(self._gone)
        first_holder = first_version = b""
        until = asyncio.get_running_loop().time() + self._patience_seconds
        while True:
            mark, word, found = await self._store.look(entry)
            holder, _, version = mark.partition(b":")
            own = self._own(subscriber_id) if holder == self._me else None
            if not mark or holder in gone or (holder == self._me and not first_holder):
                break  # nobody has more than Redis has
            if first_holder not in (b"", holder) and version != first_version:
                break  # who had it when it was asked has given it up
            if own is not None and first_holder not in self._gone:
                return own.state
            # Under the same version it may be somebody who takes over, and has not folded all yet; and what
            # the same one writes, but does not give up, may be of before it was asked.
            if asyncio.get_running_loop().time() > until:
                raise StoreUnavailableError(
                    "another process holds the subscriber and does not answer; try again in some seconds"
                )
            if not first_holder:
                first_holder, first_version = holder, version
            if holder != self._me:
                self._holders[subscriber_id] = holder
                await self.ask_for([subscriber_id])
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)
        if word == CACHED:
            return entry.state
        if word == FOUND and is_of(found, self._store.era):
            return state_in(found)
        snapshot = (await self._fetch([subscriber_id])).get(subscriber_id)
        return SubscriberState() if snapshot is None else decode_state(snapshot)

    async def contexts(self, subscriber_ids: Collection[str]) -> dict[str, Context]:
        contexts = await self._contexts(subscriber_ids)
        return {each: context for each, context in contexts.items() if context is not None}

    # -- timers, and everybody ----------------------------------------------------------------------

    async def due(self, until_us: int, limit: int) -> Sequence[tuple[str, int]]:
        """Call after call goes on where the one before ended, and begins again at the end. With those whose
        state is not kept any more. Before, Redis is told when the timers of those are due whom this member
        keeps: call it every second."""
        await self._store.meet()
        await self._tell_timers()
        return await self._store.due(until_us, limit)

    async def _tell_timers(self) -> None:
        timed, self._timed = self._timed, {}
        try:
            for some in in_parts(list(timed)):
                changed = []
                for each in some:
                    entry = self._kept.get(each)
                    if entry is None:
                        if each in self._held:  # what it waits for may not be durable
                            self._timed[each] = None
                    elif (due_us := entry.state.due_us) != entry.due_us:
                        changed.append((entry, due_us))
                if changed:
                    async with self._changing():
                        await self._store.time(changed)
        except BaseException:
            self._timed.update(timed)
            raise

    async def note_due(self, due: Sequence[tuple[str, int]]) -> None:
        await self._store.meet()
        await self._store.note_due(due)

    async def subscribers(self) -> list[str]:
        """Those whose state Redis keeps, and those who did nothing for so long that it does not."""
        await self._store.meet()
        return list({*await self._store.subscribers(), *await self._everybody()})

    # -- snapshots ----------------------------------------------------------------------------------

    def restore(self, states: Iterable[tuple[str, bytes]]) -> None:
        """Nothing: snapshots are fetched when they are needed."""

    def dirty(self) -> Collection[str]:
        return tuple(self._dirty)

    def still_dirty(self, subscriber_ids: Collection[str]) -> None:
        self._dirty.update(dict.fromkeys(subscriber_ids))

    async def snapshot(self, subscriber_ids: Collection[str]) -> list[tuple[str, int, bytes]]:
        """Those that were discarded meanwhile are left out. What it gives of anybody, Redis has too."""
        held = self._held
        wanted = [e for e in dict.fromkeys(subscriber_ids) if e not in held or not held[e].ahead]
        taken = [each for each in wanted if self._dirty.pop(each, self) is None]
        ahead = [self._kept[each] for each in wanted if each in self._kept and self._kept[each].ahead]
        # As they are now: somebody may be changed before it is their turn.
        packed = self._store.pack(ahead)
        own = {each.entry.subscriber_id for each in packed}
        try:
            async with self._writing(packed):
                await self._write(packed, give_up=False)
                # Of whom Redis has all there is. Whoever was just given up may turn out not to be.
                others = [each for each in wanted if each not in own and not self._is_ahead(each)]
                read = await self._store.read(map(entry_of, others), whole=True)
        except BaseException:
            self.still_dirty(taken)
            raise
        self.still_dirty(set(taken) - own - set(others))
        era = self._store.era
        values = [
            (e.subscriber_id, found) for e, word, found in read if word == FOUND and is_of(found, era)
        ]
        # Packing takes far longer than all else; in a thread it keeps nobody waiting.
        return await asyncio.to_thread(_snapshots, packed, values)


def _snapshots(
    packed: Iterable[Packed], values: Iterable[tuple[str, memoryview]]
) -> list[tuple[str, int, bytes]]:
    own = [(each.entry.subscriber_id, each.position, pack_plain(each.head, each.body)) for each in packed]
    return own + [(who, head_in(value).position, snapshot_in(value)) for who, value in values]
