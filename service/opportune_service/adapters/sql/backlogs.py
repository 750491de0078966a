"""What waits for channel clients, counted for whoever watches the service."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from opportune_service.adapters.sql import schema
from opportune_service.app.records import Backlog, DeliveryState

_y = schema.deliveries.c
_now: sa.BindParameter[int] = sa.bindparam("now_us", type_=sa.BigInteger)

# Both walk the index of live deliveries only, the first without looking at a row: a million that wait are
# counted in some tens of milliseconds.
_waiting = (
    sa.select(_y.channel, sa.func.count(), sa.func.min(_y.available_at_us))
    .where(schema.LIVE_DELIVERY, _y.available_at_us <= _now)
    .group_by(_y.channel)
)
_leased = (
    sa.select(_y.channel, sa.func.count(), sa.func.min(_y.available_at_us))
    .where(schema.LIVE_DELIVERY, _y.available_at_us > _now, _y.state == DeliveryState.LEASED.value)
    .group_by(_y.channel)
)


def backlogs(connection: sa.Connection, now_us: int) -> Sequence[Backlog]:
    """See `Ledger.backlogs`."""
    waiting, leased = (
        {channel: (count, at_us) for channel, count, at_us in rows}
        for rows in (connection.execute(each, {"now_us": now_us}) for each in (_waiting, _leased))
    )
    channels = sorted(waiting.keys() | leased.keys())
    return [Backlog(each, *waiting.get(each, (0, 0)), *leased.get(each, (0, 0))) for each in channels]
