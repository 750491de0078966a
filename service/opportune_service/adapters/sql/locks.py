"""What transactions wait for: advisory locks of PostgreSQL, held until the transaction ends.

On SQLite there is one process, whose transactions run one after the other: there all of this does nothing.

A lock is a number: the kind of thing in its first byte, then which one. Two things may have the same number
by chance; then one waits for the other, and nothing else. Those who wait for several take them in the order
of their numbers, in one statement, so that nobody waits in a circle:

    SETUP       making and migrating the tables                          who does it: alone
    GENERATION  what all members work under                              commits share it, `advance` alone
    MEMBER      a member, by its number                                  its commits share it, `expel` alone
    ROSTER      who is a member                                          `join` and `leave`: alone
    RULEBASE    which revision is active, since when metrics are folded  who changes it: alone
    SUBSCRIBER  a subscriber, by the hash of the id                      who decides, or changes it: alone
    NAME        whatever use cases agree on: a counter that is limited   alone
    DECISIONS, CHANGES  cursors drawn, see `cursors.py`                  who draws more shares it

The ledger of a shadow is a schema of the same database. Its locks are numbers of their own, with the next
to highest bit set, so that nobody who works for customers ever waits for the shadow.

A member's commit takes GENERATION and MEMBER first (`guard`), then its subscribers and names, all at once.
Whoever takes over, or rebuilds live state, takes the NAME for that before any MEMBER.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from enum import IntEnum
from typing import Any

import sqlalchemy as sa

from opportune_service.adapters.sql.unit import unit_of


class Space(IntEnum):
    """The kinds of things that are locked. Old and new releases may run at once: never give a number to
    another kind."""

    SETUP = 1
    GENERATION = 2
    MEMBER = 3
    ROSTER = 4
    RULEBASE = 5
    SUBSCRIBER = 6
    NAME = 7
    DECISIONS = 8
    CHANGES = 9


SHADOW = "opportune_shadow"
"""The schema of a shadow's ledger. No user should be called so: the ledger itself is in the first schema
that its user finds, which may be one of the user's name."""

_BITS = 56
_MASK = (1 << _BITS) - 1
_ASIDE = 1 << 62

HERE = f"(CASE current_schema() WHEN '{SHADOW}' THEN {_ASIDE} ELSE 0 END)"
"""What is added to the number of every lock, in SQL."""

_alone = sa.text(f"SELECT pg_advisory_xact_lock(:key + {HERE})")
_shared = sa.text(
    f"SELECT pg_advisory_xact_lock_shared(:first + {HERE}), pg_advisory_xact_lock_shared(:second + {HERE})"
)


def _hashed(space: Space, id_: str) -> str:
    return f"({HERE} + ({space << _BITS} | (hashtextextended({id_}, 0) & {_MASK})))"


# The inner query is sorted, and without doubles, before the locks are taken one after the other.
_all = sa.text(
    "SELECT count(pg_advisory_xact_lock(key)) FROM ("  # noqa: S608 - numbers, no values
    f"SELECT {_hashed(Space.SUBSCRIBER, 'id')} AS key FROM unnest(CAST(:subscribers AS TEXT[])) AS id"
    f" UNION SELECT {_hashed(Space.NAME, 'id')} FROM unnest(CAST(:names AS TEXT[])) AS id"
    f" UNION SELECT {_hashed(Space.SUBSCRIBER, 'subscriber_id')} FROM decisions"
    " WHERE decision_id = ANY(CAST(:decisions AS TEXT[]))"
    " ORDER BY key) AS keys"
)
_FREE = sa.text(f"pg_try_advisory_xact_lock({_hashed(Space.SUBSCRIBER, 'subscriber_id')})")


def has_locks(connection: sa.Connection) -> bool:
    """Whether others may write at the same time."""
    return connection.dialect.name == "postgresql"


def key_of(space: Space, which: int = 0) -> int:
    """The number of a lock."""
    return space << _BITS | which & _MASK


def hold_alone(connection: sa.Connection, space: Space, which: int = 0) -> None:
    """Wait until nobody else holds this, shared or not."""
    if has_locks(connection):
        connection.execute(_alone, {"key": key_of(space, which)})


def hold_commit(connection: sa.Connection, member: int) -> None:
    """Wait until nobody expels the member or advances the generation; share both."""
    if has_locks(connection):
        keys = {"first": key_of(Space.GENERATION), "second": key_of(Space.MEMBER, member)}
        connection.execute(_shared, keys)


def hold(
    connection: sa.Connection,
    subscriber_ids: Iterable[str] = (),
    names: Iterable[str] = (),
    decision_ids: Iterable[str] = (),
) -> None:
    """Wait until no other transaction holds any of these subscribers, those whom these decisions are about,
    or these names. What this one holds already costs nothing."""
    if not has_locks(connection):
        return
    held = unit_of(connection).held
    wanted = {
        *(("subscriber", id_) for id_ in subscriber_ids),
        *(("name", name) for name in names),
        *(("decision", id_) for id_ in decision_ids),
    } - held
    if wanted:
        connection.execute(
            _all, {f"{kind}s": _of(kind, wanted) for kind in ("subscriber", "name", "decision")}
        )
        held |= wanted


def free_rows(
    connection: sa.Connection, rows: sa.Select[Any], table: sa.Table, **values: object
) -> Sequence[sa.Row[Any]]:
    """Those of `rows`, without those that another transaction is at work on: it holds the subscriber, or
    has such a row of `table`. They are held from now on; it waits for nobody. `rows` have a column
    `subscriber_id`; what is left of them keeps its order."""
    if not has_locks(connection):
        return connection.execute(rows, values).all()
    locked = rows.with_for_update(of=table, skip_locked=True).subquery("rows")
    found = connection.execute(sa.select(locked).where(_FREE), values).all()
    unit_of(connection).held.update(("subscriber", row.subscriber_id) for row in found)
    return found


def _of(kind: str, wanted: Collection[tuple[str, str]]) -> list[str]:
    return [id_ for each, id_ in wanted if each == kind]
