"""Live state in Redis or Redis Cluster, for members that share it.

Two round trips a batch: `load` holds subscribers and brings their states, `save` writes these and gives
them up. States that were used lately stay decoded in this process, each with the version that it is; `load`
brings only those of whom Redis has another one.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager
from hashlib import sha256
from itertools import islice, zip_longest
from secrets import token_hex
from zlib import crc32

from opportune_service.adapters.redis import scripts
from opportune_service.adapters.redis.nodes import (
    SHARDS,
    TAGS,
    Call,
    Nodes,
    Script,
    arg,
    call,
    script_call,
    together,
)
from opportune_service.app.errors import StoreUnavailableError
from opportune_service.core.state import (
    SubscriberState,
    decode_plain,
    decode_state,
    encode_plain,
    head_of,
    pack_plain,
)

_LOAD = Script(scripts.LOAD)
_READ = Script(scripts.READ)
_WRITE = Script(scripts.WRITE)
_RELEASE = Script(scripts.RELEASE)
_ANNOUNCE = Script(scripts.ANNOUNCE)

_PREFIXES = [b"opportune:{%b}:" % tag for tag in TAGS]
_IDS = [arg(prefix + b"id") for prefix in _PREFIXES]
_HELD = [arg(prefix + b"held") for prefix in _PREFIXES]
_DUE = [arg(prefix + b"due") for prefix in _PREFIXES]
_STATES = [prefix + b"s:" for prefix in _PREFIXES]

_AT_ONCE = 2_000
"""Subscribers of one round trip: some milliseconds of one node."""

_NONE = bytes(8)
"""The version of a state that Redis does not have."""

_HEAD_AT = 20
_UNKNOWN_US = -1
_DAY_SECONDS = 86_400

Fetch = Callable[[Collection[str]], Awaitable[Mapping[str, bytes]]]
"""The snapshots (`encode_state`) that the ledger has of these subscribers."""

Context = Mapping[str, object]


class _Entry:
    """A state in this process. `version`: as which Redis has it. `due_us`: when its first timer is due as
    far as Redis knows."""

    __slots__ = ("due_us", "state", "version")

    def __init__(self, state: SubscriberState, version: bytes, due_us: int) -> None:
        self.state = state
        self.version = version
        self.due_us = due_us


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
        *,
        cluster: bool = False,
        member: int = 0,
        keep_seconds: int = 14 * _DAY_SECONDS,
        max_decoded: int = 200_000,
        timeout_seconds: float = 1.0,
    ) -> None:
        """`url`: of the server, or of any node of the `cluster`. `fetch`: asked for whomever Redis does not
        have. `keep_seconds`: how long Redis keeps the state of somebody who does nothing. `max_decoded`:
        subscribers who are kept ready to use. Connects when it is used. Raises `ValueError` on a URL that
        is none."""
        self._nodes = Nodes(url, cluster=cluster, timeout_seconds=timeout_seconds)
        self._fetch = fetch
        self._keep = arg(b"%d" % (keep_seconds * 1_000))
        self._max_decoded = max_decoded
        # What changes who is held is done one after the other.
        self._lock = asyncio.Lock()
        self._held: dict[str, _Entry] = {}
        self._cache: OrderedDict[str, _Entry] = OrderedDict()  # not held; the longest unused come first
        self._peers: dict[str, Context | None] = {}
        self._viewed: dict[str, Context | None] = {}
        # Those of whom nobody knows whether they were saved.
        self._doubtful: set[str] = set()
        # A dictionary for its order: the longest dirty come first.
        self._dirty: dict[str, None] = {}
        self._gone: set[bytes] = set()
        self._ids: Sequence[bytes] = ()  # of each shard, packed; none before `identity`
        self._era = b""
        self._writes = 0
        self._fences = 0
        self._fence = b""
        self.become(member)

    def become(self, member: int) -> None:
        self._member = member
        self._me = arg(b"%d" % member)
        self._fence_keys = [arg(b"%bm:%d" % (prefix, member)) for prefix in _PREFIXES]
        for known in (self._held, self._cache, self._doubtful, self._dirty):
            known.clear()
        self._announced = False

    async def take_over(self, member: int) -> None:
        self._gone.add(b"%d" % member)

    async def close(self) -> None:
        """Close the connections. Raises `StoreUnavailableError`."""
        await self._nodes.close()

    async def identity(self) -> str:
        """Made of the run ids of all primaries and of a mark in each shard, which is put where there is
        none."""
        run_ids = await self._nodes.meet()
        mark = token_hex(8).encode()
        keys = [prefix + b"id" for prefix in _PREFIXES]
        calls = [call(shard, b"SET", key, mark, b"NX") for shard, key in enumerate(keys)]
        calls += [call(shard, b"GET", key) for shard, key in enumerate(keys)]
        marks: list[bytes] = (await self._nodes.run(calls))[SHARDS:]
        digest = sha256(b" ".join([*(run_id.encode() for run_id in run_ids), *marks])).digest()
        if digest[:8] != self._era:
            self._cache.clear()
        self._era = digest[:8]
        self._ids = [arg(each) for each in marks]
        return digest[:16].hex()

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
        return {each: held[each].state for each in subscriber_ids if each in held}

    async def _hold(self, subscriber_ids: Collection[str], peers: Collection[str]) -> None:
        missing: dict[str, bytes] = {}
        wanted = [each for each in subscriber_ids if each not in self._held]
        # All peers are asked for along with the first.
        for some, asked in zip_longest(_parts(wanted), [peers] if peers else []):
            taken, contexts = await together(
                [self._hold_some(some or (), missing), self._contexts(asked or ())]
            )
            if taken:
                await self._hold_some(taken, missing, [arg(each) for each in self._gone])
            if asked:
                self._peers = contexts
        if missing:
            snapshots = await self._fetch(missing)
            for subscriber_id, version in missing.items():
                snapshot = snapshots.get(subscriber_id)
                state = SubscriberState() if snapshot is None else decode_state(snapshot)
                self._held[subscriber_id] = _Entry(state, version, _UNKNOWN_US)

    async def _hold_some(
        self, subscriber_ids: Iterable[str], missing: dict[str, bytes], gone: Sequence[bytes] = ()
    ) -> list[str]:
        """Those who are held by a member that is gone. `missing` gets those who have no state in Redis,
        each with the version that it has there all the same."""
        cache, held = self._cache, self._held
        by_shard = _by_shard(subscriber_ids)
        calls = []
        for shard, (some, keys) in by_shard.items():
            versions = b"".join([cache[each].version if each in cache else _NONE for each in some])
            pieces = (self._me, arg(b"%d" % len(some)), arg(versions), *gone)
            calls.append(self._call(shard, _LOAD, (_HELD[shard], *keys), 3 + len(gone), pieces))
        answers = await self._nodes.run(calls)
        taken: list[str] = []
        for (some, _), answer in zip(by_shard.values(), answers, strict=True):
            for subscriber_id, word, found in _words(some, answer):
                if word == _CACHED:
                    held[subscriber_id] = cache.pop(subscriber_id)
                elif word == _BUSY:
                    if bytes(found) in self._gone:
                        taken.append(subscriber_id)
                elif word == _FOUND and found[8:16] == self._era:
                    cache.pop(subscriber_id, None)
                    state = decode_plain(*_split(found))
                    held[subscriber_id] = _Entry(state, bytes(found[:8]), state.due_us)
                else:
                    cache.pop(subscriber_id, None)
                    missing[subscriber_id] = bytes(found[:8]) or _NONE
        return taken

    async def save(self, subscriber_ids: Collection[str]) -> None:
        """Raises `StoreUnavailableError` also if one of them is not held (any more): load them again."""
        if not subscriber_ids:
            return
        subscriber_ids = dict.fromkeys(subscriber_ids)
        # Before anything is awaited: whoever loads them from now on must wait until they are given up.
        entries = {each: self._held.pop(each) for each in subscriber_ids if each in self._held}
        doubtful = self._doubtful
        doubtful.update(subscriber_ids)
        async with self._changing():
            if len(entries) < len(subscriber_ids):
                raise StoreUnavailableError("what was to be saved is not held any more; load it again")
            for some in _parts(entries):
                await self._write({each: entries[each] for each in some}, give_up=True)
            doubtful.difference_update(subscriber_ids)
            self._dirty.update(subscriber_ids)
            self._cache.update(entries)
            self._make_room()

    async def _write(self, entries: Mapping[str, _Entry | None], *, give_up: bool) -> None:
        """The states of these, None for none any more."""
        calls = []
        written: list[tuple[_Entry, bytes, int]] = []
        for shard, (some, keys) in _by_shard(entries).items():
            values: list[bytes] = []
            due: list[bytes] = []
            of_shard = [entries[each] for each in some]
            for subscriber_id, entry in zip(some, of_shard, strict=True):
                due_us = 0
                if entry is None:
                    values.append(b"$0\r\n\r\n")
                else:
                    head, body = encode_plain(entry.state)
                    due_us = entry.state.due_us
                    self._writes += 1
                    version = (self._member << 40 | self._writes).to_bytes(8)
                    size = _HEAD_AT + len(head) + len(body)
                    values += (
                        b"$%d\r\n%b%b%b" % (size, version, self._era, len(head).to_bytes(4)),
                        head,
                        body,
                        b"\r\n",
                    )
                    written.append((entry, version, due_us))
                if entry is None or entry.due_us != due_us:
                    due += (arg(subscriber_id.encode()), arg(b"%d" % due_us))
            versions = b"".join([each.version for each in of_shard if each]) if give_up else b""
            pieces = (self._me, self._keep, arg(b"%d" % len(some)), arg(versions), *values, *due)
            count = 4 + len(some) + len(due)
            calls.append(self._call(shard, _WRITE, (_HELD[shard], _DUE[shard], *keys), count, pieces))
        await self._nodes.run(calls)
        for entry, version, due_us in written:
            entry.version, entry.due_us = version, due_us

    async def release(self, subscriber_ids: Collection[str]) -> None:
        released = await self._give_up(subscriber_ids)
        self._cache.update({each: entry for each, entry in released.items() if entry.version != _NONE})
        self._make_room()

    async def take_back(self, subscriber_ids: Collection[str]) -> bool:
        if not self._doubtful.isdisjoint(subscriber_ids):
            return False
        await self._give_up(subscriber_ids)
        return True

    async def _give_up(self, subscriber_ids: Collection[str]) -> dict[str, _Entry]:
        """Those who were held. If it fails, they are given up before anything else is done."""
        entries = {each: self._held.pop(each) for each in [*subscriber_ids] if each in self._held}
        if entries:
            async with self._changing():
                for some in _parts(entries):
                    await self._nodes.run(
                        [
                            self._call(shard, _RELEASE, (_HELD[shard], *keys), 1, (self._me,))
                            for shard, (_, keys) in _by_shard(some).items()
                        ]
                    )
        return entries

    async def discard(
        self, recovered: Mapping[str, SubscriberState], subscriber_ids: Collection[str]
    ) -> None:
        """Whoever was dirty and is recovered stays dirty. Raises `StoreConflictError` if another member
        holds one of them."""
        entries = {each: _Entry(state, _NONE, _UNKNOWN_US) for each, state in recovered.items()}
        everybody: dict[str, _Entry | None] = dict.fromkeys(subscriber_ids)
        everybody.update(entries)
        for each in everybody:
            self._held.pop(each, None)
        self._doubtful.update(everybody)
        async with self._changing():
            for each in everybody:
                self._cache.pop(each, None)
            for some in _parts(everybody):
                await self._write({each: everybody[each] for each in some}, give_up=False)
            self._doubtful.difference_update(everybody)
            self._held.update(entries)
            for each in everybody.keys() - entries.keys():
                self._dirty.pop(each, None)

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
        if not self._ids:
            await self.identity()
        if self._announced:
            return
        self._fences += 1
        self._fence = arg(b"%d" % self._fences)
        known = _by_shard([*self._held, *self._doubtful])
        calls = []
        for shard in range(SHARDS):
            _, keys = known.get(shard, ((), ()))
            calls.append(self._call(shard, _ANNOUNCE, (_HELD[shard], *keys), 2, (self._me, self._keep)))
        await self._nodes.run(calls)
        self._announced = True

    def _make_room(self) -> None:
        for _ in range(len(self._cache) - self._max_decoded):
            self._cache.popitem(last=False)

    # -- looking ------------------------------------------------------------------------------------

    def peek(self, subscriber_id: str) -> Context | None:
        entry = self._held.get(subscriber_id)
        if entry is not None:
            return _context_of(entry.state)
        if subscriber_id in self._peers:
            return self._peers[subscriber_id]
        return self._viewed.get(subscriber_id)

    async def view(self, subscriber_id: str, peers: Collection[str] = ()) -> SubscriberState:
        self._viewed = await self._contexts(peers)
        entry = self._held.get(subscriber_id)
        if entry is not None:
            return entry.state
        ((_, cached, found),) = await self._read([subscriber_id], self._cache, whole=True)
        if cached is not None:
            return cached.state
        if found is not None:
            return decode_plain(*_split(found))
        snapshot = (await self._fetch([subscriber_id])).get(subscriber_id)
        return SubscriberState() if snapshot is None else decode_state(snapshot)

    async def contexts(self, subscriber_ids: Collection[str]) -> dict[str, Context]:
        contexts = await self._contexts(subscriber_ids)
        return {each: context for each, context in contexts.items() if context is not None}

    async def _contexts(self, subscriber_ids: Collection[str]) -> dict[str, Context | None]:
        held = self._held
        contexts = {each: _context_of(held[each].state) for each in subscriber_ids if each in held}
        missing: list[str] = []
        others = [each for each in subscriber_ids if each not in contexts]
        for subscriber_id, cached, found in await self._read(others, self._cache, whole=False):
            if cached is not None:
                contexts[subscriber_id] = _context_of(cached.state)
            elif found is not None:
                contexts[subscriber_id] = _context_in(found[_HEAD_AT:])
            else:
                missing.append(subscriber_id)
        if missing:
            snapshots = await self._fetch(missing)
            contexts |= {each: _context_in(snapshot) for each, snapshot in snapshots.items()}
        return contexts

    async def _read(
        self, subscriber_ids: Collection[str], cache: Mapping[str, _Entry], *, whole: bool
    ) -> list[tuple[str, _Entry | None, memoryview | None]]:
        """Of each what is in the cache, if that is what Redis has; else what Redis has; else nothing."""
        read: list[tuple[str, _Entry | None, memoryview | None]] = []
        how = arg(b"whole" if whole else b"head")
        for part in _parts(dict.fromkeys(subscriber_ids)):
            if not self._ids:
                await self.identity()
            cached = {each: cache[each] for each in part if each in cache}
            versions = {each: entry.version for each, entry in cached.items()}
            by_shard = _by_shard(part)
            calls = []
            for shard, (some, keys) in by_shard.items():
                pieces = (how, arg(b"".join([versions.get(each, _NONE) for each in some])))
                calls.append(self._call(shard, _READ, keys, 2, pieces))
            answers = await self._nodes.run(calls)
            for (some, _), answer in zip(by_shard.values(), answers, strict=True):
                for subscriber_id, word, found in _words(some, answer):
                    entry = cached[subscriber_id] if word == _CACHED else None
                    believed = word == _FOUND and found[8:16] == self._era
                    read.append((subscriber_id, entry, found if believed else None))
        return read

    async def due(self, until_us: int, limit: int) -> Sequence[tuple[str, int]]:
        """The earliest; with those whose state is not kept any more."""
        until = b"(%d" % until_us
        options = (b"BYSCORE", b"LIMIT", b"0", b"%d" % limit, b"WITHSCORES")
        found = await self._nodes.run(
            [
                call(shard, b"ZRANGE", _PREFIXES[shard] + b"due", b"-inf", until, *options)
                for shard in range(SHARDS)
            ]
        )
        due = [(int(score), subscriber_id.decode()) for part in found for subscriber_id, score in part]
        return [(subscriber_id, due_us) for due_us, subscriber_id in sorted(due)[:limit]]

    async def subscribers(self) -> list[str]:
        """Those whose state Redis keeps."""
        if not self._ids:
            await self.identity()
        keys = await self._nodes.keys(b"opportune:{*}:s:*")
        return list({key.rpartition(b":")[2].decode() for key in keys})

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
            read = await self._read(subscriber_ids, {}, whole=True)
        except BaseException:
            self.still_dirty(taken)
            raise
        # Packing takes far longer than all else; in a thread it keeps nobody waiting.
        return await asyncio.to_thread(_packed, [(each, found) for each, _, found in read if found])

    def _call(
        self, shard: int, script: Script, keys: Iterable[bytes], args: int, pieces: Iterable[bytes]
    ) -> Call:
        keys = [_IDS[shard], self._fence_keys[shard], *keys]
        return script_call(shard, script, keys, 2 + args, (self._ids[shard], self._fence, *pieces))


_CACHED, _FOUND, _BUSY = b"cfb"
"""What scripts say of a subscriber."""


def _words(subscriber_ids: Sequence[str], answer: bytes) -> Iterator[tuple[str, int, memoryview]]:
    """What a script said of each, with what it found."""
    view = memoryview(answer)
    nothing = view[:0]
    at = len(subscriber_ids)
    for subscriber_id, word in zip(subscriber_ids, answer, strict=False):
        if word in (_FOUND, _BUSY):
            end = at + 4 + int.from_bytes(view[at : at + 4])
            yield subscriber_id, word, view[at + 4 : end]
            at = end
        else:
            yield subscriber_id, word, nothing


def _split(value: memoryview) -> tuple[memoryview, memoryview]:
    """Head and body."""
    body_at = _HEAD_AT + int.from_bytes(value[16:_HEAD_AT])
    return value[_HEAD_AT:body_at], value[body_at:]


def _packed(states: Sequence[tuple[str, memoryview]]) -> list[tuple[str, int, bytes]]:
    return [
        (subscriber_id, head_of(_split(value)[0]).position, pack_plain(*_split(value)))
        for subscriber_id, value in states
    ]


def _by_shard(subscriber_ids: Iterable[str]) -> dict[int, tuple[list[str], list[bytes]]]:
    """Those of each shard, and the keys of their states, packed."""
    by_shard: dict[int, tuple[list[str], list[bytes]]] = {}
    for subscriber_id in subscriber_ids:
        name = subscriber_id.encode()
        shard = crc32(name) % SHARDS
        some = by_shard.get(shard)
        if some is None:
            some = by_shard[shard] = ([], [])
        prefix = _STATES[shard]
        some[0].append(subscriber_id)
        some[1].append(b"$%d\r\n%b%b\r\n" % (len(prefix) + len(name), prefix, name))
    return by_shard


def _parts(subscriber_ids: Iterable[str]) -> Iterator[list[str]]:
    left = iter(subscriber_ids)
    while part := list(islice(left, _AT_ONCE)):
        yield part


def _context_of(state: SubscriberState) -> Context | None:
    return state.context if state.known or state.context else None


def _context_in(blob: bytes | memoryview) -> Context | None:
    head = head_of(blob)
    return head.context if head.known or head.context else None
