"""What every `Ledger` must do with deliveries: leases, fencing, and what each end does to the contact."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from opportune_rulebase.policies import Mode, OutcomeKind
from opportune_service.app.errors import UnknownDecisionError
from opportune_service.app.ports import Ledger
from opportune_service.app.records import DeliveryState, Lease, Settlement
from opportune_service.core.verdict import ContactState
from support.ledgers import STORES
from support.verdicts import HOUR_US, NOON_US, SECOND_US, decision, verdict, waiting

WHO = "8613800000001"
LEASE_US = 30 * SECOND_US
ATTEMPTS = 3


@pytest.fixture(params=STORES)
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ledger]:
    opened = STORES[request.param](tmp_path)
    yield opened
    opened.close()


def record(ledger: Ledger, *ids: str, **changes: object) -> None:
    with ledger.transaction() as tx:
        tx.record_verdicts([verdict(WHO, f"event-{id_}", decision(id_, **changes)) for id_ in ids])


def lease(ledger: Ledger, now_us: int = NOON_US, limit: int = 10, channel: str = "sms") -> list[Lease]:
    with ledger.transaction() as tx:
        return tx.lease(channel, limit, now_us, LEASE_US, ATTEMPTS)


def lease_one(ledger: Ledger, now_us: int = NOON_US) -> Lease:
    (one,) = lease(ledger, now_us)
    return one


def settle(
    ledger: Ledger, given: Lease, settlement: Settlement, now_us: int = NOON_US, retry_at_us: int = 0
) -> bool:
    with ledger.transaction() as tx:
        return tx.settle(given.decision_id, given.token, settlement, now_us, retry_at_us)


def contact(ledger: Ledger, decision_id: str = "d1") -> ContactState:
    """The state of the contact; released ones are in no history."""
    with ledger.transaction() as tx:
        contacts = tx.histories([WHO], 0, NOON_US)[WHO].contacts
    return {each.decision_id: each.state for each in contacts}.get(decision_id, ContactState.RELEASED)


def state(ledger: Ledger, decision_id: str = "d1") -> DeliveryState:
    found = ledger.delivery_of(decision_id)
    assert found is not None
    return found[0]


def test_lease_carries_what_the_channel_needs(ledger: Ledger) -> None:
    record(ledger, "d1")
    decided = decision("d1")
    assert lease(ledger) == [
        Lease(
            decision_id="d1",
            token=1,
            attempt=1,
            subscriber_id=WHO,
            channel=decided.channel,
            campaign=decided.campaign,
            content=decided.content,
            lease_until_us=NOON_US + LEASE_US,
            expires_at_us=decided.expires_at_us,
        )
    ]
    assert ledger.delivery_of("d1") == (DeliveryState.LEASED, 1)


def test_leases_go_oldest_first_up_to_the_limit_and_once(ledger: Ledger) -> None:
    record(ledger, "z", "y")
    record(ledger, "x")
    taken = [[each.decision_id for each in lease(ledger, limit=2)] for _ in range(3)]
    assert taken == [["z", "y"], ["x"], []]
    assert lease(ledger, limit=0) == []


def test_lease_is_of_its_channel_only(ledger: Ledger) -> None:
    record(ledger, "d1", channel="wap")
    assert lease(ledger) == []
    assert [each.decision_id for each in lease(ledger, channel="wap")] == ["d1"]


def test_lease_never_reaches_past_the_expiry(ledger: Ledger) -> None:
    record(ledger, "d1", expires_at_us=NOON_US + 5)
    assert lease_one(ledger).lease_until_us == NOON_US + 5


def test_sent_commits_and_is_not_leased_again(ledger: Ledger) -> None:
    record(ledger, "d1")
    given = lease_one(ledger)
    assert settle(ledger, given, Settlement.SENT)
    assert (state(ledger), contact(ledger)) == (DeliveryState.SENT, ContactState.COMMITTED)
    assert not settle(ledger, given, Settlement.SENT)
    assert lease(ledger, NOON_US + 2 * HOUR_US) == []
    assert state(ledger) is DeliveryState.SENT


def test_failed_releases(ledger: Ledger) -> None:
    record(ledger, "d1")
    assert settle(ledger, lease_one(ledger), Settlement.FAILED)
    assert (state(ledger), contact(ledger)) == (DeliveryState.FAILED, ContactState.RELEASED)


def test_retry_waits_for_its_time(ledger: Ledger) -> None:
    record(ledger, "d1", "d2")
    retried, other = lease(ledger)
    again_us = NOON_US + 10 * SECOND_US
    assert settle(ledger, retried, Settlement.RETRY, retry_at_us=again_us)
    settle(ledger, other, Settlement.SENT)
    assert (state(ledger), contact(ledger)) == (DeliveryState.PENDING, ContactState.RESERVED)
    assert not settle(ledger, retried, Settlement.SENT), "the lease was settled already"
    assert lease(ledger, again_us - 1) == []
    given = lease_one(ledger, again_us)
    assert (given.decision_id, given.token, given.attempt) == ("d1", 2, 2)


def test_lease_that_ran_out_is_given_again_with_a_higher_token(ledger: Ledger) -> None:
    record(ledger, "d1")
    first = lease_one(ledger)
    assert lease(ledger, first.lease_until_us - 1) == []
    second = lease_one(ledger, first.lease_until_us)
    assert (second.token, second.attempt) == (first.token + 1, 2)
    for settlement in Settlement:
        assert not settle(ledger, first, settlement), "the old token must not settle"
    assert state(ledger) is DeliveryState.LEASED
    assert settle(ledger, second, Settlement.SENT)


def test_late_word_counts_as_long_as_nobody_else_has_the_lease(ledger: Ledger) -> None:
    record(ledger, "d1")
    given = lease_one(ledger)
    assert settle(ledger, given, Settlement.SENT, now_us=given.lease_until_us + SECOND_US)
    assert lease(ledger, given.lease_until_us + SECOND_US) == []
    assert contact(ledger) is ContactState.COMMITTED


def test_expired_unsent_releases(ledger: Ledger) -> None:
    record(ledger, "d1")
    assert lease(ledger, NOON_US + HOUR_US) == []
    assert (state(ledger), contact(ledger)) == (DeliveryState.EXPIRED, ContactState.RELEASED)


def test_expired_after_a_lease_without_a_word_counts(ledger: Ledger) -> None:
    record(ledger, "d1")
    given = lease_one(ledger)
    assert lease(ledger, NOON_US + HOUR_US) == []
    assert (state(ledger), contact(ledger)) == (DeliveryState.EXPIRED, ContactState.RESERVED)
    assert not settle(ledger, given, Settlement.FAILED)
    assert contact(ledger) is ContactState.RESERVED


def test_expired_while_it_waited_for_a_retry_releases(ledger: Ledger) -> None:
    record(ledger, "d1")
    settle(ledger, lease_one(ledger), Settlement.RETRY, retry_at_us=NOON_US + 2 * HOUR_US)
    assert lease(ledger, NOON_US + HOUR_US) == []
    assert (state(ledger), contact(ledger)) == (DeliveryState.EXPIRED, ContactState.RELEASED)


def test_out_of_attempts_that_were_all_taken_back_is_dead_and_releases(ledger: Ledger) -> None:
    record(ledger, "d1")
    for _ in range(ATTEMPTS):
        settle(ledger, lease_one(ledger), Settlement.RETRY, retry_at_us=NOON_US)
    assert lease(ledger) == []
    assert ledger.delivery_of("d1") == (DeliveryState.DEAD, ATTEMPTS)
    assert contact(ledger) is ContactState.RELEASED


@pytest.mark.parametrize("silent", range(1, ATTEMPTS + 1))
def test_out_of_attempts_counts_if_one_of_them_was_silent(ledger: Ledger, silent: int) -> None:
    record(ledger, "d1")
    now_us = NOON_US
    for attempt in range(1, ATTEMPTS + 1):
        given = lease_one(ledger, now_us)
        now_us = given.lease_until_us
        if attempt != silent:
            settle(ledger, given, Settlement.RETRY, retry_at_us=now_us)
    assert lease(ledger, now_us) == []
    assert (state(ledger), contact(ledger)) == (DeliveryState.DEAD, ContactState.RESERVED)


def test_failed_after_a_silent_lease_counts(ledger: Ledger) -> None:
    record(ledger, "d1")
    first = lease_one(ledger)
    settle(ledger, lease_one(ledger, first.lease_until_us), Settlement.FAILED)
    assert (state(ledger), contact(ledger)) == (DeliveryState.FAILED, ContactState.RESERVED)


def test_many_expired_ones_do_not_hide_what_can_be_leased(ledger: Ledger) -> None:
    record(ledger, *(f"old{i}" for i in range(250)), expires_at_us=NOON_US)
    record(ledger, "d1")
    assert lease_one(ledger).decision_id == "d1"
    assert state(ledger, "old249") is DeliveryState.EXPIRED


def test_receipt_moves_a_sent_delivery_on(ledger: Ledger) -> None:
    record(ledger, "d1")
    settle(ledger, lease_one(ledger), Settlement.SENT)
    with ledger.transaction() as tx:
        assert tx.record_outcome("d1", OutcomeKind.DELIVERED, NOON_US)
    assert (state(ledger), contact(ledger)) == (DeliveryState.DELIVERED, ContactState.COMMITTED)


@pytest.mark.parametrize(
    ("kind", "delivery", "counts"),
    [
        (OutcomeKind.DELIVERED, DeliveryState.DELIVERED, ContactState.COMMITTED),
        (OutcomeKind.REFUSED, DeliveryState.SENT, ContactState.COMMITTED),
        (OutcomeKind.NOT_OFFERED, DeliveryState.FAILED, ContactState.RELEASED),
    ],
)
def test_outcome_ends_a_delivery_whose_lease_is_still_out(
    ledger: Ledger, kind: OutcomeKind, delivery: DeliveryState, counts: ContactState
) -> None:
    record(ledger, "d1")
    given = lease_one(ledger)
    with ledger.transaction() as tx:
        assert tx.record_outcome("d1", kind, NOON_US)
    assert lease(ledger, given.lease_until_us) == []
    assert (state(ledger), contact(ledger)) == (delivery, counts)


def test_settling_what_has_no_delivery_is_refused(ledger: Ledger) -> None:
    with ledger.transaction() as tx:
        tx.record_verdicts([verdict(WHO, "e1", waiting("p1"))])
    for decision_id in ("p1", "nothing"):
        with pytest.raises(UnknownDecisionError, match=decision_id), ledger.transaction() as tx:
            tx.settle(decision_id, 1, Settlement.SENT, NOON_US, 0)


def test_outcome_before_its_decision_counts_from_the_decision(ledger: Ledger) -> None:
    """A wrong clock at a touch point must not take a contact out of the caps' sight."""
    record(ledger, "d1", mode=Mode.MANUAL, channel="counter", shown=False)
    with ledger.transaction() as tx:
        assert tx.record_outcome("d1", OutcomeKind.REFUSED, 0)
        history = tx.histories([WHO], 1, NOON_US)[WHO]
    assert [each.at_us for each in history.contacts] == [NOON_US]
    assert [each.at_us for each in history.outcomes] == [NOON_US]
