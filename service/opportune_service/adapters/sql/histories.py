"""The histories that the next decision reads: contacts, outcomes, prompts, deferrals."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import sqlalchemy as sa
from opportune_rulebase.policies import OutcomeKind

from opportune_service.adapters.sql import schema
from opportune_service.adapters.sql.contacts import contact_of
from opportune_service.adapters.sql.deferrals import deferral_in
from opportune_service.adapters.sql.direct import fetch
from opportune_service.adapters.sql.statements import among_ids, chunks
from opportune_service.core.verdict import ContactState, History, Outcome, Prompt

_c = schema.contacts.c
_o = schema.outcomes.c
_p = schema.prompts.c
_f = schema.deferrals.c

_since: sa.BindParameter[int] = sa.bindparam("since_us")
_now: sa.BindParameter[int] = sa.bindparam("now_us")

_contacts = (
    sa.select(schema.contacts)
    .where(
        among_ids(_c.subscriber_id),
        sa.or_(_c.at_us >= _since, _c.open_until_us > _now),
        _c.state != ContactState.RELEASED.value,
    )
    .order_by(_c.at_us, _c.decision_id)
)
# With a contact that is there only because its offer stands comes what was said of it, however old: else an
# offer that was refused long ago would look open.
_of_an_open_offer = (
    sa.exists()
    .where(_c.subscriber_id == _o.subscriber_id, _c.decision_id == _o.decision_id, _c.open_until_us > _now)
    .correlate(schema.outcomes)
)
_outcomes = (
    sa.select(
        *(_o.subscriber_id, _o.decision_id, _o.kind, _o.at_us),
        *(_o.campaign, _o.product, _o.category, _o.detail),
    )
    .where(among_ids(_o.subscriber_id), sa.or_(_o.at_us >= _since, _of_an_open_offer))
    .order_by(_o.at_us, _o.decision_id, _o.kind)
)
_prompts = (
    sa.select(_p.subscriber_id, _p.decision_id, _p.campaign, _p.channel, _p.expires_at_us)
    .where(among_ids(_p.subscriber_id), schema.OPEN_PROMPT, _p.expires_at_us > _now)
    .order_by(_p.decided_at_us, _p.decision_id)
)
_deferrals = (
    sa.select(_f.subscriber_id, _f.body).where(among_ids(_f.subscriber_id)).order_by(_f.due_us, _f.campaign)
)


def histories_of(
    connection: sa.Connection, subscriber_ids: Collection[str], since_us: int, now_us: int
) -> dict[str, History]:
    """See `LedgerTransaction.histories`. One statement a table for all of them together."""
    histories = {subscriber_id: History() for subscriber_id in subscriber_ids}
    for chunk in chunks(histories):
        where = {"ids": chunk, "since_us": since_us, "now_us": now_us}
        for row in fetch(connection, _contacts, where):
            histories[row.subscriber_id].contacts.append(contact_of(row))
        for subscriber_id, decision_id, kind, *about in fetch(connection, _outcomes, where):
            histories[subscriber_id].outcomes.append(Outcome(decision_id, OutcomeKind(kind), *about))
        for subscriber_id, *prompt in fetch(connection, _prompts, {"ids": chunk, "now_us": now_us}):
            histories[subscriber_id].prompts.append(Prompt(*prompt))
        for subscriber_id, body in fetch(connection, _deferrals, {"ids": chunk}):
            histories[subscriber_id].deferrals.append(deferral_in(body))
    return histories


def prompts_of(connection: sa.Connection, subscriber_id: str, now_us: int) -> Sequence[Prompt]:
    """See `Ledger.prompts`."""
    rows = fetch(connection, _prompts, {"ids": [subscriber_id], "now_us": now_us})
    return [Prompt(*prompt) for _, *prompt in rows]
