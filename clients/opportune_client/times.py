"""Instants at the edge: aware datetimes outside, protobuf timestamps on the wire."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def to_timestamp(instant: datetime) -> Timestamp:
    """An aware datetime as a timestamp, exact to the microsecond. ValueError: it has no time zone."""
    if instant.tzinfo is None:
        raise ValueError("an instant needs a time zone; for example datetime.now(UTC)")
    seconds, micros = divmod((instant - _EPOCH) // _MICROSECOND, 1_000_000)
    return Timestamp(seconds=seconds, nanos=micros * 1_000)


def from_timestamp(stamp: Timestamp) -> datetime:
    """A timestamp as a datetime in UTC; finer parts than a microsecond are cut off."""
    return _EPOCH + timedelta(seconds=stamp.seconds, microseconds=stamp.nanos // 1_000)
