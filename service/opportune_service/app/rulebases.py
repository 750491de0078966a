"""The trigger rule bases that are kept: upload them, look at them, compare them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from opportune_rulebase import Code, from_archive, load, revision_of, to_archive
from opportune_rulebase.diff import Change, diff
from opportune_rulebase.errors import Position, Problem, RulebaseError, Severity
from opportune_rulebase.model import Rulebase
from opportune_rulebase.warnings import calendar_warnings
from opportune_rulebase.work_orders import apply_work_order, unbound_names

from opportune_service.app.aside import aside, in_turn
from opportune_service.app.callers import Caller
from opportune_service.app.errors import (
    ConflictError,
    ForbiddenError,
    InvalidRequestError,
    NoRulebaseError,
    RulebaseRefusedError,
    UnknownRevisionError,
    UnloadableRevisionError,
)
from opportune_service.app.ledger_thread import LedgerThread
from opportune_service.app.lifecycle import Progress, RulebaseState, check_scope, progress
from opportune_service.app.ports import Clock, Ledger
from opportune_service.app.records import InForce, PauseChange, RulebaseRow, Step, StepKind
from opportune_service.app.revisions import LiveRevision
from opportune_service.app.signing import SignerOf, check_signature
from opportune_service.core.admit import mask
from opportune_service.core.revision import EngineFactory

Files = Mapping[str, bytes]

_REVISION = re.compile(r"[0-9a-f]{64}")
"""Nothing else is looked for: not every store takes every text."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_KEPT = 4
"""Loaded revisions that are kept besides those in force: an operator looks at one or two."""
_PAGE = 200
_PAUSES_SHOWN = 500


@dataclass(frozen=True, slots=True)
class CheckReport:
    """`rulebase` is None when there are errors. `problems` holds errors and warnings, sorted by place."""

    rulebase: Rulebase | None
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class Stored:
    """A revision that is kept: what its upload said, its steps in order, and what they come to."""

    row: RulebaseRow
    steps: tuple[Step, ...]
    progress: Progress
    state: RulebaseState


@dataclass(frozen=True, slots=True)
class Uploaded:
    """What was kept. `is_new` False: it was kept already, as it is."""

    revision: str
    is_new: bool


@dataclass(frozen=True, slots=True)
class WorkOrder:
    """One campaign from the planning system, to be added to a revision ("": the one in full force).
    `bindings`: the planning system's names -> names of the rulebase."""

    order_id: str
    base: str
    document: str
    bindings: Mapping[str, str]


def is_revision(text: str) -> bool:
    """Whether a text may be the name of a revision at all."""
    return _REVISION.fullmatch(text) is not None


def check(files: Files, today: date) -> CheckReport:
    """Everything that is wrong with a rulebase, at once, as seen on a day. Pure."""
    try:
        rulebase = load(files)
    except RulebaseError as error:
        return CheckReport(None, error.problems)
    return CheckReport(rulebase, (*rulebase.warnings, *calendar_warnings(rulebase, today)))


class Rulebases:
    """All revisions that were uploaded. `Promotions` brings them further, `Activations` lets them decide.

    `make_engine`: keeps what it made (`KeptEngines`): whoever uploads a rulebase often activates it next.
    `signer_of`: who signed an archive; None: everybody may upload what nobody signed.
    """

    def __init__(
        self,
        live: LiveRevision,
        ledger: Ledger,
        thread: LedgerThread,
        clock: Clock,
        make_engine: EngineFactory,
        signer_of: SignerOf | None = None,
    ) -> None:
        self._live = live
        self._ledger = ledger
        self._thread = thread
        self._clock = clock
        self._make_engine = make_engine
        self._signer_of = signer_of
        self._loaded: dict[str, Rulebase] = {}
        self._turn = asyncio.Lock()
        """What callers have loaded or compared: one after the other, so that however much they ask for,
        what comes into force finds a thread."""

    # -- putting in ---------------------------------------------------------------------------------

    async def check(self, files: Files) -> CheckReport:
        """As `check`, off the event loop."""
        today = (_EPOCH + timedelta(microseconds=self._clock.now_us())).date()
        return await in_turn(self._turn, lambda: check(files, today))

    async def upload(self, files: Files, by: str, comment: str) -> tuple[Rulebase, tuple[Problem, ...]]:
        """Keep a rulebase of this machine's own files under its revision. Raises `RulebaseRefusedError`
        with every problem."""
        report = await self.check(files)
        if report.rulebase is None:
            raise RulebaseRefusedError(report.problems)
        row = self._row(report.rulebase.revision, report.rulebase.name, by, comment)
        await self._thread.run(self._save, row, StepKind.UPLOADED, to_archive(files))
        await self._make_ready(report.rulebase)
        return report.rulebase, report.problems

    async def upload_archive(
        self, archive: bytes, signature: bytes, caller: Caller, comment: str
    ) -> Uploaded:
        """Keep an archive, just as it is, under its revision. One that is kept already is replaced if this
        is signed by another key or has other tests; but what is signed is not by what is not.

        Raises `UnsignedError` unless somebody signed it who may, `RulebaseRefusedError` with every problem,
        `ForbiddenError` if it changes what the caller may not touch.
        """
        signer = await asyncio.to_thread(check_signature, self._signer_of, archive, signature)
        files = await unpacked(archive)
        report = await self.check(files)
        if report.rulebase is None:
            raise RulebaseRefusedError(report.problems)
        await self.check_change(caller, report.rulebase)
        row = self._row(report.rulebase.revision, report.rulebase.name, caller.name, comment)
        replace = bool(signer) or await self._differs(row.revision, files)
        is_new = await self._thread.run(
            self._save, row, StepKind.UPLOADED, archive, signature, replace=replace
        )
        await self._make_ready(report.rulebase)
        return Uploaded(row.revision, is_new)

    async def _differs(self, revision: str, files: Files) -> bool:
        """Whether unsigned files are kept under this revision that are not these: tests have no part in
        what a revision is named by."""
        try:
            kept, signature = await self.archive(revision)
        except UnknownRevisionError:
            return False
        return not signature and await unpacked(kept) != files

    async def order(self, order: WorkOrder, caller: Caller, comment: str) -> Uploaded:
        """Keep a copy of the order's base with one campaign more: as a draft if names are unbound.

        Raises `UnknownRevisionError` (no such base), `NoRulebaseError` (none is named, and none in force),
        `RulebaseRefusedError` with every problem, `ForbiddenError` for a campaign of branches that the
        caller may not touch. A draft contacts nobody; so nobody asks whose it would be.
        """
        base = await self.find(order.base)
        files = await unpacked((await self.archive(base.row.revision))[0])
        made = await in_turn(
            self._turn, lambda: apply_work_order(files, order.order_id, order.document, order.bindings)
        )
        if any(problem.severity is Severity.ERROR for problem in made.problems):
            raise RulebaseRefusedError(made.problems)
        if made.rulebase is not None:
            await self.check_change(caller, made.rulebase)
        row = self._row(revision_of(made.files), base.row.name, caller.name, comment)
        kind = StepKind.DRAFTED if made.rulebase is None else StepKind.UPLOADED
        is_new = await self._thread.run(self._save, row, kind, to_archive(made.files))
        if made.rulebase is not None:
            await self._make_ready(made.rulebase)
        return Uploaded(row.revision, is_new)

    def _row(self, revision: str, name: str, by: str, comment: str) -> RulebaseRow:
        return RulebaseRow(revision, name, self._clock.now_us(), by, comment)

    def _save(
        self,
        row: RulebaseRow,
        kind: StepKind,
        archive: bytes,
        signature: bytes = b"",
        *,
        replace: bool = False,
    ) -> bool:
        with self._ledger.transaction() as tx:
            is_new = tx.save_rulebase(row, archive, signature, replace=replace)
            if is_new:
                tx.note_step(Step(row.revision, row.uploaded_at_us, row.uploaded_by, kind, row.comment))
        return is_new

    # -- looking ------------------------------------------------------------------------------------

    async def in_force(self) -> Sequence[InForce]:
        """What takes part, by the record: the revision in full force first."""
        return await self._thread.run(self._ledger.in_force)

    async def find(self, revision: str) -> Stored:
        """A revision ("" for the one in full force). Raises `UnknownRevisionError`, `NoRulebaseError`."""
        return await self._thread.run(self._find, revision)

    def _find(self, revision: str) -> Stored:
        wanted = revision or self._ledger.active_revision()
        if not wanted:
            raise NoRulebaseError("no rulebase is in force; upload one and activate it, or name a revision")
        row = self._ledger.rulebase(wanted) if is_revision(wanted) else None
        if row is None:
            raise unknown_revision(wanted)
        return self._stored([row])[0]

    async def page(self, state: RulebaseState | None, after: str, size: int) -> tuple[list[Stored], bool]:
        """Up to `size` revisions beyond `after` ("" for the newest), newest first, and whether there are
        more. Raises `InvalidRequestError` for an `after` that is no revision."""
        return await self._thread.run(self._page, state, after, size)

    def _page(self, state: RulebaseState | None, after: str, size: int) -> tuple[list[Stored], bool]:
        last = self._ledger.rulebase(after) if is_revision(after) else None
        if after and last is None:
            raise InvalidRequestError("page_token", "page_token must be one that an answer gave")
        found: list[Stored] = []
        while len(found) <= size:
            rows = self._ledger.rulebases(last, min(size + 1, _PAGE))
            found += [each for each in self._stored(rows) if state in (None, each.state)]
            if not rows:
                break
            last = rows[-1]
        return found[:size], len(found) > size

    def _stored(self, rows: Sequence[RulebaseRow]) -> list[Stored]:
        steps: dict[str, list[Step]] = {row.revision: [] for row in rows}
        for step in self._ledger.steps(steps):
            steps[step.revision].append(step)
        in_force = {each.revision for each in self._ledger.in_force()}
        found = []
        for row in rows:
            so_far = progress(steps[row.revision])
            state = so_far.state(in_force=row.revision in in_force)
            found.append(Stored(row, tuple(steps[row.revision]), so_far, state))
        return found

    async def pause_changes(self, stored: Stored, campaigns: Collection[str]) -> Sequence[PauseChange]:
        """The last pauses and resumptions of these campaigns since the revision was uploaded."""
        return await self._thread.run(
            self._ledger.pause_changes, campaigns, stored.row.uploaded_at_us, _PAUSES_SHOWN
        )

    async def archive(self, revision: str) -> tuple[bytes, bytes]:
        """The archive of a revision, and its signature. Raises `UnknownRevisionError`."""
        return await self._thread.run(self._archive, revision)

    def _archive(self, revision: str) -> tuple[bytes, bytes]:
        archive = self._ledger.rulebase_archive(revision) if is_revision(revision) else None
        if archive is None:
            raise unknown_revision(revision)
        return archive, self._ledger.rulebase_signature(revision)

    async def loaded(self, revision: str) -> Rulebase:
        """The rulebase of a revision. Raises `UnknownRevisionError`, and `UnloadableRevisionError` for a
        draft, and for one that this release does not take any more."""
        if revision == self._live.id:
            return self._live.current.rulebase
        if revision not in self._loaded:
            archive, _ = await self.archive(revision)
            files = await unpacked(archive)
            try:
                rulebase = await in_turn(self._turn, lambda: self._loaded.get(revision) or load(files))
            except RulebaseError as error:
                raise _unloadable(revision, files, error) from error
            self._keep(rulebase)
        return self._loaded[revision]

    def kept(self, revision: str) -> Rulebase | None:
        """The rulebase of a revision if it was loaded a moment ago: whoever uploads or looks at one often
        activates it next."""
        return self._loaded.get(revision)

    def _keep(self, rulebase: Rulebase) -> None:
        self._loaded[rulebase.revision] = rulebase
        while len(self._loaded) > _KEPT:
            del self._loaded[next(iter(self._loaded))]

    async def _make_ready(self, rulebase: Rulebase) -> None:
        """Its activation takes a moment then."""
        self._keep(rulebase)
        with suppress(RulebaseError):  # not every engine takes every rulebase: activating it says so
            await in_turn(self._turn, lambda: self._make_engine(rulebase).close())

    # -- comparing ----------------------------------------------------------------------------------

    async def diff(self, before: str, after: str) -> tuple[Change, ...]:
        """What changes from one revision ("" for the one in full force) to another. Errors as of `find` and
        `loaded`."""
        one = await self.loaded((await self.find(before)).row.revision)
        other = await self.loaded(after)
        return await in_turn(self._turn, lambda: diff(one, other))

    async def check_change(self, caller: Caller, after: Rulebase, expected: str | None = None) -> None:
        """Raises `ForbiddenError` unless the caller may make this rulebase of the one in full force, or of
        the one that is expected to be."""
        if caller.branches is None:
            return
        current = expected if expected is not None else await self._thread.run(self._ledger.active_revision)
        if not current:
            raise ForbiddenError(
                f"{caller.name} may change campaigns of certain branches alone, and no rulebase is in force"
                " that has any: somebody who is for all branches has to bring the first one"
            )
        try:
            before = await self.loaded(current)
        except UnknownRevisionError as error:
            raise ConflictError(f"what is expected to be in full force is not: {error}") from error
        changes = await in_turn(self._turn, lambda: diff(before, after))
        check_scope(caller, changes, before, after)


async def unpacked(archive: bytes) -> dict[str, bytes]:
    """The files of an archive. Raises `RulebaseRefusedError` for one that is refused."""
    try:
        return await aside(lambda: from_archive(archive))
    except RulebaseError as error:
        raise RulebaseRefusedError(error.problems) from error


def unknown_revision(revision: str) -> UnknownRevisionError:
    """That nobody uploaded it, shown as far as it may be one."""
    return UnknownRevisionError(f"no rulebase with revision {mask(revision[:64])!r} was uploaded")


def _unloadable(revision: str, files: Files, error: RulebaseError) -> UnloadableRevisionError:
    unbound = unbound_names(files)
    if not unbound:
        return UnloadableRevisionError(
            f"this release no longer takes revision {revision[:12]}: {error}; mend its files, upload them",
            error.problems,
        )
    hint = "upload the work order again with it in scene_bindings"
    problems = tuple(
        Problem(Position("campaigns"), Code.UNKNOWN_NAME, f"the name {name!r} is bound to nothing", hint)
        for name in unbound
    )
    names = ", ".join(unbound)
    return UnloadableRevisionError(
        f"revision {revision[:12]} is a draft with unbound names: {names}; {hint}", problems
    )
