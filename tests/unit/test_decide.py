"""Every reason, once by itself and in the order of the semantics; arbitration, channels, reservation."""

from __future__ import annotations

from typing import Any

import pytest
from opportune_rulebase.policies import (
    CalendarPeriod,
    CoolDown,
    CoolDownScope,
    Dimension,
    Mode,
    OutcomeKind,
    QuietHours,
    Selector,
    Suppression,
)
from opportune_service.core.decide import decide, decode_verdict, encode_verdict
from opportune_service.core.verdict import History, Prompt, Reason
from support.moments import (
    ALL_DAYS,
    DAY_US,
    HOUR_US,
    MANUAL,
    MINUTE_US,
    by_campaign,
    cap,
    contact,
    moment,
    outcome,
    reasons,
    rulebase,
)
from support.rulebases import NOON_US, make_scope


def test_a_candidate_that_nothing_stops_is_decided_and_reserves() -> None:
    history = History()
    verdict = decide(rulebase(), moment(rulebase()), history, {})
    (decision,) = verdict.decisions
    assert decision.reason is Reason.DECIDED
    assert (decision.channel, decision.content) == ("sms", "offer by sms")
    assert decision.expires_at_us == NOON_US + 2 * HOUR_US
    assert [c.decision_id for c in history.contacts] == [decision.id]


@pytest.mark.parametrize(
    ("reason", "campaign", "changes", "profile", "age_us"),
    [
        ("stale", {}, {}, {}, 6 * MINUTE_US),
        ("not_live", {"valid_from_us": NOON_US + 1}, {}, {}, 0),
        ("not_live", {"valid_to_us": NOON_US}, {}, {}, 0),
        ("not_live", {"branches": frozenset({"north"})}, {}, {"branch": "south"}, 0),
        ("not_live", {"branches": frozenset({"north"})}, {}, {}, 0),
        ("no_context", {}, {}, {"known": False}, 0),
        ("not_eligible", {}, {"target": False}, {}, 0),
        ("not_eligible", {}, {"target": None}, {}, 0),
        ("not_eligible", {}, {"terminal_ok": {"sms": False}}, {}, 0),
        ("not_eligible", {}, {"terminal_ok": {"sms": None}}, {}, 0),
        ("not_eligible", {}, {}, {"status": "suspended"}, 0),
        ("not_eligible", {}, {}, {"products": ("product",)}, 0),
        ("not_eligible", {"product": "addon"}, {}, {"products": ()}, 0),
        ("not_eligible", {"product": "addon"}, {}, {"products": ("base", "rival")}, 0),
        ("suppressed", {}, {}, {"do_not_contact": True}, 0),
        ("suppressed", {}, {}, {"consents": {"category/category": False}}, 0),
        ("no_channel", {}, {}, {"consents": {"channel/sms": False}}, 0),
        ("no_channel", {}, {"content": {"sms": None}}, {}, 0),
        ("decided", {"allow_unknown": True}, {}, {"known": False}, 0),
        ("decided", {"product": "addon"}, {}, {"products": ("base",)}, 0),
        ("decided", {"branches": frozenset({"north"})}, {}, {"branch": "north"}, 0),
        ("decided", {}, {}, {"status": "active"}, 5 * MINUTE_US),
    ],
)
def test_reasons(
    reason: str, campaign: dict[str, Any], changes: dict[str, Any], profile: dict[str, Any], age_us: int
) -> None:
    base = rulebase({"offer": campaign})
    history = History()
    verdict = decide(
        base, moment(base, age_us=age_us, profile=profile, candidates={"offer": changes}), history, {}
    )
    assert reasons(verdict) == {"offer": reason}
    assert bool(history.contacts) == (reason == "decided")
    last = verdict.decisions[0].checks[-1]
    assert last.passed == (reason == "decided")
    assert last.passed or last.detail, "a refusal says why"


def test_opt_in_means_that_silence_is_no() -> None:
    base = rulebase(opt_in=frozenset({"channel/sms", "category/category"}))
    assert reasons(decide(base, moment(base), History(), {})) == {"offer": "suppressed"}
    said = {"consents": {"category/category": True}}
    assert reasons(decide(base, moment(base, profile=said), History(), {})) == {"offer": "no_channel"}
    said = {"consents": {"category/category": True, "channel/sms": True}}
    assert reasons(decide(base, moment(base, profile=said), History(), {})) == {"offer": "decided"}


def test_a_suppression_of_one_channel_leaves_the_others() -> None:
    plain = rulebase({"offer": {"channels": ("sms", "mms")}})
    when = make_scope(plain).compile("true", plain.campaigns["offer"].position)
    base = rulebase(
        {"offer": {"channels": ("sms", "mms")}},
        suppressions=(
            Suppression("no-sms", "", when, Selector(channels=frozenset({"sms"}))),
            Suppression("nothing", "", when, Selector()),
        ),
    )
    one = decide(base, moment(base, candidates={"offer": {"suppressed_by": ("no-sms",)}}), History(), {})
    assert (one.decisions[0].reason, one.decisions[0].channel) == (Reason.DECIDED, "mms")
    all_ = decide(base, moment(base, candidates={"offer": {"suppressed_by": ("nothing",)}}), History(), {})
    assert reasons(all_) == {"offer": "suppressed"}


@pytest.mark.parametrize(
    ("scope", "stopped"),
    [
        (CoolDownScope.CAMPAIGN, {"refused"}),
        (CoolDownScope.PRODUCT, {"refused", "sibling"}),
        (CoolDownScope.CATEGORY, {"refused", "sibling", "cousin"}),
        (CoolDownScope.ANY, {"refused", "sibling", "cousin", "stranger"}),
    ],
)
def test_after_a_refusal_stay_away(scope: CoolDownScope, stopped: set[str]) -> None:
    campaigns: dict[str, dict[str, Any]] = {
        "refused": {},
        "sibling": {},
        "cousin": {"product": "other"},
        "stranger": {"product": "addon"},
    }
    cool_down = CoolDown("rest", "", frozenset({OutcomeKind.REFUSED}), 90 * DAY_US, scope)
    base = rulebase(campaigns, cool_downs=(cool_down,), max_automatic=9)
    for since_us, cooling in ((90 * DAY_US - 1, stopped), (90 * DAY_US, set())):
        history = History(
            outcomes=[outcome(base.campaigns["refused"], OutcomeKind.REFUSED, NOON_US - since_us)]
        )
        verdict = decide(base, moment(base, profile={"products": ("base",)}), history, {})
        assert {name for name, reason in reasons(verdict).items() if reason == "cooling_off"} == cooling
    accepted = History(outcomes=[outcome(base.campaigns["refused"], OutcomeKind.ACCEPTED, NOON_US - 1)])
    assert "cooling_off" not in reasons(decide(base, moment(base), accepted, {})).values()


def test_arbitration_is_by_priority_then_value_times_propensity_then_name() -> None:
    base = rulebase(
        {
            "a-cheap": {"priority": 5, "value": 1.0},
            "b-dear": {"priority": 5, "value": 9.0},
            "c-likely": {"priority": 5, "value": 9.0},
            "d-first": {"priority": 6, "value": 0.1},
            "e-default": {"priority": 5, "value": 9.0},
        },
        max_automatic=9,
        default_propensity=0.2,
    )
    changes: dict[str, dict[str, Any]] = {name: {} for name in base.campaigns}
    changes |= {"b-dear": {"propensity": 0.2}, "c-likely": {"propensity": 0.3}}
    verdict = decide(base, moment(base, candidates=changes), History(), {})
    standing = {
        d.campaign: next(c.detail for c in d.checks if c.policy == "arbitration") for d in verdict.decisions
    }
    order = sorted(standing, key=lambda name: int(standing[name].split()[1]))
    assert order == ["d-first", "c-likely", "b-dear", "e-default", "a-cheap"]


def test_one_automatic_wins_and_the_rest_are_outranked() -> None:
    base = rulebase({"a": {}, "b": {}, "c": {"priority": 1}})
    assert reasons(decide(base, moment(base), History(), {})) == {
        "a": "outranked",
        "b": "outranked",
        "c": "decided",
    }


def test_a_winner_without_a_channel_keeps_its_slot() -> None:
    base = rulebase({"a": {"priority": 1}, "b": {}})
    changes: dict[str, dict[str, Any]] = {"a": {"content": {"sms": None}}, "b": {}}
    verdict = decide(base, moment(base, candidates=changes), History(), {})
    assert reasons(verdict) == {"a": "no_channel", "b": "outranked"}


def test_quiet_hours_move_on_to_the_next_channel() -> None:
    quiet = QuietHours("night", "", 0, 24 * 60, ALL_DAYS, Selector(channels=frozenset({"sms"})))
    base = rulebase({"offer": {"channels": ("sms", "mms")}}, quiet_hours=(quiet,))
    assert decide(base, moment(base), History(), {}).decisions[0].channel == "mms"
    base = rulebase(quiet_hours=(quiet,))
    assert reasons(decide(base, moment(base), History(), {})) == {"offer": "quiet_hours"}


def test_a_message_does_not_wait_into_quiet_hours_nor_past_the_campaign() -> None:
    quiet = QuietHours("evening", "", 13 * 60, 14 * 60, ALL_DAYS, Selector())  # it is noon
    base = rulebase({"offer": {}, "talk": MANUAL}, quiet_hours=(quiet,))
    decisions = by_campaign(decide(base, moment(base), History(), {}))
    assert decisions["offer"].expires_at_us == NOON_US + HOUR_US
    assert decisions["talk"].expires_at_us == NOON_US + 2 * HOUR_US
    ending = rulebase({"offer": {"valid_to_us": NOON_US + MINUTE_US}})
    assert decide(ending, moment(ending), History(), {}).decisions[0].expires_at_us == NOON_US + MINUTE_US


def test_a_cap_includes_the_contact_at_hand() -> None:
    base = rulebase(caps=(cap(2),))
    history = History()
    given = [
        reasons(decide(base, moment(base, event_id=f"e{n}", now_us=NOON_US + n), history, {}))["offer"]
        for n in range(4)
    ]
    assert given == ["decided", "decided", "capped", "capped"]
    week_later = moment(base, event_id="later", now_us=NOON_US + 7 * DAY_US)
    assert reasons(decide(base, week_later, history, {})) == {"offer": "decided"}
    assert reasons(decide(rulebase(caps=(cap(0),)), moment(base), History(), {})) == {"offer": "capped"}


def test_caps_by_dimension_selector_and_exemption() -> None:
    campaigns: dict[str, dict[str, Any]] = {
        "a": {"channels": ("sms", "mms")},
        "service": {"product": "other", "exempt": frozenset({"few"})},
    }
    per_channel = rulebase(campaigns, caps=(cap(1, per=frozenset({Dimension.CHANNEL})),))
    a = per_channel.campaigns["a"]
    used = History(contacts=[contact(a, NOON_US - 1, "sms")])
    only_a: dict[str, dict[str, Any]] = {"a": {}}
    assert (
        decide(per_channel, moment(per_channel, candidates=only_a), used, {}).decisions[0].channel == "mms"
    )
    exempt = decide(
        per_channel,
        moment(per_channel, candidates={"service": {}}),
        History(contacts=[contact(a, NOON_US - 1)]),
        {},
    )
    assert reasons(exempt) == {"service": "decided"}
    elsewhere = rulebase(campaigns, caps=(cap(1, applies_to=Selector(categories=frozenset({"extras"}))),))
    free = decide(
        elsewhere, moment(elsewhere, candidates=only_a), History(contacts=[contact(a, NOON_US - 1)]), {}
    )
    assert reasons(free) == {"a": "decided"}


def test_calendar_caps_end_with_the_local_day() -> None:
    base = rulebase(caps=(cap(1, rolling_us=None, calendar=CalendarPeriod.DAY),))
    history = History(contacts=[contact(base.campaigns["offer"], NOON_US)])
    last = NOON_US + 12 * HOUR_US - 1  # 23:59:59.999999 in Shanghai
    assert reasons(decide(base, moment(base, now_us=last), history, {})) == {"offer": "capped"}
    assert reasons(decide(base, moment(base, now_us=last + 1), history, {})) == {"offer": "decided"}


def test_automatic_and_manual_contacts_share_one_budget() -> None:
    base = rulebase({"auto": {}, "talk": MANUAL}, caps=(cap(1),))
    verdict = decide(base, moment(base, touch_point="counter"), History(), {})
    assert sorted(reasons(verdict).values()) == ["capped", "decided"]


def test_a_prompt_reserves_when_it_is_shown_and_not_before() -> None:
    base = rulebase({"talk": MANUAL}, caps=(cap(1),))
    history = History()
    waiting = decide(base, moment(base), history, {}).decisions[0]
    assert (waiting.reason, waiting.shown, history.contacts) == (Reason.DECIDED, False, [])
    assert [p.decision_id for p in history.prompts] == [waiting.id]
    again = decide(base, moment(base, event_id="e2"), history, {})
    assert reasons(again) == {"talk": "inconsistent"}

    shown = decide(
        base,
        moment(
            base,
            event_id="visit",
            age_us=0,
            touch_point="counter",
            candidates={"talk": {"prompt_of": waiting.id}},
        ),
        history,
        {},
    ).decisions[0]
    assert (shown.reason, shown.shown) == (Reason.DECIDED, True)
    assert (len(history.contacts), history.prompts) == (1, [])


def test_at_a_touch_point_only_its_own_channel_makes_sense() -> None:
    base = rulebase({"talk": {"mode": Mode.MANUAL, "channels": ("hotline", "counter")}})
    assert (
        decide(base, moment(base, touch_point="counter"), History(), {}).decisions[0].channel == "counter"
    )
    assert decide(base, moment(base), History(), {}).decisions[0].channel == "hotline"


def test_prompts_are_limited_apart_from_automatic_ones() -> None:
    campaigns: dict[str, dict[str, Any]] = {f"talk-{n}": MANUAL for n in range(5)} | {"auto": {}}
    base = rulebase(campaigns, max_prompts=3)
    counts = list(reasons(decide(base, moment(base, touch_point="counter"), History(), {})).values())
    assert (counts.count("decided"), counts.count("outranked")) == (4, 2)


def test_the_same_input_gives_the_same_bytes() -> None:
    base = rulebase({"a": {}, "b": MANUAL}, caps=(cap(1),))
    prompts = [Prompt("old", "b", "counter", NOON_US + 1)]
    one = encode_verdict(decide(base, moment(base), History(prompts=list(prompts)), {}))
    two = encode_verdict(decide(base, moment(base), History(prompts=list(prompts)), {}))
    assert one == two
    assert by_campaign(decode_verdict(one))["b"].reason is Reason.INCONSISTENT
