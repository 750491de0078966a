"""`matrix.yaml`, the application matrix: static behaviours x events, each filled cell names campaigns."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from opportune_rulebase.errors import Position
from opportune_rulebase.loading.fields import Fields, keys_of
from opportune_rulebase.loading.problems import Code, Report
from opportune_rulebase.loading.source import Node


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
    top = Fields(report, node, "matrix.yaml", ("columns", "rows"))
    found: dict[str, Cells] = {}
    if node is None:
        return found
    top.require("columns", "rows")
    columns = top.choices("columns", "event type", events)
    for row, value in top.entries("rows"):
        if row.text not in behaviours:
            report.unknown(row.at, "behaviour", row.text, behaviours)
            continue
        cells = Fields(report, value, f"row {row.text!r}", keys_of(value), at=row.at)
        for event in keys_of(value):
            if event not in events:
                report.unknown(cells.key_at(event), "event type", event, events)
                continue
            if event not in columns:
                message = f"{event!r} is not a column of the matrix"
                report.error(cells.key_at(event), Code.MATRIX_CONFLICT, message, "add it to 'columns'")
            for campaign in cells.choices(event, "campaign", campaigns):
                cell = found.setdefault(campaign, Cells(cells.place(event)))
                cell.behaviours.setdefault(event, []).append(f"behaviour.{row.text}")
    return found
