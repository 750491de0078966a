"""`opportune consent`: what a subscriber said about being contacted."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated

import typer
from opportune_client import CrmClient, from_timestamp

from opportune_service.cli.options import DEFAULT_TARGET, JsonOption, SubscriberArgument, TargetOption
from opportune_service.cli.remote import service
from opportune_service.cli.terminal import ExitCode, mask_numbers, out, print_json, stop

_DEADLINE_SECONDS = 10.0
_WORDS = ("nothing", "allow", "refuse")


class Said(StrEnum):
    """What can be said about a scope. NOTHING: the rulebase's default holds again."""

    ALLOW = "allow"
    REFUSE = "refuse"
    NOTHING = "nothing"


_ALLOWED = {Said.ALLOW: True, Said.REFUSE: False, Said.NOTHING: None}


def consent_command(
    subscriber: SubscriberArgument,
    scope: Annotated[
        str, typer.Argument(metavar="SCOPE", help="channel/NAME, category/NAME, or all (do not contact).")
    ],
    said: Annotated[Said, typer.Argument(help="What the subscriber said.", show_default=False)],
    as_of: Annotated[
        str,
        typer.Option(metavar="TIME", help="When it was said, as 2026-11-20T15:00:00+08:00. [default: now]"),
    ] = "",
    origin: Annotated[str, typer.Option(metavar="NAME", help="Where, for the audit.")] = "cli",
    target: TargetOption = DEFAULT_TARGET,
    json: JsonOption = False,
) -> None:
    """Record what a subscriber said about being contacted. The newest wins, and a refusal wins a tie.

    In force for every decision from now on, and for messages that wait. Ends with 1 if something newer
    stays in force.

    Example: opportune consent 8613800000001 channel/sms refuse
    """
    with service(target) as channel:
        answer = CrmClient(channel).set_consent(
            subscriber,
            scope,
            _ALLOWED[said],
            as_of=_instant(as_of) if as_of else None,
            origin=origin,
            timeout=_DEADLINE_SECONDS,
        )
    word = _WORDS[answer.consent.state]
    since = from_timestamp(answer.consent.as_of)
    if json:
        print_json({"scope": scope, "in_force": word, "as_of": since, "applied": answer.applied})
    if not answer.applied:
        stop(
            ExitCode.NO,
            f"Something newer stays in force for {scope}: {word}, of {since:%Y-%m-%d %H:%M:%S} UTC.",
        )
    if not json:
        out().print(f"in force for {scope}: {word}", markup=False)


def _instant(text: str) -> datetime:
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        stop(ExitCode.USAGE, f"{mask_numbers(text)!r} is no time; write it as 2026-11-20T15:00:00+08:00")
    if instant.tzinfo is None:
        stop(ExitCode.USAGE, f"{text!r} has no time zone; add it, as in 2026-11-20T15:00:00+08:00")
    return instant
