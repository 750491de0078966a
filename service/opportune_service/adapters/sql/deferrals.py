"""Candidates that wait to be decided again: one of a subscriber and campaign at most."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import sqlalchemy as sa

from opportune_service.adapters.sql import schema
from opportune_service.adapters.sql.statements import put_many
from opportune_service.core.decide import deferral_of
from opportune_service.core.verdict import Deferral, Verdict

_f = schema.deferrals.c
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Deferral)

_end = schema.deferrals.delete().where(
    _f.subscriber_id == sa.bindparam("of_subscriber"),
    _f.campaign == sa.bindparam("of_campaign"),
    _f.decision_id == sa.bindparam("of_decision"),
)
_due = _f.due_us <= sa.bindparam("until_us")
_first = (
    sa.select(_f.subscriber_id)
    .where(_due)
    .order_by(_f.due_us, _f.subscriber_id, _f.campaign)
    .limit(sa.bindparam("most"))
    .subquery()
)
_all_due = (
    sa.select(_f.body)
    .where(_due, _f.subscriber_id.in_(sa.select(_first.c.subscriber_id)))
    .order_by(_f.due_us, _f.subscriber_id, _f.campaign)
)


def record_deferrals(connection: sa.Connection, verdicts: Sequence[Verdict]) -> None:
    """Keep what these verdicts defer and end what they decided again, as if one came after the other."""
    ended: list[dict[str, object]] = []
    open_: dict[tuple[str, str], Deferral] = {}
    for verdict in verdicts:
        subscriber_id = verdict.key.subscriber_id
        for decision in verdict.decisions:
            place = (subscriber_id, decision.campaign)
            if decision.deferred_of:
                if place in open_ and open_[place].decision_id == decision.deferred_of:
                    del open_[place]
                ended.append(
                    {
                        "of_subscriber": subscriber_id,
                        "of_campaign": decision.campaign,
                        "of_decision": decision.deferred_of,
                    }
                )
            if deferral := deferral_of(subscriber_id, decision):
                open_[place] = deferral
    if ended:
        connection.execute(_end, ended)
    rows = [
        {
            "subscriber_id": deferral.subscriber_id,
            "campaign": deferral.campaign,
            "decision_id": deferral.decision_id,
            "due_us": deferral.due_us,
            "body": _encoder.encode(deferral),
        }
        for deferral in open_.values()
    ]
    put_many(connection, schema.deferrals, rows)


def deferral_in(body: bytes) -> Deferral:
    """The deferral in a row's `body`."""
    return _decoder.decode(body)


def due_deferrals(connection: sa.Connection, until_us: int, limit: int) -> Sequence[Deferral]:
    """See `Ledger.due_deferrals`."""
    rows = connection.execute(_all_due, {"until_us": until_us, "most": limit})
    return [deferral_in(row.body) for row in rows]
