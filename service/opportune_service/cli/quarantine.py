"""`opportune quarantine`: which events were rejected, and why."""

from __future__ import annotations

import base64
from itertools import islice
from typing import Annotated, Any

import typer
from opportune_client import OperatorClient, RejectionReason, from_timestamp
from rich.table import Table
from rich.text import Text

from opportune_service.cli.options import DEFAULT_TARGET, JsonOption, TargetOption
from opportune_service.cli.remote import service
from opportune_service.cli.terminal import ExitCode, mask_number, mask_numbers, out, print_json, stop

_DEADLINE_SECONDS = 10.0
_ENCODINGS = ("json", "json", "msgpack")
_REASONS = {each.name.lower(): each for each in RejectionReason if each}


def quarantine_command(
    last: Annotated[int, typer.Option("--last", metavar="N", min=1, help="The newest N.")] = 20,
    source: Annotated[str, typer.Option(metavar="NAME", help="Only of this source.")] = "",
    reason: Annotated[str, typer.Option(metavar="REASON", help=f"Only for: {', '.join(_REASONS)}.")] = "",
    target: TargetOption = DEFAULT_TARGET,
    json: JsonOption = False,
) -> None:
    """Show rejected events, newest first, and why each was rejected. The service keeps the newest 10,000.

    Numbers are masked; with --json, which writes one object a line with the event as it was sent, they
    are not.

    Example: opportune quarantine --source ggsn-1 --reason bad_attributes
    """
    if reason and reason not in _REASONS:
        stop(ExitCode.USAGE, f"There is no reason {reason!r}; use one of: {', '.join(_REASONS)}")
    with service(target) as channel:
        rejected = OperatorClient(channel).list_quarantine(
            source=source,
            reasons=[_REASONS[reason]] if reason else [],
            page_size=min(last, 1_000),
            timeout=_DEADLINE_SECONDS,
        )
        rows = list(islice(rejected, last))
    if json:
        for row in rows:
            print_json(quarantine_record(row))
    elif not rows:
        out().print("Nothing was rejected.")
    else:
        _show(rows)


def _show(rows: list[Any]) -> None:
    table = Table("received", "source", "why", "type", "subscriber", "event id", "what to mend", box=None)
    for row in rows:
        sent = row.event
        cells = (
            f"{from_timestamp(row.received_at).astimezone():%Y-%m-%d %H:%M:%S}",
            mask_numbers(row.source),
            _word(row.reason),
            mask_numbers(sent.type),
            mask_number(sent.subscriber_id),
            mask_numbers(sent.id),
            row.message,
        )
        table.add_row(*(Text(cell) for cell in cells))
    out().print(table)


def quarantine_record(row: Any) -> dict[str, object]:
    """A `QuarantinedEvent` of the contract for programs. Attributes that are not JSON are in base64."""
    sent = row.event
    encoding = _ENCODINGS[row.attributes_encoding] if row.attributes_encoding < len(_ENCODINGS) else ""
    binary = encoding != "json"
    return {
        "received_at": _instant(row.received_at),
        "source": row.source,
        "reason": _word(row.reason),
        "message": row.message,
        "event": {
            "id": sent.id,
            "subscriber_id": sent.subscriber_id,
            "type": sent.type,
            "occurred_at": _instant(sent.occurred_at),
            "cell_id": sent.cell_id,
            "imei": sent.imei,
            "attributes": base64.b64encode(sent.attributes).decode()
            if binary
            else sent.attributes.decode(errors="replace"),
            "encoding": encoding,
        },
    }


def _word(number: int) -> str:
    return (
        RejectionReason(number).name.lower()
        if number in RejectionReason._value2member_map_
        else str(number)
    )


def _instant(stamp: Any) -> str:
    """RFC 3339; an instant that no calendar holds, as its seconds since 1970."""
    try:
        return from_timestamp(stamp).isoformat().replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return str(stamp.seconds)
