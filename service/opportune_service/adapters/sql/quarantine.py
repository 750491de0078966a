"""Rejected events, the newest of them."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import sqlalchemy as sa

from opportune_service.adapters.sql import schema
from opportune_service.adapters.sql.engine import insert_many
from opportune_service.app.records import Quarantined, QuarantineFilter

_q = schema.quarantine.c
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Quarantined)


def quarantine(connection: sa.Connection, rejected: Sequence[Quarantined], most: int) -> None:
    """See `LedgerTransaction.quarantine`."""
    rows = [
        {
            "source": each.source,
            "reason": each.reason.value,
            "received_us": each.received_us,
            "body": _encoder.encode(each),
        }
        for each in rejected[-most:]
    ]
    insert_many(connection, schema.quarantine, rows)
    newest = connection.scalar(sa.select(sa.func.coalesce(sa.func.max(_q.cursor), 0))) or 0
    connection.execute(schema.quarantine.delete().where(_q.cursor <= newest - most))


def list_quarantined(
    connection: sa.Connection, where: QuarantineFilter, before: int, limit: int
) -> Sequence[tuple[int, Quarantined]]:
    """See `Ledger.quarantined`."""
    query = sa.select(_q.cursor, _q.body).order_by(_q.cursor.desc()).limit(limit)
    if before:
        query = query.where(_q.cursor < before)
    if where.source:
        query = query.where(_q.source == where.source)
    if where.reasons:
        query = query.where(_q.reason.in_([reason.value for reason in where.reasons]))
    if where.from_us:
        query = query.where(_q.received_us >= where.from_us)
    if where.to_us:
        query = query.where(_q.received_us < where.to_us)
    return [(row.cursor, _decoder.decode(row.body)) for row in connection.execute(query)]
