"""The tables of a ledger: made when it is empty, checked at every start, migrated between revisions.

A ledger in a file belongs to one process, which migrates it when it opens it. One on a server belongs to
many, perhaps of two releases: it is migrated by a command (`opportune migrate`), while they run.

All of a migration is one transaction: it happens, or nothing of it.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import sqlalchemy as sa

from opportune_service.adapters.sql import schema
from opportune_service.adapters.sql.engine import connect_to, patient
from opportune_service.adapters.sql.locks import Space, has_locks, hold_alone
from opportune_service.app.errors import StoreUnavailableError

if TYPE_CHECKING:
    from alembic.config import Config

HEAD = "0005"
"""The revision that this release needs."""
BEFORE_MIGRATIONS = "0003"
_EMPTY = ""

_metadata = sa.MetaData()
_version = sa.Table("alembic_version", _metadata, sa.Column("version_num", sa.String(32), primary_key=True))
_meta = schema.meta.c


def open_engine(url: str) -> sa.Engine:
    """An engine with a single connection to a checked store, whose tables are made if it is empty.

    All its database errors come as `StoreConflictError` (a constraint was broken) or
    `StoreUnavailableError`, with the driver's error as cause. Raises the latter also for a URL that
    cannot be used and for a store that is not a ledger of this release.
    """
    engine, where = connect_to(url)
    try:
        with engine.execution_options(write=True).begin() as connection:
            _prepare(connection, where)
    except BaseException:
        engine.dispose()
        raise
    return engine


def migrate(url: str, to: str = HEAD) -> tuple[str, str]:
    """Bring the tables to a revision, up or down; from which one to which. An empty store is set up first.
    Raises `StoreUnavailableError` for what is no ledger, and for a revision that this release does not
    know."""
    engine, where = connect_to(url)
    try:
        with engine.execution_options(write=True).begin() as connection:
            hold_alone(connection, Space.SETUP)
            before = revision_of(connection, where)
            if before == _EMPTY:
                _make(connection)
            _go(connection, where, to)
            return before, revision_of(connection, where)
    finally:
        engine.dispose()


def clear(connection: sa.Connection) -> None:
    """Empty all tables of a ledger, as if it had just been made."""
    hold_alone(connection, Space.SETUP)
    patient(connection)
    for table in reversed(schema.metadata.sorted_tables):
        connection.execute(table.delete())
    _begin(connection)


def script(url: str, to: str = HEAD) -> str:
    """The statements by which `migrate` would do it, for those who run them themselves."""
    from alembic import command  # noqa: PLC0415 - slow to import, and seldom needed

    engine, where = connect_to(url)
    try:
        with engine.connect() as connection:
            before = revision_of(connection, where)
            versioned = not before or sa.inspect(connection).has_table(_version.name)
    finally:
        engine.dispose()
    output = io.StringIO()
    if not versioned:
        made = sa.schema.CreateTable(_version).compile(dialect=engine.dialect)
        output.write(f"{str(made).strip()};\n\nINSERT INTO {_version.name} VALUES ('{before}');\n\n")
    config = _config(dialect=engine.dialect.name)
    config.output_buffer = output
    up = _position(where, to) > (_position(where, before) if before else 0)
    (command.upgrade if up else command.downgrade)(config, f"{before or 'base'}:{to}", sql=True)
    return output.getvalue()


def _prepare(connection: sa.Connection, where: str) -> None:
    """At start. Several processes may start at once."""
    hold_alone(connection, Space.SETUP)
    revision = revision_of(connection, where)
    if revision == _EMPTY:
        _make(connection)
        return
    if revision == HEAD:
        return
    known = _known()
    if revision not in known:
        raise StoreUnavailableError(
            f"the ledger {where} has revision {revision}, which this release does not know:"
            " run the release that migrated it"
        )
    if has_locks(connection):
        raise StoreUnavailableError(
            f"the ledger {where} has revision {revision}, this release needs {HEAD}: run opportune migrate"
        )
    _go(connection, where, HEAD)


def revision_of(connection: sa.Connection, where: str) -> str:
    """ "" if there are no tables. Raises `StoreUnavailableError` if there are others than a ledger's."""
    tables = set(sa.inspect(connection).get_table_names())
    if not tables:
        return _EMPTY
    if not tables >= {"meta", "log", "verdicts"}:
        raise StoreUnavailableError(
            f"the ledger {where} holds tables of something else: name one of its own"
        )
    if _version.name in tables:
        return connection.scalar(sa.select(_version.c.version_num)) or ""
    version = connection.scalar(sa.select(_meta.value).where(_meta.name == "schema"))
    if version != int(BEFORE_MIGRATIONS):
        raise StoreUnavailableError(
            f"the ledger {where} has schema version {version}, which this release cannot migrate:"
            " run the release that wrote it, or name a new one"
        )
    return BEFORE_MIGRATIONS


def _make(connection: sa.Connection) -> None:
    """All tables as they are now. A test shows that the revisions, one after the other, make the same."""
    if has_locks(connection) and connection.exec_driver_sql("SHOW server_encoding").scalar() != "UTF8":
        raise StoreUnavailableError(
            "the ledger's database has another encoding than UTF8: create it with ENCODING 'UTF8'"
        )
    schema.metadata.create_all(connection)
    _begin(connection)
    _metadata.create_all(connection)
    connection.execute(_version.insert(), {"version_num": HEAD})


def _begin(connection: sa.Connection) -> None:
    rows = [{"name": name, "value": 0} for name in ("checkpoint", "alive", "generation")]
    connection.execute(schema.meta.insert(), rows)


def _go(connection: sa.Connection, where: str, to: str) -> None:
    from alembic import command  # noqa: PLC0415 - slow to import, and seldom needed

    before = revision_of(connection, where)
    up = _position(where, to) > _position(where, before)
    if before == to:
        return
    patient(connection)
    _metadata.create_all(connection)
    if connection.scalar(sa.select(_version.c.version_num)) is None:
        connection.execute(_version.insert(), {"version_num": before})
    (command.upgrade if up else command.downgrade)(_config(connection=connection), to)


def _position(where: str, revision: str) -> int:
    """Which one it is of those that there are."""
    known = _known()
    if revision not in known:
        raise StoreUnavailableError(
            f"{where}: this release does not know the revision {revision}, only {', '.join(known)}"
        )
    return known.index(revision)


def _known() -> list[str]:
    """The revisions, the oldest first."""
    from alembic.script import ScriptDirectory  # noqa: PLC0415

    revisions = ScriptDirectory.from_config(_config()).walk_revisions()
    return [each.revision for each in revisions][::-1]


def _config(**attributes: object) -> Config:
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", "opportune_service.adapters.sql:migrations")
    config.attributes.update(attributes)
    return config
