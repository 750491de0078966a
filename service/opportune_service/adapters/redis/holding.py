"""Whom a member holds in Redis, or kept of what it held.

    in use   loaded, and neither saved nor released: what was changed may not be durable
    kept     saved or released, and still held: all of it is backed by the log; **ahead** if Redis has less
    cached   held no more, but decoded, with the version that it was: Redis sends it only if it is another

Who is kept is written to Redis when another member wants it, when a snapshot is made of it, when what
others read without holding it has changed, and when there is no room. Whoever several members use in turn
is given up after each commit (`contested.py`): to ask for it each time would take longer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import islice

from opportune_service.adapters.redis.contested import Contested, Wanted
from opportune_service.adapters.redis.layout import (
    ALL_CACHED,
    BUSY,
    CACHED,
    FOUND,
    NO_VERSION,
    head_in,
    is_of,
    state_in,
    version_in,
    words,
)
from opportune_service.adapters.redis.nodes import Nodes, together
from opportune_service.adapters.redis.store import (
    UNKNOWN_US,
    Entry,
    Packed,
    Store,
    entry_of,
    in_parts,
)
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


class Holding:
    """The part of `LiveState` in Redis that is about who is held.

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
        does nothing. `max_decoded`: subscribers who are kept or cached. Connects when it is used. Raises
        `ValueError` on a URL that is none."""
        self._store = Store(Nodes(url, cluster=cluster, timeout_seconds=timeout_seconds), keep_seconds)
        self._fetch = fetch
        self._everybody = everybody
        self._max_decoded = max_decoded
        self._patience_seconds = timeout_seconds * 0.8
        # What changes who is held is done one after the other.
        self._lock = asyncio.Lock()
        self._peers: dict[str, Context | None] = {}
        self._viewed: dict[str, Context | None] = {}
        self._gone: set[bytes] = set()
        self._warned: asyncio.Task[None] | None = None
        self.become(member)

    def become(self, member: int) -> None:
        self._store.become(member)
        self._me = b"%d" % member
        self._announced = False
        # New ones: what is under way must not put anything into them. First those in use.
        self._held: dict[str, Entry] = {}
        # In both of these the longest unused come first.
        self._kept: dict[str, Entry] = {}
        self._cache: dict[str, Entry] = {}
        # Those who are just being given up.
        self._giving: dict[str, Entry] = {}
        # Those of whom nobody knows whether they were given up.
        self._unsure: dict[str, Entry] = {}
        # Those of whom nobody knows whether they were saved.
        self._doubtful: set[str] = set()
        # A dictionary for its order: the longest dirty come first.
        self._dirty: dict[str, None] = {}
        # Those whose first timer may be due at another time than Redis knows.
        self._timed: dict[str, None] = {}
        self._contested = Contested(self._max_decoded)
        self._wanted = Wanted()
        # By whom others are held, as far as somebody was just told; and when they were asked for.
        self._holders: dict[str, bytes] = {}
        self._asked: dict[str, float] = {}
        self._careful_until = 0.0

    async def leave_be(self, member: int) -> None:
        self._gone.discard(b"%d" % member)

    async def take_over(self, member: int) -> None:
        self._gone.add(b"%d" % member)

    async def close(self) -> None:
        """Close the connections. Raises `StoreUnavailableError`."""
        if self._warned is not None:
            self._warned.cancel()
            await asyncio.gather(self._warned, return_exceptions=True)
        await self._store.nodes.close()

    async def identity(self) -> str:
        """Made of the run ids of all primaries and of a mark in each shard, which is put where there is
        none."""
        era = self._store.era
        identity = await self._store.identity()
        if self._store.era != era:
            self._cache.clear()
        return identity

    @property
    def careful(self) -> bool:
        until = self._careful_until
        return until > 0 and asyncio.get_running_loop().time() < until

    # -- holding ------------------------------------------------------------------------------------

    async def load(
        self, subscriber_ids: Collection[str], peers: Collection[str] = ()
    ) -> Mapping[str, SubscriberState]:
        """`peers` are known to `peek` until others are named, here or in `view`."""
        held = self._held
        ahead = self._take_to_use(subscriber_ids)
        unknown = [each for each in subscriber_ids if each not in held]
        if unknown or (ahead and self.careful):
            packed = self._store.pack(ahead) if self.careful else []
            async with self._writing(packed):
                await self._write(packed, give_up=False)
                await self._hold(dict.fromkeys(unknown), peers)
        elif peers:
            self._peers = await self._contexts(peers)
        if held is not self._held:
            raise StoreUnavailableError("this process is another member by now; begin anew")
        return {each: held[each].state for each in subscriber_ids if each in held}

    def _take_to_use(self, subscriber_ids: Iterable[str]) -> list[Entry]:
        """Those of them who are kept, from now on; who of them is ahead."""
        held, kept = self._held, self._kept
        ahead = []
        for each in subscriber_ids:
            entry = kept.pop(each, None)
            if entry is not None:
                held[each] = entry
                if entry.ahead:
                    ahead.append(entry)
        return ahead

    async def _hold(self, subscriber_ids: Collection[str], peers: Collection[str]) -> None:
        missing: list[Entry] = []
        cache, held = self._cache, self._held
        self._take_to_use(subscriber_ids)  # some may be so only since somebody else had the lock
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
                for entry in taken:
                    # Redis may know of a timer that the state which it has does not have.
                    entry.due_us = UNKNOWN_US
                    self._timed[entry.subscriber_id] = None

    def _take_in(self, answers: Iterable[tuple[list[Entry], bytes]], missing: list[Entry]) -> list[Entry]:
        """Those who are held by a member that is gone."""
        cache, held, era = self._cache, self._held, self._store.era
        taken: list[Entry] = []
        for some, answer in answers:
            if answer == ALL_CACHED * len(some):
                for entry in some:
                    held[entry.subscriber_id] = entry
                    cache.pop(entry.subscriber_id, None)
                continue
            for entry, (word, found) in zip(some, words(len(some), answer), strict=True):
                subscriber_id = entry.subscriber_id
                if word == BUSY:
                    if bytes(found) in self._gone:
                        taken.append(entry)
                    else:
                        self._holders[subscriber_id] = bytes(found)
                    continue
                cache.pop(subscriber_id, None)
                if word == CACHED:
                    held[subscriber_id] = entry
                elif word == FOUND and is_of(found, era):
                    if entry.version != NO_VERSION:
                        self._contested.note(subscriber_id)
                    entry.state, entry.version = state_in(found), version_in(found)
                    entry.due_us = entry.state.due_us
                    held[subscriber_id] = entry
                else:
                    entry.lose(version_in(found) or NO_VERSION)
                    missing.append(entry)
        return taken

    async def save(self, subscriber_ids: Collection[str], said: Collection[str] = ()) -> None:
        """Raises `StoreUnavailableError` also if one of them is not held (any more): load them again."""
        held, kept, doubtful = self._held, self._kept, self._doubtful
        wanted = dict.fromkeys(subscriber_ids)
        if not held.keys() >= wanted.keys():
            doubtful.update(wanted)
            raise StoreUnavailableError("what was to be saved is not held any more; load it again")
        if not wanted:
            return
        # Before anything is awaited: the next group may load them.
        news: list[str] = []
        for each in wanted:
            entry = kept[each] = held.pop(each)
            entry.ahead = True
            if entry.version == NO_VERSION:
                news.append(each)
        self._dirty.update(wanted)
        self._timed.update(wanted)
        self._wanted.leave(wanted)
        up = self._contested.among(wanted) if self._contested else set[str]()
        on = dict.fromkeys(wanted if self.careful else (*news, *wanted.keys() & said))
        given, giving = {each: kept.pop(each) for each in up}, self._giving
        # As they are now: whoever is kept may be changed before it is their turn.
        written_on = self._store.pack([kept[each] for each in on if each not in up])
        written_up = self._store.pack(given.values())
        if on or up:
            doubtful.update(up)
            giving.update(given)
            try:
                async with self._writing([*written_on, *written_up]):
                    await self._write(written_on, give_up=False)
                    await self._write(written_up, give_up=True)
            finally:
                for each in up:
                    giving.pop(each, None)
            doubtful.difference_update(up)
            self._cache.update(given)
        else:
            # Nothing is acknowledged while Redis is away, though it need not be told of it at once.
            await self._store.make_sure(entry.shard)
        await self._make_room()

    async def _write(self, packed: Iterable[Packed], *, give_up: bool) -> None:
        for some in in_parts(packed):
            await self._store.write(some, give_up=give_up)

    async def release(self, subscriber_ids: Collection[str]) -> None:
        """Kept are only those of whom there is something to write. Redis learns when the first timer is due
        where it is mistaken: the revision may have changed."""
        released = dict.fromkeys(each for each in subscriber_ids if each in self._held)
        self._wanted.leave(released)
        up = self._contested.among(released) if self._contested else set[str]()
        given = []
        for each in released:
            entry = self._held.pop(each)
            if entry.ahead and each not in up:
                self._kept[each] = entry
                self._timed[each] = None
            else:
                given.append(entry)
        await self._give_up(given)
        await self._make_room()

    async def take_back(self, subscriber_ids: Collection[str]) -> bool:
        """Only of whom Redis has all that was saved."""
        async with self._changing():
            if not self._doubtful.isdisjoint(subscriber_ids):
                return False
            wanted = [each for each in dict.fromkeys(subscriber_ids) if each in self._held]
            if any(self._held[each].ahead for each in wanted):
                return False
            entries = [self._held.pop(each) for each in wanted]
            self._wanted.leave(wanted)
            for some in in_parts(entries):
                await self._store.release(some)
        return True

    async def _give_up(self, entries: Sequence[Entry]) -> None:
        """These are neither in use nor kept any more. Until Redis has said so, it is not known whether that
        is how it sees it."""
        if not entries:
            return
        unsure, giving, cache = self._unsure, self._giving, self._cache
        given = {each.subscriber_id: each for each in entries}
        giving.update(given)
        packed = self._store.pack(
            [each for each in entries if each.ahead or each.due_us != each.state.due_us]
        )
        same = {each.entry.subscriber_id for each in packed}
        try:
            async with self._writing(packed):
                await self._write(packed, give_up=True)
                for some in in_parts(each for each in entries if each.subscriber_id not in same):
                    await self._store.release(some)
        except BaseException:
            unsure.update(given)
            raise
        finally:
            for each in given:
                giving.pop(each, None)
        cache.update(given)

    async def discard(
        self, recovered: Mapping[str, SubscriberState], subscriber_ids: Collection[str]
    ) -> Collection[str]:
        """Whoever was dirty and is recovered stays dirty, and so becomes whoever another member holds: what
        this one made durable of them may have no snapshot yet. Raises `StoreConflictError` if another one
        holds somebody of whom nothing was recovered; the others are done all the same."""
        strangers = [each for each in dict.fromkeys(subscriber_ids) if each not in recovered]
        everybody = [*recovered, *strangers]
        saved = {each: self._kept.pop(each) for each in everybody if each in self._kept}
        for each in everybody:
            self._held.pop(each, None)
            self._unsure.pop(each, None)
        self._wanted.leave(everybody)
        self._doubtful.update(everybody)
        async with self._changing():
            missing: list[Entry] = []
            await self._hold_all(map(entry_of, everybody), missing)
            found = {each: self._held.pop(each) for each in everybody if each in self._held}
            found |= {each.subscriber_id: each for each in missing}
            for each in everybody:
                self._cache.pop(each, None)
            held = {}
            changed = []
            for each, state in recovered.items():
                if each in found:
                    entry = held[each] = found[each]
                    known = max((entry, saved.get(each, entry)), key=lambda one: one.state.position).state
                    # Whoever is newer than the record that was read: others had them meanwhile.
                    newest = known if known.position > state.position else state
                    if newest is not entry.state:
                        entry.state, entry.due_us = newest, UNKNOWN_US
                        changed.append(entry)
            await self._write(self._store.pack(changed), give_up=False)
            gone = [found[each] for each in strangers if each in found]
            for some in in_parts(gone):
                await self._store.write((), some, give_up=False)
        # Those whom a living member holds it got after they were saved: nobody has to do anything.
        self._doubtful.difference_update(everybody)
        self._held.update(held)
        for entry in gone:
            self._dirty.pop(entry.subscriber_id, None)
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

    @asynccontextmanager
    async def _writing(self, packed: Iterable[Packed]) -> AsyncIterator[None]:
        """`_changing`. If it fails, Redis may not have what was packed."""
        try:
            async with self._changing():
                yield
        except BaseException:
            for each in packed:
                each.entry.ahead = True
            raise

    async def _announce(self) -> None:
        if not self._announced:
            await self._store.meet()
            unsure = list(self._unsure.values())
            known = [*self._held.values(), *self._kept.values(), *self._giving.values(), *unsure]
            await self._store.announce([*known, *map(entry_of, self._doubtful)])
            await self._make_sure(unsure)
            self._announced = True

    async def _make_sure(self, entries: Sequence[Entry]) -> None:
        """Whether these were given up. Whoever was not, or was and is free, is kept: as what is newer, the
        state as it was given up, or that which Redis has."""
        kept, era = self._kept, self._store.era
        for part in in_parts(entries):
            for some, answer in await self._store.hold(part):
                for entry, (word, found) in zip(some, words(len(some), answer), strict=True):
                    if word == FOUND and is_of(found, era):
                        state = state_in(found)
                        entry.version, entry.due_us = version_in(found), UNKNOWN_US
                        if state.position >= entry.state.position:
                            entry.state, entry.ahead = state, False
                    if word in (FOUND, CACHED) or entry.version == NO_VERSION:
                        kept[entry.subscriber_id] = entry
                        self._timed[entry.subscriber_id] = None
                    elif word != BUSY:  # somebody has erased the subscriber
                        await self._store.release([entry])
                    self._unsure.pop(entry.subscriber_id, None)

    async def _make_room(self) -> None:
        """A quarter may be cached ones: they are contested, so they will be needed again."""
        cache, kept = self._cache, self._kept
        over = len(cache) + len(kept) - self._max_decoded
        for each in list(islice(cache, max(0, min(over, len(cache) - self._max_decoded // 4)))):
            del cache[each]
            over -= 1
        if over > 0:
            longest = list(islice(kept, over))
            await self._give_up([kept.pop(each) for each in longest])
            for each in longest:
                cache.pop(each, None)

    # -- what is known here ---------------------------------------------------------------------------

    def _own(self, subscriber_id: str) -> Entry | None:
        """Of whom this member has the newest state."""
        known = (self._held, self._kept, self._giving, self._unsure)
        return next((these[subscriber_id] for these in known if subscriber_id in these), None)

    def _is_ahead(self, subscriber_id: str) -> bool:
        own = self._own(subscriber_id)
        return own is not None and own.ahead

    async def _contexts(self, subscriber_ids: Collection[str]) -> dict[str, Context | None]:
        """What Redis has, whoever holds them: what is said is written there at once."""
        contexts: dict[str, Context | None] = dict.fromkeys(subscriber_ids)
        asked = []
        for each in contexts:
            own = self._own(each)
            if own is None:
                asked.append(self._cache.get(each) or entry_of(each))
            else:
                contexts[each] = context_of(own.state)
        if not asked:
            return contexts
        await self._store.meet()
        missing: list[str] = []
        for entry, word, found in await self._store.read(asked, whole=False):
            if word == CACHED:
                contexts[entry.subscriber_id] = context_of(entry.state)
            elif word == FOUND and is_of(found, self._store.era):
                contexts[entry.subscriber_id] = context_of(head_in(found))
            else:
                missing.append(entry.subscriber_id)
        if missing:
            snapshots = await self._fetch(missing)
            contexts |= {each: context_of(head_of(snapshot)) for each, snapshot in snapshots.items()}
        return contexts


def context_of(known: SubscriberState | StateHead) -> Context | None:
    return known.context if known.known or known.context else None
