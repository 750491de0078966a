"""What every `Ledger` must do with what is old: find all of it, hold what is needed, delete no more."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from opportune_rulebase import load
from opportune_rulebase.model import TouchKind
from opportune_rulebase.network import NetworkEngine
from opportune_rulebase.policies import Fate, Mode, OutcomeKind
from opportune_service.adapters.files.archive import FileArchive
from opportune_service.app.errors import UnknownDecisionError
from opportune_service.app.housekeeping import Housekeeping
from opportune_service.app.ledger_thread import LedgerThread
from opportune_service.app.ports import Ledger
from opportune_service.app.records import (
    Aged,
    DecisionFilter,
    DeliveryState,
    ForeignContact,
    Kept,
    LogKind,
    LogRow,
    Pause,
    Place,
    Quarantined,
    QuarantineFilter,
    RulebaseRow,
)
from opportune_service.app.retention import Keep
from opportune_service.app.revisions import LiveRevision
from opportune_service.clocks import ManualClock
from opportune_service.core.events import Event, RejectionReason
from opportune_service.core.revision import Revision
from opportune_service.core.verdict import (
    Contact,
    Reason,
    Touch,
    Trigger,
    UsageKey,
    UsageKind,
    Verdict,
)
from support.small_rulebase import small_rulebase
from support.verdicts import HOUR_US, NOON_US, SECOND_US, decision, shown, verdict, waiting

WHO = "8613800000001"
OTHER = "8613800000002"
DAY_US = 24 * HOUR_US
LATER_US = NOON_US + 10 * DAY_US
"""Everything that is not said to be of another time is older than this."""


def record(ledger: Ledger, *verdicts: Verdict) -> None:
    with ledger.transaction() as tx:
        tx.record_verdicts(verdicts)


def end(ledger: Ledger, *decision_ids: str, at_us: int = NOON_US) -> None:
    """Their deliveries come to an end."""
    with ledger.transaction() as tx:
        tx.end_deliveries(dict.fromkeys(decision_ids, DeliveryState.EXPIRED), at_us)


def aged(ledger: Ledger, kind: Kept, before_us: int = LATER_US, limit: int = 3) -> list[Aged]:
    found: dict[tuple[object, ...], Aged] = {}
    place: Place | None = ()
    while place is not None:
        page, place = ledger.aged(kind, before_us, place, limit)
        assert len(page) <= limit
        found |= {each.key: each for each in page}
    return list(found.values())


def prune(ledger: Ledger, rows: Sequence[Aged]) -> int:
    with ledger.transaction() as tx:
        return tx.prune(rows)


def decided(ledger: Ledger) -> list[str]:
    return [row.decision_id for row in ledger.decisions(DecisionFilter(), 0, 1_000, False)]


# -- the history --------------------------------------------------------------------------------------


def test_a_verdict_goes_with_all_that_came_of_it(ledger: Ledger) -> None:
    lost = decision("d2", reason=Reason.CAPPED, fate=Fate.DROP)
    record(ledger, verdict(WHO, "e1", decision("d1"), lost), verdict(WHO, "e2", shown("d3")))
    record(ledger, verdict(OTHER, "e3", decision("d4"), at_us=LATER_US))
    with ledger.transaction() as tx:
        for kind in (OutcomeKind.DELIVERED, OutcomeKind.REFUSED):
            tx.record_outcome("d1", kind, NOON_US + 1)
        tx.record_outcome("d3", OutcomeKind.ACCEPTED, NOON_US + 1)
    rows = aged(ledger, Kept.HISTORY)
    assert [each.key for each in rows] == [("e1", "gn", WHO), ("e2", "gn", WHO)]
    assert [each.at_us for each in rows] == [NOON_US, NOON_US]
    tables = [table for table, _ in rows[0].rows]
    assert tables == [
        *("verdicts", "decisions", "decisions", "contacts", "deliveries", "outcomes", "outcomes"),
        *["contact_changes"] * 4,  # made, delivered, and both outcomes
    ]
    assert prune(ledger, rows) == 2
    assert decided(ledger) == ["d4"]
    assert (ledger.verdict_of("d1"), ledger.delivery_of("d1"), ledger.outcomes_of("d1")) == (None, None, [])
    assert ledger.contacts_of(WHO, 0, LATER_US + DAY_US, 10) == []
    assert [each.contact.decision_id for each in ledger.contact_changes(0, 100, ())] == ["d4"]
    with ledger.transaction() as tx:
        history = tx.histories([WHO], 0, NOON_US)[WHO]
    assert (history.contacts, history.outcomes, history.prompts) == ([], [], [])
    with pytest.raises(UnknownDecisionError), ledger.transaction() as tx:
        tx.record_outcome("d1", OutcomeKind.ORDERED, LATER_US)
    assert aged(ledger, Kept.HISTORY) == []


def test_what_was_spent_stays_spent(ledger: Ledger) -> None:
    record(ledger, verdict(WHO, "e1", shown("d1", cost=7)))
    with ledger.transaction() as tx:
        tx.record_outcome("d1", OutcomeKind.ACCEPTED, NOON_US)
    prune(ledger, aged(ledger, Kept.HISTORY))
    keys = [UsageKey(kind, "night-data") for kind in (UsageKind.CAMPAIGN_TOTAL, UsageKind.CAMPAIGN_COST)]
    with ledger.transaction() as tx:
        assert list(tx.usage(keys).values()) == [1, 7]


def test_history_is_held_as_long_as_anything_of_it_is_young_or_not_at_its_end(ledger: Ledger) -> None:
    trigger = Trigger("ping", NOON_US)
    deferred = decision(
        "waits", reason=Reason.CAPPED, fate=Fate.DEFER, due_us=LATER_US, trigger=trigger, campaign="c2"
    )
    record(
        ledger,
        verdict(WHO, "e-pending", decision("pending")),
        verdict(WHO, "e-ended", decision("ended")),
        verdict(WHO, "e-ended-late", decision("ended-late")),
        verdict(WHO, "e-open", shown("open", open_until_us=LATER_US)),
        verdict(WHO, "e-closed", shown("closed", open_until_us=LATER_US - 1)),
        verdict(WHO, "e-answered-late", shown("answered-late")),
        verdict(WHO, "e-answered", shown("answered")),
        verdict(WHO, "e-prompt", waiting("prompt")),
        verdict(WHO, "e-waits", deferred),
        verdict(WHO, "e-lost", decision("lost", reason=Reason.OUTRANKED)),
    )
    end(ledger, "ended")
    end(ledger, "ended-late", at_us=LATER_US)
    with ledger.transaction() as tx:
        tx.record_outcome("answered-late", OutcomeKind.REFUSED, LATER_US)
        tx.record_outcome("answered", OutcomeKind.REFUSED, LATER_US - 1)
    gone = ["e-ended", "e-closed", "e-answered", "e-lost"]
    assert [each.key[0] for each in aged(ledger, Kept.HISTORY)] == gone
    with ledger.transaction() as tx:
        tx.expire(LATER_US, 100)  # the prompt; and the delivery that waits, just now
    assert [each.key[0] for each in aged(ledger, Kept.HISTORY)] == [
        *("e-ended", "e-closed", "e-answered", "e-prompt", "e-lost")
    ]
    # An end to everything.
    end_of_it = decision(
        "again", reason=Reason.STALE, deferred_of="waits", attempt=2, campaign="c2", fate=Fate.DROP
    )
    record(ledger, verdict(WHO, "e-again", end_of_it, at_us=LATER_US + 1))
    assert len(aged(ledger, Kept.HISTORY, LATER_US + DAY_US)) == 11


def test_a_prompt_that_became_a_contact_later_is_as_young_as_the_contact(ledger: Ledger) -> None:
    record(ledger, verdict(WHO, "e1", waiting("d1")))
    with ledger.transaction() as tx:
        tx.record_outcome("d1", OutcomeKind.ACCEPTED, LATER_US)
    assert aged(ledger, Kept.HISTORY) == []
    assert len(aged(ledger, Kept.HISTORY, LATER_US + 1)) == 1


def test_of_one_verdict_there_is_all_or_nothing_whatever_the_size_of_pages(ledger: Ledger) -> None:
    many = [decision(f"d{n}", reason=Reason.OUTRANKED, campaign=f"c{n}") for n in range(7)]
    record(ledger, verdict(WHO, "e1", *many), verdict(WHO, "e2", *[
        msgspec.structs.replace(each, id=f"x{each.id}") for each in many
    ]))  # fmt: skip
    for limit in (1, 2, 5, 100):
        rows = aged(ledger, Kept.HISTORY, limit=limit)
        assert [len(each.rows) for each in rows] == [8, 8]


def test_what_has_changed_since_it_was_read_stays(ledger: Ledger) -> None:
    record(ledger, verdict(WHO, "e1", shown("d1")), verdict(WHO, "e2", shown("d2")))
    before = aged(ledger, Kept.HISTORY)
    with ledger.transaction() as tx:
        tx.record_outcome("d1", OutcomeKind.REFUSED, LATER_US)
    assert prune(ledger, before) == 1
    assert decided(ledger) == ["d1"]
    assert [each.kind for each in ledger.outcomes_of("d1")] == [OutcomeKind.REFUSED]
    assert prune(ledger, before) == 0, "what is gone cannot go again"


def test_the_greatest_cursor_of_a_pruned_change_is_known(ledger: Ledger) -> None:
    assert ledger.changes_pruned() == 0
    record(ledger, verdict(WHO, "e1", shown("d1")))
    record(ledger, verdict(WHO, "e2", shown("d2")))
    record(ledger, verdict(WHO, "e3", shown("d3"), at_us=LATER_US))
    cursors = [each.cursor for each in ledger.contact_changes(0, 10, ())]
    prune(ledger, aged(ledger, Kept.HISTORY))
    assert ledger.changes_pruned() == cursors[1]
    assert [each.cursor for each in ledger.contact_changes(0, 10, ())] == cursors[2:]


def test_verdicts_of_erased_numbers_in_event_ids_go_as_well(ledger: Ledger) -> None:
    """Whatever an event id looks like: quotes, commas, no characters at all."""
    ids = ["a'b", "a,b", "", "数据", "%", "x" * 200]
    for n, id_ in enumerate(ids):
        record(ledger, verdict(WHO, id_, shown(f"d{n}")))
    assert prune(ledger, aged(ledger, Kept.HISTORY)) == len(ids)
    assert decided(ledger) == []


# -- the log ------------------------------------------------------------------------------------------


def log_row(position: int, now_us: int, payload: bytes = b"batch") -> LogRow:
    return LogRow(position, LogKind.EVENTS, "gn", now_us, "r1", payload)


def logged(ledger: Ledger, count: int, checkpoint: int) -> list[LogRow]:
    rows = [log_row(n, NOON_US + n * SECOND_US) for n in range(1, count + 1)]
    with ledger.transaction() as tx:
        tx.append_log(rows)
        tx.save_checkpoint(checkpoint)
    return rows


def positions(rows: Sequence[Aged]) -> list[object]:
    return [each.key[0] for each in rows]


def test_log_rows_go_up_to_an_instant(ledger: Ledger) -> None:
    rows = logged(ledger, 10, checkpoint=10)
    found = aged(ledger, Kept.LOG, NOON_US + 5 * SECOND_US)
    assert positions(found) == [1, 2, 3, 4]
    assert found[0].rows[0] == ("log", {
        "position": 1, "kind": "events", "source": "gn", "now_us": NOON_US + SECOND_US, "revision": "r1",
        "payload": b"batch",
    })  # fmt: skip
    assert prune(ledger, found) == 4
    assert list(ledger.read_log(0)) == rows[4:]
    assert ledger.last_position() == 10


def test_log_is_never_pruned_beyond_the_checkpoint(ledger: Ledger) -> None:
    logged(ledger, 10, checkpoint=6)
    assert positions(aged(ledger, Kept.LOG)) == [1, 2, 3, 4, 5, 6]


def test_log_has_no_hole(ledger: Ledger) -> None:
    """What comes behind a row that is young, or does not tell how old it is, stays: clocks jump."""
    with ledger.transaction() as tx:
        tx.append_log([log_row(n, NOON_US) for n in (1, 2)])
        tx.append_log([log_row(3, LATER_US), log_row(4, NOON_US), log_row(5, NOON_US)])
        tx.save_checkpoint(5)
    for limit in (1, 2, 3, 10):
        assert positions(aged(ledger, Kept.LOG, limit=limit)) == [1, 2]
    with ledger.transaction() as tx:
        tx.replace_log([log_row(1, 0)])
    assert aged(ledger, Kept.LOG) == []


def test_log_row_that_was_rewritten_stays_and_so_does_what_follows(ledger: Ledger) -> None:
    logged(ledger, 5, checkpoint=5)
    before = aged(ledger, Kept.LOG)
    with ledger.transaction() as tx:
        tx.replace_log([log_row(3, NOON_US + 3 * SECOND_US, b"without")])
    assert prune(ledger, before) == 2
    assert [row.position for row in ledger.read_log(0)] == [3, 4, 5]


def test_log_stays_while_a_backfill_waits(ledger: Ledger) -> None:
    logged(ledger, 5, checkpoint=5)
    before = aged(ledger, Kept.LOG)
    with ledger.transaction() as tx:
        for revision in ("r1", "r2"):
            tx.save_rulebase(RulebaseRow(revision, revision, NOON_US, "li", ""), b"")
        tx.activate("r1", "", NOON_US, "li", "", {"m1": NOON_US})
        tx.activate("r2", "r1", NOON_US, "li", "", {"m1": NOON_US, "m2": NOON_US}, ["m2"])
    assert aged(ledger, Kept.LOG) == []
    assert prune(ledger, before) == 0
    with ledger.transaction() as tx:
        tx.finish_backfill(["m2"], {})
    assert prune(ledger, aged(ledger, Kept.LOG)) == 5


# -- what stands alone --------------------------------------------------------------------------------


def foreign(id_: str, at_us: int) -> ForeignContact:
    contact = Contact(id_, "call", "fibre", "broadband", "outbound", Mode.MANUAL, at_us, origin="crm")
    return ForeignContact(WHO, contact, "what was said")


def test_contacts_of_other_systems_go_by_their_time_with_their_changes(ledger: Ledger) -> None:
    record(ledger, verdict(WHO, "e1", shown("ours", open_until_us=LATER_US)))
    with ledger.transaction() as tx:
        tx.record_contacts([foreign(f"old/{n}", NOON_US + n) for n in range(7)])
        tx.record_contacts([foreign("new", LATER_US)])
    rows = aged(ledger, Kept.CONTACTS)
    assert [each.at_us - NOON_US for each in rows] == list(range(7))
    assert [[table for table, _ in each.rows] for each in rows] == [["contacts", "contact_changes"]] * 7
    assert prune(ledger, rows) == 7
    left = [each.contact.decision_id for each in ledger.contacts_of(WHO, 0, LATER_US + 1, 10)]
    assert left == ["new", "ours"]
    assert [each.contact.decision_id for each in ledger.contact_changes(0, 10, ())] == ["ours", "new"]


def test_touches_go_by_their_time(ledger: Ledger) -> None:
    def touch(id_: str, at_us: int) -> Touch:
        return Touch(WHO, "crm", id_, at_us, TouchKind.QUERY, {"channel": "web"})

    with ledger.transaction() as tx:
        tx.record_touches([touch(f"t{n}", LATER_US - n) for n in range(8)])
    assert [each.at_us for each in aged(ledger, Kept.TOUCHES)] == [LATER_US - n for n in range(7, 0, -1)]
    assert prune(ledger, aged(ledger, Kept.TOUCHES)) == 7
    assert [each.event_id for each in ledger.touches_of(WHO, 0, LATER_US + 1, 9).touches] == ["t0"]


def test_counts_of_events_go_by_the_hour(ledger: Ledger) -> None:
    hour = LATER_US // HOUR_US
    with ledger.transaction() as tx:
        tx.count_events({(type_, hour - n): 1 for type_ in ("call", "sms") for n in range(4)})
    rows = aged(ledger, Kept.EVENT_COUNTS, hour * HOUR_US)
    assert [each.at_us // HOUR_US - hour for each in rows] == [-3, -3, -2, -2, -1, -1]
    assert prune(ledger, rows) == 6
    figures = ledger.campaign_figures(0, (hour + 1) * HOUR_US, {"a": ["call", "sms"]})
    assert [each.events for each in figures] == [2]


def test_counters_of_days_and_hours_go_and_those_of_whole_lives_stay(ledger: Ledger) -> None:
    day = LATER_US // DAY_US
    record(ledger, verdict(WHO, "e1", shown("d1", day=NOON_US // DAY_US)))
    record(ledger, verdict(WHO, "e2", shown("d2", day=day), at_us=LATER_US))
    rows = aged(ledger, Kept.USAGE, day * DAY_US)
    assert {(row["kind"], row["period"]) for each in rows for _, row in each.rows} == {
        ("campaign_day", NOON_US // DAY_US),
        ("channel_day", NOON_US // DAY_US),
        ("campaign_hour", NOON_US // HOUR_US),
    }
    assert prune(ledger, rows) == 3
    assert aged(ledger, Kept.USAGE, day * DAY_US) == []
    keys = [
        UsageKey(UsageKind.CAMPAIGN_TOTAL, "night-data"),
        UsageKey(UsageKind.CAMPAIGN_DAY, "night-data", day),
        UsageKey(UsageKind.CAMPAIGN_DAY, "night-data", NOON_US // DAY_US),
    ]
    with ledger.transaction() as tx:
        used = tx.usage(keys)
    assert [used.get(key, 0) for key in keys] == [2, 1, 0]


def test_rejected_events_go_by_when_they_came(ledger: Ledger) -> None:
    def rejected(n: int) -> Quarantined:
        event = Event(f"e{n}", WHO, "call", NOON_US)
        return Quarantined("gn", event, RejectionReason.UNKNOWN_TYPE, "no such type", LATER_US - n)

    with ledger.transaction() as tx:
        tx.quarantine([rejected(n) for n in (5, 4, 3, 2, 1, 0)], 100)
    assert prune(ledger, aged(ledger, Kept.QUARANTINE)) == 5
    assert [each.event.id for _, each in ledger.quarantined(QuarantineFilter(), 0, 10)] == ["e0"]


def test_what_people_did_goes_by_its_time(ledger: Ledger) -> None:
    with ledger.transaction() as tx:
        tx.pause(Pause("a", NOON_US, "wang", "wrong price"))
        tx.pause(Pause("b", LATER_US, "wang", "wrong price"))
    rows = aged(ledger, Kept.AUDIT)
    assert [row["about"] for each in rows for _, row in each.rows] == ["a"]
    assert prune(ledger, rows) == 1
    assert aged(ledger, Kept.AUDIT) == []
    assert [each.campaign for each in ledger.pauses()] == ["a", "b"], "a pause is in force until it ends"


def test_everything_that_is_old_is_archived_and_goes(ledger: Ledger, tmp_path: Path) -> None:
    """By the housekeeping itself, on each of the stores."""
    record(ledger, *(verdict(WHO, f"e{n}", shown(f"d{n}"), at_us=NOON_US + n) for n in range(60)))
    logged(ledger, 40, checkpoint=40)
    with ledger.transaction() as tx:
        tx.record_contacts([foreign(f"f{n}", NOON_US + n * DAY_US) for n in range(5)])
        tx.record_touches([Touch(WHO, "crm", "t", NOON_US, TouchKind.QUERY, {})])
        tx.count_events({("call", NOON_US // HOUR_US): 1})
        tx.pause(Pause("a", NOON_US, "wang", "wrong price"))
    counts = {kind: len(aged(ledger, kind)) for kind in Kept}
    assert all(count for kind, count in counts.items() if kind is not Kept.QUARANTINE)
    rulebase = load(small_rulebase())
    live = LiveRevision()
    live.swap(Revision(rulebase, NetworkEngine(rulebase), {}))

    async def turn() -> Mapping[Kept, int]:
        with closing(LedgerThread()) as thread:
            keep, archive = Keep(1, 1, 1), FileArchive(tmp_path / "archive")
            return await Housekeeping(live, ledger, thread, ManualClock(0), keep, archive).turn(
                NOON_US + 200 * DAY_US
            )

    assert asyncio.run(turn()) == {kind: count for kind, count in counts.items() if count}
    assert not any(aged(ledger, kind) for kind in Kept)
    manifests = [json.loads(path.read_text()) for path in (tmp_path / "archive").glob("*.json")]
    archived: Counter[str] = Counter()
    for manifest in manifests:
        archived[manifest["kind"]] += manifest["lines"]
    assert archived == {kind.value: count for kind, count in counts.items() if count}
    assert len([each for each in manifests if each["kind"] == "contacts"]) == 5, "a file for each day"


@pytest.mark.parametrize("kind", list(Kept))
def test_of_an_empty_ledger_nothing_is_old(ledger: Ledger, kind: Kept) -> None:
    assert ledger.aged(kind, LATER_US, (), 10) == ([], None)
    assert prune(ledger, []) == 0
