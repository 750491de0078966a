"""Which statements read a table from end to end, by what SQLite says of their plans."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from opportune_service.adapters.sql import schema

GROWING = frozenset(
    {
        *("contact_changes", "contacts", "decisions", "deferrals", "deliveries", "log", "outcomes"),
        *("prompts", "states", "touches", "verdicts"),
    }
)
"""Tables that grow with subscribers and what they do: a commit that reads one of them takes ever longer."""

_READS = re.compile(rf"(DELETE|INSERT|SELECT|UPDATE|WITH)\b.*\b({'|'.join(GROWING)})\b", re.DOTALL)
_EVERYTHING = re.compile(r"\binstr\(|verdicts\.event_id\s+FROM verdicts\s+WHERE verdicts\.subscriber_id = ")
"""Whoever is erased is looked for everywhere, which is rare."""


@contextmanager
def searched() -> Iterator[None]:
    """Fails at the end if a statement on SQLite has read one of the growing tables from end to end. Only
    connections that are made meanwhile are watched."""
    said: list[str] = []

    @sa.event.listens_for(sa.pool.Pool, "connect")
    def watch(connection: object, _: object) -> None:
        if isinstance(connection, sqlite3.Connection):
            connection.set_trace_callback(said.append)

    try:
        yield
    finally:
        sa.event.remove(sa.pool.Pool, "connect", watch)
    assert not (found := scans(said)), f"read from end to end: {found}"


def scans(statements: Collection[str]) -> list[tuple[str, str]]:
    """(what is read, statement) of those that read a growing table, or an index of all of it, from end to
    end; but not a page in the order of an index, which ends early."""
    engine = sa.create_engine("sqlite://")
    schema.metadata.create_all(engine)
    found = []
    with engine.connect() as connection:
        for text in dict.fromkeys(statements):
            if not _READS.match(text) or _EVERYTHING.search(text):
                continue
            rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}").all()
            plan = [str(row[3]) for row in rows]
            sorts = any("TEMP B-TREE" in step for step in plan)
            for step in plan:
                scan = re.fullmatch(r"SCAN (\w+)(?: USING (?:COVERING )?INDEX (\w+))?", step)
                if scan and scan[1] in GROWING and not _partial(scan[2]) and (sorts or "LIMIT" not in text):
                    found.append((step, text))
    engine.dispose()
    return found


def _partial(index: str | None) -> bool:
    """Whether an index holds only a few rows of its table: what is open or dead."""
    indexes = {each.name: each for table in schema.metadata.tables.values() for each in table.indexes}
    return index in indexes and indexes[index].dialect_options["sqlite"]["where"] is not None
