"""Loading metrics, patterns, facts and triggers: what is known of them, and the keys of their state."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from opportune_rulebase import Code, Problem, Rulebase, RulebaseError, load
from opportune_rulebase.loading.campaigns import DEFAULT_FRESH_DUE_US, DEFAULT_FRESH_US
from opportune_rulebase.loading.patterns import MAX_DERIVED
from opportune_rulebase.loading.sources import MAX_SOURCES
from opportune_rulebase.loading.vocabulary import MAX_ATTRIBUTES
from opportune_rulebase.model import Bound, CountPattern, SequencePattern

BASE = {
    "rulebase.yaml": "rulebase: tests\ntime_zone: Europe/Berlin\n",
    "vocabulary.yaml": """
events:
  called: {attributes: {to: subscriber, seconds: {type: int, min: 0}, rate: double, free: bool, on: date}}
  missed: {attributes: {to: subscriber, seconds: {type: int, min: 5}, at: timestamp}}
  moved: {}
subscriber: {age: int, born: date}
channels: {sms: {mode: automatic}}
products: {alert: {}}
""",
}
CAMPAIGN = "{campaign: a, product: alert, mode: automatic, channels: sms, content: {sms: hello}, on: "


def loaded(**sections: str) -> Rulebase:
    behaviours = "".join(f"{name}:\n  {text}\n" for name, text in sections.items())
    files = BASE | {"behaviours.yaml": behaviours}
    return load({path: text.encode() for path, text in files.items()})


def problems_of(**sections: str) -> tuple[Problem, ...]:
    with pytest.raises(RulebaseError) as caught:
        loaded(**sections)
    return caught.value.problems


@pytest.mark.parametrize(
    ("definition", "bound", "type_"),
    [
        ("{count: called, days: 3}", Bound.LOWER, "int"),
        ("{sum: event.seconds, of: called, days: 3}", Bound.LOWER, "int"),
        ("{sum: event.rate, of: called, days: 3}", Bound.NONE, "double"),
        ("{min: event.seconds, of: [called, missed], days: 3}", Bound.UPPER, "int"),
        ("{max: event.rate, of: called, last: 1h}", Bound.LOWER, "double"),
        ("{latest: event.to, of: called, days: 3}", Bound.NONE, "string"),
        ("{latest: event.at, of: missed, days: 3}", Bound.NONE, "timestamp"),
        ("{latest: event.free, of: called, days: 3}", Bound.NONE, "bool"),
        ("{distinct: event.to, of: called, days: 3}", Bound.LOWER, "int"),
        ("{distinct: event.free, of: called, last: 1h}", Bound.LOWER, "int"),
    ],
)
def test_what_a_figure_tells_before_it_is_covered(definition: str, bound: Bound, type_: str) -> None:
    metric = loaded(metrics=f"m: {definition}").metrics["m"]
    assert (metric.bound, metric.type) == (bound, type_)


def metric_key(pattern: str) -> str:
    patterns = f"{pattern.partition(':')[0]}: {pattern.partition(':')[2]}"
    return (
        loaded(patterns=patterns, metrics=f"m: {{count: {pattern.partition(':')[0]}, days: 3}}")
        .metrics["m"]
        .key
    )


def test_a_metric_of_a_pattern_goes_by_what_the_pattern_is() -> None:
    first = metric_key("often: {count: called, at_least: 3, within: 1h}")
    assert metric_key("often: {count: [called], within: 60m, at_least: 3, label: often}") == first
    assert metric_key("renamed: {count: called, at_least: 3, within: 1h}") == first
    assert metric_key("often: {count: called, at_least: 4, within: 1h}") != first


def pattern_key(definition: str) -> str:
    return loaded(patterns=f"p: {definition}").patterns["p"].key


@pytest.mark.parametrize(
    "variants",
    [
        [
            "{count: called, at_least: 3, within: 1h}",
            "{count: called, at_least: 4, within: 1h}",
            "{count: called, at_least: 3, within: 2h}",
            "{count: called, at_least: 3, within: 1h, distinct: event.to}",
            "{count: called, at_least: 3, within: 1h, where: event.free}",
            "{count: missed, at_least: 3, within: 1h}",
        ],
        [
            "{sequence: [called, missed], within: 1h}",
            "{sequence: [missed, called], within: 1h}",
            "{sequence: [called, missed], within: 2h}",
            "{sequence: [called, missed], within: 1h, without: moved}",
            "{sequence: [called, {event: missed, where: event.seconds > 9}], within: 1h}",
            "{sequence: [called, {event: missed, link: event.to == first.to}], within: 1h}",
        ],
        [
            "{after: called, absent: missed, for: 1h}",
            "{after: missed, absent: called, for: 1h}",
            "{after: called, absent: missed, for: 2h}",
            "{after: {event: called, where: event.free}, absent: missed, for: 1h}",
        ],
        ["{dwell: mall, for: 1h}", "{dwell: mall, for: 2h}", "{dwell: station, for: 1h}"],
        [
            "{change: count, of: called, days: 7, rises_to: 2, at_least: 5}",
            "{change: event.seconds, of: called, days: 7, rises_to: 2, at_least: 5}",
            "{change: count, of: called, days: 8, rises_to: 2, at_least: 5}",
            "{change: count, of: called, days: 7, rises_to: 3, at_least: 5}",
            "{change: count, of: called, days: 7, falls_to: 0.5, at_least: 5}",
            "{change: count, of: called, days: 7, rises_to: 2, at_least: 6}",
        ],
    ],
)
def test_a_pattern_has_a_key_of_its_own_for_each_content(variants: list[str]) -> None:
    labelled = f"{variants[0][:-1]}, label: another}}"
    assert pattern_key(labelled) == pattern_key(variants[0])
    assert len(set(map(pattern_key, variants))) == len(variants)


def fact_key(scenes: str, fact: str = "{on: called, when: scene.a, for: 1d}") -> str:
    return loaded(facts=f"f: {fact}", scenes=scenes).facts["f"].key


def test_a_fact_depends_on_all_definitions_that_it_reads_in_the_end() -> None:
    first = fact_key("{a: {when: scene.b && sub.age > 3}, b: {when: zone == 'x'}, c: {when: sub.age > 9}}")
    assert first == fact_key("{a: {when: scene.b && sub.age > 3}, b: {when: zone == 'x', label: b}}")
    assert first != fact_key("{a: {when: scene.b && sub.age > 3}, b: {when: zone == 'y'}}")
    assert fact_key("{a: {when: 'true'}}") != fact_key("{a: {when: 'true'}}", "{on: called, for: 1d}")


def test_derived_events_carry_what_all_completing_types_have() -> None:
    events = loaded(
        patterns="""
  counted: {count: [called, missed], at_least: 2, within: 1h}
  followed: {sequence: [called, missed], within: 1h}
  waited: {after: called, absent: missed, for: 1h}
  stayed: {dwell: mall, for: 1h}
  rose: {change: count, of: called, days: 7, rises_to: 2, at_least: 5}
  nested: {count: followed, at_least: 2, within: 1h}
"""
    ).vocabulary.events
    names = {name: set(each.attributes) for name, each in events.items() if each.derived}
    assert names == {
        "counted": {"to", "seconds"},
        "followed": {"to", "seconds", "at"},
        "waited": {"to", "seconds", "rate", "free", "on"},
        "stayed": set(),
        "rose": set(),
        "nested": {"to", "seconds", "at"},
    }
    assert events["counted"].peer == "to"
    # As wide as either: a call may have no seconds, one that was missed has five.
    assert events["counted"].attributes["seconds"].minimum == 0
    assert events["followed"].attributes["seconds"].minimum == 5


def test_patterns_come_after_those_whose_events_they_take_in() -> None:
    patterns = loaded(
        patterns="""
  last: {sequence: [called, middle], within: 1h, without: first}
  middle: {after: first, absent: called, for: 1h}
  first: {count: called, at_least: 2, within: 1h}
"""
    ).patterns
    assert list(patterns) == ["first", "middle", "last"]


def test_a_sequence_keeps_what_its_links_read() -> None:
    step = "{event: missed, link: event.to == first.to && previous.seconds > 3}"
    pattern = loaded(patterns=f"p: {{sequence: [called, called, {step}], within: 1h}}").patterns["p"]
    assert isinstance(pattern, SequencePattern)
    assert pattern.kept == {"to", "seconds"}


def test_patterns_by_which_one_event_leads_to_very_many_are_refused() -> None:
    def layers(width: int) -> str:
        """Each takes in all of the layer below, and completes with every second event of it."""
        names = ["called"]
        lines = []
        for layer in range(4):
            of = ", ".join(names)
            names = [f"l{layer}_{n}" for n in range(width)]
            lines += [
                f"  {name}: {{count: [{of}], at_least: 2, within: {60 + n}s}}"
                for n, name in enumerate(names)
            ]
        return "\n".join(["", *lines])

    patterns = loaded(patterns=layers(3)).patterns
    assert len(patterns) == 12
    assert all(isinstance(each, CountPattern) for each in patterns.values())
    (problem,) = problems_of(patterns=layers(20))
    assert problem.code == Code.TOO_MANY
    assert str(MAX_DERIVED) in problem.message


@pytest.mark.parametrize("steps", ["[]", "{}", "called", "[caled, mised]"])
def test_a_sequence_of_which_no_step_can_be_read_is_an_error_like_others(steps: str) -> None:
    found = problems_of(patterns=f"p: {{sequence: {steps}, within: 1h}}")
    assert {each.position.file for each in found} == {"behaviours.yaml"}


def test_a_chain_of_patterns_is_bounded_like_one_of_definitions() -> None:
    chain = "".join(f"  p{n}: {{count: p{n + 1}, at_least: 2, within: 1h}}\n" for n in range(101))
    (problem,) = problems_of(patterns=f"\n{chain}  p101: {{count: called, at_least: 2, within: 1h}}")
    assert (problem.code, "'p1'" in problem.message) == (Code.TOO_DEEP, True)


@pytest.mark.parametrize(
    ("path", "text", "most"),
    [
        (
            "behaviours.yaml",
            lambda n: "patterns:\n" + "".join(f"  p{i}: {{dwell: c{i}, for: 1h}}\n" for i in range(n)),
            MAX_DERIVED,
        ),
        (
            "vocabulary.yaml",
            lambda n: (
                f"events: {{called: {{attributes: {{{', '.join(f'a{i}: int' for i in range(n))}}}}}}}\n"
            ),
            MAX_ATTRIBUTES,
        ),
        (
            "vocabulary.yaml",
            lambda n: "sources:\n" + "".join(f"  s{i}: {{subscriber: imei}}\n" for i in range(n)),
            MAX_SOURCES,
        ),
    ],
    ids=["patterns", "attributes", "sources"],
)
def test_there_are_so_many_at_most(path: str, text: Callable[[int], str], most: int) -> None:
    header = {"rulebase.yaml": BASE["rulebase.yaml"].encode(), "vocabulary.yaml": b""}
    load(header | {path: text(most).encode()})
    with pytest.raises(RulebaseError) as caught:
        load(header | {path: text(most + 1).encode()})
    assert [problem.code for problem in caught.value.problems] == [Code.TOO_MANY]


def campaigns(*triggers: str) -> Rulebase:
    lines = [CAMPAIGN.replace(": a,", f": c{n},") + on + "}" for n, on in enumerate(triggers)]
    files = BASE | {"campaigns/all.yaml": "".join(f"- {line}\n" for line in lines)}
    return load({path: text.encode() for path, text in files.items()})


def test_campaigns_with_the_same_date_share_its_event_type() -> None:
    rulebase = campaigns(
        '{date: sub.born, every: year, at: "09:00"}',
        '[moved, {at: "09:00", every: year, date: sub.born}]',
        '{schedule: weekly, days: [thu, mon], at: "09:00"}',
        '{schedule: weekly, days: [mon, thu], at: "09:00"}',
    )
    assert list(rulebase.triggers) == ["date/yearly/born@09:00", "schedule/weekly/mon,thu@09:00"]
    assert [campaign.on for campaign in rulebase.campaigns.values()] == [
        ("date/yearly/born@09:00",),
        ("moved", "date/yearly/born@09:00"),
        ("schedule/weekly/mon,thu@09:00",),
        ("schedule/weekly/mon,thu@09:00",),
    ]
    for name in rulebase.triggers:
        event_type = rulebase.vocabulary.events[name]
        assert event_type.derived
        assert not event_type.attributes


def test_what_only_dates_trigger_stays_fresh_for_half_a_day() -> None:
    date = '{date: sub.born, at: "09:00"}'
    fresh = [
        c.fresh_for_us
        for c in campaigns(date, f"[moved, {date}]", f"{date}, fresh_for: 1h").campaigns.values()
    ]
    assert fresh == [DEFAULT_FRESH_DUE_US, DEFAULT_FRESH_US, 3_600_000_000]


def test_an_imported_behaviour_is_a_behaviour_and_context() -> None:
    rulebase = loaded(
        behaviours="""
  found: {label: found elsewhere, imported: {valid_for: 30d}}
  both: {when: behaviour.found && sub.age > 3}
"""
    )
    assert rulebase.imported["behaviour.found"].valid_for_us == 30 * 24 * 3_600_000_000
    assert rulebase.vocabulary.subscriber["behaviour.found"].label == "found elsewhere"
    assert list(rulebase.definitions) == ["behaviour.both"]


def test_what_nothing_uses_is_a_warning() -> None:
    rulebase = loaded(
        patterns="""
  unused: {count: called, at_least: 2, within: 1h}
  taken_in: {count: called, at_least: 3, within: 1h}
""",
        metrics="m: {count: taken_in, days: 3}",
        facts="f: {on: called, for: 1h}",
        scenes="s: {when: metric.m > 1}",
        behaviours="i: {imported: {valid_for: 1d}}",
    )
    assert {problem.message.rpartition(" ")[2] for problem in rulebase.warnings} >= {
        "'unused'",
        "'fact.f'",
        "'scene.s'",
        "'behaviour.i'",
    }
    assert all("'taken_in'" not in problem.message for problem in rulebase.warnings)


def test_facts_that_are_wrong_are_not_said_to_be_the_same() -> None:
    found = problems_of(
        facts="f: {on: called, when: sub.agee > 1, for: 1d}\n  g: {on: called, when: sub.agee > 2, for: 1d}"
    )
    assert [each.code for each in found] == ["bad-expression", "bad-expression"]


def suppression(when: str) -> list[str]:
    files = BASE | {
        "behaviours.yaml": "facts: {complained: {on: called, for: 7d}}\n"
        "scenes: {far: {when: place.name == 'x'}, long: {when: scene.far || event.seconds > 9}}\n",
        "policies.yaml": f'suppress: {{s: {{when: "{when}"}}}}\n',
    }
    try:
        load({path: text.encode() for path, text in files.items()})
    except RulebaseError as error:
        return [problem.message for problem in error.problems]
    return []


def test_what_a_suppression_may_read() -> None:
    assert suppression("fact.complained || calendar.holiday || sub.age < 18") == []
    assert suppression("event.seconds > 1") == ["'when' of a suppression cannot read event.seconds"]
    assert suppression("scene.long && sub.age > 3") == [
        "'when' of a suppression cannot read event.seconds (by way of scene.long)",
        "'when' of a suppression cannot read place.name (by way of scene.long)",
    ]
