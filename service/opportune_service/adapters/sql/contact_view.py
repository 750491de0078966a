"""The contact view: marketing contacts of all systems, and what else customers and company said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import sqlalchemy as sa
from opportune_rulebase.model import TouchKind

from opportune_service.adapters.sql import schema
from opportune_service.adapters.sql.changes import Change, note_changes
from opportune_service.adapters.sql.contacts import add_contacts, contact_of, known_contacts, row_id
from opportune_service.adapters.sql.locks import hold
from opportune_service.adapters.sql.outcomes import outcomes_of
from opportune_service.adapters.sql.statements import insert_new
from opportune_service.adapters.sql.verdicts import decisions_of
from opportune_service.app.records import ContactRow, DeliveryState, ForeignContact, TouchRow
from opportune_service.core.verdict import ContactState, Outcome, Touch

MARKETING = "marketing"
"""The type of marketing contacts among the counts of `touches_of`; their business is the category."""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(dict[str, object])

_c = schema.contacts.c
_t = schema.touches.c
_y = schema.deliveries.c

_subscriber: sa.BindParameter[str] = sa.bindparam("of_subscriber")
_from: sa.BindParameter[int] = sa.bindparam("from_us")
_to: sa.BindParameter[int] = sa.bindparam("to_us")

_shown = (
    _c.subscriber_id == _subscriber,
    _c.at_us >= _from,
    _c.at_us < _to,
    _c.state != ContactState.RELEASED.value,
    sa.not_(_c.control),
)
_contacts = (
    sa.select(schema.contacts, _y.state.label("delivery"))
    .join_from(schema.contacts, schema.deliveries, _y.decision_id == _c.decision_id, isouter=True)
    .where(*_shown)
    .order_by(_c.at_us.desc(), _c.decision_id.desc())
    .limit(sa.bindparam("most"))
)
_contact_counts = (
    sa.select(_c.channel, _c.category, sa.func.count(), sa.func.max(_c.at_us))
    .where(*_shown)
    .group_by(_c.channel, _c.category)
)
_touches = (
    sa.select(_t.source, _t.event_id, _t.at_us, _t.kind, _t.said)
    .where(_t.subscriber_id == _subscriber, _t.at_us >= _from, _t.at_us < _to)
    .order_by(_t.at_us.desc(), _t.source, _t.event_id)
)


def record_contacts(connection: sa.Connection, contacts: Sequence[ForeignContact]) -> list[bool]:
    """See `LedgerTransaction.record_contacts`."""
    keys = [(each.subscriber_id, row_id(each.contact)) for each in contacts]
    hold(connection, [each.subscriber_id for each in contacts])
    known = {(row.subscriber_id, row.decision_id) for row in known_contacts(connection, keys)}
    new: dict[tuple[str, str], ForeignContact] = {}
    added = []
    for key, each in zip(keys, contacts, strict=True):
        added.append(key not in known and key not in new)
        if added[-1]:
            new[key] = each
    made = [
        (
            each.subscriber_id,
            msgspec.structs.replace(each.contact, state=ContactState.COMMITTED),
            each.content,
        )
        for each in new.values()
    ]
    add_contacts(connection, made)
    changes = (Change(who, row_id(each), each.campaign, each.at_us) for who, each, _ in made)
    note_changes(connection, changes)
    return added


def record_touches(connection: sa.Connection, touches: Sequence[Touch]) -> None:
    """See `LedgerTransaction.record_touches`."""
    rows = [
        {
            "subscriber_id": touch.subscriber_id,
            "source": touch.source,
            "event_id": touch.event_id,
            "at_us": touch.at_us,
            "kind": touch.kind.value,
            "said": _encoder.encode(touch.said),
        }
        # In one order, so that writers never wait in a circle.
        for touch in sorted(touches, key=lambda each: (each.subscriber_id, each.source, each.event_id))
    ]
    insert_new(connection, schema.touches, rows)


def contacts_of(
    connection: sa.Connection, subscriber_id: str, from_us: int, to_us: int, limit: int
) -> Sequence[ContactRow]:
    """See `Ledger.contacts_of`. One statement a table."""
    which = {"of_subscriber": subscriber_id, "from_us": from_us, "to_us": to_us, "most": limit}
    rows = connection.execute(_contacts, which).all()
    ours = [row.decision_id for row in rows if not row.origin]
    decisions = decisions_of(connection, ours)
    outcomes: dict[str, list[Outcome]] = {id_: [] for id_ in ours}
    for outcome in outcomes_of(connection, ours):
        outcomes[outcome.decision_id].append(outcome)
    return [
        ContactRow(
            subscriber_id=subscriber_id,
            contact=contact_of(row),
            content=row.content if row.origin else decisions[row.decision_id].content,
            state=DeliveryState(row.delivery) if row.delivery else None,
            outcomes=tuple(outcomes.get(row.decision_id, ())),
        )
        for row in rows
    ]


def touches_of(
    connection: sa.Connection, subscriber_id: str, from_us: int, to_us: int, limit: int
) -> TouchRow:
    """See `Ledger.touches_of`. The type of a touch is its kind."""
    which = {"of_subscriber": subscriber_id, "from_us": from_us, "to_us": to_us}
    counts: dict[tuple[str, str, str], tuple[int, int]] = {}
    for channel, category, count, newest_us in connection.execute(_contact_counts, which):
        counts[channel, MARKETING, category] = (count, newest_us)
    touches: list[Touch] = []
    of_kind = dict.fromkeys(TouchKind, 0)
    for row in connection.execute(_touches, which):
        kind, said = TouchKind(row.kind), _decoder.decode(row.said)
        of_kind[kind] += 1
        if of_kind[kind] <= limit:
            touches.append(Touch(subscriber_id, row.source, row.event_id, row.at_us, kind, said))
        place = (_word(said, "channel"), kind.value, _word(said, "business"))
        count, newest_us = counts.get(place, (0, 0))
        counts[place] = (count + 1, max(newest_us, row.at_us))
    return TouchRow(tuple(touches), counts)


def _word(said: Mapping[str, object], attribute: str) -> str:
    """ "" where it was not said."""
    return str(said.get(attribute, ""))
