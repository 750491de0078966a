"""Where the ledger of a shadow is: beside the ledger it goes with, and apart from it.

Beside a file it is the file ``NAME.shadow``, beside a ledger in memory another one in memory, and on
PostgreSQL the schema ``opportune_shadow`` of the same database.
"""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from opportune_service.adapters.sql.engine import connect_to
from opportune_service.adapters.sql.ledger import SqlLedger
from opportune_service.adapters.sql.locks import SHADOW


def shadow_url(url: str) -> str:
    """The URL of the ledger of a shadow that goes with the ledger at `url`, which can be used."""
    place = sa.make_url(url)
    if place.drivername == "sqlite":
        if not place.database or place.database == ":memory:":
            return url
        return place.set(database=f"{place.database}.shadow").render_as_string(hide_password=False)
    given = place.query.get("options", "")
    options = f"{given if isinstance(given, str) else ' '.join(given)} -c search_path={SHADOW}"
    return place.update_query_dict({"options": options.strip()}).render_as_string(hide_password=False)


def open_shadow(url: str, *, make: bool) -> SqlLedger | None:
    """Open the ledger of a shadow that goes with the ledger at `url`; None if there is none and none is to
    be made. Raises `StoreUnavailableError`."""
    if not make and not is_there(url):
        return None
    if make and not url.startswith("sqlite"):
        _in(url, sa.text(f"CREATE SCHEMA IF NOT EXISTS {SHADOW}"))
    return SqlLedger.open(shadow_url(url))


def is_there(url: str) -> bool:
    """Whether the ledger at `url` has one of a shadow beside it, which outlasts the process. Raises
    `StoreUnavailableError`."""
    if url.startswith("sqlite"):
        path = sa.make_url(shadow_url(url)).database
        return bool(path) and path != ":memory:" and Path(str(path)).exists()
    return bool(_in(url, sa.text(f"SELECT 1 FROM pg_namespace WHERE nspname = '{SHADOW}'")))  # noqa: S608


def _in(url: str, statement: sa.TextClause) -> object:
    """What a statement gives that concerns the database of the ledger itself."""
    engine, _ = connect_to(url)
    try:
        with engine.begin() as connection:
            found = connection.execute(statement)
            return found.scalar() if found.returns_rows else None
    finally:
        engine.dispose()
