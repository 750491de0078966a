"""Who gets a place: slots, exclusive groups, one story on all channels."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from opportune_rulebase.policies import CoolDown, CoolDownScope, Fate, Mode, OutcomeKind
from opportune_service.core.decide import decide, encode_verdict
from opportune_service.core.verdict import Contact, History, Prompt
from support.moments import (
    ALL_DAYS,
    HOUR_US,
    MANUAL,
    by_campaign,
    cap,
    contact,
    moment,
    outcome,
    quiet_hours,
    reasons,
    rulebase,
)
from support.rulebases import NOON_US


def ranks(count: int, **more: Any) -> dict[str, dict[str, Any]]:
    """So many campaigns, a, b, c ..., the best first."""
    return {"abcdef"[n]: {"priority": count - n, "product": "product"} | more for n in range(count)}


def test_losers_say_to_whom_they_lost_and_where_they_stood() -> None:
    base = rulebase(ranks(4), max_automatic=2)
    decisions = by_campaign(decide(base, moment(base), History(), {}))
    assert [(d.reason.value, d.rank, d.lost_to) for d in decisions.values()] == [
        ("decided", 1, ""),
        ("decided", 2, ""),
        ("outranked", 3, "b"),
        ("outranked", 4, "b"),
    ]
    assert decisions["a"].propensity == base.policies.default_propensity


def test_the_trace_does_not_tell_where_commits_were_cut() -> None:
    """Two open offers stand in the way of a third; the ledger gives contacts in another order than that in
    which they were decided, and answers too."""
    rivals = {"a": {"product": "product", "open_for_us": HOUR_US}, "b": {"product": "product"}}
    rivals["b"] |= {"open_for_us": HOUR_US}
    base = rulebase(rivals | {"z": {"product": "product"}}, max_automatic=2)
    made = [contact(base.campaigns[name], NOON_US) for name in "ab"]
    made = [msgspec.structs.replace(each, open_until_us=NOON_US + HOUR_US) for each in made]
    later = moment(base, now_us=NOON_US + 1, candidates={"z": {}})
    verdicts = {encode_verdict(decide(base, later, History(each), {})) for each in (made, made[::-1])}
    assert len(verdicts) == 1
    cooled = rulebase(
        rivals | {"z": {"product": "product"}},
        cool_downs=(
            CoolDown("no", "no", frozenset({OutcomeKind.REFUSED}), HOUR_US, CoolDownScope.PRODUCT),
        ),
    )
    said = [outcome(cooled.campaigns[name], OutcomeKind.REFUSED, NOON_US) for name in "ab"]
    verdicts = {
        encode_verdict(decide(cooled, later, History(outcomes=each), {})) for each in (said, said[::-1])
    }
    assert len(verdicts) == 1


def test_without_any_slot_nobody_wins() -> None:
    base = rulebase(max_automatic=0)
    (decision,) = decide(base, moment(base), History(), {}).decisions
    assert (decision.reason.value, decision.lost_to) == ("outranked", "")


def test_of_an_exclusive_group_one_stays() -> None:
    base = rulebase(ranks(2, group="summer") | {"x": {}}, max_automatic=3)
    decisions = by_campaign(decide(base, moment(base), History(), {}))
    assert {name: d.reason.value for name, d in decisions.items()} == {
        "a": "decided",
        "b": "outranked",
        "x": "decided",
    }
    assert (decisions["b"].lost_to, decisions["b"].group) == ("a", "summer")


def test_the_best_stands_for_its_group_even_without_a_slot() -> None:
    """`b` has no automatic slot left; the prompt of its group does not take its place."""
    campaigns = ranks(2) | {"talk": MANUAL | {"group": "summer"}}
    campaigns["b"] |= {"group": "summer"}
    decisions = by_campaign(decide(base := rulebase(campaigns), moment(base), History(), {}))
    assert (decisions["b"].lost_to, decisions["b"].group) == ("a", "")
    assert (decisions["talk"].lost_to, decisions["talk"].group) == ("b", "summer")


@pytest.mark.parametrize("fate", [Fate.DROP, Fate.NEXT])
def test_the_next_of_a_group_moves_up_only_after_the_fate_next(fate: Fate) -> None:
    base = rulebase(ranks(3, group="summer"), no_channel=fate)
    candidates: dict[str, dict[str, Any]] = {"a": {"content": {"sms": None}}, "b": {}, "c": {}}
    given = reasons(decide(base, moment(base, candidates=candidates), History(), {}))
    moved_up = fate is Fate.NEXT
    assert given == {"a": "no_channel", "b": "decided" if moved_up else "outranked", "c": "outranked"}


def test_prompts_and_messages_have_slots_of_their_own() -> None:
    base = rulebase(ranks(2) | dict.fromkeys(("x", "y"), MANUAL), max_prompts=1)
    assert reasons(decide(base, moment(base), History(), {})) == {
        "a": "decided",
        "b": "outranked",
        "x": "decided",
        "y": "outranked",
    }


# One story.


def told(product: str, campaign: str = "earlier", **changes: Any) -> History:
    """A history with an offer of the product that is open for another hour."""
    given: dict[str, Any] = {
        "decision_id": "d0",
        "campaign": campaign,
        "product": product,
        "category": "category",
        "channel": "mms",
        "mode": Mode.AUTOMATIC,
        "at_us": NOON_US - HOUR_US,
        "open_until_us": NOON_US + HOUR_US,
    }
    return History(contacts=[Contact(**(given | changes))])


STORIES: dict[str, dict[str, Any]] = {"earlier": {}, "same": {}, "other": {"product": "other"}}


def said_of(history: History, campaigns: dict[str, dict[str, Any]] | None = None) -> dict[str, str]:
    base = rulebase(campaigns or STORIES, max_automatic=9)
    return reasons(decide(base, moment(base, profile={"products": ("base",)}), history, {}))


@pytest.mark.parametrize("changes", [{}, {"control": True}, {"origin": "crm", "campaign": "theirs"}])
def test_while_an_offer_is_open_no_other_campaign_speaks_of_its_product(changes: dict[str, Any]) -> None:
    ours = "decided" if "origin" not in changes else "inconsistent"
    assert said_of(told("product", **changes)) == {
        "earlier": ours,
        "same": "inconsistent",
        "other": "decided",
    }


@pytest.mark.parametrize(("open_product", "campaign_product"), [("addon", "rival"), ("rival", "addon")])
def test_nor_does_anybody_speak_of_what_excludes_it(open_product: str, campaign_product: str) -> None:
    campaigns = {"this": {"product": campaign_product}, "other": {"product": "other"}}
    assert said_of(told(open_product), campaigns) == {"this": "inconsistent", "other": "decided"}


def test_a_product_of_another_system_that_nobody_knows_stops_nothing() -> None:
    assert said_of(told("loan", origin="crm"))["same"] == "decided"


def test_an_offer_is_open_for_its_time() -> None:
    assert said_of(told("product", open_until_us=NOON_US))["same"] == "decided"
    assert said_of(told("product", open_until_us=NOON_US + 1))["same"] == "inconsistent"


@pytest.mark.parametrize("kind", OutcomeKind)
def test_an_answer_closes_an_offer(kind: OutcomeKind) -> None:
    history = told("product")
    base = rulebase(STORIES)
    answered = outcome(base.campaigns["earlier"], kind, NOON_US - 1)
    history.outcomes.append(msgspec.structs.replace(answered, decision_id="d0"))
    closing = kind.value in {"accepted", "refused", "ordered", "complained", "not_offered"}
    assert said_of(history)["same"] == ("decided" if closing else "inconsistent")
    of_another = told("product")
    of_another.outcomes.append(msgspec.structs.replace(answered, decision_id="d1"))
    assert said_of(of_another)["same"] == "inconsistent"


def test_one_story_holds_among_the_winners_of_one_moment_too() -> None:
    """`b` takes no slot, and does not stand for its group; `d` would have lost anyway."""
    campaigns = ranks(4, open_for_us=HOUR_US)
    campaigns["b"] |= {"group": "summer"}
    campaigns["c"] |= {"product": "other", "group": "summer"}
    base = rulebase(campaigns, max_automatic=2)
    given = decide(base, moment(base), History(), {})
    assert reasons(given) == {"a": "decided", "b": "inconsistent", "c": "decided", "d": "outranked"}


def test_what_an_offer_leaves_open_is_what_its_campaign_says() -> None:
    base = rulebase({"offer": {"open_for_us": 3 * HOUR_US}, "talk": MANUAL | {"open_for_us": HOUR_US}})
    history = History()
    decisions = by_campaign(decide(base, moment(base), history, {}))
    assert decisions["offer"].open_until_us == NOON_US + 3 * HOUR_US
    assert [each.open_until_us for each in history.contacts] == [NOON_US + 3 * HOUR_US]


def test_a_prompt_that_is_over_makes_room_for_another() -> None:
    base = rulebase({"talk": MANUAL})
    for expires_us, reason in ((NOON_US, "decided"), (NOON_US + 1, "inconsistent")):
        history = History(prompts=[Prompt("old", "talk", "counter", expires_us)])
        assert reasons(decide(base, moment(base), history, {})) == {"talk": reason}


def test_a_prompt_is_shown_where_the_customer_is_or_not_at_all() -> None:
    """The rulebase was changed meanwhile: the campaign is for the hotline alone."""
    base = rulebase({"talk": MANUAL | {"channels": ("hotline",)}})
    prompt = Prompt("old", "talk", "counter", NOON_US + 1)
    visit = moment(base, touch_point="counter", candidates={"talk": {"prompt_of": "old"}})
    history = History(prompts=[prompt])
    assert reasons(decide(base, visit, history, {})) == {"talk": "no_channel"}
    assert history.prompts == [prompt]


def test_paused_campaigns_are_not_live() -> None:
    base = rulebase(ranks(2))
    verdict = decide(base, moment(base), History(), {}, frozenset({"a"}))
    assert reasons(verdict) == {"a": "not_live", "b": "decided"}
    assert verdict.decisions[0].checks[-1].detail == "the campaign is paused"


def test_quiet_hours_bind_prompts_too_unless_they_say_otherwise() -> None:
    window = quiet_hours("11:00", "13:00", weekdays=ALL_DAYS)
    base = rulebase({"talk": MANUAL}, quiet_hours=(window,))
    assert reasons(decide(base, moment(base), History(), {})) == {"talk": "quiet_hours"}


def test_headroom_is_for_the_important() -> None:
    base = rulebase(
        {"plain": {"priority": 4}, "grave": {"priority": 5}},
        caps=(cap(2, headroom=1, headroom_priority=5),),
    )
    before = [contact(base.campaigns["plain"], NOON_US - 1)]
    for name, reason in (("plain", "capped"), ("grave", "decided")):
        verdict = decide(base, moment(base, candidates={name: {}}), History(contacts=list(before)), {})
        assert reasons(verdict) == {name: reason}
        check = next(each for each in verdict.decisions[0].checks if each.policy == "cap")
        assert (check.count, check.limit) == (2, 1 if name == "plain" else 2)
