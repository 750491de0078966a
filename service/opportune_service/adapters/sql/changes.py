"""What happened to contacts, in order of recording, for export."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import sqlalchemy as sa
from opportune_rulebase.policies import OutcomeKind

from opportune_service.adapters.sql import schema
from opportune_service.adapters.sql.contacts import contact_of
from opportune_service.adapters.sql.cursors import draw
from opportune_service.adapters.sql.engine import insert_many
from opportune_service.app.records import ContactChange, DeliveryState

_x = schema.contact_changes.c
_c = schema.contacts.c

_page = (
    sa.select(
        schema.contacts,
        _x.cursor,
        _x.state.label("delivery"),
        _x.outcome,
        _x.at_us.label("changed_at_us"),
    )
    .join_from(
        schema.contact_changes,
        schema.contacts,
        sa.and_(_c.subscriber_id == _x.subscriber_id, _c.decision_id == _x.decision_id),
    )
    .where(_x.cursor > sa.bindparam("after"), _x.cursor <= sa.bindparam("up_to"))
    .order_by(_x.cursor)
    .limit(sa.bindparam("most"))
)


class Change(NamedTuple):
    """A contact was made (neither `state` nor `outcome`, or PENDING if it is to be delivered), its delivery
    came to `state`, or `outcome` became of it. `decision_id` as in the table `contacts`."""

    subscriber_id: str
    decision_id: str
    campaign: str
    at_us: int
    state: DeliveryState | None = None
    outcome: OutcomeKind | None = None


def note_changes(connection: sa.Connection, changes: Iterable[Change]) -> None:
    """Everyone who makes a contact, moves its delivery on or notes an outcome of it calls this. The contact
    itself must be there."""
    rows = [
        {
            "subscriber_id": change.subscriber_id,
            "decision_id": change.decision_id,
            "campaign": change.campaign,
            "state": change.state.value if change.state else "",
            "outcome": change.outcome.value if change.outcome else "",
            "at_us": change.at_us,
        }
        for change in changes
    ]
    if rows:
        draw(connection)
    insert_many(connection, schema.contact_changes, rows)


def contact_changes(
    connection: sa.Connection, after: int, limit: int, campaigns: Collection[str], up_to: int
) -> Sequence[ContactChange]:
    """See `Ledger.contact_changes`. `up_to`: the last."""
    page = _page.where(_x.campaign.in_(campaigns)) if campaigns else _page
    return [
        ContactChange(
            cursor=row.cursor,
            subscriber_id=row.subscriber_id,
            contact=contact_of(row),
            state=DeliveryState(row.delivery) if row.delivery else None,
            outcome=OutcomeKind(row.outcome) if row.outcome else None,
            at_us=row.changed_at_us,
        )
        for row in connection.execute(page, {"after": after, "up_to": up_to, "most": limit})
    ]
