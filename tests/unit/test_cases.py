"""Test cases of rulebases: what they can say, how time passes in them, and what they cover."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from textwrap import dedent, indent

import pytest
from opportune_rulebase import Rulebase, load
from opportune_rulebase.durable import DurableEngine
from opportune_rulebase.errors import RulebaseError
from opportune_rulebase.network import NetworkEngine
from opportune_service.adapters.files.rulebase_dir import read_rulebase
from opportune_service.app.case_run import run_case
from opportune_service.app.coverage import Coverage, Reached, Watcher, coverage
from opportune_service.app.read_cases import read_cases
from opportune_service.app.try_cases import CaseResult, try_case

ROOT = Path(__file__).parents[2]
FILES = {
    "rulebase.yaml": "rulebase: cases\ntime_zone: Asia/Shanghai\n",
    "vocabulary.yaml": """\
        events:
          call: {attributes: {callee: subscriber, seconds: {type: int, min: 0}}}
          charge: {attributes: {amount: {type: int, min: 0}, kind: {type: string, values: [voice, data]}}}
          recharge: {attributes: {amount: {type: int, min: 0}}}
          low: {}
          ping: {}
          seen: {}
        places: {table: places.csv}
        subscriber: {brand: string, contract_end: date}
        sources: {billing: {events: [charge], max_lateness: 24h}, online: {events: [charge]}}
        channels: {sms: {mode: automatic}}
        products:
          thing: {label: Thing, category: things}
        """,
    "behaviours.yaml": """\
        metrics:
          counted: {count: charge, last: 24h}
          summed: {sum: event.amount, of: charge, days: 3}
          least: {min: event.amount, of: charge, days: 3}
          most: {max: event.amount, of: charge, last: 24h}
          newest: {latest: event.kind, of: charge, days: 3}
          partners: {distinct: event.callee, of: call, last: 24h}
        patterns:
          calls_in_a_row: {count: call, at_least: 2, within: 10m}
          low_then_paid: {sequence: [low, recharge], within: 1h}
          silent: {after: low, absent: recharge, for: 24h}
          long_at_airport: {dwell: airport, for: 30m}
          fades: {change: count, of: seen, days: 1, falls_to: 0.5, at_least: 4}
        facts:
          paid: {on: recharge, when: event.amount > 10, for: 2d}
        behaviours:
          mined: {imported: {valid_for: 30d}}
          spends: {when: metric.summed >= 100}
        """,
    "campaigns/all.yaml": "\n---\n".join(
        f"campaign: {name}\nproduct: thing\n{rest}\n"
        "mode: automatic\nchannels: [sms]\ncontent: {sms: text}"
        for name, rest in {
            "on-counted": "on: ping\nwhen: metric.counted == 3",
            "on-summed": "on: ping\nwhen: behaviour.spends",
            "on-least": "on: ping\nwhen: metric.least == 4",
            "on-most": "on: ping\nwhen: metric.most == 7",
            "on-newest": 'on: ping\nwhen: metric.newest == "data"',
            "on-partners": "on: call\nwhen: metric.partners == 3",
            "on-fact": "on: ping\nwhen: fact.paid",
            "on-mined": "on: ping\nwhen: behaviour.mined",
            "on-peer": 'on: call\nwhen: peer.brand == "gold"',
            "on-row": "on: calls_in_a_row",
            "on-sequence": "on: low_then_paid\nfresh_for: 1h",
            "on-silence": "on: silent",
            "on-dwell": "on: long_at_airport",
            "on-fall": "on: fades",
            "on-date": 'on: {date: sub.contract_end, before: 30d, at: "10:00"}',
            "on-schedule": 'on: {schedule: weekly, days: [mon], at: "09:00"}\nwhen: sub.brand == "gold"',
            "on-charge": 'on: charge\nwhen: sub.brand == "billed"',
        }.items()
    ),
    "places.csv": "cell,place,categories\nA1,hall,airport\nA2,gate,airport\nC1,centre,city\n",
    # One product, many contacts: cases here are about what is decided, not about how often.
    "policies.yaml": "arbitration: {max_automatic: 20}\n",
}
RULEBASE = load({name: dedent(text).encode() for name, text in FILES.items()})
# 2026-11-20 is a Friday.
HEAD = "now: 2026-11-20T12:00:00+08:00\ncases:\n"


def tried(*cases: str) -> list[CaseResult]:
    """Results in the network engine; what came of the cases is the same in the other."""
    text = HEAD + "".join(indent(f"- name: a case\n{indent(dedent(case), '  ')}\n", "  ") for case in cases)
    return in_both_engines(RULEBASE, text)


def in_both_engines(rulebase: Rulebase, text: str) -> list[CaseResult]:
    found = []
    for make in (NetworkEngine, DurableEngine):
        engine = make(rulebase)
        cases = read_cases(rulebase, {"tests/a_test.yaml": text.encode()})
        found.append([try_case(rulebase, engine, case) for case in cases])
        engine.close()
    network, durable = found
    assert [result.decisions for result in network] == [result.decisions for result in durable]
    assert [result.seen for result in network] == [result.seen for result in durable]
    return network


def decided(case: str) -> Sequence[str]:
    """Campaigns that are decided, with nothing else in the case."""
    (result,) = tried(f"{dedent(case)}\nexpect: []\n")
    return [decision.campaign for decision in result.decisions]


def refused(case: str) -> str:
    with pytest.raises(RulebaseError) as caught:
        tried(f"{dedent(case)}\nexpect: []\n")
    (problem,) = caught.value.problems
    assert problem.position.line > 0
    return f"{problem.message}; {problem.hint}"


@pytest.mark.parametrize(
    ("given", "campaign"),
    [
        ("metric.counted: 3", "on-counted"),
        ("metric.summed: 100", "on-summed"),
        ("metric.least: 4", "on-least"),
        ("metric.most: 7", "on-most"),
        ("metric.newest: data", "on-newest"),
        ("fact.paid: true", "on-fact"),
    ],
)
def test_what_is_given_is_what_rules_read(given: str, campaign: str) -> None:
    assert decided(f"given: {{{given}}}\nevents: [{{type: ping}}]") == [campaign]


def test_nothing_given_is_nothing_folded() -> None:
    assert decided("given: {fact.paid: false, metric.summed: 0}\nevents: [{type: ping}]") == []


def test_distinct_values_given_are_none_that_an_event_has() -> None:
    call = 'events: [{type: call, callee: "8613900000001", at: %s}]'
    assert decided(f"given: {{metric.partners: 2}}\n{call % '10m'}") == ["on-partners"]
    assert decided(f"given: {{metric.partners: 3}}\n{call % '10m'}") == []


def test_the_latest_is_that_of_the_first_event_not_what_was_given() -> None:
    case = "given: {metric.newest: data}\nevents: [{type: charge, kind: voice}, {type: ping, at: 1m}]"
    assert decided(case) == []
    assert decided(case.replace("voice", "data")) == ["on-newest"]


def test_a_fact_is_set_by_an_event_and_forgotten_after_its_time() -> None:
    case = "events: [{type: recharge, amount: %s}, {type: ping, at: %s}]"
    assert decided(case % (11, "47h")) == ["on-fact"]
    assert decided(case % (10, "47h")) == []
    assert decided(case % (11, "49h")) == []


def test_an_imported_behaviour_is_valid_for_its_time() -> None:
    assert decided(
        "subscriber: {behaviour.mined: true}\nevents: [{type: ping}, {type: ping, at: 31d}]"
    ) == ["on-mined"]
    assert decided("subscriber: {behaviour.mined: false}\nevents: [{type: ping}]") == []


def test_peers() -> None:
    case = 'peers: {"8613900000001": {brand: gold}}\nevents: [{type: call, callee: "%s"}]'
    assert decided(case % "8613900000001") == ["on-peer"]
    assert decided(case % "8613900000002") == []


def test_patterns_complete_by_events_in_sequence() -> None:
    assert decided("events: [{type: call}, {type: call, at: 5m}]") == ["on-row"]
    assert decided("events: [{type: call}, {type: call, at: 15m}]") == []
    assert decided("events: [{type: low}, {type: recharge, amount: 1, at: 5m}]") == ["on-sequence"]


def test_time_passes_until_the_end_of_the_case() -> None:
    assert decided("events: [{type: low}]") == []
    assert decided("events: [{type: low}]\nuntil: 23h") == []
    assert decided("events: [{type: low}]\nuntil: 24h") == ["on-silence"]
    assert "on-silence" not in decided(
        "events: [{type: low}, {type: recharge, amount: 1, at: 2h}]\nuntil: 40h"
    )


def test_timers_fire_between_events_each_at_its_own_time() -> None:
    (result,) = tried(
        "events: [{type: low}, {type: ping, at: 30h}, {type: low, at: 31h}]\nuntil: 60h\nexpect: []"
    )
    first, second = (decision.expires_at_us for decision in result.decisions)
    assert second - first == 31 * 3_600_000_000


def test_a_stay_and_a_fall_come_by_timers() -> None:
    stay = "events: [{type: ping, cell_id: A1}, {type: ping, cell_id: %s, at: 20m}]\nuntil: %s"
    assert decided(stay % ("A2", "29m")) == []
    assert decided(stay % ("A2", "30m")) == ["on-dwell"]
    assert decided(stay % ("C1", "60m")) == []
    fall = "events: [{type: seen}, {type: seen}, {type: seen}, {type: seen}%s]\nuntil: %s"
    assert decided(fall % ("", "35h")) == []
    assert decided(fall % ("", "36h")) == ["on-fall"]  # the beginning of the day after the next
    assert decided(fall % (3 * ", {type: seen, at: 20h}", "36h")) == []


def test_an_event_at_the_instant_of_a_timer_comes_first() -> None:
    assert decided("events: [{type: low}, {type: recharge, amount: 1, at: 24h}]\nuntil: 30h") == []


def test_dates_and_schedules_are_due_while_time_passes() -> None:
    ends = (
        "subscriber: {contract_end: 2026-12-25}\nuntil: %s"  # 30 days before is 25 November, five days on
    )
    assert decided(ends % "4d") == []
    assert decided(ends % "5d") == ["on-date"]
    assert decided("subscriber: {contract_end: 2026-12-25}\nevents: [{type: low, at: 5d}]") == ["on-date"]
    assert decided("subscriber: {brand: gold}\nuntil: 15d") == ["on-schedule", "on-schedule"]
    assert decided("subscriber: {brand: silver}\nuntil: 15d") == []


def test_what_was_due_at_the_beginning_has_passed() -> None:
    case = "now: 2026-11-23T09:00:00+08:00\nsubscriber: {brand: gold}\nuntil: 1h"
    assert decided(case) == []
    assert decided(case.replace("T09:00:00", "T08:59:59")) == ["on-schedule"]


def test_a_slow_source_triggers_nothing_but_feeds_metrics_in_days() -> None:
    case = "subscriber: {brand: billed}\nevents: [{type: charge, amount: 100%s}, {type: ping, at: 1h}]"
    assert decided(case % "") == ["on-charge", "on-summed"]
    assert decided(case % ", source: billing") == ["on-summed"]


def test_what_fails_says_why() -> None:
    results = tried(
        "events: [{type: low}]\nexpect: [{campaign: on-silence}]",
        "events: [{type: ping}]\nexpect: [{campaign: on-fact}]",
        'events: [{type: call, callee: "8613900000001"}]\nexpect: [{campaign: on-peer}]',
    )
    assert [result.failures for result in results] == [
        [
            "on-silence should be decided, but nothing in the case triggers it: it is on silent; "
            "'until: 25h' lets time pass"
        ],
        ["on-fact should be decided, but its 'when' does not hold: fact.paid is false"],
        ["on-peer should be decided, but its 'when' does not hold: peer.brand is unknown"],
    ]


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("events: [{type: silent}]", "the service itself makes 'silent'"),
        ("events: [{type: low, at: 2h}]\nuntil: 1h", "'until' lies before"),
        ("events: []\nuntil: 900d", "at most 800 days"),
        ("events: []\nuntil: soon", "is not an instant"),
        ("events: []\ngiven: {fact.paid: 1}", "expected true or false"),
        ("events: []\ngiven: {fact.payed: true}", "did you mean 'fact.paid'?"),
        ("events: []\ngiven: {metric.newest: video}", "Invalid enum value"),
        ("events: []\ngiven: {metric.least: -1}", "Expected `int` >= 0"),
        ("events: []\ngiven: {metric.least: null}", "leave it out"),
        ("events: []\ngiven: {metric.partners: many}", "a whole number"),
        ("events: []\ngiven: {behaviour.mined: true}", "under 'subscriber'"),
        ("events: []\npeers: {friend: {brand: gold}}", "5 to 15 digits"),
        ('events: []\npeers: {"8613900000001": {colour: gold}}', "unknown key 'colour'"),
        ("events: [{type: low, source: bilING}]", "unknown source"),
        ("subscriber: {brand: gold}", "has no 'events'"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_place(case: str, said: str) -> None:
    assert said in refused(case)


def covered(*cases: str) -> Coverage:
    return coverage(RULEBASE, [result.seen for result in tried(*cases)])


def test_coverage_of_nothing() -> None:
    none = covered("events: []\nexpect: []")
    assert none.percent == 0
    assert set(none.campaigns.values()) == {Reached.NEVER}
    rows = {what: (count, total) for what, count, total, _ in none.rows()}
    assert rows == {
        "campaigns decided": (0, 17),
        "definitions that held": (0, 2),
        "definitions that did not": (0, 2),
        "patterns completed": (0, 5),
        "facts set": (0, 1),
    }


def test_coverage_tells_how_far_campaigns_came() -> None:
    some = covered(
        "subscriber: {known: false}\ngiven: {metric.summed: 100}\nevents: [{type: ping}]\nexpect: []"
    )
    assert some.campaigns["on-summed"] is Reached.MATCHED  # no context, so it was not decided
    assert some.campaigns["on-counted"] is Reached.TRIGGERED
    assert some.campaigns["on-row"] is Reached.NEVER
    more = covered("given: {metric.summed: 100}\nevents: [{type: ping}]\nexpect: [{campaign: on-summed}]")
    assert more.campaigns["on-summed"] is Reached.DECIDED
    assert more.definitions["behaviour.spends"] == (True, False)
    assert more.definitions["behaviour.mined"] == (False, True)


def test_cases_cover_together_what_none_covers_alone() -> None:
    held = "given: {metric.summed: 100}\nevents: [{type: ping}]\nexpect: [{campaign: on-summed}]"
    not_held = "events: [{type: ping}]\nexpect: []"
    assert covered(held, not_held).definitions["behaviour.spends"] == (True, True)
    assert covered(held).percent < covered(held, not_held).percent


def test_coverage_of_patterns_and_facts() -> None:
    some = covered("events: [{type: low}, {type: recharge, amount: 11, at: 5m}]\nuntil: 30h\nexpect: []")
    assert {name for name, completed in some.patterns.items() if completed} == {"low_then_paid"}
    assert some.facts == {"paid": True}
    later = covered("events: [{type: low}, {type: recharge, amount: 10, at: 25h}]\nexpect: []")
    assert later.patterns["silent"]
    assert later.facts == {"paid": False}


def test_watching_changes_nothing() -> None:
    files = read_rulebase(ROOT / "rulebase" / "packs" / "gprs-precision")
    sample = load(files)
    engine = NetworkEngine(sample)
    watcher = Watcher(sample, engine)
    for case in read_cases(sample, files):
        assert run_case(sample, watcher, case) == run_case(sample, engine, case)
    engine.close()
    assert watcher.seen.matched


DOCUMENTED = {
    "rulebase.yaml": "rulebase: documented\ntime_zone: Asia/Shanghai\n",
    "vocabulary.yaml": """\
        events: {low_balance: {attributes: {balance: int}}, recharge: {}}
        subscriber: {brand: string}
        channels: {sms: {mode: automatic}}
        products: {card: {label: Card, category: service}}
        """,
    "behaviours.yaml": """\
        metrics: {recharges_30d: {count: recharge, days: 30}}
        patterns: {silent: {after: low_balance, absent: recharge, for: 24h}}
        facts: {interest_data: {on: recharge, for: 30d}}
        """,
    "campaigns/reminder.yaml": """\
        campaign: recharge-reminder
        product: card
        on: silent
        when: fact.interest_data && metric.recharges_30d == 2
        target: sub.brand == "gotone"
        mode: automatic
        channels: [sms]
        content: {sms: text}
        """,
}


def test_the_case_of_the_documentation_passes() -> None:
    page = (ROOT / "docs" / "reference" / "cli.md").read_text("utf-8")
    (shown,) = re.findall(r"^```yaml\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    rulebase = load({name: dedent(text).encode() for name, text in DOCUMENTED.items()})
    (result,) = in_both_engines(rulebase, shown)
    assert result.failures == []
    assert len(result.decisions) == 1
