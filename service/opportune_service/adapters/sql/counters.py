"""Counters over all subscribers: what campaigns and channels have used, how many events there were."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import sqlalchemy as sa

from opportune_service.adapters.sql import schema
from opportune_service.adapters.sql.statements import add_many, select_keys
from opportune_service.adapters.sql.unit import unit_of
from opportune_service.core.verdict import Contact, Usage, UsageKey, UsageKind, usage_of


def usage_at(connection: sa.Connection, keys: Collection[UsageKey]) -> Usage:
    """See `LedgerTransaction.usage`."""
    wanted = ((key.kind.value, key.name, key.period) for key in keys)
    rows = select_keys(connection, schema.usage, ("kind", "name", "period"), wanted)
    usage = {UsageKey(UsageKind(row.kind), row.name, row.period): row.value for row in rows}
    used = unit_of(connection).used
    return usage | {key: usage.get(key, 0) + used[key] for key in keys if key in used}


def count_contacts(connection: sa.Connection, contacts: Iterable[tuple[Contact, int]]) -> None:
    """Add each contact's usage (`usage_of`) so many times: 1 when it is made, -1 when it is released."""
    used = unit_of(connection).used
    for contact, times in contacts:
        for key, amount in usage_of(contact).items():
            used[key] += amount * times


def count_lease(connection: sa.Connection, channel: str, day: int) -> None:
    """Add a first lease on the channel."""
    unit_of(connection).used[UsageKey(UsageKind.CHANNEL_LEASES, channel, day)] += 1


def put_down(connection: sa.Connection) -> None:
    """Write what this transaction has counted, at its end: everybody counts on the same few rows, which
    then are held for a moment only, and in one order, so that writers never wait in a circle."""
    used = unit_of(connection).used
    rows = [
        {"kind": key.kind.value, "name": key.name, "period": key.period, "value": value}
        for key, value in sorted(used.items())
        if value
    ]
    add_many(connection, schema.usage, rows)
    used.clear()


def count_events(connection: sa.Connection, counts: Mapping[tuple[str, int], int]) -> None:
    """See `LedgerTransaction.count_events`."""
    rows = [
        {"event_type": event_type, "hour": hour, "value": value}
        for (event_type, hour), value in sorted(counts.items())
    ]
    add_many(connection, schema.event_counts, rows)
