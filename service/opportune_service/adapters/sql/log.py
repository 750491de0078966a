"""The log of accepted batches."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from opportune_service.adapters.sql import schema
from opportune_service.adapters.sql.engine import insert_many
from opportune_service.app.records import LogKind, LogRow

_l = schema.log.c

_page = (
    sa.select(_l.position, _l.kind, _l.source, _l.now_us, _l.revision, _l.payload)
    .where(_l.position > sa.bindparam("after"))
    .order_by(_l.position)
    .limit(sa.bindparam("most"))
)
_last = sa.select(sa.func.coalesce(sa.func.max(_l.position), 0))
_replace = (
    schema.log.update()
    .where(_l.position == sa.bindparam("at_position"))
    .values(
        {name: sa.bindparam(f"new_{name}") for name in ("kind", "source", "now_us", "revision", "payload")}
    )
)


def append_log(connection: sa.Connection, rows: Sequence[LogRow]) -> None:
    """See `LedgerTransaction.append_log`."""
    insert_many(connection, schema.log, [{"position": row.position, **_columns(row)} for row in rows])


def replace_log(connection: sa.Connection, rows: Sequence[LogRow]) -> None:
    """See `LedgerTransaction.replace_log`."""
    if rows:
        new = [
            {"at_position": row.position, **{f"new_{name}": value for name, value in _columns(row).items()}}
            for row in rows
        ]
        connection.execute(_replace, new)


def _columns(row: LogRow) -> dict[str, object]:
    return {
        "kind": row.kind.value,
        "source": row.source,
        "now_us": row.now_us,
        "revision": row.revision,
        "payload": row.payload,
    }


def log_page(connection: sa.Connection, after: int, limit: int) -> Sequence[LogRow]:
    """The first rows with a position > `after`, in order."""
    rows = connection.execute(_page, {"after": after, "most": limit})
    return [
        LogRow(row.position, LogKind(row.kind), row.source, row.now_us, row.revision, row.payload)
        for row in rows
    ]


def last_position(connection: sa.Connection) -> int:
    """0 if the log is empty."""
    return connection.scalar(_last) or 0
