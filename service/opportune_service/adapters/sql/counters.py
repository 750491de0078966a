"""Counters over all subscribers: what campaigns and channels have used, how many events there were."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping

import sqlalchemy as sa

from opportune_service.adapters.sql import schema
from opportune_service.adapters.sql.statements import add_many, select_keys
from opportune_service.core.verdict import Contact, Usage, UsageKey, UsageKind, usage_of


def usage_at(connection: sa.Connection, keys: Collection[UsageKey]) -> Usage:
    """See `LedgerTransaction.usage`."""
    wanted = ((key.kind.value, key.name, key.period) for key in keys)
    rows = select_keys(connection, schema.usage, ("kind", "name", "period"), wanted)
    return {UsageKey(UsageKind(row.kind), row.name, row.period): row.value for row in rows}


def count_contacts(connection: sa.Connection, contacts: Iterable[tuple[Contact, int]]) -> None:
    """Add each contact's usage (`usage_of`) so many times: 1 when it is made, -1 when it is released."""
    change: Counter[UsageKey] = Counter()
    for contact, times in contacts:
        for key, amount in usage_of(contact).items():
            change[key] += amount * times
    add_usage(connection, change)


def add_usage(connection: sa.Connection, change: Usage) -> None:
    """Add these amounts, which may be negative, to the counters."""
    rows = [
        {"kind": key.kind.value, "name": key.name, "period": key.period, "value": value}
        for key, value in sorted(change.items())  # in one order, so that writers never wait in a circle
        if value
    ]
    add_many(connection, schema.usage, rows)


def count_events(connection: sa.Connection, counts: Mapping[tuple[str, int], int]) -> None:
    """See `LedgerTransaction.count_events`."""
    rows = [
        {"event_type": event_type, "hour": hour, "value": value}
        for (event_type, hour), value in sorted(counts.items())
    ]
    add_many(connection, schema.event_counts, rows)
