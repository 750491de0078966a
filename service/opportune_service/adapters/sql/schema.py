"""The ledger's tables. Instants are BIGINT microseconds, closed lists of words are text.

Whoever changes them adds a revision to `migrations`, which does the same to ledgers that there are.
"""

from __future__ import annotations

import sqlalchemy as sa

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
"""Three rows: `checkpoint` (the log position of the snapshots, as long as there are no members), `alive`
(the last instant at which the service is known to have listened) and `generation` (of what all members work
under)."""

members = sa.Table(
    "members",
    metadata,
    sa.Column("number", _Serial, primary_key=True, autoincrement=True),
    sa.Column("alive_us", sa.BigInteger, nullable=False),
    sa.Column("checkpoint", sa.BigInteger, nullable=False),
    sa.Column("expelled", sa.Boolean, nullable=False),
    sqlite_autoincrement=True,  # a number that a member had is never given to another
)
"""The processes that share the ledger. `alive_us` is by the clock of the database."""

live_state = sa.Table("live_state", metadata, sa.Column("id", _Text, primary_key=True))
"""One row at most: which store of live state goes with this ledger."""

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
"""`body` is the whole verdict as MessagePack; nothing else is needed to answer what was decided."""

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
"""What of a decision can be listed and searched; the rest is in the verdict. `superseded`: it was decided
again (a deferral that fell due, a prompt that was shown) or was itself such a decision but left the prompt
waiting, so that reports count the last word only. `fate` is "" for none."""

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
"""`decision_id` of a contact that another system made is ``ORIGIN/ID``. `content` is what such a system
said; what this service said is in the verdict."""

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
"""`body` is the whole deferral as MessagePack."""

usage = sa.Table(
    "usage",
    metadata,
    sa.Column("kind", _Text, primary_key=True),
    sa.Column("name", _Text, primary_key=True),
    sa.Column("period", sa.BigInteger, primary_key=True),
    sa.Column("value", sa.BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
"""Counters over all subscribers (`UsageKind`): always what the unreleased contacts come to, those
included that were erased since. Those of first leases only ever rise."""

event_counts = sa.Table(
    "event_counts",
    metadata,
    sa.Column("event_type", _Text, primary_key=True),
    sa.Column("hour", sa.BigInteger, primary_key=True),
    sa.Column("value", sa.BigInteger, nullable=False),
    sa.Index("event_counts_hour", "hour"),  # the old ones are pruned
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
    sa.Index("touches_time", "at_us"),  # the old ones are pruned
    sqlite_with_rowid=False,
)
"""Services, inquiries, complaints and queries, for the contact view. `said`: attributes as MessagePack."""

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
"""What happened to contacts, for export: made, moved on to another state of delivery, answered."""

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
"""What people did that must be accounted for: pauses, resumptions, erasures (`about` is then empty),
redriven dead letters. Rows are only added."""

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
"""`state` is open, shown (decided again and shown under another decision), answered or expired."""

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
"""`available_at_us`: from when it may be leased: the end of a backoff (pending) or of a lease (leased).
`uncertain`: some lease ran out without a word, so the customer may have been contacted. `detail`: what the
channel said last."""

rulebases = sa.Table(
    "rulebases",
    metadata,
    sa.Column("revision", _Text, primary_key=True),
    sa.Column("name", _Text, nullable=False),
    sa.Column("uploaded_at_us", sa.BigInteger, nullable=False),
    sa.Column("uploaded_by", _Text, nullable=False),
    sa.Column("comment", _Text, nullable=False),
    sa.Column("archive", sa.LargeBinary, nullable=False),
    sa.Column("signature", sa.LargeBinary),
)
"""`signature`: of `archive`; null if it is not signed."""

activations = sa.Table(
    "activations",
    metadata,
    sa.Column("seq", _Serial, primary_key=True, autoincrement=True),
    sa.Column("revision", _Text, sa.ForeignKey("rulebases.revision"), nullable=False),
    sa.Column("at_us", sa.BigInteger, nullable=False),
    sa.Column("by", _Text, nullable=False),
    sa.Column("comment", _Text, nullable=False),
    sa.Column("mode", _Text, nullable=False, server_default="full"),
    sa.Column("share", sa.BigInteger, nullable=False, server_default="0"),
)
"""Who let which revision take part, how, when and why. Rows are only added. In force are the last full one,
and the last canary and the last shadow after it. `share` is of a million."""

rulebase_steps = sa.Table(
    "rulebase_steps",
    metadata,
    sa.Column("seq", _Serial, primary_key=True, autoincrement=True),
    sa.Column("revision", _Text, sa.ForeignKey("rulebases.revision"), nullable=False),
    sa.Column("at_us", sa.BigInteger, nullable=False),
    sa.Column("by", _Text, nullable=False),
    sa.Column("action", _Text, nullable=False),
    sa.Column("comment", _Text, nullable=False),
    sa.Column("mode", _Text, nullable=False, server_default=""),
    sa.Column("share", sa.BigInteger, nullable=False, server_default="0"),
    sa.Index("rulebase_steps_revision", "revision", "seq"),
)
"""How a revision came as far as it has. Rows are only added. `mode` is empty unless it came into force."""

coverage = sa.Table(
    "coverage",
    metadata,
    sa.Column("metric_key", _Text, primary_key=True),
    sa.Column("since_us", sa.BigInteger, nullable=False),
    sa.Column("position", sa.BigInteger, nullable=False),
)
"""`position`: the last one of the log when the key became live."""

backfills = sa.Table(
    "backfills",
    metadata,
    sa.Column("metric_key", _Text, primary_key=True),
)
"""Keys that wait for their backfill."""

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
"""`body` is the whole rejected event as MessagePack."""

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
"""How far each source of events had come when `alive` was written. `types` is a JSON list."""
