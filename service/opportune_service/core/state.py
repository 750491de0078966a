"""What the service keeps of one subscriber between events: context and dynamic state together."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec


# gc=False: states hold no cycles, and millions of them must not be walked by the garbage collector.
class Series(msgspec.Struct, array_like=True, gc=False):
    """What one metric or fact retains, sorted by `at`.

    Sliding windows: `at` are event times in microseconds, `amount` what the metric needs of each event
    (empty for counts and facts). Day windows: `at` are local day numbers since 1970-01-01, `amount` what
    that day came to. See `fold.py` for what an amount is by kind.
    """

    at: list[int] = msgspec.field(default_factory=list)
    amount: list[Any] = msgspec.field(default_factory=list)


class Seed(msgspec.Struct, array_like=True, gc=False):
    """What an import said, as of `as_of_us`, that single local days of a metric came to: sorted day numbers
    since 1970-01-01, and their figures."""

    as_of_us: int
    at: list[int]
    amount: list[int | float]


class Noted(msgspec.Struct, array_like=True, gc=False):
    """One event of the journal. Ordered by `at_us`, then `digest`.

    `marks`: key of a pattern, what the event is to it, the next key, and so on. `attributes` are those that
    these patterns may need, None for none.
    """

    at_us: int
    digest: int
    marks: tuple[Any, ...]
    attributes: Mapping[str, Any] | None = None
    cell_id: str = ""


class Entry(msgspec.Struct, array_like=True, gc=False):
    """One event that a change keeps, or the handset. Ordered by `at_us`, then `digest`.

    `what` is what the pattern found in it; what that is depends on the kind of pattern. `attributes` are
    those that a completion or a link may need, None for none. `found` is the digest of the completion that
    this event brought about; 0 for none.
    """

    at_us: int
    digest: int
    what: Any = None
    attributes: dict[str, Any] | None = None
    cell_id: str = ""
    found: int = 0


class Given(msgspec.Struct, array_like=True, gc=False):
    """A completion that was given out: from `since_us` to `at_us`. It answers for the completion whose
    digest `stands_for` is: itself, or another that late input made of it. 0: for none any more."""

    at_us: int
    digest: int
    since_us: int
    stands_for: int


if TYPE_CHECKING:
    Held = Any  # by kind of pattern
else:
    # Read back as tuples, not as lists: these take less, and nobody changes them.
    Held = tuple[Any, ...] | str | float | int | bool | None


class PatternState(msgspec.Struct, array_like=True, gc=False):
    """What one pattern retains of one subscriber. What is in it by kind: the modules of `core/patterns`.

    `tip`: what all events came to. `base`: what those before `from_us` did; the journal has the others.
    `last_us`: the newest event that made a difference. No late event comes before what is older than that:
    then `base` says nothing any more. `given`: what was given out, for as long as late input may move it.
    `due_us`: when its timer is due; 0 for none. Changes and the handset keep `recent` events of their own,
    those that a late one may still come before, and changes the figure of each local day, `days`.
    """

    base: tuple[Held, ...] = ()
    tip: tuple[Held, ...] = ()
    recent: list[Entry] = msgspec.field(default_factory=list)
    given: tuple[Given, ...] = ()
    days: Series | None = None
    due_us: int = 0
    from_us: int = 0
    last_us: int = 0


class SubscriberState(msgspec.Struct, array_like=True, gc=False):
    """One subscriber's live state. Mutable; owned by one writer at a time.

    `position` is the last log position folded into it: replaying the log skips what it holds already.
    `context` is the static data with, for each attribute, its as-of time in `as_of_us`.
    `known` says whether any context was ever imported. `seen` maps the hash of (source, event id) to
    the instant until which it may come again, for deduplication. `series` and `patterns` are keyed by the
    definition's content. `journal` has the events that took part in patterns and that a late one may still
    come before, in order. `latest_us` is the newest event time seen. `cells` are the cells of the last hour
    and the one before them. `imei` is that of the newest event that told one, `handset` the pattern that
    tells when it changes. `replaced_us` is the as-of time of the newest import that said all there is.
    `filled` is the last backfill it took in. `seeds`: metric key -> what an import says of earlier days.
    """

    position: int = 0
    known: bool = False
    context: dict[str, object] = msgspec.field(default_factory=dict)
    as_of_us: dict[str, int] = msgspec.field(default_factory=dict)
    seen: dict[int, int] = msgspec.field(default_factory=dict)
    series: dict[str, Series] = msgspec.field(default_factory=dict)
    patterns: dict[str, PatternState] = msgspec.field(default_factory=dict)
    cells: Series | None = None
    imei: str = ""
    handset: PatternState | None = None
    latest_us: int = 0
    replaced_us: int = 0
    filled: int = 0
    seeds: dict[str, Seed] | None = None
    journal: list[Noted] = msgspec.field(default_factory=list)

    @property
    def due_us(self) -> int:
        """When the first of its timers is due; 0 if there is none."""
        if not self.patterns:
            return 0
        return min((each.due_us for each in self.patterns.values() if each.due_us), default=0)


class StateHead(msgspec.Struct, array_like=True, gc=False):
    """The beginning of an encoded state: what can be read of it without the rest. `due_us`: when the first
    of its timers is due; 0 for none."""

    position: int
    due_us: int
    known: bool
    context: dict[str, object]


class Encoded(msgspec.Struct, array_like=True, gc=False):
    """A state as bytes: the head as it is, then all else, packed. `primed`: with which of a process's own
    examples (`packing.py`); 0 for none, so that any process can unpack it."""

    position: int
    due_us: int
    known: bool
    context: dict[str, object]
    primed: int
    packed: bytes


Buffer = bytes | memoryview

_encode = msgspec.msgpack.Encoder().encode
_decode_encoded = msgspec.msgpack.Decoder(Encoded).decode
_decode_state = msgspec.msgpack.Decoder(SubscriberState).decode
head_of = msgspec.msgpack.Decoder(StateHead).decode
"""The head of an encoded state. Raises `msgspec.DecodeError` on anything else."""

_LEVEL = 6
"""Of the compression; measured, less saves no time."""


def encode_state(state: SubscriberState) -> bytes:
    """The state as bytes that any process can decode. Equal states give equal bytes only if built in equal
    order."""
    packed = zlib.compress(_body(state), _LEVEL, -15)
    return _encode(Encoded(state.position, state.due_us, state.known, state.context, 0, packed))


def decode_state(data: bytes) -> SubscriberState:
    """The inverse of `encode_state`. Raises `msgspec.DecodeError` on anything else."""
    try:
        encoded = _decode_encoded(data)
        if encoded.primed:
            raise msgspec.DecodeError("a state that only the process can read that packed it")
        return _joined(encoded.context, zlib.decompress(encoded.packed, -15))
    except (zlib.error, UnicodeDecodeError) as error:
        raise msgspec.DecodeError("not a state") from error


def encode_plain(state: SubscriberState, due_us: int) -> tuple[bytes, bytes]:
    """The head (`head_of`) and all else, not packed: several times the bytes of `encode_state`, in a
    fraction of the time. `due_us` is that of the state: the caller has asked for it already."""
    return _encode(StateHead(state.position, due_us, state.known, state.context)), _body(state)


def decode_plain(head: Buffer, body: Buffer) -> SubscriberState:
    """The inverse of `encode_plain`. Raises `msgspec.DecodeError` on anything else."""
    return _joined(head_of(head).context, body)


def pack_plain(head: Buffer, body: Buffer) -> bytes:
    """What `encode_state` gives, made of what `encode_plain` gave."""
    of = head_of(head)
    packed = zlib.compress(body, _LEVEL, -15)
    return _encode(Encoded(of.position, of.due_us, of.known, of.context, 0, packed))


def _body(state: SubscriberState) -> bytes:
    context, state.context = state.context, {}
    try:
        return _encode(state)
    finally:
        state.context = context


def _joined(context: dict[str, object], body: Buffer) -> SubscriberState:
    state = _decode_state(body)
    state.context = context
    # Interned: the same few keys are in all states.
    state.series = {sys.intern(key): each for key, each in state.series.items()}
    state.patterns = {sys.intern(key): each for key, each in state.patterns.items()}
    same: dict[tuple[Any, ...], tuple[Any, ...]] = {}
    for noted in state.journal:
        noted.marks = same.setdefault(noted.marks, noted.marks)
    return state
