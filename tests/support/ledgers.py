"""The stores that the ledger's contract is run against."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from opportune_service.adapters.sql import SqlLedger, schema
from opportune_service.app.ports import Ledger

STORES = ("sqlite-file", "sqlite-memory", "postgres")

Opener = Callable[[], Ledger]


def opener(store: str, directory: Path, request: pytest.FixtureRequest) -> Opener:
    """How to open a ledger of that kind, empty at first. What is in a file or on a server can be opened
    again, and on a server more than once at a time."""
    match store:
        case "sqlite-file":
            url = f"sqlite:///{directory}/ledger.db"
        case "postgres":
            url = request.getfixturevalue("postgres_ledger_url")
        case _:
            url = "sqlite://"
    return lambda: SqlLedger.open(url)


def empty_ledger(url: str) -> None:
    """Make a ledger on PostgreSQL what it was at first; whoever uses it is thrown out."""
    tables = [table for table in reversed(schema.metadata.sorted_tables) if table is not schema.meta]
    statements = [
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()",
        # Faster than truncating what is small.
        *(f'DELETE FROM "{table.name}"' for table in tables),  # noqa: S608 - our own names
        "SELECT setval(sequencename::regclass, 1, false) FROM pg_sequences",
        "UPDATE meta SET value = 0",
    ]
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        connection.execute("; ".join(statements).encode())
