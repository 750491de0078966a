"""Arbitration: who comes first, and who holds which place."""

from __future__ import annotations

from collections.abc import Iterable

from opportune_rulebase.model import Campaign
from opportune_rulebase.policies import Mode, Policies

from opportune_service.core.situation import Contender


def ranked(contenders: Iterable[Contender]) -> list[Contender]:
    """Best first: by priority, then score, then campaign. Sets their ranks, from 1."""
    order = sorted(contenders, key=lambda c: (-c.campaign.priority, -c.score, c.campaign.name))
    for rank, contender in enumerate(order, start=1):
        contender.rank = rank
    return order


class Places:
    """The places that there are at one moment: slots for automatic and for manual decisions, and one in
    each exclusive group. Contenders ask in the order of their ranks."""

    def __init__(self, policies: Policies) -> None:
        self._free = {Mode.AUTOMATIC: policies.max_automatic, Mode.MANUAL: policies.max_prompts}
        self._last_taken_by = {Mode.AUTOMATIC: "", Mode.MANUAL: ""}
        self._groups: dict[str, str] = {}

    def take(self, campaign: Campaign) -> tuple[str, str] | None:
        """Take a place. If there is none: the campaign that it was lost to ("": there are no slots at all),
        and the exclusive group that settled it ("": it was the slots)."""
        if campaign.group:
            # The best of a group stands for it, whether or not there is a slot for it.
            best = self._groups.setdefault(campaign.group, campaign.name)
            if best != campaign.name:
                return best, campaign.group
        if self._free[campaign.mode] == 0:
            return self._last_taken_by[campaign.mode], ""
        self._free[campaign.mode] -= 1
        self._last_taken_by[campaign.mode] = campaign.name
        return None

    def give_back(self, campaign: Campaign) -> None:
        """The next may move up into the place that the campaign took last."""
        self._free[campaign.mode] += 1
        self._groups.pop(campaign.group, None)
