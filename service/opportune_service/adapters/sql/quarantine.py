"""Rejected events, the newest of them."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import sqlalchemy as sa

from opportune_service.adapters.sql import schema
from opportune_service.adapters.sql.engine import insert_many
from opportune_service.app.records import Quarantined, QuarantineFilter

_q = schema.quarantine.c
_ends = sa.select(
    *(
        sa.select(sa.func.coalesce(end(_q.cursor), 0)).scalar_subquery()
        for end in (sa.func.min, sa.func.max)
    )
)
_newest = sa.select(_q.cursor).order_by(_q.cursor.desc()).offset(sa.bindparam("most")).limit(1)
_too_many = (
    sa.select(_q.cursor).where(_q.cursor <= sa.bindparam("oldest")).with_for_update(skip_locked=True)
)
_forget = schema.quarantine.delete().where(_q.cursor.in_(_too_many))
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
    # Cursors have gaps where others were rolled back or are not done yet; those delete theirs themselves.
    first, last = connection.execute(_ends).one()
    if last - first >= most and (oldest := connection.scalar(_newest, {"most": most})) is not None:
        connection.execute(_forget, {"oldest": oldest})


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
