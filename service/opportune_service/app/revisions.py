"""Which revision is live, and how one is made ready from its archive."""

from __future__ import annotations

from opportune_rulebase import from_archive, load
from opportune_rulebase.model import Rulebase

from opportune_service.app.errors import NoRulebaseError, UnknownRevisionError
from opportune_service.app.ports import Ledger
from opportune_service.core.admit import mask
from opportune_service.core.revision import EngineFactory, Revision


class LiveRevision:
    """The reference that a hot reload swaps. Whoever takes up a batch reads it once.

    `generation`: another one once anything was activated or anybody erased: what was read of the record
    before need not hold any more."""

    def __init__(self) -> None:
        self._revision: Revision | None = None
        self.generation = 0

    @property
    def current(self) -> Revision:
        """Raises `NoRulebaseError` before the first activation."""
        if self._revision is None:
            raise NoRulebaseError("no rulebase is active; upload one and activate it")
        return self._revision

    @property
    def id(self) -> str:
        """The active revision, "" if there is none."""
        return self._revision.id if self._revision else ""

    def swap(self, revision: Revision) -> Revision | None:
        """Put `revision` in place; the one before is returned, to be retired after its last batch."""
        previous, self._revision = self._revision, revision
        return previous


def stored_rulebase(ledger: Ledger, revision: str) -> Rulebase:
    """Load an uploaded revision. Raises `UnknownRevisionError`, or `RulebaseError` if this version of
    Opportune no longer takes it."""
    archive = ledger.rulebase_archive(revision)
    if archive is None:
        raise UnknownRevisionError(f"no rulebase with revision {mask(revision[:64])!r} was uploaded")
    return load(from_archive(archive))


def stored_revision(ledger: Ledger, revision: str, make_engine: EngineFactory) -> Revision:
    """The same, ready to run."""
    rulebase = stored_rulebase(ledger, revision)
    return Revision(rulebase, make_engine(rulebase), ledger.coverage(), ledger.births())
