"""Reference tables: cells to places, and TACs to terminal capabilities, from CSV with a header."""

from __future__ import annotations

import csv
import hashlib
import io
import re
import threading
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

from opportune_rulebase.errors import Position, Problem, Severity
from opportune_rulebase.loading.fields import parse_float, parse_int
from opportune_rulebase.loading.problems import Code, Report, clip
from opportune_rulebase.loading.source import SourceFile
from opportune_rulebase.model import Attribute, Place, ValueType

MAX_TABLE_BYTES = 16 << 20
_MAX_FAULTS = 100  # a table with the wrong separator has a fault in every row
_MAX_KEPT = 4  # places and terminals of two revisions

_Entry = TypeVar("_Entry")
_kept: dict[Hashable, tuple[Mapping[str, Any], tuple[Problem, ...]]] = {}
_kept_lock = threading.Lock()

_TAC = re.compile(r"[0-9]{8}")
_SEPARATORS = re.compile(r"[;|]")
_FLAGS = {"true": True, "1": True, "false": False, "0": False}


def read_cells(source: SourceFile, report: Report) -> Mapping[str, Place]:
    """Cell id -> place, from columns `cell`, `place` and optionally `label`, `categories`.

    Revisions whose table is the same share what was read.
    """
    return _once(source, (), lambda own: _cells(source, own), report)


def read_terminals(
    source: SourceFile, attributes: Mapping[str, Attribute], report: Report
) -> Mapping[str, Mapping[str, object]]:
    """TAC -> declared attributes, from columns `tac` and one for each of `attributes`.

    An empty field is left out: that capability is unknown. Revisions whose table and attributes are the
    same share what was read.
    """
    key = tuple(attributes.items())
    return _once(source, key, lambda own: _terminals(source, attributes, own), report)


def _once(
    source: SourceFile, key: Hashable, read: Callable[[Report], Mapping[str, _Entry]], report: Report
) -> Mapping[str, _Entry]:
    """What `read` makes of a table: the very object of the time before, if it is still kept. A faulty table
    is not. Nothing else is remembered between loads; the warnings are given each time."""
    whole = (source.name, hashlib.sha256(source.text.encode()).digest(), key)
    with _kept_lock:
        kept = _kept.get(whole)
    if kept is None:
        own = Report()
        kept = read(own), own.problems({})
        if not own.failed:
            with _kept_lock:
                _kept[whole] = kept
                while len(_kept) > _MAX_KEPT:
                    del _kept[next(iter(_kept))]
    table, problems = kept
    for each in problems:
        tell = report.warning if each.severity is Severity.WARNING else report.error
        tell(each.position, Code(each.code), each.message, each.hint)
    return table


def _cells(source: SourceFile, report: Report) -> Mapping[str, Place]:
    table = _Table(source, report, required=("cell", "place"), optional=("label", "categories"))
    found: dict[str, Place] = {}
    places: dict[tuple[str, ...], Place] = {}  # a place has many cells
    for row in table.rows("cell"):
        written = row["place"], row.get("label", ""), row.get("categories", "")
        place = places.get(written)
        if place is None:
            name, label, categories = written
            if not name:
                table.fault("place", "the place is empty")
            different = dict.fromkeys(c.strip() for c in _SEPARATORS.split(categories) if c.strip())
            place = places[written] = Place(name, label or name, tuple(different))
        found[row["cell"]] = place
    return MappingProxyType(found)


def _terminals(
    source: SourceFile, attributes: Mapping[str, Attribute], report: Report
) -> Mapping[str, Mapping[str, object]]:
    table = _Table(source, report, required=("tac", *attributes), optional=())
    found: dict[str, Mapping[str, object]] = {}
    for row in table.rows("tac"):
        if not _TAC.fullmatch(row["tac"]):
            table.fault("tac", f"{clip(row['tac'])!r} is not a TAC", "a TAC has eight digits")
            continue
        values: dict[str, object] = {}
        for name, attribute in attributes.items():
            if row[name]:
                value = _read(row[name], attribute)
                if value is None:
                    table.fault(
                        name, f"{clip(row[name])!r} is not a {attribute.type} that {name!r} may have"
                    )
                else:
                    values[name] = value
        found[row["tac"]] = MappingProxyType(values)
    return MappingProxyType(found)


def _read(text: str, attribute: Attribute) -> object:
    value: object
    if attribute.type is ValueType.BOOL:
        return _FLAGS.get(text.lower())
    if attribute.type is ValueType.STRING:
        return text if attribute.values is None or text in attribute.values else None
    value = parse_int(text) if attribute.type is ValueType.INT else parse_float(text)
    if value is not None and attribute.minimum is not None and value < attribute.minimum:
        return None
    return value


class _Table:
    """A CSV file read row by row, its faults placed and counted."""

    def __init__(
        self, source: SourceFile, report: Report, *, required: Collection[str], optional: Collection[str]
    ) -> None:
        self._source = source
        self._report = report
        self._faults = 0
        self._line = 1
        self._reader = csv.reader(io.StringIO(source.text, newline=""), strict=True)
        self._header = [name.strip() for name in next(self._records(), [])]
        self._missing = [name for name in required if name not in self._header]
        for name in self._missing:
            self._error(
                Position(source.name, 1, 1),
                f"the table has no column {name!r}",
                f"its columns are: {clip(', '.join(self._header), 200)}",
            )
        for number, name in enumerate(self._header):
            at = Position(source.name, 1, self._column(number))
            if name in self._header[:number]:
                self._error(at, f"the column {clip(name)!r} stands here a second time", "remove one")
            elif name not in required and name not in optional:
                report.warning(
                    at, Code.UNUSED, f"nothing reads the column {clip(name)!r}", "declare or remove it"
                )

    def rows(self, key: str) -> Iterator[dict[str, str]]:
        """The rows as mappings, whose `key` column is present and new."""
        if self._missing:
            return
        lines: dict[str, int] = {}
        for fields in self._records():
            if not fields:
                continue
            if len(fields) != len(self._header):
                self.fault("", f"the row has {len(fields)} fields, the header {len(self._header)}")
                continue
            row = dict(zip(self._header, (field.strip() for field in fields), strict=True))
            if not row[key]:
                self.fault(key, f"{key!r} is empty")
            elif row[key] in lines:
                self.fault(
                    key,
                    f"{key} {clip(row[key])!r} stands here a second time",
                    f"see line {lines[row[key]]}",
                )
            else:
                lines[row[key]] = self._line
                yield row

    def fault(self, column: str, message: str, hint: str = "") -> None:
        """Report something wrong in the present row."""
        number = self._header.index(column) if column in self._header else 0
        self._error(Position(self._source.name, self._line, self._column(number)), message, hint)

    def _error(self, at: Position, message: str, hint: str) -> None:
        self._faults += 1
        if self._faults <= _MAX_FAULTS:
            self._report.error(at, Code.BAD_TABLE, message, hint)
        elif self._faults == _MAX_FAULTS + 1:
            self._report.error(
                Position(self._source.name),
                Code.TOO_MANY_PROBLEMS,
                f"more than {_MAX_FAULTS} faults in this table; the rest is not listed",
                "mend these first",
            )

    def _records(self) -> Iterator[list[str]]:
        while True:
            self._line = self._reader.line_num + 1
            try:
                fields = next(self._reader)
            except StopIteration:
                return
            except csv.Error as error:
                self._error(
                    Position(self._source.name, self._line, 1), f"this is not valid CSV: {error}", ""
                )
                return
            yield fields

    def _column(self, number: int) -> int:
        """The column at which a field of the present line starts; 1 where quotes make it unclear."""
        line = self._source.lines[self._line - 1] if self._line <= len(self._source.lines) else ""
        return 1 if '"' in line else sum(len(field) + 1 for field in line.split(",")[:number]) + 1
