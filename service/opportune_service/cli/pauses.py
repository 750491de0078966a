"""`opportune pause` and `opportune resume`."""

from __future__ import annotations

from typing import Annotated

import typer
from opportune_client import OperatorClient

from opportune_service.cli.completions import CampaignArgument
from opportune_service.cli.options import DEFAULT_TARGET, JsonOption, TargetOption
from opportune_service.cli.remote import service
from opportune_service.cli.terminal import out, print_json

_DEADLINE_SECONDS = 10.0


def pause_command(
    campaign: CampaignArgument,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why, for the audit.", show_default=False)],
    target: TargetOption = DEFAULT_TARGET,
    json: JsonOption = False,
) -> None:
    """Pause a campaign: nothing is decided for it any more, and messages that wait are not sent.

    Ends with 1 if the active rulebase has no such campaign.

    Example: opportune pause mms-bundle --reason "wrong price in the text"
    """
    with service(target) as channel:
        status = OperatorClient(channel).pause(campaign, reason, timeout=_DEADLINE_SECONDS)
    if json:
        print_json(
            {"campaign": campaign, "paused": True, "by": status.paused_by, "reason": status.pause_reason}
        )
    else:
        out().print(f"{campaign} is paused, by {status.paused_by}: {status.pause_reason}", markup=False)


def resume_command(
    campaign: CampaignArgument,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why, for the audit.")] = "",
    target: TargetOption = DEFAULT_TARGET,
    json: JsonOption = False,
) -> None:
    """Let a paused campaign go on.

    Ends with 1 if there is no such campaign.

    Example: opportune resume mms-bundle --reason "the text is right now"
    """
    with service(target) as channel:
        OperatorClient(channel).resume(campaign, reason, timeout=_DEADLINE_SECONDS)
    if json:
        print_json({"campaign": campaign, "paused": False})
    else:
        out().print(f"{campaign} goes on", markup=False)
