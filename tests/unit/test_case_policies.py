"""Test cases and the contact policies: what they can say of control groups, quotas, pauses, other systems
and open offers, and how what was deferred comes back in them."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import dedent, indent

import pytest
from opportune_rulebase import Rulebase, load
from opportune_rulebase.errors import RulebaseError
from opportune_rulebase.network import NetworkEngine
from opportune_service.app.read_cases import read_cases
from opportune_service.app.try_cases import CaseResult, try_case
from opportune_service.core.verdict import Decision

VOCABULARY = """\
    events: {ping: {}, pong: {}, low: {}, reply: {attributes: {text: string}}}
    subscriber: {vip: bool}
    channels:
      sms: {mode: automatic, per_day: 10}
      push: {mode: automatic}
      counter: {mode: manual}
    products: {thing: {category: things}, other: {category: others}}
    """
CAMPAIGNS = """\
    {campaign: thing, product: thing, on: ping, mode: automatic, channels: [sms], content: {sms: text},
     quota: {per_day: 5, otherwise: next}, control_group: 5%, expires_after: 12h}
    ---
    {campaign: other, product: other, on: [ping, pong], mode: automatic, channels: [push],
     content: {push: text}, priority: 400, quota: {total: 5}, expires_after: 12h}
    ---
    {campaign: also-thing, product: thing, on: pong, mode: automatic, channels: [push],
     content: {push: text}, open_for: 3d, priority: 600}
    """
NIGHT = "quiet_hours: {night: {from: '21:00', to: '08:00', otherwise: defer}}\n"
# 2026-11-20 is a Friday.
HEAD = "now: 2026-11-20T12:00:00+08:00\ncases:\n"


def rulebase(policies: str = "", *, campaigns: str = CAMPAIGNS) -> Rulebase:
    files = {
        "rulebase.yaml": "rulebase: cases\ntime_zone: Asia/Shanghai\n",
        "vocabulary.yaml": VOCABULARY,
        "campaigns/all.yaml": campaigns,
        "policies.yaml": policies or "{}",
    }
    return load({name: dedent(text).encode() for name, text in files.items()})


def tried(case: str, policies: str = "", **more: str) -> CaseResult:
    made = rulebase(policies, **more)
    text = f"{HEAD}{indent('- name: a case' + chr(10) + indent(dedent(case), '  '), '  ')}\n"
    (read,) = read_cases(made, {"tests/a_test.yaml": text.encode()})
    engine = NetworkEngine(made)
    try:
        return try_case(made, engine, read)
    finally:
        engine.close()


def ended(case: str, policies: str = "", **more: str) -> list[tuple[str, str]]:
    """Each decision of the case, in order: the campaign and how it ended."""
    return [(d.campaign, str(d.reason)) for d in decisions(case, policies, **more)]


def decisions(case: str, policies: str = "", **more: str) -> Sequence[Decision]:
    return tried(f"{dedent(case)}\nexpect: []\n", policies, **more).decisions


def refused(case: str, policies: str = "") -> str:
    with pytest.raises(RulebaseError) as caught:
        tried(f"{dedent(case)}\nexpect: []\n", policies)
    (problem,) = caught.value.problems
    assert problem.position.line > 0
    return f"{problem.message}; {problem.hint}"


def test_nobody_is_in_a_control_group_unless_the_case_says_so() -> None:
    held_back = "control: {share: 100%}"
    ping = "events: [{type: ping}]"
    assert ended(ping, held_back) == [("other", "outranked"), ("thing", "decided")]
    assert ended(f"given: {{control: false}}\n{ping}", held_back)[1] == ("thing", "decided")
    assert ended(f"given: {{control: true}}\n{ping}", held_back)[1] == ("thing", "control")
    assert ended(f"given: {{control: true}}\n{ping}")[1] == ("thing", "control")  # 5% of its own


def test_being_in_all_control_groups_is_being_in_none_that_is_not_declared() -> None:
    pong = "given: {control: true}\nevents: [{type: pong}]"
    assert ended(pong, "control: {share: 1%}") == [("also-thing", "control"), ("other", "outranked")]
    assert ended(pong) == [("also-thing", "decided"), ("other", "outranked")]


def test_a_rulebase_without_control_groups_has_nobody_in_one() -> None:
    plain = CAMPAIGNS.replace("control_group: 5%, ", "")
    with pytest.raises(RulebaseError, match="the rulebase has no control group"):
        tried("given: {control: true}\nevents: [{type: ping}]\nexpect: []", campaigns=plain)


def test_paused_campaigns_are_not_live() -> None:
    ping = "events: [{type: ping}]"
    assert ended(f"given: {{paused: thing}}\n{ping}") == [("other", "decided"), ("thing", "not_live")]
    assert "did you mean 'thing'" in refused(f"given: {{paused: [things]}}\n{ping}")


def test_what_is_spent_is_spent_today() -> None:
    given = "given: {spent: [thing]}\n"
    assert ended(f"{given}events: [{{type: ping}}]") == [("other", "decided"), ("thing", "quota")]
    tomorrow = "events: [{type: ping, at: 12h}]"
    assert ended(f"{given}{tomorrow}") == [("other", "outranked"), ("thing", "decided")]


def test_a_total_is_spent_for_good() -> None:
    late = "given: {spent: [other], paused: [also-thing]}\nevents: [{type: pong, at: 100d}]"
    assert ended(late) == [("also-thing", "not_live"), ("other", "quota")]


def test_a_channel_is_spent_for_all_campaigns() -> None:
    case = "given: {spent: [channel/sms]}\nevents: [{type: ping}]"
    assert ended(case) == [("other", "outranked"), ("thing", "capacity")]


def test_only_what_is_limited_can_be_spent() -> None:
    assert "unknown quota 'channel/push'" in refused("given: {spent: [channel/push]}\nevents: []")
    assert "unknown quota 'also-thing'" in refused("given: {spent: [also-thing]}\nevents: []")
    assert "did you mean 'channel/sms'" in refused("given: {spent: [channel/smss]}\nevents: []")


ONE_A_DAY = "caps: {one_a_day: {limit: 1, period: day}}\n"


def test_contacts_of_other_systems_count() -> None:
    past = "history: {contacts: [{origin: crm, channel: counter, before: 2h}]}\n"
    assert ended(f"{past}events: [{{type: ping}}]", ONE_A_DAY)[1] == ("thing", "capped")
    of_mode = ONE_A_DAY.replace("day}", "day, counts: {modes: automatic}}")
    assert ended(f"{past}events: [{{type: ping}}]", of_mode)[1] == ("thing", "decided")


def test_contacts_of_other_systems_have_a_product_or_a_category() -> None:
    caps = "caps: {category: {limit: 1, period: day, per: category}}"
    for about, expected in (
        ("product: thing", "capped"),
        ("category: things", "capped"),
        ("product: other", "decided"),
    ):
        past = f"history: {{contacts: [{{origin: crm, channel: sms, {about}, before: 2h}}]}}\n"
        assert ended(f"{past}events: [{{type: ping}}]", caps)[1] == ("thing", expected)


@pytest.mark.parametrize(
    ("contact", "said"),
    [
        ("origin: crm, before: 1h", "the contact has no 'channel'"),
        ("before: 1h", "the contact has neither 'campaign' nor 'origin'"),
        ("campaign: thing, origin: crm, before: 1h", "the contact has both 'campaign' and 'origin'"),
        (
            "campaign: thing, product: thing, before: 1h",
            "'product' in the contact says nothing without 'origin'",
        ),
        ("origin: crm, channel: sms, product: thin, before: 1h", "did you mean 'thing'"),
    ],
)
def test_contacts_that_cannot_be_meant(contact: str, said: str) -> None:
    assert said in refused(f"history: {{contacts: [{{{contact}}}]}}\nevents: []")


def test_an_offer_is_open_until_its_time_is_over_or_somebody_answers() -> None:
    def thing(history: str) -> str:
        return ended(f"history: {{{history}}}\nevents: [{{type: ping}}]")[1][1]

    assert thing("contacts: [{campaign: also-thing, before: 2d}]") == "inconsistent"
    assert thing("contacts: [{campaign: also-thing, before: 4d}]") == "decided"
    contact = "contacts: [{campaign: also-thing, before: 2d}]"
    assert (
        thing(f"{contact}, outcomes: [{{campaign: also-thing, outcome: refused, before: 1d}}]") == "decided"
    )
    assert (
        thing(f"{contact}, outcomes: [{{campaign: also-thing, outcome: opened, before: 1d}}]")
        == "inconsistent"
    )
    # An answer that came before the contact answers an earlier one.
    assert (
        thing(f"{contact}, outcomes: [{{campaign: also-thing, outcome: refused, before: 3d}}]")
        == "inconsistent"
    )


LATE = "now: 2026-11-20T22:00:00+08:00\nevents: [{type: pong}]\n"


def test_what_is_deferred_is_decided_again_before_the_end() -> None:
    one = [("also-thing", "quiet_hours"), ("other", "outranked")]
    paused = "given: {paused: [also-thing]}\n"
    alone = [("also-thing", "not_live"), ("other", "quiet_hours")]
    assert ended(f"{paused}{LATE}until: 9h", NIGHT) == alone
    assert ended(f"{paused}{LATE}until: 11h", NIGHT) == [*alone, ("other", "decided")]
    assert ended(f"{LATE}until: 11h", NIGHT) == one  # expires in two hours, so nothing waits


def test_without_deferral_nothing_comes_back() -> None:
    paused = "given: {paused: [also-thing]}\n"
    drop = NIGHT.replace("defer", "drop")
    assert ended(f"{paused}{LATE}until: 11h", drop) == [
        ("also-thing", "not_live"),
        ("other", "quiet_hours"),
    ]


def test_deferred_and_fresh_meet_at_the_same_instant() -> None:
    """At eight the deferred one is due, and something better comes: one moment, one winner."""
    case = """\
        now: 2026-11-20T22:00:00+08:00
        given: {paused: [also-thing]}
        events: [{type: pong}, {type: ping, at: 10h}]
        """
    exact = f"{NIGHT}deferral: {{jitter: 0s}}\n"
    assert ended(case, exact)[2:] == [("other", "outranked"), ("thing", "decided")]
    (_, _, again, _) = decisions(case, exact)
    assert again.attempt == 2


def test_a_deferral_says_when_it_is_due_up_to_the_jitter() -> None:
    case = f"given: {{paused: [also-thing]}}\n{LATE}"

    def failures(due: str, policies: str) -> Sequence[str]:
        wanted = f"expect: [{{campaign: other, reason: quiet_hours, fate: defer, due: {due}}}]"
        return tried(f"{case}{wanted}", policies).failures

    assert failures("10h", NIGHT) == []
    assert failures("2026-11-21T08:00:00+08:00", NIGHT) == []
    assert failures("9h", NIGHT)
    assert failures("11h", NIGHT)
    exact = f"{NIGHT}deferral: {{jitter: 0m}}\n"
    assert failures("10h", exact) == []
    (said,) = failures("599m", exact)
    assert "with the fate defer until 2026-11-21T07:59:00+08:00" in said
    assert "deferred until 2026-11-21T08:00:00+08:00" in said


def test_a_fate_is_told_apart() -> None:
    case = "given: {spent: [thing]}\nevents: [{type: ping}]\n"
    wanted = "expect: [{campaign: thing, reason: quota, fate: FATE}, {campaign: other}]"
    assert tried(case + wanted.replace("FATE", "next")).failures == []
    (said,) = tried(case + wanted.replace("FATE", "drop")).failures
    assert "should be quota with the fate drop" in said
    assert "and the next may take its place" in said


def test_only_what_is_deferred_is_due() -> None:
    with pytest.raises(RulebaseError, match="only what is deferred is due again"):
        tried("events: [{type: ping}]\nexpect: [{campaign: thing, due: 1h}]")


def test_what_settles_is_decided_to_the_end() -> None:
    """Two events within the time: one winner among what both brought."""
    settle = "arbitration: {settle: 2m}\n"
    assert ended("events: [{type: ping}]", settle) == [
        *[("other", "settling"), ("thing", "settling")],
        *[("other", "outranked"), ("thing", "decided")],
    ]
    both = ended("events: [{type: ping}, {type: pong, at: 1m}]", settle)
    assert [name for name, reason in both if reason == "decided"] == ["also-thing"]


def test_an_opt_out_in_between_holds() -> None:
    policies = f"{NIGHT}replies: {{event: reply, text: event.text, on_channel: push}}\n"
    case = f"given: {{paused: [also-thing]}}\n{LATE}until: 11h\n"
    assert ended(case, policies)[-1] == ("other", "decided")
    refusing = case.replace("{type: pong}", "{type: pong}, {type: reply, text: ' Stop! ', at: 1h}")
    assert ended(refusing, policies)[-1] == ("other", "no_channel")
