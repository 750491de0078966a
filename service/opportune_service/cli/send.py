"""`opportune send`: a file of events to a running service."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opportune_client import (
    CollectorCounters,
    CrmClient,
    Event,
    EventCollector,
    ImportMode,
    Rejected,
    SubscriberRecord,
)
from opportune_client.errors import translated
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from opportune_service.adapters.files.event_files import read_events
from opportune_service.adapters.files.faults import Faults
from opportune_service.cli.context_files import read_context
from opportune_service.cli.options import DEFAULT_TARGET, JsonOption, TargetOption
from opportune_service.cli.remote import service
from opportune_service.cli.terminal import ExitCode, err, out, print_json
from opportune_service.core.events import Event as FileEvent

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FRESH_US = 60_000_000
"""Rebased events are at most this old: the moments of most campaigns last longer."""

_SHOWN = 3
_ANSWER_SECONDS = 5.0


class Rebase(StrEnum):
    NOW = "now"


def send_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Events: .csv or .jsonl, plain or .gz.")],
    rebase: Annotated[
        Rebase | None,
        typer.Option(
            help="now: shift times so that the last event happens now. Gaps are kept; a file longer than "
            "a minute is squeezed into the last one. The events are new ones, each time."
        ),
    ] = None,
    source: Annotated[str, typer.Option(help="Names the collector. Ids are unique within it.")] = "file",
    context: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Import this subscriber context first, as of now (.jsonl)."),
    ] = None,
    rate: Annotated[
        float | None, typer.Option(metavar="N", min=0.1, help="At most N events a second.")
    ] = None,
    target: TargetOption = DEFAULT_TARGET,
    json: JsonOption = False,
) -> None:
    """Send a file of events and wait until every one is durable.

    Automatic campaigns leave strangers alone, so import the context of the subscribers once. Ends with 1
    if events were rejected or lines could not be read, 3 if the service does not answer.

    Example: opportune send day.jsonl --context people.jsonl --rebase now
    """
    faults = Faults()
    events = sorted(read_events(file, faults), key=lambda event: event.occurred_at_us)
    rejections: list[Rejected] = []
    console = err()
    with (
        Progress(
            TextColumn("sending"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            console=console, transient=True, disable=not console.is_terminal,
        ) as bar,
        service(target) as channel,
    ):  # fmt: skip
        # Nothing is sent before the service is known to be there: a collector would wait for it.
        _require_service(channel)
        if context is not None:
            people = [SubscriberRecord(number, given) for number, given in read_context(context, faults)]
            CrmClient(channel).import_subscribers(
                people, datetime.now(UTC), ImportMode.PATCH, origin=source
            )
        task = bar.add_task("", total=len(events))
        with EventCollector(channel, source, on_rejection=rejections.append) as collector:
            for event in _paced(_rebased(events) if rebase else map(outgoing, events), rate):
                collector.send(event)
                bar.update(task, completed=collector.counters.acked)
            collector.flush()
        counters = collector.counters
    if json:
        print_json(_record(counters, rejections, faults))
    else:
        _show(counters, rejections, faults)
    raise typer.Exit(ExitCode.NO if rejections or faults.count else ExitCode.OK)


def _require_service(channel: Any) -> None:
    """Raises `UnavailableError` when nobody answers."""
    with translated():
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=_ANSWER_SECONDS)


def outgoing(event: FileEvent) -> Event:
    """The event as the client sends it."""
    return Event(
        id=event.id,
        subscriber_id=event.subscriber_id,
        type=event.type,
        occurred_at=_EPOCH + timedelta(microseconds=event.occurred_at_us),
        attributes=msgspec.json.decode(event.attributes, type=dict[str, Any]) if event.attributes else {},
        cell_id=event.cell_id,
        imei=event.imei,
    )


def _rebased(events: list[FileEvent]) -> Iterator[Event]:
    """The events as if the last happened when it is sent, in their order, none older than a minute.

    Each has a new id, so that the file can be sent again as new events.
    """
    if not events:
        return
    begun = time.time_ns()
    last_us = events[-1].occurred_at_us
    squeeze = min(1.0, _FRESH_US / max(1, last_us - events[0].occurred_at_us))
    for event in events:
        at_us = time.time_ns() // 1_000 - int((last_us - event.occurred_at_us) * squeeze)
        yield outgoing(msgspec.structs.replace(event, id=f"{event.id}@{begun}", occurred_at_us=at_us))


def _paced(events: Iterable[Event], rate: float | None) -> Iterator[Event]:
    """The same, at most so many a second."""
    begin = time.monotonic()
    for number, event in enumerate(events):
        if rate is not None and (wait := begin + number / rate - time.monotonic()) > 0:
            time.sleep(wait)
        yield event


def _record(counters: CollectorCounters, rejections: list[Rejected], faults: Faults) -> dict[str, object]:
    return {
        "sent": counters.queued,
        "accepted": counters.accepted,
        "duplicates": counters.duplicates,
        "rejected": dict(Counter(rejected.reason.name.lower() for rejected in rejections).most_common()),
        "ignored_attributes": counters.ignored_attributes,
        "unreadable": faults.count,
    }


def _show(counters: CollectorCounters, rejections: list[Rejected], faults: Faults) -> None:
    console = out()
    console.print(
        f"{counters.queued} events sent: {counters.accepted} accepted, {counters.duplicates} known "
        f"already, {len(rejections)} rejected; {faults.count} lines could not be read",
        style="bold",
    )
    by_reason: dict[str, list[Rejected]] = {}
    for rejected in rejections:
        by_reason.setdefault(rejected.reason.name.lower(), []).append(rejected)
    for reason, several in sorted(by_reason.items(), key=lambda item: -len(item[1])):
        console.print(Text(f"  {reason}: {len(several)}", style="yellow"))
        for message, count in Counter(rejected.message for rejected in several).most_common(_SHOWN):
            console.print(Text(f"    {count} x {message}", style="dim"))
    for fault in faults.first[:_SHOWN]:
        console.print(Text(f"  {fault}", style="yellow"))
