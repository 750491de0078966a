"""Cursors: numbers of rows in the order in which they were drawn, by which readers follow what is new.

On PostgreSQL a row may become visible after one with a higher cursor: its transaction drew earlier and
ended later. A reader that went on behind the higher one would never see it. So whoever draws shares a lock
whose number says after which cursor it began to draw, and readers stop at the least of those:

    1. the last cursor drawn                  whoever draws from now on draws higher ones
    2. the locks of transactions under way    whoever drew a lower one has ended, or has one of these
    3. the rows up to the least of them all   all that are up to there are visible, or never will be

in this order, each with a look of its own. It costs writers one statement and readers two. (Transaction ids
would do as well, but only with cursors that are made of two numbers.)
"""

from __future__ import annotations

import sqlalchemy as sa

from opportune_service.adapters.sql.locks import HERE, Space, has_locks, key_of
from opportune_service.adapters.sql.unit import unit_of

_SPACES = {"decisions": Space.DECISIONS, "contact_changes": Space.CHANGES}

_last = "coalesce(pg_sequence_last_value('{table}_cursor_seq'), 0)"
_drawing = sa.text(
    "SELECT "
    + ", ".join(
        f"pg_advisory_xact_lock_shared({HERE} + {key_of(space)} + {_last.format(table=table)})"
        for table, space in _SPACES.items()
    )
)
_least = sa.text(
    f"SELECT min((classid::bigint << 32 | objid::bigint) - {HERE} - :key) FROM pg_locks"  # noqa: S608 - numbers
    " WHERE locktype = 'advisory' AND objsubid = 1"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    f" AND classid::bigint >> 24 = :space + ({HERE} >> 56) AND pid <> pg_backend_pid()"
)


def draw(connection: sa.Connection) -> None:
    """This transaction is going to draw cursors."""
    unit = unit_of(connection)
    if has_locks(connection) and not unit.draws:
        connection.execute(_drawing)
        unit.draws = True


def settled(connection: sa.Connection, table: sa.Table) -> int:
    """The cursor up to which all rows of the table are visible to whoever looks from now on."""
    if not has_locks(connection):
        return connection.scalar(sa.select(sa.func.coalesce(sa.func.max(table.c.cursor), 0))) or 0
    space = _SPACES[table.name]
    last: int = connection.scalar(sa.text(f"SELECT {_last.format(table=table.name)}"))
    least = connection.scalar(_least, {"key": key_of(space), "space": int(space)})
    return last if least is None else min(last, least)
