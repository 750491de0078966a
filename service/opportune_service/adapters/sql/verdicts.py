"""Verdicts, and what follows from them at once."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec
import sqlalchemy as sa
from opportune_rulebase.policies import Mode

from opportune_service.adapters.sql import schema
from opportune_service.adapters.sql.changes import Change, note_changes
from opportune_service.adapters.sql.contacts import add_contacts
from opportune_service.adapters.sql.cursors import draw
from opportune_service.adapters.sql.deferrals import record_deferrals
from opportune_service.adapters.sql.engine import insert_many
from opportune_service.adapters.sql.locks import hold
from opportune_service.adapters.sql.statements import among_ids, chunks, select_keys
from opportune_service.app.records import DecisionFilter, DecisionRow, DeliveryState
from opportune_service.core.decide import contact_made
from opportune_service.core.verdict import (
    Contact,
    Decision,
    EventKey,
    Reason,
    Verdict,
)

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Verdict)

_d = schema.decisions.c
_p = schema.prompts.c
_v = schema.verdicts.c

_verdict_of = (
    sa.select(_v.body)
    .join_from(schema.decisions, schema.verdicts)
    .where(_d.decision_id == sa.bindparam("decision_id"))
)

_verdicts_with = (
    sa.select(_v.body).join_from(schema.decisions, schema.verdicts).where(among_ids(_d.decision_id))
)
_supersede = (
    schema.decisions.update().where(_d.decision_id == sa.bindparam("earlier_id")).values(superseded=True)
)
_close_prompt = (
    schema.prompts.update()
    .where(_p.decision_id == sa.bindparam("shown_id"), schema.OPEN_PROMPT)
    .values(state="shown")
)


def verdicts_of(connection: sa.Connection, keys: Collection[EventKey]) -> dict[EventKey, Verdict]:
    """The stored verdicts among `keys`."""
    wanted = ((key.event_id, key.source, key.subscriber_id) for key in keys)
    rows = select_keys(connection, schema.verdicts, ("event_id", "source", "subscriber_id"), wanted)
    return {
        EventKey(row.subscriber_id, row.source, row.event_id): _decoder.decode(row.body) for row in rows
    }


def verdict_of(connection: sa.Connection, decision_id: str) -> Verdict | None:
    """The verdict that a decision is part of."""
    body = connection.scalar(_verdict_of, {"decision_id": decision_id})
    return None if body is None else _decoder.decode(body)


def decisions_of(connection: sa.Connection, decision_ids: Collection[str]) -> dict[str, Decision]:
    """These decisions, whole; without those that are not known."""
    wanted = set(decision_ids)
    return {
        decision.id: decision
        for chunk in chunks(sorted(wanted))
        for body in connection.scalars(_verdicts_with, {"ids": chunk})
        for decision in _decoder.decode(body).decisions
        if decision.id in wanted
    }


def record_verdicts(connection: sa.Connection, verdicts: Sequence[Verdict]) -> None:
    """See `LedgerTransaction.record_verdicts`. One statement a table, however many verdicts there are."""
    bodies: list[dict[str, object]] = []
    listed: list[dict[str, object]] = []
    contacts: list[tuple[str, Contact, str]] = []
    changes: list[Change] = []
    deliveries: list[dict[str, object]] = []
    prompts: list[dict[str, object]] = []
    closed: list[dict[str, object]] = []
    superseded: list[dict[str, object]] = []
    for verdict in verdicts:
        bodies.append(_verdict_row(verdict))
        subscriber_id = verdict.key.subscriber_id
        for decision in verdict.decisions:
            listed.append(_decision_row(verdict, decision))
            if decision.reserves:
                contacts.append((subscriber_id, contact_made(decision, verdict.decided_at_us), ""))
                delivered = decision.reason is Reason.DECIDED and (
                    decision.mode is Mode.AUTOMATIC or decision.bulk
                )
                changes.append(
                    Change(
                        subscriber_id,
                        decision.id,
                        decision.campaign,
                        verdict.decided_at_us,
                        DeliveryState.PENDING if delivered else None,
                    )
                )
                if delivered:
                    deliveries.append(_delivery_row(verdict, decision))
                if decision.prompt_of:
                    closed.append({"shown_id": decision.prompt_of})
                    superseded.append({"earlier_id": decision.prompt_of})
            elif decision.reason is Reason.DECIDED:
                prompts.append(_prompt_row(verdict, decision))
            if decision.deferred_of:
                superseded.append({"earlier_id": decision.deferred_of})
    hold(connection, [verdict.key.subscriber_id for verdict in verdicts])
    draw(connection)
    # Parents before what refers to them.
    insert_many(connection, schema.verdicts, bodies)
    insert_many(connection, schema.decisions, listed)
    add_contacts(connection, contacts)
    insert_many(connection, schema.deliveries, deliveries)
    insert_many(connection, schema.prompts, prompts)
    record_deferrals(connection, verdicts)
    note_changes(connection, changes)
    if closed:  # after the inserts: such a prompt may have been made in this very call
        connection.execute(_close_prompt, closed)
    if superseded:
        connection.execute(_supersede, superseded)


def _verdict_row(verdict: Verdict) -> dict[str, object]:
    key = verdict.key
    return {
        "subscriber_id": key.subscriber_id,
        "source": key.source,
        "event_id": key.event_id,
        "body": _encoder.encode(verdict),
    }


def _decision_row(verdict: Verdict, decision: Decision) -> dict[str, object]:
    key = verdict.key
    return {
        "decision_id": decision.id,
        "subscriber_id": key.subscriber_id,
        "source": key.source,
        "event_id": key.event_id,
        "decided_at_us": verdict.decided_at_us,
        "campaign": decision.campaign,
        "product": decision.product,
        "category": decision.category,
        "reason": decision.reason.value,
        "channel": decision.channel,
        "mode": decision.mode.value,
        "revision": verdict.revision,
        "fate": decision.fate.value if decision.fate else "",
        "attempt": decision.attempt,
        "shown": decision.shown,
        # One that leaves its prompt waiting has not the last word: the prompt has.
        "superseded": bool(decision.prompt_of) and not decision.reserves,
    }


def _delivery_row(verdict: Verdict, decision: Decision) -> dict[str, object]:
    return {
        "decision_id": decision.id,
        "subscriber_id": verdict.key.subscriber_id,
        "channel": decision.channel,
        "campaign": decision.campaign,
        "content": decision.content,
        "state": DeliveryState.PENDING.value,
        "token": 0,
        "attempts": 0,
        "uncertain": False,
        "available_at_us": verdict.decided_at_us,
        "expires_at_us": decision.expires_at_us,
        "changed_at_us": verdict.decided_at_us,
        "detail": "",
    }


def _prompt_row(verdict: Verdict, decision: Decision) -> dict[str, object]:
    return {
        "decision_id": decision.id,
        "subscriber_id": verdict.key.subscriber_id,
        "campaign": decision.campaign,
        "channel": decision.channel,
        "decided_at_us": verdict.decided_at_us,
        "expires_at_us": decision.expires_at_us,
        "state": "open",
    }


def list_decisions(
    connection: sa.Connection,
    where: DecisionFilter,
    after: int,
    limit: int,
    newest_first: bool,
    up_to: int,
) -> Sequence[DecisionRow]:
    """See `Ledger.decisions`. `up_to`: of those that are listed oldest first, the last."""
    page = sa.select(
        _d.cursor, _d.decision_id, _d.subscriber_id, _d.source, _d.event_id,
        _d.decided_at_us, _d.campaign, _d.reason, _d.channel, _d.mode, _d.revision,
    ).limit(limit)  # fmt: skip
    if newest_first:
        page = page.order_by(_d.cursor.desc())
        page = page.where(_d.cursor < after) if after else page
    else:
        page = page.order_by(_d.cursor).where(_d.cursor > after, _d.cursor <= up_to)
    if where.subscriber_id:
        page = page.where(_d.subscriber_id == where.subscriber_id)
    if where.campaign:
        page = page.where(_d.campaign == where.campaign)
    if where.reasons:
        page = page.where(_d.reason.in_([reason.value for reason in where.reasons]))
    if where.from_us:
        page = page.where(_d.decided_at_us >= where.from_us)
    if where.to_us:
        page = page.where(_d.decided_at_us < where.to_us)
    return [
        DecisionRow(
            cursor=row.cursor,
            decision_id=row.decision_id,
            key=EventKey(row.subscriber_id, row.source, row.event_id),
            decided_at_us=row.decided_at_us,
            campaign=row.campaign,
            reason=Reason(row.reason),
            channel=row.channel,
            mode=row.mode,
            revision=row.revision,
        )
        for row in connection.execute(page)
    ]
