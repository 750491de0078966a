"""What every `Ledger` must do with finished sweeps, waiting backfills and rejected events."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from opportune_service.app.ports import Ledger
from opportune_service.app.records import LogKind, LogRow, Quarantined, QuarantineFilter, RulebaseRow, Sweep
from opportune_service.core.events import Encoding, Event, RejectionReason
from support.verdicts import NOON_US

EVERYTHING = QuarantineFilter()


# -- sweeps -----------------------------------------------------------------------------------------


def finish(ledger: Ledger, *sweeps: Sweep, forget_before_us: int = 0) -> None:
    with ledger.transaction() as tx:
        tx.finish_sweeps(sweeps, forget_before_us)


def test_finished_sweeps_are_kept_once_and_forgotten_by_age(ledger: Ledger) -> None:
    one, two = Sweep("daily", "Asia/Shanghai", NOON_US), Sweep("daily", "UTC", NOON_US)
    three = Sweep("birthday", "UTC", NOON_US + 1)
    assert ledger.sweeps() == set()
    finish(ledger, one)
    finish(ledger, one, two)
    assert ledger.sweeps() == {one, two}
    finish(ledger, three, forget_before_us=NOON_US + 1)
    assert ledger.sweeps() == {three}


# -- backfills --------------------------------------------------------------------------------------


def activate(
    ledger: Ledger, revision: str, coverage: Mapping[str, int], backfill: Collection[str] = ()
) -> None:
    with ledger.transaction() as tx:
        tx.save_rulebase(RulebaseRow(revision, "test", NOON_US, "me", ""), b"")
        tx.activate(revision, ledger.active_revision(), NOON_US, "me", "", coverage, backfill)


def append(ledger: Ledger, position: int) -> None:
    with ledger.transaction() as tx:
        tx.append_log([LogRow(position, LogKind.EVENTS, "gn", NOON_US, "r1", b"")])


def test_new_keys_wait_for_their_backfill_from_where_the_log_ends(ledger: Ledger) -> None:
    activate(ledger, "r1", {"a": 1}, {"a"})
    assert (ledger.births(), ledger.backfills()) == ({"a": 0}, set()), "there is nothing before the first"
    append(ledger, 1)
    append(ledger, 2)
    activate(ledger, "r2", {"a": 5, "b": 5, "c": 5}, {"a", "b"})
    assert ledger.births() == {"a": 0, "b": 2, "c": 2}
    assert ledger.backfills() == {"b"}


def test_a_backfill_ends_by_setting_coverage_back(ledger: Ledger) -> None:
    activate(ledger, "r1", {"a": 10})
    activate(ledger, "r2", {"a": 20, "b": 20, "c": 20}, {"b", "c"})
    with ledger.transaction() as tx:
        tx.finish_backfill({"b"}, {"b": 15, "gone": 1})
    assert dict(ledger.coverage()) == {"a": 10, "b": 15, "c": 20}
    assert ledger.backfills() == {"c"}
    with ledger.transaction() as tx:
        tx.finish_backfill({"b", "c"}, {"b": 17, "c": 30})
    assert dict(ledger.coverage()) == {"a": 10, "b": 15, "c": 20}, "it is never set forward"


def test_what_is_taken_out_waits_no_more_and_is_born_anew(ledger: Ledger) -> None:
    activate(ledger, "r1", {"a": 10})
    append(ledger, 1)
    activate(ledger, "r2", {"a": 20, "b": 20}, {"b"})
    activate(ledger, "r3", {"b": 30})
    assert (ledger.births(), ledger.backfills()) == ({"b": 1}, {"b"}), "kept as it was"
    append(ledger, 2)
    activate(ledger, "r1", {"a": 40}, {"a"})
    assert (ledger.births(), ledger.backfills()) == ({"a": 2}, {"a"})


# -- quarantine -------------------------------------------------------------------------------------


def rejected(
    number: int, source: str = "gn", reason: RejectionReason = RejectionReason.TOO_LATE
) -> Quarantined:
    event = Event(
        f"e{number}", "1", "mms_sent", NOON_US, b"\xff\x00", "c", "i", Encoding.MSGPACK
    )  # fmt: skip
    return Quarantined(source, event, reason, f"message {number}", NOON_US + number)


def keep(ledger: Ledger, *events: Quarantined, most: int = 100) -> None:
    with ledger.transaction() as tx:
        tx.quarantine(events, most)


def ids(
    ledger: Ledger, where: QuarantineFilter = EVERYTHING, before: int = 0, limit: int = 100
) -> list[str]:
    return [each.event.id for _, each in ledger.quarantined(where, before, limit)]


def test_rejected_events_come_back_as_they_were_newest_first(ledger: Ledger) -> None:
    assert ids(ledger) == []
    keep(ledger, rejected(1), rejected(2))
    keep(ledger, rejected(3))
    assert [each for _, each in ledger.quarantined(EVERYTHING, 0, 100)] == [
        rejected(3),
        rejected(2),
        rejected(1),
    ]


def test_the_oldest_are_forgotten(ledger: Ledger) -> None:
    for number in range(5):
        keep(ledger, rejected(2 * number), rejected(2 * number + 1), most=3)
    assert ids(ledger) == ["e9", "e8", "e7"]
    keep(ledger, *(rejected(number) for number in range(10, 20)), most=3)
    assert ids(ledger) == ["e19", "e18", "e17"]


def test_pages_do_not_shift_while_more_come_in(ledger: Ledger) -> None:
    keep(ledger, *(rejected(number) for number in range(5)))
    first = ledger.quarantined(EVERYTHING, 0, 2)
    keep(ledger, rejected(5))
    assert [each.event.id for _, each in first] == ["e4", "e3"]
    assert ids(ledger, before=first[-1][0], limit=2) == ["e2", "e1"]


def test_all_conditions_must_hold(ledger: Ledger) -> None:
    keep(
        ledger,
        rejected(1),
        rejected(2, source="smsc"),
        rejected(3, reason=RejectionReason.TOO_LARGE),
        rejected(4, source="smsc", reason=RejectionReason.TOO_LARGE),
    )
    assert ids(ledger, QuarantineFilter(source="smsc")) == ["e4", "e2"]
    assert ids(ledger, QuarantineFilter(reasons=(RejectionReason.TOO_LARGE,))) == ["e4", "e3"]
    assert ids(ledger, QuarantineFilter("smsc", (RejectionReason.TOO_LARGE,))) == ["e4"]
    assert ids(ledger, QuarantineFilter(from_us=NOON_US + 2, to_us=NOON_US + 4)) == ["e3", "e2"]
