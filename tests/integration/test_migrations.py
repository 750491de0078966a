"""Ledgers of other releases: from one revision of the tables to another and back, with what is in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from opportune_rulebase.model import TouchKind
from opportune_service.adapters.sql import SqlLedger, migrate, schema
from opportune_service.adapters.sql.engine import connect_to
from opportune_service.app.errors import StoreUnavailableError
from opportune_service.app.records import LogKind, LogRow, Pause
from opportune_service.cli import app
from opportune_service.core.verdict import Touch
from opportune_service.core.watermarks import SourceMark
from support.verdicts import NOON_US, decision, shown, verdict, waiting
from typer.testing import CliRunner

WHO = "8613800000001"
NEW_TABLES = {"members", "live_state", "alembic_version", "rulebase_steps"}
NEW_COLUMNS = {("activations", "mode"), ("activations", "share"), ("rulebases", "signature")}


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of an empty store."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/ledger.db"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
def another_url(url: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Of an empty store of the same kind."""
    if url.startswith("sqlite"):
        yield f"sqlite:///{tmp_path}/another.db"
        return
    with request.getfixturevalue("postgres_server").database() as made:
        yield made


@contextmanager
def connected(url: str) -> Iterator[sa.Connection]:
    """In one transaction."""
    engine, _ = connect_to(url)
    try:
        with engine.execution_options(write=True).begin() as connection:
            yield connection
    finally:
        engine.dispose()


def make_by_revisions(url: str, to: str = "head") -> None:
    """From nothing, one revision after the other."""
    with connected(url) as connection:
        command.upgrade(migrate._config(connection=connection), to)


def make_as_of_old(url: str) -> None:
    """As releases without migrations left it."""
    make_by_revisions(url, migrate.BEFORE_MIGRATIONS)
    with connected(url) as connection:
        connection.exec_driver_sql("DROP TABLE alembic_version")


def fill(ledger: SqlLedger) -> None:
    with ledger.transaction() as tx:
        tx.append_log([LogRow(1, LogKind.EVENTS, "gn", NOON_US, "r1", b"batch")])
        tx.record_verdicts(
            [verdict(WHO, "e1", decision("d1"), waiting("p1")), verdict(WHO, "e2", shown("s1"))]
        )
        tx.record_touches([Touch(WHO, "crm", "t1", NOON_US, TouchKind.QUERY, {"channel": "app"})])
        tx.count_events({("call_missed", 1): 3})
        tx.pause(Pause("night", NOON_US, "wang", "complaints"))
        tx.save_states([(WHO, 1, b"state")])
        tx.save_checkpoint(1)
        tx.save_heartbeat(NOON_US, {"gn": SourceMark(1, 2, {"call_missed"})})


def content(url: str) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of all tables that were there before migrations, without the columns that came after."""
    names = sorted(set(schema.metadata.tables) - NEW_TABLES)
    with connected(url) as connection:
        found = {}
        for name in names:
            table = schema.metadata.tables[name]
            rows = connection.execute(
                sa.select(*(c for c in table.c if (name, c.name) not in NEW_COLUMNS)).order_by(
                    *table.primary_key.columns
                )
            )
            found[name] = [tuple(row) for row in rows]
    found["meta"] = [row for row in found["meta"] if row[0] not in ("generation", "schema")]
    return found


def structure(url: str) -> set[tuple[Any, ...]]:
    """The tables and indexes as the database itself describes them."""
    queries = {
        "sqlite": ["SELECT name, sql FROM sqlite_master WHERE tbl_name <> 'alembic_version'"],
        "postgresql": [
            "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'"
            " AND tablename <> 'alembic_version'",
            "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint"
            " WHERE connamespace = 'public'::regnamespace AND left(conname, 7) <> 'alembic'",
            "SELECT table_name, column_name, data_type, is_nullable, column_default, collation_name"
            " FROM information_schema.columns"
            " WHERE table_schema = 'public' AND table_name <> 'alembic_version'",
        ],
    }
    with connected(url) as connection:
        found: set[tuple[Any, ...]] = set()
        for query in queries[connection.dialect.name]:
            for row in connection.exec_driver_sql(query):
                # Constraints stand in no order.
                found.add(tuple(" ".join(sorted(re.split(r"[\s,]+", str(each)))) for each in row))
    return found


def revision(url: str) -> str | None:
    with connected(url) as connection:
        found: str | None = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    return found


def test_this_release_needs_the_newest_revision() -> None:
    assert migrate._known()[-1] == migrate.HEAD


def test_revisions_one_after_the_other_make_what_a_new_ledger_has(url: str, another_url: str) -> None:
    SqlLedger.open(url).close()
    make_by_revisions(another_url)
    assert structure(another_url) == structure(url)
    for each in (url, another_url):
        with connected(each) as connection:
            context = MigrationContext.configure(connection, opts={"compare_type": True})
            assert compare_metadata(context, schema.metadata) == []
            rows = connection.execute(sa.select(schema.meta)).all()
            assert sorted(map(tuple, rows)) == [("alive", 0), ("checkpoint", 0), ("generation", 0)]
        assert revision(each) == migrate.HEAD


def test_down_and_up_again_loses_nothing(url: str) -> None:
    with closing(SqlLedger.open(url)) as ledger:
        fill(ledger)
        made = structure(url) if not url.startswith("sqlite") else None
    before = content(url)
    assert migrate.migrate(url, "0003") == (migrate.HEAD, "0003")
    assert content(url) == before
    assert not structure(url) & {("members",)}
    assert migrate.migrate(url) == ("0003", migrate.HEAD)
    assert content(url) == before
    assert made is None or structure(url) == made
    with closing(SqlLedger.open(url)) as ledger:
        assert ledger.verdict_of("d1") is not None
        assert (ledger.checkpoint(), ledger.generation(), list(ledger.members())) == (1, 0, [])


def test_before_the_members_go_replay_begins_where_the_last_of_them_would(url: str) -> None:
    with closing(SqlLedger.open(url)) as ledger, ledger.transaction() as tx:
        tx.save_checkpoint(3)
        tx.join(20)
        tx.join(10)
    migrate.migrate(url, "0003")
    with connected(url) as connection:
        checkpoint = sa.select(schema.meta.c.value).where(schema.meta.c.name == "checkpoint")
        assert connection.scalar(checkpoint) == 10


def test_file_from_before_migrations_is_migrated_when_it_is_opened(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db"
    with closing(SqlLedger.open(url)) as ledger:
        fill(ledger)
    before = content(url)
    migrate.migrate(url, migrate.BEFORE_MIGRATIONS)
    with connected(url) as connection:
        connection.exec_driver_sql("DROP TABLE alembic_version")
    with closing(SqlLedger.open(url)) as ledger:
        assert ledger.checkpoint() == 1
        with ledger.transaction() as tx:
            assert tx.join(7) == 1
    assert content(url) == before
    assert revision(url) == migrate.HEAD


def test_database_of_an_older_release_is_migrated_by_a_command_only(postgres_url: str) -> None:
    make_as_of_old(postgres_url)
    with pytest.raises(StoreUnavailableError, match=f"needs {migrate.HEAD}: run opportune migrate"):
        SqlLedger.open(postgres_url)
    printed = CliRunner().invoke(app, ["migrate", "--database", postgres_url])
    assert (printed.exit_code, printed.output) == (
        0,
        f"The ledger has revision {migrate.HEAD} now, after 0003.\n",
    )
    SqlLedger.open(postgres_url).close()
    printed = CliRunner().invoke(app, ["migrate", "--database", postgres_url])
    assert printed.output == f"The ledger has revision {migrate.HEAD}: there was nothing to do.\n"


def test_database_of_a_later_release_is_left_alone(url: str) -> None:
    SqlLedger.open(url).close()
    with connected(url) as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StoreUnavailableError, match="9999, which this release does not know"):
        SqlLedger.open(url)
    with pytest.raises(StoreUnavailableError, match="does not know the revision 9999"):
        migrate.migrate(url)
    assert revision(url) == "9999"


def test_revision_that_there_is_none_of_is_refused(url: str) -> None:
    printed = CliRunner().invoke(app, ["migrate", "--database", url, "--to", "0002"])
    assert printed.exit_code != 0
    assert "does not know the revision 0002, only 0003, 0004, 0005" in printed.output


def test_script_does_what_the_command_would(url: str, another_url: str) -> None:
    make_as_of_old(url)
    make_by_revisions(another_url)
    printed = CliRunner().invoke(app, ["migrate", "--database", url, "--sql"])
    assert printed.exit_code == 0
    assert "alembic_version" not in str(structure(url)), "nothing was changed"
    statements = "\n".join(line for line in printed.output.splitlines() if not line.startswith("--"))
    with connected(url) as connection:
        for statement in statements.split(";"):
            if statement.strip() and statement.strip() not in ("BEGIN", "COMMIT"):
                connection.exec_driver_sql(statement)
    assert structure(url) == structure(another_url)
    assert revision(url) == migrate.HEAD


def test_a_migration_waits_for_nobody_for_long_and_is_done_whole_or_not_at_all(postgres_url: str) -> None:
    make_by_revisions(postgres_url, "0003")
    before = structure(postgres_url)
    with connected(postgres_url) as connection:
        connection.exec_driver_sql("LOCK TABLE touches IN ROW EXCLUSIVE MODE")
        with pytest.raises(StoreUnavailableError, match="try again"):
            migrate.migrate(postgres_url)
    assert (structure(postgres_url), revision(postgres_url)) == (before, "0003")
    migrate.migrate(postgres_url)


def test_a_database_that_is_in_use_is_migrated_meanwhile(postgres_url: str) -> None:
    """One that was begun before goes on, and sees what is new."""
    make_by_revisions(postgres_url, "0003")
    with connected(postgres_url) as connection:
        connection.exec_driver_sql("INSERT INTO states VALUES ('8613800000001', 1, '')")
        connection.exec_driver_sql("SELECT * FROM meta")
        assert migrate.migrate(postgres_url) == ("0003", migrate.HEAD)
        assert connection.exec_driver_sql("SELECT count(*) FROM members").scalar() == 0
    assert len(content(postgres_url)["states"]) == 1


def test_two_may_migrate_at_once(postgres_url: str) -> None:
    make_by_revisions(postgres_url, "0003")
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(migrate.migrate, [postgres_url] * 2))
    assert sorted(done) == [("0003", migrate.HEAD), (migrate.HEAD, migrate.HEAD)]
