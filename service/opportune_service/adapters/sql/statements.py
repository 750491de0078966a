"""Statements about many rows at once: by key, and inserted where some may be there already."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice, repeat
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

T = TypeVar("T")
Rows = Sequence[Mapping[str, object]]

_CHUNK = 1000
# Values in one IN list; databases limit the parameters of a statement.


def chunks(items: Iterable[T], size: int = _CHUNK) -> Iterator[list[T]]:
    """`items` in lists of at most `size`."""
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk


def select_keys(
    connection: sa.Connection, table: sa.Table, key: tuple[str, ...], keys: Iterable[tuple[object, ...]]
) -> Iterator[sa.Row[Any]]:
    """The whole rows of `table` whose columns `key` have one of these values, in no order. An index must
    begin with `key`."""
    for chunk in chunks(keys):
        # To the next power of two, by keys that nothing has: making a statement costs much more than using
        # it again, and so there are few.
        count = 1 << (len(chunk) - 1).bit_length()
        rows = [*chunk, *repeat((None,) * len(key), count - len(chunk))]
        values = {f"k{n}_{i}": value for n, row in enumerate(rows) for i, value in enumerate(row)}
        yield from connection.execute(_by_key(table, key, count), values)


@lru_cache
def _by_key(table: sa.Table, key: tuple[str, ...], count: int) -> sa.TextualSelect:
    """A join, which looks up each key in the index. Asking for whole keys in one IN would make SQLite read
    the table from end to end; asking for their first column alone, all rows that share it."""
    types = [table.c[name].type for name in key]
    wanted = ", ".join(
        "(" + ", ".join(f"CAST(:k{n}_{i} AS {type_})" for i, type_ in enumerate(types)) + ")"
        for n in range(count)
    )
    columns = ", ".join(f't."{column.key}"' for column in table.c)
    equal = " AND ".join(f'w."{name}" = t."{name}"' for name in key)
    names = ", ".join(f'"{name}"' for name in key)
    return sa.text(
        f"WITH wanted ({names}) AS (VALUES {wanted})"  # noqa: S608 - names, no values
        f" SELECT {columns} FROM wanted AS w CROSS JOIN {table.name} AS t WHERE {equal}"
    ).columns(*table.c)


def insert_new(connection: sa.Connection, table: sa.Table, rows: Rows) -> None:
    """Insert these, but for those whose key is taken: they stay as they are."""
    if rows:
        connection.execute(_insert(table, connection.dialect.name).on_conflict_do_nothing(), rows)


def put_many(connection: sa.Connection, table: sa.Table, rows: Rows) -> None:
    """Insert these, each in place of the one with its key."""
    if rows:
        connection.execute(_put(table, connection.dialect.name), rows)


def add_many(connection: sa.Connection, table: sa.Table, rows: Rows) -> None:
    """Add each row's `value` to that of the row with its key; where there is none, insert it."""
    if rows:
        connection.execute(_add(table, connection.dialect.name), rows)


def _insert(table: sa.Table, dialect: str) -> sqlite.Insert | postgresql.Insert:
    # The words are the same in both dialects, but SQLAlchemy has no common statement for them.
    return postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)


@lru_cache
def _put(table: sa.Table, dialect: str) -> sa.Insert:
    insert = _insert(table, dialect)
    new = {column.key: insert.excluded[column.key] for column in table.c if not column.primary_key}
    return insert.on_conflict_do_update(index_elements=list(table.primary_key.columns), set_=new)


@lru_cache
def _add(table: sa.Table, dialect: str) -> sa.Insert:
    insert = _insert(table, dialect)
    new = {"value": table.c.value + insert.excluded.value}
    return insert.on_conflict_do_update(index_elements=list(table.primary_key.columns), set_=new)
