"""Statements of every commit, given to the driver as they are.

SQLAlchemy prepares each execution anew. That takes ten times as long as SQLite takes to run the statement,
and a commit has some twenty of them. Here a statement is made ready once; what the driver raises is
translated like everything else that it raises.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import chain, repeat
from typing import Any, NamedTuple

import sqlalchemy as sa

Select = sa.Select[Any] | sa.TextualSelect


def fetch(connection: sa.Connection, statement: Select, values: Mapping[str, object]) -> list[Any]:
    """The rows of a statement that lives as long as the process, with its columns as attributes. Its
    parameter `ids`, if it has one, is a list that is not empty: see `among_ids`."""
    ids = values.get("ids")
    if not isinstance(ids, Sequence) or connection.dialect.name == "postgresql":
        ready = _ready(statement, connection.dialect, tuple(values), 0)
        rows = _run(connection, ready.text, {**ready.constants, **values})
    else:
        # To the next power of two, by ids that nobody has, so that there are few to make ready.
        count = 1 << (len(ids) - 1).bit_length()
        ready = _ready(statement, connection.dialect, tuple(values), count)
        named = zip(ready.names_of_ids, chain(ids, repeat(None)), strict=False)
        rows = _run(connection, ready.text, {**ready.constants, **values, **dict(named)})
    return [ready.read(row) for row in rows]


def write(
    connection: sa.Connection, text: str, given: Mapping[str, object] | Sequence[Mapping[str, object]]
) -> int:
    """Run a statement of the driver once, or once for each row of several, at least one. How many rows of
    the table it has changed."""
    cursor = connection.connection.cursor()
    try:
        if isinstance(given, Mapping):
            cursor.execute(text, given)
        else:
            cursor.executemany(text, given)
        changed: int = cursor.rowcount
    except Exception as error:  # noqa: BLE001 - it is raised again as what it means
        connection._handle_dbapi_exception(error, text, None, cursor, None)
    cursor.close()
    return changed


def _run(connection: sa.Connection, text: str, values: Mapping[str, object]) -> Sequence[Any]:
    cursor = connection.connection.cursor()
    try:
        cursor.execute(text, values)
        rows = cursor.fetchall()
    except Exception as error:  # noqa: BLE001 - likewise
        connection._handle_dbapi_exception(error, text, None, cursor, None)
    cursor.close()
    return rows


class _Ready(NamedTuple):
    text: str
    constants: Mapping[str, object]
    names_of_ids: Sequence[str]
    read: Callable[[Any], Any]


@lru_cache(maxsize=1_000)
def _ready(statement: Select, dialect: sa.Dialect, names: tuple[str, ...], count: int) -> _Ready:
    marks = [f"id {n}" for n in range(count)]
    values = dict.fromkeys(names) | ({"ids": marks} if count else {})
    expanded = statement.compile(dialect=dialect).construct_expanded_state(values)
    constants = {name: value for name, value in expanded.parameters.items() if value is not None}
    name_of = {value: name for name, value in constants.items() if value in marks}
    names_of_ids = [name_of[mark] for mark in marks]
    for name in names_of_ids:
        del constants[name]
    columns = statement.selected_columns
    row_type: Any = namedtuple("Row", columns.keys())  # type: ignore[misc]  # names are known only now
    make = row_type._make
    readers = [each.type.dialect_impl(dialect).result_processor(dialect, None) for each in columns]
    if not any(readers):
        return _Ready(expanded.statement, constants, names_of_ids, make)

    def read(row: Sequence[Any]) -> Any:
        pairs = zip(readers, row, strict=True)
        return make(value if reader is None else reader(value) for reader, value in pairs)

    return _Ready(expanded.statement, constants, names_of_ids, read)
