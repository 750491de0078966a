"""Live state in Redis or Redis Cluster, for members that share it.

Two round trips a batch: `load` holds subscribers and brings their states, `save` writes these and gives
them up. States that were used lately stay decoded in this process, each with the version that it is; `load`
brings only those of whom Redis has another one.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager

from opportune_service.adapters.redis.layout import (
    ALL_CACHED,
    BUSY,
    CACHED,
    FOUND,
    NO_VERSION,
    head_in,
    is_of,
    snapshot_in,
    state_in,
    version_in,
    words,
)
from opportune_service.adapters.redis.nodes import Nodes, together
from opportune_service.adapters.redis.store import Entry, Store, entry_of, in_parts
from opportune_service.app.errors import StoreConflictError, StoreUnavailableError
from opportune_service.core.state import StateHead, SubscriberState, decode_state, head_of

_DAY_SECONDS = 86_400

Fetch = Callable[[Collection[str]], Awaitable[Mapping[str, bytes]]]
"""The snapshots (`encode_state`) that the ledger has of these subscribers."""
Everybody = Callable[[], Awaitable[Collection[str]]]
"""Of whom the ledger has a snapshot."""


async def _nobody() -> Collection[str]:
    return ()


Context = Mapping[str, object]


class RedisLiveState:
    """`LiveState` in Redis.

    A state is believed only if it was written in the present **era**: since `identity` has been what it is
    now. In place of what is older, or not there, stands the snapshot of the ledger. So a store that lost
    something, or came back with less than it had, need not be emptied before it is rebuilt.

    Guarantees: after an error nothing half done is believed. Those whom a failed `save` was about stay held
    until they are saved or discarded; `load` brings what Redis has of them, and `take_back` is False. Calls
    that were lost on the way and arrive later do nothing.
    Non-guarantees: Redis must not evict keys of its own accord (`maxmemory-policy noeviction`).
    """

    def __init__(
        self,
        url: str,
        fetch: Fetch,
        everybody: Everybody = _nobody,
        *,
        cluster: bool = False,
        member: int = 0,
        keep_seconds: int = 14 * _DAY_SECONDS,
        max_decoded: int = 200_000,
        timeout_seconds: float = 0.9,
    ) -> None:
        """`url`: of the server, or of any node of the `cluster`. `fetch`: asked for whomever Redis does not
        have; `everybody`: who that may be. `keep_seconds`: how long Redis keeps the state of somebody who
        does nothing. `max_decoded`: subscribers who are kept ready to use. Connects when it is used. Raises
        `ValueError` on a URL that is none."""
        self._store = Store(Nodes(url, cluster=cluster, timeout_seconds=timeout_seconds), keep_seconds)
        self._fetch = fetch
        self._everybody = everybody
        self._max_decoded = max_decoded
        # What changes who is held is done one after the other.
        self._lock = asyncio.Lock()
        self._peers: dict[str, Context | None] = {}
        self._viewed: dict[str, Context | None] = {}
        self._gone: set[bytes] = set()
        self.become(member)

    def become(self, member: int) -> None:
        self._store.become(member)
        self._announced = False
        # New ones: what is under way must not put anything into them.
        self._held: dict[str, Entry] = {}
        # Held or not; the longest unused come first.
        self._cache: OrderedDict[str, Entry] = OrderedDict()
        # Those of whom nobody knows whether they were saved.
        self._doubtful: set[str] = set()
        # A dictionary for its order: the longest dirty come first.
        self._dirty: dict[str, None] = {}

    async def leave_be(self, member: int) -> None:
        self._gone.discard(b"%d" % member)

    async def take_over(self, member: int) -> None:
        self._gone.add(b"%d" % member)

    async def close(self) -> None:
        """Close the connections. Raises `StoreUnavailableError`."""
        await self._store.nodes.close()

    async def identity(self) -> str:
        """Made of the run ids of all primaries and of a mark in each shard, which is put where there is
        none."""
        era = self._store.era
        identity = await self._store.identity()
        if self._store.era != era:
            self._cache.clear()
        return identity

    # -- holding ------------------------------------------------------------------------------------

    async def load(
        self, subscriber_ids: Collection[str], peers: Collection[str] = ()
    ) -> Mapping[str, SubscriberState]:
        """`peers` are known to `peek` until others are named, here or in `view`."""
        held = self._held
        wanted = [each for each in subscriber_ids if each not in held]
        if wanted or peers:
            async with self._changing():
                await self._hold(dict.fromkeys(wanted), peers)
        if held is not self._held:
            raise StoreUnavailableError("this process is another member by now; begin anew")
        return {each: held[each].state for each in subscriber_ids if each in held}

    async def _hold(self, subscriber_ids: Collection[str], peers: Collection[str]) -> None:
        missing: list[Entry] = []
        cache, held = self._cache, self._held
        wanted = [cache.get(each) or entry_of(each) for each in subscriber_ids if each not in held]
        if peers:
            _, self._peers = await together([self._hold_all(wanted, missing), self._contexts(peers)])
        else:
            await self._hold_all(wanted, missing)
        if missing:
            snapshots = await self._fetch([each.subscriber_id for each in missing])
            for entry in missing:
                snapshot = snapshots.get(entry.subscriber_id)
                if snapshot is None:
                    entry.state, entry.due_us = SubscriberState(), 0
                else:
                    entry.state = decode_state(snapshot)
                held[entry.subscriber_id] = entry

    async def _hold_all(self, entries: Iterable[Entry], missing: list[Entry]) -> None:
        """`missing` gets those who have no state in Redis, each with the version that it has there all the
        same."""
        for some in in_parts(entries):
            if taken := self._take_in(await self._store.hold(some), missing):
                self._take_in(await self._store.hold(taken, self._gone), missing)

    def _take_in(self, answers: Iterable[tuple[list[Entry], bytes]], missing: list[Entry]) -> list[Entry]:
        """Those who are held by a member that is gone."""
        cache, held, era = self._cache, self._held, self._store.era
        taken: list[Entry] = []
        for some, answer in answers:
            if answer == ALL_CACHED * len(some):
                held.update([(each.subscriber_id, each) for each in some])
                continue
            for entry, (word, found) in zip(some, words(len(some), answer), strict=True):
                subscriber_id = entry.subscriber_id
                if word == CACHED:
                    held[subscriber_id] = entry
                elif word == BUSY:
                    if bytes(found) in self._gone:
                        taken.append(entry)
                elif word == FOUND and is_of(found, era):
                    entry.state, entry.version = state_in(found), version_in(found)
                    entry.due_us = entry.state.due_us
                    held[subscriber_id] = cache[subscriber_id] = entry
                else:
                    cache.pop(subscriber_id, None)
                    entry.lose(version_in(found) or NO_VERSION)
                    missing.append(entry)
        return taken

    async def save(self, subscriber_ids: Collection[str]) -> None:
        """Raises `StoreUnavailableError` also if one of them is not held (any more): load them again."""
        cache, doubtful = self._cache, self._doubtful
        wanted = dict.fromkeys(subscriber_ids)
        if not self._held.keys() >= wanted.keys():
            doubtful.update(wanted)
            raise StoreUnavailableError("what was to be saved is not held any more; load it again")
        if not wanted:
            return
        # Before anything is awaited: whoever loads them from now on must wait until they are given up.
        entries = [self._held.pop(each) for each in wanted]
        doubtful.update(wanted)
        try:
            async with self._changing():
                for some in in_parts(entries):
                    await self._store.write(some, give_up=True)
        except BaseException:
            for each in wanted:
                cache.pop(each, None)
            raise
        doubtful.difference_update(wanted)
        for entry in entries:
            cache[entry.subscriber_id] = entry
            cache.move_to_end(entry.subscriber_id)
        self._dirty.update(wanted)
        self._make_room()

    async def release(self, subscriber_ids: Collection[str]) -> None:
        """Redis learns when the first timer is due where it is mistaken: the revision may have changed."""
        await self._give_up(subscriber_ids, correct=True)
        self._make_room()

    async def take_back(self, subscriber_ids: Collection[str]) -> bool:
        if not self._doubtful.isdisjoint(subscriber_ids):
            return False
        for each in subscriber_ids:
            self._cache.pop(each, None)
        await self._give_up(subscriber_ids, correct=False)
        return True

    async def _give_up(self, subscriber_ids: Collection[str], *, correct: bool) -> None:
        """If it fails, they are given up before anything else is done."""
        entries = [self._held.pop(each) for each in dict.fromkeys(subscriber_ids) if each in self._held]
        if not entries:
            return
        async with self._changing():
            for some in in_parts(entries):
                mistaken = [each for each in some if correct and each.due_us != each.state.due_us]
                if mistaken:
                    await self._store.write(mistaken, give_up=True)
                await self._store.release(some)

    async def discard(
        self, recovered: Mapping[str, SubscriberState], subscriber_ids: Collection[str]
    ) -> Collection[str]:
        """Whoever was dirty and is recovered stays dirty, and so becomes whoever another member holds: what
        this one made durable of them may have no snapshot yet. Raises `StoreConflictError` if another one
        holds somebody of whom nothing was recovered; the others are done all the same."""
        strangers = [each for each in dict.fromkeys(subscriber_ids) if each not in recovered]
        everybody = [*recovered, *strangers]
        for each in everybody:
            self._held.pop(each, None)
        self._doubtful.update(everybody)
        async with self._changing():
            missing: list[Entry] = []
            await self._hold_all(map(entry_of, everybody), missing)
            found = {each: self._held.pop(each) for each in everybody if each in self._held}
            found |= {each.subscriber_id: each for each in missing}
            for each in everybody:
                self._cache.pop(each, None)
            # Whoever is newer than the record that was read: others had them meanwhile.
            held = {
                each: found[each] if found[each].state.position > state.position else entry_of(each, state)
                for each, state in recovered.items()
                if each in found
            }
            for some in in_parts(held[each] for each in held if held[each] is not found[each]):
                await self._store.write(some, give_up=False)
            gone = [each for each in strangers if each in found]
            for some in in_parts(map(entry_of, gone)):
                await self._store.write((), some, give_up=False)
        # Those whom a living member holds it got after they were saved: nobody has to do anything.
        self._doubtful.difference_update(everybody)
        self._held.update(held)
        self._cache.update(held)
        for each in gone:
            self._dirty.pop(each, None)
        self._dirty.update(dict.fromkeys(each for each in recovered if each not in held))
        if len(gone) < len(strangers):
            raise StoreConflictError("another member holds a subscriber who is to be forgotten; try again")
        return held.keys()

    @asynccontextmanager
    async def _changing(self) -> AsyncIterator[None]:
        """Whatever goes wrong: Redis is told anew whom this member holds before anything else is done."""
        try:
            async with self._lock:
                await self._announce()
                yield
        except BaseException:
            self._announced = False
            raise

    async def _announce(self) -> None:
        if not self._announced:
            await self._store.meet()
            await self._store.announce([*self._held.values(), *map(entry_of, self._doubtful)])
            self._announced = True

    def _make_room(self) -> None:
        cache = self._cache
        for _ in range(len(cache) - self._max_decoded):
            subscriber_id, entry = cache.popitem(last=False)
            if subscriber_id in self._held:
                cache[subscriber_id] = entry

    # -- looking ------------------------------------------------------------------------------------

    def peek(self, subscriber_id: str) -> Context | None:
        entry = self._held.get(subscriber_id)
        if entry is not None:
            return _context_of(entry.state)
        if subscriber_id in self._peers:
            return self._peers[subscriber_id]
        return self._viewed.get(subscriber_id)

    async def view(self, subscriber_id: str, peers: Collection[str] = ()) -> SubscriberState:
        seen, self._viewed = await together(
            [self._look_at([subscriber_id], whole=True), self._contexts(peers)]
        )
        found: SubscriberState | memoryview | None = seen[subscriber_id]
        if isinstance(found, SubscriberState):
            return found
        if found is not None:
            return state_in(found)
        snapshot = (await self._fetch([subscriber_id])).get(subscriber_id)
        return SubscriberState() if snapshot is None else decode_state(snapshot)

    async def contexts(self, subscriber_ids: Collection[str]) -> dict[str, Context]:
        contexts = await self._contexts(subscriber_ids)
        return {each: context for each, context in contexts.items() if context is not None}

    async def _contexts(self, subscriber_ids: Collection[str]) -> dict[str, Context | None]:
        contexts: dict[str, Context | None] = {}
        missing: list[str] = []
        for subscriber_id, found in (await self._look_at(subscriber_ids, whole=False)).items():
            if isinstance(found, SubscriberState):
                contexts[subscriber_id] = _context_of(found)
            elif found is not None:
                contexts[subscriber_id] = _context_of(head_in(found))
            else:
                missing.append(subscriber_id)
        if missing:
            snapshots = await self._fetch(missing)
            contexts |= {each: _context_of(head_of(snapshot)) for each, snapshot in snapshots.items()}
        return contexts

    async def _look_at(
        self, subscriber_ids: Collection[str], *, whole: bool
    ) -> dict[str, SubscriberState | memoryview | None]:
        """The state of each, if it is held or in the cache as Redis has it; else what Redis has, or only
        the head of that."""
        seen: dict[str, SubscriberState | memoryview | None] = dict.fromkeys(subscriber_ids)
        seen.update({each: self._held[each].state for each in seen if each in self._held})
        asked = [self._cache.get(each) or entry_of(each) for each, found in seen.items() if found is None]
        if asked:
            await self._store.meet()
        for entry, word, found in await self._store.read(asked, whole=whole):
            if word == CACHED:
                seen[entry.subscriber_id] = entry.state
            elif word == FOUND and is_of(found, self._store.era):
                seen[entry.subscriber_id] = found
        return seen

    async def due(self, until_us: int, limit: int) -> Sequence[tuple[str, int]]:
        """Call after call goes on where the one before ended, and begins again at the end. With those whose
        state is not kept any more."""
        await self._store.meet()
        return await self._store.due(until_us, limit)

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
        """Those that were discarded meanwhile are left out."""
        taken = [each for each in subscriber_ids if self._dirty.pop(each, self) is None]
        try:
            await self._store.meet()
            read = await self._store.read(map(entry_of, dict.fromkeys(subscriber_ids)), whole=True)
        except BaseException:
            self.still_dirty(taken)
            raise
        era = self._store.era
        values = [
            (e.subscriber_id, found) for e, word, found in read if word == FOUND and is_of(found, era)
        ]
        # Packing takes far longer than all else; in a thread it keeps nobody waiting.
        return await asyncio.to_thread(_snapshots, values)


def _snapshots(values: Iterable[tuple[str, memoryview]]) -> list[tuple[str, int, bytes]]:
    return [(who, head_in(value).position, snapshot_in(value)) for who, value in values]


def _context_of(known: SubscriberState | StateHead) -> Context | None:
    return known.context if known.known or known.context else None
