"""Reference tables side by side: how many rows differ, and some of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from opportune_rulebase.model import Place, Rulebase

MOST_ROWS = 10
"""So many rows of a table are shown; of the others only their number."""


@dataclass(frozen=True, slots=True)
class TableChange:
    """`rows`: how many there were and are. `samples`: (key, before, after) of some that differ, "" where
    there was none; in order of their keys."""

    name: str
    rows: tuple[int, int]
    added: int
    removed: int
    changed: int
    samples: tuple[tuple[str, str, str], ...]


def table_changes(before: Rulebase, after: Rulebase) -> list[TableChange]:
    """The tables that differ."""
    cells = _compared("places", before.tables.cells, after.tables.cells)
    terminals = _compared("terminals", before.tables.terminals, after.tables.terminals)
    return [each for each in (cells, terminals) if each is not None]


def _compared(name: str, before: Mapping[str, object], after: Mapping[str, object]) -> TableChange | None:
    added, removed = after.keys() - before.keys(), before.keys() - after.keys()
    changed = {key for key, row in before.items() if key in after and after[key] != row}
    differing = sorted(added | removed | changed)
    if not differing:
        return None
    samples = tuple((key, _row(before.get(key)), _row(after.get(key))) for key in differing[:MOST_ROWS])
    return TableChange(name, (len(before), len(after)), len(added), len(removed), len(changed), samples)


def _row(row: object) -> str:
    match row:
        case Place():
            label = f" ({row.label})" if row.label != row.name else ""
            return f"{row.name}{label}: {', '.join(row.categories) or 'no category'}"
        case Mapping():
            return (
                ", ".join(f"{key} {_cell(value)}" for key, value in sorted(row.items())) or "nothing known"
            )
    return ""


def _cell(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
