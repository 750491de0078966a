"""`opportune erase`: forget a subscriber."""

from __future__ import annotations

from typing import Annotated

import typer
from opportune_client import CrmClient

from opportune_service.cli.options import DEFAULT_TARGET, JsonOption, SubscriberArgument, TargetOption
from opportune_service.cli.remote import service
from opportune_service.cli.terminal import ExitCode, mask_number, out, print_json, stop


def erase_command(
    subscriber: SubscriberArgument,
    reason: Annotated[
        str,
        typer.Option(metavar="TEXT", help="Why, for the audit; without the number.", show_default=False),
    ],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    target: TargetOption = DEFAULT_TARGET,
    json: JsonOption = False,
) -> None:
    """Erase a subscriber: context, state, contacts, and the number wherever it stands. It cannot be undone.

    It reads the whole log, which may take minutes; the service works on meanwhile. Ends with 1 if you say
    no.

    Example: opportune erase 8613800000001 --reason "request 4711"
    """
    who = mask_number(subscriber)
    if not (yes or typer.confirm(f"Erase {who} for good?", err=True)):
        stop(ExitCode.NO, "Nothing was erased.")
    with service(target) as channel:
        answer = CrmClient(channel).delete_subscriber(subscriber, reason)
    if json:
        print_json({"existed": answer.existed})
    else:
        out().print(f"{who} is erased" if answer.existed else f"nothing was known of {who}", markup=False)
