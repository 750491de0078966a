"""Reading a foreign CSV through a mapping: rows in, events in time order out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from opportune_service.adapters.files.event_files import CONVERTERS, SUBSCRIBER_ID, parse_instant
from opportune_service.adapters.files.faults import EventFileError, Faults, read_rows
from opportune_service.adapters.files.mapping import (
    AttributeSource,
    Cell,
    Conditions,
    EventSource,
    FileMapping,
    Subscriber,
)
from opportune_service.core.events import Event

_encode = msgspec.json.Encoder().encode

Row = list[str]


def read_mapped(path: Path, mapping: FileMapping, faults: Faults) -> list[Event]:
    """All events of the file in time order; those of one instant in the order of rows, then of the mapping.

    An event's id is made of the mapping's name, the line and the number of the event source in the mapping,
    so that reading again gives the same ids. A row to which no condition applies gives nothing. A row with
    anything wrong goes to `faults` and gives nothing. The file is held in memory (a few million rows).
    Raises EventFileError when the file cannot be used at all.
    """
    rows = read_rows(path, faults, mapping.delimiter)
    columns: tuple[str, ...] = mapping.columns or ()
    if mapping.header:
        _, header = next(rows, (1, []))
        columns = mapping.columns or tuple(header)
        if len(header) != len(columns):
            raise EventFileError(
                f"{path}:1: {len(header)} columns where mapping {mapping.mapping} names {len(columns)}"
            )
    if unknown := mapping.unknown_columns(columns):
        raise EventFileError("\n".join(f"{path}:1: {message}" for message in unknown))
    at = {name: place for place, name in enumerate(columns)}
    read_time = _time_reader(mapping)
    time_at = at[mapping.time.column]
    makers = [
        _maker(source, at, f"{mapping.mapping}-", number) for number, source in enumerate(mapping.events, 1)
    ]
    events: list[Event] = []
    for line, row in rows:
        if len(row) != len(columns):
            faults.add(path, line, f"{len(row)} fields where there are {len(columns)} columns")
            continue
        try:
            occurred_at_us = read_time(row[time_at])
            events.extend([event for make in makers if (event := make(row, line, occurred_at_us))])
        except ValueError as error:
            faults.add(path, line, str(error))
    faults.refuse_if_nothing_was_read(path, len(events))
    events.sort(key=lambda event: event.occurred_at_us)
    return list(_with_cell_changes(events)) if mapping.track_cells else events


def _time_reader(mapping: FileMapping) -> Callable[[str], int]:
    column, form = mapping.time.column, mapping.time.format
    read = parse_instant if form in {"rfc3339", "epoch"} else mapping.time.reader().read

    def read_time(text: str) -> int:
        try:
            return read(text)
        except ValueError:
            raise ValueError(f"column {column} is not a time of the format {form}") from None

    return read_time


def _maker(
    source: EventSource, at: dict[str, int], prefix: str, number: int
) -> Callable[[Row, int, int], Event | None]:
    applies = _condition(source, at)
    subscriber = _subscriber(source.subscriber, at)
    cell = _cell(source.cell, at)
    attributes = [(name, _attribute(name, spec, at)) for name, spec in source.attributes.items()]

    def make(row: Row, line: int, occurred_at_us: int) -> Event | None:
        if not applies(row):
            return None
        values = {name: value for name, read in attributes if (value := read(row)) is not None}
        return Event(
            f"{prefix}{line}.{number}",
            subscriber(row),
            source.type,
            occurred_at_us,
            _encode(values),
            cell(row),
        )

    return make


def _condition(source: EventSource, at: dict[str, int]) -> Callable[[Row], bool]:
    def places(conditions: Conditions) -> list[tuple[int, frozenset[str]]]:
        return [(at[column], frozenset(texts)) for column, texts in conditions.items()]

    wanted, unwanted = places(source.when), places(source.unless)
    return lambda row: (
        all(row[place] in texts for place, texts in wanted)
        and not any(row[place] in texts for place, texts in unwanted)
    )


def _subscriber(source: Subscriber, at: dict[str, int]) -> Callable[[Row], str]:
    if source.column is None:
        fixed = source.fixed or ""
        return lambda _: fixed
    place = at[source.column]

    def read(row: Row) -> str:
        text = source.prefix + row[place].strip().zfill(source.width)
        # The field's own text must not show: it may be a number of somebody.
        if not row[place].strip() or not SUBSCRIBER_ID.fullmatch(text):
            raise ValueError(f"column {source.column} does not give a subscriber id of 5 to 15 digits")
        if source.width and len(text) != len(source.prefix) + source.width:
            raise ValueError(f"column {source.column} has more than {source.width} digits")
        return text

    return read


def _cell(source: Cell | None, at: dict[str, int]) -> Callable[[Row], str]:
    if source is None:
        return lambda _: ""
    place, prefix = at[source.column], source.prefix
    return lambda row: f"{prefix}{text}" if (text := row[place].strip()) else ""


def _attribute(name: str, source: AttributeSource, at: dict[str, int]) -> Callable[[Row], object]:
    if source.column is None:
        return lambda _: source.value
    place, convert = at[source.column], CONVERTERS[source.type]

    def read(row: Row) -> object:
        text = row[place].strip()
        if not text:
            return None
        try:
            return convert(source.prefix + text.zfill(source.width))
        except (ValueError, KeyError):
            raise ValueError(
                f"column {source.column} (attribute {name}) is not of type {source.type}"
            ) from None

    return read


def _with_cell_changes(events: list[Event]) -> Iterator[Event]:
    last: dict[str, str] = {}
    for event in events:
        if event.cell_id and last.setdefault(event.subscriber_id, event.cell_id) != event.cell_id:
            last[event.subscriber_id] = event.cell_id
            yield Event(
                f"{event.id}.cell", event.subscriber_id, "cell_changed", event.occurred_at_us,
                _encode({"cell": event.cell_id}), event.cell_id,
            )  # fmt: skip
        yield event
