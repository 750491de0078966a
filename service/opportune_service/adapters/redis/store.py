"""What a member asks of Redis, a batch of subscribers at a time: one round trip each."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from itertools import islice
from secrets import token_hex
from typing import Any, NamedTuple, TypeVar

import msgspec

from opportune_service.adapters.redis import scripts
from opportune_service.adapters.redis.layout import (
    NO_VERSION,
    PREFIXES,
    SHARDS,
    STATES_LIKE,
    packed_value,
    shard_of,
    state_key,
    subscriber_in,
    words,
)
from opportune_service.adapters.redis.nodes import Call, Nodes, Script, arg, call, script_call
from opportune_service.app.errors import StoreUnavailableError
from opportune_service.core.state import SubscriberState, encode_plain

T = TypeVar("T")

_LOAD = Script(scripts.LOAD)
_READ = Script(scripts.READ)
_WRITE = Script(scripts.WRITE)
_TIME = Script(scripts.TIME)
_RELEASE = Script(scripts.RELEASE)
_ANNOUNCE = Script(scripts.ANNOUNCE)

_IDS = [arg(prefix + b"id") for prefix in PREFIXES]
_HELD = [arg(prefix + b"held") for prefix in PREFIXES]
_DUE = [arg(prefix + b"due") for prefix in PREFIXES]

AT_ONCE = 2_000
"""Subscribers of one round trip: some milliseconds of one node."""

_ANNOUNCED_AT_ONCE = 8
"""Shards. All of them may have many thousands who are held."""

_WISHES_MS = b"10000"
"""For so long a wish waits for a member that may be gone."""

UNKNOWN_US = -1
_NOBODY_YET: tuple[int, Counter[int]] = (0, Counter())
_VERSION_BITS = 40
_NOTHING = arg(b"")
_UP, _ON = arg(b"up"), arg(b"on")


# gc=False: they hold no cycles, and there may be very many.
class Entry(msgspec.Struct, gc=False, eq=False):
    """A subscriber in this process. `key`: of the state, packed. `version`: as which Redis has the state.
    `due_us`: when its first timer is due as far as Redis knows. `ahead`: the state is newer than that which
    Redis has."""

    subscriber_id: str
    shard: int
    key: bytes
    state: SubscriberState
    version: bytes = NO_VERSION
    due_us: int = UNKNOWN_US
    ahead: bool = False

    def lose(self, version: bytes) -> None:
        """Redis has no state to be believed, but one of this version."""
        self.version, self.due_us = version, UNKNOWN_US


_NOT_KNOWN_YET = SubscriberState()


def entry_of(subscriber_id: str, state: SubscriberState = _NOT_KNOWN_YET) -> Entry:
    name = subscriber_id.encode()
    shard = shard_of(name)
    return Entry(subscriber_id, shard, arg(state_key(shard, name)), state)


class Packed(NamedTuple):
    """An entry as it was when it was packed: ready to be written, as another version."""

    entry: Entry
    version: bytes
    due_us: int
    position: int
    head: bytes
    body: bytes


class Wish(msgspec.Struct, array_like=True):
    """What a member wishes of another: to give up these, or to be careful from now on."""

    give_up: Sequence[str] = ()
    careful: bool = False


_encode_wish = msgspec.msgpack.Encoder().encode
_decode_wish = msgspec.msgpack.Decoder(Wish).decode


class Store:
    """The store as one member sees it. `era`: changes with the identity, and is written into each state.

    `meet` comes first, and `announce` before anything that is about who is held. All of it raises
    `StoreUnavailableError`.
    """

    def __init__(self, nodes: Nodes, keep_seconds: int) -> None:
        self.nodes = nodes
        self.era = b""
        self._keep = arg(b"%d" % (keep_seconds * 1_000))
        self._marks: Sequence[bytes] = ()  # of each shard, packed; none before `identity`
        self._writes = 0
        self._fences = 0
        self._fence = _NOTHING
        # When those were due whom `due` gave last, and how many of each shard were due at that instant.
        self._given = _NOBODY_YET
        self.become(0)

    def become(self, member: int) -> None:
        self._member = member
        self._me = arg(b"%d" % member)
        self._fence_keys = [arg(b"%bm:%d" % (prefix, member)) for prefix in PREFIXES]

    async def identity(self) -> str:
        run_ids = await self.nodes.meet()
        mark = token_hex(8).encode()
        keys = [prefix + b"id" for prefix in PREFIXES]
        calls = [call(shard, b"SET", key, mark, b"NX") for shard, key in enumerate(keys)]
        calls += [call(shard, b"GET", key) for shard, key in enumerate(keys)]
        marks: list[bytes] = (await self.nodes.run(calls))[SHARDS:]
        digest = sha256(b" ".join([*(run_id.encode() for run_id in run_ids), *marks])).digest()
        self.era = digest[:8]
        self._marks = [arg(each) for each in marks]
        return digest[:16].hex()

    async def announce(self, held: Iterable[Entry]) -> None:
        """Begin a new fence; whoever else is held in this member's name is given up."""
        self._fences += 1
        self._fence = arg(b"%d" % self._fences)
        by_shard = _by_shard(held)
        for first in range(0, SHARDS, _ANNOUNCED_AT_ONCE):
            calls = []
            for shard in range(first, first + _ANNOUNCED_AT_ONCE):
                keys = [_HELD[shard], *[each.key for each in by_shard.get(shard, ())]]
                calls.append(self._call(shard, _ANNOUNCE, keys, 2, (self._me, self._keep)))
            await self._run(calls)

    async def hold(
        self, entries: Iterable[Entry], gone: Collection[bytes] = ()
    ) -> list[tuple[list[Entry], bytes]]:
        """Some of the entries, and what a script says of them (`words`). Members that are `gone` hold
        nobody."""
        free = [arg(each) for each in gone]
        by_shard = _by_shard(entries)
        calls = []
        for shard, some in by_shard.items():
            pieces = (self._me, arg(b"%d" % len(some)), _versions(some), *free)
            keys = [_HELD[shard], *[each.key for each in some]]
            calls.append(self._call(shard, _LOAD, keys, 3 + len(free), pieces))
        return list(zip(by_shard.values(), await self._run(calls), strict=True))

    async def read(self, entries: Iterable[Entry], *, whole: bool) -> list[tuple[Entry, int, memoryview]]:
        """What a script says of each: of its state, or of the head of it."""
        how = arg(b"whole" if whole else b"head")
        read: list[tuple[Entry, int, memoryview]] = []
        for part in in_parts(entries):
            by_shard = _by_shard(part)
            calls = [
                self._call(shard, _READ, [each.key for each in some], 2, (how, _versions(some)))
                for shard, some in by_shard.items()
            ]
            for some, answer in zip(by_shard.values(), await self._run(calls), strict=True):
                said = words(len(some), answer)
                read += [(entry, word, found) for entry, (word, found) in zip(some, said, strict=True)]
        return read

    def pack(self, entries: Iterable[Entry]) -> list[Packed]:
        """These as they are now. From now on they are ahead only if they are changed further, provided that
        what was packed is written."""
        packed = []
        for entry in entries:
            state = entry.state
            entry.ahead = False
            due_us = state.due_us
            self._writes += 1
            version = (self._member << _VERSION_BITS | self._writes).to_bytes(8)
            packed.append(Packed(entry, version, due_us, state.position, *encode_plain(state, due_us)))
        return packed

    async def write(self, packed: Sequence[Packed], gone: Iterable[Entry] = (), *, give_up: bool) -> None:
        """These states, and that there is none any more of those who are `gone`. All of them are held.
        Raises `ExpelledError`."""
        calls = []
        by_shard: defaultdict[int, list[Packed]] = defaultdict(list)
        for each in packed:
            by_shard[each.entry.shard].append(each)
        erased = _by_shard(gone)
        for shard in by_shard.keys() | erased.keys():
            some, others = by_shard.get(shard, ()), erased.get(shard, ())
            keys = [_HELD[shard], _DUE[shard], *[each.entry.key for each in some]]
            keys += [each.key for each in others]
            values: list[bytes] = []
            due: list[bytes] = []
            for entry, version, due_us, _, head, body in some:
                values += packed_value(head, body, version, self.era)
                if due_us != entry.due_us:
                    due += (arg(entry.subscriber_id.encode()), arg(b"%d" % due_us))
            for entry in others:
                values.append(_NOTHING)
                due += (arg(entry.subscriber_id.encode()), arg(b"0"))
            count = len(some) + len(others)
            pieces = (self._me, self._keep, arg(b"%d" % count), _UP if give_up else _ON, *values, *due)
            calls.append(self._call(shard, _WRITE, keys, 4 + count + len(due), pieces))
        await self._run(calls)
        for each in packed:
            each.entry.version, each.entry.due_us = each.version, each.due_us

    async def time(self, entries: Iterable[tuple[Entry, int]]) -> None:
        """When the first timer of each is due, of those who are held."""
        entries = list(entries)
        by_shard: defaultdict[int, list[tuple[Entry, int]]] = defaultdict(list)
        for each in entries:
            by_shard[each[0].shard].append(each)
        calls = []
        for shard, some in by_shard.items():
            keys = [_HELD[shard], _DUE[shard], *[entry.key for entry, _ in some]]
            pieces = [self._me]
            for entry, due_us in some:
                pieces += (arg(entry.subscriber_id.encode()), arg(b"%d" % due_us))
            calls.append(self._call(shard, _TIME, keys, len(pieces), pieces))
        await self._run(calls)
        for entry, due_us in entries:
            entry.due_us = due_us

    async def make_sure(self, shard: int) -> None:
        """That the store is there, and is the one that it was as far as this shard tells."""
        (mark,) = await self._run([call(shard, b"GET", PREFIXES[shard] + b"id")])
        if mark is None or arg(mark) != self._marks[shard]:
            raise StoreUnavailableError("Redis was emptied; what it held has to be rebuilt from the record")

    async def release(self, entries: Iterable[Entry]) -> None:
        calls = []
        for shard, some in _by_shard(entries).items():
            keys = [_HELD[shard], *[each.key for each in some]]
            calls.append(self._call(shard, _RELEASE, keys, 1, (self._me,)))
        await self._run(calls)

    async def holders(self, entries: Iterable[Entry]) -> dict[str, bytes]:
        """By whom those of them are held who are held by other members."""
        by_shard = _by_shard(entries)
        calls = [
            call(
                shard,
                b"HMGET",
                PREFIXES[shard] + b"held",
                *[state_key(shard, each.subscriber_id.encode()) for each in some],
            )
            for shard, some in by_shard.items()
        ]
        found: dict[str, bytes] = {}
        for some, marks in zip(by_shard.values(), await self._run(calls), strict=True):
            for entry, mark in zip(some, marks, strict=True):
                holder = (mark or b"").partition(b":")[0]
                if holder not in (b"", b"%d" % self._member):
                    found[entry.subscriber_id] = holder
        return found

    async def look(self, entry: Entry) -> tuple[bytes, int, memoryview]:
        """By whom the subscriber is held, and as what (empty: by nobody), and after that what a script says
        of the state."""
        key = state_key(entry.shard, entry.subscriber_id.encode())
        pieces = (arg(b"whole"), arg(entry.version))
        mark, answer = await self._run(
            [
                call(entry.shard, b"HGET", PREFIXES[entry.shard] + b"held", key),
                self._call(entry.shard, _READ, [entry.key], 2, pieces),
            ]
        )
        return mark or b"", *next(iter(words(1, answer)))

    # -- what members wish of each other -----------------------------------------------------------

    async def wish(self, wishes: Mapping[bytes, Wish]) -> None:
        """Of these members."""
        calls = []
        for member, wish in wishes.items():
            shard, key = _of_member(member, b"w")
            calls.append(call(shard, b"RPUSH", key, _encode_wish(wish)))
            calls.append(call(shard, b"PEXPIRE", key, _WISHES_MS))
        await self._run(calls)

    async def wished(self, seconds: float) -> Wish | None:
        """What another wishes of this member, as soon as one does, within so many seconds."""
        shard, key = _of_member(b"%d" % self._member, b"w")
        if seconds > 0:
            (popped,) = await self._run([call(shard, b"BLPOP", key, b"%.3f" % seconds)])
            answer = None if popped is None else popped[1]
        else:
            (answer,) = await self._run([call(shard, b"LPOP", key)])
        return None if answer is None else _decode_wish(answer)

    async def be_careful(self, milliseconds: int) -> None:
        """Let others know that this member is, for so long."""
        shard, key = _of_member(b"%d" % self._member, b"c")
        await self._run([call(shard, b"SET", key, b"1", b"PX", b"%d" % milliseconds)])

    async def careful(self, members: Collection[bytes], milliseconds: int) -> set[bytes]:
        """Those of them that are, and will be for so long."""
        calls = [call(*_pttl(member)) for member in members]
        left = await self._run(calls)
        return {each for each, known in zip(members, left, strict=True) if known >= milliseconds}

    # -- timers, and everybody ---------------------------------------------------------------------

    async def due(self, until_us: int, limit: int) -> list[tuple[str, int]]:
        """Some of those before then, over all shards: the earliest that come after those given last; after
        the latest, the earliest of all."""
        begun_at = self._given
        due = await self._next_due(until_us, limit)
        if len(due) < limit:
            self._given = _NOBODY_YET
            if begun_at != _NOBODY_YET:
                due |= await self._next_due(until_us, limit - len(due))
        return list(due.items())

    async def _next_due(self, until_us: int, limit: int) -> dict[str, int]:
        from_us, given = self._given
        ends = (b"%d" % from_us, b"(%d" % until_us, b"BYSCORE")
        most = (b"%d" % limit, b"WITHSCORES")
        calls = [
            call(shard, b"ZRANGE", prefix + b"due", *ends, b"LIMIT", b"%d" % given[shard], *most)
            for shard, prefix in enumerate(PREFIXES)
        ]
        # Of one instant, a shard has its subscribers by name.
        found = sorted(
            (int(score), name, shard)
            for shard, part in enumerate(await self._run(calls))
            for name, score in part
        )[:limit]
        if found:
            last_us = found[-1][0]
            at_last = Counter(shard for due_us, _, shard in found if due_us == last_us)
            self._given = last_us, at_last + given if last_us == from_us else at_last
        return {name.decode(): due_us for due_us, name, _ in found}

    async def note_due(self, due: Iterable[tuple[str, int]]) -> None:
        """Nobody becomes due later than is known."""
        by_shard: defaultdict[int, list[bytes]] = defaultdict(list)
        for subscriber_id, due_us in due:
            name = subscriber_id.encode()
            by_shard[shard_of(name)] += (b"%d" % due_us, name)
        await self._run(
            [
                call(shard, b"ZADD", PREFIXES[shard] + b"due", b"LT", *scored)
                for shard, scored in by_shard.items()
            ]
        )

    async def subscribers(self) -> set[str]:
        return set(map(subscriber_in, await self.nodes.keys(STATES_LIKE)))

    async def _run(self, calls: Sequence[Call]) -> list[Any]:
        me = self._me
        answers = await self.nodes.run(calls)
        if me is not self._me:
            raise StoreUnavailableError("this process is another member by now; begin anew")
        return answers

    async def meet(self) -> None:
        """Know the store; before anything else."""
        if not self._marks:
            await self.identity()

    def _call(
        self, shard: int, script: Script, keys: Sequence[bytes], args: int, pieces: Iterable[bytes]
    ) -> Call:
        keys = [_IDS[shard], self._fence_keys[shard], *keys]
        return script_call(shard, script, keys, 2 + args, (self._marks[shard], self._fence, *pieces))


def _of_member(member: bytes, kind: bytes) -> tuple[int, bytes]:
    """Its shard, and the key of this kind."""
    shard = int(member) % SHARDS
    return shard, PREFIXES[shard] + kind + b":" + member


def _pttl(member: bytes) -> tuple[int, bytes, bytes]:
    shard, key = _of_member(member, b"c")
    return shard, b"PTTL", key


def _by_shard(entries: Iterable[Entry]) -> dict[int, list[Entry]]:
    by_shard: dict[int, list[Entry]] = {}
    for entry in entries:
        some = by_shard.get(entry.shard)
        if some is None:
            by_shard[entry.shard] = [entry]
        else:
            some.append(entry)
    return by_shard


def _versions(entries: Iterable[Entry]) -> bytes:
    return arg(b"".join([each.version for each in entries]))


def in_parts(entries: Iterable[T]) -> Iterator[list[T]]:
    """As many as one round trip may be about."""
    left = iter(entries)
    while part := list(islice(left, AT_ONCE)):
        yield part
