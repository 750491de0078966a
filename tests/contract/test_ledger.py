"""What every `Ledger` must do, whatever it is kept in."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from inspect import Parameter, signature

import pytest
from opportune_rulebase.policies import Mode, OutcomeKind
from opportune_service.app.errors import (
    StoreConflictError,
    StoreUnavailableError,
    UnknownDecisionError,
    UnknownRevisionError,
)
from opportune_service.app.ports import Ledger
from opportune_service.app.records import DecisionFilter, DeliveryState, LogKind, LogRow, RulebaseRow
from opportune_service.core.verdict import (
    Contact,
    ContactState,
    EventKey,
    History,
    Outcome,
    Prompt,
    Reason,
    Verdict,
)
from opportune_service.core.watermarks import SourceMark
from support.verdicts import NOON_US, decision, shown, verdict, waiting

WHO = "8613800000001"
OTHER = "8613800000002"
_NONE = Parameter.empty


def record(ledger: Ledger, *verdicts: Verdict) -> None:
    with ledger.transaction() as tx:
        tx.record_verdicts(verdicts)


def history(ledger: Ledger, who: str = WHO, since_us: int = 0, now_us: int = NOON_US) -> History:
    with ledger.transaction() as tx:
        return tx.histories([who], since_us, now_us)[who]


def contact_states(ledger: Ledger, who: str = WHO) -> dict[str, ContactState]:
    return {contact.decision_id: contact.state for contact in history(ledger, who).contacts}


def outcome(ledger: Ledger, decision_id: str, kind: OutcomeKind, at_us: int = NOON_US) -> bool:
    with ledger.transaction() as tx:
        return tx.record_outcome(decision_id, kind, at_us)


def log_row(position: int, payload: bytes = b"batch") -> LogRow:
    return LogRow(position, LogKind.EVENTS, "gn", NOON_US + position, "r1", payload)


class RefusedError(Exception):
    """Raised inside a transaction to have it undone."""


# -- transactions and log ---------------------------------------------------------------------------


def test_log_reads_back_in_order_after_a_position(ledger: Ledger) -> None:
    # More rows than any store reads in one piece, appended out of order.
    rows = [log_row(position, bytes([position % 256])) for position in range(1, 301)]
    with ledger.transaction() as tx:
        tx.append_log(rows[150:])
        tx.append_log(rows[:150])
    assert list(ledger.read_log(0)) == rows
    assert list(ledger.read_log(250)) == rows[250:]
    assert ledger.last_position() == 300


def test_new_ledger_is_empty(ledger: Ledger) -> None:
    assert list(ledger.read_log(0)) == []
    assert (ledger.last_position(), ledger.checkpoint(), ledger.active_revision()) == (0, 0, "")
    assert (list(ledger.load_states()), list(ledger.rulebases()), dict(ledger.coverage())) == ([], [], {})


def test_taken_position_is_a_conflict_and_undoes_the_transaction(ledger: Ledger) -> None:
    with ledger.transaction() as tx:
        tx.append_log([log_row(1)])
    with pytest.raises(StoreConflictError), ledger.transaction() as tx:  # noqa: PT012 - all is to be undone
        tx.record_verdicts([verdict(WHO, "e1", decision("d1"))])
        tx.append_log([log_row(2), log_row(1)])
    assert ledger.last_position() == 1
    assert ledger.verdict_of("d1") is None


def test_raising_in_the_block_undoes_everything(ledger: Ledger) -> None:
    with pytest.raises(RefusedError), ledger.transaction() as tx:  # noqa: PT012 - all is to be undone
        tx.append_log([log_row(1)])
        tx.record_verdicts([verdict(WHO, "e1", decision("d1"))])
        tx.save_states([(WHO, 1, b"state")])
        tx.save_checkpoint(1)
        raise RefusedError
    assert (ledger.last_position(), ledger.checkpoint(), list(ledger.load_states())) == (0, 0, [])
    assert ledger.verdict_of("d1") is None
    assert contact_states(ledger) == {}


def test_transaction_is_of_no_use_after_its_block(ledger: Ledger) -> None:
    with ledger.transaction() as tx:
        pass
    with pytest.raises(Exception, match="closed"):
        tx.append_log([log_row(1)])
    assert ledger.last_position() == 0


def test_reading_the_log_and_writing_take_turns(ledger: Ledger) -> None:
    with ledger.transaction() as tx:
        tx.append_log([log_row(position) for position in range(1, 201)])
    for row in ledger.read_log(0):
        with ledger.transaction() as tx:
            tx.save_checkpoint(row.position)
    assert ledger.checkpoint() == 200


def test_may_be_used_by_another_thread_than_the_one_that_opened_it(ledger: Ledger) -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(record, ledger, verdict(WHO, "e1", decision("d1"))).result()
    assert ledger.verdict_of("d1") is not None


ANY_THREAD = {"keep_to_this_thread", "back_up", "close"}
USES = sorted(name for name in dir(Ledger) if not name.startswith("_") and name not in ANY_THREAD)


@pytest.mark.parametrize("name", USES)
def test_kept_to_one_thread_no_other_uses_it(ledger: Ledger, name: str) -> None:
    """Whether or not the other one is at it just then, and before anything is done."""
    method = getattr(ledger, name)
    given = [parameter for parameter in signature(method).parameters.values() if parameter.default is _NONE]

    def use() -> None:
        found = method(*[None] * len(given))
        if name == "transaction":
            found.__enter__()
        elif isinstance(found, Iterator):
            next(found, None)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(ledger.keep_to_this_thread).result()
        with pytest.raises(RuntimeError, match=r"its own thread.*await app\.thread\.run"):
            use()
        pool.submit(record, ledger, verdict(WHO, "e1", decision("d1"))).result()
        assert pool.submit(ledger.verdict_of, "d1").result() is not None


# -- verdicts and histories -------------------------------------------------------------------------


def test_verdicts_come_back_as_they_were(ledger: Ledger) -> None:
    decided = verdict(WHO, "e1", decision("d1"), decision("d2", reason=Reason.OUTRANKED))
    silent = verdict(OTHER, "e2")
    record(ledger, decided, silent)
    namesakes = [EventKey(OTHER, "gn", "e1"), EventKey(WHO, "crm", "e1"), EventKey(WHO, "gn", "e3")]
    with ledger.transaction() as tx:
        found = tx.verdicts([decided.key, silent.key, *namesakes])
    assert found == {decided.key: decided, silent.key: silent}
    assert ledger.verdict(decided.key) == ledger.verdict_of("d2") == decided
    assert ledger.verdict(namesakes[0]) is None
    assert ledger.verdict_of("nothing") is None


def test_many_keys_and_subscribers_at_once(ledger: Ledger) -> None:
    many = [verdict(str(86_138_000 + i), f"e{i}", decision(f"d{i}")) for i in range(2500)]
    record(ledger, *many)
    with ledger.transaction() as tx:
        assert tx.verdicts([each.key for each in many]) == {each.key: each for each in many}
        histories = tx.histories([each.key.subscriber_id for each in many], 0, NOON_US)
    assert {contact.decision_id for each in histories.values() for contact in each.contacts} == {
        each.decisions[0].id for each in many
    }


def test_key_is_decided_once(ledger: Ledger) -> None:
    first = verdict(WHO, "e1", decision("d1"))
    record(ledger, first)
    with pytest.raises(StoreConflictError):
        record(ledger, verdict(WHO, "e1", decision("d2")))
    assert ledger.verdict(first.key) == first
    assert contact_states(ledger) == {"d1": ContactState.RESERVED}


def test_automatic_decision_reserves_a_contact_and_waits_for_delivery(ledger: Ledger) -> None:
    decided = decision("d1")
    record(ledger, verdict(WHO, "e1", decided))
    reserved = Contact(
        decision_id="d1",
        campaign=decided.campaign,
        product=decided.product,
        category=decided.category,
        channel=decided.channel,
        mode=Mode.AUTOMATIC,
        at_us=NOON_US,
    )
    assert history(ledger) == History(contacts=[reserved])
    assert ledger.delivery_of("d1") == (DeliveryState.PENDING, 0)


def test_what_was_not_decided_is_listed_only(ledger: Ledger) -> None:
    lost = [reason for reason in Reason if reason not in (Reason.DECIDED, Reason.CONTROL)]
    record(ledger, verdict(WHO, "e1", *(decision(f"d-{reason}", reason=reason) for reason in lost)))
    assert history(ledger) == History()
    assert [row.reason for row in ledger.decisions(DecisionFilter(), 0, 100, False)] == lost
    assert ledger.delivery_of(f"d-{lost[0]}") is None


def test_waiting_prompt_has_no_contact(ledger: Ledger) -> None:
    prompt = waiting("p1")
    record(ledger, verdict(WHO, "e1", prompt))
    expected = Prompt("p1", prompt.campaign, prompt.channel, prompt.expires_at_us)
    assert history(ledger) == History(prompts=[expected])
    assert ledger.prompts(WHO, NOON_US) == [expected]
    assert ledger.prompts(OTHER, NOON_US) == []
    assert ledger.delivery_of("p1") is None


def test_prompts_are_listed_oldest_first_until_they_expire(ledger: Ledger) -> None:
    late = verdict(WHO, "e2", waiting("a", expires_at_us=NOON_US + 2), at_us=NOON_US - 1)
    early = verdict(WHO, "e1", waiting("b", expires_at_us=NOON_US + 3), at_us=NOON_US - 2)
    record(ledger, late, early)
    assert [prompt.decision_id for prompt in ledger.prompts(WHO, NOON_US + 1)] == ["b", "a"]
    assert [prompt.decision_id for prompt in ledger.prompts(WHO, NOON_US + 2)] == ["b"]
    assert history(ledger, now_us=NOON_US + 3).prompts == []


@pytest.mark.parametrize("together", [False, True])
def test_showing_a_prompt_closes_the_one_it_decides_again(ledger: Ledger, together: bool) -> None:
    first, second = verdict(WHO, "e1", waiting("p1")), verdict(WHO, "e2", shown("s1", prompt_of="p1"))
    if together:
        record(ledger, first, second)
    else:
        record(ledger, first)
        record(ledger, second)
    assert ledger.prompts(WHO, NOON_US) == []
    assert contact_states(ledger) == {"s1": ContactState.RESERVED}
    assert ledger.delivery_of("s1") is None


def test_prompt_that_loses_when_decided_again_goes_on_waiting(ledger: Ledger) -> None:
    record(ledger, verdict(WHO, "e1", waiting("p1")))
    record(ledger, verdict(WHO, "e2", waiting("s1", prompt_of="p1", reason=Reason.CAPPED)))
    assert [prompt.decision_id for prompt in ledger.prompts(WHO, NOON_US)] == ["p1"]


def test_history_begins_at_since(ledger: Ledger) -> None:
    for at_us in (NOON_US - 2, NOON_US - 1, NOON_US):
        record(ledger, verdict(WHO, f"e{at_us}", decision(f"d{at_us}"), at_us=at_us))
        outcome(ledger, f"d{at_us}", OutcomeKind.REFUSED, at_us)
    seen = history(ledger, since_us=NOON_US - 1)
    assert [contact.at_us for contact in seen.contacts] == [NOON_US - 1, NOON_US]
    assert [each.at_us for each in seen.outcomes] == [NOON_US - 1, NOON_US]


def test_list_of_decisions_is_paged_both_ways(ledger: Ledger) -> None:
    ids = [f"d{i}" for i in range(7)]
    record(ledger, verdict(WHO, "e1", *(decision(id_) for id_ in ids)))
    for newest_first, expected in ((False, ids), (True, ids[::-1])):
        seen: list[str] = []
        after = 0
        while page := ledger.decisions(DecisionFilter(), after, 3, newest_first):
            seen += [row.decision_id for row in page]
            after = page[-1].cursor
        assert seen == expected


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (DecisionFilter(), {"d1", "d2", "d3"}),
        (DecisionFilter(subscriber_id=OTHER), {"d3"}),
        (DecisionFilter(campaign="roaming"), {"d2"}),
        (DecisionFilter(reasons=(Reason.CAPPED, Reason.STALE)), {"d3"}),
        (DecisionFilter(from_us=NOON_US + 1), {"d3"}),
        (DecisionFilter(to_us=NOON_US + 1), {"d1", "d2"}),
        (DecisionFilter(subscriber_id=WHO, campaign="roaming", reasons=(Reason.CAPPED,)), set()),
    ],
)
def test_list_of_decisions_is_filtered(ledger: Ledger, where: DecisionFilter, expected: set[str]) -> None:
    record(ledger, verdict(WHO, "e1", decision("d1"), decision("d2", campaign="roaming")))
    record(ledger, verdict(OTHER, "e2", decision("d3", reason=Reason.CAPPED), at_us=NOON_US + 1))
    assert {row.decision_id for row in ledger.decisions(where, 0, 10, False)} == expected


def test_list_says_what_a_decision_was(ledger: Ledger) -> None:
    decided = decision("d1", channel="wap")
    on = verdict(WHO, "e1", decided, revision="r7")
    record(ledger, on)
    (row,) = ledger.decisions(DecisionFilter(), 0, 1, True)
    assert (row.key, row.decided_at_us, row.revision) == (on.key, on.decided_at_us, "r7")
    assert (row.campaign, row.channel, row.mode) == (decided.campaign, "wap", Mode.AUTOMATIC)


# -- outcomes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [kind for kind in OutcomeKind if kind is not OutcomeKind.NOT_OFFERED])
def test_outcome_commits_the_contact(ledger: Ledger, kind: OutcomeKind) -> None:
    decided = shown("s1")
    record(ledger, verdict(WHO, "e1", decided))
    assert outcome(ledger, "s1", kind, NOON_US + 5)
    expected = Outcome("s1", kind, NOON_US + 5, decided.campaign, decided.product, decided.category)
    assert history(ledger).outcomes == ledger.outcomes_of("s1") == [expected]
    assert contact_states(ledger) == {"s1": ContactState.COMMITTED}


def test_not_offered_releases_the_contact(ledger: Ledger) -> None:
    record(ledger, verdict(WHO, "e1", shown("s1")))
    assert outcome(ledger, "s1", OutcomeKind.NOT_OFFERED)
    assert contact_states(ledger) == {}


@pytest.mark.parametrize("first", [OutcomeKind.NOT_OFFERED, OutcomeKind.ACCEPTED])
def test_evidence_of_a_contact_outweighs_not_offered(ledger: Ledger, first: OutcomeKind) -> None:
    record(ledger, verdict(WHO, "e1", shown("s1")))
    for kind in (first, OutcomeKind.NOT_OFFERED, OutcomeKind.ACCEPTED):
        outcome(ledger, "s1", kind)
    assert contact_states(ledger) == {"s1": ContactState.COMMITTED}


def test_repeated_outcome_changes_nothing(ledger: Ledger) -> None:
    record(ledger, verdict(WHO, "e1", shown("s1")))
    assert outcome(ledger, "s1", OutcomeKind.LATER, NOON_US)
    assert not outcome(ledger, "s1", OutcomeKind.LATER, NOON_US + 1)
    assert outcome(ledger, "s1", OutcomeKind.ACCEPTED, NOON_US + 2)
    assert [(each.kind, each.at_us) for each in ledger.outcomes_of("s1")] == [
        (OutcomeKind.LATER, NOON_US),
        (OutcomeKind.ACCEPTED, NOON_US + 2),
    ]


def test_answered_prompt_is_closed_and_counts_as_a_contact(ledger: Ledger) -> None:
    record(ledger, verdict(WHO, "e1", waiting("p1"), waiting("p2")))
    assert outcome(ledger, "p1", OutcomeKind.REFUSED, NOON_US + 1)
    assert outcome(ledger, "p2", OutcomeKind.NOT_OFFERED, NOON_US + 1)
    (contact,) = history(ledger).contacts
    assert (contact.decision_id, contact.state, contact.at_us, contact.mode) == (
        "p1",
        ContactState.COMMITTED,
        NOON_US + 1,
        Mode.MANUAL,
    )
    assert ledger.prompts(WHO, NOON_US) == []


def test_answer_under_the_first_id_of_a_shown_prompt_counts_no_second_contact(ledger: Ledger) -> None:
    record(ledger, verdict(WHO, "e1", waiting("p1")))
    record(ledger, verdict(WHO, "e2", shown("s1", prompt_of="p1")))
    assert outcome(ledger, "p1", OutcomeKind.ACCEPTED)
    assert contact_states(ledger) == {"s1": ContactState.RESERVED}


def test_outcome_of_nothing_is_refused(ledger: Ledger) -> None:
    record(ledger, verdict(WHO, "e1", decision("lost", reason=Reason.CAPPED)))
    for decision_id, why in (("nothing", "no decision"), ("lost", "let no offer out")):
        with pytest.raises(UnknownDecisionError, match=why):
            outcome(ledger, decision_id, OutcomeKind.ACCEPTED)
    assert history(ledger) == History()


# -- rulebases --------------------------------------------------------------------------------------


def uploaded(ledger: Ledger, revision: str, at_us: int = NOON_US) -> RulebaseRow:
    row = RulebaseRow(revision, "province", at_us, "li", "first try")
    with ledger.transaction() as tx:
        tx.save_rulebase(row, revision.encode())
    return row


def activate(ledger: Ledger, revision: str, expected: str, at_us: int, *metric_keys: str) -> None:
    with ledger.transaction() as tx:
        tx.activate(revision, expected, at_us, "wang", "because", dict.fromkeys(metric_keys, at_us))


def test_upload_is_kept_once(ledger: Ledger) -> None:
    first = uploaded(ledger, "r1", NOON_US)
    uploaded(ledger, "r1", NOON_US + 1)
    assert ledger.rulebases() == [first]
    assert ledger.rulebase_archive("r1") == b"r1"
    assert ledger.rulebase_archive("r2") is None


def test_activation_needs_what_is_active(ledger: Ledger) -> None:
    uploads = [uploaded(ledger, revision, NOON_US + at) for at, revision in enumerate(("r1", "r2"))]
    activate(ledger, "r1", "", NOON_US + 10)
    for wrong in ("", "r2"):
        with pytest.raises(StoreConflictError, match="'r1' is active"):
            activate(ledger, "r2", wrong, NOON_US + 20)
    with pytest.raises(UnknownRevisionError, match="r3"):
        activate(ledger, "r3", "r1", NOON_US + 20)
    assert ledger.active_revision() == "r1"
    activate(ledger, "r2", "r1", NOON_US + 30)
    activate(ledger, "r1", "r2", NOON_US + 40)
    assert ledger.active_revision() == "r1"
    assert ledger.rulebases() == uploads[::-1]


def test_metric_is_covered_as_long_as_it_stays_active(ledger: Ledger) -> None:
    uploaded(ledger, "r1")
    activate(ledger, "r1", "", NOON_US, "m1", "m2", "m1")
    activate(ledger, "r1", "r1", NOON_US + 1, "m2", "m3")
    assert dict(ledger.coverage()) == {"m2": NOON_US, "m3": NOON_US + 1}
    activate(ledger, "r1", "r1", NOON_US + 2, "m1", "m2")
    assert dict(ledger.coverage()) == {"m1": NOON_US + 2, "m2": NOON_US}


def test_coverage_begins_anew_where_it_reached_further_back(ledger: Ledger) -> None:
    uploaded(ledger, "r1")
    activate(ledger, "r1", "", NOON_US, "m1")
    activate(ledger, "r1", "r1", NOON_US + 10, "m1", "m2", "m3")
    activate(ledger, "r1", "r1", NOON_US + 20, "m1", "m2", "m3", "m4")
    with ledger.transaction() as tx:
        tx.reset_coverage(["m1", "m2", "m4", "unknown"], NOON_US + 15)
    since = {key: since_us - NOON_US for key, since_us in ledger.coverage().items()}
    assert since == {"m1": 15, "m2": 15, "m3": 10, "m4": 20}


def test_what_is_decided_from_now_on_comes_beyond_a_cursor(ledger: Ledger) -> None:
    assert ledger.decided_up_to() == 0
    record(ledger, verdict(WHO, "e1", decision("d1")))
    cursor = ledger.decided_up_to()
    assert [each.cursor for each in ledger.decisions(DecisionFilter(), 0, 9, False)] == [cursor]
    record(ledger, verdict(WHO, "e2", decision("d2")))
    later = ledger.decisions(DecisionFilter(), cursor, 9, False)
    assert [each.decision_id for each in later] == ["d2"]


# -- heartbeat --------------------------------------------------------------------------------------


def test_heartbeat_is_the_last_one_and_of_each_source_what_was_said_last(ledger: Ledger) -> None:
    assert ledger.heartbeat() == (0, {})
    other = {"other": SourceMark(3, 4, set())}
    for alive_us, said in (
        (NOON_US, {"msc": SourceMark(1, 2, {"call_made", "*cell"})} | other),
        (NOON_US + 1, {"msc": SourceMark(5, 6, {"call_made"})}),
    ):
        with ledger.transaction() as tx:
            tx.save_heartbeat(alive_us, said)
        assert ledger.heartbeat() == (alive_us, said | other)


def test_heartbeat_of_a_member_that_is_behind_takes_nothing_back(ledger: Ledger) -> None:
    with ledger.transaction() as tx:
        tx.save_heartbeat(NOON_US, {"msc": SourceMark(5, 6, {"call_made"})})
    with ledger.transaction() as tx:
        tx.save_heartbeat(NOON_US - 1, {"msc": SourceMark(4, 7, {"call_made", "sms"})})
    assert ledger.heartbeat() == (NOON_US, {"msc": SourceMark(5, 7, {"call_made", "sms"})})


# -- snapshots --------------------------------------------------------------------------------------


def test_snapshots_are_replaced(ledger: Ledger) -> None:
    many = [(str(86_138_000 + i), i, bytes([i % 256])) for i in range(2500)]
    with ledger.transaction() as tx:
        tx.save_states(iter(many))
        tx.save_checkpoint(7)
    changed = (many[3][0], 9, b"newer")
    with ledger.transaction() as tx:
        tx.save_states([changed])
    assert sorted(ledger.load_states()) == [*many[:3], changed, *many[4:]]
    some = [many[1][0], changed[0], "stranger"]
    assert sorted(ledger.load_states(some)) == [many[1], changed]
    assert list(ledger.load_states([])) == []
    assert ledger.checkpoint() == 7


def test_a_read_inside_a_transaction_sees_what_it_wrote(ledger: Ledger) -> None:
    with ledger.transaction() as tx:
        tx.save_checkpoint(ledger.checkpoint() + 1)
        assert ledger.checkpoint() == 1


def test_closed_ledger_is_unavailable(ledger: Ledger) -> None:
    ledger.close()
    ledger.close()
    with pytest.raises(StoreUnavailableError, match="closed"):
        ledger.last_position()
    with pytest.raises(StoreUnavailableError, match="closed"), ledger.transaction():
        pass
