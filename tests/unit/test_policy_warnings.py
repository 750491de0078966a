"""Warnings of policies that do not do what they seem to: each with what makes it go away."""

from __future__ import annotations

from textwrap import dedent

import pytest
from opportune_rulebase import Problem, load

VOCABULARY = """\
    events:
      {ping: {}, order: {attributes: {product: {type: string, values: [thing]}}},
      reply: {attributes: {text: string}}}
    subscriber: {brand: {type: string, values: [gold, blue]}}
    channels: {sms: {mode: automatic, cost: 5}, push: {mode: automatic}, counter: {mode: manual}}
    products: {thing: {}, other: {}}
    """
CONVERSION = "conversion: {event: order, within: 7d}"
NIGHT = "quiet_hours: {night: {from: '22:00', to: '08:00', otherwise: FATE}}"


def campaign(name: str, *more: str) -> str:
    """A campaign; what is named again replaces what is usual."""
    keys = {
        "campaign": name,
        "product": "thing",
        "on": "ping",
        "mode": "automatic",
        "channels": "sms",
        "content": "{default: hello}",
    }
    keys |= dict(each.split(": ", 1) for each in more)
    return "---\n" + "".join(f"{key}: {value}\n" for key, value in keys.items())


def warnings(*campaigns: str, policies: str = "", vocabulary: str = VOCABULARY) -> list[Problem]:
    """All warnings but those of things that nothing uses."""
    files = {
        "rulebase.yaml": "rulebase: warned\ntime_zone: Asia/Shanghai\n",
        "vocabulary.yaml": vocabulary,
        "campaigns/all.yaml": "".join(campaigns) or campaign("thing"),
        "policies.yaml": policies or "{}",
    }
    found = load({path: dedent(text).encode() for path, text in files.items()}).warnings
    return [problem for problem in found if problem.code not in ("unused", "outranked")]


def said(*campaigns: str, policies: str = "", vocabulary: str = VOCABULARY) -> list[tuple[str, str]]:
    return [
        (problem.code, problem.message)
        for problem in warnings(*campaigns, policies=policies, vocabulary=vocabulary)
    ]


def test_a_plain_campaign_is_warned_of_nothing() -> None:
    assert said() == []


def test_an_alarm_that_no_complaints_can_raise() -> None:
    never = "never rings: no more than 100% can complain"
    assert said(campaign("thing", "alarm: {complaint_rate: 100%}")) == [
        ("no-effect", f"the alarm of campaign 'thing' {never}")
    ]
    assert said(policies="alarm: {complaint_rate: 100%}") == [
        ("no-effect", f"the alarm of policies.yaml {never}")
    ]
    assert said(policies="alarm: {complaint_rate: 99.99%}") == []


@pytest.mark.parametrize(
    ("wrong", "right", "code", "about"),
    [
        (["control_group: 5%"], ["control_group: 5%", CONVERSION], "not-measured", "uplift"),
        (["control_group: 5%"], ["control_group: exempt"], "not-measured", "uplift"),
        (["quota: {per_day: 0}"], ["quota: {per_day: 1}"], "never-sent", "its quota is 0"),
        (["quota: {total: 0}"], ["quota: {total: 1}"], "never-sent", "its quota is 0"),
        (["quota: {budget: 4}"], ["quota: {budget: 5}"], "never-sent", "one contact costs 5"),
        (
            ["quota: {budget: 4}", "channels: push"],
            ["quota: {budget: 5}", "channels: [push, sms]"],
            "no-effect",
            "none of its channels costs",
        ),
        (
            ["quota: {per_day: 6, total: 5}"],
            ["quota: {per_day: 5, total: 5}"],
            "no-effect",
            "6 contacts a day, but 5 in all",
        ),
        (
            ["quota: {per_day: 5}", "alarm: {per_hour: 5}"],
            ["quota: {per_day: 5}", "alarm: {per_hour: 4}"],
            "no-effect",
            "paused after 5 contacts an hour",
        ),
        (
            ["control_group: 100%", CONVERSION],
            ["control_group: 99.99%", CONVERSION],
            "never-sent",
            "its control group is everybody",
        ),
    ],
)
def test_a_campaign_and_what_mends_it(wrong: list[str], right: list[str], code: str, about: str) -> None:
    (problem,) = warnings(campaign("thing", *wrong))
    assert problem.code == code
    assert about in problem.message
    assert problem.hint
    assert problem.position.line == 2
    assert said(campaign("thing", *right)) == []


def test_a_campaign_all_of_whose_channels_do_not_fit() -> None:
    fit = "fit: {thing: {sms: CC}}"
    assert said(policies=fit) == [
        ("never-sent", "campaign 'thing' is never sent: 'thing' fits none of its channels (CC)")
    ]
    assert said(campaign("thing", "channels: [sms, push]"), policies=fit) == []
    assert said(campaign("thing", "product: other"), policies=fit) == []


def test_a_campaign_that_is_alone_in_its_group() -> None:
    alone = [campaign("one", "exclusive_group: a"), campaign("two", "exclusive_group: b")]
    (first, second) = warnings(*alone)
    assert (first.code, second.code) == ("no-effect", "no-effect")
    assert "alone in the exclusive group 'a'" in first.message
    assert first.hint == "there are also 'b'"
    assert said(campaign("one", "exclusive_group: a"), campaign("two", "exclusive_group: a")) == []


def test_a_baseline_that_compares_nothing() -> None:
    mass, measured = campaign("mass", CONVERSION), campaign("thing", CONVERSION, "baseline: mass")
    assert said(mass, measured) == []
    assert [message for _, message in said(campaign("mass", CONVERSION, "product: other"), measured)] == [
        "campaign 'thing' is compared with 'mass', which offers 'other'"
    ]
    assert [message for _, message in said(campaign("mass"), measured)] == [
        "campaign 'thing' is compared with 'mass', which has no 'conversion' to compare"
    ]
    assert [message for _, message in said(mass, campaign("thing", "baseline: mass"))] == [
        "campaign 'thing' is compared with 'mass', but has no 'conversion' to compare"
    ]


def test_a_conversion_that_never_comes() -> None:
    declared = f"{dedent(VOCABULARY)}sources: {{msc: {{events: ping}}}}\n"
    assert said(campaign("thing", CONVERSION), vocabulary=declared) == [
        ("no-source", "campaign 'thing' counts 'order' as its success, which no declared source sends")
    ]
    sent = declared.replace("events: ping", "events: [ping, order]")
    assert said(campaign("thing", CONVERSION), vocabulary=sent) == []
    never = "conversion: {event: order, when: event.product == 'other', within: 7d}"
    assert said(campaign("thing", never), vocabulary=sent) == [
        ("never-true", "'when' of the conversion of campaign 'thing' is never true")
    ]
    assert said(campaign("thing", never.replace("'other'", "'thing'")), vocabulary=sent) == []


def test_replies_that_nobody_sends() -> None:
    replies = "replies: {event: reply, text: event.text, on_channel: sms}"
    declared = f"{dedent(VOCABULARY)}sources: {{msc: {{events: ping}}}}\n"
    assert said(policies=replies, vocabulary=declared) == [
        ("no-source", "replies come as 'reply', which no declared source sends")
    ]
    assert (
        said(policies=replies, vocabulary=declared.replace("events: ping", "events: [ping, reply]")) == []
    )
    assert said(policies=replies) == []  # no sources, no complaint


@pytest.mark.parametrize(
    ("words", "about"),
    [
        ("accepted: [yes, no], refused: [no]", "'no' stands under 'accepted' and under 'refused'"),
        ("accepted: [Go], opt_out: ['ｇｏ!']", "'Go' stands under 'accepted' and under 'opt_out'"),
        ("accepted: [yes, T.D.]", "'T.D.' stands under 'accepted' and among the words that always opt out"),
    ],
)
def test_a_keyword_in_two_lists(words: str, about: str) -> None:
    replies = "replies: {event: reply, text: event.text, on_channel: sms, WORDS}"
    assert said(policies=replies.replace("WORDS", words)) == [("no-effect", about)]


def test_a_word_may_refuse_and_opt_out() -> None:
    replies = (
        "replies: {event: reply, text: event.text, on_channel: sms, refused: [no], opt_out: [no, stop]}"
    )
    assert said(policies=replies) == []


@pytest.mark.parametrize(
    ("headroom", "about"),
    [
        ("{last: 3, priority: 600}", "is all of its 3"),
        ("{last: 1, priority: 701}", "is for nobody"),
        ("{last: 1, priority: 500}", "keeps nobody out"),
    ],
)
def test_headroom_that_is_none_or_all(headroom: str, about: str) -> None:
    campaigns = [campaign("thing"), campaign("other", "product: other", "priority: 700")]

    def of(written: str) -> list[str]:
        cap = f"caps: {{week: {{limit: 3, period: week, headroom: {written}}}}}"
        return [message for _, message in said(*campaigns, policies=cap)]

    (message,) = of(headroom)
    assert about in message
    assert of("{last: 2, priority: 700}") == []


def test_holidays_without_a_calendar() -> None:
    window = "quiet_hours: {late: {from: '08:00', to: '10:00', days: DAY}}"
    (message,) = (each for _, each in said(policies=window.replace("DAY", "[sun, holiday]")))
    assert message == "quiet hours 'late' are on holidays, but the calendar has none"
    assert said(policies=window.replace("DAY", "workday")) == []


def test_a_control_group_of_all_campaigns() -> None:
    assert said(policies="control: {share: 2%}") == [
        ("not-measured", "there is a control group of all campaigns, but no campaign has a 'conversion'")
    ]
    assert said(campaign("thing", CONVERSION), policies="control: {share: 2%}") == []
    (problem,) = warnings(campaign("thing", CONVERSION), policies="control: {share: 100%}")
    assert problem.code == "never-sent"


def test_a_segment_that_nobody_is_in() -> None:
    preference = "preference: {segment: sub.brand, segments: {golden: sms}}"
    (problem,) = warnings(policies=preference)
    assert (problem.code, problem.hint) == ("never-true", "did you mean 'gold'?")
    assert said(policies=preference.replace("golden", "gold")) == []


@pytest.mark.parametrize(
    ("settle", "about"),
    [
        ("2h", "'thing' cannot wait 2h for better ones: the offer expires before"),
        ("10m", "'settle' is 10m, but the moment of 'thing' passes before that"),
        ("5m", None),
    ],
)
def test_settling_longer_than_the_moment_or_the_offer(settle: str, about: str | None) -> None:
    found = said(policies=f"arbitration: {{settle: {settle}}}")
    assert found == ([("no-effect", about)] if about else [])
    assert (
        said(campaign("thing", "mode: manual", "channels: counter"), policies="arbitration: {settle: 1h}")
        == []
    )


def in_vain(*more: str, night: str = NIGHT.replace("FATE", "defer"), policies: str = "") -> list[str]:
    quota = "quota: {per_day: 5, otherwise: defer}"
    found = said(campaign("thing", quota, *more), policies=f"{night}\n{policies}")
    assert {code for code, _ in found} <= {"deferred-in-vain"}
    return [message for _, message in found]


def test_what_is_deferred_to_midnight_and_expires_before_the_morning() -> None:
    """From ten in the evening until eight: what comes at midnight has waited ten hours at least."""
    lost = ["what the daily quota defers to another day never comes for 'thing'"]
    assert in_vain() == lost
    assert in_vain("expires_after: 10h") == lost
    assert in_vain("expires_after: 11h") == []
    assert in_vain("expires_after: 11h", night=NIGHT.replace("FATE", "drop")) == lost
    assert in_vain(night="") == []


def test_a_single_midnight_without_quiet_hours_is_enough() -> None:
    weekdays = NIGHT.replace("FATE", "drop").replace(
        "otherwise", "days: [mon, tue, wed, thu, fri, sat], otherwise"
    )
    assert in_vain(night=weekdays) == []
    by_calendar = NIGHT.replace("FATE", "drop").replace("otherwise", "days: [workday], otherwise")
    assert in_vain(night=by_calendar) == []  # what the calendar decides is not certain


def test_a_jitter_longer_than_the_quiet_hours_lets_some_through() -> None:
    short = "quiet_hours: {midnight: {from: '23:00', to: '00:20'}}"
    assert in_vain(night=short) == []
    assert in_vain(night=short, policies="deferral: {jitter: 10m}") != []


def test_capacities_and_calendar_caps_defer_in_vain_too() -> None:
    night = NIGHT.replace("FATE", "drop")
    capacity = VOCABULARY.replace("cost: 5}", "cost: 5, per_day: 9, otherwise: defer}")
    campaigns = [campaign(name) for name in ("a", "b", "c", "d", "e")]
    (problem,) = warnings(*campaigns, policies=night, vocabulary=capacity)
    assert problem.message.endswith("never comes for 'a', 'b', 'c' and 2 more")
    assert str(problem.position) == "policies.yaml"
    for period, expected in (("day", 1), ("{rolling: 1d}", 0)):
        cap = f"caps: {{one: {{limit: 1, period: {period}, otherwise: defer}}}}"
        assert len(warnings(policies=f"{night}\n{cap}")) == expected
    exempt = campaign("thing", "exempt: one")
    assert (
        warnings(exempt, policies=f"{night}\ncaps: {{one: {{limit: 1, period: day, otherwise: defer}}}}")
        == []
    )


@pytest.mark.parametrize(
    ("fate", "expires", "quiet"),
    [("drop", "20h", True), ("next", "20h", True), ("defer", "9h", True), ("defer", "10h", False)],
)
def test_due_at_night_and_deferred_to_the_morning(fate: str, expires: str, quiet: bool) -> None:
    due = ["on: {schedule: daily, at: '23:00'}", f"expires_after: {expires}"]
    found = said(campaign("thing", *due), policies=NIGHT.replace("FATE", fate))
    assert [code for code, _ in found] == (["always-quiet"] if quiet else [])


def test_whoever_may_make_way_is_not_sure_to_win() -> None:
    """With a fate of `next` anywhere, the one that seems to lose always may move up."""
    rivals = [campaign("weak", "priority: 400"), campaign("strong")]

    def outranked(policies: str) -> bool:
        files = {
            "rulebase.yaml": "rulebase: warned\ntime_zone: Asia/Shanghai\n",
            "vocabulary.yaml": dedent(VOCABULARY),
            "campaigns/all.yaml": "".join(rivals),
            "policies.yaml": policies,
        }
        found = load({path: text.encode() for path, text in files.items()}).warnings
        return any(problem.code == "outranked" for problem in found)

    assert outranked("arbitration: {no_channel: drop}")
    assert not outranked("arbitration: {no_channel: next}")
    assert not outranked(NIGHT.replace("FATE", "next"))
    assert outranked(NIGHT.replace("FATE", "defer"))
