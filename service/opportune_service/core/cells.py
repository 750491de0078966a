"""Where a subscriber was, by the cells that events told, as of an instant."""

from __future__ import annotations

from bisect import bisect_right

from opportune_service.core.events import MAX_LATENESS_US, MAX_SKEW_US
from opportune_service.core.state import Series, SubscriberState

MAX_CELL_AGE_US = 6 * 3600 * 1_000_000
"""A place is known for so long after the last event with a cell: networks hear of a handset every few hours
even if it lies still, so whoever was not heard of is out of reach, or roams."""

MAX_CELLS = 1_000
"""Cells that are kept of one subscriber; more within the hour are a fault."""

_ASKED_US = MAX_LATENESS_US + MAX_SKEW_US


def see_cell(state: SubscriberState, at_us: int, cell_id: str) -> None:
    """Remember that the subscriber was at this cell then."""
    cells = state.cells
    if cells is None:
        cells = state.cells = Series()
    at = cells.at
    if not at or at_us > at[-1]:
        at.append(at_us)
        cells.amount.append(cell_id)
    else:
        place = bisect_right(at, at_us)
        # Two events of one instant: which came first must not show.
        while place and at[place - 1] == at_us and cells.amount[place - 1] > cell_id:
            place -= 1
        at.insert(place, at_us)
        cells.amount.insert(place, cell_id)
    # What lies before everything that may still be asked for tells nothing, but for the newest of it.
    if len(at) > 1:
        horizon = at[-1] - _ASKED_US
        if at[1] > horizon and len(at) <= MAX_CELLS:
            return
        stale = max(bisect_right(at, horizon) - 1, len(at) - MAX_CELLS)
        del at[:stale], cells.amount[:stale]


def cell_at(state: SubscriberState, at_us: int) -> str:
    """The cell that the subscriber was last seen at as of then; "" if that is too long ago."""
    cells = state.cells
    if cells is None:
        return ""
    place = bisect_right(cells.at, at_us) - 1
    if place < 0 or at_us - cells.at[place] > MAX_CELL_AGE_US:
        return ""
    cell: str = cells.amount[place]
    return cell
