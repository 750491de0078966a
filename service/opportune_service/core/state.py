"""What the service keeps of one subscriber between events: context and dynamic state together."""

from __future__ import annotations

import msgspec


# gc=False: states hold no cycles, and millions of them must not be walked by the garbage collector.
class Series(msgspec.Struct, array_like=True, gc=False):
    """What one metric retains, sorted by `at`.

    Sliding windows: `at` are event times in microseconds, `amount` the summed values (empty for
    counts). Day windows: `at` are local day numbers since 1970-01-01, `amount` the day's total.
    """

    at: list[int] = msgspec.field(default_factory=list)
    amount: list[int | float] = msgspec.field(default_factory=list)


class SubscriberState(msgspec.Struct, array_like=True, gc=False):
    """One subscriber's live state. Mutable; owned by one writer at a time.

    `position` is the last log position folded into it: replaying the log skips what it holds already.
    `context` is the static data with, for each attribute, its as-of time in `as_of_us`.
    `known` says whether any context was ever imported. `seen` maps the hash of (source, event id) to
    the event's time, for deduplication. `series` is keyed by the metric definition's content.
    `latest_us` is the newest event time seen. `cell_us` and `imei_us` are those of the events that told the
    cell and the handset. `replaced_us` is the as-of time of the newest import that said all there is.
    """

    position: int = 0
    known: bool = False
    context: dict[str, object] = msgspec.field(default_factory=dict)
    as_of_us: dict[str, int] = msgspec.field(default_factory=dict)
    seen: dict[int, int] = msgspec.field(default_factory=dict)
    series: dict[str, Series] = msgspec.field(default_factory=dict)
    imei: str = ""
    cell_id: str = ""
    latest_us: int = 0
    cell_us: int = 0
    imei_us: int = 0
    replaced_us: int = 0


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(SubscriberState)


def encode_state(state: SubscriberState) -> bytes:
    """The state as bytes (MessagePack). Equal states give equal bytes only if built in equal order."""
    return _encoder.encode(state)


def decode_state(data: bytes) -> SubscriberState:
    """The inverse of `encode_state`. Raises `msgspec.DecodeError` on anything else."""
    return _decoder.decode(data)
