"""What every `Ledger` must do with deliveries: leases, fencing, and what each end does to the contact."""

from __future__ import annotations

import pytest
from opportune_rulebase.policies import Mode, OutcomeKind
from opportune_service.app.errors import UnknownDecisionError
from opportune_service.app.ports import Ledger
from opportune_service.app.records import DeadLetter, DeliveryState, Lease, Redriven, Settlement, Waiting
from opportune_service.core.verdict import (
    Contact,
    ContactState,
    OpenPrompt,
    Trigger,
    UsageKey,
    UsageKind,
    usage_of,
)
from support.verdicts import HOUR_US, NOON_US, SECOND_US, decision, shown, verdict, waiting

WHO = "8613800000001"
OTHER = "8613800000002"
LEASE_US = 30 * SECOND_US
ENDS = (DeliveryState.EXPIRED, DeliveryState.DEAD, DeliveryState.WITHDRAWN)
DAY = 20_000


def record(ledger: Ledger, *ids: str, who: str = WHO, **changes: object) -> None:
    with ledger.transaction() as tx:
        tx.record_verdicts([verdict(who, f"event-{id_}", decision(id_, **changes)) for id_ in ids])


def found(ledger: Ledger, now_us: int = NOON_US, limit: int = 10, channel: str = "sms") -> list[Waiting]:
    with ledger.transaction() as tx:
        return list(tx.waiting(channel, limit, now_us))


def found_ids(ledger: Ledger, now_us: int = NOON_US, limit: int = 10) -> list[str]:
    return [each.decision_id for each in found(ledger, now_us, limit)]


def lease_of(waits: Waiting, now_us: int = NOON_US) -> Lease:
    return Lease(
        decision_id=waits.decision_id,
        token=waits.token + 1,
        attempt=waits.attempts + 1,
        subscriber_id=waits.subscriber_id,
        channel=waits.channel,
        campaign=waits.campaign,
        product=waits.product,
        content=waits.content,
        lease_until_us=min(now_us + LEASE_US, waits.expires_at_us),
        expires_at_us=waits.expires_at_us,
    )


def lease(ledger: Ledger, now_us: int = NOON_US, limit: int = 10) -> list[Lease]:
    """Give out all that waits."""
    with ledger.transaction() as tx:
        leases = [lease_of(each, now_us) for each in tx.waiting("sms", limit, now_us)]
        tx.lease(leases, DAY)
    return leases


def lease_one(ledger: Ledger, now_us: int = NOON_US) -> Lease:
    (one,) = lease(ledger, now_us)
    return one


def settle(
    ledger: Ledger,
    given: Lease,
    settlement: Settlement,
    now_us: int = NOON_US,
    retry_at_us: int = 0,
    detail: str = "",
) -> bool:
    with ledger.transaction() as tx:
        return tx.settle(given.decision_id, given.token, settlement, now_us, retry_at_us, detail)


def end(ledger: Ledger, state: DeliveryState, *ids: str, now_us: int = NOON_US, detail: str = "") -> None:
    with ledger.transaction() as tx:
        tx.end_deliveries(dict.fromkeys(ids or ("d1",), state), now_us, detail)


def contact(ledger: Ledger, decision_id: str = "d1") -> ContactState:
    """The state of the contact; released ones are in no history."""
    with ledger.transaction() as tx:
        contacts = tx.histories([WHO], 0, NOON_US)[WHO].contacts
    return {each.decision_id: each.state for each in contacts}.get(decision_id, ContactState.RELEASED)


def state(ledger: Ledger, decision_id: str = "d1") -> DeliveryState:
    where = ledger.delivery_of(decision_id)
    assert where is not None
    return where[0]


def used(ledger: Ledger, kind: UsageKind, name: str, period: int = 0) -> int:
    key = UsageKey(kind, name, period)
    with ledger.transaction() as tx:
        return tx.usage([key]).get(key, 0)


# -- what waits, and giving it out ----------------------------------------------------------------


def test_what_waits_carries_what_is_checked_and_sent(ledger: Ledger) -> None:
    record(ledger, "d1")
    decided = decision("d1")
    assert found(ledger) == [
        Waiting(
            decision_id="d1",
            subscriber_id=WHO,
            channel=decided.channel,
            campaign=decided.campaign,
            product=decided.product,
            category=decided.category,
            mode=decided.mode,
            content=decided.content,
            token=0,
            attempts=0,
            uncertain=False,
            expires_at_us=decided.expires_at_us,
        )
    ]
    assert ledger.delivery_of("d1") == (DeliveryState.PENDING, 0)


def test_what_is_shown_on_a_bulk_channel_waits_and_what_a_person_shows_does_not(ledger: Ledger) -> None:
    with ledger.transaction() as tx:
        tx.record_verdicts(
            [
                verdict(WHO, "e1", shown("d1", channel="outbound", bulk=True)),
                verdict(OTHER, "e2", shown("d2", channel="outbound")),
            ]
        )
    (one,) = found(ledger, channel="outbound")
    assert (one.decision_id, one.mode) == ("d1", Mode.MANUAL)


def test_the_oldest_wait_first_up_to_the_limit(ledger: Ledger) -> None:
    for n, id_ in enumerate("zyx"):
        record(ledger, id_, who=f"86138{n:08d}")
    assert found_ids(ledger, limit=2) == ["z", "y"]
    assert [each.decision_id for each in lease(ledger, limit=2)] == ["z", "y"]
    assert [each.decision_id for each in lease(ledger)] == ["x"]
    assert lease(ledger) == []


def test_what_waits_is_of_its_channel_only(ledger: Ledger) -> None:
    record(ledger, "d1", channel="wap")
    assert found(ledger) == []
    assert [each.decision_id for each in found(ledger, channel="wap")] == ["d1"]


def test_a_lease_counts_as_an_attempt_and_is_given_once(ledger: Ledger) -> None:
    record(ledger, "d1")
    given = lease_one(ledger)
    assert (given.token, given.attempt) == (1, 1)
    assert ledger.delivery_of("d1") == (DeliveryState.LEASED, 1)
    assert found(ledger, given.lease_until_us - 1) == []


def test_a_lease_that_ran_out_waits_again_uncertain_and_its_token_is_stale(ledger: Ledger) -> None:
    record(ledger, "d1")
    first = lease_one(ledger)
    (again,) = found(ledger, first.lease_until_us)
    assert (again.token, again.attempts, again.uncertain) == (1, 1, True)
    second = lease_one(ledger, first.lease_until_us)
    assert (second.token, second.attempt) == (2, 2)
    for settlement in Settlement:
        assert not settle(ledger, first, settlement), "the old token must not settle"
    assert state(ledger) is DeliveryState.LEASED
    assert settle(ledger, second, Settlement.SENT)


def test_first_leases_of_a_day_are_counted_by_channel(ledger: Ledger) -> None:
    record(ledger, "d1")
    record(ledger, "d2", who=OTHER)
    first, second = lease(ledger)
    settle(ledger, first, Settlement.RETRY)
    settle(ledger, second, Settlement.FAILED)
    assert lease_one(ledger).attempt == 2
    assert used(ledger, UsageKind.CHANNEL_LEASES, "sms", DAY) == 2, "second attempts are not counted"
    assert used(ledger, UsageKind.CHANNEL_LEASES, "sms", DAY + 1) == 0


# -- order ----------------------------------------------------------------------------------------


def test_first_attempts_of_a_subscriber_come_one_after_the_other(ledger: Ledger) -> None:
    record(ledger, "d1", "d2", "d3")
    record(ledger, "other", who=OTHER)
    assert found_ids(ledger) == ["d1", "other"], "only one of a subscriber may be on its way"
    given = {each.decision_id: each for each in lease(ledger)}
    assert found_ids(ledger) == []
    settle(ledger, given["d1"], Settlement.SENT)
    assert found_ids(ledger) == ["d2"]


@pytest.mark.parametrize("settlement", [Settlement.RETRY, Settlement.FAILED, Settlement.SENT, None])
def test_the_next_may_go_once_the_first_attempt_has_ended(
    ledger: Ledger, settlement: Settlement | None
) -> None:
    """However it ended; None: its lease ran out. Nobody waits for second attempts."""
    record(ledger, "d1", "d2")
    given = lease_one(ledger)
    now_us = NOON_US
    if settlement is None:
        now_us = given.lease_until_us
    else:
        settle(ledger, given, settlement, retry_at_us=NOON_US + HOUR_US // 2)
    assert "d2" in found_ids(ledger, now_us)
    if settlement is Settlement.RETRY:
        assert found_ids(ledger, NOON_US + HOUR_US // 2) == ["d2", "d1"]


def test_another_channel_is_another_order(ledger: Ledger) -> None:
    record(ledger, "d1", channel="wap")
    record(ledger, "d2")
    assert found_ids(ledger) == ["d2"]


def test_what_is_postponed_holds_nobody_up_and_comes_in_its_order(ledger: Ledger) -> None:
    record(ledger, "d1", "d2")
    later_us = NOON_US + HOUR_US // 2
    with ledger.transaction() as tx:
        tx.postpone(["d1"], later_us)
    assert found_ids(ledger) == ["d2"]
    with ledger.transaction() as tx:
        tx.postpone(["d2"], later_us)
    assert found_ids(ledger, later_us) == ["d1"]


# -- settling -------------------------------------------------------------------------------------


def test_sent_commits_and_is_not_leased_again(ledger: Ledger) -> None:
    record(ledger, "d1")
    given = lease_one(ledger)
    assert settle(ledger, given, Settlement.SENT)
    assert (state(ledger), contact(ledger)) == (DeliveryState.SENT, ContactState.COMMITTED)
    assert not settle(ledger, given, Settlement.SENT)
    assert lease(ledger, NOON_US + 2 * HOUR_US) == []
    assert state(ledger) is DeliveryState.SENT


def test_failed_releases_and_takes_it_back_from_the_counters(ledger: Ledger) -> None:
    record(ledger, "d1")
    assert used(ledger, UsageKind.CAMPAIGN_TOTAL, "night-data") == 1
    assert settle(ledger, lease_one(ledger), Settlement.FAILED)
    assert (state(ledger), contact(ledger)) == (DeliveryState.FAILED, ContactState.RELEASED)
    assert used(ledger, UsageKind.CAMPAIGN_TOTAL, "night-data") == 0


def test_retry_waits_for_its_time(ledger: Ledger) -> None:
    record(ledger, "d1")
    given = lease_one(ledger)
    again_us = NOON_US + 10 * SECOND_US
    assert settle(ledger, given, Settlement.RETRY, retry_at_us=again_us)
    assert (state(ledger), contact(ledger)) == (DeliveryState.PENDING, ContactState.RESERVED)
    assert not settle(ledger, given, Settlement.SENT), "the lease was settled already"
    assert lease(ledger, again_us - 1) == []
    again = lease_one(ledger, again_us)
    assert (again.decision_id, again.token, again.attempt) == ("d1", 2, 2)


def test_late_word_counts_as_long_as_nobody_else_has_the_lease(ledger: Ledger) -> None:
    record(ledger, "d1")
    given = lease_one(ledger)
    assert settle(ledger, given, Settlement.SENT, now_us=given.lease_until_us + SECOND_US)
    assert lease(ledger, given.lease_until_us + SECOND_US) == []
    assert contact(ledger) is ContactState.COMMITTED


def test_failed_after_a_silent_lease_counts(ledger: Ledger) -> None:
    record(ledger, "d1")
    first = lease_one(ledger)
    settle(ledger, lease_one(ledger, first.lease_until_us), Settlement.FAILED)
    assert (state(ledger), contact(ledger)) == (DeliveryState.FAILED, ContactState.RESERVED)


def test_settling_what_has_no_delivery_is_refused(ledger: Ledger) -> None:
    with ledger.transaction() as tx:
        tx.record_verdicts([verdict(WHO, "e1", waiting("p1"))])
    for decision_id in ("p1", "nothing"):
        with pytest.raises(UnknownDecisionError, match="no delivery"), ledger.transaction() as tx:
            tx.settle(decision_id, 1, Settlement.SENT, NOON_US, 0)


# -- ends without a word from the channel ---------------------------------------------------------


@pytest.mark.parametrize("how", ENDS)
def test_what_ends_unsent_releases(ledger: Ledger, how: DeliveryState) -> None:
    record(ledger, "d1")
    end(ledger, how)
    assert (state(ledger), contact(ledger)) == (how, ContactState.RELEASED)
    assert found(ledger, NOON_US + HOUR_US) == []
    assert used(ledger, UsageKind.CAMPAIGN_TOTAL, "night-data") == 0


@pytest.mark.parametrize("how", ENDS)
def test_what_ends_after_retries_alone_releases(ledger: Ledger, how: DeliveryState) -> None:
    record(ledger, "d1")
    for _ in range(3):
        settle(ledger, lease_one(ledger), Settlement.RETRY, retry_at_us=NOON_US)
    end(ledger, how)
    assert ledger.delivery_of("d1") == (how, 3)
    assert contact(ledger) is ContactState.RELEASED


@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize("silent", range(3))
def test_what_ends_counts_if_one_of_its_leases_was_silent(
    ledger: Ledger, how: DeliveryState, silent: int
) -> None:
    record(ledger, "d1")
    now_us = NOON_US
    for attempt in range(3):
        given = lease_one(ledger, now_us)
        now_us = given.lease_until_us
        if attempt != silent:
            settle(ledger, given, Settlement.RETRY, retry_at_us=now_us)
    end(ledger, how, now_us=now_us)
    assert (state(ledger), contact(ledger)) == (how, ContactState.RESERVED)
    assert not settle(ledger, given, Settlement.FAILED), "it has ended"
    assert used(ledger, UsageKind.CAMPAIGN_TOTAL, "night-data") == 1


@pytest.mark.parametrize("postponed", [False, True])
def test_what_has_expired_is_found_on_any_channel(ledger: Ledger, postponed: bool) -> None:
    record(ledger, "d1", "d2", channel="wap")
    record(ledger, "d3", expires_at_us=NOON_US + HOUR_US + 1)
    if postponed:
        with ledger.transaction() as tx:
            tx.postpone(["d1", "d2"], NOON_US + 5 * HOUR_US)
    with ledger.transaction() as tx:
        assert [tx.expire(NOON_US + HOUR_US, 1) for _ in range(3)] == [1, 1, 0]
    assert [state(ledger, id_) for id_ in ("d1", "d2", "d3")] == [
        DeliveryState.EXPIRED,
        DeliveryState.EXPIRED,
        DeliveryState.PENDING,
    ]
    assert contact(ledger, "d2") is ContactState.RELEASED


def test_prompts_expire_likewise_and_may_still_be_answered(ledger: Ledger) -> None:
    record(ledger, "p1", "p2", bulk=True, mode=Mode.MANUAL, channel="outbound")
    record(
        ledger, "p3", bulk=True, mode=Mode.MANUAL, channel="outbound", expires_at_us=NOON_US + 2 * HOUR_US
    )
    record(ledger, "d1")
    with ledger.transaction() as tx:
        assert [tx.expire(NOON_US + HOUR_US, 1) for _ in range(3)] == [1, 1, 0]
    # Also if the clock goes back.
    assert [each.decision_id for each in ledger.prompts_on("outbound", NOON_US, (0, ""), 9)] == ["p3"]
    assert [each.decision_id for each in ledger.prompts(WHO, NOON_US)] == ["p3"]
    with ledger.transaction() as tx:
        assert tx.record_outcome("p1", OutcomeKind.ACCEPTED, NOON_US + HOUR_US)
        assert not tx.record_outcome("p1", OutcomeKind.ACCEPTED, NOON_US + HOUR_US)
    assert contact(ledger, "p1") is ContactState.COMMITTED


def test_what_has_expired_is_among_what_waits_whatever_it_waits_for(ledger: Ledger) -> None:
    record(ledger, "d1")
    with ledger.transaction() as tx:
        tx.postpone(["d1"], NOON_US + 5 * HOUR_US)
    record(ledger, "d2", who=OTHER)
    settle(ledger, lease_one(ledger), Settlement.RETRY, retry_at_us=NOON_US + 5 * HOUR_US)
    assert found_ids(ledger, NOON_US + HOUR_US - 1) == []
    assert found_ids(ledger, NOON_US + HOUR_US) == ["d1", "d2"]


# -- outcomes -------------------------------------------------------------------------------------


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


def test_outcome_before_its_decision_counts_from_the_decision(ledger: Ledger) -> None:
    """A wrong clock at a touch point must not take a contact out of the caps' sight."""
    record(ledger, "d1", mode=Mode.MANUAL, channel="counter", shown=False)
    with ledger.transaction() as tx:
        assert tx.record_outcome("d1", OutcomeKind.REFUSED, 0)
        history = tx.histories([WHO], 1, NOON_US)[WHO]
    assert [each.at_us for each in history.contacts] == [NOON_US]
    assert [each.at_us for each in history.outcomes] == [NOON_US]


# -- dead letters ---------------------------------------------------------------------------------


def make_dead(ledger: Ledger, *ids: str, detail: str = "no route", **changes: object) -> None:
    for id_ in ids:
        record(ledger, id_, **changes)
        settle(ledger, lease_one(ledger), Settlement.RETRY, detail=detail)
        end(ledger, DeliveryState.DEAD, id_, now_us=NOON_US + SECOND_US)


def again(id_: str = "d1", at_us: int = NOON_US + HOUR_US, day: int = DAY) -> Redriven:
    about = decision(id_)
    kept = Contact(
        id_, about.campaign, about.product, about.category, about.channel, about.mode, at_us, day=day
    )
    return Redriven(WHO, kept, at_us + HOUR_US)


def redrive(ledger: Ledger, *redriven: Redriven) -> None:
    with ledger.transaction() as tx:
        tx.redrive(redriven, NOON_US + HOUR_US, "ann", "gateway mended")


def test_dead_letters_say_what_the_channel_said_last(ledger: Ledger) -> None:
    make_dead(ledger, "d1")
    about = decision("d1")
    (letter,) = ledger.dead_letters("", "", 0, 10)
    assert letter == DeadLetter(
        cursor=letter.cursor,
        decision_id="d1",
        subscriber_id=WHO,
        channel="sms",
        campaign=about.campaign,
        content=about.content,
        attempts=1,
        detail="no route",
        dead_at_us=NOON_US + SECOND_US,
        expires_at_us=about.expires_at_us,
    )


def test_dead_letters_are_paged_newest_first_and_chosen(ledger: Ledger) -> None:
    make_dead(ledger, "d1", "d2")
    make_dead(ledger, "d3", campaign="care")
    record(ledger, "alive")
    page = ledger.dead_letters("", "", 0, 2)
    assert [each.decision_id for each in page] == ["d3", "d2"]
    assert [each.decision_id for each in ledger.dead_letters("", "", page[-1].cursor, 2)] == ["d1"]
    assert [each.decision_id for each in ledger.dead_letters("sms", "care", 0, 9)] == ["d3"]
    assert ledger.dead_letters("wap", "", 0, 9) == []
    assert {each.decision_id for each in ledger.dead_letters_of(["d1", "alive", "none"])} == {"d1"}


def test_what_is_redriven_is_pending_with_new_attempts_time_and_reservation(ledger: Ledger) -> None:
    make_dead(ledger, "d1")
    assert contact(ledger) is ContactState.RELEASED
    redrive(ledger, again())
    assert ledger.delivery_of("d1") == (DeliveryState.PENDING, 0)
    assert ledger.dead_letters("", "", 0, 9) == []
    given = lease_one(ledger, NOON_US + HOUR_US)
    assert (given.token, given.attempt) == (2, 1), "old tokens stay stale"
    assert given.expires_at_us == NOON_US + 2 * HOUR_US
    with ledger.transaction() as tx:
        (kept,) = tx.histories([WHO], 0, NOON_US)[WHO].contacts
    assert (kept.state, kept.at_us, kept.day) == (ContactState.RESERVED, NOON_US + HOUR_US, DAY)


@pytest.mark.parametrize("silent", [False, True])
def test_what_is_redriven_is_counted_once_and_by_when_it_is_made(ledger: Ledger, silent: bool) -> None:
    """Whether its reservation had been released, or a silent lease had kept it."""
    record(ledger, "d1")
    given = lease_one(ledger)
    if not silent:
        settle(ledger, given, Settlement.RETRY, retry_at_us=given.lease_until_us)
    end(ledger, DeliveryState.DEAD, now_us=given.lease_until_us)
    assert used(ledger, UsageKind.CAMPAIGN_DAY, "night-data", 0) == silent
    redriven = again()
    redrive(ledger, redriven)
    with ledger.transaction() as tx:
        counted = tx.usage(usage_of(redriven.contact))
        before = tx.usage([UsageKey(UsageKind.CAMPAIGN_DAY, "night-data", 0)])
    assert {key: value for key, value in usage_of(redriven.contact).items() if value} == {
        key: value for key, value in counted.items() if value
    }
    assert not any(before.values())


def test_what_was_silent_once_counts_though_it_is_redriven_and_dies_again(ledger: Ledger) -> None:
    record(ledger, "d1")
    end(ledger, DeliveryState.DEAD, now_us=lease_one(ledger).lease_until_us)
    redrive(ledger, again())
    settle(ledger, lease_one(ledger, NOON_US + HOUR_US), Settlement.RETRY)
    end(ledger, DeliveryState.DEAD)
    assert contact(ledger) is ContactState.RESERVED


# -- prompts that the service shows itself --------------------------------------------------------


def test_open_prompts_of_a_channel_come_oldest_first(ledger: Ledger) -> None:
    trigger = Trigger("data_session", NOON_US)
    with ledger.transaction() as tx:
        tx.record_verdicts(
            [
                verdict(OTHER, "e2", waiting("p2", channel="outbound"), at_us=NOON_US + 1),
                verdict(WHO, "e1", waiting("p1", channel="outbound", trigger=trigger)),
                verdict(WHO, "e3", waiting("p3")),
                verdict(WHO, "e4", waiting("p4", channel="outbound", expires_at_us=NOON_US + 2)),
            ]
        )
    listed = ledger.prompts_on("outbound", NOON_US + 2, (0, ""), 9)
    about = decision("p1")
    assert listed[0] == OpenPrompt(WHO, "p1", about.campaign, NOON_US, Trigger("data_session", NOON_US))
    assert [(each.subscriber_id, each.decision_id) for each in listed] == [(WHO, "p1"), (OTHER, "p2")]
    assert listed[1].trigger is None
    (first,) = ledger.prompts_on("outbound", NOON_US + 2, (0, ""), 1)
    after = (first.decided_at_us, first.decision_id)
    assert [each.decision_id for each in ledger.prompts_on("outbound", NOON_US + 2, after, 9)] == ["p2"]
