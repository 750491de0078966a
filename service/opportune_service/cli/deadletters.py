"""`opportune deadletters`: which messages could not be sent, and have them tried again."""

from __future__ import annotations

from datetime import timedelta
from itertools import islice
from typing import Annotated, Any

import typer
from opportune_client import OperatorClient, from_timestamp
from rich.table import Table
from rich.text import Text

from opportune_service.cli.options import DEFAULT_TARGET, JsonOption, TargetOption
from opportune_service.cli.remote import service
from opportune_service.cli.terminal import ExitCode, mask_number, mask_numbers, out, print_json, stop

_DEADLINE_SECONDS = 10.0
_REDRIVE_SECONDS = 60.0


def deadletters_command(
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="[ID]...", help="Redrive these.", show_default=False)
    ] = None,
    channel: Annotated[str, typer.Option(metavar="NAME", help="Only of this channel.")] = "",
    campaign: Annotated[str, typer.Option(metavar="NAME", help="Only of this campaign.")] = "",
    last: Annotated[int, typer.Option("--last", metavar="N", min=1, help="The newest N.")] = 20,
    redrive: Annotated[bool, typer.Option("--redrive", help="Try them again.")] = False,
    hours: Annotated[
        float | None,
        typer.Option(
            metavar="HOURS",
            min=0.01,
            help="With --redrive: how long the offers last from now. [default: as long as they did]",
            show_default=False,
        ),
    ] = None,
    comment: Annotated[str, typer.Option(metavar="TEXT", help="With --redrive: why.")] = "",
    target: TargetOption = DEFAULT_TARGET,
    json: JsonOption = False,
) -> None:
    """Show messages that could not be sent in five attempts, or have them tried again.

    Numbers are masked; with --json, which writes one object a line, they are not.

    Example: opportune deadletters --channel sms --redrive --hours 4
    """
    if not redrive:
        if ids or hours is not None or comment:
            stop(ExitCode.USAGE, "Ids, --hours and --comment are for --redrive: add it to try them again.")
        _list(target, channel, campaign, last, json=json)
        return
    if bool(ids) == bool(channel or campaign):
        stop(ExitCode.USAGE, "Say what to redrive: some ids, or a --channel or --campaign.")
    with service(target) as connection:
        answer = OperatorClient(connection).redrive(
            ids or (),
            channel=channel,
            campaign=campaign,
            expires_in=None if hours is None else timedelta(hours=hours),
            comment=comment,
            timeout=_REDRIVE_SECONDS,
        )
    skipped = list(answer.skipped_delivery_ids)
    if json:
        print_json({"redriven": answer.redriven_count, "skipped": skipped})
    else:
        out().print(f"{answer.redriven_count} will be tried again.")
    if skipped:
        stop(
            ExitCode.NO,
            f"{len(skipped)} left alone: not dead, out of time (see --hours), or not allowed now by a cap, "
            "quota or capacity.",
        )


def _list(target: str, channel: str, campaign: str, last: int, *, json: bool) -> None:
    with service(target) as connection:
        letters = OperatorClient(connection).list_dead_letters(
            channel=channel, campaign=campaign, page_size=min(last, 1_000), timeout=_DEADLINE_SECONDS
        )
        rows = list(islice(letters, last))
    if json:
        for row in rows:
            print_json(dead_letter_record(row))
    elif not rows:
        out().print("No message is given up.")
    else:
        _show(rows)


def _show(rows: list[Any]) -> None:
    table = Table(
        "given up", "channel", "campaign", "subscriber", "tries", "why", "lasts until", "id", box=None
    )
    for row in rows:
        cells = (
            f"{from_timestamp(row.dead_at).astimezone():%Y-%m-%d %H:%M:%S}",
            row.channel,
            row.campaign,
            mask_number(row.subscriber_id),
            str(row.attempt_count),
            mask_numbers(row.last_detail),
            f"{from_timestamp(row.expires_at).astimezone():%Y-%m-%d %H:%M}",
            row.delivery_id,
        )
        table.add_row(*(Text(cell) for cell in cells))
    out().print(table)


def dead_letter_record(row: Any) -> dict[str, object]:
    """A `DeadLetter` of the contract for programs."""
    return {
        "delivery_id": row.delivery_id,
        "subscriber_id": row.subscriber_id,
        "channel": row.channel,
        "campaign": row.campaign,
        "content": row.content,
        "attempts": row.attempt_count,
        "detail": row.last_detail,
        "dead_at": row.dead_at.ToJsonString(),
        "expires_at": row.expires_at.ToJsonString(),
    }
