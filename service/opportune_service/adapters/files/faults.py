"""What is wrong with a file of events, line by line, and how such files are opened."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, cast

from opportune_service.app.errors import OpportuneError

MAX_LINE_BYTES = 256 * 1024
"""Attributes may have 16 KiB; a line far beyond that is not an event."""

_KEPT = 100


class EventFileError(OpportuneError):
    """The file as a whole cannot be used: absent, damaged, without its columns, or wrong in every line."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong at one place. The message never holds a subscriber's number."""

    file: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message}"


@dataclass(slots=True)
class Faults:
    """Gathers the faults of a reading: all are counted, the first hundred are kept."""

    count: int = 0
    first: list[Fault] = field(default_factory=list)

    def add(self, path: Path, line: int, message: str) -> None:
        self.count += 1
        if len(self.first) < _KEPT:
            self.first.append(Fault(str(path), line, message))

    def refuse_if_nothing_was_read(self, path: Path, read: int) -> None:
        """Raises EventFileError if there were faults and not one good line."""
        if self.count and not read:
            shown = "\n".join(map(str, self.first[:5]))
            raise EventFileError(
                f"{path}: no line gives an event; {self.count} fault(s), the first are:\n{shown}"
            )


class TextLines:
    """The lines of a text file, plain or gzip (by its suffix), as `csv.reader` likes them.

    `number` is the line read last, from 1. A line that is too long or not UTF-8 is a fault and left out.
    Raises EventFileError if the file cannot be opened or is damaged.
    """

    def __init__(self, path: Path, faults: Faults) -> None:
        self.number = 0
        self._path = path
        self._faults = faults

    def __iter__(self) -> Iterator[str]:
        try:
            with _open(self._path) as stream:
                yield from self._read(stream)
        except (OSError, EOFError, zlib.error) as error:
            raise EventFileError(f"{self._path}: cannot be read: {error}") from error

    def _read(self, stream: BinaryIO) -> Iterator[str]:
        while raw := stream.readline(MAX_LINE_BYTES):
            self.number += 1
            if len(raw) == MAX_LINE_BYTES and not raw.endswith(b"\n"):
                self._faults.add(self._path, self.number, f"the line is longer than {MAX_LINE_BYTES} bytes")
                while raw and not raw.endswith(b"\n"):
                    raw = stream.readline(MAX_LINE_BYTES)
                continue
            try:
                yield raw.decode("utf-8-sig" if self.number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                self._faults.add(
                    self._path, self.number, f"not UTF-8 at byte {error.start + 1} of the line"
                )


def read_rows(path: Path, faults: Faults, delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
    """(line number, fields) of each row of a CSV file; blank rows are left out."""
    lines = TextLines(path, faults)
    reader = csv.reader(lines, delimiter=delimiter)
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            faults.add(path, lines.number, f"not CSV: {error}")
            continue
        if row:
            yield lines.number, row


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")
