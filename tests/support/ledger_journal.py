"""A journal of what a ledger's tables went through, kept by triggers of the database itself.

Each change of a contact, a delivery, an outcome or a pause leaves a row, in the transaction of the change,
with the clock's time: what was durable when, in which order, whatever the service believes. Tests add what
they were told, such as "this opt-out is acknowledged", between the rows.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any, NamedTuple

from opportune_service.bootstrap import Application

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

    def begin() -> None:
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
    await app.thread.run(lambda: _raw(app).execute(insert, row))


async def copy_of(app: Application, target: Path) -> None:
    """What is on the disk at this instant: what a new process would find if this one were killed now."""
    source = Path(app.settings.database.removeprefix("sqlite:///"))

    def copy() -> None:
        for suffix in ("", "-wal"):
            shutil.copyfile(f"{source}{suffix}", f"{target}{suffix}")

    await app.thread.run(copy)


def journal_of(database: Path) -> list[Entry]:
    """All that was put down, in order. The application must be closed."""
    rows = _rows(database, "SELECT at_us, what, was, now FROM journal ORDER BY seq")
    return [
        Entry(at, what, was and json.loads(was), now and json.loads(now)) for at, what, was, now in rows
    ]


def table_of(database: Path, table: str) -> list[dict[str, Any]]:
    """All rows of a table as they are at the end."""
    connection = sqlite3.connect(database)
    connection.row_factory = sqlite3.Row
    try:
        return [dict(row) for row in connection.execute(f"SELECT * FROM {table}")]  # noqa: S608
    finally:
        connection.close()


def _rows(database: Path, query: str) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(database)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def _raw(app: Application) -> sqlite3.Connection:
    """The one connection that the service has; call it in the ledger's thread."""
    ledger: Any = app.ledger
    pooled = ledger._engine.raw_connection()
    try:
        connection: sqlite3.Connection = pooled.driver_connection
        return connection
    finally:
        pooled.close()  # back into the pool; the connection stays open
