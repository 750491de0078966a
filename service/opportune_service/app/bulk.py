"""Prompts on bulk channels, where no person decides whether to show them: the service itself does.

It shows them when a client of the channel has room for them. They are decided again at that moment, like
any prompt, and those that are decided are then deliveries like those of automatic channels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from opportune_rulebase.policies import Mode

from opportune_service.app.ingest import Ingest
from opportune_service.app.ledger_thread import LedgerThread
from opportune_service.app.ports import Clock, Ledger, LiveState
from opportune_service.app.revisions import LiveRevision
from opportune_service.core.quiet import quiet_refusal
from opportune_service.core.verdict import OpenPrompt

_PAGE = 100
"""Prompts looked at in one go, or more if there is room for more."""

_AGAIN_AFTER_US = 3_600_000_000
"""A prompt that cannot be shown is decided again when what stood in its way is over, but not before that:
each time leaves a verdict."""
_AGAIN_AT_LAST_US = 24 * _AGAIN_AFTER_US
"""It is decided again after that in any case: more than time may clear the way."""


class BulkPrompts:
    """Shows open prompts on bulk channels."""

    def __init__(
        self,
        live: LiveRevision,
        states: LiveState,
        ledger: Ledger,
        thread: LedgerThread,
        clock: Clock,
        ingest: Ingest,
    ) -> None:
        self._live = live
        self._states = states
        self._ledger = ledger
        self._thread = thread
        self._clock = clock
        self._ingest = ingest
        # How far the prompts of a channel were looked at; from the beginning again after the last.
        self._after: defaultdict[str, tuple[int, str]] = defaultdict(lambda: (0, ""))
        self._not_before_us: dict[str, int] = {}

    async def show(self, channel: str, most: int) -> None:
        """Show up to `most` prompts, if the channel is a manual bulk channel. Raises `NoRulebaseError`,
        `StoreUnavailableError`."""
        declared = self._live.current.channels.get(channel)
        if most <= 0 or declared is None or not declared.bulk or declared.mode is not Mode.MANUAL:
            return
        now_us, page, generation = self._clock.now_us(), max(most, _PAGE), self._live.generation
        found = await self._thread.run(self._ledger.prompts_on, channel, now_us, self._after[channel], page)
        contexts = await self._states.contexts({prompt.subscriber_id for prompt in found})
        ripe = [
            prompt
            for prompt in found
            if self._ripe(prompt, contexts.get(prompt.subscriber_id, {}), channel, now_us)
        ][:most]
        last = ripe[-1] if len(ripe) == most else found[-1] if len(found) == page else None
        self._after[channel] = (last.decided_at_us, last.decision_id) if last else (0, "")
        if not ripe or self._live.generation != generation:
            return  # none is to be shown, or what was read need not hold any more: the next call reads anew
        receipt = await self._ingest.show(channel, ripe)
        self._not_before_us = {id_: at_us for id_, at_us in self._not_before_us.items() if at_us > now_us}
        decided = {verdict.key.subscriber_id for verdict in receipt.verdicts}
        for prompt in ripe:
            if prompt.subscriber_id in decided:  # another member may have been at work on the others
                self._not_before_us[prompt.decision_id] = now_us + _AGAIN_AFTER_US
        for verdict in receipt.verdicts:
            for decision in verdict.decisions:
                clear_us = max((each.clear_us for each in decision.checks if not each.passed), default=0)
                again_us = min(max(clear_us, now_us + _AGAIN_AFTER_US), now_us + _AGAIN_AT_LAST_US)
                self._not_before_us[decision.prompt_of] = again_us

    def _ripe(self, prompt: OpenPrompt, context: Mapping[str, object], channel: str, now_us: int) -> bool:
        revision = self._live.of(prompt.subscriber_id)
        campaign = revision.rulebase.campaigns.get(prompt.campaign)
        if campaign is None or prompt.trigger is None or not revision.shows(prompt.campaign, channel):
            return False
        if now_us < self._not_before_us.get(prompt.decision_id, 0):
            return False
        zone = revision.zone_of(context)
        return quiet_refusal(revision.rulebase, campaign, channel, now_us, zone) is None
