"""`opportune contacts`: everything that the company and a customer said to each other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import typer
from opportune_client import CrmClient, from_timestamp
from rich.console import Console
from rich.table import Table
from rich.text import Text

from opportune_service.cli.decisions import DELIVERY, OUTCOMES, instant_of, word
from opportune_service.cli.options import DEFAULT_TARGET, JsonOption, SubscriberArgument, TargetOption
from opportune_service.cli.remote import service
from opportune_service.cli.terminal import mask_number, mask_numbers, out, print_json

_DEADLINE_SECONDS = 10.0
_KINDS = {
    "services": ("channel", "business", "succeeded"),
    "inquiries": ("channel", "topic"),
    "complaints": (
        *("channel", "department", "type", "content"),
        *("handling", "level", "satisfaction"),
    ),
    "queries": ("channel", "topic"),
}


def contacts_command(
    subscriber: SubscriberArgument,
    last: Annotated[
        int, typer.Option("--last", metavar="N", min=1, max=1_000, help="The newest N of each kind.")
    ] = 20,
    target: TargetOption = DEFAULT_TARGET,
    json: JsonOption = False,
) -> None:
    """Show the contact view of a customer: marketing, services, inquiries, complaints and queries.

    Numbers are masked; with --json they are not.

    Example: opportune contacts 8613800000001 --last 5
    """
    with service(target) as channel:
        view = CrmClient(channel).get_contact_view(subscriber, page_size=last, timeout=_DEADLINE_SECONDS)
    if json:
        print_json(view_record(view))
    else:
        show_view(out(), view)


def view_record(view: Any) -> dict[str, object]:
    """A `ContactView` of the contract for programs."""
    return {
        "subscriber_id": view.subscriber_id,
        "customer_name": view.customer_name,
        "customer_manager": view.customer_manager,
        "counts": [
            {
                "channel": each.channel,
                "type": each.type,
                "business": each.business,
                "count": each.count,
                "last_at": instant_of(each, "last_at"),
            }
            for each in view.counts
        ],
        **{
            kind: [
                {"occurred_at": instant_of(each, "occurred_at")}
                | {name: _value(each, name) for name in names}
                for each in getattr(view, kind)
            ]
            for kind, names in _KINDS.items()
        },
        "marketing": [
            {
                "occurred_at": instant_of(each, "occurred_at"),
                "decision_id": each.decision_id,
                "origin": each.origin,
                "channel": each.channel,
                "campaign": each.campaign,
                "campaign_label": each.campaign_label,
                "product": each.product,
                "content": each.content,
                "delivery": word(DELIVERY, each.delivery_state),
                "outcomes": [
                    {
                        "outcome": word(OUTCOMES, outcome.kind),
                        "at": instant_of(outcome, "occurred_at"),
                        "detail": outcome.detail,
                    }
                    for outcome in each.outcomes
                ],
            }
            for each in view.marketing
        ],
    }


def show_view(console: Console, view: Any) -> None:
    """The view as tables, those that are empty left out; numbers are masked."""
    who = [mask_number(view.subscriber_id), view.customer_name]
    if view.customer_manager:
        who.append(f"looked after by {view.customer_manager}")
    console.print(Text(", ".join(part for part in who if part), style="bold"))
    if not view.counts and not view.marketing:
        console.print("No contacts.")
    _show(
        console,
        "marketing",
        ("when", "by", "channel", "what", "said", "answer"),
        map(_marketing, view.marketing),
    )
    for kind, names in _KINDS.items():
        rows = [
            [_when(each), *(_text(_value(each, name)) for name in names)] for each in getattr(view, kind)
        ]
        _show(console, kind, ("when", *names), rows)
    counts = (
        [each.type, each.channel, each.business, str(each.count), _when(each, "last_at")]
        for each in view.counts
    )
    _show(console, "all of them", ("type", "channel", "business", "count", "newest"), counts)


def _marketing(row: Any) -> list[str]:
    answers = [f"{word(OUTCOMES, outcome.kind)} {outcome.detail}".rstrip() for outcome in row.outcomes] or [
        word(DELIVERY, row.delivery_state)
    ]
    return [
        _when(row),
        row.origin or "us",
        row.channel,
        row.campaign_label or row.campaign or row.product,
        row.content,
        ", ".join(answers),
    ]


def _show(console: Console, title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    table = Table(*columns, box=None, title=title, title_justify="left", title_style="bold cyan")
    for row in rows:
        table.add_row(*(Text(mask_numbers(cell)) for cell in row))
    if table.row_count:
        console.print()
        console.print(table)


def _when(row: Any, name: str = "occurred_at") -> str:
    return f"{from_timestamp(getattr(row, name)).astimezone():%Y-%m-%d %H:%M}"


def _value(row: Any, name: str) -> object:
    """None for what was not recorded."""
    if name == "succeeded":
        return row.succeeded if row.HasField("succeeded") else None
    return getattr(row, name)


def _text(value: object) -> str:
    return (
        {None: "", True: "yes", False: "no"}[value]
        if value is None or value is True or value is False
        else str(value)
    )
