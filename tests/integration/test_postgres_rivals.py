"""What one process does to a ledger in PostgreSQL while another is at it: who waits for whom, and that
nothing is lost or done twice. Each control takes a safety away, and shows what it is there for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from threading import Barrier
from typing import Any

import pytest
from opportune_rulebase.policies import Mode, OutcomeKind
from opportune_service.adapters.sql import SqlLedger, changes, deliveries, verdicts
from opportune_service.adapters.sql.transaction import SqlTransaction
from opportune_service.app.errors import (
    ExpelledError,
    StoreConflictError,
    StoreUnavailableError,
    SupersededError,
)
from opportune_service.app.ports import Ledger, LedgerTransaction
from opportune_service.app.records import (
    DecisionFilter,
    DeliveryState,
    ForeignContact,
    Lease,
    Pause,
    Quarantined,
    QuarantineFilter,
    RulebaseRow,
    Settlement,
    Sweep,
)
from opportune_service.core.erase import Erasing
from opportune_service.core.events import Event, RejectionReason
from opportune_service.core.verdict import Contact, Response, UsageKey, UsageKind
from support.rivals import PATIENCE_SECONDS, Rivals, rivals
from support.verdicts import HOUR_US, NOON_US, decision, shown, verdict

WHO = "8613800000001"
OTHER = "8613800000002"
STAND_IN = "012345678901234"
CAMPAIGN = decision("d").campaign
TOTAL = UsageKey(UsageKind.CAMPAIGN_TOTAL, CAMPAIGN)


@pytest.fixture
def both(postgres_ledger_url: str) -> Iterator[Rivals]:
    with rivals(postgres_ledger_url) as made:
        yield made


def decided(ledger: Ledger, id_: str, who: str = WHO, **changed: object) -> None:
    with ledger.transaction() as tx:
        tx.record_verdicts([verdict(who, f"e-{id_}", decision(id_, **changed))])


def used(ledger: Ledger, key: UsageKey = TOTAL) -> int:
    with ledger.transaction() as tx:
        return tx.usage([key]).get(key, 0)


def result(future: Future[object]) -> object:
    return future.result(PATIENCE_SECONDS)


# -- members and generations ------------------------------------------------------------------------


def joined(ledger: Ledger) -> int:
    with ledger.transaction() as tx:
        return tx.join(0)


def test_a_generation_begins_when_no_guarded_commit_is_under_way(both: Rivals) -> None:
    member = joined(both.one)
    with both.one.transaction() as tx:
        tx.guard(member, 0)
        other = both.other(lambda tx: tx.advance())
        assert both.waits(other)
        tx.record_verdicts([verdict(WHO, "e1", decision("d1"))])
    assert result(other) == 1
    assert both.two.verdict_of("d1") is not None


def test_whoever_waited_for_a_generation_is_told_of_it(both: Rivals) -> None:
    """What it reads must be what was there when its wait was over, not when it began."""
    member = joined(both.one)
    with both.one.transaction() as tx:
        tx.advance()
        other = both.other(lambda tx: tx.guard(member, 0))
        assert both.waits(other)
    with pytest.raises(SupersededError):
        result(other)


def test_a_member_is_expelled_when_no_commit_of_its_is_under_way(both: Rivals) -> None:
    member = joined(both.one)
    with both.one.transaction() as tx:
        tx.guard(member, 0)
        other = both.other(lambda tx: tx.expel(member))
        assert both.waits(other)
        tx.record_verdicts([verdict(WHO, "e1", decision("d1"))])
    result(other)
    assert both.two.verdict_of("d1") is not None


def test_whoever_waited_while_it_was_expelled_commits_nothing(both: Rivals) -> None:
    member = joined(both.one)
    with both.one.transaction() as tx:
        tx.expel(member)
        other = both.other(lambda tx: tx.guard(member, 0))
        assert both.waits(other)
    with pytest.raises(ExpelledError):
        result(other)


def test_commits_of_members_do_not_wait_for_each_other_nor_for_another_s_end(both: Rivals) -> None:
    first, second, third = (joined(both.one) for _ in range(3))
    with both.one.transaction() as tx:
        tx.guard(first, 0)
        tx.expel(third)
        assert result(both.other(lambda tx: tx.guard(first, 0))) is None
        assert result(both.other(lambda tx: tx.guard(second, 0))) is None


def test_members_become_known_in_the_order_of_their_numbers(both: Rivals) -> None:
    """A number that is missing among those that are known is of a member that is gone."""
    with both.one.transaction() as tx:
        first = tx.join(0)
        other = both.other(lambda tx: tx.join(0))
        assert both.waits(other)
    assert result(other) == first + 1


# -- subscribers and names --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("theirs", "waits"),
    [
        (([WHO], []), True),
        (([OTHER, WHO], []), True),
        (([], ["quota"]), True),
        (([OTHER], ["another"]), False),
        (([], [WHO]), False),
        ((["quota"], []), False),
    ],
)
def test_who_is_held_by_one_is_waited_for(
    both: Rivals, theirs: tuple[list[str], list[str]], waits: bool
) -> None:
    with both.one.transaction() as tx:
        tx.lock([WHO], ["quota"])
        other = both.other(lambda tx: tx.lock(*theirs))
        assert both.waits(other) == waits
    result(other)


def test_nobody_waits_in_a_circle(postgres_ledger_url: str) -> None:
    orders = ([WHO, OTHER], [OTHER, WHO])

    def lock(order: list[str]) -> None:
        with closing(SqlLedger.open(postgres_ledger_url)) as ledger:
            for _ in range(100):
                with ledger.transaction() as tx:
                    tx.lock(order, order)

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lock, orders)) == [None, None]


def test_a_circle_is_broken_by_asking_one_to_try_again(both: Rivals) -> None:
    with both.one.transaction() as tx:
        tx.lock([WHO])

        def reverse(tx: LedgerTransaction) -> None:
            tx.lock([OTHER])
            tx.lock([WHO])

        other = both.other(reverse)
        assert both.waits(other)
        try:
            tx.lock([OTHER])
        except StoreUnavailableError as error:
            broken = error
        else:
            broken = None
    if broken is None:
        with pytest.raises(StoreUnavailableError, match="try again"):
            result(other)
    else:
        assert "try again" in str(broken)
        result(other)


def decide(quota: int, id_: str, meanwhile: Callable[[], object] = lambda: None) -> Callable[..., bool]:
    """A decision about a subscriber of its own, within a quota of the campaign."""

    def work(tx: LedgerTransaction) -> bool:
        tx.lock([f"86{id_}"], ["total"])
        left = quota - tx.usage([TOTAL]).get(TOTAL, 0)
        meanwhile()
        if left > 0:
            tx.record_verdicts([verdict(f"86{id_}", f"e-{id_}", decision(id_))])
        return left > 0

    return work


def test_two_that_decide_at_once_stay_within_a_quota(both: Rivals) -> None:
    others: list[Future[bool]] = []

    def meanwhile() -> None:
        others.append(both.other(decide(1, "2")))
        assert both.waits(others[0])

    with both.one.transaction() as tx:
        assert decide(1, "1", meanwhile)(tx)
    assert result(others[0]) is False
    assert used(both.one) == 1


def test_control_without_locks_they_exceed_it(both: Rivals, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SqlTransaction, "lock", lambda *_: None)
    with both.one.transaction() as tx:
        assert decide(1, "1", lambda: result(both.other(decide(1, "2"))))(tx)
    assert used(both.one) == 2


def _complain(tx: LedgerTransaction) -> object:
    return tx.record_outcome("d1", OutcomeKind.COMPLAINED, NOON_US)


def _import(tx: LedgerTransaction) -> object:
    contact = Contact("1", "call", "fibre", "broadband", "outbound", Mode.MANUAL, NOON_US, origin="crm")
    return tx.record_contacts([ForeignContact(WHO, contact, "")])


@pytest.mark.parametrize(
    "change",
    [
        _complain,
        _import,
        lambda tx: tx.settle("d1", 1, Settlement.FAILED, NOON_US, NOON_US),
        lambda tx: tx.end_deliveries({"d1": DeliveryState.WITHDRAWN}, NOON_US),
        lambda tx: tx.respond([Response(WHO, NOON_US + 1, OutcomeKind.ACCEPTED, channel="sms")]),
        lambda tx: tx.record_verdicts([verdict(WHO, "e2", decision("d2"))]),
        lambda tx: tx.erase(Erasing(WHO, STAND_IN), NOON_US, "li", "asked for"),
        lambda tx: tx.blot_out(Erasing(OTHER, STAND_IN), [WHO]),
    ],
)
def test_what_changes_contacts_waits_for_who_decides_about_the_subscriber(
    both: Rivals, change: Callable[[LedgerTransaction], object]
) -> None:
    decided(both.one, "d1", open_until_us=NOON_US + HOUR_US)
    decided(both.one, "elsewhere", OTHER)
    with both.one.transaction() as tx:
        tx.lock([WHO])
        before = tx.histories([WHO], 0, NOON_US)
        other = both.other(change)
        assert both.waits(other)
        assert tx.histories([WHO], 0, NOON_US) == before
    result(other)


# -- deliveries -------------------------------------------------------------------------------------


def lease(tx: LedgerTransaction, limit: int = 10) -> list[str]:
    """Those that it was given."""
    found = tx.waiting("sms", limit, NOON_US)
    tx.lease(
        [
            Lease(
                each.decision_id,
                each.token + 1,
                each.attempts + 1,
                each.subscriber_id,
                each.channel,
                each.campaign,
                each.product,
                each.content,
                NOON_US + HOUR_US,
                each.expires_at_us,
            )
            for each in found
        ],
        1,
    )
    return [each.decision_id for each in found]


def test_what_one_is_leasing_another_is_not_given_and_does_not_wait_for(both: Rivals) -> None:
    for n in range(4):
        decided(both.one, f"d{n}", f"861380000000{n}")
    with both.one.transaction() as tx:
        first = lease(tx, 2)
        second = result(both.other(lease))
    assert sorted([*first, *second]) == ["d0", "d1", "d2", "d3"]
    leases = UsageKey(UsageKind.CHANNEL_LEASES, "sms", 1)
    assert used(both.one, leases) == 4


def test_control_without_looking_for_others_both_are_given_the_same(
    both: Rivals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        deliveries,
        "free_rows",
        lambda connection, rows, _, **values: connection.execute(rows, values).all(),
    )
    decided(both.one, "d1")
    with both.one.transaction() as tx:
        first = [each.decision_id for each in tx.waiting("sms", 10, NOON_US)]
        second = result(
            both.other(lambda tx: [each.decision_id for each in tx.waiting("sms", 10, NOON_US)])
        )
    assert first == second == ["d1"]


def test_whoever_is_decided_about_is_not_leased_meanwhile(both: Rivals) -> None:
    decided(both.one, "d1")
    decided(both.one, "d2", OTHER)
    with both.one.transaction() as tx:
        tx.lock([WHO])
        assert result(both.other(lease)) == ["d2"]
    assert result(both.other(lease)) == ["d1"]


def test_two_settle_the_same_lease_and_one_of_them_counts(both: Rivals) -> None:
    decided(both.one, "d1")
    with both.one.transaction() as tx:
        lease(tx)

    def settle(tx: LedgerTransaction) -> bool:
        return tx.settle("d1", 1, Settlement.FAILED, NOON_US, NOON_US)

    with both.one.transaction() as tx:
        assert settle(tx)
        other = both.other(settle)
        assert both.waits(other)
    assert result(other) is False
    assert used(both.one) == 0


def test_control_without_the_lock_both_count(both: Rivals, monkeypatch: pytest.MonkeyPatch) -> None:
    decided(both.one, "d1")
    with both.one.transaction() as tx:
        lease(tx)
    read, both_have_read = deliveries._rows_of, Barrier(2, timeout=PATIENCE_SECONDS)

    def read_together(connection: Any, ids: Iterable[str]) -> Any:
        rows = read(connection, ids)
        both_have_read.wait()
        return rows

    monkeypatch.setattr(deliveries, "hold", lambda *_, **__: None)
    monkeypatch.setattr(deliveries, "_rows_of", read_together)
    other = both.other(lambda tx: tx.settle("d1", 1, Settlement.SENT, NOON_US, NOON_US))
    with both.one.transaction() as tx:
        assert tx.settle("d1", 1, Settlement.FAILED, NOON_US, NOON_US)
    assert result(other) is True, "sent and failed"


def test_two_expire_at_once_and_each_delivery_ends_once(both: Rivals) -> None:
    for n in range(4):
        decided(both.one, f"d{n}", f"861380000000{n}", expires_at_us=NOON_US)
    with both.one.transaction() as tx:
        first = tx.expire(NOON_US, 2)
        second = result(both.other(lambda tx: tx.expire(NOON_US, 10)))
    assert (first, second) == (2, 2)
    assert used(both.one) == 0


def test_the_same_outcome_told_to_both_is_noted_once(both: Rivals) -> None:
    with both.one.transaction() as tx:
        tx.record_verdicts([verdict(WHO, "e1", shown("d1"))])
    with both.one.transaction() as tx:
        assert tx.record_outcome("d1", OutcomeKind.ACCEPTED, NOON_US)
        other = both.other(lambda tx: tx.record_outcome("d1", OutcomeKind.ACCEPTED, NOON_US))
        assert both.waits(other)
    assert result(other) is False
    assert [each.kind for each in both.one.outcomes_of("d1")] == [OutcomeKind.ACCEPTED]


# -- what operators do ------------------------------------------------------------------------------


def upload(tx: LedgerTransaction, revision: str = "r1", by: str = "wang") -> None:
    tx.save_rulebase(RulebaseRow(revision, "pack", NOON_US, by, ""), b"archive")


def test_the_same_revision_uploaded_to_both_is_kept_once(both: Rivals) -> None:
    with both.one.transaction() as tx:
        upload(tx, by="wang")
        other = both.other(lambda tx: upload(tx, by="li"))
        assert both.waits(other)
    result(other)
    assert [each.uploaded_by for each in both.one.rulebases()] == ["wang"]


def test_of_two_that_activate_at_once_one_is_told_of_the_other(both: Rivals) -> None:
    with both.one.transaction() as tx:
        upload(tx, "r1")
        upload(tx, "r2")

    def activate(tx: LedgerTransaction, revision: str) -> None:
        tx.activate(revision, "", NOON_US, "wang", "", {f"metric of {revision}": NOON_US})

    with both.one.transaction() as tx:
        activate(tx, "r1")
        other = both.other(lambda tx: activate(tx, "r2"))
        assert both.waits(other)
    with pytest.raises(StoreConflictError, match="'r1' is active"):
        result(other)
    assert both.one.active_revision() == "r1"
    assert set(both.one.coverage()) == {"metric of r1"}


def test_a_campaign_is_paused_once(both: Rivals) -> None:
    with both.one.transaction() as tx:
        assert tx.pause(Pause("night", NOON_US, "wang", "first"))
        other = both.other(lambda tx: tx.pause(Pause("night", NOON_US, "li", "second")))
        assert both.waits(other)
    assert result(other) is False
    assert [each.by for each in both.one.pauses()] == ["wang"]


def test_sweeps_that_both_have_done_are_done(both: Rivals) -> None:
    sweep = Sweep("monthly", "Asia/Shanghai", NOON_US)
    with both.one.transaction() as tx:
        tx.finish_sweeps([sweep], 0)
        other = both.other(lambda tx: tx.finish_sweeps([sweep], 0))
        assert both.waits(other)
    result(other)
    assert both.one.sweeps() == {sweep}


def test_quarantine_is_bounded_though_both_fill_it(both: Rivals) -> None:
    def rejected(*ids: int) -> list[Quarantined]:
        reason = RejectionReason.UNKNOWN_TYPE
        return [Quarantined("gn", Event(str(n), WHO, "x", 0, b""), reason, "", NOON_US) for n in ids]

    def kept() -> list[str]:
        return [each.event.id for _, each in both.one.quarantined(QuarantineFilter(), 0, 100)]

    with both.one.transaction() as tx:
        tx.quarantine(rejected(*range(10)), 4)
    with pytest.raises(ZeroDivisionError), both.one.transaction() as tx:  # noqa: PT012 - is to be undone
        tx.quarantine(rejected(*range(10, 15)), 4)
        1 / 0  # noqa: B018
    with both.one.transaction() as tx:
        tx.quarantine(rejected(20, 21), 4)
        result(both.other(lambda tx: tx.quarantine(rejected(30, 31), 4)))
        assert kept() == ["31", "30", "21", "20", "9", "8"]
    with both.one.transaction() as tx:
        tx.quarantine(rejected(40), 4)
    assert kept() == ["40", "31", "30", "21"]


# -- readers that follow ----------------------------------------------------------------------------


def followed(ledger: Ledger, after: int = 0) -> tuple[list[str], list[str]]:
    listed = ledger.decisions(DecisionFilter(), after, 10, newest_first=False)
    changed = ledger.contact_changes(after, 10, ())
    return [each.decision_id for each in listed], [each.contact.decision_id for each in changed]


def test_a_reader_does_not_go_past_what_is_still_to_come(both: Rivals) -> None:
    decided(both.one, "before")
    with both.one.transaction() as tx:
        tx.record_verdicts([verdict(WHO, "e1", decision("drew first"))])
        result(
            both.other(lambda tx: tx.record_verdicts([verdict(OTHER, "e2", decision("was done first"))]))
        )
        assert followed(both.two) == (["before"], ["before"])
    in_order = ["before", "drew first", "was done first"]
    assert followed(both.two) == (in_order, in_order)


def test_whoever_draws_nothing_is_not_waited_for(both: Rivals) -> None:
    with both.one.transaction() as tx:
        tx.save_checkpoint(1)
        decided(both.two, "d1")
        assert followed(both.two) == (["d1"], ["d1"])


def test_what_is_undone_is_not_waited_for(both: Rivals) -> None:
    with pytest.raises(ZeroDivisionError), both.one.transaction() as tx:  # noqa: PT012 - is to be undone
        tx.record_verdicts([verdict(WHO, "e1", decision("undone"))])
        1 / 0  # noqa: B018
    decided(both.two, "d1", OTHER)
    assert followed(both.two) == (["d1"], ["d1"])


def test_control_without_the_lock_a_reader_misses_what_comes_later(
    both: Rivals, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (verdicts, changes):
        monkeypatch.setattr(module, "draw", lambda _: None)
    with both.one.transaction() as tx:
        tx.record_verdicts([verdict(WHO, "e1", decision("drew first"))])
        decided(both.two, "was done first", OTHER)
        seen = both.two.decisions(DecisionFilter(), 0, 10, newest_first=False)
        assert [each.decision_id for each in seen] == ["was done first"]
    assert followed(both.two, seen[-1].cursor)[0] == []


def test_whoever_begins_to_follow_misses_nothing_that_is_under_way(both: Rivals) -> None:
    decided(both.one, "before")
    with both.one.transaction() as tx:
        tx.record_verdicts([verdict(WHO, "e1", decision("drew first"))])
        decided(both.two, "was done first", OTHER)
        after = both.two.decided_up_to()
    assert followed(both.two, after)[0] == ["drew first", "was done first"]
