"""Statements about many rows at once: by key, and inserted where some may be there already."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import islice, repeat
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from opportune_service.adapters.sql.direct import fetch
from opportune_service.adapters.sql.engine import Rows, insert_by

T = TypeVar("T")
_CHUNK = 1000
# Values in one IN list; databases limit the parameters of a statement.


class now_us(FunctionElement[int]):  # noqa: N801 - it is a function in statements
    """The instant by the clock of the database, in microseconds; on SQLite by whole milliseconds."""

    type = sa.BigInteger()
    inherit_cache = True


@compiles(now_us, "sqlite")
def _now_on_sqlite(_: now_us, __: SQLCompiler, **___: object) -> str:
    return "CAST(round((julianday('now') - 2440587.5) * 86400000) * 1000 AS INTEGER)"


@compiles(now_us, "postgresql")
def _now_on_postgresql(_: now_us, __: SQLCompiler, **___: object) -> str:
    return "CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT)"


class among_ids(FunctionElement[bool]):  # noqa: N801 - it is a function in statements
    """Whether a column has one of the values of the parameter `ids`, a list. On PostgreSQL it is the same
    statement whatever their number, which it then need not understand anew."""

    # No `type`: of a boolean SQLAlchemy asks on SQLite whether it is 1, and then no index serves it.
    inherit_cache = True


@compiles(among_ids, "sqlite")
def _among_on_sqlite(among: among_ids, compiler: SQLCompiler, **how: Any) -> str:
    (column,) = among.clauses
    return compiler.process(column.in_(sa.bindparam("ids", expanding=True)), **how)


@compiles(among_ids, "postgresql")
def _among_on_postgresql(among: among_ids, compiler: SQLCompiler, **how: Any) -> str:
    (column,) = among.clauses
    ids: sa.BindParameter[Any] = sa.bindparam("ids", type_=postgresql.ARRAY(sa.Text))
    return f"{compiler.process(column, **how)} = ANY({compiler.process(ids, **how)})"


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
    if connection.dialect.name == "postgresql":
        lists = {f"k{i}": list(column) for i, column in enumerate(zip(*keys, strict=True))}
        if lists:
            yield from fetch(connection, _by_lists(table, key), lists)
        return
    for chunk in chunks(keys):
        # To the next power of two, by keys that nothing has: making a statement costs much more than using
        # it again, and so there are few.
        count = 1 << (len(chunk) - 1).bit_length()
        rows = [*chunk, *repeat((None,) * len(key), count - len(chunk))]
        values = {f"k{n}_{i}": value for n, row in enumerate(rows) for i, value in enumerate(row)}
        yield from fetch(connection, _by_key(table, key, count), values)


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


@lru_cache
def _by_lists(table: sa.Table, key: tuple[str, ...]) -> sa.TextualSelect:
    """The same on PostgreSQL, whose lists make it one statement whatever the number of keys."""
    lists = ", ".join(f"CAST(:k{i} AS {table.c[name].type}[])" for i, name in enumerate(key))
    names = ", ".join(f'"{name}"' for name in key)
    columns = ", ".join(f't."{column.key}"' for column in table.c)
    equal = " AND ".join(f'w."{name}" = t."{name}"' for name in key)
    return sa.text(
        f"SELECT {columns} FROM unnest({lists}) AS w ({names})"  # noqa: S608 - names, no values
        f" JOIN {table.name} AS t ON {equal}"
    ).columns(*table.c)


def insert_new(connection: sa.Connection, table: sa.Table, rows: Rows) -> int:
    """Insert these, but for those whose key is taken: they stay as they are. How many were inserted."""
    return insert_by(connection, _new(table, connection.dialect.name), rows) if rows else 0


def put_many(connection: sa.Connection, table: sa.Table, rows: Rows, newer_by: str = "") -> None:
    """Insert these, each in place of the one with its key; with `newer_by` only if its value of that column
    is not less."""
    if rows:
        insert_by(connection, _put(table, connection.dialect.name, newer_by), rows)


def put_latest(connection: sa.Connection, table: sa.Table, greatest: tuple[str, ...], rows: Rows) -> None:
    """Insert these, each in place of the one with its key, but of the columns `greatest` keep the greater
    value."""
    if rows:
        insert_by(connection, _put_latest(table, connection.dialect.name, greatest), rows)


def add_many(connection: sa.Connection, table: sa.Table, rows: Rows) -> None:
    """Add each row's `value` to that of the row with its key; where there is none, insert it."""
    if rows:
        insert_by(connection, _add(table, connection.dialect.name), rows)


def _insert(table: sa.Table, dialect: str) -> sqlite.Insert | postgresql.Insert:
    # The words are the same in both dialects, but SQLAlchemy has no common statement for them.
    return postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)


@lru_cache
def _new(table: sa.Table, dialect: str) -> sa.Insert:
    return _insert(table, dialect).on_conflict_do_nothing()


@lru_cache
def _put(table: sa.Table, dialect: str, newer_by: str) -> sa.Insert:
    insert = _insert(table, dialect)
    new = {column.key: insert.excluded[column.key] for column in table.c if not column.primary_key}
    where = insert.excluded[newer_by] >= table.c[newer_by] if newer_by else None
    return insert.on_conflict_do_update(
        index_elements=list(table.primary_key.columns), set_=new, where=where
    )


@lru_cache
def _put_latest(table: sa.Table, dialect: str, greatest: tuple[str, ...]) -> sa.Insert:
    insert = _insert(table, dialect)
    new: dict[str, sa.ColumnElement[Any]] = {}
    for column in table.c:
        excluded = insert.excluded[column.key]
        if column.key in greatest:
            new[column.key] = sa.case((excluded > column, excluded), else_=column)
        elif not column.primary_key:
            new[column.key] = excluded
    return insert.on_conflict_do_update(index_elements=list(table.primary_key.columns), set_=new)


@lru_cache
def _add(table: sa.Table, dialect: str) -> sa.Insert:
    insert = _insert(table, dialect)
    new = {"value": table.c.value + insert.excluded.value}
    return insert.on_conflict_do_update(index_elements=list(table.primary_key.columns), set_=new)
