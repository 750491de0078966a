"""Erasure: afterwards no table but the log names the subscriber.

What is the subscriber's own goes. What others are said to have done may name the number as well (whom they
called, also as a part of ids): there the stand-in takes its place. Counters name nobody and stay: what was
spent is spent.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa

from opportune_service.adapters.sql import deliveries, schema
from opportune_service.adapters.sql.audit import note_action
from opportune_service.adapters.sql.engine import patient
from opportune_service.adapters.sql.locks import hold
from opportune_service.adapters.sql.statements import chunks
from opportune_service.app.records import DeliveryState
from opportune_service.core.erase import Erasing

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode

_subscriber: sa.BindParameter[str] = sa.bindparam("number")
_live = sa.select(schema.deliveries.c.decision_id).where(
    schema.deliveries.c.subscriber_id == _subscriber, schema.LIVE_DELIVERY
)
_decided = sa.select(schema.decisions.c.decision_id).where(schema.decisions.c.subscriber_id == _subscriber)

# What refers to others first, then what is referred to.
_OWN = (
    schema.contact_changes.delete().where(schema.contact_changes.c.subscriber_id == _subscriber),
    schema.outcomes.delete().where(schema.outcomes.c.subscriber_id == _subscriber),
    schema.deliveries.delete().where(schema.deliveries.c.subscriber_id == _subscriber),
    schema.prompts.delete().where(schema.prompts.c.decision_id.in_(_decided)),
    schema.decisions.delete().where(schema.decisions.c.subscriber_id == _subscriber),
    schema.contacts.delete().where(schema.contacts.c.subscriber_id == _subscriber),
    schema.deferrals.delete().where(schema.deferrals.c.subscriber_id == _subscriber),
    schema.touches.delete().where(schema.touches.c.subscriber_id == _subscriber),
    schema.states.delete().where(schema.states.c.subscriber_id == _subscriber),
)


# There is no index of verdicts that a subscriber leads: the keys are read from end to end, not the bodies.
_verdicts = sa.select(schema.verdicts.c.source, schema.verdicts.c.event_id).where(
    schema.verdicts.c.subscriber_id == _subscriber
)
_delete_verdict = schema.verdicts.delete().where(
    schema.verdicts.c.subscriber_id == _subscriber,
    schema.verdicts.c.source == sa.bindparam("of_source"),
    schema.verdicts.c.event_id == sa.bindparam("of_event"),
)


class _Said(NamedTuple):
    """A column in which the number may be said of others; MessagePack if it is binary."""

    table: sa.Table
    column: str


# What comes of events and imports, and is in the log as well.
_LOGGED = (
    _Said(schema.verdicts, "body"),
    _Said(schema.verdicts, "event_id"),  # the decisions follow it
    _Said(schema.deferrals, "body"),
    _Said(schema.touches, "said"),
    _Said(schema.touches, "event_id"),
    _Said(schema.deliveries, "content"),
)
# What people and other systems said, and is nowhere else: short, so that it can be read from end to end.
_SAID = (
    _Said(schema.contacts, "content"),
    _Said(schema.contacts, "decision_id"),
    _Said(schema.contact_changes, "decision_id"),
    _Said(schema.deliveries, "detail"),
    _Said(schema.outcomes, "detail"),
    _Said(schema.pauses, "reason"),
    _Said(schema.audit, "reason"),
)


def erase(connection: sa.Connection, erasing: Erasing, at_us: int, by: str, reason: str) -> bool:
    """See `LedgerTransaction.erase`. Reads the columns of `_SAID` from end to end."""
    which = {"number": erasing.number}
    hold(connection, [erasing.number])
    patient(connection)
    # What has not gone out yet never will, and gives back what it reserved.
    live = connection.scalars(_live, which).all()
    deliveries.end_deliveries(connection, dict.fromkeys(live, DeliveryState.WITHDRAWN), at_us)
    known = [connection.execute(statement, which).rowcount > 0 for statement in _OWN]
    verdicts = connection.execute(_verdicts, which).all()
    if verdicts:
        known.append(True)
        keys = [which | {"of_source": source, "of_event": event_id} for source, event_id in verdicts]
        connection.execute(_delete_verdict, keys)
    known.append(_delete_quarantined(connection, erasing.number))
    for said in _SAID:
        naming = _naming(said, erasing.number, connection.dialect.name)
        known.append(_blot(connection, said, erasing, connection.execute(naming).all()))
    note_action(connection, at_us, by, "erase", [""], erasing.without(reason))
    return any(known)


def blot_out(connection: sa.Connection, erasing: Erasing, others: Collection[str]) -> None:
    """See `LedgerTransaction.blot_out`."""
    hold(connection, others)
    patient(connection)
    for said in _LOGGED:
        of_others = _of_others(said, _naming(said, erasing.number, connection.dialect.name))
        for ids in chunks(sorted(others)):
            _blot(connection, said, erasing, connection.execute(of_others, {"ids": ids}).all())


def _of_others(said: _Said, naming: sa.Select[Any]) -> sa.Select[Any]:
    ids: sa.BindParameter[str] = sa.bindparam("ids", expanding=True)
    if said.table is not schema.verdicts:
        return naming.where(said.table.c.subscriber_id.in_(ids))
    # By the index of the decisions: of verdicts there is none that a subscriber leads.
    same = (schema.decisions.c[column.key] == column for column in schema.verdicts.primary_key.columns)
    return naming.join_from(schema.decisions, schema.verdicts, sa.and_(*same)).where(
        schema.decisions.c.subscriber_id.in_(ids)
    )


def _blot(connection: sa.Connection, said: _Said, erasing: Erasing, rows: Sequence[sa.Row[Any]]) -> bool:
    column = said.table.c[said.column]
    key: list[sa.Column[Any]] = list(said.table.primary_key.columns)
    new: list[dict[str, object]] = []
    for row in rows:
        value = row[-1]
        without = _encode(erasing.without(_decode(value))) if _is_binary(column) else erasing.without(value)
        if without != value:
            new.append({"without": without, "was": value, **{f"of_{n}": row[n] for n in range(len(key))}})
    if not new:
        return False
    # What was written since it was read stays: it was said after this.
    where = (
        *(each == sa.bindparam(f"of_{n}") for n, each in enumerate(key)),
        column == sa.bindparam("was"),
    )
    connection.execute(said.table.update().where(*where).values({column: sa.bindparam("without")}), new)
    return True


def _delete_quarantined(connection: sa.Connection, number: str) -> bool:
    """Whatever names it: what nobody can use needs no care."""
    naming = _naming(_Said(schema.quarantine, "body"), number, connection.dialect.name)
    gone = [{"of_cursor": row.cursor} for row in connection.execute(naming)]
    if gone:
        cursor = schema.quarantine.c.cursor
        connection.execute(schema.quarantine.delete().where(cursor == sa.bindparam("of_cursor")), gone)
    return bool(gone)


def _naming(said: _Said, number: str, dialect: str) -> sa.Select[Any]:
    """The keys and values of the rows that may name the number: as text or as a whole number."""
    column = said.table.c[said.column]
    forms = (number.encode(), _encode(int(number))) if _is_binary(column) else (number,)
    if dialect == "sqlite":
        found = [sa.func.instr(column, form) > 0 for form in forms]
    elif _is_binary(column):
        found = [sa.func.position(sa.literal(form).op("IN")(column)) > 0 for form in forms]
    else:
        found = [sa.func.strpos(column, form) > 0 for form in forms]
    return sa.select(*said.table.primary_key.columns, column).where(sa.or_(*found))


def _is_binary(column: sa.Column[Any]) -> bool:
    return isinstance(column.type, sa.LargeBinary)
