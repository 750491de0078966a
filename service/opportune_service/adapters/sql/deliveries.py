"""Leasing and settling deliveries, and what each end of one does to its contact.

A lease that ran out without a word makes its delivery *uncertain*: what may have been a contact counts as
one, so the reservation is then never released.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from opportune_rulebase.policies import Mode

from opportune_service.adapters.sql import schema
from opportune_service.adapters.sql.changes import Change, note_changes
from opportune_service.adapters.sql.contacts import commit, release, reserve_again
from opportune_service.adapters.sql.counters import count_lease
from opportune_service.adapters.sql.locks import free_rows, hold
from opportune_service.adapters.sql.statements import among_ids, select_keys
from opportune_service.adapters.sql.verdicts import decisions_of
from opportune_service.app.errors import UnknownDecisionError
from opportune_service.app.records import (
    DeadLetter,
    DeliveryState,
    Lease,
    Redriven,
    Settlement,
    Waiting,
)
from opportune_service.core.verdict import OpenPrompt

_y = schema.deliveries.c
_d = schema.decisions.c
_c = schema.contacts.c
_p = schema.prompts.c

_PENDING, _LEASED = DeliveryState.PENDING.value, DeliveryState.LEASED.value

_now: sa.BindParameter[int] = sa.bindparam("now_us", type_=sa.BigInteger)
_until: sa.BindParameter[int] = sa.bindparam("until_us", type_=sa.BigInteger)

# Leased, and somebody asks for it again: that lease ran out without a word.
_now_uncertain = sa.or_(_y.uncertain, _y.state == _LEASED)
# So that what has expired is always among what is available.
_until_or_expiry = sa.case((_until < _y.expires_at_us, _until), else_=_y.expires_at_us)

_earlier = schema.deliveries.alias("earlier").c
_awaits_earlier = sa.exists().where(
    _earlier.subscriber_id == _y.subscriber_id,
    _earlier.channel == _y.channel,
    _earlier.seq < _y.seq,
    sa.or_(
        sa.and_(_earlier.state == _PENDING, _earlier.attempts == 0, _earlier.available_at_us <= _now),
        sa.and_(_earlier.state == _LEASED, _earlier.attempts == 1, _earlier.available_at_us > _now),
    ),
)
"""Whether the first attempt of an earlier delivery to the subscriber is under way or can be made now."""

_waiting = (
    sa.select(schema.deliveries, _d.product, _d.category, _d.mode)
    .join_from(schema.deliveries, schema.decisions, _d.decision_id == _y.decision_id)
    .where(
        _y.channel == sa.bindparam("of_channel"),
        schema.LIVE_DELIVERY,
        _y.available_at_us <= _now,
        sa.or_(_y.attempts > 0, sa.not_(_awaits_earlier)),
    )
    .order_by(_y.available_at_us, _y.seq)
    .limit(sa.bindparam("most"))
)
_overdue = (
    sa.select(_y.decision_id, _y.subscriber_id)
    .where(schema.LIVE_DELIVERY, _y.expires_at_us <= _now)
    .limit(sa.bindparam("most"))
)
_overdue_prompts = (
    sa.select(_p.decision_id, _p.subscriber_id)
    .where(schema.OPEN_PROMPT, _p.expires_at_us <= _now)
    .limit(sa.bindparam("most"))
)
_expire_prompts = schema.prompts.update().where(among_ids(_p.decision_id)).values(state="expired")

_update = schema.deliveries.update().where(_y.decision_id == sa.bindparam("of_decision"))
_take = _update.values(
    state=_LEASED,
    token=sa.bindparam("new_token"),
    attempts=sa.bindparam("new_attempts"),
    uncertain=_now_uncertain,
    available_at_us=_until,
)
_postpone = _update.values(state=_PENDING, uncertain=_now_uncertain, available_at_us=_until_or_expiry)
_retry = _update.values(
    state=_PENDING, available_at_us=_until_or_expiry, changed_at_us=_now, detail=sa.bindparam("new_detail")
)
_end = _update.values(
    state=sa.bindparam("new_state"),
    uncertain=sa.bindparam("now_uncertain"),
    changed_at_us=_now,
    detail=sa.bindparam("new_detail"),
)
_redrive = _update.values(
    state=_PENDING,
    attempts=0,
    available_at_us=_now,
    expires_at_us=sa.bindparam("new_expires_at_us"),
    changed_at_us=_now,
)
_move_contact = (
    schema.contacts.update()
    .where(_c.subscriber_id == sa.bindparam("of_subscriber"), _c.decision_id == sa.bindparam("of_decision"))
    .values(
        at_us=sa.bindparam("new_at_us"),
        day=sa.bindparam("new_day"),
        open_until_us=sa.bindparam("new_open_until_us"),
        cost=sa.bindparam("new_cost"),
    )
)
_dead = sa.select(schema.deliveries).where(schema.DEAD_DELIVERY)
_prompts_on = (
    sa.select(_p.subscriber_id, _p.decision_id, _p.campaign, _p.decided_at_us)
    .where(
        _p.channel == sa.bindparam("of_channel"),
        schema.OPEN_PROMPT,
        _p.expires_at_us > _now,
        sa.tuple_(_p.decided_at_us, _p.decision_id)
        > sa.tuple_(sa.bindparam("after_us", type_=sa.BigInteger), sa.bindparam("after_id", type_=sa.Text)),
    )
    .order_by(_p.decided_at_us, _p.decision_id)
    .limit(sa.bindparam("most"))
)


def waiting(connection: sa.Connection, channel: str, limit: int, now_us: int) -> Sequence[Waiting]:
    """See `LedgerTransaction.waiting`."""
    asked = {"of_channel": channel, "now_us": now_us, "most": limit}
    found = free_rows(connection, _waiting, schema.deliveries, **asked)
    return [
        Waiting(
            decision_id=row.decision_id,
            subscriber_id=row.subscriber_id,
            channel=row.channel,
            campaign=row.campaign,
            product=row.product,
            category=row.category,
            mode=Mode(row.mode),
            content=row.content,
            token=row.token,
            attempts=row.attempts,
            uncertain=row.uncertain or row.state == _LEASED,
            expires_at_us=row.expires_at_us,
        )
        for row in found
    ]


def lease(connection: sa.Connection, leases: Sequence[Lease], day: int) -> None:
    """See `LedgerTransaction.lease`."""
    taken = [
        {
            "of_decision": each.decision_id,
            "new_token": each.token,
            "new_attempts": each.attempt,
            "until_us": each.lease_until_us,
        }
        for each in leases
    ]
    if taken:
        connection.execute(_take, taken)
    for each in leases:
        if each.attempt == 1:
            count_lease(connection, each.channel, day)


def postpone(connection: sa.Connection, decision_ids: Collection[str], until_us: int) -> None:
    """See `LedgerTransaction.postpone`."""
    if decision_ids:
        connection.execute(
            _postpone, [{"of_decision": each, "until_us": until_us} for each in decision_ids]
        )


def end_deliveries(
    connection: sa.Connection, ended: Mapping[str, DeliveryState], now_us: int, detail: str = ""
) -> None:
    """See `LedgerTransaction.end_deliveries`."""
    hold(connection, decision_ids=ended)
    rows = _rows_of(connection, ended)
    _end_rows(connection, ((row, ended[row.decision_id]) for row in rows), now_us, detail)


def expire(connection: sa.Connection, now_us: int, limit: int) -> int:
    """See `LedgerTransaction.expire`."""
    overdue = free_rows(connection, _overdue, schema.deliveries, now_us=now_us, most=limit)
    ended = dict.fromkeys((row.decision_id for row in overdue), DeliveryState.EXPIRED)
    end_deliveries(connection, ended, now_us)
    # Those that nobody was shown would stand in the way of whoever looks for open ones, more and more.
    prompts = free_rows(connection, _overdue_prompts, schema.prompts, now_us=now_us, most=limit)
    if prompts:
        connection.execute(_expire_prompts, {"ids": [row.decision_id for row in prompts]})
    return max(len(overdue), len(prompts))


def _end_rows(
    connection: sa.Connection,
    ended: Iterable[tuple[sa.Row[Any], DeliveryState]],
    now_us: int,
    detail: str,
    *,
    settled: bool = False,
) -> None:
    """`settled`: by the word of whoever holds the lease, so that this one did not run out in silence."""
    new: list[dict[str, object]] = []
    changes: list[Change] = []
    unsent: list[tuple[str, str]] = []
    for row, state in ended:
        uncertain = row.uncertain or (row.state == _LEASED and not settled)
        new.append(
            {
                "of_decision": row.decision_id,
                "new_state": state.value,
                "now_uncertain": uncertain,
                "now_us": now_us,
                "new_detail": detail or row.detail,
            }
        )
        changes.append(Change(row.subscriber_id, row.decision_id, row.campaign, now_us, state))
        if not uncertain:
            unsent.append((row.subscriber_id, row.decision_id))
    if new:
        connection.execute(_end, new)
        release(connection, unsent)
        note_changes(connection, changes)


def settle(
    connection: sa.Connection,
    decision_id: str,
    token: int,
    settlement: Settlement,
    now_us: int,
    retry_at_us: int,
    detail: str = "",
) -> bool:
    """See `LedgerTransaction.settle`. A lease that ran out may still be settled until something else
    happened to the delivery: until then its token is the newest."""
    hold(connection, decision_ids=[decision_id])
    row = next(iter(_rows_of(connection, [decision_id])), None)
    if row is None:
        raise UnknownDecisionError("no delivery belongs to a decision with this id")
    if row.token != token or row.state != _LEASED:
        return False
    said = {"of_decision": decision_id, "now_us": now_us, "new_detail": detail or row.detail}
    match settlement:
        case Settlement.RETRY:
            connection.execute(_retry, {**said, "until_us": retry_at_us})
        case Settlement.FAILED:
            _end_rows(connection, [(row, DeliveryState.FAILED)], now_us, detail, settled=True)
        case Settlement.SENT:
            sent = DeliveryState.SENT
            connection.execute(_end, {**said, "new_state": sent.value, "now_uncertain": row.uncertain})
            commit(connection, [(row.subscriber_id, decision_id)])
            note_changes(connection, [Change(row.subscriber_id, decision_id, row.campaign, now_us, sent)])
    return True


def redrive(connection: sa.Connection, redriven: Sequence[Redriven], now_us: int) -> None:
    """See `LedgerTransaction.redrive`; without the audit."""
    keys = [(each.subscriber_id, each.contact.decision_id) for each in redriven]
    contacts = [
        {
            "of_subscriber": each.subscriber_id,
            "of_decision": each.contact.decision_id,
            "new_at_us": each.contact.at_us,
            "new_day": each.contact.day,
            "new_open_until_us": each.contact.open_until_us,
            "new_cost": each.contact.cost,
        }
        for each in redriven
    ]
    deliveries = [
        {
            "of_decision": each.contact.decision_id,
            "now_us": now_us,
            "new_expires_at_us": each.expires_at_us,
        }
        for each in redriven
    ]
    if not redriven:
        return
    hold(connection, [each.subscriber_id for each in redriven])
    # Given back as it was counted, then taken again as it counts from now on.
    release(connection, keys)
    connection.execute(_move_contact, contacts)
    connection.execute(_redrive, deliveries)
    reserve_again(connection, keys)
    note_changes(
        connection,
        [
            Change(
                each.subscriber_id,
                each.contact.decision_id,
                each.contact.campaign,
                now_us,
                DeliveryState.PENDING,
            )
            for each in redriven
        ],
    )


def dead_letters(
    connection: sa.Connection, channel: str, campaign: str, before: int, limit: int
) -> Sequence[DeadLetter]:
    """See `Ledger.dead_letters`."""
    page = _dead.order_by(_y.seq.desc()).limit(limit)
    page = page.where(_y.seq < before) if before else page
    page = page.where(_y.channel == channel) if channel else page
    page = page.where(_y.campaign == campaign) if campaign else page
    return [_dead_letter(row) for row in connection.execute(page)]


def dead_letters_of(connection: sa.Connection, decision_ids: Collection[str]) -> Sequence[DeadLetter]:
    """See `Ledger.dead_letters_of`."""
    rows = _rows_of(connection, decision_ids)
    return [_dead_letter(row) for row in rows if row.state == DeliveryState.DEAD.value]


def _dead_letter(row: sa.Row[Any]) -> DeadLetter:
    return DeadLetter(
        cursor=row.seq,
        decision_id=row.decision_id,
        subscriber_id=row.subscriber_id,
        channel=row.channel,
        campaign=row.campaign,
        content=row.content,
        attempts=row.attempts,
        detail=row.detail,
        dead_at_us=row.changed_at_us,
        expires_at_us=row.expires_at_us,
    )


def prompts_on(
    connection: sa.Connection, channel: str, now_us: int, after: tuple[int, str], limit: int
) -> Sequence[OpenPrompt]:
    """See `Ledger.prompts_on`."""
    where = {"of_channel": channel, "now_us": now_us, "after_us": after[0], "after_id": after[1]}
    rows = connection.execute(_prompts_on, {**where, "most": limit}).all()
    decided = decisions_of(connection, [row.decision_id for row in rows])
    return [OpenPrompt(*row, decided[row.decision_id].trigger) for row in rows]


def delivery_of(connection: sa.Connection, decision_id: str) -> tuple[DeliveryState, int] | None:
    """State and attempts."""
    row = next(iter(_rows_of(connection, [decision_id])), None)
    return None if row is None else (DeliveryState(row.state), row.attempts)


def _rows_of(connection: sa.Connection, decision_ids: Iterable[str]) -> list[sa.Row[Any]]:
    keys = ((decision_id,) for decision_id in decision_ids)
    return list(select_keys(connection, schema.deliveries, ("decision_id",), keys))
