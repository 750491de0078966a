"""Contacts: made, and moved between their states. The usage counters move with them, always.

Every reservation ends in one of three ways: committed (sent, or a person says the talk took place),
released (certain that the customer was not contacted), or left reserved for good because nobody knows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from opportune_rulebase.policies import Mode

from opportune_service.adapters.sql import schema
from opportune_service.adapters.sql.counters import count_contacts
from opportune_service.adapters.sql.engine import insert_many
from opportune_service.adapters.sql.statements import select_keys
from opportune_service.core.verdict import Contact, ContactState

ContactKey = tuple[str, str]
"""(subscriber id, decision id as in the table)."""

_c = schema.contacts.c

_set_state = (
    schema.contacts.update()
    .where(_c.subscriber_id == sa.bindparam("of_subscriber"), _c.decision_id == sa.bindparam("of_decision"))
    .values(state=sa.bindparam("new_state"))
)


def contact_of(row: sa.Row[Any]) -> Contact:
    """The contact in a row of the table."""
    decision_id: str = row.decision_id
    return Contact(
        decision_id.removeprefix(_prefix(row.origin)),
        row.campaign,
        row.product,
        row.category,
        row.channel,
        Mode(row.mode),
        row.at_us,
        ContactState(row.state),
        row.control,
        row.origin,
        row.open_until_us,
        row.day,
        row.cost,
    )


def row_id(contact: Contact) -> str:
    """Its decision id as in the table, where those of other systems stand beside ours."""
    return _prefix(contact.origin) + contact.decision_id


def _prefix(origin: str) -> str:
    """Of the row ids of a system's contacts. No other system's begin so: its own slashes are escaped."""
    return f"{origin.replace('%', '%25').replace('/', '%2F')}/" if origin else ""


def add_contacts(connection: sa.Connection, made: Iterable[tuple[str, Contact, str]]) -> None:
    """Keep new contacts, given as (subscriber id, contact, content), and count what they use."""
    made = list(made)
    rows = [
        {
            "subscriber_id": subscriber_id,
            "decision_id": row_id(contact),
            "campaign": contact.campaign,
            "product": contact.product,
            "category": contact.category,
            "channel": contact.channel,
            "mode": contact.mode.value,
            "at_us": contact.at_us,
            "state": contact.state.value,
            "control": contact.control,
            "origin": contact.origin,
            "open_until_us": contact.open_until_us,
            "day": contact.day,
            "cost": contact.cost,
            "content": content,
        }
        for subscriber_id, contact, content in made
    ]
    insert_many(connection, schema.contacts, rows)
    count_contacts(connection, ((contact, 1) for _, contact, _ in made))


def known_contacts(connection: sa.Connection, keys: Collection[ContactKey]) -> Sequence[sa.Row[Any]]:
    """The rows of those of `keys` that are there, in no order."""
    once = dict.fromkeys(keys)
    return list(select_keys(connection, schema.contacts, ("subscriber_id", "decision_id"), once))


def release(connection: sa.Connection, keys: Collection[ContactKey]) -> None:
    """It is certain that these customers were not contacted: what is reserved is given back, and taken back
    from the usage counters. What is committed, released already or unknown stays as it is."""
    _move(connection, keys, {ContactState.RESERVED}, ContactState.RELEASED)


def commit(connection: sa.Connection, keys: Collection[ContactKey]) -> None:
    """It is certain that these customers were contacted, whatever was thought before: a contact that had
    been released counts again."""
    _move(connection, keys, {ContactState.RESERVED, ContactState.RELEASED}, ContactState.COMMITTED)


def reserve_again(connection: sa.Connection, keys: Collection[ContactKey]) -> None:
    """What was released is reserved again, and counts again."""
    _move(connection, keys, {ContactState.RELEASED}, ContactState.RESERVED)


def _move(
    connection: sa.Connection,
    keys: Collection[ContactKey],
    those_in: Collection[ContactState],
    to: ContactState,
) -> None:
    moved = [row for row in known_contacts(connection, keys) if row.state in those_in]
    if not moved:
        return
    new = [
        {"of_subscriber": row.subscriber_id, "of_decision": row.decision_id, "new_state": to.value}
        for row in moved
    ]
    connection.execute(_set_state, new)
    counted = to is not ContactState.RELEASED
    changes = ((contact_of(row), counted - (row.state != ContactState.RELEASED)) for row in moved)
    count_contacts(connection, changes)
