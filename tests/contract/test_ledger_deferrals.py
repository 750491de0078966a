"""What every `Ledger` must do with deferrals: kept, replaced, ended, and found when they are due."""

from __future__ import annotations

from typing import Any

from opportune_rulebase.policies import Fate
from opportune_service.app.ports import Ledger
from opportune_service.core.verdict import Decision, Deferral, Reason, Trigger, Verdict
from support.verdicts import HOUR_US, NOON_US, decision, verdict

WHO = "8613800000001"
TRIGGER = Trigger("data_session", NOON_US, {"site": "news", "bytes": 7, "share": 0.5}, cell_id="c1")


def deferred(id_: str, due: int = 1, **changes: Any) -> Decision:
    """A decision that is to be decided again `due` hours after noon."""
    of_quiet_hours = {
        "reason": Reason.QUIET_HOURS,
        "fate": Fate.DEFER,
        "trigger": TRIGGER,
        "due_us": NOON_US + due * HOUR_US,
        "expires_at_us": NOON_US + 24 * HOUR_US,
    }
    return decision(id_, **{**of_quiet_hours, **changes})


def record(ledger: Ledger, *verdicts: Verdict) -> None:
    with ledger.transaction() as tx:
        tx.record_verdicts(verdicts)


def deferrals(ledger: Ledger, who: str = WHO) -> list[Deferral]:
    with ledger.transaction() as tx:
        return tx.histories([who], NOON_US, NOON_US)[who].deferrals


def ids(ledger: Ledger) -> list[str]:
    return [each.decision_id for each in deferrals(ledger)]


def due(ledger: Ledger, hours: int, limit: int = 100) -> list[str]:
    return [each.decision_id for each in ledger.due_deferrals(NOON_US + hours * HOUR_US, limit)]


def test_deferral_keeps_the_candidate(ledger: Ledger) -> None:
    record(ledger, verdict(WHO, "e1", deferred("d1", attempt=2)))
    expected = Deferral(
        subscriber_id=WHO,
        decision_id="d1",
        campaign=decision("d").campaign,
        attempt=2,
        due_us=NOON_US + HOUR_US,
        expires_us=NOON_US + 24 * HOUR_US,
        trigger=TRIGGER,
    )
    assert deferrals(ledger) == ledger.due_deferrals(NOON_US + HOUR_US, 1) == [expected]
    assert ledger.delivery_of("d1") is None


def test_settling_deferral_says_so(ledger: Ledger) -> None:
    record(ledger, verdict(WHO, "e1", deferred("d1", reason=Reason.SETTLING)))
    assert [each.settling for each in deferrals(ledger)] == [True]


def test_other_fates_leave_nothing_to_decide_again(ledger: Ledger) -> None:
    fates = (None, Fate.DROP, Fate.NEXT)
    record(ledger, verdict(WHO, "e1", *(deferred(f"d{fate}", fate=fate) for fate in fates)))
    assert deferrals(ledger) == []


def test_newer_deferral_replaces_that_of_the_same_campaign(ledger: Ledger) -> None:
    record(ledger, verdict(WHO, "e1", deferred("d1"), deferred("other", campaign="roaming")))
    record(ledger, verdict(WHO, "e2", deferred("d2", due=2)))
    record(ledger, verdict(WHO, "e3", deferred("d3", due=3)), verdict(WHO, "e4", deferred("d4", due=4)))
    assert ids(ledger) == ["other", "d4"]


def test_deciding_again_ends_a_deferral_whatever_comes_out(ledger: Ledger) -> None:
    lost = {"reason": Reason.CAPPED, "fate": Fate.DROP}
    for number, outcome in enumerate(({}, lost)):
        record(ledger, verdict(WHO, f"first-{number}", deferred(f"d{number}")))
        again = decision(f"again-{number}", deferred_of=f"d{number}", attempt=2, **outcome)
        record(ledger, verdict(WHO, f"again-{number}", again))
        assert deferrals(ledger) == []


def test_deferred_again_goes_on_under_the_new_decision(ledger: Ledger) -> None:
    record(ledger, verdict(WHO, "e1", deferred("d1")))
    record(ledger, verdict(WHO, "e2", deferred("d2", due=3, deferred_of="d1", attempt=2)))
    assert [(each.decision_id, each.attempt) for each in deferrals(ledger)] == [("d2", 2)]


def test_what_was_replaced_meanwhile_does_not_end_what_replaced_it(ledger: Ledger) -> None:
    record(ledger, verdict(WHO, "e1", deferred("d1")))
    record(ledger, verdict(WHO, "e2", deferred("d2")))
    late = decision("late", deferred_of="d1", attempt=2, reason=Reason.INCONSISTENT)
    record(ledger, verdict(WHO, "e3", late))
    assert ids(ledger) == ["d2"]


def test_verdicts_of_one_call_follow_each_other(ledger: Ledger) -> None:
    record(
        ledger,
        verdict(WHO, "e1", deferred("d1")),
        verdict(WHO, "e2", decision("d2", deferred_of="d1", attempt=2)),
        verdict(WHO, "e3", deferred("r1", campaign="roaming")),
        verdict(WHO, "e4", deferred("r2", campaign="roaming", deferred_of="r1", attempt=2)),
    )
    assert ids(ledger) == ["r2"]


def test_due_ones_come_earliest_first_with_all_that_are_due_of_the_subscriber(ledger: Ledger) -> None:
    for who, of_campaign in (
        ("86138001", {"a": 1, "b": 4, "late": 9}),
        ("86138002", {"a": 2}),
        ("86138003", {"a": 3}),
    ):
        decided = (deferred(f"{who}-{name}", hours, campaign=name) for name, hours in of_campaign.items())
        record(ledger, verdict(who, f"e{who}", *decided))
    assert due(ledger, 0) == []
    assert due(ledger, 4) == ["86138001-a", "86138002-a", "86138003-a", "86138001-b"]
    assert due(ledger, 4, limit=2) == ["86138001-a", "86138002-a", "86138001-b"]
    assert due(ledger, 3, limit=1) == ["86138001-a"]
