"""`opportune export`: contacts and what came of them, for the analysis system."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from opportune_client import CrmClient

from opportune_service.cli.decisions import DELIVERY, MODES, OUTCOMES, instant_of, word
from opportune_service.cli.options import DEFAULT_TARGET, TargetOption
from opportune_service.cli.remote import service
from opportune_service.cli.terminal import print_json


def export_command(
    after: Annotated[
        str, typer.Option("--after", metavar="CURSOR", help="Go on from there. [default: the beginning]")
    ] = "",
    campaign: Annotated[
        list[str] | None, typer.Option("--campaign", metavar="NAME", help="Only of these; may be repeated.")
    ] = None,
    target: TargetOption = DEFAULT_TARGET,
) -> None:
    """Write what happened to contacts as JSON lines, oldest first, up to now.

    The last line of each piece, and so the very last one, has a "cursor": give it to --after next time, or
    after an error, to go on from there. Numbers are not masked.

    Example: opportune export --after 4711 > contacts.jsonl
    """
    with service(target) as channel:
        for piece in CrmClient(channel).export_contacts(after, campaigns=campaign or ()):
            *others, last = [exported_record(each) for each in piece.contacts]
            for record in others:
                print_json(record)
            print_json(last | {"cursor": piece.cursor})


def exported_record(entry: Any) -> dict[str, object]:
    """An `ExportedContact` of the contract for programs."""
    record: dict[str, object] = {
        "decision_id": entry.decision_id,
        "origin": entry.origin,
        "subscriber_id": entry.subscriber_id,
        "campaign": entry.campaign,
        "product": entry.product,
        "category": entry.category,
        "channel": entry.channel,
        "mode": word(MODES, entry.mode),
        "control": entry.control,
        "decided_at": instant_of(entry, "decided_at"),
        "delivery": word(DELIVERY, entry.delivery_state),
    }
    if entry.HasField("outcome"):
        record["outcome"] = word(OUTCOMES, entry.outcome.kind)
        record["outcome_at"] = instant_of(entry.outcome, "occurred_at")
    return record
