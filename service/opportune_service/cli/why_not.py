"""`opportune why-not`: what stands in the way of a campaign."""

from __future__ import annotations

from typing import Annotated

import typer
from opportune_client import OperatorClient
from rich.text import Text

from opportune_service.cli.completions import CampaignArgument
from opportune_service.cli.decisions import show_trace, trace_record
from opportune_service.cli.options import DEFAULT_TARGET, JsonOption, TargetOption
from opportune_service.cli.remote import service
from opportune_service.cli.terminal import mask_numbers, out, print_json

_DEADLINE_SECONDS = 10.0


def why_not_command(
    subscriber: Annotated[
        str, typer.Argument(metavar="SUBSCRIBER", help="Digits of the number, no plus sign.")
    ],
    campaign: CampaignArgument,
    target: TargetOption = DEFAULT_TARGET,
    json: JsonOption = False,
) -> None:
    """Say why a campaign does not reach a subscriber: what would happen if its trigger came at this moment.

    Nothing is written, so it is safe in production. Attributes of the event are unknown, which shows where
    a condition reads them.

    Ends with 0, whatever the answer; with 1 if there is no such campaign.

    Example: opportune why-not 8613800000001 mms-bundle
    """
    with service(target) as channel:
        answer = OperatorClient(channel).why_not(subscriber, campaign, timeout=_DEADLINE_SECONDS)
    if json:
        print_json(
            {
                "would_decide": answer.would_decide,
                "summary": answer.summary,
                "revision": answer.revision,
                "decisions": [trace_record(decision) for decision in answer.decisions],
            }
        )
        return
    console = out()
    style = "bold green" if answer.would_decide else "bold yellow"
    console.print(Text(mask_numbers(answer.summary), style=style))
    for decision in answer.decisions:
        show_trace(console, decision)
