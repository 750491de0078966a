"""Finding what is old, and deleting it: what nobody needs any more and is still as it was read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import chain, takewhile
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa
from opportune_rulebase.policies import Fate

from opportune_service.adapters.sql import schema
from opportune_service.adapters.sql.locks import Space, hold, hold_alone
from opportune_service.adapters.sql.members import checkpoint
from opportune_service.adapters.sql.rulebases import backfills_of
from opportune_service.adapters.sql.statements import put_many, select_keys
from opportune_service.app.records import Aged, DeliveryState, Kept, Place
from opportune_service.core.verdict import UsageKind, Verdict

_HOUR_US = 3_600_000_000
_DAY_US = 24 * _HOUR_US

_Key = tuple[Any, ...]
_Row = tuple[str, dict[str, object]]
"""(table, column -> value)."""
_Found = Mapping[_Key, tuple[_Row, ...]]

_decoder = msgspec.msgpack.Decoder(Verdict)

_l = schema.log.c
_d = schema.decisions.c
_u = schema.usage.c
_c = schema.contacts.c
_m = schema.meta.c

_most: sa.BindParameter[int] = sa.bindparam("most", type_=sa.Integer)

_log_page = (
    sa.select(_l.position, _l.now_us)
    .where(_l.position > sa.bindparam("after"), _l.position <= sa.bindparam("last"))
    .order_by(_l.position)
    .limit(_most)
)

_CHANGES_PRUNED = "changes_pruned"
_changes_pruned = sa.select(_m.value).where(_m.name == _CHANGES_PRUNED)


def aged(
    connection: sa.Connection, kind: Kept, before_us: int, after: Place, limit: int
) -> tuple[Sequence[Aged], Place | None]:
    """See `Ledger.aged`."""
    if kind is Kept.LOG:
        return _old_log(connection, before_us, after, limit)
    if kind is Kept.HISTORY:
        return _old_history(connection, before_us, after, limit)
    return _old_rows(connection, kind, before_us, after, limit)


def prune(connection: sa.Connection, found: Sequence[Aged]) -> int:
    """See `LedgerTransaction.prune`."""
    if not found:
        return 0
    kind, keys = found[0].kind, [each.key for each in found]
    # What was read is looked at again, and from here on nobody else changes it.
    rows = chain.from_iterable(each.rows for each in found)
    hold(connection, {str(row["subscriber_id"]) for _, row in rows if "subscriber_id" in row})
    if kind is Kept.LOG:
        hold_alone(connection, Space.RULEBASE)
        if backfills_of(connection):
            return 0
    now = _rows_now(connection, kind, keys)
    if kind is Kept.LOG:
        unchanged = list(takewhile(lambda each: now.get(each.key) == each.rows, found))
    else:
        unchanged = [each for each in found if now.get(each.key) == each.rows]
    of_table: defaultdict[str, list[dict[str, object]]] = defaultdict(list)
    for each in unchanged:
        for table, row in each.rows:
            of_table[table].append(row)
    _note_changes_pruned(connection, of_table[schema.contact_changes.name])
    for table in reversed(schema.metadata.sorted_tables):  # what refers to others first
        _delete(connection, table, of_table[table.name])
    return len(unchanged)


def changes_pruned(connection: sa.Connection) -> int:
    """See `Ledger.changes_pruned`."""
    return connection.scalar(_changes_pruned) or 0


def _note_changes_pruned(connection: sa.Connection, changes: Sequence[Mapping[str, Any]]) -> None:
    if changes:
        greatest = max(changes_pruned(connection), *(row["cursor"] for row in changes))
        put_many(connection, schema.meta, [{"name": _CHANGES_PRUNED, "value": greatest}])


def _delete(connection: sa.Connection, table: sa.Table, rows: Sequence[Mapping[str, object]]) -> None:
    if rows:
        names = [column.key for column in table.primary_key.columns]
        connection.execute(
            _delete_by_key(table), [{f"of_{name}": row[name] for name in names} for row in rows]
        )


@lru_cache
def _delete_by_key(table: sa.Table) -> sa.Delete:
    return table.delete().where(
        *(column == sa.bindparam(f"of_{column.key}") for column in table.primary_key.columns)
    )


def _rows_now(connection: sa.Connection, kind: Kept, keys: Collection[_Key]) -> _Found:
    """All rows of those with these keys that are there, the same each time."""
    if kind is Kept.LOG:
        rows = select_keys(connection, schema.log, ("position",), keys)
        return {(row.position,): (_row(schema.log, row),) for row in rows}
    if kind is Kept.HISTORY:
        return _histories(connection, keys)
    return _alone(connection, kind, keys)


def _row(table: sa.Table, row: sa.Row[Any]) -> _Row:
    # Plain text: the keys of some columns are more than that.
    return table.name, {str(column.key): getattr(row, column.key) for column in table.columns}


def _sorted(table: sa.Table, rows: Iterable[sa.Row[Any]]) -> list[sa.Row[Any]]:
    names = [column.key for column in table.primary_key.columns]
    return sorted(rows, key=lambda row: [getattr(row, name) for name in names])


# -- the log ------------------------------------------------------------------------------------------


def _old_log(
    connection: sa.Connection, before_us: int, after: Place, limit: int
) -> tuple[Sequence[Aged], Place | None]:
    if backfills_of(connection):
        return (), None
    (begin,) = after or (0,)
    last = checkpoint(connection)
    page = connection.execute(_log_page, {"after": begin, "last": last, "most": limit}).all()
    # A row that does not tell when it was taken in is never old, nor is what comes behind it.
    old = list(takewhile(lambda row: 0 < row.now_us < before_us, page))
    found = _rows_now(connection, Kept.LOG, [(row.position,) for row in old])
    rows = [Aged(Kept.LOG, row.now_us, (row.position,), found[row.position,]) for row in old]
    return rows, (old[-1].position,) if len(old) == limit else None


# -- verdicts, with all that came of them -------------------------------------------------------------

_LIVE = (DeliveryState.PENDING.value, DeliveryState.LEASED.value)

_old_decisions = (
    sa.select(_d.decided_at_us, _d.cursor, _d.event_id, _d.source, _d.subscriber_id)
    .where(
        _d.decided_at_us < sa.bindparam("before_us", type_=sa.BigInteger),
        _d.decided_at_us >= sa.bindparam("after_us", type_=sa.BigInteger),  # by which the index is entered
        sa.tuple_(_d.decided_at_us, _d.cursor)
        > sa.tuple_(
            sa.bindparam("after_us", type_=sa.BigInteger), sa.bindparam("after_cursor", type_=sa.BigInteger)
        ),
    )
    .order_by(_d.decided_at_us, _d.cursor)
    .limit(_most)
)


def _old_history(
    connection: sa.Connection, before_us: int, after: Place, limit: int
) -> tuple[Sequence[Aged], Place | None]:
    after_us, cursor = after or (-1, 0)
    where = {"before_us": before_us, "after_us": after_us, "after_cursor": cursor, "most": limit}
    page = connection.execute(_old_decisions, where).all()
    at_us = {(row.event_id, row.source, row.subscriber_id): row.decided_at_us for row in page}
    found = _histories(connection, at_us.keys())
    deferred = _still_deferred(connection, found.values())
    rows = [
        Aged(Kept.HISTORY, at_us[key], key, found[key])
        for key in at_us
        if not any(_holds(table, row, before_us, deferred) for table, row in found[key])
    ]
    return rows, (page[-1].decided_at_us, page[-1].cursor) if len(page) == limit else None


def _histories(connection: sa.Connection, keys: Collection[_Key]) -> _Found:
    rows: dict[_Key, list[_Row]] = {}
    of_decision: dict[str, _Key] = {}
    for row in select_keys(connection, schema.verdicts, ("event_id", "source", "subscriber_id"), keys):
        key = (row.event_id, row.source, row.subscriber_id)
        rows[key] = [_row(schema.verdicts, row)]
        of_decision |= {decision.id: key for decision in _decoder.decode(row.body).decisions}
    ids = [(id_,) for id_ in of_decision]
    contacts: list[_Key] = [(key[2], id_) for id_, key in of_decision.items()]
    for table, columns, wanted in (
        (schema.decisions, ("decision_id",), ids),
        (schema.contacts, ("subscriber_id", "decision_id"), contacts),
        (schema.deliveries, ("decision_id",), ids),
        (schema.prompts, ("decision_id",), ids),
        (schema.outcomes, ("decision_id",), ids),
    ):
        for row in _sorted(table, select_keys(connection, table, columns, wanted)):
            rows[of_decision[row.decision_id]].append(_row(table, row))
    contacts = [
        (row["subscriber_id"], row["decision_id"])
        for all_ in rows.values()
        for table_name, row in all_
        if table_name == schema.contacts.name
    ]
    for (_, id_), changes in _changes_of(connection, contacts).items():
        rows[of_decision[id_]] += changes
    return {key: tuple(all_) for key, all_ in rows.items()}


def _changes_of(connection: sa.Connection, contacts: Collection[_Key]) -> Mapping[_Key, list[_Row]]:
    """What happened to contacts, given as (subscriber id, decision id)."""
    table = schema.contact_changes
    found: defaultdict[_Key, list[_Row]] = defaultdict(list)
    for row in _sorted(table, select_keys(connection, table, ("subscriber_id", "decision_id"), contacts)):
        found[row.subscriber_id, row.decision_id].append(_row(table, row))
    return found


def _holds(table: str, row: Mapping[str, Any], before_us: int, deferred: Collection[str]) -> bool:
    """Whether the row is a reason to keep all that it belongs to."""
    match table:
        case "decisions":
            return row["decision_id"] in deferred
        case "contacts":
            return bool(max(row["at_us"], row["open_until_us"]) >= before_us)
        case "deliveries":
            return bool(row["state"] in _LIVE or row["changed_at_us"] >= before_us)
        case "prompts":
            return bool(row["state"] == "open" or row["expires_at_us"] >= before_us)
        case "outcomes":
            return bool(row["at_us"] >= before_us)
    return False


def _still_deferred(connection: sa.Connection, found: Iterable[tuple[_Row, ...]]) -> set[str]:
    """Decisions that wait to be decided again."""
    places = {
        (row["subscriber_id"], row["campaign"])
        for rows in found
        for table, row in rows
        if table == schema.decisions.name and row["fate"] == Fate.DEFER.value
    }
    waiting = select_keys(connection, schema.deferrals, ("subscriber_id", "campaign"), places)
    return {row.decision_id for row in waiting}


# -- what stands alone --------------------------------------------------------------------------------


class _Alone(NamedTuple):
    """A table whose rows grow old one by one. `at`: of when a row is, in units of so many microseconds."""

    table: sa.Table
    at: sa.ColumnElement[int]
    where: tuple[sa.ColumnElement[bool], ...] = ()
    unit_us: int = 1

    @property
    def key(self) -> tuple[str, ...]:
        return tuple(column.key for column in self.table.primary_key.columns)


_ALONE = {
    Kept.CONTACTS: _Alone(schema.contacts, _c.at_us, (_c.origin != "",)),
    Kept.TOUCHES: _Alone(schema.touches, schema.touches.c.at_us),
    Kept.EVENT_COUNTS: _Alone(schema.event_counts, schema.event_counts.c.hour, unit_us=_HOUR_US),
    # The days of counters are those of some time zone.
    Kept.USAGE: _Alone(
        schema.usage,
        sa.case(
            (_u.kind == UsageKind.CAMPAIGN_HOUR.value, _u.period * _HOUR_US),
            else_=(_u.period + 1) * _DAY_US,
        ),
        (_u.period > 0,),
    ),
    Kept.QUARANTINE: _Alone(schema.quarantine, schema.quarantine.c.received_us),
    Kept.AUDIT: _Alone(schema.audit, schema.audit.c.at_us),
}


def _old_rows(
    connection: sa.Connection, kind: Kept, before_us: int, after: Place, limit: int
) -> tuple[Sequence[Aged], Place | None]:
    unit_us = _ALONE[kind].unit_us
    where: dict[str, object] = {"before": -(-before_us // unit_us), "most": limit}
    where |= {f"after_{n}": value for n, value in enumerate(after)}
    page = [tuple(row) for row in connection.execute(_page(kind, go_on=bool(after)), where)]
    found = _alone(connection, kind, [key for _, *key in page])
    rows = [Aged(kind, at * unit_us, tuple(key), found[tuple(key)]) for at, *key in page]
    return rows, page[-1] if len(page) == limit else None


@lru_cache
def _page(kind: Kept, *, go_on: bool) -> sa.Select[Any]:
    """(when, key) of the first that are old; with `go_on` beyond `after_0`, `after_1` ..."""
    alone = _ALONE[kind]
    order = (alone.at, *alone.table.primary_key.columns)
    before = sa.bindparam("before", type_=sa.BigInteger)
    page = sa.select(*order).where(alone.at < before, *alone.where).order_by(*order).limit(_most)
    if not go_on:
        return page
    places = [sa.bindparam(f"after_{n}", type_=column.type) for n, column in enumerate(order)]
    return page.where(alone.at >= places[0], sa.tuple_(*order) > sa.tuple_(*places))


def _alone(connection: sa.Connection, kind: Kept, keys: Iterable[Sequence[Any]]) -> _Found:
    alone = _ALONE[kind]
    rows = {
        tuple(getattr(row, name) for name in alone.key): [_row(alone.table, row)]
        for row in select_keys(connection, alone.table, alone.key, map(tuple, keys))
    }
    if kind is Kept.CONTACTS:
        for key, changes in _changes_of(connection, rows.keys()).items():
            rows[key] += changes
    return {key: tuple(all_) for key, all_ in rows.items()}
