"""Control groups: who is left alone so that the effect of contacts can be told."""

from __future__ import annotations

from opportune_rulebase.model import Campaign, Rulebase
from opportune_rulebase.policies import SHARES

from opportune_service.core.stable import number_below


def control_group(rulebase: Rulebase, campaign: Campaign, subscriber_id: str) -> str:
    """The control group that holds the campaign back from the subscriber: ``global``, ``campaign/NAME``, or
    "" for none. Stable for the same salt; the groups are drawn independently of each other."""
    if campaign.control_exempt:
        return ""
    control = rulebase.policies.control
    salt = control.salt or rulebase.name
    groups = {"global": control.share, f"campaign/{campaign.name}": campaign.control_share}
    for purpose, share in groups.items():
        if share and number_below(SHARES, b"opp-control", salt, purpose, subscriber_id) < share:
            return purpose
    return ""
