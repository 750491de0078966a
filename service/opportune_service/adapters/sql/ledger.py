"""The ledger on a SQL database: SQLite today, by statements that PostgreSQL runs as well."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

import sqlalchemy as sa
from opportune_rulebase.policies import OutcomeKind
from sqlalchemy.dialects import postgresql, sqlite

from opportune_service.adapters.sql import (
    deliveries,
    heartbeat,
    quarantine,
    rulebases,
    schema,
    sweeps,
    verdicts,
)
from opportune_service.adapters.sql.engine import insert_many, open_engine
from opportune_service.app.errors import StoreUnavailableError
from opportune_service.app.records import (
    DecisionFilter,
    DecisionRow,
    DeliveryState,
    Lease,
    LogKind,
    LogRow,
    Quarantined,
    QuarantineFilter,
    RulebaseRow,
    Settlement,
    Sweep,
)
from opportune_service.core.verdict import EventKey, History, Outcome, Prompt, Verdict
from opportune_service.core.watermarks import SourceMark

_LOG_PIECE = 64
_STATE_PIECE = 1000
# Rows read at a time: both about 1 to 4 MB.

_l = schema.log.c
_s = schema.states.c

_checkpoint = sa.select(schema.meta.c.value).where(schema.meta.c.name == "checkpoint")
_save_checkpoint = schema.meta.update().where(schema.meta.c.name == "checkpoint")


def _save_state(dialect: str) -> sa.Insert:
    # The words are the same in both dialects, but SQLAlchemy has no common statement for them.
    insert = (postgresql.insert if dialect == "postgresql" else sqlite.insert)(schema.states)
    new = {"position": insert.excluded.position, "body": insert.excluded.body}
    return insert.on_conflict_do_update(index_elements=["subscriber_id"], set_=new)


class SqlTransaction:
    """`LedgerTransaction` on one connection. After an error leave the block: it must be rolled back."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def append_log(self, rows: Sequence[LogRow]) -> None:
        columns = [
            {
                "position": row.position,
                "kind": row.kind.value,
                "source": row.source,
                "now_us": row.now_us,
                "revision": row.revision,
                "payload": row.payload,
            }
            for row in rows
        ]
        insert_many(self._connection, schema.log, columns)

    def verdicts(self, keys: Collection[EventKey]) -> dict[EventKey, Verdict]:
        return verdicts.verdicts_of(self._connection, keys)

    def histories(self, subscriber_ids: Collection[str], since_us: int, now_us: int) -> dict[str, History]:
        return verdicts.histories_of(self._connection, subscriber_ids, since_us, now_us)

    def record_verdicts(self, decided: Sequence[Verdict]) -> None:
        verdicts.record_verdicts(self._connection, decided)

    def record_outcome(self, decision_id: str, kind: OutcomeKind, at_us: int) -> bool:
        return deliveries.record_outcome(self._connection, decision_id, kind, at_us)

    def lease(
        self, channel: str, limit: int, now_us: int, lease_for_us: int, max_attempts: int
    ) -> list[Lease]:
        return deliveries.lease(self._connection, channel, limit, now_us, lease_for_us, max_attempts)

    def settle(
        self, decision_id: str, token: int, settlement: Settlement, now_us: int, retry_at_us: int
    ) -> bool:
        return deliveries.settle(self._connection, decision_id, token, settlement, now_us, retry_at_us)

    def save_rulebase(self, row: RulebaseRow, archive: bytes) -> None:
        rulebases.save_rulebase(self._connection, row, archive)

    def activate(
        self,
        revision: str,
        expected: str,
        at_us: int,
        by: str,
        comment: str,
        coverage: Mapping[str, int],
        backfill: Collection[str] = (),
    ) -> None:
        rulebases.activate(self._connection, revision, expected, at_us, by, comment, coverage, backfill)

    def finish_backfill(self, keys: Collection[str], since_us: Mapping[str, int]) -> None:
        rulebases.finish_backfill(self._connection, keys, since_us)

    def finish_sweeps(self, done: Collection[Sweep], forget_before_us: int) -> None:
        sweeps.finish_sweeps(self._connection, done, forget_before_us)

    def quarantine(self, rejected: Sequence[Quarantined], most: int) -> None:
        quarantine.quarantine(self._connection, rejected, most)

    def save_states(self, states: Iterable[tuple[str, int, bytes]]) -> None:
        statement = _save_state(self._connection.dialect.name)
        for piece in verdicts.chunks(states, _STATE_PIECE):
            rows = [
                {"subscriber_id": id_, "position": position, "body": body} for id_, position, body in piece
            ]
            self._connection.execute(statement, rows)

    def save_checkpoint(self, position: int) -> None:
        self._connection.execute(_save_checkpoint, {"value": position})

    def save_heartbeat(self, alive_us: int, sources: Mapping[str, SourceMark]) -> None:
        heartbeat.save_heartbeat(self._connection, alive_us, sources)

    def reset_coverage(self, keys: Collection[str], since_us: int) -> None:
        rulebases.reset_coverage(self._connection, keys, since_us)


class SqlLedger:
    """`Ledger` on a SQL database.

    One thread at a time; opening, use and closing may be by different threads. Transactions do not nest.
    A read inside the block of a transaction sees what the transaction has written so far. On a file,
    nobody else can open the database as long as this is open.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._writer = engine.execution_options(write=True)
        self._writing: sa.Connection | None = None
        self._closed = False

    @classmethod
    def open(cls, url: str) -> Self:
        """Open or make the ledger at `url`: ``sqlite:///relative/path.db``, ``sqlite:////absolute/path.db``,
        or ``sqlite://`` for one in memory that ends with this object.

        Raises `StoreUnavailableError`, whose message says what to do, if it cannot be opened, written or
        locked, or is not a ledger of this version.
        """
        return cls(open_engine(url))

    @contextmanager
    def transaction(self) -> Iterator[SqlTransaction]:
        self._check_open()
        with self._writer.begin() as connection:
            self._writing = connection
            try:
                yield SqlTransaction(connection)
            finally:
                self._writing = None

    def read_log(self, after: int) -> Iterator[LogRow]:
        page = (
            sa.select(_l.position, _l.kind, _l.source, _l.now_us, _l.revision, _l.payload)
            .where(_l.position > sa.bindparam("after"))
            .order_by(_l.position)
            .limit(_LOG_PIECE)
        )
        # Each piece is read to its end before any of it is given out, so that the reader may write between.
        while rows := self._all(page, after=after):
            for row in rows:
                yield LogRow(
                    row.position, LogKind(row.kind), row.source, row.now_us, row.revision, row.payload
                )
            after = rows[-1].position

    def last_position(self) -> int:
        with self._reading() as connection:
            return connection.scalar(sa.select(sa.func.coalesce(sa.func.max(_l.position), 0))) or 0

    def checkpoint(self) -> int:
        with self._reading() as connection:
            return connection.scalar(_checkpoint) or 0

    def heartbeat(self) -> tuple[int, Mapping[str, SourceMark]]:
        with self._reading() as connection:
            return heartbeat.heartbeat_of(connection)

    def load_states(
        self, subscriber_ids: Collection[str] | None = None
    ) -> Iterator[tuple[str, int, bytes]]:
        columns = sa.select(_s.subscriber_id, _s.position, _s.body)
        if subscriber_ids is not None:
            some = columns.where(_s.subscriber_id.in_(sa.bindparam("ids", expanding=True)))
            for ids in verdicts.chunks(subscriber_ids, _STATE_PIECE):
                yield from (tuple(row) for row in self._all(some, ids=ids))
            return
        page = columns.where(_s.subscriber_id > sa.bindparam("after")).order_by(_s.subscriber_id)
        after = ""
        while rows := self._all(page.limit(_STATE_PIECE), after=after):
            yield from (tuple(row) for row in rows)
            after = rows[-1].subscriber_id

    def verdict_of(self, decision_id: str) -> Verdict | None:
        with self._reading() as connection:
            return verdicts.verdict_of(connection, decision_id)

    def verdict(self, key: EventKey) -> Verdict | None:
        with self._reading() as connection:
            return verdicts.verdicts_of(connection, [key]).get(key)

    def outcomes_of(self, decision_id: str) -> Sequence[Outcome]:
        with self._reading() as connection:
            return verdicts.outcomes_of(connection, decision_id)

    def delivery_of(self, decision_id: str) -> tuple[DeliveryState, int] | None:
        with self._reading() as connection:
            return deliveries.delivery_of(connection, decision_id)

    def prompts(self, subscriber_id: str, now_us: int) -> Sequence[Prompt]:
        with self._reading() as connection:
            return verdicts.prompts_of(connection, subscriber_id, now_us)

    def decisions(
        self, where: DecisionFilter, after: int, limit: int, newest_first: bool
    ) -> Sequence[DecisionRow]:
        with self._reading() as connection:
            return verdicts.list_decisions(connection, where, after, limit, newest_first)

    def rulebases(self) -> Sequence[RulebaseRow]:
        with self._reading() as connection:
            return rulebases.list_rulebases(connection)

    def rulebase_archive(self, revision: str) -> bytes | None:
        with self._reading() as connection:
            return rulebases.archive_of(connection, revision)

    def active_revision(self) -> str:
        with self._reading() as connection:
            return rulebases.active_revision(connection)

    def coverage(self) -> Mapping[str, int]:
        with self._reading() as connection:
            return rulebases.coverage_of(connection)

    def births(self) -> Mapping[str, int]:
        with self._reading() as connection:
            return rulebases.births_of(connection)

    def backfills(self) -> set[str]:
        with self._reading() as connection:
            return rulebases.backfills_of(connection)

    def sweeps(self) -> set[Sweep]:
        with self._reading() as connection:
            return sweeps.sweeps_of(connection)

    def quarantined(
        self, where: QuarantineFilter, before: int, limit: int
    ) -> Sequence[tuple[int, Quarantined]]:
        with self._reading() as connection:
            return quarantine.list_quarantined(connection, where, before, limit)

    def close(self) -> None:
        self._closed = True
        self._engine.dispose()

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        if self._writing is not None:
            yield self._writing
            return
        self._check_open()
        with self._engine.connect() as connection:
            yield connection

    def _check_open(self) -> None:
        if self._closed:  # the engine would quietly connect anew
            raise StoreUnavailableError("the ledger is closed: the service is going down")

    def _all(self, statement: sa.Select[tuple[object, ...]], **values: object) -> Sequence[sa.Row[Any]]:
        with self._reading() as connection:
            return connection.execute(statement, values).all()
