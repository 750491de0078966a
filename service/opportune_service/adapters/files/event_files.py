"""Files of events in Opportune's own layout: CSV or JSON lines, plain or gzip, by the file's name.

JSON lines (`.jsonl`): one object a line, with the keys `id`, `subscriber_id`, `type`, `occurred_at` and,
if known, `cell_id` and `imei`. Every other key is an attribute.

CSV (`.csv`): the same names in the header. Every other column is an attribute; it is text unless its name
ends in a type: `kb:int`, `share:double`, `roaming:bool` (`true` or `false`). An empty field is an absent
attribute, so CSV cannot carry an empty text.

`occurred_at` is RFC 3339 with an offset (`2026-11-16T20:00:00+08:00`) or seconds since 1970.
"""

from __future__ import annotations

import csv
import gzip
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from math import isfinite
from pathlib import Path
from typing import BinaryIO

import msgspec

from opportune_service.adapters.files.faults import EventFileError, Faults, TextLines, read_rows
from opportune_service.core.events import Encoding, Event

SUBSCRIBER_ID = re.compile(r"[0-9]{5,15}", re.ASCII)
_NEEDED = ("id", "subscriber_id", "type", "occurred_at")
_OPTIONAL = ("cell_id", "imei")
_OWN = frozenset((*_NEEDED, *_OPTIONAL))
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_MAX_SECONDS = 100_000_000_000
_encode = msgspec.json.Encoder().encode
_FLAGS = {"true": True, "false": False}
_INT = re.compile(r"[+-]?[0-9]{1,19}", re.ASCII)
_DOUBLE = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]{1,3})?", re.ASCII)


def _int(text: str) -> int:
    if not _INT.fullmatch(text) or not -(1 << 63) <= (value := int(text)) < 1 << 63:
        raise ValueError("not a whole number of 64 bits")
    return value


def _double(text: str) -> float:
    if not _DOUBLE.fullmatch(text) or not isfinite(value := float(text)):
        raise ValueError("not a finite number")
    return value


CONVERTERS: dict[str, Callable[[str], object]] = {
    "string": str,
    "int": _int,
    "double": _double,
    "bool": _FLAGS.__getitem__,
}
"""Type word -> how a text becomes a value; raises ValueError or KeyError when it is not one."""


def read_events(path: Path, faults: Faults) -> Iterator[Event]:
    """The events of a file in the order of its lines, read as they are taken.

    What is wrong with a line goes to `faults`, and the line is left out. Whether type and attributes are
    known is for the service to say. Raises EventFileError when the file cannot be used at all; when every
    line is wrong, at the end.
    """
    kind = _kind(path)
    read = 0
    for event in _read_csv(path, faults) if kind == ".csv" else _read_jsonl(path, faults):
        read += 1
        yield event
    faults.refuse_if_nothing_was_read(path, read)


def write_events(path: Path, events: Iterable[Event]) -> int:
    """Write events to a `.csv` or `.jsonl` file (`.gz` on top packs it); how many there were.

    The file appears whole or not at all. Equal events give equal bytes. Raises EventFileError for another
    suffix, for an attribute named like one of the layout's own columns and, in CSV, for lists, maps and an
    attribute that has several types.
    """
    kind = _kind(path)
    with _whole(path) as stream:
        return _write_csv(path, stream, events) if kind == ".csv" else _write_jsonl(path, stream, events)


@lru_cache(maxsize=65_536)
def parse_instant(value: str | int | float) -> int:
    """Microseconds since 1970, of an RFC 3339 text or of seconds. Raises ValueError with a hint."""
    if isinstance(value, str) and not value.replace(".", "", 1).isdecimal():
        try:
            instant = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError("not a time: use RFC 3339 such as 2026-11-16T20:00:00+08:00") from None
        if instant.tzinfo is None:
            raise ValueError("the time has no offset from UTC: add one, such as +08:00 or Z")
        return (instant - _EPOCH) // _MICROSECOND
    try:
        seconds = Decimal(str(value))
        if not 0 <= seconds < _MAX_SECONDS:
            raise ValueError("the time is out of range: it is in seconds since 1970, not in milliseconds")
        return int(seconds * 1_000_000)
    except InvalidOperation:
        raise ValueError("not a time: use RFC 3339 or seconds since 1970") from None


def _kind(path: Path) -> str:
    inner = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    if inner not in {".csv", ".jsonl"}:
        raise EventFileError(f"{path}: name it .csv or .jsonl (or either with .gz) to say what it holds")
    return inner


def _event(own: dict[str, object], attributes: dict[str, object]) -> Event:
    """Raises ValueError that says what is wrong with the fields."""
    for name in _NEEDED:
        if own.get(name) in (None, ""):
            raise ValueError(f"{name} is missing")
    for name, value in own.items():
        if name != "occurred_at" and not isinstance(value, str):
            raise ValueError(f"{name} must be a text")
    if not SUBSCRIBER_ID.fullmatch(str(own["subscriber_id"])):
        raise ValueError("subscriber_id must have 5 to 15 digits and nothing else")
    occurred_at = own["occurred_at"]
    instant = parse_instant(occurred_at) if type(occurred_at) in {str, int, float} else None
    if instant is None:
        raise ValueError("occurred_at must be a text or a number")
    return Event(
        id=str(own["id"]),
        subscriber_id=str(own["subscriber_id"]),
        type=str(own["type"]),
        occurred_at_us=instant,
        attributes=_encode(attributes),
        cell_id=str(own.get("cell_id", "")),
        imei=str(own.get("imei", "")),
    )


def _read_jsonl(path: Path, faults: Faults) -> Iterator[Event]:
    decode = msgspec.json.Decoder(dict[str, object]).decode
    lines = TextLines(path, faults)
    for line in lines:
        if line.isspace():
            continue
        try:
            record = decode(line)
            yield _event({name: record.pop(name) for name in _OWN & record.keys()}, record)
        except msgspec.DecodeError as error:
            faults.add(path, lines.number, f"not a JSON object: {error}")
        except RecursionError:
            faults.add(path, lines.number, "nested too deeply")
        except (ValueError, OverflowError) as error:
            faults.add(path, lines.number, str(error))


def _read_csv(path: Path, faults: Faults) -> Iterator[Event]:
    rows = read_rows(path, faults)
    _, header = next(rows, (1, []))
    names = [column.partition(":")[0].strip() for column in header]
    types = [column.partition(":")[2].strip() or "string" for column in header]
    _check_header(path, names, types)
    converters = [CONVERTERS[word] for word in types]
    for line, row in rows:
        if len(row) != len(names):
            faults.add(path, line, f"{len(row)} fields where the header has {len(names)}")
            continue
        own: dict[str, object] = {}
        attributes: dict[str, object] = {}
        try:
            for name, word, convert, text in zip(names, types, converters, row, strict=True):
                if name in _OWN:
                    own[name] = text
                elif text:
                    attributes[name] = _converted(name, word, convert, text)
            yield _event(own, attributes)
        except ValueError as error:
            faults.add(path, line, str(error))


def _converted(name: str, word: str, convert: Callable[[str], object], text: str) -> object:
    try:
        return convert(text)
    except (ValueError, KeyError):
        raise ValueError(f"{name} is not of type {word}") from None


def _check_header(path: Path, names: list[str], types: list[str]) -> None:
    missing = [name for name in _NEEDED if name not in names]
    if missing:
        raise EventFileError(
            f"{path}:1: the header lacks {', '.join(missing)}; is the first line the header?"
        )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or "" in names:
        raise EventFileError(
            f"{path}:1: every column needs a name of its own; see {', '.join(twice) or 'the blank one'}"
        )
    for name, word in zip(names, types, strict=True):
        if word not in CONVERTERS:
            raise EventFileError(
                f"{path}:1: column {name} has the type {word}; known are {', '.join(CONVERTERS)}"
            )


def _attributes(path: Path, event: Event) -> dict[str, object]:
    decode = msgspec.json.decode if event.encoding is Encoding.JSON else msgspec.msgpack.decode
    attributes = decode(event.attributes, type=dict[str, object]) if event.attributes else {}
    if clash := _OWN & attributes.keys():
        raise EventFileError(
            f"{path}: {event.type} has an attribute named {min(clash)}, a column of the layout"
        )
    return attributes


def _record(event: Event) -> dict[str, object]:
    instant = _EPOCH + timedelta(microseconds=event.occurred_at_us)
    record: dict[str, object] = {
        "id": event.id,
        "subscriber_id": event.subscriber_id,
        "type": event.type,
        "occurred_at": instant.isoformat(timespec="microseconds").replace("+00:00", "Z"),
    }
    return record | {name: value for name in _OPTIONAL if (value := getattr(event, name))}


def _write_jsonl(path: Path, stream: BinaryIO, events: Iterable[Event]) -> int:
    written = 0
    for event in events:
        stream.write(_encode(_record(event) | _attributes(path, event)) + b"\n")
        written += 1
    return written


def _write_csv(path: Path, stream: BinaryIO, events: Iterable[Event]) -> int:
    """In two passes over a temporary file: the columns are known only when all events were seen."""
    types: dict[str, str] = {}
    written = 0
    with tempfile.TemporaryFile() as spool:
        for event in events:
            attributes = _attributes(path, event)
            for name, value in attributes.items():
                word = _word(path, name, value)
                if types.setdefault(name, word) != word:
                    raise EventFileError(
                        f"{path}: {name} is {types[name]} here and {word} there; write .jsonl"
                    )
            spool.write(_encode(_record(event) | attributes) + b"\n")
            written += 1
        spool.seek(0)
        text = _Utf8(stream)
        writer = csv.writer(text, lineterminator="\n")
        heads = (name if word == "string" else f"{name}:{word}" for name, word in types.items())
        writer.writerow((*_NEEDED, *_OPTIONAL, *heads))
        names = (*_NEEDED, *_OPTIONAL, *types)
        for line in spool:
            record = msgspec.json.decode(line)
            writer.writerow([_field(record.get(name)) for name in names])
    return written


class _Utf8:
    """Just enough of a text file for `csv.writer`, leaving the binary stream open."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(text.encode())


def _word(path: Path, name: str, value: object) -> str:
    for word, kind in (("bool", bool), ("int", int), ("double", float), ("string", str)):
        if isinstance(value, kind):
            return word
    raise EventFileError(
        f"{path}: {name} is neither text, number nor flag and has no place in CSV; write .jsonl"
    )


def _field(value: object) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


@contextmanager
def _whole(path: Path) -> Iterator[BinaryIO]:
    """A stream whose content becomes the file when the block ends well."""
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as raw:
            if path.suffix == ".gz":
                # No name and no time inside: equal events give equal bytes.
                with gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as packed:
                    yield packed  # type: ignore[misc]  # GzipFile is a binary stream in all but its declaration
            else:
                yield raw
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
