"""`opportune replay`: recorded events through the service's own code, in process, on a virtual clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from opportune_service.adapters.files.event_files import read_events
from opportune_service.adapters.files.faults import Faults
from opportune_service.adapters.files.mapped_files import read_mapped
from opportune_service.adapters.files.mapping import load_mapping
from opportune_service.app.context import ImportItem, SubscriberView, import_context, show_subscriber
from opportune_service.app.replay import ReplayReport, replay
from opportune_service.bootstrap import Application, application, run_process
from opportune_service.cli.context_files import read_context
from opportune_service.cli.options import JsonOption, RulebaseOption, rulebase_directory
from opportune_service.cli.replay_report import replay_record, show_replay
from opportune_service.cli.terminal import ExitCode, err, print_json, stop
from opportune_service.clocks import ManualClock
from opportune_service.core.events import Encoding, Event, ImportMode
from opportune_service.settings import EngineName, Settings

_BATCH = 1_000


@dataclass(frozen=True, slots=True)
class Recording:
    """What is replayed: events in time order, context by subscriber, and what could not be read."""

    events: Sequence[Event]
    context: Sequence[tuple[str, dict[str, object]]]
    faults: Faults


def replay_command(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Event files, or CSV with --mapping.")
    ],
    mapping: Annotated[
        Path | None, typer.Option(metavar="MAP", help="How the rows of a foreign CSV become events.")
    ] = None,
    rulebase: RulebaseOption = None,
    context: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Subscriber context as of the first event (.jsonl).")
    ] = None,
    known: Annotated[
        bool, typer.Option("--known", help="Take every subscriber as known, with nothing said of them.")
    ] = False,
    metrics: Annotated[
        int, typer.Option(metavar="N", min=0, help="Show the metrics of the N busiest subscribers.")
    ] = 0,
    engine: Annotated[EngineName, typer.Option(help="The matching engine.")] = EngineName.NETWORK,
    json: JsonOption = False,
) -> None:
    """Run recorded events through the rulebase and report what would have been decided.

    Each event is decided at its own time, by the same code that serves; nothing is kept and nobody is
    contacted. Automatic campaigns leave strangers alone, so give --context or --known.

    Example: opportune replay calls.csv --mapping vast2008.yaml --known
    """
    recording = read_recording(files, mapping, context)
    if not recording.events:
        stop(ExitCode.NO, "There are no events in these files.")
    settings = Settings(
        database="sqlite://",
        rulebase=rulebase_directory(rulebase),
        watch=False,
        engine=engine,
    )
    report, views, labels = run_process(_replay(settings, recording, known=known, metrics=metrics))
    if json:
        print_json(replay_record(report, recording.faults, views))
    else:
        show_replay(report, recording.faults, views, labels)


def read_recording(files: Sequence[Path], mapping: Path | None, context: Path | None) -> Recording:
    """Events of all files in order of time. Raises EventFileError for a file that cannot be used at all."""
    faults = Faults()
    events: list[Event] = []
    if mapping is None:
        for path in files:
            events.extend(read_events(path, faults))
    else:
        layout = load_mapping(mapping)
        for path in files:
            found = read_mapped(path, layout, faults)
            # Ids name the line; the same line of another file is another event.
            events.extend(
                found
                if len(files) == 1
                else (msgspec.structs.replace(event, id=f"{path.name}/{event.id}") for event in found)
            )
    events.sort(key=lambda event: event.occurred_at_us)
    people = list(read_context(context, faults)) if context else []
    return Recording(events, people, faults)


async def _replay(
    settings: Settings, recording: Recording, *, known: bool, metrics: int
) -> tuple[ReplayReport, list[SubscriberView], dict[str, str]]:
    clock = ManualClock(recording.events[0].occurred_at_us)
    async with application(settings, clock) as app:
        if known:
            await _import(
                app, [(s, {}) for s in {event.subscriber_id for event in recording.events}], clock
            )
        await _import(app, recording.context, clock)
        console = err()
        with Progress(
            TextColumn("replaying"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            console=console, transient=True, disable=not console.is_terminal,
        ) as bar:  # fmt: skip
            task = bar.add_task("", total=len(recording.events))
            report = await replay(
                app.ingest, "replay", recording.events, lambda done: bar.update(task, completed=done)
            )
        busiest = Counter(event.subscriber_id for event in recording.events).most_common(metrics)
        views = [
            await show_subscriber(app.live, app.states, subscriber_id, report.last_us)
            for subscriber_id, _ in busiest
            if subscriber_id in report.subscribers
        ]
        labels = {c.name: c.label for c in app.live.current.rulebase.campaigns.values()}
    return report, views, labels


async def _import(
    app: Application, people: Sequence[tuple[str, dict[str, object]]], clock: ManualClock
) -> None:
    """Context as of the first event. A record with an error ends the replay: it would change the answer."""
    for begin in range(0, len(people), _BATCH):
        items = [
            ImportItem(subscriber_id, msgspec.json.encode(attributes))
            for subscriber_id, attributes in people[begin : begin + _BATCH]
        ]
        receipt = await import_context(
            app.live, app.ingest, items, clock.now_us(), ImportMode.PATCH, Encoding.JSON
        )
        if receipt.rejections:
            first = receipt.rejections[0]
            stop(
                ExitCode.NO, f"The context does not fit: record {begin + first.index + 1}: {first.message}"
            )
