"""Quota, budget and capacity over all subscribers, and the control groups, which use none of them."""

from __future__ import annotations

from typing import Any

import pytest
from opportune_rulebase.model import Channel, Rulebase
from opportune_rulebase.policies import SHARES, Control, Mode, Quota
from opportune_service.core.control import control_group
from opportune_service.core.decide import decide, usage_keys
from opportune_service.core.verdict import (
    Contact,
    ContactState,
    Decision,
    History,
    Prompt,
    Reason,
    Usage,
    UsageKey,
    UsageKind,
    usage_of,
)
from support.moments import (
    DAY_US,
    HOUR_US,
    MANUAL,
    MINUTE_US,
    by_campaign,
    cap,
    moment,
    reasons,
    rulebase,
)
from support.rulebases import NOON_US

TODAY = 20_777
TWO_CHANNELS = {"channels": ("sms", "mms")}


def carriers(**changes: Any) -> dict[str, Channel]:
    """SMS with these changes; MMS costs 1."""
    sms = {"cost": 5} | changes
    return {
        "sms": Channel("sms", "", Mode.AUTOMATIC, **sms),
        "mms": Channel("mms", "", Mode.AUTOMATIC, cost=1),
    }


def decide_for(base: Rulebase, subscriber: str, usage: Usage, now_us: int = NOON_US) -> Decision:
    """The only decision for somebody who never had any contact."""
    at = moment(base, subscriber=subscriber, now_us=now_us)
    return decide(base, at, History(), usage).decisions[0]


@pytest.mark.parametrize(
    ("quota", "channel", "decided", "reason"),
    [
        (Quota(per_day=2), {}, 2, "quota"),
        (Quota(total=3), {}, 3, "quota"),
        (Quota(budget=14), {}, 2, "quota"),
        (Quota(budget=15), {}, 3, "quota"),
        (Quota(per_day=0), {}, 0, "quota"),
        (None, {"per_day": 2}, 2, "capacity"),
        (Quota(per_day=1), {"per_day": 2}, 1, "quota"),
    ],
)
def test_all_subscribers_share_them(
    quota: Quota | None, channel: dict[str, Any], decided: int, reason: str
) -> None:
    base = rulebase({"offer": {"quota": quota}}, channels=carriers(**channel))
    usage: Usage = {}
    given = [decide_for(base, f"8613800000{n:03}", usage).reason.value for n in range(5)]
    assert given == ["decided"] * decided + [reason] * (5 - decided)


def test_days_begin_anew_in_the_rulebases_zone_and_totals_do_not() -> None:
    midnight = NOON_US + 12 * HOUR_US
    for quota, after in ((Quota(per_day=1), Reason.DECIDED), (Quota(total=1), Reason.QUOTA)):
        base, usage = rulebase({"offer": {"quota": quota}}), Usage()
        assert decide_for(base, "861380000001", usage).reason is Reason.DECIDED
        assert decide_for(base, "861380000002", usage, midnight - 1).reason is Reason.QUOTA
        assert decide_for(base, "861380000003", usage, midnight).reason is after


def test_a_channel_that_is_full_or_too_dear_leaves_the_others() -> None:
    base = rulebase({"offer": TWO_CHANNELS}, channels=carriers(per_day=0))
    assert decide_for(base, "861380000001", {}).channel == "mms"
    base = rulebase({"offer": TWO_CHANNELS | {"quota": Quota(budget=4)}}, channels=carriers())
    assert decide_for(base, "861380000001", {}).channel == "mms"


def test_a_check_says_how_much_there_would_be_and_may_be() -> None:
    base = rulebase({"offer": {"quota": Quota(budget=12)}}, channels=carriers(per_day=9))
    usage = {
        UsageKey(UsageKind.CAMPAIGN_COST, "offer"): 10,
        UsageKey(UsageKind.CHANNEL_DAY, "sms", TODAY): 3,
    }
    check = decide_for(base, "861380000001", usage).checks[-1]
    assert (check.policy, check.passed, check.detail) == ("quota", False, "budget: 10 of 12 used")
    assert (check.channel, check.count, check.limit, check.clear_us) == ("sms", 15, 12, 0)
    usage[UsageKey(UsageKind.CAMPAIGN_COST, "offer")] = 7
    checks = decide_for(base, "861380000001", usage).checks
    assert [(c.count, c.limit) for c in checks if c.policy in ("quota", "capacity")] == [(12, 12), (4, 9)]


def test_what_is_reserved_is_added_and_can_be_taken_back() -> None:
    base = rulebase({"offer": {"quota": Quota(per_day=9)}}, channels=carriers())
    history, usage = History(), Usage()
    (decision,) = decide(base, moment(base), history, usage).decisions
    assert (decision.day, decision.cost) == (TODAY, 5)
    (made,) = history.contacts
    assert usage == usage_of(made)
    assert usage[UsageKey(UsageKind.CAMPAIGN_COST, "offer")] == 5


def test_a_prompt_that_waits_uses_nothing() -> None:
    base = rulebase({"talk": MANUAL | {"quota": Quota(total=1)}})
    history, usage = History(), Usage()
    decide(base, moment(base), history, usage)
    assert (usage, len(history.prompts)) == ({}, 1)


def test_the_counters_that_may_be_read_are_those_that_somebody_bounds() -> None:
    base = rulebase(
        {
            "offer": TWO_CHANNELS | {"quota": Quota(per_day=1, budget=5)},
            "free": {},
            "absent": {"quota": Quota(total=1)},
        },
        channels=carriers(per_day=7),
    )
    at = moment(base, candidates={"offer": {}, "free": {}})
    assert usage_keys(base, at) == {
        UsageKey(UsageKind.CAMPAIGN_DAY, "offer", TODAY),
        UsageKey(UsageKind.CAMPAIGN_COST, "offer"),
        UsageKey(UsageKind.CHANNEL_DAY, "sms", TODAY),
    }


# Control groups.


EVERYBODY: dict[str, Any] = {"control_share": SHARES}


def test_a_member_gets_control_which_takes_the_place_and_reserves_in_the_ghost_ledger() -> None:
    base = rulebase(
        {"offer": EVERYBODY | {"open_for_us": HOUR_US, "priority": 1}, "second": {}},
        caps=(cap(1),),
        channels=carriers(),
    )
    history, usage = History(), Usage()
    decisions = by_campaign(decide(base, moment(base), history, usage))
    control = decisions["offer"]
    assert (control.reason, control.channel, control.content) == (Reason.CONTROL, "sms", "")
    assert (control.cost, control.expires_at_us, control.reserves) == (5, 0, True)
    assert control.checks[-1].detail == "the subscriber is in the control group campaign/offer"
    assert decisions["second"].reason is Reason.OUTRANKED
    assert history.contacts == [
        Contact(
            *(control.id, "offer", "product", "category", "sms", Mode.AUTOMATIC, NOON_US),
            state=ContactState.COMMITTED,
            control=True,
            open_until_us=NOON_US + HOUR_US,
            day=TODAY,
            cost=5,
        )
    ]
    assert usage == {}
    later = moment(base, event_id="e2", now_us=NOON_US + MINUTE_US, candidates={"second": {}})
    assert reasons(decide(base, later, History(contacts=history.contacts), usage)) == {
        "second": "inconsistent"
    }
    after = moment(base, event_id="e3", now_us=NOON_US + DAY_US, candidates={"second": {}})
    assert reasons(decide(base, after, History(contacts=history.contacts), usage)) == {"second": "capped"}


def test_control_comes_after_all_else_so_that_both_sides_lose_to_the_same_policies() -> None:
    base = rulebase({"offer": EVERYBODY | {"quota": Quota(total=1)}}, caps=(cap(1),))
    spent = {UsageKey(UsageKind.CAMPAIGN_TOTAL, "offer"): 1}
    assert decide_for(base, "861380000001", spent).reason is Reason.QUOTA


def test_prompts_are_held_back_when_they_would_be_shown() -> None:
    base = rulebase({"talk": MANUAL | EVERYBODY})
    history = History()
    (waiting,) = decide(base, moment(base), history, {}).decisions
    assert waiting.reason is Reason.DECIDED
    assert history.prompts == [Prompt(waiting.id, "talk", "counter", waiting.expires_at_us)]
    visit = moment(
        base, event_id="visit", touch_point="counter", candidates={"talk": {"prompt_of": waiting.id}}
    )
    (shown,) = decide(base, visit, history, {}).decisions
    assert (shown.reason, shown.reserves, shown.content) == (Reason.CONTROL, True, "")
    assert (history.prompts, [c.control for c in history.contacts]) == ([], [True])


def test_the_global_group_comes_first_and_exempt_campaigns_have_none() -> None:
    base = rulebase(
        {"offer": EVERYBODY, "service": EVERYBODY | {"control_exempt": True}}, control=Control(SHARES)
    )
    assert control_group(base, base.campaigns["offer"], "861380000001") == "global"
    assert control_group(base, base.campaigns["service"], "861380000001") == ""
    assert reasons(decide(base, moment(base, candidates={"service": {}}), History(), {})) == {
        "service": "decided"
    }


def members(base: Rulebase, campaign: str) -> set[int]:
    found = base.campaigns[campaign]
    return {n for n in range(20_000) if control_group(base, found, f"86138{n:08}")}


def test_groups_have_their_share_and_are_drawn_independently() -> None:
    """Bounds are five standard deviations: these draws are fixed, and no salt was looked for."""
    shares: dict[str, Any] = {"control_share": 1_000}
    base = rulebase({"a": shares, "b": shares})
    a, b = members(base, "a"), members(base, "b")
    assert abs(len(a) - 2_000) < 5 * (20_000 * 0.1 * 0.9) ** 0.5
    assert abs(len(a & b) - 200) < 5 * (20_000 * 0.01 * 0.99) ** 0.5
    assert members(base, "a") == a
    everywhere = rulebase({"a": {}, "b": {}}, control=Control(1_000))
    assert members(everywhere, "a") == members(everywhere, "b") != a
    salted = rulebase({"a": {}, "b": {}}, control=Control(1_000, "other"))
    both = members(everywhere, "a") & members(salted, "a")
    assert abs(len(both) - 200) < 5 * (20_000 * 0.01 * 0.99) ** 0.5


def test_a_larger_share_keeps_the_members_of_the_smaller() -> None:
    small, large = (rulebase({"a": {"control_share": share}}) for share in (500, 1_000))
    assert members(small, "a") < members(large, "a")
