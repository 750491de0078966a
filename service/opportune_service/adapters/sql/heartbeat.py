"""When the service was last known to listen, and how far its sources had come by then."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import sqlalchemy as sa

from opportune_service.adapters.sql import schema
from opportune_service.adapters.sql.statements import put_latest
from opportune_service.core.watermarks import SourceMark

_m = schema.meta.c
_say_alive = (
    schema.meta.update()
    .where(_m.name == "alive", _m.value < sa.bindparam("alive_us"))
    .values(value=sa.bindparam("alive_us"))
)
_types = msgspec.json.Decoder(set[str])


def save_heartbeat(connection: sa.Connection, alive_us: int, sources: Mapping[str, SourceMark]) -> None:
    """See `LedgerTransaction.save_heartbeat`."""
    connection.execute(_say_alive, {"alive_us": alive_us})
    rows = [
        {
            "source": source,
            "shown_us": mark.shown_us,
            "heard_us": mark.heard_us,
            "types": msgspec.json.encode(sorted(mark.types)).decode(),
        }
        for source, mark in sorted(sources.items())  # in one order, so that writers never wait in a circle
    ]
    put_latest(connection, schema.sources, ("shown_us", "heard_us"), rows)


def heartbeat_of(connection: sa.Connection) -> tuple[int, Mapping[str, SourceMark]]:
    """See `Ledger.heartbeat`."""
    alive_us = connection.scalar(sa.select(_m.value).where(_m.name == "alive")) or 0
    rows = connection.execute(sa.select(schema.sources))
    marks = {row.source: SourceMark(row.shown_us, row.heard_us, _types.decode(row.types)) for row in rows}
    return alive_us, marks
