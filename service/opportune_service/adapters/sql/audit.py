"""What people did that must be accounted for."""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa

from opportune_service.adapters.sql import schema
from opportune_service.adapters.sql.engine import insert_many


def note_action(
    connection: sa.Connection, at_us: int, by: str, action: str, about: Iterable[str], reason: str
) -> None:
    """Add a line for each thing that it was about: who did what, when and why. Never with the number of a
    subscriber."""
    rows = [{"at_us": at_us, "by": by, "action": action, "about": each, "reason": reason} for each in about]
    insert_many(connection, schema.audit, rows)
