"""Which contacts the customers' own acts answer: orders and replies."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence

import sqlalchemy as sa
from opportune_rulebase.policies import OutcomeKind

from opportune_service.adapters.sql import schema
from opportune_service.adapters.sql.contacts import contact_of
from opportune_service.adapters.sql.locks import hold
from opportune_service.adapters.sql.outcomes import (
    Answer,
    note_answers,
    note_outcomes,
    outcomes_of,
    record_outcomes,
)
from opportune_service.adapters.sql.statements import among_ids, chunks
from opportune_service.core.verdict import Contact, ContactState, Outcome, Response

_c = schema.contacts.c

_reachable = (
    sa.select(schema.contacts)
    .where(
        among_ids(_c.subscriber_id),
        sa.or_(_c.at_us >= sa.bindparam("since_us"), _c.open_until_us > sa.bindparam("since_us")),
    )
    .order_by(_c.at_us.desc(), _c.decision_id.desc())
)

_CLOSING = (
    *(OutcomeKind.ACCEPTED, OutcomeKind.REFUSED, OutcomeKind.ORDERED),
    *(OutcomeKind.COMPLAINED, OutcomeKind.NOT_OFFERED),
)


def respond(connection: sa.Connection, responses: Sequence[Response]) -> list[Outcome]:
    """See `LedgerTransaction.respond`.

    An answer comes after what it answers: not at the same instant. Of what was said of an offer only that
    from before the response closes it, so that the same response finds the same contact again, and is known
    then. An order says nothing of whether the message arrived, so it moves neither contact nor delivery.
    """
    if not responses:
        return []
    hold(connection, [response.subscriber_id for response in responses])
    contacts = _contacts(connection, responses)
    orders: list[Outcome] = []
    subscribers: dict[str, str] = {}
    replies: list[tuple[Response, Sequence[Contact]]] = []
    for response in responses:
        before = [each for each in contacts[response.subscriber_id] if each.at_us < response.at_us]
        if not response.campaigns:
            replies.append((response, _open_on(before, response)))
            continue
        for contact in _ordered(before, response):
            about = (contact.campaign, contact.product, contact.category)
            orders.append(Outcome(contact.decision_id, response.kind, response.at_us, *about))
            subscribers[contact.decision_id] = response.subscriber_id
    new = note_outcomes(connection, orders, subscribers)
    note_answers(connection, ((subscribers[each.decision_id], each.decision_id, each) for each in new))
    return new + _reply(connection, replies)


def _contacts(connection: sa.Connection, responses: Sequence[Response]) -> defaultdict[str, list[Contact]]:
    """All contacts of the subscribers that any of the responses can be about, newest first."""
    since_us = min(each.at_us - max(each.campaigns.values(), default=0) for each in responses)
    contacts: defaultdict[str, list[Contact]] = defaultdict(list)
    for ids in chunks(sorted({each.subscriber_id for each in responses})):
        for row in connection.execute(_reachable, {"ids": ids, "since_us": since_us}):
            contacts[row.subscriber_id].append(contact_of(row))
    return contacts


def _ordered(before: Iterable[Contact], response: Response) -> Iterable[Contact]:
    """The newest contact of each campaign, if it is within the campaign's time."""
    newest: dict[str, Contact] = {}
    for contact in before:
        if contact.campaign in response.campaigns and not contact.origin:
            newest.setdefault(contact.campaign, contact)
    for campaign, contact in newest.items():
        if contact.at_us >= response.at_us - response.campaigns[campaign]:
            yield contact


def _open_on(before: Iterable[Contact], response: Response) -> list[Contact]:
    """Offers on the channel that stand at the response's time, newest first, as far as times tell."""
    return [
        contact
        for contact in before
        if contact.channel == response.channel
        and contact.open_until_us > response.at_us
        and contact.state is not ContactState.RELEASED
        and not contact.control
    ]


def _reply(
    connection: sa.Connection, replies: Collection[tuple[Response, Sequence[Contact]]]
) -> list[Outcome]:
    """Each reply answers the newest offer that nothing closed before it, replies of this very call
    included. An offer that another system made takes its reply, of which we keep nothing."""
    offers = {each.decision_id for _, offers in replies for each in offers if not each.origin}
    closed_us: dict[str, int] = {}
    for outcome in outcomes_of(connection, offers):
        _close(closed_us, outcome.decision_id, outcome.kind, outcome.at_us)
    answers: list[Answer] = []
    for response, offers_open in replies:
        for contact in offers_open:
            if contact.origin:
                break
            if closed_us.get(contact.decision_id, response.at_us) >= response.at_us:
                answers.append(Answer(contact.decision_id, response.kind, response.at_us))
                _close(closed_us, contact.decision_id, response.kind, response.at_us)
                break
    return record_outcomes(connection, answers)


def _close(closed_us: dict[str, int], decision_id: str, kind: OutcomeKind, at_us: int) -> None:
    if kind in _CLOSING:
        closed_us[decision_id] = min(at_us, closed_us.get(decision_id, at_us))
