"""`opportune migrate`: bring the ledger's tables to what a release needs."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from opportune_service.adapters.sql.migrate import HEAD, migrate, script
from opportune_service.adapters.sql.shadow import is_there, shadow_url
from opportune_service.cli.settings import ConfigOption
from opportune_service.cli.terminal import out
from opportune_service.settings import Settings


def migrate_command(
    database: Annotated[
        str | None, typer.Option(metavar="URL", help="The ledger. [default: as for opportune serve]")
    ] = None,
    to: Annotated[
        str, typer.Option(metavar="REVISION", help="Which revision, also an earlier one.")
    ] = HEAD,
    sql: Annotated[
        bool, typer.Option("--sql", help="Change nothing; print the statements that would do it.")
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Bring the ledger's tables to the revision that this release needs, or to another.

    A ledger in a SQLite file is migrated by the service itself when it starts. One in PostgreSQL is not:
    migrate it with the new release before the first process of that starts; processes of the release before
    go on meanwhile. To go back, stop those of the new release, migrate with it to the revision of the old
    one, and start that. All of it happens, or nothing. What shadows decided is migrated after it.

    Example: opportune migrate --database postgresql://opportune@db/opportune
    """
    given = {"database": database, "config": config}
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    url = Settings(**options).database
    if sql:
        typer.echo(script(url, to), nl=False)
        return
    before, after = migrate(url, to)
    if is_there(url):
        migrate(shadow_url(url), to)
    if before == after:
        out().print(f"The ledger has revision {after}: there was nothing to do.")
    else:
        out().print(f"The ledger has revision {after} now{f', after {before}' if before else ''}.")
