"""SQLite: opening a file, and what its errors mean.

It is held in exclusive locking mode: embedded means one process, and a second one that opens the same file
is refused at start. The lock goes with the process, so nothing is left behind by a crash.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry, QueuePool

from opportune_service.app.errors import OpportuneError, StoreConflictError, StoreUnavailableError

_OPEN_TIMEOUT_S = 1.0
# How long to wait at start for a process that is just going down. Later nobody else holds a lock.

_PRAGMAS = (
    "PRAGMA locking_mode = EXCLUSIVE",  # before the first access, so that no shared memory is needed
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",  # a finished transaction survives a power cut
    "PRAGMA foreign_keys = ON",
    "PRAGMA secure_delete = ON",  # what is erased is overwritten, not only given free
    "PRAGMA temp_store = MEMORY",
    "PRAGMA cache_size = -65536",  # KiB
    "PRAGMA wal_autocheckpoint = 8000",  # pages, 32 MB: writing back less often costs less in all
    "PRAGMA journal_size_limit = 134217728",
)

_ADVICE = {
    "SQLITE_BUSY": "another process has it open: stop that one first, only one may open it",
    "SQLITE_LOCKED": "another process has it open: stop that one first, only one may open it",
    "SQLITE_READONLY": "it cannot be written: give this user write access to the file and its directory",
    "SQLITE_PERM": "it cannot be written: give this user write access to the file and its directory",
    "SQLITE_CANTOPEN": "it cannot be opened: this user needs write access to the file and its directory",
    "SQLITE_FULL": "the disk is full: free some space and try again",
    "SQLITE_IOERR": "reading or writing failed: check the disk, its free space and the system's log",
    "SQLITE_NOTADB": "it is not a SQLite database: name another file, or move this one away",
    "SQLITE_CORRUPT": "the file is damaged: stop the service and restore the file from a backup",
}


def make_engine(place: sa.URL) -> sa.Engine:
    """An engine with a single connection. Raises `StoreUnavailableError` if the file cannot be used."""
    if place.host or place.query:
        raise StoreUnavailableError(
            "a ledger in a SQLite file takes no parameters: write its URL like sqlite:///var/opportune.db"
        )
    if place.database and place.database != ":memory:":
        _check_path(Path(place.database))
    where = name_of(place)
    engine = sa.create_engine(
        place,
        # One connection, used by one thread at a time; a second checkout is a mistake and fails at once.
        poolclass=QueuePool,
        pool_size=1,
        max_overflow=0,
        pool_timeout=0,
        connect_args={"check_same_thread": False, "timeout": _OPEN_TIMEOUT_S},
        paramstyle="named",  # rows go to the driver as they are, see `insert_many`
        hide_parameters=True,  # parameters hold subscriber numbers
    )
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", _begin)

    @event.listens_for(engine, "handle_error", retval=True)
    def _translate(context: ExceptionContext) -> OpportuneError | None:
        return _meaning(where, context)

    return engine


def name_of(place: sa.URL) -> str:
    """What to call the store in a message."""
    return place.database or ":memory:"


def _check_path(path: Path) -> None:
    """What SQLite would only call an I/O error."""
    if path.is_dir():
        raise StoreUnavailableError(f"the ledger {path} is a directory: name a file in it")
    if not path.parent.is_dir():
        raise StoreUnavailableError(
            f"the ledger {path} cannot be made: create the directory {path.parent} first"
        )
    if not all(os.access(each, os.W_OK) for each in (path.parent, path) if each.exists()):
        raise StoreUnavailableError(f"the ledger {path}: {_ADVICE['SQLITE_READONLY']}")


def _prepare(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    if not isinstance(connection, sqlite3.Connection):
        raise TypeError("the pragmas are SQLite's")
    connection.isolation_level = None  # transactions are begun by `_begin`, not guessed by the driver
    for pragma in _PRAGMAS:
        connection.execute(pragma).fetchall()


def _begin(connection: sa.Connection) -> None:
    # A writer takes its lock at once: taking it later could fail in the middle.
    write = connection.get_execution_options().get("write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _meaning(where: str, context: ExceptionContext) -> OpportuneError | None:
    """The error to raise instead of the driver's; None for our own mistakes, which stay as they are."""
    if isinstance(context.sqlalchemy_exception, sa.exc.IntegrityError):
        return StoreConflictError(
            "the ledger holds this already, or lacks what this refers to; read it again"
        )
    if isinstance(context.sqlalchemy_exception, sa.exc.ProgrammingError | sa.exc.DataError):
        return None
    name: str = getattr(context.original_exception, "sqlite_errorname", "")
    for prefix, advice in _ADVICE.items():
        if name.startswith(prefix):
            return StoreUnavailableError(f"the ledger {where}: {advice}")
    if not isinstance(context.original_exception, sqlite3.Error):
        return None
    return StoreUnavailableError(f"the ledger {where} failed ({context.original_exception}); try again")
