"""Where live state is in Redis, and how: what `scripts.py` describes, seen from here."""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from zlib import crc32

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from opportune_service.core.state import (
    StateHead,
    SubscriberState,
    decode_plain,
    head_of,
    pack_plain,
)

SHARDS = 64
"""Parts that the subscribers are spread over, each in one hash slot: the unit that a cluster can move."""


def _tags() -> tuple[bytes, ...]:
    """The tags of the shards, one in each of as many equal ranges of hash slots: so they are spread evenly
    over the nodes of a cluster."""
    found: dict[int, bytes] = {}
    n = 0
    while len(found) < SHARDS:
        tag = b"%d" % n
        found.setdefault(key_slot(tag) * SHARDS // REDIS_CLUSTER_HASH_SLOTS, tag)
        n += 1
    return tuple(found[part] for part in range(SHARDS))


_TAGS = _tags()
SLOTS = tuple(key_slot(tag) for tag in _TAGS)
PREFIXES = [b"opportune:{%b}:" % tag for tag in _TAGS]
STATES_LIKE = b"opportune:{*}:s:*"


def shard_of(name: bytes) -> int:
    return crc32(name) % SHARDS


def state_key(shard: int, name: bytes) -> bytes:
    return PREFIXES[shard] + b"s:" + name


def subscriber_in(state_key: bytes) -> str:
    return state_key.rpartition(b":")[2].decode()


# -- states -----------------------------------------------------------------------------------------

NO_VERSION = bytes(8)
"""Of a state that Redis does not have."""

_START = Struct(">8s8sI")


def packed_value(head: bytes, body: bytes, version: bytes, era: bytes) -> tuple[bytes, ...]:
    """A state as `encode_plain` has it, as an argument of a command, in pieces."""
    size = _START.size + len(head) + len(body)
    return b"$%d\r\n" % size, _START.pack(version, era, len(head)), head, body, b"\r\n"


def version_in(value: memoryview) -> bytes:
    return bytes(value[:8])


def is_of(value: memoryview, era: bytes) -> bool:
    return value[8:16] == era


def state_in(value: memoryview) -> SubscriberState:
    return decode_plain(*_parts(value))


def head_in(value: memoryview) -> StateHead:
    """Also of a value that ends with its head."""
    return head_of(_parts(value)[0])


def snapshot_in(value: memoryview) -> bytes:
    """As `encode_state` has it."""
    return pack_plain(*_parts(value))


def _parts(value: memoryview) -> tuple[memoryview, memoryview]:
    body_at = _START.size + int.from_bytes(value[16 : _START.size])
    return value[_START.size : body_at], value[body_at:]


# -- what scripts answer ----------------------------------------------------------------------------

CACHED, FOUND, BUSY = b"cfb"
"""What a script says of a subscriber; `n` otherwise: there is none."""

ALL_CACHED = b"c"
"""So many times, it is all that a script says."""


def words(count: int, answer: bytes) -> Iterator[tuple[int, memoryview]]:
    """What a script said of each of so many, and what followed of it: nothing, a value, or a member."""
    view = memoryview(answer)
    nothing = view[:0]
    at = count
    for word in answer[:count]:
        if word in (FOUND, BUSY):
            end = at + 4 + int.from_bytes(view[at : at + 4])
            yield word, view[at + 4 : end]
            at = end
        else:
            yield word, nothing
