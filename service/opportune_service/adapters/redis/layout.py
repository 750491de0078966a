"""Where live state is in Redis, and how: what `scripts.py` describes, seen from here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from struct import Struct
from zlib import crc32

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from opportune_service.core.state import Buffer, SubscriberState, decode_plain, encode_plain, head_of, pack_plain

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


def packed_value(state: SubscriberState, due_us: int, version: bytes, era: bytes) -> tuple[bytes, ...]:
    """The state as an argument of a command, in pieces."""
    head, body = encode_plain(state, due_us)
    size = _START.size + len(head) + len(body)
    return b"$%d\r\n" % size, _START.pack(version, era, len(head)), head, body, b"\r\n"


class Value:
    """A state as Redis has it; of some only the head was asked for."""

    __slots__ = ("_data", "_head_ends")

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._head_ends = _START.size + int.from_bytes(data[16 : _START.size])
