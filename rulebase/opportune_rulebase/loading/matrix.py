"""The application matrix: static behaviours x events, each filled cell names campaigns.

It is written as `matrix.yaml`, `matrix.csv` or `matrix.xlsx`. The tables become the same nodes as the YAML,
so that it is read, and its faults are found, in one way.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final

from opportune_rulebase.errors import Position
from opportune_rulebase.language import keys_in
from opportune_rulebase.loading.fields import Fields, keys_of
from opportune_rulebase.loading.problems import Code, Report, clip
from opportune_rulebase.loading.source import ListNode, MapNode, Node, ScalarNode, SourceFile
from opportune_rulebase.loading.xlsx import XlsxError, first_sheet

MATRIX_CSV: Final = "matrix.csv"
MATRIX_XLSX: Final = "matrix.xlsx"
MATRIX_FILES: Final = ("matrix.yaml", MATRIX_CSV, MATRIX_XLSX)

MAX_MATRIX_BYTES: Final = 1 << 20
MAX_ROWS: Final = 1_000
MAX_COLUMNS: Final = 200
MAX_NAMED: Final = 50_000
"""Campaigns named in all cells: as many as a YAML file has nodes."""

_CORNER: Final = "behaviour"
_SEPARATORS = re.compile(r"[;|]")

_NO_SOURCE = SourceFile("", "", [])  # names are only ever placed as a whole

Row = Mapping[int, ScalarNode]
"""The filled cells of a row by their columns, counted from 1."""


@dataclass(slots=True)
class Cells:
    """The cells that name one campaign: event type -> behaviours (qualified), as written."""

    at: Position
    behaviours: dict[str, list[str]] = field(default_factory=dict)

    def condition(self) -> str:
        """The expression that holds in these cells, for events of these types only.

        `(behaviour.a || behaviour.b)` where all events share their behaviours, otherwise one
        alternative for each event type.
        """
        rows = {event: " || ".join(names) for event, names in self.behaviours.items()}
        if len(set(rows.values())) == 1:
            return f"({next(iter(rows.values()))})"
        return (
            "(" + " || ".join(f'(event.type == "{event}" && ({row}))' for event, row in rows.items()) + ")"
        )


def read_matrix(
    node: Node | None,
    report: Report,
    *,
    behaviours: Collection[str],
    events: Collection[str],
    campaigns: Collection[str],
) -> Mapping[str, Cells]:
    """Campaign name -> its cells. `behaviours` are plain names; errors go to `report`."""
    found: dict[str, Cells] = {}
    if node is None:
        return found
    top = Fields(report, node, node.at.file, keys_in("matrix"))
    top.require("columns", "rows")
    columns = top.choices("columns", "event type", events)
    listed = {each.text for each in top.scalars("columns", "an event type")}
    for row, value in top.entries("rows"):
        if row.text not in behaviours:
            report.unknown(row.at, "behaviour", row.text, behaviours)
            continue
        cells = Fields(report, value, f"row {row.text!r}", keys_of(value), at=row.at)
        for event in keys_of(value):
            if event not in events:
                if event not in listed:  # else it is reported there
                    report.unknown(cells.key_at(event), "event type", event, events)
                continue
            if event not in columns:
                message = f"{event!r} is not a column of the matrix"
                report.error(cells.key_at(event), Code.MATRIX_CONFLICT, message, "add it to 'columns'")
            for campaign in cells.choices(event, "campaign", campaigns):
                cell = found.setdefault(campaign, Cells(cells.place(event)))
                cell.behaviours.setdefault(event, []).append(f"behaviour.{row.text}")
    return found


def matrix_of_csv(source: SourceFile, report: Report) -> MapNode | None:
    """The nodes of a matrix in CSV, each at its line and column; errors go to `report`."""
    reader = csv.reader(io.StringIO(source.text, newline=""), strict=True)
    rows: list[Row] = []
    line = 1
    try:
        for record in reader:
            # Quotes and line breaks in fields make the column unclear.
            plain = line <= len(source.lines) and source.lines[line - 1] == ",".join(record)
            starts = accumulate((len(each) + 1 for each in record), initial=1)
            rows.append(
                {
                    number: _scalar(text.strip(), Position(source.name, line, start if plain else 1))
                    for number, (text, start) in enumerate(zip(record, starts, strict=False), 1)
                    if text.strip()
                }
            )
            line = reader.line_num + 1
    except csv.Error as error:
        report.error(Position(source.name, line, 1), Code.BAD_TABLE, f"this is not valid CSV: {error}")
        return None
    if len(rows) > MAX_ROWS or any(number > MAX_COLUMNS for row in rows for number in row):
        message = f"the matrix may have {MAX_ROWS} rows and {MAX_COLUMNS} columns at most"
        report.error(Position(source.name), Code.TOO_LARGE, message, "take out what is not used")
        return None
    return _of_rows([row for row in rows if row], source.name, report)


def matrix_of_xlsx(name: str, data: bytes, report: Report) -> MapNode | None:
    """The nodes of a matrix in the first sheet of a workbook, each at its row and the number of its column
    (A is 1); errors go to `report`."""
    if len(data) > MAX_MATRIX_BYTES:
        message = f"the file has {len(data)} bytes; at most {MAX_MATRIX_BYTES} are allowed"
        report.error(Position(name), Code.TOO_LARGE, message, "take out what is not the matrix")
        return None
    try:
        sheet = first_sheet(data, rows=MAX_ROWS, columns=MAX_COLUMNS, characters=MAX_MATRIX_BYTES)
    except XlsxError as error:
        report.error(Position(name), Code.BAD_TABLE, str(error), "save it as .xlsx, or use matrix.csv")
        return None
    rows = [
        {column: _scalar(text, Position(name, row, column)) for column, text in sorted(cells.items())}
        for row, cells in sorted(sheet.items())
    ]
    return _of_rows(rows, name, report)


def _of_rows(rows: Sequence[Row], name: str, report: Report) -> MapNode | None:
    """What `matrix.yaml` would hold, from a header and rows that each name a behaviour first."""
    header = rows[0] if rows else {}
    corner = header.get(1)
    if corner is None or corner.text != _CORNER:
        at = corner.at if corner else Position(name, 1, 1)
        hint = "the first row is: behaviour, then one event type a column, separated by commas in CSV"
        report.error(at, Code.BAD_TABLE, f"the first column must be called {_CORNER!r}", hint)
        return None
    events = [each for number, each in header.items() if number > 1]
    keys: dict[str, ScalarNode] = {}
    values: dict[str, Node] = {}
    named = 0
    for row in rows[1:]:
        key = row.get(1)
        if key is None:
            at = next(iter(row.values())).at
            report.error(at, Code.BAD_TABLE, "the row names no behaviour", "fill its first column")
            continue
        if key.text in keys:
            message = f"the behaviour {clip(key.text)!r} stands here a second time"
            report.error(key.at, Code.DUPLICATE_KEY, message, f"see line {keys[key.text].at.line}")
            continue
        keys[key.text] = key
        cells = dict(_cells(row, header, report))
        values[key.text] = MapNode(
            {e: at for e, (at, _) in cells.items()}, {e: v for e, (_, v) in cells.items()}, key.at
        )
        named += sum(len(each.items) for _, each in cells.values())
        if named > MAX_NAMED:
            message = f"the matrix names more than {MAX_NAMED} campaigns"
            report.error(key.at, Code.TOO_MANY, message, "make it smaller")
            return None
    top: dict[str, Node] = {
        "columns": ListNode(tuple(events), corner.at),
        "rows": MapNode(keys, values, corner.at),
    }
    return MapNode({each: _scalar(each, corner.at) for each in top}, top, corner.at)


def _cells(row: Row, header: Row, report: Report) -> Iterator[tuple[str, tuple[ScalarNode, ListNode]]]:
    """Event type -> its node in this row, and the campaigns of the cell."""
    for number, cell in row.items():
        event = header.get(number)
        if number == 1:
            continue
        if event is None:
            message = "this cell is in a column without an event type"
            report.error(cell.at, Code.BAD_TABLE, message, "name the event type in the first row")
            continue
        names = [name.strip() for name in _SEPARATORS.split(cell.text)]
        items = tuple(_scalar(name, cell.at) for name in names if name)
        yield event.text, (ScalarNode(event.text, cell.at, '"', cell.source), ListNode(items, cell.at))


def _scalar(text: str, at: Position) -> ScalarNode:
    """Text in quotes, so to speak: a table has no other types."""
    return ScalarNode(text, at, '"', _NO_SOURCE)
