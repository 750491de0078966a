"""What every `Ledger` must do with customers' own acts: which contact an order or a reply answers."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from opportune_rulebase.policies import Mode, OutcomeKind
from opportune_service.app.ports import Ledger
from opportune_service.app.records import DeliveryState, ForeignContact
from opportune_service.core.verdict import Contact, ContactState, History, Outcome, Reason, Response
from support.verdicts import HOUR_US, NOON_US, SECOND_US, decision, shown, verdict

WHO = "8613800000001"
OTHER = "8613800000002"
CAMPAIGN = decision("d").campaign
WITHIN_US = 2 * HOUR_US


def contact(ledger: Ledger, id_: str, at_us: int = NOON_US, who: str = WHO, **changes: Any) -> None:
    """An offer that was made at `at_us` and stands for an hour."""
    changes = {"open_until_us": at_us + HOUR_US, **changes}
    with ledger.transaction() as tx:
        tx.record_verdicts([verdict(who, f"e-{id_}", decision(id_, **changes), at_us=at_us)])


def order(at_us: int, who: str = WHO, **campaigns: int) -> Response:
    return Response(who, at_us, OutcomeKind.ORDERED, campaigns=campaigns or {CAMPAIGN: WITHIN_US})


def reply(at_us: int, kind: OutcomeKind = OutcomeKind.ACCEPTED, channel: str = "sms") -> Response:
    return Response(WHO, at_us, kind, channel=channel)


def respond(ledger: Ledger, *responses: Response) -> list[tuple[str, OutcomeKind, int]]:
    with ledger.transaction() as tx:
        new = tx.respond(responses)
    return [(each.decision_id, each.kind, each.at_us - NOON_US) for each in new]


def history(ledger: Ledger) -> History:
    with ledger.transaction() as tx:
        return tx.histories([WHO], 0, NOON_US)[WHO]


# -- orders -----------------------------------------------------------------------------------------


def test_order_answers_the_newest_contact_of_each_campaign(ledger: Ledger) -> None:
    for id_, at in (("a", 0), ("b", 10), ("c", 20)):
        contact(ledger, id_, NOON_US + at)
    contact(ledger, "other", NOON_US + 5, campaign="roaming")
    contact(ledger, "theirs", NOON_US + 5, who=OTHER)
    both = Response(
        WHO, NOON_US + 15, OutcomeKind.ORDERED, campaigns={CAMPAIGN: WITHIN_US, "roaming": 10, "unheard": 9}
    )
    assert sorted(respond(ledger, both)) == [
        ("b", OutcomeKind.ORDERED, 15),
        ("other", OutcomeKind.ORDERED, 15),
    ]
    about = decision("b")
    expected = Outcome("b", OutcomeKind.ORDERED, NOON_US + 15, CAMPAIGN, about.product, about.category)
    assert ledger.outcomes_of("b") == [expected]


@pytest.mark.parametrize(
    ("after_us", "answers"), [(0, False), (1, True), (WITHIN_US, True), (WITHIN_US + 1, False)]
)
def test_order_answers_within_the_time_after_the_contact(
    ledger: Ledger, after_us: int, answers: bool
) -> None:
    contact(ledger, "d1")
    assert bool(respond(ledger, order(NOON_US + after_us))) is answers


def test_order_is_attributed_once_and_the_same_response_changes_nothing(ledger: Ledger) -> None:
    contact(ledger, "older", NOON_US - 1)
    contact(ledger, "newer")
    first, second = order(NOON_US + 1), order(NOON_US + 2)
    assert respond(ledger, first, first) == [("newer", OutcomeKind.ORDERED, 1)]
    assert respond(ledger, first) == []
    assert respond(ledger, second) == [], "the newest contact has its order; no older one gets it"


def test_order_is_attributed_to_control_groups_alike(ledger: Ledger) -> None:
    contact(ledger, "older", NOON_US - 1)
    contact(ledger, "would-be", reason=Reason.CONTROL)
    assert respond(ledger, order(NOON_US + 1)) == [("would-be", OutcomeKind.ORDERED, 1)]


def test_order_is_no_evidence_of_a_contact(ledger: Ledger) -> None:
    """Whether the message arrived is the channel's to say; and whoever was chosen counts as chosen."""
    contact(ledger, "waits")
    assert respond(ledger, order(NOON_US + 1))
    assert [each.state for each in history(ledger).contacts] == [ContactState.RESERVED]
    assert ledger.delivery_of("waits") == (DeliveryState.PENDING, 0)
    contact(ledger, "gone", NOON_US + 2)
    with ledger.transaction() as tx:
        tx.end_deliveries({"gone": DeliveryState.EXPIRED}, NOON_US + 3)
    assert respond(ledger, order(NOON_US + 4)) == [("gone", OutcomeKind.ORDERED, 4)]
    assert [each.decision_id for each in history(ledger).contacts] == ["waits"]


def test_order_answers_no_contact_of_another_system(ledger: Ledger) -> None:
    theirs = Contact("1", CAMPAIGN, "p", "c", "sms", Mode.AUTOMATIC, NOON_US, origin="crm")
    with ledger.transaction() as tx:
        tx.record_contacts([ForeignContact(WHO, theirs, "")])
    assert respond(ledger, order(NOON_US + 1)) == []


def test_response_of_a_stranger_leaves_nothing(ledger: Ledger) -> None:
    assert respond(ledger, order(NOON_US), reply(NOON_US)) == []
    assert respond(ledger) == []
    assert history(ledger) == History()


# -- replies ----------------------------------------------------------------------------------------


def test_reply_answers_the_newest_open_offer_on_the_channel(ledger: Ledger) -> None:
    contact(ledger, "a", NOON_US)
    contact(ledger, "b", NOON_US + 10)
    contact(ledger, "elsewhere", NOON_US + 20, channel="wap")
    contact(ledger, "c", NOON_US + 40)
    assert respond(ledger, reply(NOON_US + 30)) == [("b", OutcomeKind.ACCEPTED, 30)]
    assert {each.decision_id: each.state for each in history(ledger).contacts} == {
        "a": ContactState.RESERVED,
        "b": ContactState.COMMITTED,
        "elsewhere": ContactState.RESERVED,
        "c": ContactState.RESERVED,
    }
    assert ledger.delivery_of("b") == (DeliveryState.SENT, 0), "who answered is not sent it again"


@pytest.mark.parametrize(
    ("after_us", "answers"), [(0, False), (1, True), (HOUR_US - 1, True), (HOUR_US, False)]
)
def test_reply_answers_while_the_offer_stands(ledger: Ledger, after_us: int, answers: bool) -> None:
    contact(ledger, "d1")
    assert bool(respond(ledger, reply(NOON_US + after_us))) is answers


def test_closed_offer_is_not_answered_but_the_one_before_it(ledger: Ledger) -> None:
    contact(ledger, "older", NOON_US - 1)
    contact(ledger, "newer")
    refusal = reply(NOON_US + SECOND_US, OutcomeKind.REFUSED)
    later = reply(NOON_US + 2 * SECOND_US)
    assert respond(ledger, refusal, later) == [
        ("newer", OutcomeKind.REFUSED, SECOND_US),
        ("older", OutcomeKind.ACCEPTED, 2 * SECOND_US),
    ]
    assert respond(ledger, later, refusal) == [], "the same responses find the same contacts"


@pytest.mark.parametrize("kind", OutcomeKind)
def test_only_a_last_word_closes_an_offer(ledger: Ledger, kind: OutcomeKind) -> None:
    contact(ledger, "older", NOON_US - 1)
    contact(ledger, "newer")
    with ledger.transaction() as tx:
        tx.record_outcome("newer", kind, NOON_US + 1)
    open_kinds = {OutcomeKind.DELIVERED, OutcomeKind.OPENED, OutcomeKind.INQUIRED, OutcomeKind.LATER}
    answered = "newer" if kind in open_kinds else "older"
    assert respond(ledger, reply(NOON_US + 2)) == [(answered, OutcomeKind.ACCEPTED, 2)]


def test_reply_answers_nothing_that_was_not_said(ledger: Ledger) -> None:
    contact(ledger, "older", NOON_US - 1)
    contact(ledger, "would-be", reason=Reason.CONTROL)
    contact(ledger, "gone")
    with ledger.transaction() as tx:
        tx.end_deliveries({"gone": DeliveryState.WITHDRAWN}, NOON_US)
    assert respond(ledger, reply(NOON_US + 1)) == [("older", OutcomeKind.ACCEPTED, 1)]


def test_reply_to_another_systems_offer_is_not_taken_for_an_answer_to_ours(ledger: Ledger) -> None:
    contact(ledger, "ours", NOON_US - 1)
    theirs = Contact("1", "x", "p", "c", "sms", Mode.AUTOMATIC, NOON_US, origin="crm")
    with ledger.transaction() as tx:
        tx.record_contacts(
            [ForeignContact(WHO, msgspec.structs.replace(theirs, open_until_us=NOON_US + HOUR_US), "")]
        )
    assert respond(ledger, reply(NOON_US + 1)) == []


def test_many_responses_at_once(ledger: Ledger) -> None:
    many = [str(86_138_000 + n) for n in range(1200)]
    with ledger.transaction() as tx:
        tx.record_verdicts([verdict(who, f"e{who}", shown(f"d{who}")) for who in many])
    assert len(respond(ledger, *(order(NOON_US + 1, who) for who in many))) == len(many)
