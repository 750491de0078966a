"""Leasing and settling deliveries, and what outcomes do to the contacts they are about.

Every reservation ends in one of three ways: committed (sent, or a person says the talk took place),
released (certain that the customer was not contacted), or left reserved for good because nobody knows:
some lease ran out without a word, and what may have been a contact counts as one.
"""

from __future__ import annotations

import sqlalchemy as sa
from opportune_rulebase.policies import Mode, OutcomeKind

from opportune_service.adapters.sql import schema
from opportune_service.adapters.sql.verdicts import contact_row
from opportune_service.app.errors import UnknownDecisionError
from opportune_service.app.records import DeliveryState, Lease, Settlement
from opportune_service.core.verdict import Contact, ContactState, Reason

_MIN_PAGE = 100
# Rows looked at in a further statement: a lease for one message must not crawl over expired ones singly.

_y = schema.deliveries.c
_c = schema.contacts.c
_d = schema.decisions.c
_o = schema.outcomes.c
_p = schema.prompts.c

_due = (
    sa.select(schema.deliveries)
    .where(
        _y.channel == sa.bindparam("of_channel"),
        schema.LIVE_DELIVERY,
        sa.or_(_y.available_at_us <= sa.bindparam("now_us"), _y.expires_at_us <= sa.bindparam("now_us")),
    )
    .order_by(_y.seq)
    .limit(sa.bindparam("page"))
)
_take = (
    schema.deliveries.update()
    .where(_y.decision_id == sa.bindparam("of_decision"))
    .values(
        state=DeliveryState.LEASED.value,
        token=sa.bindparam("new_token"),
        attempts=sa.bindparam("new_attempts"),
        uncertain=sa.bindparam("now_uncertain"),
        available_at_us=sa.bindparam("until_us"),
        changed_at_us=sa.bindparam("now_us"),
    )
)
_end = (
    schema.deliveries.update()
    .where(_y.decision_id == sa.bindparam("of_decision"))
    .values(
        state=sa.bindparam("new_state"),
        uncertain=sa.bindparam("now_uncertain"),
        changed_at_us=sa.bindparam("now_us"),
    )
)
_delivery = sa.select(_y.subscriber_id, _y.state, _y.token, _y.attempts, _y.uncertain).where(
    _y.decision_id == sa.bindparam("of_decision")
)
_settle = (
    schema.deliveries.update()
    .where(_y.decision_id == sa.bindparam("of_decision"))
    .values(
        state=sa.bindparam("new_state"),
        available_at_us=sa.bindparam("new_available_at_us"),
        changed_at_us=sa.bindparam("now_us"),
    )
)
_delivered = (
    schema.deliveries.update()
    .where(_y.decision_id == sa.bindparam("of_decision"))
    .values(state=DeliveryState.DELIVERED.value, changed_at_us=sa.bindparam("now_us"))
)
_stop = (
    schema.deliveries.update()
    .where(_y.decision_id == sa.bindparam("of_decision"), schema.LIVE_DELIVERY)
    .values(state=sa.bindparam("new_state"), changed_at_us=sa.bindparam("now_us"))
)

_contact_key = sa.and_(
    _c.subscriber_id == sa.bindparam("of_subscriber"), _c.decision_id == sa.bindparam("of_decision")
)
_commit = schema.contacts.update().where(_contact_key).values(state=ContactState.COMMITTED.value)
_release = (
    schema.contacts.update()
    .where(_contact_key, _c.state == ContactState.RESERVED.value)
    .values(state=ContactState.RELEASED.value)
)

_decision = sa.select(
    _d.subscriber_id, _d.decided_at_us, _d.campaign, _d.product, _d.category, _d.channel, _d.mode, _d.reason
).where(_d.decision_id == sa.bindparam("of_decision"))
_known = sa.select(_o.kind).where(
    _o.decision_id == sa.bindparam("of_decision"), _o.kind == sa.bindparam("of_kind")
)
_insert_outcome = schema.outcomes.insert()
_insert_contact = schema.contacts.insert()
_answer = (
    schema.prompts.update()
    .where(_p.decision_id == sa.bindparam("of_decision"), schema.OPEN_PROMPT)
    .values(state="answered")
)


def lease(
    connection: sa.Connection, channel: str, limit: int, now_us: int, lease_for_us: int, max_attempts: int
) -> list[Lease]:
    """See `LedgerTransaction.lease`. Works through what has expired on the way to what can be leased."""
    leases: list[Lease] = []
    page = limit
    while len(leases) < limit:
        due = connection.execute(_due, {"of_channel": channel, "now_us": now_us, "page": page}).all()
        taken: list[dict[str, object]] = []
        ended: list[dict[str, object]] = []
        unsent: list[dict[str, object]] = []
        for row in due:
            if len(leases) == limit:
                break
            # Leased and due again: that lease ran out without a word.
            uncertain = row.uncertain or row.state == DeliveryState.LEASED.value
            change = {"of_decision": row.decision_id, "now_uncertain": uncertain, "now_us": now_us}
            if row.expires_at_us <= now_us or row.attempts >= max_attempts:
                end = DeliveryState.EXPIRED if row.expires_at_us <= now_us else DeliveryState.DEAD
                ended.append({**change, "new_state": end.value})
                if not uncertain:
                    unsent.append({"of_decision": row.decision_id, "of_subscriber": row.subscriber_id})
            else:
                given = _next_lease(row, min(now_us + lease_for_us, row.expires_at_us))
                leases.append(given)
                new = {
                    "new_token": given.token,
                    "new_attempts": given.attempt,
                    "until_us": given.lease_until_us,
                }
                taken.append({**change, **new})
        if taken:
            connection.execute(_take, taken)
        if ended:
            connection.execute(_end, ended)
        if unsent:
            connection.execute(_release, unsent)
        if len(due) < page:
            break
        page = max(limit - len(leases), _MIN_PAGE)
    return leases


def _next_lease(row: sa.Row[tuple[object, ...]], until_us: int) -> Lease:
    return Lease(
        decision_id=row.decision_id,
        token=row.token + 1,
        attempt=row.attempts + 1,
        subscriber_id=row.subscriber_id,
        channel=row.channel,
        campaign=row.campaign,
        content=row.content,
        lease_until_us=until_us,
        expires_at_us=row.expires_at_us,
    )


def settle(
    connection: sa.Connection,
    decision_id: str,
    token: int,
    settlement: Settlement,
    now_us: int,
    retry_at_us: int,
) -> bool:
    """See `LedgerTransaction.settle`. A lease that ran out may still be settled until something else
    happened to the delivery: until then its token is the newest."""
    which = {"of_decision": decision_id}
    row = connection.execute(_delivery, which).one_or_none()
    if row is None:
        raise UnknownDecisionError(f"no delivery belongs to decision {decision_id}")
    if row.token != token or row.state != DeliveryState.LEASED.value:
        return False
    state, available_at_us = {
        Settlement.SENT: (DeliveryState.SENT, now_us),
        Settlement.RETRY: (DeliveryState.PENDING, retry_at_us),
        Settlement.FAILED: (DeliveryState.FAILED, now_us),
    }[settlement]
    new = {"new_state": state.value, "new_available_at_us": available_at_us, "now_us": now_us}
    connection.execute(_settle, {**which, **new})
    contact = {**which, "of_subscriber": row.subscriber_id}
    if state is DeliveryState.SENT:
        connection.execute(_commit, contact)
    elif state is DeliveryState.FAILED and not row.uncertain:
        connection.execute(_release, contact)
    return True


def record_outcome(connection: sa.Connection, decision_id: str, kind: OutcomeKind, at_us: int) -> bool:
    """See `LedgerTransaction.record_outcome`.

    Evidence of a contact outweighs the word that there was none, in whichever order they come. It also
    ends a delivery that is still live: what has reached the customer is not sent again.
    """
    which = {"of_decision": decision_id}
    decision = connection.execute(_decision, which).one_or_none()
    if decision is None:
        raise UnknownDecisionError(f"no decision has the id {decision_id}")
    if decision.reason != Reason.DECIDED.value:
        raise UnknownDecisionError(
            f"decision {decision_id} let no offer out ({decision.reason}): it can have no outcome"
        )
    if connection.execute(_known, {**which, "of_kind": kind.value}).first():
        return False
    at_us = max(at_us, decision.decided_at_us)  # an earlier one would escape caps and cool-downs
    connection.execute(
        _insert_outcome,
        {
            "decision_id": decision_id,
            "kind": kind.value,
            "subscriber_id": decision.subscriber_id,
            "campaign": decision.campaign,
            "product": decision.product,
            "category": decision.category,
            "at_us": at_us,
        },
    )
    contacted = kind is not OutcomeKind.NOT_OFFERED
    if connection.execute(_answer, which).rowcount:
        # A prompt that was answered though nobody noted that it was shown: the talk took place.
        if contacted:
            contact = Contact(
                decision_id=decision_id,
                campaign=decision.campaign,
                product=decision.product,
                category=decision.category,
                channel=decision.channel,
                mode=Mode(decision.mode),
                at_us=at_us,
                state=ContactState.COMMITTED,
            )
            connection.execute(_insert_contact, contact_row(decision.subscriber_id, contact))
        return True
    contact_key = {**which, "of_subscriber": decision.subscriber_id}
    connection.execute(_commit if contacted else _release, contact_key)
    change = {**which, "now_us": at_us}
    if kind is OutcomeKind.DELIVERED:
        connection.execute(_delivered, change)
    else:
        state = DeliveryState.SENT if contacted else DeliveryState.FAILED
        connection.execute(_stop, {**change, "new_state": state.value})
    return True


def delivery_of(connection: sa.Connection, decision_id: str) -> tuple[DeliveryState, int] | None:
    """State and attempts."""
    row = connection.execute(_delivery, {"of_decision": decision_id}).one_or_none()
    return None if row is None else (DeliveryState(row.state), row.attempts)
