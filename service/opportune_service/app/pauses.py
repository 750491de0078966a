"""Pause and resume campaigns, without a new revision.

What is paused is read in the transaction of every commit and of every lease, so a pause is in force for
whatever is decided or handed out after the call.
"""

from __future__ import annotations

from collections.abc import Mapping

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

    async def pause(self, campaign: str, by: str, reason: str) -> Pause:
        """Pause a campaign of the active rulebase; the pause that is in force. One that is paused already
        stays as it was. Raises `NotFoundError`, `NoRulebaseError`, `StoreUnavailableError`."""
        self._check(campaign)
        return await self._thread.run(self._pause, Pause(campaign, self._clock.now_us(), by, reason))

    def _pause(self, pause: Pause) -> Pause:
        with self._ledger.transaction() as tx:
            if tx.pause(pause):
                return pause
            return next(each for each in self._ledger.pauses() if each.campaign == pause.campaign)

    async def resume(self, campaign: str, by: str, reason: str) -> None:
        """Let a campaign go on; one that is not paused stays as it is. Errors as of `pause`, but a campaign
        that is paused may be resumed though the rulebase has it no more."""
        if not await self._thread.run(self._resume, campaign, by, reason):
            self._check(campaign)

    def _resume(self, campaign: str, by: str, reason: str) -> bool:
        with self._ledger.transaction() as tx:
            return tx.resume(campaign, self._clock.now_us(), by, reason)

    async def paused(self) -> Mapping[str, Pause]:
        """Campaigns that are paused, by name."""
        return {each.campaign: each for each in await self._thread.run(self._ledger.pauses)}

    def _check(self, campaign: str) -> None:
        if campaign not in self._live.current.rulebase.campaigns:
            raise NotFoundError("the active rulebase has no campaign of this name")
