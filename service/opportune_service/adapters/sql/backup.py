"""Copies of a SQLite ledger: made while it works, checked, and put in place again.

Whoever has the ledger open has it alone, so a running service makes its copy itself, on its own connection
and next to its commits: SQLite brings what they change into the copy that is under way.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

import sqlalchemy as sa

from opportune_service.app.errors import InvalidRequestError, StoreUnavailableError

_PAGES = 256
"""Copied at a time, 1 MiB: commits wait for a millisecond or two."""

_REST_SECONDS = 0.002

_SKIPPED = 1_000_000_000
"""So many cursors are left out after a restore: a reader may hold some that were given after the backup,
and would miss what gets them a second time."""

_BESIDE = ("", "-wal", "-shm")
"""A database and what SQLite keeps beside it."""


class _StoppedError(Exception):
    pass


def sqlite_connection(engine: sa.Engine) -> sqlite3.Connection | None:
    """The one connection of a SQLite engine, which any thread may copy from."""
    if engine.dialect.name != "sqlite":
        return None
    with engine.connect() as connection:
        driver = connection.connection.driver_connection
    return driver if isinstance(driver, sqlite3.Connection) else None


def copy_to(source: sqlite3.Connection, path: Path, stopped: Callable[[], bool] = lambda: False) -> None:
    """See `BackedUp.back_up`."""

    def rest(*_: int) -> None:
        if stopped():
            raise _StoppedError
        time.sleep(_REST_SECONDS)

    try:
        with _aside(path) as part:
            with closing(sqlite3.connect(part)) as copy:
                source.backup(copy, pages=_PAGES, progress=rest, sleep=_REST_SECONDS)
                _check(copy)
                copy.execute("PRAGMA journal_mode = DELETE")  # one file, with nothing beside it
            _sync(part)
            part.replace(path)
            _sync(path.parent)
    except _StoppedError:
        return
    except (sqlite3.Error, OSError) as error:
        raise StoreUnavailableError(
            f"the backup {path} was not written ({error}): check that its directory exists, can be written"
            " and has room, and try again"
        ) from error


def restored_copy(backup: Path, database: Path) -> Path:
    """A checked copy of `backup` beside `database`, to be opened, and then put in its place.

    Raises `InvalidRequestError` for what is no backup, `StoreUnavailableError` when somebody has the
    database open or the copy cannot be written."""
    _refuse_if_open(database)
    if not backup.is_file():
        raise InvalidRequestError("FILE", f"there is no file {backup}")
    part = database.with_name(f".{database.name}.restored")
    try:
        _remove(part)
        with (
            closing(sqlite3.connect(f"file:{quote(str(backup))}?mode=ro", uri=True)) as source,
            closing(_new(part)) as copy,
        ):
            source.backup(copy)
            _check(copy)
            _skip_cursors(copy)
    except sqlite3.DatabaseError as error:
        _remove(part)
        raise InvalidRequestError(
            "FILE", f"{backup} is no whole backup of a ledger ({error}): take another one"
        ) from error
    except OSError as error:
        _remove(part)
        raise StoreUnavailableError(
            f"the ledger {database} cannot be written ({error}): create its directory, or free some space"
        ) from error
    return part


def put_in_place(part: Path, database: Path, aside: Path) -> None:
    """Make `part` the database. What was there is kept as `aside`."""
    for suffix in _BESIDE:
        old = Path(f"{database}{suffix}")
        if old.exists():
            old.replace(f"{aside}{suffix}")
    _sync(part)
    part.replace(database)
    _sync(database.parent)


def _refuse_if_open(database: Path) -> None:
    if not database.exists():
        return
    try:
        with closing(sqlite3.connect(database, timeout=0, isolation_level=None)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            connection.execute("ROLLBACK")
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorname.startswith("SQLITE_BUSY"):
            raise StoreUnavailableError(
                f"the ledger {database}: another process has it open: stop the service first"
            ) from error
        # Damaged: that may be why it is restored.


def _check(copy: sqlite3.Connection) -> None:
    """Raises sqlite3.DatabaseError unless it is whole, and a ledger."""
    tables = {name for (name,) in copy.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not tables >= {"meta", "log", "verdicts"}:
        raise sqlite3.DatabaseError("it is not a ledger")
    (found,) = copy.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        raise sqlite3.DatabaseError("it is damaged")


def _skip_cursors(copy: sqlite3.Connection) -> None:
    # A table that never had a row has none there.
    copy.execute(
        "INSERT INTO sqlite_sequence (name, seq) SELECT name, 0 FROM sqlite_master"
        " WHERE type = 'table' AND sql LIKE '%AUTOINCREMENT%'"
        " AND name NOT IN (SELECT name FROM sqlite_sequence)"
    )
    copy.execute("UPDATE sqlite_sequence SET seq = seq + ?", (_SKIPPED,))
    copy.commit()


@contextmanager
def _aside(path: Path) -> Iterator[Path]:
    """A new file beside `path` that is gone in the end, unless it was moved."""
    part = path.with_name(f".{path.name}.part")
    try:
        _remove(part)
        _new(part).close()
        yield part
    finally:
        _remove(part)


def _new(path: Path) -> sqlite3.Connection:
    # It holds people's numbers: for nobody else to read.
    os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))
    return sqlite3.connect(path)


def _remove(path: Path) -> None:
    for suffix in (*_BESIDE, "-journal"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
