"""What becomes of what a policy stops: dropped, the next one up, or deferred and decided again when due."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from opportune_rulebase.model import Channel, Rulebase
from opportune_rulebase.policies import CalendarPeriod, Cap, Fate, Mode, Quota, Selector
from opportune_service.core.decide import decide
from opportune_service.core.verdict import (
    Decision,
    Deferral,
    History,
    Moment,
    Prompt,
    Reason,
    Usage,
    UsageKey,
    UsageKind,
)
from support.moments import (
    DAY_US,
    HOUR_US,
    MANUAL,
    MINUTE_US,
    SUBSCRIBER,
    by_campaign,
    cap,
    contact,
    moment,
    quiet_hours,
    reasons,
    rulebase,
)
from support.rulebases import NOON_US

LONG: dict[str, Any] = {"expires_after_us": 60 * DAY_US}
ONLY_SMS = Selector(channels=frozenset({"sms"}))
TODAY = 20_777
"""The number of 20 November 2026, a Friday."""
SPENT: Usage = {
    UsageKey(UsageKind.CAMPAIGN_DAY, "offer", TODAY): 1,
    UsageKey(UsageKind.CAMPAIGN_TOTAL, "offer"): 1,
    UsageKey(UsageKind.CAMPAIGN_COST, "offer"): 1,
    UsageKey(UsageKind.CHANNEL_DAY, "sms", TODAY): 1,
}


def at(text: str) -> int:
    local = datetime.fromisoformat(text).replace(tzinfo=ZoneInfo("Asia/Shanghai"))
    return int(local.timestamp()) * 1_000_000


def only(base: Rulebase, history: History, now_us: int = NOON_US, usage: Usage | None = None) -> Decision:
    """What is decided on the only campaign."""
    (decision,) = decide(base, moment(base, now_us=now_us), history, dict(usage or {})).decisions
    return decision


def again(base: Rulebase, deferral: Deferral, now_us: int, **rest: Any) -> Moment:
    """The moment at which what was deferred is decided again, and nothing else."""
    known = {
        "deferred_of": deferral.decision_id,
        "attempt": deferral.attempt + 1,
        "expires_us": deferral.expires_us,
        "trigger": deferral.trigger,
    }
    candidates = rest.pop("candidates", {}) | {deferral.campaign: known}
    return moment(
        base, event_id=f"at {now_us}", now_us=now_us, age_us=DAY_US, candidates=candidates, **rest
    )


def joined(one: Moment, other: Moment) -> Moment:
    return msgspec.structs.replace(one, candidates=one.candidates + other.candidates)


NOON_IS_QUIET = quiet_hours("11:00", "13:00")


@pytest.mark.parametrize("fate", Fate)
@pytest.mark.parametrize("reason", ["quiet_hours", "capped", "quota", "capacity"])
def test_every_fate_of_every_policy(reason: str, fate: Fate) -> None:
    """All of them stop `offer` alone, on SMS; `second` comes after it."""
    stops: dict[str, dict[str, Any]] = {
        "quiet_hours": {
            "quiet_hours": (quiet_hours("11:00", "13:00", applies_to=ONLY_SMS, otherwise=fate),)
        },
        "capped": {"caps": (cap(1, applies_to=ONLY_SMS, otherwise=fate),)},
        "quota": {},
        "capacity": {"channels": {"sms": Channel("sms", "", Mode.AUTOMATIC, per_day=1, otherwise=fate)}},
    }
    offer = LONG | {"priority": 1}
    if reason == "quota":
        offer |= {"quota": Quota(per_day=1, otherwise=fate)}
    base = rulebase({"offer": offer, "second": {"channels": ("mms",)}}, jitter_us=0, **stops[reason])
    history = History(contacts=[contact(base.campaigns["offer"], NOON_US - HOUR_US)])
    decisions = by_campaign(decide(base, moment(base), history, dict(SPENT)))
    assert (decisions["offer"].reason.value, decisions["offer"].fate) == (reason, fate)
    assert decisions["second"].reason is (Reason.DECIDED if fate is Fate.NEXT else Reason.OUTRANKED)
    clear_us = {
        "quiet_hours": at("2026-11-20T13:00:00"),
        "capped": NOON_US - HOUR_US + 7 * DAY_US,
        "quota": at("2026-11-21T00:00:00"),
        "capacity": at("2026-11-21T00:00:00"),
    }[reason]
    check = decisions["offer"].checks[-1]
    assert (check.passed, check.channel, check.clear_us) == (False, "sms", clear_us)
    counted = (None, None) if reason == "quiet_hours" else (2, 1)
    assert (check.count, check.limit) == counted
    if fate is Fate.DEFER:
        assert decisions["offer"].due_us == clear_us
        assert decisions["offer"].expires_at_us == NOON_US + 60 * DAY_US
        assert history.deferrals == [
            Deferral(
                subscriber_id=SUBSCRIBER,
                decision_id=decisions["offer"].id,
                campaign="offer",
                attempt=1,
                due_us=clear_us,
                expires_us=NOON_US + 60 * DAY_US,
                trigger=moment(base).candidates[0].trigger,
            )
        ]
    else:
        assert (decisions["offer"].due_us, decisions["offer"].trigger, history.deferrals) == (0, None, [])


@pytest.mark.parametrize("fate", [Fate.DROP, Fate.NEXT])
def test_no_channel_has_the_fate_that_the_rulebase_gives(fate: Fate) -> None:
    base = rulebase({"first": {"priority": 1}, "second": {}}, no_channel=fate)
    given = decide(
        base, moment(base, candidates={"first": {"content": {"sms": None}}, "second": {}}), History(), {}
    )
    assert by_campaign(given)["first"].fate is fate
    assert reasons(given)["second"] == ("decided" if fate is Fate.NEXT else "outranked")


def per(period: CalendarPeriod) -> Cap:
    return cap(1, rolling_us=None, calendar=period)


@pytest.mark.parametrize(
    ("bound", "before", "clear"),
    [
        (cap(1, rolling_us=DAY_US), ["2026-11-20T09:00:00"], "2026-11-21T09:00:00"),
        (
            cap(2, rolling_us=DAY_US),
            ["2026-11-20T09:00:00", "2026-11-20T10:00:00"],
            "2026-11-21T09:00:00",
        ),
        # Other systems went beyond the limit: enough must leave the window.
        (
            cap(1, rolling_us=DAY_US),
            ["2026-11-20T09:00:00", "2026-11-20T11:00:00", "2026-11-20T10:00:00"],
            "2026-11-21T11:00:00",
        ),
        (per(CalendarPeriod.DAY), ["2026-11-20T09:00:00"], "2026-11-21T00:00:00"),
        (per(CalendarPeriod.WEEK), ["2026-11-20T09:00:00"], "2026-11-23T00:00:00"),
        (per(CalendarPeriod.MONTH), ["2026-11-01T09:00:00"], "2026-12-01T00:00:00"),
        # Two slots are kept for what is more important.
        (
            cap(3, rolling_us=DAY_US, headroom=2, headroom_priority=5),
            ["2026-11-20T09:00:00", "2026-11-20T10:00:00"],
            "2026-11-21T10:00:00",
        ),
    ],
)
def test_a_cap_frees_at_the_very_instant_that_was_said(bound: Cap, before: list[str], clear: str) -> None:
    base = rulebase({"offer": LONG}, caps=(replace(bound, otherwise=Fate.DEFER),), jitter_us=0)
    contacts = [contact(base.campaigns["offer"], at(text)) for text in before]
    decision = only(base, History(contacts=list(contacts)))
    assert (decision.reason, decision.fate, decision.due_us) == (Reason.CAPPED, Fate.DEFER, at(clear))
    for now_us, reason in ((decision.due_us - 1, Reason.CAPPED), (decision.due_us, Reason.DECIDED)):
        assert only(base, History(contacts=list(contacts)), now_us).reason is reason


@pytest.mark.parametrize(
    ("campaign", "policies"),
    [
        ({}, {"caps": (cap(0, otherwise=Fate.DEFER),)}),
        ({}, {"caps": (cap(1, headroom=1, headroom_priority=9, otherwise=Fate.DEFER),)}),
        ({}, {"quiet_hours": (quiet_hours("00:00", "24:00", otherwise=Fate.DEFER),)}),
        ({"quota": Quota(total=1, otherwise=Fate.DEFER)}, {}),
        ({"quota": Quota(budget=1, otherwise=Fate.DEFER)}, {}),
        ({"quota": Quota(per_day=0, otherwise=Fate.DEFER)}, {}),
        # These free, but not before the offer lapses.
        ({"expires_after_us": HOUR_US}, {"quiet_hours": (replace(NOON_IS_QUIET, otherwise=Fate.DEFER),)}),
        (
            {"expires_after_us": 12 * HOUR_US},
            {"caps": (replace(per(CalendarPeriod.DAY), otherwise=Fate.DEFER),)},
        ),
    ],
)
def test_what_never_frees_is_not_deferred(campaign: dict[str, Any], policies: dict[str, Any]) -> None:
    base = rulebase(
        {"offer": LONG | campaign},
        channels={"sms": Channel("sms", "", Mode.AUTOMATIC, cost=1)},
        jitter_us=0,
        **policies,
    )
    history = History(contacts=[contact(base.campaigns["offer"], NOON_US - HOUR_US)])
    decision = only(base, history, usage=SPENT)
    assert (decision.fate, decision.due_us, history.deferrals) == (Fate.DROP, 0, [])
    assert decision.reason is not Reason.DECIDED


def test_one_instant_before_it_lapses_is_soon_enough() -> None:
    windows = (replace(NOON_IS_QUIET, otherwise=Fate.DEFER),)
    for more_us, fate in ((0, Fate.DROP), (1, Fate.DEFER)):
        base = rulebase(
            {"offer": {"expires_after_us": HOUR_US + more_us}}, quiet_hours=windows, jitter_us=0
        )
        assert only(base, History()).fate is fate


def test_the_last_channel_gives_reason_and_fate_and_the_first_to_free_the_time() -> None:
    def base(sms: Fate, mms: Fate) -> Rulebase:
        return rulebase(
            {"offer": LONG | {"channels": ("sms", "mms")}},
            quiet_hours=(quiet_hours("11:00", "13:00", applies_to=ONLY_SMS, otherwise=sms),),
            caps=(cap(1, otherwise=mms),),
            jitter_us=0,
        )

    def decision(sms: Fate, mms: Fate) -> tuple[Reason, Fate | None, int]:
        rules = base(sms, mms)
        given = only(rules, History(contacts=[contact(rules.campaigns["offer"], NOON_US - 1)]))
        return given.reason, given.fate, given.due_us

    cap_clears = NOON_US + 7 * DAY_US  # a moment before, and then the next minute begins
    assert decision(Fate.DEFER, Fate.DEFER) == (Reason.CAPPED, Fate.DEFER, at("2026-11-20T13:00:00"))
    assert decision(Fate.DROP, Fate.DEFER) == (Reason.CAPPED, Fate.DEFER, cap_clears)
    assert decision(Fate.DEFER, Fate.DROP) == (Reason.CAPPED, Fate.DROP, 0)
    assert decision(Fate.DEFER, Fate.NEXT) == (Reason.CAPPED, Fate.NEXT, 0)


def test_the_end_of_the_night_is_spread_over_subscribers_and_one_for_all_campaigns() -> None:
    night = quiet_hours("21:00", "08:00", otherwise=Fate.DEFER)
    base = rulebase({"a": LONG, "b": LONG}, quiet_hours=(night,), max_automatic=2)
    late, morning = at("2026-11-20T23:00:00"), at("2026-11-21T08:00:00")
    dues = set()
    for number in range(200):
        given = moment(base, now_us=late, subscriber=f"86138{number:08}")
        one, other = decide(base, given, History(), {}).decisions
        assert one.due_us == other.due_us
        dues.add(one.due_us)
    assert morning <= min(dues) < morning + 2 * MINUTE_US
    assert morning + 28 * MINUTE_US < max(dues) < morning + 30 * MINUTE_US
    assert len(dues) == 200


def test_two_windows_in_a_row_are_one_night() -> None:
    windows = tuple(
        quiet_hours(start, end, otherwise=Fate.DEFER)
        for start, end in (("21:00", "07:00"), ("06:00", "09:00"))
    )
    base = rulebase({"offer": LONG}, quiet_hours=windows, jitter_us=0)
    decision = only(base, History(), at("2026-11-20T23:00:00"))
    assert decision.due_us == at("2026-11-21T09:00:00")


# Decided again.


def deferred(**changes: Any) -> tuple[Rulebase, History, Deferral]:
    """An offer that waits for 13:00, and may be made until 14:00."""
    base = rulebase(
        {"offer": {"fresh_for_us": MINUTE_US} | changes},
        quiet_hours=(replace(NOON_IS_QUIET, otherwise=Fate.DEFER),),
        jitter_us=0,
    )
    history = History()
    assert only(base, history).fate is Fate.DEFER
    return base, history, history.deferrals[0]


def test_when_it_is_due_it_is_decided_however_old_the_event() -> None:
    base, history, deferral = deferred()
    (decision,) = decide(base, again(base, deferral, deferral.due_us), history, {}).decisions
    assert (decision.reason, decision.deferred_of, decision.attempt) == (
        Reason.DECIDED,
        deferral.decision_id,
        2,
    )
    assert decision.expires_at_us == NOON_US + 2 * HOUR_US, "it lapses when it would have anyway"
    assert (history.deferrals, len(history.contacts)) == ([], 1)


def test_it_is_decided_once() -> None:
    base, history, deferral = deferred()
    decide(base, again(base, deferral, deferral.due_us), history, {})
    verdict = decide(base, again(base, deferral, deferral.due_us + 1), history, {})
    assert reasons(verdict) == {"offer": "inconsistent"}
    assert len(history.contacts) == 1


def test_it_ends_with_whatever_stops_it_for_good() -> None:
    for known, reason in (
        ({"do_not_contact": True}, "suppressed"),
        ({"products": ("product",)}, "not_eligible"),
    ):
        base, history, deferral = deferred()
        verdict = decide(base, again(base, deferral, deferral.due_us, profile=known), history, {})
        assert (reasons(verdict), history.deferrals) == ({"offer": reason}, [])
    base, history, deferral = deferred()
    verdict = decide(base, again(base, deferral, deferral.due_us), history, {}, frozenset({"offer"}))
    assert (reasons(verdict), history.deferrals) == ({"offer": "not_live"}, [])


def test_it_may_be_deferred_again_until_it_lapses() -> None:
    base, history, deferral = deferred()
    early = decide(base, again(base, deferral, deferral.due_us - 1), history, {}).decisions[0]
    assert (early.reason, early.fate, early.attempt) == (Reason.QUIET_HOURS, Fate.DEFER, 2)
    (second,) = history.deferrals
    assert (second.decision_id, second.attempt, second.expires_us) == (early.id, 2, deferral.expires_us)
    lapsed = decide(base, again(base, second, NOON_US + 2 * HOUR_US), history, {})
    assert (reasons(lapsed), history.deferrals) == ({"offer": "stale"}, [])


def test_a_newer_deferral_of_the_campaign_replaces_the_older() -> None:
    base, history, deferral = deferred()
    newer = decide(base, moment(base, event_id="e2", now_us=NOON_US + 1), history, {}).decisions[0]
    assert [each.decision_id for each in history.deferrals] == [newer.id]
    verdict = decide(base, again(base, deferral, deferral.due_us), history, {})
    assert reasons(verdict) == {"offer": "inconsistent"}


def test_an_offer_that_goes_out_ends_a_deferral_of_its_campaign() -> None:
    base, history, deferral = deferred()
    fresh = moment(base, event_id="e2", now_us=NOON_US + HOUR_US, age_us=0)
    decision = decide(base, fresh, history, {}).decisions[0]
    assert (decision.reason, decision.deferred_of, decision.attempt) == (
        Reason.DECIDED,
        deferral.decision_id,
        1,
    )
    assert history.deferrals == []


def test_those_due_together_are_arbitrated_together_with_a_live_candidate() -> None:
    base = rulebase(
        {"waited": {"value": 2.0}, "also": {}, "fresh": {"priority": 1}},
        quiet_hours=(replace(NOON_IS_QUIET, otherwise=Fate.DEFER),),
        jitter_us=0,
        max_automatic=2,
    )
    history = History()
    decide(base, moment(base, candidates={"waited": {}, "also": {}}), history, {})
    first, second = history.deferrals
    assert first.due_us == second.due_us
    both = joined(again(base, first, first.due_us), again(base, second, second.due_us))
    live = moment(base, candidates={"fresh": {}}, now_us=first.due_us)
    given = decide(base, joined(live, both), history, {})
    assert reasons(given) == {"fresh": "decided", "waited": "decided", "also": "outranked"}
    assert history.deferrals == []


def test_a_prompt_that_is_decided_again_waits_on_and_is_not_deferred() -> None:
    base = rulebase({"talk": MANUAL | LONG}, caps=(cap(1, otherwise=Fate.DEFER),), jitter_us=0)
    prompt = Prompt("p1", "talk", "counter", NOON_US + DAY_US)
    history = History(contacts=[contact(base.campaigns["talk"], NOON_US - 1)], prompts=[prompt])
    visit = moment(base, touch_point="counter", candidates={"talk": {"prompt_of": "p1"}})
    decision = decide(base, visit, history, {}).decisions[0]
    assert (decision.reason, decision.fate) == (Reason.CAPPED, Fate.DROP)
    assert (history.prompts, history.deferrals) == ([prompt], [])


# Settling.


def test_candidates_settle_together_and_the_best_of_them_wins() -> None:
    base = rulebase({"early": {}, "late": {"priority": 1}, "talk": MANUAL}, settle_us=5 * MINUTE_US)
    history = History()
    first = decide(base, moment(base, candidates={"early": {}, "talk": {}}), history, {})
    assert reasons(first) == {"early": "settling", "talk": "decided"}
    later_us = NOON_US + 2 * MINUTE_US
    decide(base, moment(base, event_id="e2", now_us=later_us, candidates={"late": {}}), history, {})
    assert [(d.campaign, d.settling, d.due_us) for d in history.deferrals] == [
        ("early", True, NOON_US + 5 * MINUTE_US),
        ("late", True, NOON_US + 5 * MINUTE_US),
    ]
    early, late = (again(base, each, each.due_us) for each in history.deferrals)
    assert reasons(decide(base, joined(early, late), history, {})) == {
        "early": "outranked",
        "late": "decided",
    }
    assert history.deferrals == []


def test_what_would_lapse_while_it_settles_is_arbitrated_at_once() -> None:
    for settle_us, reason in ((HOUR_US, Reason.SETTLING), (2 * HOUR_US, Reason.DECIDED)):
        assert only(rulebase(settle_us=settle_us), History()).reason is reason


def test_what_does_not_pass_the_screening_does_not_settle() -> None:
    base = rulebase(settle_us=MINUTE_US)
    assert reasons(decide(base, moment(base, candidates={"offer": {"target": False}}), History(), {})) == {
        "offer": "not_eligible"
    }
