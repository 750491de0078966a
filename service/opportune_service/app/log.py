"""Rows of the log: accepted batches, encoded and compressed, and read again."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import msgspec

from opportune_service.app.ports import LogKind, LogRow
from opportune_service.core.events import ContextRecord, Event

_encoder = msgspec.msgpack.Encoder()
_events = msgspec.msgpack.Decoder(list[Event])
_context = msgspec.msgpack.Decoder(list[ContextRecord])

# Level 1: the log is written at every batch and read once in a while.
_LEVEL = 1


def log_row(
    position: int,
    kind: LogKind,
    source: str,
    now_us: int,
    revision: str,
    items: Sequence[Event] | Sequence[ContextRecord],
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
