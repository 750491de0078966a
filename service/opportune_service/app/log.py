"""Rows of the log: accepted batches, encoded and compressed, and read again."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence

import msgspec

from opportune_service.app.records import LogKind, LogRow
from opportune_service.core.backfill import Fill
from opportune_service.core.events import ContextRecord, Due, Event

Item = Event | ContextRecord | Fill | Due
"""What a row holds: events, context, fills or timers, by its kind."""

_encoder = msgspec.msgpack.Encoder()
_events = msgspec.msgpack.Decoder(list[Event])
_context = msgspec.msgpack.Decoder(list[ContextRecord])
_fills = msgspec.msgpack.Decoder(list[Fill])
_timers = msgspec.msgpack.Decoder(list[Due])

# Level 1: the log is written at every batch and read once in a while.
_LEVEL = 1


def log_row(
    position: int, kind: LogKind, source: str, now_us: int, revision: str, items: Sequence[Item]
) -> LogRow:
    """One accepted batch as a row. Compression takes the time; call it off the event loop."""
    payload = zlib.compress(_encoder.encode(items), _LEVEL)
    return LogRow(position, kind, source, now_us, revision, payload)


def events_of(row: LogRow) -> list[Event]:
    """The events of a row of kind EVENTS."""
    return _events.decode(zlib.decompress(row.payload))


def context_of(row: LogRow) -> list[ContextRecord]:
    """The records of a row of kind CONTEXT."""
    return _context.decode(zlib.decompress(row.payload))


def timers_of(row: LogRow) -> list[Due]:
    """The timers and triggers of a row of kind TIMERS."""
    return _timers.decode(zlib.decompress(row.payload))


def fills_of(row: LogRow) -> list[Fill]:
    """The fills of a row of kind BACKFILL."""
    return _fills.decode(zlib.decompress(row.payload))


_READERS: Mapping[LogKind, Callable[[LogRow], Sequence[Item]]] = {
    LogKind.EVENTS: events_of,
    LogKind.CONTEXT: context_of,
    LogKind.BACKFILL: fills_of,
    LogKind.TIMERS: timers_of,
}


def encoded_items(row: LogRow) -> bytes:
    """What the row holds as it is encoded, to be searched."""
    return zlib.decompress(row.payload)


def items_of(row: LogRow) -> Sequence[Item]:
    """What the row holds, whatever its kind."""
    return _READERS[row.kind](row)
