"""`opportune simulate`: write the traffic of a made-up province to files."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated
from zoneinfo import ZoneInfo

import typer
from opportune_rulebase import load
from opportune_rulebase.model import Rulebase

from opportune_service.adapters.files.event_files import parse_instant, write_events
from opportune_service.adapters.files.rulebase_dir import read_rulebase
from opportune_service.cli.context_files import write_context
from opportune_service.cli.options import RulebaseOption, rulebase_directory
from opportune_service.cli.terminal import ExitCode, out, stop
from opportune_service.simulator import Province

_HOUR_US = 3_600_000_000


def simulate_command(
    events_file: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="Events: .csv or .jsonl, with .gz to pack them.")
    ],
    context_file: Annotated[
        Path | None, typer.Option("--context", metavar="FILE", help="Subscriber context, as .jsonl.")
    ] = None,
    subscribers: Annotated[int, typer.Option(min=1, help="How many people live there.")] = 200,
    hours: Annotated[float, typer.Option(min=0.01, help="How long to watch them.")] = 24,
    seed: Annotated[int, typer.Option(help="Another seed, another province.")] = 1,
    start: Annotated[
        str, typer.Option(metavar="TIME", help="First instant. [default: today at midnight]")
    ] = "",
    rulebase: RulebaseOption = None,
) -> None:
    """Write events, and the context of their subscribers, of a made-up province.

    The same arguments give the same files. Cells and handsets come from the rulebase's tables.

    Example: opportune simulate --out day.jsonl --context people.jsonl --start 2026-11-20T00:00:00+08:00
    """
    tables_of = load(read_rulebase(rulebase_directory(rulebase)))
    start_us = start_instant(start, tables_of.time_zone)
    province = make_province(tables_of, seed, subscribers, start_us)
    console = out()
    if context_file is not None:
        people = write_context(context_file, province.context())
        console.print(f"{context_file}: context of {people} subscribers", markup=False)
    events = write_events(events_file, province.events(start_us + int(hours * _HOUR_US)))
    console.print(f"{events_file}: {events} events", markup=False)


def make_province(rulebase: Rulebase, seed: int, subscribers: int, start_us: int) -> Province:
    """A province with the cells and handsets of the rulebase."""
    try:
        return Province(
            seed,
            subscribers,
            start_us,
            rulebase.time_zone,
            rulebase.tables.cells,
            rulebase.tables.terminals,
        )
    except ValueError as error:
        stop(ExitCode.NO, f"The province cannot be made up from this rulebase: {error}")


def start_instant(text: str, zone: ZoneInfo, *, hour: int = 0, minute: int = 0) -> int:
    """The instant that was typed, or today at that time of day, in microseconds since 1970."""
    if not text:
        today = datetime.now(zone).replace(hour=hour, minute=minute, second=0, microsecond=0)
        return int(today.timestamp()) * 1_000_000
    try:
        return parse_instant(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--start") from None


def local_text(at_us: int, zone: ZoneInfo) -> str:
    """An instant for people: date and time of day by the operator's clocks."""
    instant = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=at_us)
    return instant.astimezone(zone).strftime("%Y-%m-%d %H:%M:%S")
