"""What every `Ledger` must do when a subscriber is erased."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec
from opportune_rulebase.model import TouchKind
from opportune_rulebase.policies import Fate, Mode, OutcomeKind
from opportune_service.app.ports import Ledger
from opportune_service.app.records import DecisionFilter, ForeignContact, Quarantined, QuarantineFilter
from opportune_service.core.erase import Erasing
from opportune_service.core.events import Event, RejectionReason
from opportune_service.core.verdict import (
    Contact,
    ContactState,
    Reason,
    Touch,
    Trigger,
    UsageKey,
    UsageKind,
    Verdict,
)
from support.verdicts import HOUR_US, NOON_US, decision, verdict, waiting

GONE, OTHER, STAND_IN = "8613800000001", "8613800000002", "012345678901234"
ERASING = Erasing(GONE, STAND_IN)


def settle_in(ledger: Ledger, who: str, peer: str) -> None:
    """One of everything, which names whom it is about and `peer`."""
    trigger = Trigger("call", NOON_US, {"to": peer})
    deferred = decision(
        f"{who}-d",
        campaign="later",
        reason=Reason.CAPPED,
        fate=Fate.DEFER,
        due_us=NOON_US + 1,
        trigger=trigger,
    )
    sent = decision(f"{who}-s", content=f"Call {peer} for less.", day=7)
    prompted = waiting(f"{who}-w", campaign="care", held={"event.to": peer})
    contact = Contact(
        f"{peer}-1", "tv", "", "", "sms", Mode.AUTOMATIC, NOON_US, ContactState.COMMITTED, origin="shop"
    )
    rejected = Event("9", who, "x", NOON_US, b'{"to": "' + peer.encode() + b'"}')
    with ledger.transaction() as tx:
        tx.record_verdicts([verdict(who, f"{who}-{peer}", sent, deferred, prompted)])
        tx.record_outcome(sent.id, OutcomeKind.COMPLAINED, NOON_US, f"ask {peer}")
        tx.record_contacts([ForeignContact(who, contact, f"hello {peer}")])
        tx.record_touches([Touch(who, "crm", f"{peer}-2", NOON_US, TouchKind.QUERY, {"topic": peer})])
        tx.quarantine([Quarantined("msc", rejected, RejectionReason.UNKNOWN_TYPE, "", NOON_US)], 100)
        tx.save_states([(who, 1, b"state")])


def erase(ledger: Ledger, others: Collection[str] = (), reason: str = "case 7") -> bool:
    with ledger.transaction() as tx:
        tx.blot_out(ERASING, others)
        return tx.erase(ERASING, NOON_US + HOUR_US, "li", reason)


def everything(ledger: Ledger, who: str) -> list[Any]:
    """All that can be read about somebody."""
    with ledger.transaction() as tx:
        history = tx.histories([who], 0, NOON_US)[who]
    rows = list(ledger.decisions(DecisionFilter(subscriber_id=who), 0, 100, False))
    verdicts: list[Verdict | None] = [ledger.verdict_of(row.decision_id) for row in rows]
    return [
        history,
        rows,
        verdicts,
        [ledger.delivery_of(row.decision_id) for row in rows],
        [ledger.outcomes_of(row.decision_id) for row in rows],
        ledger.contacts_of(who, 0, 2**62, 100),
        ledger.touches_of(who, 0, 2**62, 100),
        [each for each in ledger.contact_changes(0, 100, ()) if each.subscriber_id == who],
        [each for each in ledger.due_deferrals(2**62, 100) if each.subscriber_id == who],
        ledger.prompts(who, NOON_US),
        [
            each
            for _, each in ledger.quarantined(QuarantineFilter(), 0, 100)
            if each.event.subscriber_id == who
        ],
        list(ledger.load_states([who])),
    ]


def test_the_subscriber_goes_and_others_stay(ledger: Ledger) -> None:
    nobody = everything(ledger, GONE)
    settle_in(ledger, GONE, "peer")
    settle_in(ledger, OTHER, "peer")
    before = everything(ledger, OTHER)
    assert erase(ledger)
    assert everything(ledger, GONE) == nobody
    assert everything(ledger, OTHER) == before
    assert not erase(ledger)


def test_where_others_named_the_number_the_stand_in_takes_its_place(ledger: Ledger) -> None:
    settle_in(ledger, OTHER, GONE)
    before = repr(everything(ledger, OTHER))
    assert before.count(GONE) > 10
    assert erase(ledger, [OTHER])
    after = everything(ledger, OTHER)
    assert after[-2] == [], "what was rejected and names it is not kept"
    assert GONE not in repr(after)
    told = ledger.verdict_of(f"{OTHER}-s")
    assert told is not None
    assert told.key.event_id == f"{OTHER}-{STAND_IN}"
    assert ledger.verdict(told.key) == told, "a verdict is found by what it is stored under"
    assert {each.contact.decision_id for each in ledger.contacts_of(OTHER, 0, 2**62, 9)} == {
        f"{OTHER}-s", f"{STAND_IN}-1",
    }  # fmt: skip
    changes = ledger.contact_changes(0, 100, ["tv"])
    assert [each.contact.decision_id for each in changes] == [f"{STAND_IN}-1"]


def test_without_their_names_only_words_are_looked_through(ledger: Ledger) -> None:
    """The control: who named the number in events has to be said."""
    settle_in(ledger, OTHER, GONE)
    erase(ledger)
    told = ledger.verdict_of(f"{OTHER}-s")
    assert told is not None
    assert GONE in repr(told)
    assert [each.detail for each in ledger.outcomes_of(f"{OTHER}-s")] == [f"ask {STAND_IN}"]


def test_what_was_spent_is_spent_and_what_waited_is_given_back(ledger: Ledger) -> None:
    sent, waits = decision("sent", day=7), decision("waits", day=7, campaign="other")
    with ledger.transaction() as tx:
        tx.record_verdicts([verdict(GONE, "1", sent), verdict(GONE, "2", waits)])
        tx.record_outcome("sent", OutcomeKind.ACCEPTED, NOON_US)
    erase(ledger)
    spent, given_back = (UsageKey(UsageKind.CAMPAIGN_TOTAL, name) for name in ("night-data", "other"))
    with ledger.transaction() as tx:
        usage = tx.usage([spent, given_back])
    assert (usage.get(spent, 0), usage.get(given_back, 0)) == (1, 0)


def test_the_same_may_be_recorded_anew(ledger: Ledger) -> None:
    settle_in(ledger, GONE, "peer")
    before = msgspec.msgpack.encode(everything(ledger, GONE)[5])
    erase(ledger)
    settle_in(ledger, GONE, "peer")
    assert msgspec.msgpack.encode(everything(ledger, GONE)[5]) == before
