"""States at rest: in as few bytes as may be, for the process alone that packs them.

Most of a state are whole numbers of eight bytes: instants and digests, and many of them stand in several
metrics and patterns. They are taken out of the encoded state, whatever it is that they stand in, and into
a table, each once; where they stood is kept which of the table it was. Then little is left to pack:

- Instants are differences, in the greatest unit that all are multiples of: whole seconds, if that is what
  the collectors write.
- Digests are random, and are not packed at all. What patterns know an event by is what `seen` knows it by,
  less the two lowest bits (`ranked`).
- All else is packed by deflate, primed with what was left of a few other states.
"""

from __future__ import annotations

import re
import struct
import zlib
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from math import gcd
from operator import sub
from typing import Any, TypeVar

import msgspec

from opportune_service.core.events import MAX_LATENESS_US, MAX_SKEW_US
from opportune_service.core.state import (
    Encoded,
    Noted,
    PatternState,
    Seed,
    Series,
    SubscriberState,
    decode_state,
    encode_state,
)

T = TypeVar("T")


class _Resting(Encoded, array_like=True, gc=False):
    """A state at rest. `digests` are those of its table, eight bytes each."""

    digests: bytes = b""


class _Body(msgspec.Struct, array_like=True, gc=False):
    """A state without its head. Keys are numbers, in order. What is `seen`, in columns: digests without the
    two lowest bits, these bits, and when the events were, if their source may be as late as most. The
    journal in columns, marks as numbers."""

    latest_us: int
    seen: list[int]
    lowest: bytes
    seen_us: list[int]
    metrics: list[int]
    series: list[Series]
    names: list[int]
    patterns: list[PatternState]
    cells: Series | None
    handset: PatternState | None
    imei: str
    as_of_us: dict[str, int]
    replaced_us: int
    filled: int
    seeds: dict[str, Seed] | None
    noted_us: list[int]
    noted: list[int]
    marks: list[int]
    attributes: list[Mapping[str, Any] | None]
    cell_ids: list[str]


class _Parted(msgspec.Struct, array_like=True, gc=False):
    """What there is to pack of a body: the `rest`, with a mark where a large number was, and which of the
    table these are (`places`). The table: the digests, then the instants, from the first one on in `steps`
    of so many units. Both as `_planes`."""

    rest: bytes
    places: list[bytes]
    unit_us: int
    first_us: int
    steps: list[bytes]


_encode = msgspec.msgpack.Encoder().encode
_decode_resting = msgspec.msgpack.Decoder(_Resting).decode
_decode_parted = msgspec.msgpack.Decoder(_Parted).decode
_decode_body = msgspec.msgpack.Decoder(_Body).decode

_MARK = b"\xcf"
"""What MessagePack begins a whole number with that has more than four bytes; eight follow. The byte may be
part of something else as well: then what follows it is taken out, and put back, all the same."""

_at_large_numbers = re.compile(_MARK + b"(.{8})", re.DOTALL).split
_PADDING = bytes(8)
"""Put after the body, so that eight bytes follow every mark, and none is left in the rest but our own."""

_NEAR_US = 2**44
"""What is so near to the newest event, half a year, is taken for an instant. A digest that looks like one
costs some bytes and does no harm."""

_LARGEST = 2**64 - 1
_LATE_US = MAX_LATENESS_US + MAX_SKEW_US
_TYPES = {1: "B", 2: "H", 4: "i", 8: "q"}
"""Of arrays, by the bytes of a number."""

_LEVEL = 5
"""Of the compression. 6 saves one byte in a hundred, and takes a third longer."""

_MAX_DICTIONARY = 32_000
"""What deflate can look back to."""


class Packing:
    """How states are packed to rest. Whatever was packed can be unpacked, by the same object: dictionaries
    and numbers of keys are only ever added. Before it is primed, states are encoded as for any process."""

    def __init__(self) -> None:
        self._keys: list[str] = []
        self._numbers: dict[str, int] = {}
        self._marks: list[tuple[Any, ...]] = []
        self._numbers_of_marks: dict[tuple[Any, ...], int] = {}
        self._dictionaries: list[bytes] = [b""]
        self._deflate = zlib.compressobj()

    def prime(self, examples: Iterable[SubscriberState]) -> None:
        """From now on pack with these for an example; a dozen are enough."""
        dictionary = b"".join([self._parted(each)[0] for each in examples])[-_MAX_DICTIONARY:]
        self._dictionaries.append(dictionary)
        # Copied for every state: to take in a dictionary takes half as long as to pack a state.
        self._deflate = zlib.compressobj(_LEVEL, zlib.DEFLATED, -15, zdict=dictionary)

    def encode(self, state: SubscriberState) -> bytes:
        """The state as bytes, which begin with its head."""
        primed = len(self._dictionaries) - 1
        if not primed:
            return encode_state(state)
        parted, digests = self._parted(state)
        deflate = self._deflate.copy()
        packed = deflate.compress(parted) + deflate.flush()
        return _encode(
            _Resting(state.position, state.due_us, state.known, state.context, primed, packed, digests)
        )

    def decode(self, data: bytes) -> SubscriberState:
        """The inverse of `encode`, but that metrics and patterns may come in another order. Takes what
        `encode_state` gave, too. Raises `msgspec.DecodeError` on anything else."""
        try:
            resting = _decode_resting(data)
            if not resting.primed:
                return decode_state(data)
            inflate = zlib.decompressobj(-15, self._dictionaries[resting.primed])
            parted = _decode_parted(inflate.decompress(resting.packed))
            body = _decode_body(_joined(parted, resting.digests))
            return self._state(resting, body)
        except (zlib.error, struct.error, LookupError, TypeError, ValueError) as error:
            raise msgspec.DecodeError("not a state that was packed here") from error

    def plain(self, data: bytes) -> bytes:
        """Encoded bytes as any other process can decode them."""
        return encode_state(self.decode(data)) if _decode_resting(data).primed else data

    def _parted(self, state: SubscriberState) -> tuple[bytes, bytes]:
        metrics, series = self._in_order(state.series)
        names, patterns = self._in_order(state.patterns)
        body = _Body(
            state.latest_us,
            [digest >> 2 for digest in state.seen],
            bytes([digest & 3 for digest in state.seen]),
            [until_us - _LATE_US for until_us in state.seen.values()],
            metrics,
            series,
            names,
            patterns,
            state.cells,
            state.handset,
            state.imei,
            state.as_of_us,
            state.replaced_us,
            state.filled,
            state.seeds,
            [each.at_us for each in state.journal],
            [each.digest for each in state.journal],
            [self._number_of(each.marks) for each in state.journal],
            [each.attributes for each in state.journal],
            [each.cell_id for each in state.journal],
        )
        return _parted(_encode(body), state.latest_us)

    def _state(self, resting: _Resting, body: _Body) -> SubscriberState:
        seen = zip(body.seen, body.lowest, body.seen_us, strict=True)
        marks = map(self._marks.__getitem__, body.marks)
        return SubscriberState(
            resting.position,
            resting.known,
            resting.context,
            body.as_of_us,
            {digest << 2 | lowest: at_us + _LATE_US for digest, lowest, at_us in seen},
            self._by_key(body.metrics, body.series),
            self._by_key(body.names, body.patterns),
            body.cells,
            body.imei,
            body.handset,
            body.latest_us,
            body.replaced_us,
            body.filled,
            body.seeds,
            list(map(Noted, body.noted_us, body.noted, marks, body.attributes, body.cell_ids)),
        )

    def _number_of(self, marks: tuple[Any, ...]) -> int:
        number = self._numbers_of_marks.get(marks)
        if number is None:
            number = self._numbers_of_marks[marks] = len(self._marks)
            self._marks.append(marks)
        return number

    def _in_order(self, by_key: Mapping[str, T]) -> tuple[list[int], list[T]]:
        """The numbers of the keys, and what is under these."""
        keys, numbers = self._keys, self._numbers
        for key in [key for key in by_key if key not in numbers]:
            numbers[key] = len(keys)
            keys.append(key)
        order = sorted([numbers[key] for key in by_key])
        return order, [by_key[keys[number]] for number in order]

    def _by_key(self, order: Iterable[int], values: Iterable[T]) -> dict[str, T]:
        return dict(zip(map(self._keys.__getitem__, order), values, strict=True))


def _parted(body: bytes, newest_us: int) -> tuple[bytes, bytes]:
    """What there is to pack of a body, encoded, and its digests."""
    pieces = _at_large_numbers(body + _PADDING)
    large = pieces[1::2]
    # As they are encoded, greater numbers are greater bytes.
    table = sorted(set(large))
    first = bisect_left(table, _large(max(0, newest_us - _NEAR_US)))
    end = bisect_left(table, _large(min(newest_us + _NEAR_US, _LARGEST)))
    instants = table[first:end]
    table[first:end] = ()
    digests = b"".join(table)
    places = {each: place for place, each in enumerate(table + instants)}
    instants_us = struct.unpack(f">{len(instants)}Q", b"".join(instants))
    unit_us = gcd(*instants_us) or 1
    parted = _Parted(
        _MARK.join(pieces[::2]),
        _planes([places[each] for each in large], "BHi"),
        unit_us,
        instants_us[0] if instants else 0,
        _planes([step // unit_us for step in map(sub, instants_us[1:], instants_us)], "iq"),
    )
    return _encode(parted), digests


def _joined(parted: _Parted, digests: bytes) -> bytes:
    """The inverse: the body."""
    unit_us = parted.unit_us
    steps_us = [step * unit_us for step in _from_planes(parted.steps)]
    table = _eights(digests + _large(*accumulate(steps_us, initial=parted.first_us)))
    # Quicker than to join pieces.
    template = parted.rest.replace(b"%", b"%%").replace(_MARK, _MARK + b"%b")
    large = map(table.__getitem__, _from_planes(parted.places))
    return (template % tuple(large))[: -len(_PADDING)]


def _large(*numbers: int) -> bytes:
    """The numbers as they are encoded, without the mark."""
    return struct.pack(f">{len(numbers)}Q", *numbers)


def _eights(data: bytes) -> tuple[bytes, ...]:
    """Eight bytes each."""
    return struct.unpack("8s" * (len(data) // 8), data)


def _planes(numbers: Sequence[int], types: str) -> list[bytes]:
    """The numbers byte by byte, by the first of these types of arrays that holds them: the lowest bytes of
    all, then the next, and so on. The higher ones are much alike."""
    try:
        mixed = array(types[0], numbers)
    except OverflowError:
        return _planes(numbers, types[1:])
    width, data = mixed.itemsize, mixed.tobytes()
    return [data[place::width] for place in range(width)]


def _from_planes(planes: Sequence[bytes]) -> Sequence[int]:
    """The inverse of `_planes`."""
    width = len(planes)
    mixed = bytearray(width * len(planes[0]))
    for place, plane in enumerate(planes):
        mixed[place::width] = plane
    return array(_TYPES[width], mixed)
