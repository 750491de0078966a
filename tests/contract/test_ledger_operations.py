"""What every `Ledger` must do with pauses, counted events and a log that is rewritten."""

from __future__ import annotations

from opportune_service.app.ports import Ledger
from opportune_service.app.records import LogKind, LogRow, Pause
from support.verdicts import HOUR_US, NOON_US

PAUSE = Pause("night-data", NOON_US, "wang", "complaints")


def pause(ledger: Ledger, new: Pause) -> bool:
    with ledger.transaction() as tx:
        return tx.pause(new)


def resume(ledger: Ledger, campaign: str) -> bool:
    with ledger.transaction() as tx:
        return tx.resume(campaign, NOON_US + 5, "li", "solved")


def test_campaign_is_paused_once_and_resumed_once(ledger: Ledger) -> None:
    other = Pause("a-campaign", NOON_US + 1, "alarm", "more than 1,000 contacts an hour")
    assert pause(ledger, PAUSE)
    assert pause(ledger, other)
    assert not pause(ledger, Pause("night-data", NOON_US + 2, "li", "again"))
    assert ledger.pauses() == [other, PAUSE]
    with ledger.transaction() as tx:
        assert tx.paused() == {"a-campaign", "night-data"}
    assert resume(ledger, "night-data")
    assert not resume(ledger, "night-data")
    assert ledger.pauses() == [other]
    assert pause(ledger, PAUSE)


def test_log_rows_are_put_in_place_of_others(ledger: Ledger) -> None:
    rows = [LogRow(position, LogKind.EVENTS, "gn", NOON_US, "r1", b"before") for position in (1, 2, 3)]
    new = LogRow(2, LogKind.CONTEXT, "crm", NOON_US + 1, "r2", b"after")
    with ledger.transaction() as tx:
        tx.append_log(rows)
        tx.replace_log([new])
        tx.replace_log([])
    assert list(ledger.read_log(0)) == [rows[0], new, rows[2]]


def test_events_are_counted_by_type_and_hour(ledger: Ledger) -> None:
    hour = NOON_US // HOUR_US
    for counts in (
        {("call", hour): 2, ("sms", hour): 5},
        {("call", hour): 3, ("call", hour + 1): 7, ("web", hour): 1},
        {},
    ):
        with ledger.transaction() as tx:
            tx.count_events(counts)
    triggers = {"a": ["call"], "b": ["call", "sms"], "c": ["silence"]}
    for hours, expected in ((1, [5, 10, 0]), (2, [12, 17, 0])):
        figures = ledger.campaign_figures(hour * HOUR_US, (hour + hours) * HOUR_US, triggers)
        assert [each.events for each in figures] == expected
