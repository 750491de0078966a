"""What became of contacts, and what that does to them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from opportune_rulebase.policies import OutcomeKind

from opportune_service.adapters.sql import schema
from opportune_service.adapters.sql.changes import Change, note_changes
from opportune_service.adapters.sql.contacts import (
    ContactKey,
    add_contacts,
    commit,
    known_contacts,
    release,
)
from opportune_service.adapters.sql.engine import insert_many
from opportune_service.adapters.sql.locks import hold
from opportune_service.adapters.sql.statements import among_ids, chunks
from opportune_service.adapters.sql.verdicts import decisions_of
from opportune_service.app.errors import UnknownDecisionError
from opportune_service.app.records import DeliveryState
from opportune_service.core.decide import contact_made
from opportune_service.core.verdict import ContactState, Outcome, Reason

_d = schema.decisions.c
_o = schema.outcomes.c
_p = schema.prompts.c
_y = schema.deliveries.c

_decisions = sa.select(
    *(_d.decision_id, _d.subscriber_id, _d.decided_at_us),
    *(_d.campaign, _d.product, _d.category, _d.reason),
).where(among_ids(_d.decision_id))
_outcomes = (
    sa.select(_o.decision_id, _o.kind, _o.at_us, _o.campaign, _o.product, _o.category, _o.detail)
    .where(among_ids(_o.decision_id))
    .order_by(_o.at_us, _o.decision_id, _o.kind)
)
_unshown_prompts = sa.select(_p.decision_id).where(among_ids(_p.decision_id), _p.state != "shown")
_answer = (
    schema.prompts.update()
    .where(_p.decision_id == sa.bindparam("of_decision"), schema.OPEN_PROMPT)
    .values(state="answered")
)
_deliveries = sa.select(_y.decision_id, _y.state).where(among_ids(_y.decision_id))
_move = (
    schema.deliveries.update()
    .where(_y.decision_id == sa.bindparam("of_decision"))
    .values(state=sa.bindparam("new_state"), changed_at_us=sa.bindparam("now_us"))
)

_c = schema.contacts.c
_since: sa.BindParameter[int] = sa.bindparam("since_us", type_=sa.BigInteger)
_made = sa.select(sa.func.count()).where(
    _c.at_us >= _since, _c.state != ContactState.RELEASED.value, sa.not_(_c.control), _c.origin == ""
)
_contacts_made = _made.where(_c.campaign == sa.bindparam("of_campaign"))
# From the complaints, which are few, to their contacts: none comes before what it is about.
_contacts_complained_of = _made.join_from(
    schema.outcomes,
    schema.contacts,
    sa.and_(_c.subscriber_id == _o.subscriber_id, _c.decision_id == _o.decision_id),
).where(_o.campaign == sa.bindparam("of_campaign"), schema.COMPLAINT, _o.at_us >= _since)

_LIVE = (DeliveryState.PENDING.value, DeliveryState.LEASED.value)
_MAY_BE_SENT = (*_LIVE, DeliveryState.DEAD.value)  # a dead letter may be redriven


class Answer(NamedTuple):
    """What somebody says became of a contact."""

    decision_id: str
    kind: OutcomeKind
    at_us: int
    detail: str = ""


def record_outcome(
    connection: sa.Connection, decision_id: str, kind: OutcomeKind, at_us: int, detail: str = ""
) -> bool:
    """See `LedgerTransaction.record_outcome`."""
    return bool(record_outcomes(connection, [Answer(decision_id, kind, at_us, detail)]))


def record_outcomes(connection: sa.Connection, answers: Sequence[Answer]) -> list[Outcome]:
    """`record_outcome` for several at once; those that were new.

    Evidence of a contact outweighs the word that there was none, in whichever order they come. It also
    ends a delivery that is still live or a dead letter: what has reached the customer is not sent again.
    """
    hold(connection, decision_ids=[answer.decision_id for answer in answers])
    about = {
        row.decision_id: row for row in _rows(connection, _decisions, {a.decision_id for a in answers})
    }
    said = [_outcome(about.get(answer.decision_id), answer) for answer in answers]
    new = note_outcomes(connection, said, {id_: row.subscriber_id for id_, row in about.items()})
    of_contacts = [each for each in new if about[each.decision_id].reason == Reason.DECIDED.value]
    effects: dict[str, list[Outcome]] = {}
    for each in of_contacts:
        effects.setdefault(each.decision_id, []).append(each)
    keys = {id_: (about[id_].subscriber_id, id_) for id_ in effects}
    reached = {id_ for id_, outcomes in effects.items() if any(map(_is_contact, outcomes))}
    _close_prompts(connection, effects, keys, reached)
    commit(connection, [keys[id_] for id_ in effects if id_ in reached])
    release(connection, [keys[id_] for id_ in effects if id_ not in reached])
    _end_deliveries(connection, effects, keys, reached)
    all_keys = [(about[each.decision_id].subscriber_id, each.decision_id) for each in new]
    made = {(row.subscriber_id, row.decision_id) for row in known_contacts(connection, all_keys)}
    note_answers(connection, [(*key, each) for key, each in zip(all_keys, new, strict=True) if key in made])
    return new


def note_outcomes(
    connection: sa.Connection, said: Sequence[Outcome], subscribers: Mapping[str, str]
) -> list[Outcome]:
    """Keep outcomes; those that were new. `subscribers`: decision -> subscriber. What they are about stays
    as it is."""
    ids = {outcome.decision_id for outcome in said}
    known = {(row.decision_id, row.kind) for row in _rows(connection, _outcomes, ids)}
    new: dict[tuple[str, str], Outcome] = {}
    for outcome in said:
        key = (outcome.decision_id, outcome.kind.value)
        if key not in known:
            new.setdefault(key, outcome)
    rows = [
        {
            "decision_id": outcome.decision_id,
            "kind": outcome.kind.value,
            "subscriber_id": subscribers[outcome.decision_id],
            "campaign": outcome.campaign,
            "product": outcome.product,
            "category": outcome.category,
            "at_us": outcome.at_us,
            "detail": outcome.detail,
        }
        for outcome in new.values()
    ]
    insert_many(connection, schema.outcomes, rows)
    return list(new.values())


def note_answers(connection: sa.Connection, answered: Iterable[tuple[str, str, Outcome]]) -> None:
    """For export: these contacts, given as (subscriber id, decision id, outcome), were answered."""
    changes = (
        Change(who, id_, outcome.campaign, outcome.at_us, outcome=outcome.kind)
        for who, id_, outcome in answered
    )
    note_changes(connection, changes)


def outcomes_of(connection: sa.Connection, decision_ids: Collection[str]) -> list[Outcome]:
    """What is known to have become of these decisions, oldest first."""
    rows = _rows(connection, _outcomes, decision_ids)
    return [
        Outcome(
            row.decision_id,
            OutcomeKind(row.kind),
            row.at_us,
            row.campaign,
            row.product,
            row.category,
            row.detail,
        )
        for row in rows
    ]


def complaint_rate(connection: sa.Connection, campaign: str, since_us: int) -> tuple[int, int]:
    """See `LedgerTransaction.complaint_rate`."""
    where = {"of_campaign": campaign, "since_us": since_us}
    made = connection.execute(_contacts_made, where).scalar_one()
    return made, connection.execute(_contacts_complained_of, where).scalar_one()


def _rows(
    connection: sa.Connection, statement: sa.Select[Any], ids: Collection[str]
) -> Iterable[sa.Row[Any]]:
    for chunk in chunks(sorted(ids)):
        yield from connection.execute(statement, {"ids": chunk})


def _outcome(decision: sa.Row[Any] | None, answer: Answer) -> Outcome:
    """Raises `UnknownDecisionError` where there can be no such outcome."""
    id_ = answer.decision_id
    if decision is None:
        raise UnknownDecisionError("no decision has this id")  # which may be a number
    if decision.reason == Reason.CONTROL.value and answer.kind is not OutcomeKind.ORDERED:
        raise UnknownDecisionError(
            f"decision {id_} is a control group's: nobody was contacted, only an order can be noted"
        )
    if decision.reason not in (Reason.DECIDED.value, Reason.CONTROL.value):
        raise UnknownDecisionError(
            f"decision {id_} let no offer out ({decision.reason}): it can have no outcome"
        )
    at_us = max(answer.at_us, decision.decided_at_us)  # an earlier one would escape caps and cool-downs
    about = (decision.campaign, decision.product, decision.category)
    return Outcome(id_, answer.kind, at_us, *about, answer.detail)


def _is_contact(outcome: Outcome) -> bool:
    return outcome.kind is not OutcomeKind.NOT_OFFERED


def _close_prompts(
    connection: sa.Connection,
    effects: Mapping[str, Sequence[Outcome]],
    keys: Mapping[str, ContactKey],
    reached: Collection[str],
) -> None:
    """A prompt that was answered though nobody noted that it was shown: the talk took place. One that was
    shown under another decision has its contact there."""
    prompts = [row.decision_id for row in _rows(connection, _unshown_prompts, effects.keys())]
    if not prompts:
        return
    connection.execute(_answer, [{"of_decision": id_} for id_ in prompts])
    talks = [id_ for id_ in prompts if id_ in reached]
    talks_known = {row.decision_id for row in known_contacts(connection, [keys[id_] for id_ in talks])}
    decisions = decisions_of(connection, set(talks) - talks_known)
    contacts = []
    for id_, decision in decisions.items():
        at_us = next(each.at_us for each in effects[id_] if _is_contact(each))
        contacts.append((keys[id_][0], contact_made(decision, at_us, ContactState.COMMITTED), ""))
    add_contacts(connection, contacts)
    made = (Change(who, each.decision_id, each.campaign, each.at_us) for who, each, _ in contacts)
    note_changes(connection, made)


def _end_deliveries(
    connection: sa.Connection,
    effects: Mapping[str, Sequence[Outcome]],
    keys: Mapping[str, ContactKey],
    reached: Collection[str],
) -> None:
    moves: list[dict[str, object]] = []
    changes: list[Change] = []
    for row in _rows(connection, _deliveries, effects.keys()):
        outcomes = effects[row.decision_id]
        if any(each.kind is OutcomeKind.DELIVERED for each in outcomes):
            new = DeliveryState.DELIVERED
        elif row.decision_id in reached and row.state in _MAY_BE_SENT:
            new = DeliveryState.SENT
        elif row.state in _LIVE:
            new = DeliveryState.FAILED
        else:
            continue
        at_us = outcomes[0].at_us
        moves.append({"of_decision": row.decision_id, "new_state": new.value, "now_us": at_us})
        changes.append(Change(*keys[row.decision_id], outcomes[0].campaign, at_us, state=new))
    if moves:
        connection.execute(_move, moves)
        note_changes(connection, changes)
