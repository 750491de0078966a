"""Pause and resume campaigns, without a new revision.

What is paused is read in the transaction of every commit and of every lease, so a pause is in force for
whatever is decided or handed out after the call.
"""

from __future__ import annotations

from collections.abc import Mapping

from opportune_rulebase.model import Campaign

from opportune_service.app.callers import Caller
from opportune_service.app.errors import NotFoundError
from opportune_service.app.ledger_thread import LedgerThread
from opportune_service.app.ports import Clock, Ledger
from opportune_service.app.records import Pause
from opportune_service.app.revisions import LiveRevision


class Pauses:
    """The campaigns that are paused."""

    def __init__(self, live: LiveRevision, ledger: Ledger, thread: LedgerThread, clock: Clock) -> None:
        self._live = live
        self._ledger = ledger
        self._thread = thread
        self._clock = clock

    async def pause(self, campaign: str, by: Caller, reason: str) -> Pause:
        """Pause a campaign of a revision in force; the pause that is in force. One that is paused already
        stays as it was. Raises `NotFoundError`, `NoRulebaseError`, `StoreUnavailableError`, and
        `ForbiddenError` for a campaign of other branches than the caller's."""
        self._check(campaign)
        self._check_scope(campaign, by)
        return await self._thread.run(self._pause, Pause(campaign, self._clock.now_us(), by.name, reason))

    def _pause(self, pause: Pause) -> Pause:
        with self._ledger.transaction() as tx:
            if tx.pause(pause):
                return pause
            return next(each for each in self._ledger.pauses() if each.campaign == pause.campaign)

    async def resume(self, campaign: str, by: Caller, reason: str) -> None:
        """Let a campaign go on; one that is not paused stays as it is. Errors as of `pause`, but a campaign
        that is paused may be resumed though no revision in force has it any more: by callers for all
        branches, for nobody knows whose it was."""
        self._check_scope(campaign, by)
        if not await self._thread.run(self._resume, campaign, by.name, reason):
            self._check(campaign)

    def _resume(self, campaign: str, by: str, reason: str) -> bool:
        with self._ledger.transaction() as tx:
            return tx.resume(campaign, self._clock.now_us(), by, reason)

    async def paused(self) -> Mapping[str, Pause]:
        """Campaigns that are paused, by name."""
        return {each.campaign: each for each in await self._thread.run(self._ledger.pauses)}

    def _check_scope(self, campaign: str, by: Caller) -> None:
        for branches in [each.branches for each in self._found(campaign)] or [frozenset[str]()]:
            by.check_branches(campaign, branches)

    def _check(self, campaign: str) -> None:
        if not self._found(campaign):
            raise NotFoundError("no revision in force has a campaign of this name")

    def _found(self, campaign: str) -> list[Campaign]:
        """The campaign as revisions in force have it."""
        rulebases = [each.rulebase for each in self._live.current.side_by_side]
        return [each.campaigns[campaign] for each in rulebases if campaign in each.campaigns]
