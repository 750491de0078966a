"""Reaching the store, whichever it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import sqlalchemy as sa

from opportune_service.adapters.sql import sqlite
from opportune_service.app.errors import StoreUnavailableError


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


def insert_many(connection: sa.Connection, table: sa.Table, rows: Sequence[Mapping[str, object]]) -> None:
    """Insert complete rows (all columns but a serial number) with one call of the driver.

    It goes past SQLAlchemy's preparation of each row, which costs more than SQLite's insert itself.
    """
    if rows:
        connection.exec_driver_sql(_insert(table, connection.dialect), rows)


def patient(connection: sa.Connection) -> None:
    """The rest of this transaction reads whole tables: it may take its time."""
    if connection.dialect.name == "postgresql":
        from opportune_service.adapters.sql import postgres  # noqa: PLC0415 - only there with its extra

        postgres.be_patient(connection)


@lru_cache
def _insert(table: sa.Table, dialect: sa.Dialect) -> str:
    names = [column.key for column in table.columns if column.autoincrement is not True]
    return str(table.insert().inline().compile(dialect=dialect, column_keys=names))


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
