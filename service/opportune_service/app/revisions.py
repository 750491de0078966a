"""Which revisions are live, and how they are made ready from their archives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from opportune_rulebase import from_archive, load
from opportune_rulebase.model import Rulebase

from opportune_service.app.errors import NoRulebaseError, UnknownRevisionError
from opportune_service.app.ports import Ledger
from opportune_service.app.records import ActivationMode, InForce
from opportune_service.core.admit import mask
from opportune_service.core.revision import Beside, EngineFactory, Revision, stamped


class LiveRevision:
    """The reference that a hot reload swaps. Whoever takes up a batch reads it once.

    `generation`: another one once anything was activated or anybody erased: what was read of the record
    before need not hold any more."""

    def __init__(self) -> None:
        self._revision: Revision | None = None
        self.generation = 0

    @property
    def current(self) -> Revision:
        """The one in full force, with those that run beside it. Raises `NoRulebaseError` before the first
        activation."""
        if self._revision is None:
            raise NoRulebaseError("no rulebase is active; upload one and activate it")
        return self._revision

    def of(self, subscriber_id: str) -> Revision:
        """The one that decides for a subscriber. Errors as of `current`."""
        return self.current.of(subscriber_id)

    @property
    def id(self) -> str:
        """The revision in full force, "" if there is none."""
        return self._revision.id if self._revision else ""

    def swap(self, revision: Revision) -> Sequence[Revision]:
        """Put `revision` and those beside it in place; those that take part no more are returned, to be
        retired after their last batch."""
        previous, self._revision = self._revision, revision
        if previous is None:
            return ()
        stays = {id(each.engine) for each in revision.side_by_side}
        return [each for each in previous.side_by_side if id(each.engine) not in stays]


class Joining(NamedTuple):
    """A revision that is to run beside another, and for what share of subscribers it decides; see
    `Beside`."""

    rulebase: Rulebase
    share: int | None


def joining(rulebases: Mapping[str, Rulebase], in_force: Sequence[InForce]) -> list[Joining]:
    """Those of what is in force that run beside the first."""
    return [
        Joining(rulebases[each.revision], _share(each))
        for each in in_force
        if each.mode is not ActivationMode.FULL
    ]


def alongside(full: Revision, others: Sequence[Joining], make_engine: EngineFactory) -> Revision:
    """The revision with these beside it, each with an engine of its own. `full` is not changed, but is not
    to be used any more once what is returned is. Takes its time. Raises `RulebaseError`."""
    beside: list[Beside] = []
    folded = set(full.own_keys)
    try:
        for rulebase, share in others:
            revision = Revision(rulebase, make_engine(rulebase), full.coverage, full.births, folded)
            beside.append(Beside(revision, share))
            folded |= revision.own_keys
    except BaseException:
        for each in beside:
            each.revision.close()
        raise
    return full.alongside(beside)


class Made(NamedTuple):
    """What was in force when it was made ready. `full`: that of before, whose engine it goes on with; None
    if it has one of its own."""

    revision: Revision
    in_force: Sequence[InForce]
    full: Revision | None

    def fits(self, live: LiveRevision, in_force: Sequence[InForce]) -> bool:
        """Whether it may be swapped in still."""
        stays = self.full is None or (bool(live.id) and live.current is self.full)
        return stays and _takes_part(self.in_force) == _takes_part(in_force)

    def close(self) -> None:
        """It is not swapped in."""
        for each in self.revision.side_by_side:
            if self.full is None or each.engine is not self.full.engine:
                each.close()


def make(
    archives: Mapping[str, bytes],
    in_force: Sequence[InForce],
    full: Revision | None,
    make_engine: EngineFactory,
) -> Made:
    """What is in force, the one in full force first, ready to be swapped in. `full`: that one, if it is
    live already. `archives` by revision. Takes its time. Raises `RulebaseError`."""
    loaded = {
        revision: load(from_archive(archive))
        for revision, archive in archives.items()
        if full is None or revision != full.id
    }
    if full is not None:
        loaded[full.id] = full.rulebase
        return Made(alongside(full, joining(loaded, in_force), make_engine), in_force, full)
    first = loaded[in_force[0].revision]
    alone = Revision(first, make_engine(first), {})
    return Made(_joined(alone, joining(loaded, in_force), make_engine), in_force, None)


def runs(live: LiveRevision, in_force: Sequence[InForce]) -> bool:
    """Whether what is live is what is in force."""
    if not live.id:
        return not in_force
    beside = [(each.revision.id, each.share) for each in live.current.beside]
    return [(live.id, 0), *beside] == _takes_part(in_force)


def _takes_part(in_force: Sequence[InForce]) -> list[tuple[str, int | None]]:
    return [(each.revision, _share(each)) for each in in_force]


def _share(each: InForce) -> int | None:
    return None if each.mode is ActivationMode.SHADOW else each.share


def stored_rulebase(ledger: Ledger, revision: str) -> Rulebase:
    """Load an uploaded revision. Raises `UnknownRevisionError`, or `RulebaseError` if this version of
    Opportune no longer takes it."""
    return load(from_archive(stored_archive(ledger, revision)))


def stored_archive(ledger: Ledger, revision: str) -> bytes:
    """The archive of an uploaded revision. Raises `UnknownRevisionError`."""
    archive = ledger.rulebase_archive(revision)
    if archive is None:
        raise UnknownRevisionError(f"no rulebase with revision {mask(revision[:64])!r} was uploaded")
    return archive


def stored_revision(ledger: Ledger, stamp: str, make_engine: EngineFactory) -> Revision:
    """The same, ready to fold what was folded under a stamp (`Revision.stamp`), also of one revision
    alone. Those beside the first decide for nobody."""
    first, *others = (stored_rulebase(ledger, each) for each in stamped(stamp))
    full = Revision(first, make_engine(first), ledger.coverage(), ledger.births())
    return _joined(full, [Joining(each, 0) for each in others], make_engine)


def stored_in_force(ledger: Ledger, make_engine: EngineFactory) -> Revision | None:
    """What is in force, ready to run; None if nothing is. Errors as of `stored_rulebase`."""
    in_force = ledger.in_force()
    if not in_force:
        return None
    archives = {each.revision: stored_archive(ledger, each.revision) for each in in_force}
    revision = make(archives, in_force, None, make_engine).revision
    revision.live_since(ledger.coverage(), ledger.births())
    return revision


def _joined(full: Revision, others: Sequence[Joining], make_engine: EngineFactory) -> Revision:
    if not others:
        return full
    try:
        return alongside(full, others, make_engine)
    except BaseException:
        full.close()
        raise
