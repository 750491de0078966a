"""`opportune backup`, `opportune restore`, `opportune prune`: care of the ledger by the operator's hand.

They open the ledger themselves. One on SQLite is open to one process alone, so the service must be stopped;
a running one makes its backups itself (the setting `backup`) and prunes by itself.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import sqlalchemy as sa
import typer
from opportune_rulebase.network import NetworkEngine
from rich.table import Table

from opportune_service.adapters.files.archive import FileArchive
from opportune_service.adapters.sql.backup import put_in_place, restored_copy
from opportune_service.adapters.sql.ledger import SqlLedger
from opportune_service.app.backups import note_restored
from opportune_service.app.errors import ConflictError, StoreUnavailableError
from opportune_service.app.housekeeping import Housekeeping, step_of
from opportune_service.app.ledger_thread import LedgerThread
from opportune_service.app.records import Kept, Place
from opportune_service.app.retention import Horizon, Keep, horizons
from opportune_service.app.revisions import LiveRevision, stored_in_force
from opportune_service.cli.options import JsonOption
from opportune_service.cli.settings import ConfigOption
from opportune_service.cli.terminal import ExitCode, out, print_json, stop
from opportune_service.clocks import WallClock
from opportune_service.core.calendars import DAY_US, date_of
from opportune_service.settings import Settings

DatabaseOption = Annotated[
    str | None, typer.Option(metavar="URL", help="The ledger. [default: as for opportune serve]")
]


def backup_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", dir_okay=False, help="The backup to write.")],
    database: DatabaseOption = None,
    config: ConfigOption = None,
) -> None:
    """Write a checked copy of a SQLite ledger that no service has open.

    A running service does it itself: set OPPORTUNE_BACKUP to a file. PostgreSQL has pg_dump and
    point-in-time recovery. Ends with 3 if the ledger cannot be opened or the file not be written.

    Example: opportune backup /backup/opportune.db
    """
    url = _settings(database, config).database
    _existing(url)
    try:
        ledger = SqlLedger.open(url)
    except StoreUnavailableError as error:
        stop(ExitCode.UNAVAILABLE, f"{error}. A running service makes its backups itself: OPPORTUNE_BACKUP")
    with closing(ledger):
        ledger.back_up(file, lambda: False)
    out().print(f"the backup is written to {file}", markup=False)


def restore_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", dir_okay=False, help="The backup.")],
    database: DatabaseOption = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="In place of a ledger that is there; it is kept beside.")
    ] = False,
    complete: Annotated[
        bool, typer.Option("--complete", help="Nothing was taken in after the backup was made.")
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Make a SQLite ledger of a backup, while no service runs.

    Events that were taken in after the backup are lost, so no metric counts as covered from before now,
    unless --complete says that there were none. Ends with 1 if the file is no whole backup, or a ledger is
    there already; 3 if a service has it open.

    Example: opportune restore /backup/opportune.db --replace
    """
    place = _path(_settings(database, config).database)
    if place.exists() and not replace:
        raise ConflictError(f"there is a ledger at {place}: name another one, or use --replace")
    part = restored_copy(file, place)
    with closing(SqlLedger.open(f"sqlite:///{part}")) as ledger:
        if not complete:
            note_restored(ledger, WallClock().now_us())
    old = place.with_name(f"{place.name}.until-{datetime.now(UTC):%Y%m%dT%H%M%SZ}")
    was_there = place.exists()
    put_in_place(part, place, old)
    kept = f"; what was there is {old}" if was_there else ""
    out().print(f"the ledger {place} is that of the backup{kept}", markup=False)


def prune_command(
    database: DatabaseOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would go.")] = False,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Archive and delete what is old by the settings, as a running service does every hour.

    For a ledger on SQLite the service must be stopped. The dry run reads all that would go, which may take
    minutes. Ends with 1 if no rulebase was ever activated: then nobody knows what is still needed.

    Example: opportune prune --dry-run
    """
    settings = _settings(database, config)
    if settings.database.startswith("sqlite"):
        _existing(settings.database)
    asyncio.run(_prune(settings, dry_run=dry_run, json=json))


async def _prune(settings: Settings, *, dry_run: bool, json: bool) -> None:
    keep = Keep(settings.keep_log_days, settings.keep_history_days, settings.keep_audit_days)
    now_us = WallClock().now_us()
    with closing(SqlLedger.open(settings.database)) as ledger, closing(LedgerThread()) as thread:
        in_force = stored_in_force(ledger, NetworkEngine)
        if in_force is None:
            stop(ExitCode.NO, "No rulebase was ever activated; nothing is pruned.")
        live = LiveRevision()
        live.swap(in_force)
        until = horizons(live.current, keep, now_us)
        if dry_run:
            found = {kind: _count(ledger, kind, horizon) for kind, horizon in until.items()}
        else:
            archive = FileArchive(settings.archive) if settings.archive else None
            housekeeping = Housekeeping(live, ledger, thread, WallClock(), keep, archive)
            pruned = await housekeeping.turn(now_us)
            found = {kind: Counter({0: pruned.get(kind, 0)}) for kind in until}
    if json:
        print_json({kind: _record(until[kind], days, told=dry_run) for kind, days in found.items()})
        return
    table = Table("what", "kept", "from before", "would go" if dry_run else "gone", "days", box=None)
    for kind, days in found.items():
        horizon = until[kind]
        span = f"{_date(min(days))} to {_date(max(days))}" if dry_run and days else ""
        kept = f"{horizon.days} days"
        if horizon.days > horizon.wanted_days:
            kept += f" ({horizon.setting} is {horizon.wanted_days}, the rulebase needs more)"
        table.add_row(kind.value, kept, _date(horizon.before_us // DAY_US), f"{days.total():,}", span)
    out().print(table)


def _count(ledger: SqlLedger, kind: Kept, horizon: Horizon) -> Counter[int]:
    """Day (UTC) -> how many things of the kind would go."""
    keys: dict[tuple[object, ...], int] = {}
    place: Place | None = ()
    while place is not None:
        found, place = ledger.aged(kind, horizon.before_us, place, step_of(kind))
        keys |= {each.key: each.at_us // DAY_US for each in found}
    return Counter(keys.values())


def _record(horizon: Horizon, days: Counter[int], *, told: bool) -> dict[str, object]:
    record: dict[str, object] = {
        "days_kept": horizon.days,
        "before": _date(horizon.before_us // DAY_US),
        "count": days.total(),
    }
    if told:
        record["by_day"] = {_date(day): count for day, count in sorted(days.items())}
    return record


def _settings(database: str | None, config: Path | None) -> Settings:
    given = {"database": database, "config": config}
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    return Settings(**options)


def _existing(url: str) -> None:
    """A ledger that is opened here must be there: else it would be made."""
    place = _path(url)
    if not place.exists():
        stop(ExitCode.UNAVAILABLE, f"There is no ledger at {place}; name it with --database.")


def _path(url: str) -> Path:
    """The file of a ledger on SQLite."""
    try:
        place = sa.make_url(url)
    except sa.exc.ArgumentError:
        place = None
    if place is None or place.drivername != "sqlite" or not place.database:
        stop(
            ExitCode.USAGE,
            "This is for a ledger in a SQLite file, such as sqlite:///var/opportune.db; for PostgreSQL use"
            " its own tools: pg_dump, pg_restore, point-in-time recovery.",
        )
    return Path(place.database)


def _date(day: int) -> str:
    return date_of(day).isoformat()
