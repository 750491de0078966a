"""Bring revisions further: test, approve, activate, roll back. Each step is taken only where it may be, and
noted with who took it and why."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from threading import Event

from opportune_service.app.activation import Activations, Attempt
from opportune_service.app.aside import in_turn
from opportune_service.app.callers import Caller
from opportune_service.app.errors import (
    ConflictError,
    ForbiddenError,
    InvalidRequestError,
    NotReadyError,
    OpportuneError,
    RulebaseRefusedError,
    UnknownRevisionError,
    UnloadableRevisionError,
)
from opportune_service.app.ledger_thread import LedgerThread
from opportune_service.app.lifecycle import check_activation, check_approval, check_rollback
from opportune_service.app.ports import Clock, Ledger
from opportune_service.app.records import ActivationMode, InForce, Step, StepKind
from opportune_service.app.rulebases import Rulebases, Stored, is_revision, unknown_revision, unpacked
from opportune_service.app.run_tests import SuiteReport, run_tests
from opportune_service.app.signing import SignerOf, check_stored
from opportune_service.core.revision import EngineFactory

SHARE_OF = 1_000_000
"""Shares of canaries are counted in subscribers of so many."""

_MOST_SECONDS = 120.0
"""How long a suite may take: others wait for their turn."""


@dataclass(frozen=True, slots=True)
class Asked:
    """An activation as a caller asks for it. `expected`: the revision that the caller believes to be in
    full force ("" for none). `share`: of a canary, in subscribers of a million; else 0. `request_id`: with
    one, a repetition of what is in force succeeds."""

    revision: str
    expected: str
    comment: str
    mode: ActivationMode = ActivationMode.FULL
    share: int = 0
    backfill: bool = False
    request_id: str = ""
    kind: StepKind = StepKind.ACTIVATED


@dataclass(frozen=True, slots=True)
class Activated:
    """What is in force now, and which revision was in full force before."""

    activation: InForce
    previous: str
    in_force: Sequence[InForce]


class Promotions:
    """Steps of revisions that people take.

    `gated`: callers are known, so that coming into force needs an approval by another than the author.
    Without, everybody is the same, and there is nobody else who could approve.
    """

    def __init__(
        self,
        rulebases: Rulebases,
        activations: Activations,
        ledger: Ledger,
        thread: LedgerThread,
        clock: Clock,
        make_engine: EngineFactory,
        signer_of: SignerOf | None,
        *,
        gated: bool,
    ) -> None:
        self._rulebases = rulebases
        self._activations = activations
        self._ledger = ledger
        self._thread = thread
        self._clock = clock
        self._make_engine = make_engine
        self._signer_of = signer_of
        self._gated = gated
        self._testing = asyncio.Lock()

    # -- tests --------------------------------------------------------------------------------------

    async def test(self, revision: str, caller: Caller, only: str = "") -> SuiteReport:
        """Run the tests that a stored revision carries. It has been tested if all of them ran and passed.
        Raises `UnknownRevisionError`."""
        stored = await self._rulebases.find(revision)
        archive, _ = await self._rulebases.archive(stored.row.revision)
        report = await self.test_files(await unpacked(archive), only)
        if report.passed and not only and not stored.progress.tested:
            await self._note(
                stored, StepKind.TESTED, caller, f"{len(report.results)} cases passed", archive
            )
        return report

    async def test_files(self, files: Mapping[str, bytes], only: str = "") -> SuiteReport:
        """Run the tests of a rulebase that need not be stored. One suite runs at a time, beside what
        serves; it ends early if the caller goes away, and the next one begins when it has. Raises
        `NotReadyError` if it takes minutes."""
        gone = Event()
        suite = partial(run_tests, files, self._make_engine, only, gone.is_set)
        try:
            async with asyncio.timeout(_MOST_SECONDS):
                return await in_turn(self._testing, suite, gone.set)
        except TimeoutError as error:
            raise NotReadyError(
                f"the tests did not end within {_MOST_SECONDS:g} s, their turn waited for included: run a "
                "part of them here, or all of them with 'opportune test'"
            ) from error

    async def note_rehearsed(self, revision: str, caller: Caller, comment: str) -> None:
        """A rehearsal of the revision came to its end. Raises `UnknownRevisionError`."""
        await self._note(await self._rulebases.find(revision), StepKind.REHEARSED, caller, comment)

    # -- approval -----------------------------------------------------------------------------------

    async def approve(self, revision: str, caller: Caller, comment: str) -> Stored:
        """Approve a revision; one that is approved stays as it is.

        Raises `UnknownRevisionError`, `ForbiddenError` (whoever uploaded it; or it changes what the caller
        may not touch), `NotReadyError` (its tests have not passed).
        """
        stored = await self._rulebases.find(revision)
        check_approval(stored.row.revision, stored.progress, caller.name)
        await self._check_scope(stored, caller)
        if stored.progress.approval is None:
            await self._note(stored, StepKind.APPROVED, caller, comment)
        return await self._rulebases.find(revision)

    async def _note(
        self, stored: Stored, kind: StepKind, caller: Caller, comment: str, archive: bytes | None = None
    ) -> None:
        """`archive`: the one that it was done with; of another that has come meanwhile nothing is noted."""
        step = Step(stored.row.revision, self._clock.now_us(), caller.name, kind, comment)
        await self._thread.run(self._note_step, step, archive)

    def _note_step(self, step: Step, archive: bytes | None) -> None:
        with self._ledger.transaction() as tx:
            if archive is None or self._ledger.rulebase_archive(step.revision) == archive:
                tx.note_step(step)

    # -- coming into force --------------------------------------------------------------------------

    async def activate(self, asked: Asked, caller: Caller) -> Activated:
        """Let a revision take part, all or nothing.

        Raises `UnknownRevisionError`, `NotReadyError` (not approved, a draft, does not load, or cannot run
        beside what is in force), `ForbiddenError` (not signed, or it changes what the caller may not
        touch), `ConflictError` (another revision is in full force than expected), `StoreUnavailableError`.
        Whatever it raises, what was in force still is, and the attempt is kept to be shown.
        """
        _check_names(asked.revision, asked.expected)
        return await self._noted(asked.revision, self._activate(asked, caller))

    async def roll_back(
        self, revision: str, expected: str, caller: Caller, comment: str, request_id: str
    ) -> Activated:
        """Let an earlier revision decide in full again: "" for the one that was in full force before the
        expected one. Metrics that come back with it are computed from the log. Errors as of `activate`."""
        if revision:
            _check_names(revision, expected)
        return await self._noted(revision, self._roll_back(revision, expected, caller, comment, request_id))

    async def _roll_back(
        self, revision: str, expected: str, caller: Caller, comment: str, request_id: str
    ) -> Activated:
        revision = revision or await self._full_before(expected)
        check_rollback(revision, (await self._rulebases.find(revision)).progress)
        asked = Asked(
            *(revision, expected, comment),
            backfill=True,
            request_id=request_id,
            kind=StepKind.ROLLED_BACK,
        )
        return await self._activate(asked, caller)

    async def _full_before(self, expected: str) -> str:
        """The one that was in full force before the one that is expected to be."""
        try:
            stored = await self._rulebases.find(expected)
        except UnknownRevisionError as error:
            raise ConflictError(f"what is expected to be in full force is not: {error}") from error
        revision = await self._thread.run(self._ledger.full_before, stored.row.revision)
        if revision:
            return revision
        if await self._thread.run(self._ledger.active_revision) != expected:
            raise ConflictError(
                f"revision {expected[:12]} is not in full force, as was expected: read again what is"
            )
        raise NotReadyError(
            f"nothing was in full force before {expected[:12]}; name a revision to go back to"
        )

    async def _noted(self, revision: str, attempt: Awaitable[Activated]) -> Activated:
        """What a gate refuses is an attempt as well as what fails behind it, which is noted there."""
        at_us, before = self._clock.now_us(), self._activations.last_attempt
        try:
            return await attempt
        except OpportuneError as error:
            last = self._activations.last_attempt
            if last is None or last is before or last.revision != revision:
                problems = error.problems if isinstance(error, UnloadableRevisionError) else ()
                self._activations.last_attempt = Attempt(revision, at_us, str(error), problems)
            raise

    async def _activate(self, asked: Asked, caller: Caller) -> Activated:
        stored = await self._rulebases.find(asked.revision)
        check_activation(asked.revision, stored.progress, asked.mode, gated=self._gated)
        await self._check_scope(stored, caller, asked.expected)
        await self._check_ends(asked, caller)
        archive, signature = await self._rulebases.archive(asked.revision)
        await asyncio.to_thread(check_stored, self._signer_of, asked.revision, archive, signature)
        if not (asked.request_id and _is_repetition(asked, await self._rulebases.in_force())):
            try:
                await self._activations.activate(
                    *(asked.revision, asked.expected, caller.name, asked.comment),
                    backfill=asked.backfill,
                    mode=asked.mode,
                    share=asked.share,
                    kind=asked.kind,
                )
            except RulebaseRefusedError as error:
                # It loaded once: another release uploaded it.
                raise UnloadableRevisionError(
                    f"this release no longer takes revision {asked.revision[:12]}: {error}", error.problems
                ) from error
        in_force = await self._rulebases.in_force()
        found = next((each for each in in_force if _is_what_was_asked(each, asked)), None)
        # Somebody else may have been quicker than the look at it.
        activation = found or InForce(
            *(asked.revision, asked.mode, asked.share, self._clock.now_us(), caller.name, asked.comment)
        )
        return Activated(activation, asked.expected, in_force)

    async def _check_scope(self, stored: Stored, caller: Caller, expected: str | None = None) -> None:
        if caller.branches is not None:
            rulebase = await self._rulebases.loaded(stored.row.revision)
            await self._rulebases.check_change(caller, rulebase, expected)

    async def _check_ends(self, asked: Asked, caller: Caller) -> None:
        """What runs beside the one in full force, and ends with this, has to be the caller's own too."""
        if caller.branches is None:
            return
        for each in await self._rulebases.in_force():
            stays = asked.mode not in (ActivationMode.FULL, each.mode) or each.revision == asked.revision
            if each.mode is ActivationMode.FULL or stays:
                continue
            ended = await self._rulebases.loaded(each.revision)
            try:
                await self._rulebases.check_change(caller, ended, asked.expected)
            except ForbiddenError as error:
                raise ForbiddenError(f"this ends the {each.mode} {each.revision[:12]}: {error}") from error


def _check_names(revision: str, expected: str) -> None:
    """An attempt is kept and shown to everybody, with what it was about; so it has to be about revisions.
    Raises `UnknownRevisionError`, `ConflictError`."""
    if not is_revision(revision):
        raise unknown_revision(revision)
    if expected and not is_revision(expected):
        raise ConflictError("what is expected to be in full force is no revision: read again what is")


def share_of(fraction: float) -> int:
    """A canary's share in subscribers of a million. Raises `InvalidRequestError` unless it is above 0 and
    below 1."""
    if not 0 < fraction < 1:  # not a number is neither
        raise InvalidRequestError("canary_share", "canary_share must be above 0 and below 1")
    return min(max(round(fraction * SHARE_OF), 1), SHARE_OF - 1)


def _is_what_was_asked(each: InForce, asked: Asked) -> bool:
    return (each.revision, each.mode, each.share) == (asked.revision, asked.mode, asked.share)


def _is_repetition(asked: Asked, in_force: Sequence[InForce]) -> bool:
    """Whether this is in force as it was asked for, so that there is nothing to do. Whoever activates what
    is in full force already does so to end a canary or a shadow."""
    if not any(_is_what_was_asked(each, asked) for each in in_force):
        return False
    return asked.mode is not ActivationMode.FULL or asked.expected != asked.revision or len(in_force) == 1
