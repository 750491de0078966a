"""What a transaction under way has in hand, apart from what it wrote."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import sqlalchemy as sa

from opportune_service.core.verdict import UsageKey

_KEY = "opportune_unit"


@dataclass(slots=True)
class Unit:
    """`used`: what is still to be added to the usage counters. `held`: the locks that it has, which end
    with it. `draws`: whether it draws cursors (`cursors.py`)."""

    used: Counter[UsageKey] = field(default_factory=Counter)
    held: set[tuple[str, str]] = field(default_factory=set)
    draws: bool = False


def begin_unit(connection: sa.Connection) -> None:
    """A transaction begins, with nothing in hand."""
    connection.info[_KEY] = Unit()


def unit_of(connection: sa.Connection) -> Unit:
    """That of the transaction under way."""
    unit: Unit = connection.info[_KEY]
    return unit
