"""A journal of what a ledger's tables went through, kept by triggers of the database itself.

Each change of a contact, a delivery, an outcome or a pause leaves a row, in the transaction of the change,
with the clock's time: what was durable when, in which order, whatever the service believes. Tests add what
they were told, such as "this opt-out is acknowledged", between the rows.

A database is the path of a SQLite file, or the URL of one on a PostgreSQL server.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import sqlalchemy as sa
from opportune_service.bootstrap import Application
from psycopg.rows import dict_row

Database = Path | str

_WATCHED = {
    "contacts": "subscriber_id decision_id campaign product category channel mode at_us state control "
    "origin open_until_us day cost",
    "deliveries": "subscriber_id decision_id campaign channel state token attempts uncertain "
    "available_at_us expires_at_us",
    "outcomes": "subscriber_id decision_id kind campaign product category at_us",
    "pauses": "campaign",
}


class Entry(NamedTuple):
    """`what`: a table's name, or what the test told. `was` and `now`: the row before and after; None:
    there was none."""

    at_us: int
    what: str
    was: dict[str, Any] | None
    now: dict[str, Any] | None


async def keep_journal(app: Application) -> None:
    """Begin, or go on after a restart; before anything else is asked of the application."""

    put_down = "INSERT INTO journal (at_us, what, was, now) VALUES"

    def begin_on_server(engine: sa.Engine) -> None:
        # It is told the time when a transaction begins.
        sa.event.listen(engine, "begin", lambda it: it.exec_driver_sql(_tell_time(app.clock.now_us())))
        with engine.begin() as connection:
            connection.exec_driver_sql(
                "CREATE TABLE IF NOT EXISTS journal"
                " (seq BIGSERIAL PRIMARY KEY, at_us BIGINT, what TEXT, was TEXT, now TEXT);"
                " CREATE OR REPLACE FUNCTION put_down() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
                f" {put_down} (current_setting('test.now')::bigint, TG_TABLE_NAME,"
                " to_jsonb(OLD), to_jsonb(NEW)); RETURN NULL; END $$"
            )
            for table in _WATCHED:
                connection.exec_driver_sql(
                    f"CREATE OR REPLACE TRIGGER journal AFTER INSERT OR UPDATE OR DELETE ON {table}"
                    " FOR EACH ROW EXECUTE FUNCTION put_down()"
                )

    def begin() -> None:
        if (engine := _server_engine(app)) is not None:
            begin_on_server(engine)
            return
        connection = _raw(app)
        connection.create_function("test_now", 0, app.clock.now_us)
        connection.execute(
            "CREATE TABLE IF NOT EXISTS journal (seq INTEGER PRIMARY KEY, at_us, what, was, now)"
        )
        for table, columns in _WATCHED.items():
            old, new = (
                "json_object(" + ", ".join(f"'{c}', {row}.{c}" for c in columns.split()) + ")"
                for row in ("OLD", "NEW")
            )
            for action, was, now in (
                ("INSERT", "NULL", new),
                ("UPDATE", old, new),
                ("DELETE", old, "NULL"),
            ):
                connection.execute(
                    f"CREATE TRIGGER IF NOT EXISTS journal_{table}_{action} AFTER {action} ON {table}"
                    f" BEGIN {put_down} (test_now(), '{table}', {was}, {now}); END"
                )

    await app.thread.run(begin)


async def note(app: Application, what: str, **said: Any) -> None:
    """Put down what the test knows now: after all that is durable by now, before all that comes later."""
    row = (app.clock.now_us(), what, json.dumps(said))
    insert = "INSERT INTO journal (at_us, what, was, now) VALUES (?, ?, NULL, ?)"

    def put_down() -> None:
        if (engine := _server_engine(app)) is None:
            _raw(app).execute(insert, row)
            return
        with engine.begin() as connection:
            connection.exec_driver_sql(insert.replace("?", "%s"), row)

    await app.thread.run(put_down)


async def copy_of(app: Application, source: Database, target: Database) -> None:
    """What is on the disk at this instant: what a new process would find if this one were killed now."""

    def copy() -> None:
        if (engine := _server_engine(app)) is not None:
            engine.dispose()  # a database that somebody is connected to cannot be copied
            from_, to = (sa.make_url(str(each)).database for each in (source, target))
            admin = sa.make_url(str(source)).set(drivername="postgresql", database="postgres")
            with psycopg.connect(str(admin), autocommit=True) as connection:
                connection.execute(f'CREATE DATABASE "{to}" TEMPLATE "{from_}"'.encode())
            return
        for suffix in ("", "-wal"):
            shutil.copyfile(f"{source}{suffix}", f"{target}{suffix}")

    await app.thread.run(copy)


def journal_of(database: Database) -> list[Entry]:
    """All that was put down, in order. The application must be closed."""
    rows = _rows(database, "SELECT at_us, what, was, now FROM journal ORDER BY seq")
    return [
        Entry(row["at_us"], row["what"], *(each and json.loads(each) for each in (row["was"], row["now"])))
        for row in rows
    ]


def table_of(database: Database, table: str) -> list[dict[str, Any]]:
    """All rows of a table as they are at the end."""
    return _rows(database, f"SELECT * FROM {table}")  # noqa: S608 - a test's own name


def _rows(database: Database, query: str) -> list[dict[str, Any]]:
    if isinstance(database, str):
        address = database.replace("+psycopg", "")
        with psycopg.connect(address, row_factory=dict_row) as connection:
            return connection.execute(query.encode()).fetchall()
    with closing(sqlite3.connect(database)) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(query)]


def _tell_time(now_us: int) -> str:
    return f"SET LOCAL test.now = {now_us}"


def _server_engine(app: Application) -> sa.Engine | None:
    """That of the service's connection, if it is one to a server; use it in the ledger's thread."""
    ledger: Any = app.ledger
    engine: sa.Engine = ledger._writer
    return engine if engine.dialect.name == "postgresql" else None


def _raw(app: Application) -> sqlite3.Connection:
    """The one connection that the service has; call it in the ledger's thread."""
    ledger: Any = app.ledger
    pooled = ledger._engine.raw_connection()
    try:
        connection: sqlite3.Connection = pooled.driver_connection
        return connection
    finally:
        pooled.close()  # back into the pool; the connection stays open
