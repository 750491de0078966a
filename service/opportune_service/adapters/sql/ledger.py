"""The ledger on a SQL database: SQLite or PostgreSQL, by the same statements."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import get_ident
from typing import Self

import sqlalchemy as sa

from opportune_service.adapters.sql import (
    backlogs,
    changes,
    contact_view,
    cursors,
    deferrals,
    deliveries,
    heartbeat,
    histories,
    log,
    members,
    outcomes,
    pauses,
    prune,
    quarantine,
    reports,
    rulebases,
    schema,
    states,
    sweeps,
    verdicts,
)
from opportune_service.adapters.sql.backup import copy_to, sqlite_connection
from opportune_service.adapters.sql.engine import for_reading
from opportune_service.adapters.sql.migrate import clear, open_engine
from opportune_service.adapters.sql.statements import chunks
from opportune_service.adapters.sql.transaction import SqlTransaction
from opportune_service.app.errors import StoreUnavailableError
from opportune_service.app.records import (
    Aged,
    Backlog,
    CampaignFigures,
    ChannelFigures,
    ContactChange,
    ContactRow,
    DeadLetter,
    DecisionFilter,
    DecisionRow,
    DeliveryState,
    InForce,
    Kept,
    LogRow,
    Member,
    Pause,
    PauseChange,
    Place,
    Quarantined,
    QuarantineFilter,
    RulebaseRow,
    Step,
    Sweep,
    TouchRow,
)
from opportune_service.core.verdict import Deferral, EventKey, OpenPrompt, Outcome, Prompt, Verdict
from opportune_service.core.watermarks import SourceMark

_LOG_PIECE = 64
_STATE_PIECE = 1000
# Rows read at a time: both about 1 to 4 MB.


class SqlLedger:
    """`Ledger` on a SQL database.

    One thread at a time; opening, use and closing may be by different threads, until it is kept to one.
    Transactions do not nest.
    A read inside the block of a transaction sees what the transaction has written so far. On a file,
    nobody else can open the database as long as this is open.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = for_reading(engine)
        self._writer = engine.execution_options(write=True)
        self._writing: sa.Connection | None = None
        self._closed = False
        self._thread: int | None = None
        self._copied = sqlite_connection(engine)

    @classmethod
    def open(cls, url: str) -> Self:
        """Open or make the ledger at `url`: ``sqlite:///relative/path.db``, ``sqlite:////absolute/path.db``,
        ``sqlite://`` for one in memory that ends with this object, or ``postgresql://USER:PASSWORD@HOST/NAME``
        with parameters of libpq.

        Raises `StoreUnavailableError`, whose message says what to do, if it cannot be opened, written or
        locked, or is not a ledger of this version.
        """
        return cls(open_engine(url))

    def keep_to_this_thread(self) -> None:
        """See `Ledger.keep_to_this_thread`."""
        self._thread = get_ident()

    def clear(self) -> None:
        """Empty all tables, as if it had just been made."""
        self._check_use()
        with self._writer.begin() as connection:
            clear(connection)

    @contextmanager
    def transaction(self) -> Iterator[SqlTransaction]:
        self._check_use()
        with self._writer.begin() as connection:
            self._writing = connection
            tx = SqlTransaction(connection)
            try:
                yield tx
                tx.finish()
            finally:
                self._writing = None
        if tx.erased and self._engine.dialect.name == "sqlite":
            with self._reading() as connection:
                # The log beside the file holds pages as they were.
                connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")

    def read_log(self, after: int) -> Iterator[LogRow]:
        # Each piece is read to its end before any of it is given out, so that the reader may write between.
        while rows := self._log_page(after):
            yield from rows
            after = rows[-1].position

    def last_position(self) -> int:
        with self._reading() as connection:
            return log.last_position(connection)

    def checkpoint(self) -> int:
        with self._reading() as connection:
            return members.checkpoint(connection)

    def generation(self) -> int:
        with self._reading() as connection:
            return members.generation_of(connection)

    def members(self) -> Sequence[Member]:
        with self._reading() as connection:
            return members.members_of(connection)

    def live_state_id(self) -> str:
        with self._reading() as connection:
            return members.live_state_id(connection)

    def heartbeat(self) -> tuple[int, Mapping[str, SourceMark]]:
        with self._reading() as connection:
            return heartbeat.heartbeat_of(connection)

    def load_states(
        self, subscriber_ids: Collection[str] | None = None
    ) -> Iterator[tuple[str, int, bytes]]:
        if subscriber_ids is not None:
            for ids in chunks(subscriber_ids, _STATE_PIECE):
                with self._reading() as connection:
                    some = states.states_of(connection, ids)
                yield from some
            return
        after = ""
        while rows := self._state_page(after):
            yield from rows
            after, _, _ = rows[-1]

    def snapshot_ids(self, after: str, limit: int) -> Sequence[str]:
        with self._reading() as connection:
            return states.ids_page(connection, after, limit)

    def verdict_of(self, decision_id: str) -> Verdict | None:
        with self._reading() as connection:
            return verdicts.verdict_of(connection, decision_id)

    def verdict(self, key: EventKey) -> Verdict | None:
        with self._reading() as connection:
            return verdicts.verdicts_of(connection, [key]).get(key)

    def outcomes_of(self, decision_id: str) -> Sequence[Outcome]:
        with self._reading() as connection:
            return outcomes.outcomes_of(connection, [decision_id])

    def delivery_of(self, decision_id: str) -> tuple[DeliveryState, int] | None:
        with self._reading() as connection:
            return deliveries.delivery_of(connection, decision_id)

    def prompts(self, subscriber_id: str, now_us: int) -> Sequence[Prompt]:
        with self._reading() as connection:
            return histories.prompts_of(connection, subscriber_id, now_us)

    def decisions(
        self, where: DecisionFilter, after: int, limit: int, newest_first: bool
    ) -> Sequence[DecisionRow]:
        up_to = 0 if newest_first else self._settled(schema.decisions)
        with self._reading() as connection:
            return verdicts.list_decisions(connection, where, after, limit, newest_first, up_to)

    def decided_up_to(self) -> int:
        with self._reading() as connection:
            return cursors.settled(connection, schema.decisions)

    def due_deferrals(self, until_us: int, limit: int) -> Sequence[Deferral]:
        with self._reading() as connection:
            return deferrals.due_deferrals(connection, until_us, limit)

    def prompts_on(
        self, channel: str, now_us: int, after: tuple[int, str], limit: int
    ) -> Sequence[OpenPrompt]:
        with self._reading() as connection:
            return deliveries.prompts_on(connection, channel, now_us, after, limit)

    def pauses(self) -> Sequence[Pause]:
        with self._reading() as connection:
            return pauses.pauses(connection)

    def contacts_of(self, subscriber_id: str, from_us: int, to_us: int, limit: int) -> Sequence[ContactRow]:
        with self._reading() as connection:
            return contact_view.contacts_of(connection, subscriber_id, from_us, to_us, limit)

    def touches_of(self, subscriber_id: str, from_us: int, to_us: int, limit: int) -> TouchRow:
        with self._reading() as connection:
            return contact_view.touches_of(connection, subscriber_id, from_us, to_us, limit)

    def contact_changes(
        self, after: int, limit: int, campaigns: Collection[str]
    ) -> Sequence[ContactChange]:
        up_to = self._settled(schema.contact_changes)
        with self._reading() as connection:
            return changes.contact_changes(connection, after, limit, campaigns, up_to)

    def backlogs(self, now_us: int) -> Sequence[Backlog]:
        with self._reading() as connection:
            return backlogs.backlogs(connection, now_us)

    def dead_letters(self, channel: str, campaign: str, before: int, limit: int) -> Sequence[DeadLetter]:
        with self._reading() as connection:
            return deliveries.dead_letters(connection, channel, campaign, before, limit)

    def dead_letters_of(self, decision_ids: Collection[str]) -> Sequence[DeadLetter]:
        with self._reading() as connection:
            return deliveries.dead_letters_of(connection, decision_ids)

    def campaign_figures(
        self, start_us: int, end_us: int, triggers: Mapping[str, Collection[str]]
    ) -> Sequence[CampaignFigures]:
        with self._reading() as connection:
            return reports.campaign_figures(connection, start_us, end_us, triggers)

    def channel_figures(self, start_us: int, end_us: int) -> Sequence[ChannelFigures]:
        with self._reading() as connection:
            return reports.channel_figures(connection, start_us, end_us)

    def contact_frequencies(self, start_us: int, end_us: int) -> Mapping[int, int]:
        with self._reading() as connection:
            return reports.contact_frequencies(connection, start_us, end_us)

    def rulebases(
        self, after: RulebaseRow | None = None, limit: int | None = None
    ) -> Sequence[RulebaseRow]:
        with self._reading() as connection:
            return rulebases.list_rulebases(connection, after, limit)

    def rulebase(self, revision: str) -> RulebaseRow | None:
        with self._reading() as connection:
            return rulebases.row_of(connection, revision)

    def rulebase_archive(self, revision: str) -> bytes | None:
        with self._reading() as connection:
            return rulebases.archive_of(connection, revision)

    def rulebase_signature(self, revision: str) -> bytes:
        with self._reading() as connection:
            return rulebases.signature_of(connection, revision)

    def active_revision(self) -> str:
        with self._reading() as connection:
            return rulebases.active_revision(connection)

    def in_force(self) -> Sequence[InForce]:
        with self._reading() as connection:
            return rulebases.in_force(connection)

    def full_before(self, revision: str) -> str:
        with self._reading() as connection:
            return rulebases.full_before(connection, revision)

    def pause_changes(self, campaigns: Collection[str], since_us: int, limit: int) -> Sequence[PauseChange]:
        with self._reading() as connection:
            return pauses.changes(connection, campaigns, since_us, limit)

    def steps(self, revisions: Collection[str] | None = None) -> Sequence[Step]:
        with self._reading() as connection:
            return rulebases.steps(connection, revisions)

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

    # -- housekeeping -----------------------------------------------------------------------------

    def aged(
        self, kind: Kept, before_us: int, after: Place, limit: int
    ) -> tuple[Sequence[Aged], Place | None]:
        with self._reading() as connection:
            return prune.aged(connection, kind, before_us, after, limit)

    def changes_pruned(self) -> int:
        with self._reading() as connection:
            return prune.changes_pruned(connection)

    def back_up(self, path: Path, stopped: Callable[[], bool]) -> None:
        """See `BackedUp.back_up`."""
        if self._copied is None:
            raise StoreUnavailableError("a ledger on PostgreSQL is backed up by its own tools: see pg_dump")
        copy_to(self._copied, path, stopped)

    def close(self) -> None:
        self._closed = True
        self._engine.dispose()

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        self._check_use()
        if self._writing is not None:
            yield self._writing
            return
        with self._engine.connect() as connection:
            yield connection

    def _settled(self, table: sa.Table) -> int:
        with self._reading() as connection:
            return cursors.settled(connection, table)

    def _check_use(self) -> None:
        if self._thread not in (None, get_ident()):  # a read might fall into that thread's transaction
            raise RuntimeError(
                "this ledger is kept to its own thread, and this is another one: call it there, as in"
                " `await app.thread.run(app.ledger.coverage)`, and read iterators to their end there"
            )
        if self._closed:  # the engine would quietly connect anew
            raise StoreUnavailableError("the ledger is closed: the service is going down")

    def _log_page(self, after: int) -> Sequence[LogRow]:
        with self._reading() as connection:
            return log.log_page(connection, after, _LOG_PIECE)

    def _state_page(self, after: str) -> Sequence[tuple[str, int, bytes]]:
        with self._reading() as connection:
            return states.states_page(connection, after, _STATE_PIECE)
