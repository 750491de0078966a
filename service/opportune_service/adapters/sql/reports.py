"""What campaigns and channels did in a period, counted by the database."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence

import sqlalchemy as sa
from opportune_rulebase.policies import Mode, OutcomeKind

from opportune_service.adapters.sql import schema
from opportune_service.adapters.sql.engine import patient
from opportune_service.app.records import CampaignFigures, ChannelFigures
from opportune_service.core.verdict import ContactState, Reason

_HOUR_US = 3_600_000_000
_SECOND_US = 1_000_000

ANSWERS = (
    *(OutcomeKind.INQUIRED, OutcomeKind.ACCEPTED, OutcomeKind.REFUSED),
    *(OutcomeKind.COMPLAINED, OutcomeKind.LATER),
)
"""Outcomes that are the customer's own word."""

_d = schema.decisions.c
_c = schema.contacts.c
_o = schema.outcomes.c
_e = schema.event_counts.c

_from: sa.BindParameter[int] = sa.bindparam("from_us")
_to: sa.BindParameter[int] = sa.bindparam("to_us")
_campaigns: sa.BindParameter[str] = sa.bindparam("campaigns", expanding=True)

_ended = (
    sa.select(_d.campaign, _d.reason, sa.func.count())
    .where(_d.decided_at_us >= _from, _d.decided_at_us < _to, ~_d.superseded, _d.campaign.in_(_campaigns))
    .group_by(_d.campaign, _d.reason)
)
_in_period = (_c.campaign.in_(_campaigns), _c.at_us >= _from, _c.at_us < _to, _c.origin == "")
# Whoever was shown an offer was contacted; what is delivered, on bulk channels too, counts as sent when its
# channel says so.
_delivered = sa.exists().where(schema.deliveries.c.decision_id == _c.decision_id)
_sent = sa.or_(
    _c.state == ContactState.COMMITTED.value,
    sa.and_(_c.mode == Mode.MANUAL.value, _c.state == ContactState.RESERVED.value, ~_delivered),
)
_made = (
    sa.select(_c.campaign, _c.control, _sent.label("sent"), sa.func.count(), sa.func.sum(_c.cost))
    .where(*_in_period)
    .group_by(_c.campaign, _c.control, "sent")
)
_became = (
    sa.select(_c.campaign, _c.control, _sent.label("sent"), _o.kind, sa.func.count())
    .join_from(schema.contacts, schema.outcomes, _o.decision_id == _c.decision_id)
    .where(*_in_period)
    .group_by(_c.campaign, _c.control, "sent", _o.kind)
)
_people = sa.func.count(sa.distinct(_c.subscriber_id))
_chosen = sa.select(_c.campaign, _c.control, _people).where(*_in_period).group_by(_c.campaign, _c.control)
_ordered = (
    sa.select(_c.campaign, _c.control, _people)
    .join_from(schema.contacts, schema.outcomes, _o.decision_id == _c.decision_id)
    .where(*_in_period, _o.kind == OutcomeKind.ORDERED.value)
    .group_by(_c.campaign, _c.control)
)
_answered = (
    sa.select(_c.campaign, sa.func.count(sa.distinct(_c.decision_id)))
    .join_from(schema.contacts, schema.outcomes, _o.decision_id == _c.decision_id)
    .where(*_in_period, ~_c.control, _o.kind.in_([kind.value for kind in ANSWERS]))
    .group_by(_c.campaign)
)
_happened = (
    sa.select(_e.event_type, sa.func.sum(_e.value))
    .where(_e.hour >= sa.bindparam("from_hour"), _e.hour < sa.bindparam("to_hour"))
    .group_by(_e.event_type)
)

_real = (_c.at_us >= _from, _c.at_us < _to, ~_c.control, _c.origin == "")
_second = _c.at_us // _SECOND_US
_seconds = (
    sa.select(_c.channel, sa.func.count().label("count")).where(*_real).group_by(_c.channel, _second)
).subquery()
_loads = (
    sa.select(_seconds.c.channel, sa.func.sum(_seconds.c.count), sa.func.max(_seconds.c.count))
    .group_by(_seconds.c.channel)
    .order_by(_seconds.c.channel)
)
_often = (
    sa.select(sa.func.count().label("count"))
    .where(*_real, _c.state != ContactState.RELEASED.value)
    .group_by(_c.subscriber_id)
).subquery()
_frequencies = sa.select(_often.c.count, sa.func.count()).group_by(_often.c.count).order_by(_often.c.count)


def campaign_figures(
    connection: sa.Connection, start_us: int, end_us: int, triggers: Mapping[str, Collection[str]]
) -> Sequence[CampaignFigures]:
    """See `Ledger.campaign_figures`. Seven statements, however many campaigns."""
    patient(connection)
    period = {"from_us": start_us, "to_us": end_us, "campaigns": list(triggers)}
    ended: defaultdict[str, Counter[Reason]] = defaultdict(Counter)
    for campaign, reason, count in connection.execute(_ended, period):
        ended[campaign][Reason(reason)] += count
    contacts: Counter[tuple[str, str]] = Counter()
    for campaign, control, people in connection.execute(_chosen, period):
        contacts[campaign, "control" if control else "treated"] = people
    for campaign, control, people in connection.execute(_ordered, period):
        contacts[campaign, "control_converted" if control else "treated_converted"] = people
    for campaign, control, sent, count, cost in connection.execute(_made, period):
        if sent and not control:
            contacts[campaign, "sent"] += count
            contacts[campaign, "cost"] += cost
    outcomes: defaultdict[str, Counter[OutcomeKind]] = defaultdict(Counter)
    for campaign, control, sent, kind, count in connection.execute(_became, period):
        if sent and not control:
            outcomes[campaign][OutcomeKind(kind)] += count
    answered: dict[str, int] = dict(connection.execute(_answered, period).all())
    hours = {"from_hour": start_us // _HOUR_US, "to_hour": -(-end_us // _HOUR_US)}
    happened = {type_: int(count) for type_, count in connection.execute(_happened, hours)}
    return [
        CampaignFigures(
            campaign=campaign,
            start_us=start_us,
            end_us=end_us,
            events=sum(happened.get(type_, 0) for type_ in types),
            matched=ended[campaign].total(),
            lost={
                reason: count
                for reason, count in sorted(ended[campaign].items())
                if reason not in (Reason.DECIDED, Reason.CONTROL)
            },
            decided=ended[campaign][Reason.DECIDED],
            sent=contacts[campaign, "sent"],
            delivered=outcomes[campaign][OutcomeKind.DELIVERED],
            answered=answered.get(campaign, 0),
            converted=outcomes[campaign][OutcomeKind.ORDERED],
            treated=contacts[campaign, "treated"],
            treated_converted=contacts[campaign, "treated_converted"],
            control=contacts[campaign, "control"],
            control_converted=contacts[campaign, "control_converted"],
            by_outcome=dict(sorted(outcomes[campaign].items())),
            cost=contacts[campaign, "cost"],
        )
        for campaign, types in triggers.items()
    ]


def channel_figures(connection: sa.Connection, start_us: int, end_us: int) -> Sequence[ChannelFigures]:
    """See `Ledger.channel_figures`."""
    patient(connection)
    rows = connection.execute(_loads, {"from_us": start_us, "to_us": end_us})
    return [ChannelFigures(channel, start_us, int(decided), int(peak)) for channel, decided, peak in rows]


def contact_frequencies(connection: sa.Connection, start_us: int, end_us: int) -> dict[int, int]:
    """See `Ledger.contact_frequencies`."""
    patient(connection)
    rows = connection.execute(_frequencies, {"from_us": start_us, "to_us": end_us})
    return dict(rows.all())
