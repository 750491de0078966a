"""`opportune rehearse`: what another revision would have decided."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from opportune_client import OperatorClient, from_timestamp
from opportune_rulebase import Rulebase, load, to_archive
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from opportune_service.adapters.files.rulebase_dir import read_rulebase
from opportune_service.adapters.grpc.rehearsals import report_message
from opportune_service.app.log import log_row
from opportune_service.app.records import LogKind
from opportune_service.app.rehearsal import Input, Opening, Recorded, Report
from opportune_service.app.rehearsal import Progress as Reached
from opportune_service.bootstrap import run_process
from opportune_service.cli.completions import revisions
from opportune_service.cli.options import DEFAULT_TARGET, JsonOption, TargetOption
from opportune_service.cli.rehearsal_view import report_markdown, report_record, show_report
from opportune_service.cli.remote import service
from opportune_service.cli.replay import Recording, read_recording
from opportune_service.cli.revisions import whole_revision
from opportune_service.cli.rulebase_files import write_text
from opportune_service.cli.terminal import ExitCode, err, mask_numbers, out, print_json, stop
from opportune_service.core.admit import Admission, AttributesError
from opportune_service.core.events import ContextRecord, Encoding, Event, ImportMode
from opportune_service.rehearsing import rehearse_in
from opportune_service.settings import EngineName

_BATCH = 1_000
_SOURCE = "file"

_Time = "2026-11-01, or with a time and zone"


def rehearse_command(
    revision: Annotated[
        str, typer.Argument(metavar="[REVISION]", autocompletion=revisions, help="A stored revision.")
    ] = "",
    since: Annotated[
        str,
        typer.Option(
            metavar="TIME", help=f"Decide from then on: {_Time}. [default: a day ago; a file: all]"
        ),
    ] = "",
    until: Annotated[str, typer.Option(metavar="TIME", help="Exclusive. [default: the newest event]")] = "",
    against: Annotated[
        str,
        typer.Option(metavar="REVISION|DIR", help="Compare with it. [default: the revision in full force]"),
    ] = "",
    folded_since: Annotated[
        str,
        typer.Option(
            metavar="TIME", help="Fold earlier events from then on only. [default: as far as anybody looks]"
        ),
    ] = "",
    samples: Annotated[
        int,
        typer.Option(metavar="N", min=0, max=1_000, help="The most samples of each kind of difference."),
    ] = 10,
    test: Annotated[
        list[str] | None,
        typer.Option(metavar="NUMBER", help="Send real test messages to it; may be given 20 times."),
    ] = None,
    tests: Annotated[
        int, typer.Option(metavar="N", min=1, max=10, help="Test messages of each campaign to a number.")
    ] = 1,
    events: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Rehearse a directory over these events, without a service."),
    ] = None,
    rulebase: Annotated[
        Path | None,
        typer.Option(metavar="DIR", exists=True, file_okay=False, help="With --events: what to rehearse."),
    ] = None,
    mapping: Annotated[
        Path | None, typer.Option(metavar="MAP", help="With --events: how rows of a foreign CSV are read.")
    ] = None,
    context: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With --events: subscriber context (.jsonl).")
    ] = None,
    known: Annotated[
        bool, typer.Option("--known", help="With --events: take every subscriber as known.")
    ] = False,
    engine: Annotated[EngineName, typer.Option(help="The matching engine.")] = EngineName.NETWORK,
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE.md", dir_okay=False, help="Also write the report as Markdown."),
    ] = None,
    target: TargetOption = DEFAULT_TARGET,
    json: JsonOption = False,
) -> None:
    """Run a revision over recorded events and say what it would have decided, and what another decides.

    Real policies on a private copy of the state, on a virtual clock; nobody is contacted but the numbers
    of --test. Numbers are masked; with --json they are not. Ctrl-C ends it.

    Ends with 1 if there is nothing to rehearse, or it fails.

    Example: opportune rehearse 3f6c0d1b --since 2026-11-20 --report rehearsal.md
    """
    times = [_instant(text, name) for text, name in ((since, "since"), (until, "until"))]
    folded = _instant(folded_since, "folded-since")
    if events:
        if revision or rulebase is None or not against:
            stop(ExitCode.USAGE, "With --events give --rulebase DIR and --against DIR, and no REVISION.")
        if test:
            stop(ExitCode.USAGE, "Only a service makes test sends: --test does not go with --events.")
        recording = read_recording(events, mapping, context)
        candidate, baseline = read_rulebase(rulebase), read_rulebase(Path(against))
        opening = _opening(recording, times, engine, samples, (candidate, baseline))
        rulebases = [load(candidate), load(baseline)]
        found = run_process(_rehearse(opening, recording, rulebases, known=known))
    else:
        if not revision or rulebase is not None:
            stop(ExitCode.USAGE, "Give a REVISION that the service has, or --events with --rulebase.")
        with service(target) as channel:
            client = OperatorClient(channel)
            said = client.rehearse(
                whole_revision(client, revision),
                since=times[0] or datetime.now(UTC) - timedelta(days=1),
                until=times[1],
                folded_since=folded,
                baseline_revision=whole_revision(client, against) if against else "",
                sample_size=samples,
                test_subscriber_ids=test or (),
                test_sends_per_campaign=tests,
            )
            found = _followed(said, times[0], times[1])
    if report is not None:
        write_text(report, report_markdown(found))
    if json:
        print_json(report_record(found))
    else:
        show_report(out(), found)


def _instant(text: str, option: str) -> datetime | None:
    if not text:
        return None
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        stop(
            ExitCode.USAGE,
            f"--{option}: {mask_numbers(text)!r} is no time; write 2026-11-01 or 2026-11-01T08:00+08:00",
        )
    return instant if instant.tzinfo else instant.astimezone()


@contextmanager
def _bar() -> Iterator[Callable[[str, float], None]]:
    """Shows what is done, and how much of it."""
    console = err()
    with Progress(
        TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn(),
        console=console, transient=True, disable=not console.is_terminal,
    ) as bar:  # fmt: skip
        task = bar.add_task("rehearsing", total=1.0)
        yield lambda what, share: bar.update(task, description=what, completed=share)


# -- by a service -----------------------------------------------------------------------------------


def _followed(said: Iterator[Any], since: datetime | None, until: datetime | None) -> Any:
    """The report, which comes last."""
    begin = since or datetime.now(UTC) - timedelta(days=1)
    end = until or datetime.now(UTC)
    report = None
    with _bar() as show:
        for message in said:
            if message.WhichOneof("message") == "report":
                report = message.report
                continue
            progress = message.progress
            if not progress.HasField("virtual_now"):
                show("reading what was before", 0.0)
                continue
            now = from_timestamp(progress.virtual_now)
            share = (now - begin) / (end - begin)
            what = "folding earlier events" if now < begin else f"rehearsing {now.astimezone():%m-%d %H:%M}"
            show(what, min(max(share, 0.0), 1.0))
    if report is None:
        stop(ExitCode.UNAVAILABLE, "The service ended the rehearsal without a report; try again.")
    return report


# -- of files ---------------------------------------------------------------------------------------


def _opening(
    recording: Recording,
    times: Sequence[datetime | None],
    engine: EngineName,
    samples: int,
    rulebases: tuple[dict[str, bytes], dict[str, bytes]],
) -> Opening:
    if not recording.events:
        stop(ExitCode.NO, "There are no events in these files.")
    first_us, last_us = recording.events[0].occurred_at_us, recording.events[-1].occurred_at_us
    since_us, until_us = (_microseconds(each) if each else 0 for each in times)
    warnings = []
    if recording.faults.count:
        warnings.append(f"{recording.faults.count:,} lines of the files could not be read")
    return Opening(
        candidate=to_archive(rulebases[0]),
        baseline=to_archive(rulebases[1]),
        engine=engine.value,
        since_us=max(since_us, first_us),
        until_us=min(until_us or last_us, last_us),
        covered_us=first_us,
        sample_size=samples,
        total=len(recording.events),
        own_time=True,
        warnings=tuple(warnings),
    )


async def _rehearse(
    opening: Opening, recording: Recording, rulebases: Sequence[Rulebase], *, known: bool
) -> Any:
    report = None
    with _bar() as show, tempfile.TemporaryDirectory(prefix="opportune-rehearsal-") as private:
        inputs = _inputs(opening, recording, rulebases[0], known=known)
        async for said in rehearse_in(opening, inputs, Path(private)):
            if isinstance(said, Reached):
                show("rehearsing", said.events / opening.total)
            elif isinstance(said, Report):
                report = report_message(said, {each.revision: each for each in rulebases})
    return report


async def _inputs(
    opening: Opening, recording: Recording, rulebase: Rulebase, *, known: bool
) -> AsyncIterator[Input]:
    as_of_us = opening.covered_us - 1
    people = dict(recording.context)
    if known:
        people = {event.subscriber_id: {} for event in recording.events} | people
    admission = Admission(rulebase.vocabulary, rulebase.metrics)
    records: list[ContextRecord] = []
    for number, (subscriber_id, attributes) in enumerate(people.items(), 1):
        try:
            admitted = admission.admit_context(msgspec.json.encode(attributes), Encoding.JSON)
        except AttributesError as error:
            stop(ExitCode.NO, f"The context does not fit: record {number}: {error}")
        records.append(ContextRecord(subscriber_id, as_of_us, ImportMode.PATCH, admitted))
    for start in range(0, len(records), _BATCH):
        yield _row(LogKind.CONTEXT, as_of_us, records[start : start + _BATCH])
    events = [event for event in recording.events if event.occurred_at_us <= opening.until_us]
    earlier = sum(event.occurred_at_us < opening.since_us for event in events)
    for part in (events[:earlier], events[earlier:]):
        for start in range(0, len(part), _BATCH):
            yield _row(LogKind.EVENTS, 0, part[start : start + _BATCH])


def _row(kind: LogKind, now_us: int, items: Sequence[Event] | Sequence[ContextRecord]) -> Recorded:
    return Recorded(kind, _SOURCE, now_us, log_row(0, kind, _SOURCE, now_us, "", items).payload)


def _microseconds(instant: datetime) -> int:
    return (instant - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
