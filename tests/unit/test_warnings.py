"""Warnings that an analyst thanks you for: what can never be, what always loses, what is not known."""

from __future__ import annotations

from datetime import date

import pytest
from opportune_rulebase import Rulebase, load
from opportune_rulebase.model import Calendar
from opportune_rulebase.warnings import calendar_warnings, warnings_of

VOCABULARY = """\
events:
  charge: {attributes: {amount: {type: int, min: 0}, kind: {type: string, values: [voice, data]}}}
  power_on: {}
subscriber:
  {age: int, brand: {type: string, values: [gold, blue]}, score: double, vip: bool, flags: list<string>,
  since: timestamp}
channels: {sms: {mode: automatic}}
products: {p: {category: c}, q: {category: c}}
"""
BEHAVIOURS = """\
metrics: {charges_7d: {count: charge, days: 7}, spent_1h: {sum: event.amount, of: charge, last: 1h}}
behaviours: {young: {when: sub.age < 30}, old: {when: sub.age >= 60}}
scenes:
  evening: {when: now.getHours(zone) >= 19}
"""


def campaign(name: str, *, on: str = "charge", product: str = "p", **keys: object) -> str:
    lines = {
        "campaign": name,
        "product": product,
        "on": f"[{on}]",
        "mode": "automatic",
        "channels": "[sms]",
    }
    lines |= {"content": "{sms: hello}"} | {key: str(value) for key, value in keys.items()}
    return "---\n" + "".join(f"{key}: {value}\n" for key, value in lines.items())


def loaded(*campaigns: str, policies: str = "", vocabulary: str = VOCABULARY, more: str = "") -> Rulebase:
    files = {
        "rulebase.yaml": "rulebase: warned\ntime_zone: Asia/Shanghai\n",
        "vocabulary.yaml": vocabulary,
        "behaviours.yaml": BEHAVIOURS + more,
        "campaigns/all.yaml": "".join(campaigns),
    }
    if policies:
        files["policies.yaml"] = policies
    return load({path: text.encode() for path, text in files.items()})


def said(rulebase: Rulebase) -> list[tuple[str, str]]:
    return [(problem.code, problem.message) for problem in warnings_of(rulebase)]


@pytest.mark.parametrize(
    "when",
    [
        "sub.age < 18 && sub.age > 65",
        "sub.age > 17 && sub.age < 18",
        "behaviour.young && behaviour.old",
        "behaviour.young && !behaviour.young",
        'sub.brand == "gold" && sub.brand == "blue"',
        'sub.brand == "silver"',
        'event.kind in ["voice"] && event.kind != "voice"',
        "event.amount < 0",
        "metric.charges_7d < 0",
        "scene.evening && now.getHours(zone) < 12",
        "now.getHours(zone) == 24",
        "(sub.age < 10 || sub.age > 90) && sub.age == 50",
        "!(sub.age < 10 || sub.vip) && sub.vip",
        'event.type == "power_on"',
        "size(sub.flags) < 0",
        "18 > sub.age && sub.age >= 18",
    ],
)
def test_a_contradiction_is_seen(when: str) -> None:
    [(code, message)] = said(loaded(campaign("a", when=f"'{when}'")))
    assert (code, message) == ("never-true", "'when' of campaign 'a' is never true")


@pytest.mark.parametrize(
    "when",
    [
        "sub.age < 18 || sub.age > 65",
        "sub.age >= 18 && sub.age <= 18",
        "behaviour.young || behaviour.old",
        'sub.brand in ["gold", "blue"] && sub.brand != "gold"',
        "event.amount <= 0",
        "sub.score > 0.1 && sub.score < 0.1000001",
        "!(sub.score < 0.5) && sub.score < 0.5 || sub.vip",
        "sub.age + 1 < 5 && sub.age + 2 > 5",
        "(now - sub.since).getHours() >= 48",  # of a duration, all of it
        "uint(sub.age) > 9007199254740993u && uint(sub.age) < 9007199254740995u",
        "dyn(sub.age) == 1 && dyn(sub.age) != true",
        "sub.flags.exists(f, f == 'a') && !sub.flags.exists(f, f == 'b')",
        "now.getHours(zone) == 23 && now.getMinutes(zone) == 59",
        'event.type == "charge"',
    ],
)
def test_what_may_be_true_is_not_complained_of(when: str) -> None:
    quoted = when.replace("'", "''")
    assert said(loaded(campaign("a", when=f"'{quoted}'"))) == []


def test_when_and_target_that_contradict_each_other() -> None:
    rulebase = loaded(campaign("a", when="behaviour.young", target="sub.age >= 40"))
    assert said(rulebase) == [("never-true", "'when' and 'target' of campaign 'a' are never true together")]


def test_a_dead_definition_and_what_reads_it() -> None:
    more = "  never: {when: scene.evening && now.getHours(zone) < 6}\n"
    assert [message for _, message in said(loaded(campaign("a", when="scene.never"), more=more))] == [
        "'scene.never' is never true",
        "'when' of campaign 'a' is never true",
    ]


def test_a_campaign_that_another_always_outranks() -> None:
    lower = campaign("lower", when="behaviour.young && sub.vip", priority=1)
    higher = campaign("higher", on="charge, power_on", when="sub.vip", priority=2)
    [(code, message)] = said(loaded(lower, higher))
    assert (code, message) == ("outranked", "campaign 'lower' always loses to 'higher'")


@pytest.mark.parametrize(
    "higher",
    [
        campaign("higher", priority=2, product="q"),  # a customer who holds q still gets the lower one
        campaign("higher", priority=2, when="sub.age > 5"),
        campaign("higher", priority=2, valid="{to: 2026-12-31}"),
        campaign("higher", priority=2, on="power_on"),
        campaign("higher", priority=2, branches="[north]"),
        campaign("higher", priority=1),
    ],
)
def test_a_campaign_that_may_win_is_not_complained_of(higher: str) -> None:
    assert said(loaded(campaign("lower", priority=1, when="sub.vip"), higher)) == []


@pytest.mark.parametrize(
    "policies",
    [
        "cool_downs: {no: {after: refused, for: 90d, scope: campaign}}",  # who refused the higher one
        "suppress: {not_young: {when: behaviour.young, applies_to: {campaigns: [higher]}}}",
    ],
)
def test_a_campaign_that_wins_when_policies_stop_the_other(policies: str) -> None:
    two = campaign("lower", priority=1), campaign("higher", priority=2)
    assert [code for code, _ in said(loaded(*two))] == ["outranked"]
    assert said(loaded(*two, policies=policies)) == []


def test_prompts_give_way_while_they_are_open() -> None:
    manual = VOCABULARY.replace("mode: automatic", "mode: manual")
    two = [campaign(name, priority=n).replace("automatic", "manual") for n, name in enumerate("ab")]
    policies = "arbitration: {max_prompts: 1}"
    assert said(loaded(*two, policies=policies, vocabulary=manual)) == []


def test_a_suppression_by_a_metric_suppresses_everybody_at_first() -> None:
    policies = "suppress: {busy: {when: metric.charges_7d > 5}}"
    [(code, message)] = said(loaded(campaign("a"), policies=policies))
    assert code == "suppresses-at-first"
    assert "metric.charges_7d" in message


def test_so_does_one_by_a_fact() -> None:
    more = "facts: {shopped: {on: charge, for: 7d}}\n"
    [(code, message)] = said(
        loaded(campaign("a"), policies="suppress: {s: {when: fact.shopped}}", more=more)
    )
    assert code == "suppresses-at-first"
    assert "fact.shopped" in message


def test_what_no_source_sends_or_fills() -> None:
    sources = "sources: {billing: {events: [charge]}, bss: {subscriber: [age]}}\n"
    rulebase = loaded(
        campaign("a", on="power_on", when="sub.vip && sub.age > 3"), vocabulary=VOCABULARY + sources
    )
    assert [message for code, message in said(rulebase) if code == "no-source"] == [
        "campaign 'a' is triggered by 'power_on', which no declared source sends",
        "campaign 'a' reads sub.vip, which no declared source fills",
    ]
    assert said(loaded(campaign("a", on="power_on", when="sub.vip"))) == []


def test_a_pattern_that_never_completes_triggers_nothing() -> None:
    more = "patterns: {odd: {count: charge, where: event.amount < 0, at_least: 3, within: 1h}}\n"
    [(code, message)] = said(loaded(campaign("a", on="odd"), more=more))
    assert (code, message) == ("never-true", "campaign 'a' can never be triggered: odd never completes")


def test_a_calendar_that_ends_soon() -> None:
    rulebase = loaded(campaign("a"))
    object.__setattr__(rulebase, "calendar", Calendar(country="CN", last=date(2026, 12, 31)))
    [problem] = calendar_warnings(rulebase, date(2026, 11, 22))
    assert problem.code == "calendar-ends"
    assert "2026-12-31" in problem.message
    assert calendar_warnings(rulebase, date(2026, 6, 1)) == []
    assert calendar_warnings(loaded(campaign("a")), date(2026, 11, 22)) == []


def test_a_campaign_that_is_due_in_quiet_hours_only() -> None:
    quiet = (
        "quiet_hours: {night: {from: '21:00', to: '08:00'}, "
        "sunday: {from: '08:00', to: '10:00', days: sun}}\n"
    )
    early = campaign("early", on='{schedule: daily, at: "07:59"}')
    sunday = campaign("sunday", product="q", on='{schedule: daily, at: "08:00"}')
    both = campaign("both", on='{schedule: daily, at: "23:00"}, charge')
    found = said(loaded(early, sunday, both, policies=quiet))
    assert [message for code, message in found if code == "always-quiet"] == [
        "campaign 'early' is due at 07:59 only, when all its channels are quiet"
    ]
    assert said(loaded(early)) == []


def test_a_fall_completes_at_midnight_which_is_quiet() -> None:
    more = "patterns: {drop: {change: count, of: charge, days: 7, falls_to: 0.5, at_least: 3}}\n"
    quiet = "quiet_hours: {night: {from: '21:00', to: '08:00'}}\n"
    [(code, message)] = said(loaded(campaign("a", on="drop"), policies=quiet, more=more))
    assert code == "always-quiet"
    assert "00:00" in message


def test_content_that_shows_a_figure_which_is_unknown_at_first() -> None:
    shown = campaign("a", content='{sms: "{{metric.charges_7d}} charges"}')
    assert [code for code, _ in said(loaded(shown))] == ["unknown-at-first"]


def test_who_has_two_weeks_to_compare_has_one_to_show() -> None:
    more = "patterns: {surge: {change: count, of: charge, days: 7, rises_to: 2, at_least: 3}}\n"
    shown = campaign("a", on="surge", content='{sms: "{{metric.charges_7d}} charges"}')
    assert said(loaded(shown, more=more)) == []
