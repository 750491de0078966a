"""Check and keep rulebases, and say how far each has come."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from opportune_rulebase import load, to_archive
from opportune_rulebase.errors import Problem, RulebaseError
from opportune_rulebase.model import Rulebase
from opportune_rulebase.warnings import calendar_warnings

from opportune_service.app.errors import RulebaseRefusedError, UnknownRevisionError
from opportune_service.app.ledger_thread import LedgerThread
from opportune_service.app.ports import Clock, Ledger
from opportune_service.app.records import RulebaseRow
from opportune_service.app.revisions import LiveRevision
from opportune_service.core.admit import mask

Files = Mapping[str, bytes]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class CheckReport:
    """`rulebase` is None when there are errors. `problems` holds errors and warnings, sorted by place."""

    rulebase: Rulebase | None
    problems: tuple[Problem, ...]


def check(files: Files, today: date) -> CheckReport:
    """Everything that is wrong with a rulebase, at once, as seen on a day. Pure."""
    try:
        rulebase = load(files)
    except RulebaseError as error:
        return CheckReport(None, error.problems)
    return CheckReport(rulebase, (*rulebase.warnings, *calendar_warnings(rulebase, today)))


class Rulebases:
    """The trigger rule bases of the service: what was uploaded. `Activations` makes one live."""

    def __init__(
        self,
        live: LiveRevision,
        ledger: Ledger,
        thread: LedgerThread,
        clock: Clock,
    ) -> None:
        self._live = live
        self._ledger = ledger
        self._thread = thread
        self._clock = clock

    async def check(self, files: Files) -> CheckReport:
        """As `check`, off the event loop."""
        return await asyncio.to_thread(check, files, self._today())

    def _today(self) -> date:
        return (_EPOCH + timedelta(microseconds=self._clock.now_us())).date()

    async def upload(self, files: Files, by: str, comment: str) -> tuple[Rulebase, tuple[Problem, ...]]:
        """Keep a rulebase under its revision. Raises `RulebaseRefusedError` with every problem."""
        report = await self.check(files)
        if report.rulebase is None:
            raise RulebaseRefusedError(report.problems)
        rulebase = report.rulebase
        row = RulebaseRow(rulebase.revision, rulebase.name, self._clock.now_us(), by, comment)
        await self._thread.run(self._save, row, to_archive(files))
        return rulebase, report.problems

    def _save(self, row: RulebaseRow, archive: bytes) -> None:
        with self._ledger.transaction() as tx:
            tx.save_rulebase(row, archive)

    async def list(self) -> Sequence[RulebaseRow]:
        """All uploaded revisions, newest upload first."""
        return await self._thread.run(self._ledger.rulebases)

    async def get(self, revision: str) -> tuple[RulebaseRow, bytes, bool]:
        """A revision ("" for the active one) with its archive, and whether it is live.
        Raises `UnknownRevisionError`."""
        wanted = revision or self._live.id
        rows = {row.revision: row for row in await self.list()}
        archive = await self._thread.run(self._ledger.rulebase_archive, wanted)
        if wanted not in rows or archive is None:
            raise UnknownRevisionError(
                f"no rulebase with revision {mask(wanted[:64])!r} was uploaded"
                if wanted
                else "no rulebase is active"
            )
        return rows[wanted], archive, wanted == self._live.id
