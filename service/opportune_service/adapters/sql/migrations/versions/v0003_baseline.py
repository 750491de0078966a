"""The tables as they were before there were migrations (schema version 3)."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from alembic.operations.ops import CreateIndexOp, CreateTableOp

revision = "0003"
down_revision = None

metadata = sa.MetaData()

# SQLite numbers rows by itself only for a key that is declared exactly INTEGER.
_Serial = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

# Texts have one order on every store, that of their bytes, whatever the language of the database.
_Text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")

meta = sa.Table(
    "meta",
    metadata,
    sa.Column("name", _Text, primary_key=True),
    sa.Column("value", sa.BigInteger, nullable=False),
)

log = sa.Table(
    "log",
    metadata,
    sa.Column("position", _Serial, primary_key=True, autoincrement=False),
    sa.Column("kind", _Text, nullable=False),
    sa.Column("source", _Text, nullable=False),
    sa.Column("now_us", sa.BigInteger, nullable=False),
    sa.Column("revision", _Text, nullable=False),
    sa.Column("payload", sa.LargeBinary, nullable=False),
)

verdicts = sa.Table(
    "verdicts",
    metadata,
    # In the order of the key's index: an event id alone finds its verdict.
    sa.Column("event_id", _Text, primary_key=True),
    sa.Column("source", _Text, primary_key=True),
    sa.Column("subscriber_id", _Text, primary_key=True),
    sa.Column("body", sa.LargeBinary, nullable=False),
)

decisions = sa.Table(
    "decisions",
    metadata,
    sa.Column("cursor", _Serial, primary_key=True, autoincrement=True),
    sa.Column("decision_id", _Text, nullable=False, unique=True),
    sa.Column("subscriber_id", _Text, nullable=False),
    sa.Column("source", _Text, nullable=False),
    sa.Column("event_id", _Text, nullable=False),
    sa.Column("decided_at_us", sa.BigInteger, nullable=False),
    sa.Column("campaign", _Text, nullable=False),
    sa.Column("product", _Text, nullable=False),
    sa.Column("category", _Text, nullable=False),
    sa.Column("reason", _Text, nullable=False),
    sa.Column("channel", _Text, nullable=False),
    sa.Column("mode", _Text, nullable=False),
    sa.Column("revision", _Text, nullable=False),
    sa.Column("fate", _Text, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("shown", sa.Boolean, nullable=False),
    sa.Column("superseded", sa.Boolean, nullable=False),
    sa.ForeignKeyConstraint(
        ["subscriber_id", "source", "event_id"],
        ["verdicts.subscriber_id", "verdicts.source", "verdicts.event_id"],
        onupdate="CASCADE",  # an event id may name somebody who is erased
    ),
    sa.Index("decisions_subscriber", "subscriber_id", "cursor"),
    sa.Index("decisions_campaign", "campaign", "cursor"),
    sa.Index("decisions_time", "decided_at_us"),
    sqlite_autoincrement=True,  # a cursor that a reader holds is never given to another row
)

contacts = sa.Table(
    "contacts",
    metadata,
    # The subscriber leads the key so that a history lies in one place. No foreign key: contacts that
    # other systems made have no decision here, and count all the same.
    sa.Column("subscriber_id", _Text, primary_key=True),
    sa.Column("decision_id", _Text, primary_key=True),
    sa.Column("campaign", _Text, nullable=False),
    sa.Column("product", _Text, nullable=False),
    sa.Column("category", _Text, nullable=False),
    sa.Column("channel", _Text, nullable=False),
    sa.Column("mode", _Text, nullable=False),
    sa.Column("at_us", sa.BigInteger, nullable=False),
    sa.Column("state", _Text, nullable=False),
    sa.Column("control", sa.Boolean, nullable=False),
    sa.Column("origin", _Text, nullable=False),
    sa.Column("open_until_us", sa.BigInteger, nullable=False),
    sa.Column("day", sa.BigInteger, nullable=False),
    sa.Column("cost", sa.BigInteger, nullable=False),
    sa.Column("content", _Text, nullable=False),
    # With all that counting them asks for: a complaint counts a day of a campaign, which may be a million.
    sa.Index("contacts_campaign", "campaign", "at_us", "state", "control", "origin"),
    sa.Index("contacts_time", "at_us"),  # reports on channels and on subscribers read a period of all
    sqlite_with_rowid=False,
)

deferrals = sa.Table(
    "deferrals",
    metadata,
    sa.Column("subscriber_id", _Text, primary_key=True),
    sa.Column("campaign", _Text, primary_key=True),
    sa.Column("decision_id", _Text, nullable=False),
    sa.Column("due_us", sa.BigInteger, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Index("deferrals_due", "due_us"),
    sqlite_with_rowid=False,
)

usage = sa.Table(
    "usage",
    metadata,
    sa.Column("kind", _Text, primary_key=True),
    sa.Column("name", _Text, primary_key=True),
    sa.Column("period", sa.BigInteger, primary_key=True),
    sa.Column("value", sa.BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

event_counts = sa.Table(
    "event_counts",
    metadata,
    sa.Column("event_type", _Text, primary_key=True),
    sa.Column("hour", sa.BigInteger, primary_key=True),
    sa.Column("value", sa.BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

touches = sa.Table(
    "touches",
    metadata,
    sa.Column("subscriber_id", _Text, primary_key=True),
    sa.Column("source", _Text, primary_key=True),
    sa.Column("event_id", _Text, primary_key=True),
    sa.Column("at_us", sa.BigInteger, nullable=False),
    sa.Column("kind", _Text, nullable=False),
    sa.Column("said", sa.LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)

contact_changes = sa.Table(
    "contact_changes",
    metadata,
    sa.Column("cursor", _Serial, primary_key=True, autoincrement=True),
    sa.Column("subscriber_id", _Text, nullable=False),
    sa.Column("decision_id", _Text, nullable=False),
    sa.Column("campaign", _Text, nullable=False),
    sa.Column("state", _Text, nullable=False),
    sa.Column("outcome", _Text, nullable=False),
    sa.Column("at_us", sa.BigInteger, nullable=False),
    sa.Index("contact_changes_subscriber", "subscriber_id"),
    sqlite_autoincrement=True,
)

pauses = sa.Table(
    "pauses",
    metadata,
    sa.Column("campaign", _Text, primary_key=True),
    sa.Column("at_us", sa.BigInteger, nullable=False),
    sa.Column("by", _Text, nullable=False),
    sa.Column("reason", _Text, nullable=False),
)

audit = sa.Table(
    "audit",
    metadata,
    sa.Column("seq", _Serial, primary_key=True, autoincrement=True),
    sa.Column("at_us", sa.BigInteger, nullable=False),
    sa.Column("by", _Text, nullable=False),
    sa.Column("action", _Text, nullable=False),
    sa.Column("about", _Text, nullable=False),
    sa.Column("reason", _Text, nullable=False),
)

# These conditions are literal text because a partial index serves only a query that repeats its
# condition literally.
OPEN_PROMPT = sa.text("state = 'open'")
DEAD_DELIVERY = sa.text("state = 'dead'")
COMPLAINT = sa.text("kind = 'complained'")
LIVE_DELIVERY = sa.text("state IN ('pending', 'leased')")

outcomes = sa.Table(
    "outcomes",
    metadata,
    sa.Column("decision_id", _Text, sa.ForeignKey("decisions.decision_id"), primary_key=True),
    sa.Column("kind", _Text, primary_key=True),
    sa.Column("subscriber_id", _Text, nullable=False),
    sa.Column("campaign", _Text, nullable=False),
    sa.Column("product", _Text, nullable=False),
    sa.Column("category", _Text, nullable=False),
    sa.Column("at_us", sa.BigInteger, nullable=False),
    sa.Column("detail", _Text, nullable=False),
    sa.Index("outcomes_subscriber", "subscriber_id", "at_us"),
    sa.Index(
        "outcomes_complaints", *("campaign", "at_us"), sqlite_where=COMPLAINT, postgresql_where=COMPLAINT
    ),
    sqlite_with_rowid=False,
)

prompts = sa.Table(
    "prompts",
    metadata,
    sa.Column("decision_id", _Text, sa.ForeignKey("decisions.decision_id"), primary_key=True),
    sa.Column("subscriber_id", _Text, nullable=False),
    sa.Column("campaign", _Text, nullable=False),
    sa.Column("channel", _Text, nullable=False),
    sa.Column("decided_at_us", sa.BigInteger, nullable=False),
    sa.Column("expires_at_us", sa.BigInteger, nullable=False),
    sa.Column("state", _Text, nullable=False),
    sa.Index("prompts_open", "subscriber_id", sqlite_where=OPEN_PROMPT, postgresql_where=OPEN_PROMPT),
    sa.Index("prompts_expiry", "expires_at_us", sqlite_where=OPEN_PROMPT, postgresql_where=OPEN_PROMPT),
    sa.Index(
        "prompts_channel",
        *("channel", "decided_at_us", "decision_id"),
        sqlite_where=OPEN_PROMPT,
        postgresql_where=OPEN_PROMPT,
    ),
    sqlite_with_rowid=False,
)

deliveries = sa.Table(
    "deliveries",
    metadata,
    sa.Column("seq", _Serial, primary_key=True, autoincrement=True),
    sa.Column("decision_id", _Text, sa.ForeignKey("decisions.decision_id"), nullable=False, unique=True),
    sa.Column("subscriber_id", _Text, nullable=False),
    sa.Column("channel", _Text, nullable=False),
    sa.Column("campaign", _Text, nullable=False),
    sa.Column("content", _Text, nullable=False),
    sa.Column("state", _Text, nullable=False),
    sa.Column("token", sa.BigInteger, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("uncertain", sa.Boolean, nullable=False),
    sa.Column("available_at_us", sa.BigInteger, nullable=False),
    sa.Column("expires_at_us", sa.BigInteger, nullable=False),
    sa.Column("changed_at_us", sa.BigInteger, nullable=False),
    sa.Column("detail", _Text, nullable=False),
    sa.Index("deliveries_dead", "seq", sqlite_where=DEAD_DELIVERY, postgresql_where=DEAD_DELIVERY),
    sa.Index("deliveries_subscriber", "subscriber_id", "channel"),
    sa.Index(
        "deliveries_live",
        *("channel", "available_at_us", "seq"),
        sqlite_where=LIVE_DELIVERY,
        postgresql_where=LIVE_DELIVERY,
    ),
    sa.Index(
        "deliveries_expiry", "expires_at_us", sqlite_where=LIVE_DELIVERY, postgresql_where=LIVE_DELIVERY
    ),
)

rulebases = sa.Table(
    "rulebases",
    metadata,
    sa.Column("revision", _Text, primary_key=True),
    sa.Column("name", _Text, nullable=False),
    sa.Column("uploaded_at_us", sa.BigInteger, nullable=False),
    sa.Column("uploaded_by", _Text, nullable=False),
    sa.Column("comment", _Text, nullable=False),
    sa.Column("archive", sa.LargeBinary, nullable=False),
)

activations = sa.Table(
    "activations",
    metadata,
    sa.Column("seq", _Serial, primary_key=True, autoincrement=True),
    sa.Column("revision", _Text, sa.ForeignKey("rulebases.revision"), nullable=False),
    sa.Column("at_us", sa.BigInteger, nullable=False),
    sa.Column("by", _Text, nullable=False),
    sa.Column("comment", _Text, nullable=False),
)

coverage = sa.Table(
    "coverage",
    metadata,
    sa.Column("metric_key", _Text, primary_key=True),
    sa.Column("since_us", sa.BigInteger, nullable=False),
    sa.Column("position", sa.BigInteger, nullable=False),
)

backfills = sa.Table(
    "backfills",
    metadata,
    sa.Column("metric_key", _Text, primary_key=True),
)

sweeps = sa.Table(
    "sweeps",
    metadata,
    sa.Column("due_us", sa.BigInteger, primary_key=True),
    sa.Column("trigger", _Text, primary_key=True),
    sa.Column("zone", _Text, primary_key=True),
    sqlite_with_rowid=False,
)

quarantine = sa.Table(
    "quarantine",
    metadata,
    sa.Column("cursor", _Serial, primary_key=True, autoincrement=True),
    sa.Column("source", _Text, nullable=False),
    sa.Column("reason", _Text, nullable=False),
    sa.Column("received_us", sa.BigInteger, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sqlite_autoincrement=True,  # a page that begins at a cursor must not find other rows there
)

states = sa.Table(
    "states",
    metadata,
    sa.Column("subscriber_id", _Text, primary_key=True),
    sa.Column("position", sa.BigInteger, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
)

sources = sa.Table(
    "sources",
    metadata,
    sa.Column("source", _Text, primary_key=True),
    sa.Column("shown_us", sa.BigInteger, nullable=False),
    sa.Column("heard_us", sa.BigInteger, nullable=False),
    sa.Column("types", _Text, nullable=False),
)


def upgrade() -> None:
    for table in metadata.sorted_tables:
        op.invoke(CreateTableOp.from_table(table))
        for index in sorted(table.indexes, key=lambda each: each.name or ""):
            op.invoke(CreateIndexOp.from_index(index))
    for name, value in {"schema": 3, "checkpoint": 0, "alive": 0}.items():
        op.execute(meta.insert().values(name=name, value=value))


def downgrade() -> None:
    for table in reversed(metadata.sorted_tables):
        op.drop_table(table.name)
