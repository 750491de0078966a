"""Verdicts with what follows from them, and the histories that the next decision reads."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import islice
from typing import TypeVar

import msgspec
import sqlalchemy as sa
from opportune_rulebase.policies import Mode, OutcomeKind

from opportune_service.adapters.sql import schema
from opportune_service.adapters.sql.engine import insert_many
from opportune_service.app.records import DecisionFilter, DecisionRow, DeliveryState
from opportune_service.core.verdict import (
    Contact,
    ContactState,
    Decision,
    EventKey,
    History,
    Outcome,
    Prompt,
    Reason,
    Verdict,
)

T = TypeVar("T")

_CHUNK = 1000
# Values in one IN list; databases limit the parameters of a statement.

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Verdict)

_d = schema.decisions.c
_c = schema.contacts.c
_o = schema.outcomes.c
_p = schema.prompts.c
_v = schema.verdicts.c

_verdict_of = (
    sa.select(_v.body)
    .join_from(schema.decisions, schema.verdicts)
    .where(_d.decision_id == sa.bindparam("decision_id"))
)

_ids: sa.BindParameter[str] = sa.bindparam("ids", expanding=True)
_contacts_of = (
    sa.select(schema.contacts)
    .where(
        _c.subscriber_id.in_(_ids),
        _c.at_us >= sa.bindparam("since_us"),
        _c.state != ContactState.RELEASED.value,
    )
    .order_by(_c.at_us, _c.decision_id)
)
_outcome_columns = (_o.decision_id, _o.kind, _o.at_us, _o.campaign, _o.product, _o.category)
_outcomes_of_subscribers = (
    sa.select(_o.subscriber_id, *_outcome_columns)
    .where(_o.subscriber_id.in_(_ids), _o.at_us >= sa.bindparam("since_us"))
    .order_by(_o.at_us, _o.decision_id, _o.kind)
)
_outcomes_of_decision = (
    sa.select(*_outcome_columns)
    .where(_o.decision_id == sa.bindparam("decision_id"))
    .order_by(_o.at_us, _o.kind)
)
_open_prompts = (
    sa.select(_p.subscriber_id, _p.decision_id, _p.campaign, _p.channel, _p.expires_at_us)
    .where(_p.subscriber_id.in_(_ids), schema.OPEN_PROMPT, _p.expires_at_us > sa.bindparam("now_us"))
    .order_by(_p.decided_at_us, _p.decision_id)
)

_close_prompt = (
    schema.prompts.update()
    .where(_p.decision_id == sa.bindparam("shown_id"), schema.OPEN_PROMPT)
    .values(state="shown")
)


def chunks(items: Iterable[T], size: int = _CHUNK) -> Iterator[list[T]]:
    """`items` in lists of at most `size`."""
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk


def verdicts_of(connection: sa.Connection, keys: Collection[EventKey]) -> dict[EventKey, Verdict]:
    """The stored verdicts among `keys`."""
    found: dict[EventKey, Verdict] = {}
    for chunk in chunks(keys):
        values = {
            f"{name}{n}": value
            for n, key in enumerate(chunk)
            for name, value in (("e", key.event_id), ("s", key.source), ("i", key.subscriber_id))
        }
        for event_id, source, subscriber_id, body in connection.execute(
            _verdicts_by_key(len(chunk)), values
        ):
            found[EventKey(subscriber_id, source, event_id)] = _decoder.decode(body)
    return found


@lru_cache
def _verdicts_by_key(count: int) -> sa.TextClause:
    """A join, which looks up each key in the index. Asking for whole keys in one IN would make SQLite read
    the table from end to end; asking for event ids alone, all that share one, as those of a trigger do."""
    keys = ", ".join(f"(:e{n}, :s{n}, :i{n})" for n in range(count))
    return sa.text(
        f"WITH wanted (event_id, source, subscriber_id) AS (VALUES {keys})"  # noqa: S608 - names, no values
        " SELECT v.event_id, v.source, v.subscriber_id, v.body FROM wanted AS w CROSS JOIN verdicts AS v"
        " WHERE v.event_id = w.event_id AND v.source = w.source AND v.subscriber_id = w.subscriber_id"
    )


def verdict_of(connection: sa.Connection, decision_id: str) -> Verdict | None:
    """The verdict that a decision is part of."""
    body = connection.scalar(_verdict_of, {"decision_id": decision_id})
    return None if body is None else _decoder.decode(body)


def histories_of(
    connection: sa.Connection, subscriber_ids: Collection[str], since_us: int, now_us: int
) -> dict[str, History]:
    """A history for every one of `subscriber_ids`, three statements for all of them together."""
    histories = {subscriber_id: History() for subscriber_id in subscriber_ids}
    for chunk in chunks(histories):
        where = {"ids": chunk, "since_us": since_us}
        for row in connection.execute(_contacts_of, where):
            subscriber_id, decision_id, campaign, product, category, channel, mode, at_us, state = row
            histories[subscriber_id].contacts.append(
                Contact(
                    decision_id,
                    campaign,
                    product,
                    category,
                    channel,
                    Mode(mode),
                    at_us,
                    ContactState(state),
                )
            )
        for subscriber_id, decision_id, kind, *about in connection.execute(_outcomes_of_subscribers, where):
            histories[subscriber_id].outcomes.append(Outcome(decision_id, OutcomeKind(kind), *about))
        for subscriber_id, *prompt in connection.execute(_open_prompts, {"ids": chunk, "now_us": now_us}):
            histories[subscriber_id].prompts.append(Prompt(*prompt))
    return histories


def prompts_of(connection: sa.Connection, subscriber_id: str, now_us: int) -> Sequence[Prompt]:
    """Open prompts, oldest first."""
    rows = connection.execute(_open_prompts, {"ids": [subscriber_id], "now_us": now_us})
    return [Prompt(*prompt) for _, *prompt in rows]


def outcomes_of(connection: sa.Connection, decision_id: str) -> Sequence[Outcome]:
    """What is known to have become of a decision, oldest first."""
    rows = connection.execute(_outcomes_of_decision, {"decision_id": decision_id})
    return [Outcome(id_, OutcomeKind(kind), *about) for id_, kind, *about in rows]


def contact_row(subscriber_id: str, contact: Contact) -> dict[str, object]:
    """A row of `contacts`."""
    return {"subscriber_id": subscriber_id, **msgspec.to_builtins(contact)}


def record_verdicts(connection: sa.Connection, verdicts: Sequence[Verdict]) -> None:
    """One statement a table, however many verdicts there are."""
    bodies: list[dict[str, object]] = []
    listed: list[dict[str, object]] = []
    contacts: list[dict[str, object]] = []
    deliveries: list[dict[str, object]] = []
    prompts: list[dict[str, object]] = []
    closed: list[dict[str, object]] = []
    for verdict in verdicts:
        bodies.append(_verdict_row(verdict))
        subscriber_id = verdict.key.subscriber_id
        for decision in verdict.decisions:
            listed.append(_decision_row(verdict, decision))
            if decision.reason is not Reason.DECIDED:
                continue
            if decision.mode is Mode.AUTOMATIC or decision.shown:
                contacts.append(contact_row(subscriber_id, _reserved(verdict, decision)))
            else:
                prompts.append(_prompt_row(verdict, decision))
            if decision.mode is Mode.AUTOMATIC:
                deliveries.append(_delivery_row(verdict, decision))
            if decision.prompt_of:
                closed.append({"shown_id": decision.prompt_of})
    # Parents before what refers to them.
    insert_many(connection, schema.verdicts, bodies)
    insert_many(connection, schema.decisions, listed)
    insert_many(connection, schema.contacts, contacts)
    insert_many(connection, schema.deliveries, deliveries)
    insert_many(connection, schema.prompts, prompts)
    if closed:  # after the inserts: such a prompt may have been made in this very call
        connection.execute(_close_prompt, closed)


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
    }


def _reserved(verdict: Verdict, decision: Decision) -> Contact:
    return Contact(
        decision_id=decision.id,
        campaign=decision.campaign,
        product=decision.product,
        category=decision.category,
        channel=decision.channel,
        mode=decision.mode,
        at_us=verdict.decided_at_us,
    )


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
    connection: sa.Connection, where: DecisionFilter, after: int, limit: int, newest_first: bool
) -> Sequence[DecisionRow]:
    """A page of the list of decisions."""
    page = sa.select(
        _d.cursor, _d.decision_id, _d.subscriber_id, _d.source, _d.event_id,
        _d.decided_at_us, _d.campaign, _d.reason, _d.channel, _d.mode, _d.revision,
    ).limit(limit)  # fmt: skip
    if newest_first:
        page = page.order_by(_d.cursor.desc())
        page = page.where(_d.cursor < after) if after else page
    else:
        page = page.order_by(_d.cursor).where(_d.cursor > after)
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
