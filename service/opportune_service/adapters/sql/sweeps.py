"""Sweeps that are done: which triggers had their turn, in which time zone, for which instant."""

from __future__ import annotations

from collections.abc import Collection

import sqlalchemy as sa

from opportune_service.adapters.sql import schema
from opportune_service.adapters.sql.statements import insert_new
from opportune_service.app.records import Sweep

_w = schema.sweeps.c


def finish_sweeps(connection: sa.Connection, sweeps: Collection[Sweep], forget_before_us: int) -> None:
    """See `LedgerTransaction.finish_sweeps`."""
    connection.execute(schema.sweeps.delete().where(_w.due_us < forget_before_us))
    # In one order, so that writers never wait in a circle.
    done = sorted({(each.due_us, each.trigger, each.zone) for each in sweeps})
    rows = [{"due_us": due_us, "trigger": trigger, "zone": zone} for due_us, trigger, zone in done]
    insert_new(connection, schema.sweeps, rows)


def sweeps_of(connection: sa.Connection) -> set[Sweep]:
    """All that are kept."""
    rows = connection.execute(sa.select(_w.trigger, _w.zone, _w.due_us))
    return {Sweep(row.trigger, row.zone, row.due_us) for row in rows}
