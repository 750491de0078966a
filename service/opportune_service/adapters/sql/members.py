"""The processes that share the ledger, and what all of them work under."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from opportune_service.adapters.sql import schema
from opportune_service.adapters.sql.locks import Space, hold_alone, hold_commit
from opportune_service.adapters.sql.statements import now_us
from opportune_service.app.errors import ExpelledError, SupersededError
from opportune_service.app.records import Member

_b = schema.members.c
_m = schema.meta.c

_one = _b.number == sa.bindparam("of_member")
_generation = sa.select(_m.value).where(_m.name == "generation")
_guard = sa.select(
    _generation.scalar_subquery(), sa.exists().where(_one, sa.not_(_b.expelled)).label("belongs")
)
_silent = now_us() - _b.alive_us
_all = sa.select(_b.number, sa.case((_silent > 0, _silent), else_=0), _b.checkpoint, _b.expelled).order_by(
    _b.number
)
_checkpoint = sa.select(
    sa.func.coalesce(
        sa.select(sa.func.min(_b.checkpoint)).scalar_subquery(),
        sa.select(_m.value).where(_m.name == "checkpoint").scalar_subquery(),
    )
)
_save_ledgers_checkpoint = schema.meta.update().where(_m.name == "checkpoint")
_save_checkpoint = schema.members.update().where(_one)


def join(connection: sa.Connection, position: int) -> int:
    """See `LedgerTransaction.join`. Numbers are given in the order in which joining becomes known."""
    hold_alone(connection, Space.ROSTER)
    row = {"alive_us": now_us(), "checkpoint": position, "expelled": False}
    number: int = connection.execute(schema.members.insert().values(row).returning(_b.number)).scalar_one()
    return number


def beat(connection: sa.Connection, member: int) -> None:
    """See `LedgerTransaction.beat`."""
    connection.execute(schema.members.update().where(_one).values(alive_us=now_us()), {"of_member": member})


def expel(connection: sa.Connection, member: int) -> None:
    """See `LedgerTransaction.expel`."""
    hold_alone(connection, Space.MEMBER, member)
    connection.execute(schema.members.update().where(_one).values(expelled=True), {"of_member": member})


def leave(connection: sa.Connection, member: int) -> None:
    """See `LedgerTransaction.leave`."""
    hold_alone(connection, Space.ROSTER)
    position = checkpoint(connection)
    connection.execute(schema.members.delete().where(_one), {"of_member": member})
    if connection.scalar(sa.select(sa.func.count()).select_from(schema.members)) == 0:
        connection.execute(_save_ledgers_checkpoint, {"value": position})


def outlast(connection: sa.Connection, member: int) -> None:
    """See `LedgerTransaction.outlast`."""
    hold_alone(connection, Space.MEMBER, member)


def guard(connection: sa.Connection, member: int, generation: int) -> None:
    """See `LedgerTransaction.guard`."""
    hold_commit(connection, member)
    # A statement of its own: it sees what was done by those for whom the one before had to wait.
    present, belongs = connection.execute(_guard, {"of_member": member}).one()
    if not belongs:
        raise ExpelledError("other processes took this one for dead: it was silent for too long")
    if present != generation:
        raise SupersededError("another process activated a revision or rebuilds live state; try again")


def advance(connection: sa.Connection) -> int:
    """See `LedgerTransaction.advance`."""
    hold_alone(connection, Space.GENERATION)
    next_one = schema.meta.update().where(_m.name == "generation").values(value=_m.value + 1)
    generation: int = connection.execute(next_one.returning(_m.value)).scalar_one()
    return generation


def generation_of(connection: sa.Connection) -> int:
    """See `Ledger.generation`."""
    return connection.scalar(_generation) or 0


def members_of(connection: sa.Connection) -> Sequence[Member]:
    """See `Ledger.members`."""
    return [Member(*row) for row in connection.execute(_all)]


def checkpoint(connection: sa.Connection) -> int:
    """See `Ledger.checkpoint`."""
    return connection.scalar(_checkpoint) or 0


def save_checkpoint(connection: sa.Connection, position: int, member: int) -> None:
    """See `LedgerTransaction.save_checkpoint`."""
    if member:
        connection.execute(_save_checkpoint, {"of_member": member, "checkpoint": position})
    else:
        connection.execute(_save_ledgers_checkpoint, {"value": position})


def live_state_id(connection: sa.Connection) -> str:
    """See `Ledger.live_state_id`."""
    return connection.scalar(sa.select(schema.live_state.c.id)) or ""


def save_live_state_id(connection: sa.Connection, id_: str) -> None:
    """See `LedgerTransaction.save_live_state_id`."""
    connection.execute(schema.live_state.delete())
    connection.execute(schema.live_state.insert(), {"id": id_})
