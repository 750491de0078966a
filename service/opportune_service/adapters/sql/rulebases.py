"""Uploaded rulebases, their activations, and since when metrics have been folded."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import sqlalchemy as sa

from opportune_service.adapters.sql import schema
from opportune_service.adapters.sql.engine import insert_many
from opportune_service.adapters.sql.locks import Space, hold_alone
from opportune_service.adapters.sql.statements import chunks, insert_new
from opportune_service.app.errors import StoreConflictError, UnknownRevisionError
from opportune_service.app.records import ActivationMode, InForce, RulebaseRow, Step, StepKind

_r = schema.rulebases.c
_a = schema.activations.c
_s = schema.rulebase_steps.c
_k = schema.coverage.c
_b = schema.backfills.c

_rows = sa.select(_r.revision, _r.name, _r.uploaded_at_us, _r.uploaded_by, _r.comment)


def save_rulebase(
    connection: sa.Connection, row: RulebaseRow, archive: bytes, signature: bytes, replace: bool
) -> bool:
    """See `LedgerTransaction.save_rulebase`. The first uploader and comment are kept."""
    uploaded = {
        "revision": row.revision,
        "name": row.name,
        "uploaded_at_us": row.uploaded_at_us,
        "uploaded_by": row.uploaded_by,
        "comment": row.comment,
        "archive": archive,
        "signature": signature or None,
    }
    if insert_new(connection, schema.rulebases, [uploaded]):
        return True
    if not replace:
        return False
    other = _r.signature.is_distinct_from(signature or None) | (_r.archive != archive)
    known = (_r.revision == row.revision) & other
    replacing = schema.rulebases.update().where(known).values(archive=archive, signature=signature or None)
    return connection.execute(replacing).rowcount > 0


def activate(
    connection: sa.Connection,
    step: Step,
    expected: str,
    coverage: Mapping[str, int],
    backfill: Collection[str],
) -> None:
    """See `LedgerTransaction.activate`."""
    hold_alone(connection, Space.RULEBASE)
    revision = step.revision
    if connection.scalar(sa.select(_r.revision).where(_r.revision == revision)) is None:
        raise UnknownRevisionError(f"no uploaded rulebase has the revision {revision!r}: upload it first")
    active = active_revision(connection)
    if active != expected:
        found = f"{active!r} is active" if active else "nothing is active"
        raise StoreConflictError(f"{found}, not {expected!r} as expected: read again what is active")
    insert_many(connection, schema.activations, [_came_into_force(step)])
    note_step(connection, step)
    known = coverage_of(connection).keys()
    for gone in chunks(known - coverage.keys()):
        connection.execute(schema.coverage.delete().where(_k.metric_key.in_(gone)))
        connection.execute(schema.backfills.delete().where(_b.metric_key.in_(gone)))
    fresh = sorted(coverage.keys() - known)
    position = connection.scalar(sa.select(sa.func.coalesce(sa.func.max(schema.log.c.position), 0)))
    new = [{"metric_key": key, "since_us": coverage[key], "position": position} for key in fresh]
    insert_many(connection, schema.coverage, new)
    if active:
        waiting = [{"metric_key": key} for key in fresh if key in backfill]
        insert_many(connection, schema.backfills, waiting)


def reset_coverage(connection: sa.Connection, keys: Collection[str], since_us: int) -> None:
    """See `LedgerTransaction.reset_coverage`."""
    hold_alone(connection, Space.RULEBASE)
    for some in chunks(keys):
        reaches_back = _k.metric_key.in_(some) & (_k.since_us < since_us)
        connection.execute(schema.coverage.update().where(reaches_back), {"since_us": since_us})


def active_revision(connection: sa.Connection) -> str:
    """The revision of the last activation in full."""
    last = sa.select(_a.revision).where(_a.mode == ActivationMode.FULL).order_by(_a.seq.desc()).limit(1)
    return connection.scalar(last) or ""


def in_force(connection: sa.Connection) -> Sequence[InForce]:
    """See `Ledger.in_force`."""
    full = sa.select(_a.seq).where(_a.mode == ActivationMode.FULL).order_by(_a.seq.desc()).limit(1)
    rows = connection.execute(
        sa.select(_a.mode, _a.revision, _a.share, _a.at_us, _a.by, _a.comment)
        .where(_a.seq >= full.scalar_subquery())
        .order_by(_a.seq)
    )
    found = {
        row.mode: InForce(row.revision, ActivationMode(row.mode), row.share, row.at_us, row.by, row.comment)
        for row in rows
    }
    return [found[mode] for mode in ActivationMode if mode in found]


def note_step(connection: sa.Connection, step: Step) -> None:
    """See `LedgerTransaction.note_step`."""
    if connection.scalar(sa.select(_r.revision).where(_r.revision == step.revision)) is None:
        raise UnknownRevisionError(f"no uploaded rulebase has the revision {step.revision!r}")
    row = {"mode": "", **_came_into_force(step), "action": step.kind.value}
    insert_many(connection, schema.rulebase_steps, [row])


def _came_into_force(step: Step) -> dict[str, object]:
    row = {"revision": step.revision, "at_us": step.at_us, "by": step.by, "comment": step.comment}
    return row | {"mode": step.mode.value if step.mode else "", "share": step.share}


def steps(connection: sa.Connection, revisions: Collection[str] | None) -> Sequence[Step]:
    """See `Ledger.steps`."""
    columns = (_s.revision, _s.at_us, _s.by, _s.action, _s.comment, _s.mode, _s.share)
    query = sa.select(*columns).order_by(_s.seq)
    if revisions is not None:
        query = query.where(_s.revision.in_(revisions))
    return [
        Step(revision, at_us, by, StepKind(kind), comment, ActivationMode(mode) if mode else None, share)
        for revision, at_us, by, kind, comment, mode, share in connection.execute(query)
    ]


def full_before(connection: sa.Connection, revision: str) -> str:
    """See `Ledger.full_before`."""
    full = _a.mode == ActivationMode.FULL
    came = sa.select(_a.seq).where(full, _a.revision == revision).order_by(_a.seq.desc()).limit(1)
    before = (
        sa.select(_a.revision)
        .where(full, _a.revision != revision, _a.seq < came.scalar_subquery())
        .order_by(_a.seq.desc())
        .limit(1)
    )
    return connection.scalar(before) or ""


def list_rulebases(
    connection: sa.Connection, after: RulebaseRow | None, limit: int | None
) -> Sequence[RulebaseRow]:
    """See `Ledger.rulebases`."""
    query = _rows.order_by(_r.uploaded_at_us.desc(), _r.revision).limit(limit)
    if after is not None:
        same = (_r.uploaded_at_us == after.uploaded_at_us) & (_r.revision > after.revision)
        query = query.where((_r.uploaded_at_us < after.uploaded_at_us) | same)
    return [RulebaseRow(*row) for row in connection.execute(query)]


def row_of(connection: sa.Connection, revision: str) -> RulebaseRow | None:
    """The upload of this revision."""
    row = connection.execute(_rows.where(_r.revision == revision)).first()
    return RulebaseRow(*row) if row else None


def archive_of(connection: sa.Connection, revision: str) -> bytes | None:
    """The uploaded archive."""
    return connection.scalar(sa.select(_r.archive).where(_r.revision == revision))


def signature_of(connection: sa.Connection, revision: str) -> bytes:
    """See `Ledger.rulebase_signature`."""
    return connection.scalar(sa.select(_r.signature).where(_r.revision == revision)) or b""


def coverage_of(connection: sa.Connection) -> Mapping[str, int]:
    """Metric key -> since when it has been folded."""
    rows = connection.execute(sa.select(_k.metric_key, _k.since_us))
    return {row.metric_key: row.since_us for row in rows}


def births_of(connection: sa.Connection) -> Mapping[str, int]:
    """Metric key -> the last log position before it became live."""
    rows = connection.execute(sa.select(_k.metric_key, _k.position))
    return {row.metric_key: row.position for row in rows}


def backfills_of(connection: sa.Connection) -> set[str]:
    """See `Ledger.backfills`."""
    return set(connection.scalars(sa.select(_b.metric_key)))


def finish_backfill(connection: sa.Connection, keys: Collection[str], since_us: Mapping[str, int]) -> None:
    """See `LedgerTransaction.finish_backfill`."""
    hold_alone(connection, Space.RULEBASE)
    for done in chunks(keys):
        connection.execute(schema.backfills.delete().where(_b.metric_key.in_(done)))
    for key, earlier_us in since_us.items():
        connection.execute(
            schema.coverage.update()
            .where(_k.metric_key == key, _k.since_us > earlier_us)
            .values(since_us=earlier_us)
        )
