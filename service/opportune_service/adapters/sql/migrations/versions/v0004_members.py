"""Processes that share a ledger: the members, the generation, and which live state goes with it. And an
index by which old touches are found."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_Serial = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_Text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")

_meta = sa.table("meta", sa.column("name", sa.Text), sa.column("value", sa.BigInteger))


def upgrade() -> None:
    op.create_table(
        "members",
        sa.Column("number", _Serial, primary_key=True, autoincrement=True),
        sa.Column("alive_us", sa.BigInteger, nullable=False),
        sa.Column("checkpoint", sa.BigInteger, nullable=False),
        sa.Column("expelled", sa.Boolean, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table("live_state", sa.Column("id", _Text, primary_key=True))
    # No ledger on a server is older than this release: nobody waits while the index is made.
    op.create_index("touches_time", "touches", ["at_us"])
    op.create_index("event_counts_hour", "event_counts", ["hour"])
    op.execute(_meta.insert().values(name="generation", value=0))
    # Releases without migrations must not take it for theirs.
    op.execute(_meta.delete().where(_meta.c.name == "schema"))


def downgrade() -> None:
    # Whoever replays begins where the member that is furthest behind would.
    members = sa.table("members", sa.column("checkpoint", sa.BigInteger))
    behind = sa.select(sa.func.min(members.c.checkpoint))
    op.execute(
        _meta.update()
        .where(_meta.c.name == "checkpoint")
        .values(value=sa.func.coalesce(behind.scalar_subquery(), _meta.c.value))
    )
    op.execute(_meta.delete().where(_meta.c.name == "generation"))
    op.execute(_meta.insert().values(name="schema", value=3))
    op.drop_index("event_counts_hour", "event_counts")
    op.drop_index("touches_time", "touches")
    op.drop_table("live_state")
    op.drop_table("members")
