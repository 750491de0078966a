"""Reaching the store, whichever it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import sqlalchemy as sa

from opportune_service.adapters.sql import sqlite
from opportune_service.adapters.sql.direct import write
from opportune_service.app.errors import StoreUnavailableError

Rows = Sequence[Mapping[str, object]]


def connect_to(url: str) -> tuple[sa.Engine, str]:
    """An engine with a single connection to a store, and what to call it in messages; see `open_engine`."""
    place = _parse(url)
    if place.drivername == "sqlite":
        return sqlite.make_engine(place), sqlite.name_of(place)
    from opportune_service.adapters.sql import postgres  # noqa: PLC0415 - only there with its extra

    return postgres.make_engine(place), postgres.name_of(place)


def for_reading(engine: sa.Engine) -> sa.Engine:
    """The same, for transactions that read: all that one reads is from one instant, as it is on SQLite."""
    if engine.dialect.name != "postgresql":
        return engine
    return engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)


def insert_many(connection: sa.Connection, table: sa.Table, rows: Rows) -> None:
    """Insert complete rows (all columns but a serial number) with one call of the driver."""
    if rows:
        insert_by(connection, _plain(table), rows)


def insert_by(connection: sa.Connection, insert: sa.Insert, rows: Rows) -> int:
    """Insert complete rows, of which there is one at least, by this statement, the same object each time.
    How many were inserted, or put in place of others.

    It goes past SQLAlchemy's preparation of each row, which costs more than SQLite's insert itself. Where
    there are lists, a column is a list: a row then costs the server, and this side, half of what it does
    alone.
    """
    statement, names = _text(insert, connection.dialect)
    given: Any = {name: [row[name] for row in rows] for name in names} if names else rows
    return write(connection, statement, given)


@lru_cache
def _plain(table: sa.Table) -> sa.Insert:
    return table.insert().inline()


@lru_cache
def _text(insert: sa.Insert, dialect: sa.Dialect) -> tuple[str, Sequence[str]]:
    """The statement, and the names of its lists; no names if it takes row after row."""
    columns = [column for column in insert.table.columns if column.autoincrement is not True]
    names = [str(column.key) for column in columns]
    text = str(insert.compile(dialect=dialect, column_keys=names))
    if dialect.name != "postgresql":
        return text, ()
    into, _, rest = text.partition(" VALUES ")
    _, conflict, what = rest.partition(" ON CONFLICT ")
    types = [column.type.compile(dialect).partition(" COLLATE ")[0] for column in columns]
    lists = ", ".join(f"%({name})b::{type_}[]" for name, type_ in zip(names, types, strict=True))
    return f"{into} SELECT * FROM unnest({lists}){conflict}{what}", names  # noqa: S608 - names, no values


def patient(connection: sa.Connection) -> None:
    """The rest of this transaction reads whole tables: it may take its time."""
    if connection.dialect.name == "postgresql":
        from opportune_service.adapters.sql import postgres  # noqa: PLC0415 - only there with its extra

        postgres.be_patient(connection)


def _parse(url: str) -> sa.URL:
    try:
        place = sa.make_url(url)
    except sa.exc.ArgumentError:
        place = None
    if place is None or place.drivername not in ("sqlite", "postgresql", "postgresql+psycopg"):
        raise StoreUnavailableError(
            "the ledger's URL cannot be used: write it like sqlite:///var/opportune.db or"
            " postgresql://USER:PASSWORD@HOST/DATABASE"
        )
    return place
