"""How far revisions have come, and revisions that take part as canary or shadow."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

_Serial = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_Text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")

_activations = sa.table("activations", sa.column("mode", sa.Text))


def upgrade() -> None:
    op.add_column("activations", sa.Column("mode", _Text, nullable=False, server_default="full"))
    op.add_column("activations", sa.Column("share", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("rulebases", sa.Column("signature", sa.LargeBinary))
    op.create_table(
        "rulebase_steps",
        sa.Column("seq", _Serial, primary_key=True, autoincrement=True),
        sa.Column("revision", _Text, sa.ForeignKey("rulebases.revision"), nullable=False),
        sa.Column("at_us", sa.BigInteger, nullable=False),
        sa.Column("by", _Text, nullable=False),
        sa.Column("action", _Text, nullable=False),
        sa.Column("comment", _Text, nullable=False),
        sa.Column("mode", _Text, nullable=False, server_default=""),
        sa.Column("share", sa.BigInteger, nullable=False, server_default="0"),
    )
    op.create_index("rulebase_steps_revision", "rulebase_steps", ["revision", "seq"])
    # What there is was uploaded, and some of it activated.
    op.execute(
        'INSERT INTO rulebase_steps (revision, at_us, "by", action, comment) '
        "SELECT revision, uploaded_at_us, uploaded_by, 'uploaded', comment FROM rulebases "
        "ORDER BY uploaded_at_us, revision"
    )
    op.execute(
        'INSERT INTO rulebase_steps (revision, at_us, "by", action, comment, mode) '
        "SELECT revision, at_us, \"by\", 'activated', comment, mode FROM activations ORDER BY seq"
    )


def downgrade() -> None:
    op.drop_index("rulebase_steps_revision", "rulebase_steps")
    op.drop_table("rulebase_steps")
    op.drop_column("rulebases", "signature")
    # An earlier release takes the last row for what is in force, whatever its mode.
    op.execute(_activations.delete().where(_activations.c.mode != "full"))
    op.drop_column("activations", "share")
    op.drop_column("activations", "mode")
