"""What goes wrong with a PostgreSQL server: clear errors at start and later, nothing hangs, nothing is
lost, and nobody's number is told."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from threading import Barrier

import psycopg
import pytest
import sqlalchemy as sa
from opportune_service.adapters.sql import SqlLedger, postgres
from opportune_service.app.errors import StoreConflictError, StoreUnavailableError
from opportune_service.app.records import LogKind, LogRow
from support.servers import LOOPBACK, Postgres, free_port, until
from support.servers import postgres as postgres_of_its_own
from support.verdicts import NOON_US, decision, verdict

WHO = "8613800000001"


@pytest.fixture
def ledger(postgres_ledger_url: str) -> Iterator[SqlLedger]:
    with closing(SqlLedger.open(postgres_ledger_url)) as opened:
        yield opened


@pytest.fixture
def admin(postgres_ledger_url: str) -> Iterator[psycopg.Connection[tuple[int]]]:
    """Looks at the ledger's database from outside, every statement a transaction."""
    with psycopg.connect(postgres_ledger_url.replace("+psycopg", ""), autocommit=True) as connection:
        yield connection


def append(ledger: SqlLedger, position: int) -> None:
    with ledger.transaction() as tx:
        tx.append_log([LogRow(position, LogKind.EVENTS, "gn", NOON_US, "r1", b"batch")])


def positions(ledger: SqlLedger) -> list[int]:
    return [row.position for row in ledger.read_log(0)]


# -- at start ---------------------------------------------------------------------------------------


def test_server_that_is_not_there() -> None:
    with pytest.raises(StoreUnavailableError, match=r"refused.*: start PostgreSQL") as refused:
        SqlLedger.open(f"postgresql://opportune:secret@{LOOPBACK}:{free_port()}/opportune")
    assert "secret" not in chain(refused.value)


def test_something_that_is_no_server_does_not_hold_us_up() -> None:
    """It takes connections and says nothing."""
    with socket.create_server((LOOPBACK, 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(StoreUnavailableError, match="cannot be reached"):
            SqlLedger.open(f"postgresql://opportune:secret@{LOOPBACK}:{port}/opportune")


def test_database_that_is_not_there(postgres_server: Postgres) -> None:
    with pytest.raises(StoreUnavailableError, match='database "nowhere" does not exist'):
        SqlLedger.open(postgres_server.url("nowhere"))


def test_database_of_another_encoding(postgres_server: Postgres) -> None:
    with postgres_server.connect() as admin:
        admin.execute("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    try:
        with pytest.raises(StoreUnavailableError, match="ENCODING 'UTF8'"):
            SqlLedger.open(postgres_server.url("latin"))
    finally:
        with postgres_server.connect() as admin:
            admin.execute("DROP DATABASE latin WITH (FORCE)")


def test_user_who_may_not_make_tables(postgres_server: Postgres, postgres_url: str) -> None:
    database = sa.make_url(postgres_url).database
    with postgres_server.connect() as admin:
        admin.execute("DROP ROLE IF EXISTS guest")
        admin.execute("CREATE ROLE guest LOGIN")
    with pytest.raises(StoreUnavailableError, match="let it own the database's tables"):
        SqlLedger.open(f"postgresql://guest@{LOOPBACK}:{postgres_server.port}/{database}")


def test_several_may_start_at_once(postgres_url: str) -> None:
    ready = Barrier(4)

    def start(_: int) -> None:
        ready.wait()
        SqlLedger.open(postgres_url).close()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(start, range(4))) == [None] * 4
    with closing(SqlLedger.open(postgres_url)) as opened:
        assert opened.generation() == 0


# -- later ------------------------------------------------------------------------------------------


def throw_out(admin: psycopg.Connection[tuple[int]]) -> None:
    """As a server does that is restarted, to all but this one."""
    admin.execute(
        "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )


def test_connection_lost_between_transactions_is_made_anew(
    ledger: SqlLedger, admin: psycopg.Connection[tuple[int]]
) -> None:
    append(ledger, 1)
    throw_out(admin)
    append(ledger, 2)
    throw_out(admin)
    assert positions(ledger) == [1, 2]


def test_connection_lost_in_a_transaction_undoes_it(
    ledger: SqlLedger, admin: psycopg.Connection[tuple[int]]
) -> None:
    append(ledger, 1)
    with pytest.raises(StoreUnavailableError), ledger.transaction() as tx:  # noqa: PT012 - is to be undone
        tx.append_log([LogRow(2, LogKind.EVENTS, "gn", NOON_US, "r1", b"batch")])
        throw_out(admin)
        tx.append_log([LogRow(3, LogKind.EVENTS, "gn", NOON_US, "r1", b"batch")])
    assert positions(ledger) == [1]


def test_connection_lost_before_the_commit_undoes_the_transaction(
    ledger: SqlLedger, admin: psycopg.Connection[tuple[int]]
) -> None:
    with pytest.raises(StoreUnavailableError), ledger.transaction() as tx:  # noqa: PT012 - is to be undone
        tx.append_log([LogRow(1, LogKind.EVENTS, "gn", NOON_US, "r1", b"batch")])
        throw_out(admin)
    assert positions(ledger) == []


def test_server_killed_loses_nothing_that_was_finished() -> None:
    with postgres_of_its_own() as server, server.database() as url, closing(SqlLedger.open(url)) as ledger:
        append(ledger, 1)
        server.kill()
        for _ in range(2):
            with pytest.raises(StoreUnavailableError, match="cannot be reached"):
                append(ledger, 2)
        server.start()
        append(ledger, 3)
        assert positions(ledger) == [1, 3]


def test_server_that_does_not_answer_is_given_up_and_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres._Connection, "bound_s", 600)  # only the probe finds it out in time
    with postgres_of_its_own(fsync=False) as server, server.database() as url:
        ledger = SqlLedger.open(url)
        append(ledger, 1)
        server.freeze()
        try:
            for _ in range(2):
                with pytest.raises(StoreUnavailableError, match="cannot be reached"):
                    append(ledger, 2)
        finally:
            server.thaw()
        append(ledger, 3)
        assert 3 in positions(ledger)
        ledger.close()


def test_server_that_is_slow_with_one_statement_is_waited_for(
    ledger: SqlLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    is_there = postgres._Connection._is_there
    monkeypatch.setattr(
        postgres._Connection, "_is_there", lambda self: found.append(is_there(self)) or found[-1]
    )
    with ledger.transaction() as tx:
        tx._connection.exec_driver_sql("SELECT pg_sleep(1.2)")
    assert found
    assert all(found)


def test_lock_that_another_keeps_is_not_waited_for_without_end(
    ledger: SqlLedger, postgres_ledger_url: str
) -> None:
    with closing(SqlLedger.open(postgres_ledger_url)) as other, other.transaction() as holder:
        holder.lock([WHO])
        with pytest.raises(StoreUnavailableError, match="try again"), ledger.transaction() as tx:
            tx.lock([WHO])
    with ledger.transaction() as tx:
        tx.lock([WHO])


def test_process_that_stops_in_a_transaction_gives_its_locks_up(
    postgres_ledger_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(postgres._SESSION, "idle_in_transaction_session_timeout", 100)
    stopped = SqlLedger.open(postgres_ledger_url)
    with (  # noqa: PT012 - all is to be undone
        closing(SqlLedger.open(postgres_ledger_url)) as ledger,
        closing(stopped),
        pytest.raises(StoreUnavailableError),
        stopped.transaction() as tx,
    ):
        tx.lock([WHO])
        with ledger.transaction() as other:
            other.lock([WHO])
        tx.save_checkpoint(1)


def test_patience_ends_with_the_transaction(ledger: SqlLedger) -> None:
    def timeout() -> object:
        with ledger.transaction() as tx:
            return tx._connection.exec_driver_sql("SHOW statement_timeout").scalar()

    before = timeout()
    ledger.campaign_figures(0, NOON_US, {})
    assert timeout() == before == "2s"


# -- numbers ----------------------------------------------------------------------------------------


def chain(error: BaseException | None) -> str:
    """All that a traceback would show of it."""
    said = []
    while error is not None:
        said += [str(error), repr(error)]
        error = error.__cause__ or error.__context__
    return "\n".join(said)


def test_errors_hold_no_subscriber_number(ledger: SqlLedger, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    decided = verdict(WHO, f"e-{WHO}", decision(f"d-{WHO}"))
    with ledger.transaction() as tx:
        tx.record_verdicts([decided])
    with (
        pytest.raises(StoreConflictError, match="holds this already") as conflict,
        ledger.transaction() as tx,
    ):
        tx.record_verdicts([decided])
    assert WHO not in chain(conflict.value)
    with (  # our own mistake: a text where a number belongs
        pytest.raises(sa.exc.DBAPIError) as mistake,
        ledger.transaction() as tx,
    ):
        tx._connection.exec_driver_sql(f"SELECT '{WHO}x'::bigint")
    assert WHO not in chain(mistake.value).replace(f"SELECT '{WHO}x'", "")
    logging.getLogger().error("as it would be logged", exc_info=conflict.value)
    assert WHO not in caplog.text


def test_control_the_driver_s_own_words_hold_the_number(
    ledger: SqlLedger, admin: psycopg.Connection[tuple[int]]
) -> None:
    insert = "INSERT INTO states VALUES (%s, 1, '')"
    admin.execute(insert, [WHO])
    with pytest.raises(psycopg.IntegrityError, match=WHO):
        admin.execute(insert, [WHO])


def test_nothing_waits_when_all_is_done(ledger: SqlLedger, admin: psycopg.Connection[tuple[int]]) -> None:
    """A look leaves no transaction open, which would keep the server from cleaning up."""
    ledger.last_position()
    list(ledger.load_states())
    append(ledger, 1)
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND pid <> pg_backend_pid() AND state <> 'idle'"
    )
    until(lambda: (admin.execute(query).fetchone() or (1,))[0] == 0, "all are idle")
