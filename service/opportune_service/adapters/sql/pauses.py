"""Campaigns that are paused."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import sqlalchemy as sa

from opportune_service.adapters.sql import schema
from opportune_service.adapters.sql.audit import note_action
from opportune_service.adapters.sql.direct import fetch
from opportune_service.adapters.sql.statements import insert_new
from opportune_service.app.records import Pause, PauseChange

_u = schema.pauses.c
_n = schema.audit.c

_PAUSE, _RESUME = "pause", "resume"

_resume = schema.pauses.delete().where(_u.campaign == sa.bindparam("of_campaign"))
_all = sa.select(_u.campaign, _u.at_us, _u.by, _u.reason).order_by(_u.campaign)


def pause(connection: sa.Connection, new: Pause) -> bool:
    """See `LedgerTransaction.pause`."""
    row = {"campaign": new.campaign, "at_us": new.at_us, "by": new.by, "reason": new.reason}
    if not insert_new(connection, schema.pauses, [row]):
        return False
    note_action(connection, new.at_us, new.by, _PAUSE, [new.campaign], new.reason)
    return True


def resume(connection: sa.Connection, campaign: str, at_us: int, by: str, reason: str) -> bool:
    """See `LedgerTransaction.resume`."""
    if not connection.execute(_resume, {"of_campaign": campaign}).rowcount:
        return False
    note_action(connection, at_us, by, _RESUME, [campaign], reason)
    return True


def changes(
    connection: sa.Connection, campaigns: Collection[str], since_us: int, limit: int
) -> Sequence[PauseChange]:
    """See `Ledger.pause_changes`."""
    newest = (
        sa.select(_n.about, _n.at_us, _n.by, _n.action == _PAUSE, _n.reason)
        .where(_n.action.in_((_PAUSE, _RESUME)), _n.about.in_(campaigns), _n.at_us >= since_us)
        .order_by(_n.seq.desc())
        .limit(limit)
    )
    return [PauseChange(*row) for row in connection.execute(newest)][::-1]


def pauses(connection: sa.Connection) -> Sequence[Pause]:
    """See `Ledger.pauses`."""
    return [Pause(*row) for row in fetch(connection, _all, {})]
