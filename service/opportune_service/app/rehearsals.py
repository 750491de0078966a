"""Rehearse stored revisions on the service's own record, beside its work: in a process of its own, one at a
time. The service's state and ledger are only read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass

import msgspec
from opportune_rulebase.model import Rulebase

from opportune_service.app.errors import InvalidRequestError, NotReadyError
from opportune_service.app.ledger_thread import LedgerThread
from opportune_service.app.ports import Clock, Ledger
from opportune_service.app.record_read import Record
from opportune_service.app.rehearsal import Failure, Input, Opening, Output, Progress, Report
from opportune_service.app.rehearse import lookback_of
from opportune_service.app.revisions import LiveRevision
from opportune_service.app.rulebases import Rulebases
from opportune_service.app.test_sends import TestSends
from opportune_service.core.calendars import DAY_US

MOST_SAMPLES = 1_000

_SAY_EVERY_SECONDS = 1.0

_SLACK_US = DAY_US
"""Events from so long before the longest window are folded too: zones, late events, days under way."""

Worker = Callable[[Opening, AsyncIterator[Input]], AsyncGenerator[Output, None]]
"""Rehearses elsewhere; progress comes every second. Closing what it gives ends it."""


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What to rehearse. `baseline`: "" for the revision in full force. `until_us` 0: to the newest event.
    `folded_since_us` 0: as far back as needed. `tested`: numbers that get real test sends, so many of each
    campaign."""

    revision: str
    since_us: int
    baseline: str = ""
    until_us: int = 0
    sample_size: int = 10
    folded_since_us: int = 0
    tested: tuple[str, ...] = ()
    tests_per_campaign: int = 1


class Rehearsals:
    """The rehearsals of one service process. `engine`: the name of the matching engine."""

    def __init__(
        self,
        live: LiveRevision,
        stored: Rulebases,
        ledger: Ledger,
        thread: LedgerThread,
        clock: Clock,
        engine: str,
        worker: Worker,
        tests: TestSends,
    ) -> None:
        self._live = live
        self._stored = stored
        self._ledger = ledger
        self._thread = thread
        self._clock = clock
        self._engine = engine
        self._worker = worker
        self._tests = tests
        self._by = ""
        self.test_seconds = 30.0
        """How long channel clients have for test sends."""
        self.rulebases: Mapping[str, Rulebase] = {}
        """Those of the last rehearsal, by revision."""

    async def rehearse(self, asked: Rehearsal, by: str) -> AsyncGenerator[Output, None]:
        """Progress every second, then the report. Close it to end it early: the process ends with it.

        Raises `InvalidRequestError`, `UnknownRevisionError`; `NotReadyError` while another one runs, and
        when it fails; `UnloadableRevisionError` for a draft, and for what this release no longer takes.
        """
        now_us = self._clock.now_us()
        _check(asked, now_us)
        if self._by:
            raise NotReadyError(
                f"{self._by} rehearses a revision already, and one process does one at a time: wait until "
                "that has ended, or have it cancelled"
            )
        self._by = by or "somebody"
        try:
            opening, record = await self._open(asked, now_us)
            outputs = self._worker(opening, _inputs(opening, record))
            async with aclosing(outputs):
                async for output in outputs:
                    if isinstance(output, Failure):
                        raise NotReadyError(f"the rehearsal failed, and changed nothing: {output.message}")
                    if isinstance(output, Report):
                        async for each in self._test(output):
                            yield each
                    else:
                        yield output
        finally:
            self._by = ""

    async def _test(self, report: Report) -> AsyncIterator[Output]:
        """Make the test sends of a report, then give it."""
        sending = asyncio.ensure_future(self._tests.send(report.tests, self.test_seconds))
        try:
            while not (await asyncio.wait([sending], timeout=_SAY_EVERY_SECONDS))[0]:
                yield Progress(report.events + report.folded, 0, report.until_us, report.elapsed_us)
        except BaseException:
            sending.cancel()
            raise
        sent, warnings = sending.result(), list(report.warnings)
        if sent < len(report.tests):
            channels = ", ".join(sorted({each.channel for each in report.tests}))
            warnings.append(
                f"{len(report.tests) - sent} of {len(report.tests)} test sends were not confirmed within "
                f"{self.test_seconds:.0f} s: attach a client to {channels} at this process of the service"
            )
        yield msgspec.structs.replace(report, tests_sent=sent, warnings=tuple(warnings))

    async def _open(self, asked: Rehearsal, now_us: int) -> tuple[Opening, Record]:
        baseline = asked.baseline or self._live.current.id
        rulebases = [await self._stored.loaded(revision) for revision in (asked.revision, baseline)]
        archives = [(await self._stored.archive(each.revision))[0] for each in rulebases]
        self.rulebases = {each.revision: each for each in rulebases}
        record = Record(self._ledger, self._thread, rulebases, asked.since_us)
        log_us, first_us = await record.begins_us()
        until_us = min(asked.until_us or now_us, now_us)
        if log_us >= until_us:
            raise NotReadyError(
                "the log has no events of that time: nothing was recorded, or it was pruned"
            )
        wanted_us = asked.folded_since_us or asked.since_us - lookback_of(rulebases) - _SLACK_US
        warnings = []
        if log_us > asked.since_us:
            warnings.append(
                "The log has everything only since a time after the beginning: events before are missing"
            )
        covered_us = min(max(wanted_us, log_us), asked.since_us) if log_us <= asked.since_us else log_us
        pauses = await self._thread.run(self._ledger.pauses)
        opening = Opening(
            candidate=archives[0],
            baseline=archives[1],
            engine=self._engine,
            since_us=asked.since_us,
            until_us=until_us,
            covered_us=covered_us,
            from_first=first_us >= min(covered_us, asked.since_us),
            sample_size=asked.sample_size,
            tested=asked.tested,
            tests_per_campaign=asked.tests_per_campaign,
            paused=tuple(each.campaign for each in pauses),
            warnings=tuple(warnings),
        )
        return opening, record


async def _inputs(opening: Opening, record: Record) -> AsyncIterator[Input]:
    async for each in record.before():
        yield each
    async for recorded in record.recorded(min(opening.covered_us, opening.since_us), opening.until_us):
        yield recorded


def _check(asked: Rehearsal, now_us: int) -> None:
    if not 0 < asked.since_us < now_us:
        raise InvalidRequestError("since", "since must be an instant in the past")
    if asked.until_us and asked.until_us <= asked.since_us:
        raise InvalidRequestError("until", "until must be after since")
    if asked.folded_since_us > asked.since_us:
        raise InvalidRequestError("folded_since", "folded_since must not be after since")
    if not 0 <= asked.sample_size <= MOST_SAMPLES:
        raise InvalidRequestError("sample_size", f"sample_size must be 0 to {MOST_SAMPLES}")
