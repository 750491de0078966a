"""What `opportune doctor` looks at in the stores: the ledger with the active rulebase, and live state."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from opportune_rulebase import RulebaseError
from opportune_rulebase.warnings import calendar_warnings

from opportune_service.adapters.sql.ledger import SqlLedger
from opportune_service.adapters.sql.migrate import HEAD, revision_of
from opportune_service.app.errors import OpportuneError, StoreUnavailableError
from opportune_service.app.ports import Ledger
from opportune_service.app.revisions import stored_rulebase
from opportune_service.cli.findings import Finding, Status
from opportune_service.cli.terminal import mask_numbers
from opportune_service.settings import Settings, shown

_CONNECT_SECONDS = 3
_CLUSTER = "redis+cluster://"
_OFF_SECONDS = 1.0
_FAR_OFF_SECONDS = 4.0
"""A member that has been silent for 5 s by the store's clock is taken for dead."""


def ledger(settings: Settings) -> Iterator[Finding]:
    """Whether the ledger can be reached and written, has the tables of this release, and what is in it."""
    where = shown(settings.database)
    if (missing := _not_there(settings.database)) is not None:
        yield missing
        return
    try:
        revision, seconds_off = _first_look(settings.database)
        if revision != HEAD:
            yield _other_revision(settings.database, revision)
            return
        with closing(SqlLedger.open(settings.database)) as opened:
            with opened.transaction():
                pass  # one that may write can be begun
            text = f"{where} can be read and written, and has revision {revision}, as this release needs"
            yield Finding("ledger", Status.OK, text)
            yield from _clock(opened, seconds_off)
            yield from _rulebase(opened)
    except (StoreUnavailableError, sa.exc.SQLAlchemyError, ImportError) as error:
        yield _unreachable(where, error)


def _other_revision(database: str, revision: str) -> Finding:
    where = shown(database)
    if not revision:
        advice = "the service makes its tables at the first start"
        return Finding("ledger", Status.WARNING, f"{where} is empty", advice)
    text = f"{where} has revision {revision}, this release needs {HEAD}"
    if database.startswith("sqlite"):
        advice = "the service migrates it when it starts: make a backup before"
        return Finding("ledger", Status.WARNING, text, advice)
    return Finding("ledger", Status.FAULT, text, "run: opportune migrate")


def _not_there(database: str) -> Finding | None:
    """For a ledger in memory, or in a file that does not exist yet: opening would make it."""
    try:
        place = sa.make_url(database)
    except sa.exc.ArgumentError:
        return None
    if place.drivername != "sqlite":
        return None
    if place.database in (None, "", ":memory:"):
        advice = "set database to a file or a server, or everything is forgotten at the end"
        return Finding("ledger", Status.WARNING, "it is kept in memory only", advice)
    path = Path(str(place.database))
    if path.exists():
        return None
    if not path.parent.is_dir() and path.parent != Path("var"):
        return Finding("ledger", Status.FAULT, f"there is no directory {path.parent}", "create it")
    advice = "the service makes it at the first start"
    return Finding("ledger", Status.WARNING, f"there is no ledger at {path} yet", advice)


def _first_look(database: str) -> tuple[str, float]:
    """The revision of the tables, "" if there are none, and how many seconds this machine's clock is ahead
    of the store's. Changes nothing, where opening the ledger may migrate it."""
    place = sa.make_url(database)
    if place.drivername == "sqlite":
        place = place.set(database=f"file:{place.database}", query={"mode": "ro", "uri": "true"})
        engine = sa.create_engine(place, poolclass=sa.pool.NullPool, connect_args={"timeout": 1.0})
    else:
        place = place.set(drivername="postgresql+psycopg")
        given = {"connect_timeout": _CONNECT_SECONDS}
        engine = sa.create_engine(place, poolclass=sa.pool.NullPool, connect_args=given)
    with engine.connect() as connection:
        revision = revision_of(connection, shown(database))
        if engine.dialect.name == "sqlite":
            return revision, 0.0
        before = time.time()
        theirs = connection.scalar(sa.text("SELECT extract(epoch FROM clock_timestamp())"))
        return revision, (before + time.time()) / 2 - float(theirs or 0)


def _unreachable(where: str, error: Exception) -> Finding:
    text = mask_numbers(shown(str(getattr(error, "orig", None) or error)))
    if "locked" in text or "another process has it open" in text:
        advice = "if that is the service: stop it to look further, or ask it by /readyz and /metrics"
        return Finding("ledger", Status.WARNING, f"{where} is in use by another process", advice)
    if isinstance(error, StoreUnavailableError):
        return Finding("ledger", Status.FAULT, text, "the service does not start like this")
    if isinstance(error, ImportError):
        advice = "install it with: pip install 'opportune[postgres]'"
        return Finding("ledger", Status.FAULT, "the driver for PostgreSQL is not installed", advice)
    advice = "check its address, name and password, and that this machine is let in"
    return Finding("ledger", Status.FAULT, f"{where} cannot be reached: {text.splitlines()[0]}", advice)


def _clock(opened: Ledger, seconds_off: float) -> Iterator[Finding]:
    """This machine's clock against that of the store, and against what was written last."""
    ahead = opened.heartbeat()[0] / 1_000_000 - time.time()
    off = max(abs(seconds_off), ahead)
    if ahead > _OFF_SECONDS:
        text = f"the ledger was written {ahead:.0f} s in the future: the clock went back since"
    else:
        text = f"this machine and the ledger's are {abs(seconds_off):.2f} s apart"
    advice = "let both machines keep time by NTP: caps and quiet hours are decided by the clock"
    if off > _FAR_OFF_SECONDS:
        yield Finding("clock", Status.FAULT, text, advice)
    elif off > _OFF_SECONDS:
        yield Finding("clock", Status.WARNING, text, advice)
    else:
        yield Finding("clock", Status.OK, text)


def _rulebase(opened: Ledger) -> Iterator[Finding]:
    """Whether a rulebase is active and loads, and how far its calendar goes."""
    revision = opened.active_revision()
    if not revision:
        advice = "activate one: opportune reload DIR"
        yield Finding("rulebase", Status.WARNING, "none is active: nothing is taken in", advice)
        return
    try:
        rulebase = stored_rulebase(opened, revision)
    except (RulebaseError, OpportuneError) as error:
        text = f"revision {revision[:12]} does not load with this release: {mask_numbers(str(error))}"
        advice = "go back to the release before, or mend the rulebase (opportune check) and reload it"
        yield Finding("rulebase", Status.FAULT, text, advice)
        return
    yield Finding("rulebase", Status.OK, f"revision {revision[:12]} of {rulebase.name} is active and loads")
    last = rulebase.calendar.last
    today = datetime.now(UTC).date()
    if last is not None and last < today:
        text = f"the calendar of {rulebase.calendar.country} ended on {last}: workdays are unknown"
        advice = "update Opportune, or list the days in the rulebase"
        yield Finding("calendar", Status.FAULT, text, advice)
    elif soon := calendar_warnings(rulebase, today):
        yield Finding("calendar", Status.WARNING, soon[0].message, soon[0].hint)
    else:
        yield Finding("calendar", Status.OK, f"known until {last}" if last else "no holidays are named")


def live_state(settings: Settings) -> Iterator[Finding]:
    """Whether Redis can be reached and written, and is set up to keep what it is given."""
    if not settings.live_state:
        if settings.database.startswith("postgresql"):
            text = "the ledger can be shared, but live state is in the memory of one process"
            yield Finding("live state", Status.FAULT, text, "set live_state to a Redis")
            return
        yield Finding("live state", Status.OK, "in the memory of the one process that there is")
        return
    where = shown(settings.live_state)
    if settings.database.startswith("sqlite"):
        text = "live state is shared, but the ledger is in a file, which one process has to itself"
        yield Finding(
            "live state", Status.FAULT, text, "put the ledger on PostgreSQL, or leave live_state out"
        )
    try:
        # Imported here: it is an extra of its own, which an embedded service does not need.
        from redis.exceptions import RedisError  # noqa: PLC0415
    except ImportError:
        advice = "install it with: pip install 'opportune[redis]'"
        yield Finding("live state", Status.FAULT, "the driver for Redis is not installed", advice)
        return
    try:
        nodes = _ask_redis(settings.live_state)
    except (RedisError, OSError, ValueError) as error:
        text = f"{where} cannot be reached: {shown(str(error))}"
        advice = "check its address and password, and that this machine is let in"
        yield Finding("live state", Status.FAULT, text, advice)
        return
    faults = [finding for info in nodes if (finding := _redis_fault(where, info)) is not None]
    if faults:
        yield from faults
        return
    count = f", {len(nodes)} primaries" if len(nodes) > 1 else ""
    text = f"{where} answers (Redis {nodes[0]['redis_version']}{count})"
    yield Finding("live state", Status.OK, text)


def _ask_redis(url: str) -> list[dict[str, Any]]:
    """What each primary says of itself."""
    from redis import Redis, RedisCluster  # noqa: PLC0415 - see above

    given: dict[str, Any] = {
        "socket_timeout": _CONNECT_SECONDS,
        "socket_connect_timeout": _CONNECT_SECONDS,
        "decode_responses": True,
    }
    if url.startswith(_CLUSTER):
        with closing(RedisCluster.from_url(f"redis://{url.removeprefix(_CLUSTER)}", **given)) as cluster:
            answers = cluster.info(target_nodes=RedisCluster.PRIMARIES)
            return [answers] if "role" in answers else list(answers.values())
    with closing(Redis.from_url(url, **given)) as redis:
        return [redis.info()]


def _redis_fault(where: str, info: dict[str, Any]) -> Finding | None:
    if info["role"] != "master":
        advice = "name the primary, or a cluster"
        return Finding("live state", Status.FAULT, f"{where} is a replica: it cannot be written", advice)
    policy = str(info.get("maxmemory_policy", "noeviction"))
    if policy != "noeviction":
        text = f"{where} throws states away when memory is short (maxmemory-policy {policy})"
        return Finding("live state", Status.FAULT, text, "set maxmemory-policy to noeviction")
    used, most = int(info["used_memory"]), int(info.get("maxmemory", 0))
    if most and used > most * 0.8:
        text = f"{where} has used {used / most:.0%} of its maxmemory"
        advice = "give it more: when it is full, nothing is taken in any more"
        return Finding("live state", Status.WARNING, text, advice)
    return None
