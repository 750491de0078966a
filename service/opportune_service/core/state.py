"""What the service keeps of one subscriber between events: context and dynamic state together."""

from __future__ import annotations

from typing import Any

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


class PatternState(msgspec.Struct, array_like=True, gc=False):
    """What one pattern retains. `patterns.py` says what is in it, by kind of pattern.

    `recent`: the events that took part and that a late one may still come before, in order of time.
    `base`: what the events before them came to. `emitted`: how many completions among `recent` were given
    out already. `due_us`: when its timer is due; 0 for none.
    """

    base: list[Any] = msgspec.field(default_factory=list)
    recent: list[list[Any]] = msgspec.field(default_factory=list)
    emitted: int = 0
    due_us: int = 0


class SubscriberState(msgspec.Struct, array_like=True, gc=False):
    """One subscriber's live state. Mutable; owned by one writer at a time.

    `position` is the last log position folded into it: replaying the log skips what it holds already.
    `context` is the static data with, for each attribute, its as-of time in `as_of_us`.
    `known` says whether any context was ever imported. `seen` maps the hash of (source, event id) to
    the instant until which it may come again, for deduplication. `series` and `patterns` are keyed by the
    definition's content. `latest_us` is the newest event time seen. `cells` are the cells of the last hour
    and the one before them. `imei` is that of the newest event that told one, `handset` the pattern that
    tells when it changes. `replaced_us` is the as-of time of the newest import that said all there is.
    `filled` is the last backfill it took in. `seeded_us`: metric key -> since when an import covers it.
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
    seeded_us: dict[str, int] | None = None

    @property
    def due_us(self) -> int:
        """When the first of its timers is due; 0 if there is none."""
        return min((each.due_us for each in self.patterns.values() if each.due_us), default=0)


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(SubscriberState)


def encode_state(state: SubscriberState) -> bytes:
    """The state as bytes (MessagePack). Equal states give equal bytes only if built in equal order."""
    return _encoder.encode(state)


def decode_state(data: bytes) -> SubscriberState:
    """The inverse of `encode_state`. Raises `msgspec.DecodeError` on anything else."""
    return _decoder.decode(data)
