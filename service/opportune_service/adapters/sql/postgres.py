"""PostgreSQL: connecting, and what its errors mean.

No call waits for ever: each wait has its bound, on the server's side where it answers, else on this side.
What is lost is noticed when a connection is taken up or used, and the next call connects anew.
"""

from __future__ import annotations

import select
import socket
import struct
from contextlib import closing
from time import monotonic
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection, QueuePool

from opportune_service.app.errors import (
    InvalidRequestError,
    OpportuneError,
    StoreConflictError,
    StoreUnavailableError,
)
from opportune_service.core.admit import mask

try:
    import psycopg
    from psycopg.abc import PQGen
except ImportError:  # the extra `postgres` is not installed: `make_engine` says so
    raise StoreUnavailableError(
        "a ledger in PostgreSQL needs the extra postgres: pip install 'opportune[postgres]'"
    ) from None

_STATEMENT_MS = 2_000
# A statement takes milliseconds; those that read whole tables say so (`be_patient`).
_PATIENT_MS = 600_000
_LOCK_MS = 1_500
# Others hold locks for a commit's time; whoever waits longer had better tell its caller to try again.
_IDLE_MS = 5_000
# A process that stops in the middle of a transaction keeps its locks no longer than that.
_ANSWER_S = 0.5
# How much longer than the server's own bound this side waits for the server to say anything at all.
_SILENT_S = 0.5
# After so long without a word a second connection asks whether anybody is there,
_PROBE_S = 0.3
# and if nobody says so within this time, it is over: callers are told within a second.
_SSL_REQUEST = struct.pack("!ii", 8, 80877103)
# The first message of a connection that asks for TLS; the answer is one byte, before any login
# (https://www.postgresql.org/docs/current/protocol-message-formats.html).

_SESSION = {
    "statement_timeout": _STATEMENT_MS,
    "lock_timeout": _LOCK_MS,
    "idle_in_transaction_session_timeout": _IDLE_MS,
    # All look things up by an index; a plan made while a table was small would stay when it is not.
    "enable_seqscan": "off",
}
_CONNECTION = {
    "application_name": "opportune",
    "connect_timeout": 2,
    "keepalives_idle": 1,  # seconds: an idle connection finds out that the server's machine is gone
    "keepalives_interval": 1,
    "keepalives_count": 2,
    "tcp_user_timeout": 2_000,  # ms: so does one that has sent something
}

_TRY_AGAIN = "other transactions were in the way; try again"
_ADVICE = {
    # By SQLSTATE or its first two characters, the longer first.
    "25006": "it is a read-only replica: name the primary server",
    "40": _TRY_AGAIN,
    "42501": "this user may not do that: let it own the database's tables",
    "53100": "the disk is full: free some space and try again",
    "53200": "it has no memory left, perhaps for locks: raise max_locks_per_transaction",
    "55P03": _TRY_AGAIN,
    "57014": "a statement took too long; try again, and see what else the server is doing",
}


def make_engine(place: sa.URL) -> sa.Engine:
    """An engine with a single connection. The URL's parameters are libpq's."""
    given = place.query.get("options", "")
    ours = " ".join(f"-c {name}={value}" for name, value in _SESSION.items())
    options = " ".join([ours, given if isinstance(given, str) else " ".join(given)])  # theirs win
    settings = {name: str(value) for name, value in _CONNECTION.items()}
    query = settings | dict(place.query) | {"options": options.strip()}
    place = place.set(drivername="postgresql+psycopg", query=query)
    where = name_of(place)
    engine = sa.create_engine(
        place,
        # As with SQLite: one connection, used by one thread at a time.
        poolclass=QueuePool,
        pool_size=1,
        max_overflow=0,
        pool_timeout=0,
        hide_parameters=True,  # parameters hold subscriber numbers
        isolation_level="READ COMMITTED",
    )
    event.listen(engine, "do_connect", _connect)
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "checkout", _check)

    @event.listens_for(engine, "handle_error", retval=True)
    def _translate(context: ExceptionContext) -> OpportuneError | None:
        return _meaning(where, context)

    return engine


def name_of(place: sa.URL) -> str:
    """What to call the store in a message."""
    return f"{place.database or ''} at {place.host or 'the local socket'}:{place.port or 5432}"


def be_patient(connection: sa.Connection) -> None:
    """See `engine.patient`."""
    connection.exec_driver_sql(
        f"SET LOCAL statement_timeout = {_PATIENT_MS}; SET LOCAL enable_seqscan = on"
    )
    driver = connection.connection.driver_connection
    assert isinstance(driver, _Connection)  # noqa: S101 - `_connect` made it
    driver.bound_s = _PATIENT_MS / 1000 + _ANSWER_S


class _Connection(psycopg.Connection[tuple[Any, ...]]):
    """Gives up on a server that does not answer: it may be frozen, or something on the way swallows it. One
    that answers others, and is only slow with this, is given until `bound_s`."""

    bound_s = _STATEMENT_MS / 1000 + _ANSWER_S

    def wait(self, gen: PQGen[Any], *args: Any, **kwargs: Any) -> Any:
        return super().wait(self._bounded(gen), *args, **kwargs)

    def _bounded(self, gen: PQGen[Any]) -> PQGen[Any]:
        heard = monotonic()
        probe = heard + _SILENT_S
        try:
            waiting = next(gen)
            while True:
                ready = yield waiting
                if ready:
                    heard = monotonic()
                    probe = heard + _SILENT_S
                elif (now := monotonic()) > heard + self.bound_s or (now > probe and not self._is_there()):
                    self.pgconn.finish()  # an answer that comes later would be taken for another's
                    raise psycopg.OperationalError("the server does not answer")
                elif now > probe:  # it works on it
                    probe = monotonic() + _SILENT_S
                waiting = gen.send(ready)
        except StopIteration as done:
            return done.value

    def _is_there(self) -> bool:
        """Whether anybody answers where this connection leads to."""
        host, port = self.info.hostaddr or self.info.host, self.info.port
        local = self.info.host.startswith("/")
        family = socket.AF_UNIX if local else socket.AF_INET6 if ":" in host else socket.AF_INET
        place = f"{self.info.host}/.s.PGSQL.{port}" if local else (host, port)
        try:
            with closing(socket.socket(family)) as probe:
                probe.settimeout(_PROBE_S)
                probe.connect(place)
                probe.sendall(_SSL_REQUEST)
                return bool(probe.recv(1))
        except OSError:
            return False


def _connect(
    _: sa.Dialect, __: ConnectionPoolEntry, args: list[Any], kwargs: dict[str, Any]
) -> DBAPIConnection:
    connection: DBAPIConnection = _Connection.connect(*args, **kwargs)  # type: ignore[assignment]
    return connection


def _prepare(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    assert isinstance(connection, psycopg.Connection)  # noqa: S101 - `_connect` made it
    # What was acknowledged is durable, whatever the server's default.
    connection.execute(
        "SELECT set_config('synchronous_commit', 'on', false)"
        " WHERE current_setting('synchronous_commit') = 'off'"
    )
    connection.commit()


def _check(connection: DBAPIConnection, _: ConnectionPoolEntry, __: PoolProxiedConnection) -> None:
    """Nothing comes unasked over a connection but its end: notice that before something is asked."""
    assert isinstance(connection, _Connection)  # noqa: S101 - `_connect` made it
    connection.bound_s = _Connection.bound_s
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    if poll.poll(0):
        raise sa.exc.DisconnectionError


def _meaning(where: str, context: ExceptionContext) -> OpportuneError | None:
    """The error to raise instead of the driver's; None for our own mistakes, which stay as they are. What
    the server quotes of the rows goes out of the driver's error, too."""
    error = context.original_exception
    if not isinstance(error, psycopg.Error):
        return None
    state = error.sqlstate or ""
    if state:
        error.args = (mask(error.diag.message_primary or type(error).__name__),)
    for length in (5, 2):
        if advice := _ADVICE.get(state[:length]):
            return StoreUnavailableError(f"the ledger {where}: {advice}")
    if isinstance(error, psycopg.IntegrityError):
        return StoreConflictError(
            "the ledger holds this already, or lacks what this refers to; read it again"
        )
    if isinstance(error, psycopg.DataError) and "NUL" in str(error):
        # What is kept was checked where it came in; this asks for something by such a name.
        return InvalidRequestError("", "no name of anything holds the character NUL")
    if isinstance(error, psycopg.ProgrammingError | psycopg.DataError):
        if context.sqlalchemy_exception is not None:
            context.sqlalchemy_exception.args = error.args
        return None
    said = mask((str(error).strip().splitlines() or ["no reason given"])[0].rpartition("failed: ")[2])
    return StoreUnavailableError(
        f"the ledger {where} cannot be reached ({said}): start PostgreSQL, or mend the URL of the ledger"
    )
