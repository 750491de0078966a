"""Snapshots of subscribers."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import sqlalchemy as sa

from opportune_service.adapters.sql import schema
from opportune_service.adapters.sql.statements import among_ids, chunks, put_many

_PIECE = 1000
# Rows written at a time: about 1 to 4 MB.

_s = schema.states.c

_some = sa.select(_s.subscriber_id, _s.position, _s.body).where(among_ids(_s.subscriber_id))
_ids = (
    sa.select(_s.subscriber_id)
    .where(_s.subscriber_id > sa.bindparam("after"))
    .order_by(_s.subscriber_id)
    .limit(sa.bindparam("most"))
)
_page = (
    sa.select(_s.subscriber_id, _s.position, _s.body)
    .where(_s.subscriber_id > sa.bindparam("after"))
    .order_by(_s.subscriber_id)
    .limit(sa.bindparam("most"))
)


def save_states(connection: sa.Connection, states: Iterable[tuple[str, int, bytes]]) -> None:
    """See `LedgerTransaction.save_states`."""
    for piece in chunks(states, _PIECE):
        # In one order, so that writers never wait in a circle.
        rows = [
            {"subscriber_id": id_, "position": position, "body": body}
            for id_, position, body in sorted(piece)
        ]
        put_many(connection, schema.states, rows, newer_by="position")


def states_of(connection: sa.Connection, ids: Collection[str]) -> Sequence[tuple[str, int, bytes]]:
    """Snapshots of these, in no order."""
    return [tuple(row) for row in connection.execute(_some, {"ids": list(ids)})]


def ids_page(connection: sa.Connection, after: str, limit: int) -> Sequence[str]:
    """See `Ledger.snapshot_ids`."""
    return connection.scalars(_ids, {"after": after, "most": limit}).all()


def states_page(connection: sa.Connection, after: str, limit: int) -> Sequence[tuple[str, int, bytes]]:
    """The first snapshots of ids > `after`, by id."""
    return [tuple(row) for row in connection.execute(_page, {"after": after, "most": limit})]
