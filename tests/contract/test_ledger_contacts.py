"""What every `Ledger` must do with contacts: ours, those of control groups, those of other systems."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec
import pytest
from opportune_rulebase.model import TouchKind
from opportune_rulebase.policies import Mode, OutcomeKind
from opportune_service.app.errors import UnknownDecisionError
from opportune_service.app.ports import Ledger
from opportune_service.app.records import ContactRow, DeliveryState, ForeignContact
from opportune_service.core.verdict import Contact, ContactState, History, Outcome, Reason, Touch, Verdict
from support.verdicts import HOUR_US, NOON_US, decision, shown, verdict, waiting

WHO = "8613800000001"
OTHER = "8613800000002"
DAY_US = 24 * HOUR_US


def record(ledger: Ledger, *verdicts: Verdict) -> None:
    with ledger.transaction() as tx:
        tx.record_verdicts(verdicts)


def history(ledger: Ledger, since_us: int = 0, now_us: int = NOON_US, who: str = WHO) -> History:
    with ledger.transaction() as tx:
        return tx.histories([who], since_us, now_us)[who]


def contact_ids(ledger: Ledger, since_us: int = 0, now_us: int = NOON_US) -> list[str]:
    return [each.decision_id for each in history(ledger, since_us, now_us).contacts]


def outcome(
    ledger: Ledger, decision_id: str, kind: OutcomeKind, at_us: int = NOON_US, detail: str = ""
) -> bool:
    with ledger.transaction() as tx:
        return tx.record_outcome(decision_id, kind, at_us, detail)


def foreign(id_: str, origin: str = "crm", at_us: int = NOON_US, **changes: Any) -> Contact:
    contact = Contact(
        decision_id=id_,
        campaign="spring-call",
        product="fibre",
        category="broadband",
        channel="outbound",
        mode=Mode.MANUAL,
        at_us=at_us,
        state=ContactState.COMMITTED,
        origin=origin,
    )
    return msgspec.structs.replace(contact, **changes)


def import_contacts(ledger: Ledger, *contacts: Contact, who: str = WHO) -> list[bool]:
    with ledger.transaction() as tx:
        return tx.record_contacts(
            [ForeignContact(who, each, f"said {each.decision_id}") for each in contacts]
        )


def view(
    ledger: Ledger, from_us: int = 0, to_us: int = NOON_US + DAY_US, limit: int = 100
) -> list[ContactRow]:
    return list(ledger.contacts_of(WHO, from_us, to_us, limit))


# -- control groups ---------------------------------------------------------------------------------


def control(id_: str, **changes: Any) -> Verdict:
    return verdict(WHO, f"e-{id_}", decision(id_, reason=Reason.CONTROL, cost=5, day=19_675, **changes))


def test_control_group_has_a_would_be_contact_and_nothing_to_deliver(ledger: Ledger) -> None:
    record(ledger, control("c1", open_until_us=NOON_US + DAY_US))
    (contact,) = history(ledger).contacts
    assert (contact.state, contact.control, contact.origin) == (ContactState.COMMITTED, True, "")
    assert (contact.cost, contact.day, contact.open_until_us) == (5, 19_675, NOON_US + DAY_US)
    assert ledger.delivery_of("c1") is None
    assert view(ledger) == []


def test_of_a_control_group_only_an_order_can_be_noted(ledger: Ledger) -> None:
    record(ledger, control("c1"))
    for kind in OutcomeKind:
        if kind is not OutcomeKind.ORDERED:
            with pytest.raises(UnknownDecisionError, match="control group"):
                outcome(ledger, "c1", kind)
    assert outcome(ledger, "c1", OutcomeKind.ORDERED)
    assert not outcome(ledger, "c1", OutcomeKind.ORDERED)
    assert [each.kind for each in history(ledger).outcomes] == [OutcomeKind.ORDERED]


def test_prompt_that_comes_out_as_control_is_closed(ledger: Ledger) -> None:
    record(ledger, verdict(WHO, "e1", waiting("p1")))
    record(ledger, verdict(WHO, "e2", shown("c1", prompt_of="p1", reason=Reason.CONTROL)))
    assert ledger.prompts(WHO, NOON_US) == []
    assert [(each.decision_id, each.control) for each in history(ledger).contacts] == [("c1", True)]


# -- open offers ------------------------------------------------------------------------------------


def test_open_offer_is_in_the_history_however_old(ledger: Ledger) -> None:
    old_us = NOON_US - 90 * DAY_US
    for id_, open_until_us in (("open", NOON_US + 1), ("over", NOON_US), ("never", 0)):
        record(ledger, verdict(WHO, f"e-{id_}", decision(id_, open_until_us=open_until_us), at_us=old_us))
    assert contact_ids(ledger, since_us=NOON_US - DAY_US, now_us=NOON_US) == ["open"]


def test_open_offer_comes_with_what_was_said_of_it_however_old(ledger: Ledger) -> None:
    """Else an offer that was refused long ago would look open."""
    old_us = NOON_US - 90 * DAY_US
    record(ledger, verdict(WHO, "e1", decision("d1", open_until_us=NOON_US + 1), at_us=old_us))
    record(ledger, verdict(WHO, "e2", decision("d2"), at_us=old_us))
    for id_ in ("d1", "d2"):
        outcome(ledger, id_, OutcomeKind.REFUSED, old_us + 1)
    outcomes = history(ledger, since_us=NOON_US - DAY_US, now_us=NOON_US).outcomes
    assert [(each.decision_id, each.at_us) for each in outcomes] == [("d1", old_us + 1)]


# -- contacts of other systems ----------------------------------------------------------------------


def test_contact_of_another_system_is_kept_once_and_counts(ledger: Ledger) -> None:
    first, same_id_elsewhere = foreign("42"), foreign("42", origin="ivr/2")
    assert import_contacts(ledger, first, same_id_elsewhere, first) == [True, True, False]
    assert import_contacts(ledger, first, foreign("43", state=ContactState.RESERVED)) == [False, True]
    assert history(ledger).contacts == [first, foreign("43"), same_id_elsewhere]
    assert import_contacts(ledger) == []


def test_same_id_of_another_system_is_no_decision_of_ours(ledger: Ledger) -> None:
    import_contacts(ledger, foreign("42"))
    with pytest.raises(UnknownDecisionError):
        outcome(ledger, "42", OutcomeKind.ACCEPTED)


# -- the contact view -------------------------------------------------------------------------------


def test_view_shows_contacts_with_what_was_said_and_what_became_of_them(ledger: Ledger) -> None:
    automatic, talk = decision("d1", content="Half price."), shown("s1", content="Ask for fibre.")
    record(ledger, verdict(WHO, "e1", automatic), verdict(WHO, "e2", talk, at_us=NOON_US + 1))
    record(ledger, verdict(WHO, "e3", decision("gone"), at_us=NOON_US + 2))
    record(ledger, verdict(OTHER, "e4", decision("not-mine")))
    import_contacts(ledger, foreign("42", at_us=NOON_US + 3))
    outcome(ledger, "d1", OutcomeKind.DELIVERED, NOON_US + 4)
    outcome(ledger, "d1", OutcomeKind.COMPLAINED, NOON_US + 5, detail="too late at night")
    with ledger.transaction() as tx:
        tx.end_deliveries({"gone": DeliveryState.WITHDRAWN}, NOON_US + 5)
    rows = view(ledger)
    assert [(row.contact.decision_id, row.content, row.state) for row in rows] == [
        ("42", "said 42", None),
        ("s1", "Ask for fibre.", None),
        ("d1", "Half price.", DeliveryState.DELIVERED),
    ]
    about = (automatic.campaign, automatic.product, automatic.category)
    assert rows[2].outcomes == (
        Outcome("d1", OutcomeKind.DELIVERED, NOON_US + 4, *about),
        Outcome("d1", OutcomeKind.COMPLAINED, NOON_US + 5, *about, "too late at night"),
    )
    assert rows[2].contact == history(ledger).contacts[0]


def test_view_is_cut_by_time_and_limit_newest_first(ledger: Ledger) -> None:
    import_contacts(ledger, *(foreign(str(at), at_us=NOON_US + at) for at in range(5)))
    assert [row.contact.decision_id for row in view(ledger, NOON_US + 1, NOON_US + 4)] == ["3", "2", "1"]
    assert [row.contact.decision_id for row in view(ledger, limit=2)] == ["4", "3"]


def touch(event_id: str, kind: TouchKind, at_us: int, who: str = WHO, **said: object) -> Touch:
    return Touch(who, "crm", event_id, at_us, kind, said)


def test_touches_are_kept_once_and_shown_newest_first(ledger: Ledger) -> None:
    complaint = touch("t1", TouchKind.COMPLAINT, NOON_US, channel="hotline", level=2, content="慢")
    query = touch("t2", TouchKind.QUERY, NOON_US + 1, channel="web")
    for touches in ([complaint], [touch("t1", TouchKind.QUERY, 0), query], []):
        with ledger.transaction() as tx:
            tx.record_touches([*touches, touch("t1", TouchKind.QUERY, NOON_US, who=OTHER)])
    assert ledger.touches_of(WHO, 0, NOON_US + DAY_US, 10).touches == (query, complaint)
    assert ledger.touches_of(WHO, 0, NOON_US + 1, 10).touches == (complaint,)


def test_touches_are_limited_by_kind_but_counted_whole_with_marketing(ledger: Ledger) -> None:
    queries = [
        touch(f"q{at}", TouchKind.QUERY, NOON_US + at, channel="web", business="bill") for at in range(5)
    ]
    with ledger.transaction() as tx:
        tx.record_touches([*queries, touch("i1", TouchKind.INQUIRY, NOON_US)])
    record(
        ledger, verdict(WHO, "e1", decision("d1")), verdict(WHO, "e2", decision("d2"), at_us=NOON_US + 7)
    )
    record(ledger, control("c1"))
    import_contacts(ledger, foreign("42"))
    row = ledger.touches_of(WHO, 0, NOON_US + DAY_US, 2)
    assert [each.event_id for each in row.touches] == ["q4", "q3", "i1"]
    assert row.counts == {
        ("web", "query", "bill"): (5, NOON_US + 4),
        ("", "inquiry", ""): (1, NOON_US),
        ("sms", "marketing", decision("d1").category): (2, NOON_US + 7),
        ("outbound", "marketing", "broadband"): (1, NOON_US),
    }


# -- the complaint rate -----------------------------------------------------------------------------


def test_complaint_rate_is_of_contacts_that_were_made(ledger: Ledger) -> None:
    campaign = decision("d").campaign
    for n in range(4):
        record(ledger, verdict(WHO, f"e{n}", decision(f"d{n}"), at_us=NOON_US + n))
    record(ledger, control("c1"), verdict(WHO, "e9", decision("elsewhere", campaign="roaming")))
    import_contacts(ledger, foreign("42", campaign=campaign))
    for id_ in ("d0", "d2", "elsewhere"):
        outcome(ledger, id_, OutcomeKind.COMPLAINED, NOON_US + 5)
        outcome(ledger, id_, OutcomeKind.REFUSED, NOON_US + 5)
    with ledger.transaction() as tx:
        tx.end_deliveries({"d3": DeliveryState.WITHDRAWN}, NOON_US)
        assert tx.complaint_rate(campaign, 0) == (3, 2)
        assert tx.complaint_rate(campaign, NOON_US + 1) == (2, 1)
        assert tx.complaint_rate("unheard-of", 0) == (0, 0)


# -- changes, for export ----------------------------------------------------------------------------


def changes(ledger: Ledger, after: int = 0, limit: int = 100, campaigns: Collection[str] = ()) -> list[Any]:
    return [
        (each.contact.decision_id, each.state, each.outcome, each.at_us - NOON_US)
        for each in ledger.contact_changes(after, limit, campaigns)
    ]


def test_changes_tell_what_happened_in_order(ledger: Ledger) -> None:
    record(ledger, verdict(WHO, "e1", decision("d1")), verdict(WHO, "e2", waiting("p1"), shown("s1")))
    record(ledger, control("c1"))
    import_contacts(ledger, foreign("42"), foreign("42"))
    outcome(ledger, "d1", OutcomeKind.DELIVERED, NOON_US + 1)
    outcome(ledger, "d1", OutcomeKind.DELIVERED, NOON_US + 2)  # known: nothing happened
    outcome(ledger, "p1", OutcomeKind.REFUSED, NOON_US + 3)
    assert changes(ledger) == [
        ("d1", DeliveryState.PENDING, None, 0),
        ("s1", None, None, 0),
        ("c1", None, None, 0),
        ("42", None, None, 0),
        ("d1", DeliveryState.DELIVERED, None, 1),
        ("d1", None, OutcomeKind.DELIVERED, 1),
        ("p1", None, None, 3),
        ("p1", None, OutcomeKind.REFUSED, 3),
    ]
    assert next(iter(ledger.contact_changes(0, 1, ()))).subscriber_id == WHO


def test_changes_are_paged_and_asked_for_by_campaign(ledger: Ledger) -> None:
    for n in range(5):
        changed = decision(f"d{n}", campaign="roaming" if n % 2 else "night")
        record(ledger, verdict(WHO, f"e{n}", changed))
    seen: list[str] = []
    after = 0
    while page := ledger.contact_changes(after, 2, ()):
        seen += [each.contact.decision_id for each in page]
        after = page[-1].cursor
    assert seen == ["d0", "d1", "d2", "d3", "d4"]
    assert [id_ for id_, *_ in changes(ledger, campaigns=["roaming", "unheard-of"])] == ["d1", "d3"]


def test_word_that_a_prompt_was_not_offered_is_no_contact_until_better_is_known(ledger: Ledger) -> None:
    record(ledger, verdict(WHO, "e1", waiting("p1", cost=3, day=7, open_until_us=NOON_US + HOUR_US)))
    outcome(ledger, "p1", OutcomeKind.NOT_OFFERED, NOON_US + 1)
    assert (contact_ids(ledger), changes(ledger)) == ([], [])
    outcome(ledger, "p1", OutcomeKind.ACCEPTED, NOON_US + 2)
    (contact,) = history(ledger).contacts
    assert (contact.state, contact.at_us) == (ContactState.COMMITTED, NOON_US + 2)
    assert (contact.cost, contact.day, contact.open_until_us) == (3, 7, NOON_US + HOUR_US)


def test_manual_decision_on_a_bulk_channel_waits_for_delivery(ledger: Ledger) -> None:
    record(ledger, verdict(WHO, "e1", shown("s1", bulk=True), waiting("p1", bulk=True)))
    assert ledger.delivery_of("s1") == (DeliveryState.PENDING, 0)
    assert ledger.delivery_of("p1") is None
