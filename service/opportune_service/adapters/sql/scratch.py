"""A ledger that nobody needs after a crash: that of a rehearsal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

import msgspec

from opportune_service.adapters.sql import schema
from opportune_service.adapters.sql.backup import sqlite_connection
from opportune_service.adapters.sql.contacts import add_contacts
from opportune_service.adapters.sql.engine import insert_many
from opportune_service.adapters.sql.ledger import SqlLedger
from opportune_service.adapters.sql.statements import add_many
from opportune_service.adapters.sql.unit import begin_unit
from opportune_service.app.errors import StoreUnavailableError
from opportune_service.app.rehearsal import Past
from opportune_service.core.verdict import Contact, Outcome, Prompt, Reason, Usage

_PRAGMAS = (
    "PRAGMA synchronous = OFF",
    "PRAGMA secure_delete = OFF",
    "PRAGMA foreign_keys = OFF",  # of what was before there are contacts, but no verdicts
)

_encode = msgspec.msgpack.Encoder().encode


class ScratchLedger(SqlLedger):
    """`Ledger` on SQLite that may lose everything with the machine, and can be told what was before."""

    @classmethod
    def open(cls, url: str) -> Self:
        """As `SqlLedger.open`."""
        ledger = super().open(url)
        driver = sqlite_connection(ledger._engine)
        if driver is None:
            raise StoreUnavailableError("a scratch ledger is on SQLite")
        for pragma in _PRAGMAS:
            driver.execute(pragma).fetchall()
        return ledger

    def remember(self, past: Sequence[Past], usage: Usage) -> None:
        """Put down what another ledger has of subscribers, who are not known here yet, and what was used up
        (these contacts included). Orders and replies may still answer these contacts."""
        contacts = [(each.subscriber_id, contact, "") for each in past for contact in each.history.contacts]
        own = [(who, contact) for who, contact, _ in contacts if not contact.origin]
        with self._writer.begin() as connection:
            begin_unit(connection)  # and it is never put down: `usage` has it already
            add_contacts(connection, contacts)
            insert_many(connection, schema.decisions, [_decision(*each) for each in own])
            insert_many(
                connection,
                schema.outcomes,
                [_outcome(each.subscriber_id, o) for each in past for o in each.history.outcomes],
            )
            insert_many(
                connection,
                schema.prompts,
                [_prompt(each.subscriber_id, p) for each in past for p in each.history.prompts],
            )
            insert_many(
                connection,
                schema.deferrals,
                [
                    {
                        "subscriber_id": each.subscriber_id,
                        "campaign": deferral.campaign,
                        "decision_id": deferral.decision_id,
                        "due_us": deferral.due_us,
                        "body": _encode(deferral),
                    }
                    for each in past
                    for deferral in each.history.deferrals
                ],
            )
            used = [
                {"kind": key.kind.value, "name": key.name, "period": key.period, "value": value}
                for key, value in sorted(usage.items())
            ]
            add_many(connection, schema.usage, used)


def _decision(subscriber_id: str, contact: Contact) -> Mapping[str, object]:
    """As much of the decision as answers to it need."""
    reason = Reason.CONTROL if contact.control else Reason.DECIDED
    return {
        "decision_id": contact.decision_id,
        "subscriber_id": subscriber_id,
        "source": "",
        "event_id": contact.decision_id,
        "decided_at_us": contact.at_us,
        "campaign": contact.campaign,
        "product": contact.product,
        "category": contact.category,
        "reason": reason.value,
        "channel": contact.channel,
        "mode": contact.mode.value,
        "revision": "",
        "fate": "",
        "attempt": 1,
        "shown": False,
        "superseded": False,
    }


def _outcome(subscriber_id: str, outcome: Outcome) -> Mapping[str, object]:
    return {
        "decision_id": outcome.decision_id,
        "kind": outcome.kind.value,
        "subscriber_id": subscriber_id,
        "campaign": outcome.campaign,
        "product": outcome.product,
        "category": outcome.category,
        "at_us": outcome.at_us,
        "detail": outcome.detail,
    }


def _prompt(subscriber_id: str, prompt: Prompt) -> Mapping[str, object]:
    return {
        "decision_id": prompt.decision_id,
        "subscriber_id": subscriber_id,
        "campaign": prompt.campaign,
        "channel": prompt.channel,
        "decided_at_us": 0,
        "expires_at_us": prompt.expires_at_us,
        "state": "open",
    }
