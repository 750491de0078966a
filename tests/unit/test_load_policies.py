"""Loading of contact policies, where the golden cases leave room: shares, words, what is inherited and what
stands in when nothing is said."""

from __future__ import annotations

import re
import unicodedata
from textwrap import dedent

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opportune_rulebase import Rulebase, RulebaseError, load
from opportune_rulebase.loading.fields import DAY_US, HOUR_US, MINUTE_US, parse_share
from opportune_rulebase.policies import (
    MAX_REPLY,
    OPT_OUT_WORDS,
    SHARES,
    Alarm,
    Control,
    DayKind,
    Fate,
    Fit,
    Mode,
    Policies,
    Preference,
    Quota,
    Selector,
    reply_word,
)
from opportune_rulebase.shapes import SHARE

FILES = {
    "rulebase.yaml": "rulebase: policies\ntime_zone: Asia/Shanghai\n",
    "vocabulary.yaml": """\
        events: {ping: {}, order: {}, reply: {attributes: {text: string, channel: string}}}
        subscriber: {brand: string, score: double}
        channels: {sms: {mode: automatic, cost: 5}, push: {mode: automatic}, counter: {mode: manual}}
        products: {thing: {category: things}}
        """,
}
TEMPLATE = """\
    template: whole
    product: thing
    on: ping
    mode: automatic
    channels: sms
    content: {default: hello}
    exclusive_group: things
    control_group: 5%
    quota: {per_day: 7, total: 70, otherwise: next}
    conversion: {event: order, within: 7d}
    alarm: {per_hour: 5}
    open_for: 3d
    baseline: mass
    ---
    {campaign: mass, like: whole, baseline: own, control_group: exempt}
    ---
    """


def loaded(
    policies: str = "{}", campaigns: str = TEMPLATE + "    {campaign: own, like: whole}"
) -> Rulebase:
    files = FILES | {"policies.yaml": policies, "campaigns/all.yaml": campaigns}
    return load({path: dedent(text).encode() for path, text in files.items()})


def own(text: str) -> Rulebase:
    return loaded(campaigns=f"{dedent(TEMPLATE)}{{campaign: own, like: whole, {text}}}")


@pytest.mark.parametrize(
    ("text", "share"),
    [
        *[("0%", 0), ("5%", 500), ("2.5%", 250), ("0.01%", 1), ("0.1%", 10), ("100%", SHARES)],
        *[("99.99%", 9_999), ("5 %", 500), ("100.00%", SHARES), ("12.05%", 1_205)],
    ],
)
def test_shares_are_counted_in_ten_thousandths(text: str, share: int) -> None:
    assert parse_share(text) == share
    assert re.search(SHARE.schema["pattern"], text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5",
        "%",
        "0.05",
        "5.%",
        ".5%",
        "-5%",
        "+5%",
        "05%",
        "101%",
        "100.01%",
        "1.234%",
        "5 %%",
        "５%",
        "5,5%",
    ],
)
def test_other_shares_are_refused(text: str) -> None:
    assert parse_share(text) is None
    assert not re.search(SHARE.schema["pattern"], text)


@given(st.integers(0, SHARES))
def test_every_share_can_be_written(share: int) -> None:
    assert parse_share(f"{share // 100}.{share % 100:02}%") == share


@pytest.mark.parametrize(
    "text",
    [
        *("TD", " td ", "T.D.", "ｔｄ！", "td。", "Td 😀"),
        *("td ❤\ufe0f", "TD\ufe0f⛔\ufe0f", "td 🙅🏽\u200d♀\ufe0f", "t\u200dd\u3164"),
        *("T\u20e3D\u20e3", "t\U000e0100d"),
    ],
)
def test_a_word_is_the_same_however_it_is_typed(text: str) -> None:
    assert reply_word(text) == "td"


def test_different_words_stay_different() -> None:
    assert reply_word("T D") == "t d"
    assert reply_word("tdx") == "tdx"
    assert reply_word("不 要") != reply_word("不要")


def test_a_letter_to_somebody_is_no_word() -> None:
    assert reply_word("td" + "!" * (MAX_REPLY - 2)) == "td"
    assert reply_word("td" + "!" * (MAX_REPLY - 1)) == ""
    assert reply_word("ﷺ" * MAX_REPLY) == "", "nor what becomes one when it is written out"


def refusals(policies: str) -> list[tuple[str, str]]:
    with pytest.raises(RulebaseError) as refused:
        loaded(policies)
    return [(str(problem.position), problem.message) for problem in refused.value.problems]


def test_replies_whose_words_can_never_come_are_refused() -> None:
    same = "replies: {event: reply, text: event.text, channel: event.text}"
    assert refusals(same) == [("policies.yaml:1:52", "'text' and 'channel' are both event.text")]
    long = f"replies: {{event: reply, text: event.text, on_channel: sms, accepted: {'yes' * MAX_REPLY}}}"
    ((position, message),) = refusals(long)
    assert position == "policies.yaml:1:70"
    assert message.endswith(f"is longer than {MAX_REPLY} characters")


def test_the_words_that_always_opt_out_are_compared_as_they_stand() -> None:
    assert {reply_word(word) for word in OPT_OUT_WORDS} == OPT_OUT_WORDS


@given(st.text(max_size=20) | st.text("e\u0301\u200d\ufe0f\u1100\u1161\u1160İ", max_size=6))
def test_taking_the_word_of_a_word_changes_nothing(text: str) -> None:
    word = reply_word(text)
    assert reply_word(word) == word
    assert reply_word(f" {text}!") == word
    assert not any(unicodedata.category(each).startswith(("P", "S", "C")) for each in word)


def test_all_that_a_template_says_of_policies_is_taken_over() -> None:
    campaign = loaded().campaigns["own"]
    assert campaign.group == "things"
    assert (campaign.control_share, campaign.control_exempt) == (500, False)
    assert campaign.quota == Quota(per_day=7, total=70, otherwise=Fate.NEXT)
    assert campaign.conversion is not None
    assert (campaign.conversion.event, campaign.conversion.within_us) == ("order", 7 * DAY_US)
    assert campaign.alarm == Alarm(per_hour=5)
    assert campaign.open_for_us == 3 * DAY_US
    assert campaign.baseline == "mass"


def test_what_a_campaign_says_replaces_the_template_key_by_key() -> None:
    campaign = own("quota: {budget: 500}, control_group: exempt, alarm: {complaint_rate: 1%}").campaigns[
        "own"
    ]
    assert campaign.quota == Quota(budget=500)  # as a whole: no daily bound is left
    assert (campaign.control_share, campaign.control_exempt) == (0, True)
    assert campaign.alarm == Alarm(complaint_rate=0.01)
    assert campaign.group == "things"


def test_a_campaign_that_says_nothing_is_bound_by_nothing() -> None:
    plain = (
        "{campaign: own, product: thing, on: ping, mode: automatic, channels: sms, content: {sms: hello}}"
    )
    campaign = loaded(campaigns=plain).campaigns["own"]
    assert (campaign.group, campaign.baseline) == ("", "")
    assert (campaign.control_share, campaign.control_exempt) == (0, False)
    assert (campaign.quota, campaign.conversion, campaign.alarm) == (None, None, None)
    assert campaign.open_for_us == campaign.expires_after_us == 2 * HOUR_US


def test_an_offer_is_open_as_long_as_it_may_wait() -> None:
    text = FILES | {
        "campaigns/all.yaml": "{campaign: own, product: thing, on: ping, mode: automatic, channels: sms, "
        "content: {sms: hello}, expires_after: 2d}"
    }
    campaign = load({path: dedent(each).encode() for path, each in text.items()}).campaigns["own"]
    assert campaign.open_for_us == 2 * DAY_US


def test_policies_that_say_nothing_are_the_default_ones() -> None:
    assert loaded().policies == Policies()
    assert loaded("arbitration: {}\ndeferral: {}\ncontrol: {}\npreference: {}").policies == Policies()


def test_what_a_cap_counts() -> None:
    """Those that it binds, whether they were sent or said; unless it says otherwise."""
    bound = "limit: 3, period: day, applies_to: {modes: automatic, channels: sms}"
    (plain,) = loaded(f"caps: {{one: {{{bound}}}}}").policies.caps
    assert plain.applies_to == Selector(channels=frozenset({"sms"}), modes=frozenset({Mode.AUTOMATIC}))
    assert plain.counts == Selector(channels=frozenset({"sms"}))
    (said,) = loaded(f"caps: {{one: {{{bound}, counts: {{modes: manual}}}}}}").policies.caps
    assert said.counts == Selector(modes=frozenset({Mode.MANUAL}))
    (all_,) = loaded(f"caps: {{one: {{{bound}, counts: {{}}}}}}").policies.caps
    assert all_.counts == Selector()


@pytest.mark.parametrize(
    ("days", "weekdays", "kinds"),
    [
        ("", range(7), set()),
        (", days: sat", [5], set()),
        (", days: [holiday, mon]", [0], {DayKind.HOLIDAY}),
        (", days: workday", [], {DayKind.WORKDAY}),
    ],
)
def test_days_of_quiet_hours(days: str, weekdays: list[int], kinds: set[DayKind]) -> None:
    (window,) = loaded(f"quiet_hours: {{night: {{from: '21:00', to: '08:00'{days}}}}}").policies.quiet_hours
    assert (window.weekdays, window.kinds) == (frozenset(weekdays), kinds)


def test_a_jitter_may_be_none_a_settling_time_may_not() -> None:
    assert loaded("deferral: {jitter: 0s}").policies.jitter_us == 0
    assert loaded("deferral: {jitter: 45m}").policies.jitter_us == 45 * MINUTE_US
    with pytest.raises(RulebaseError, match="'settle' must be more than nothing"):
        loaded("arbitration: {settle: 0s}")


def test_the_rest_of_the_policies() -> None:
    policies = loaded("""\
        control: {share: 2%, salt: 2026}
        fit: {thing: {sms: AA, push: CC}}
        preference: {scores: {sms: sub.score}, segment: sub.brand, segments: {gold: [push, sms]}}
        alarm: {complaint_rate: 2%, at_least: 10, within: 2h}
        arbitration: {no_channel: next, settle: 30s}
        """).policies
    assert policies.control == Control(200, "2026")
    assert policies.fit == {"thing": {"sms": Fit.AA, "push": Fit.CC}}
    preference = policies.preference
    assert (preference.from_contacts, preference.within_us) == (10, Preference().within_us)
    assert {name: score.text for name, score in preference.scores.items()} == {"sms": "sub.score"}
    assert preference.segment is not None
    assert preference.segments == {"gold": ("push", "sms")}
    assert policies.alarm == Alarm(0.02, 10, 2 * HOUR_US)
    assert (policies.no_channel, policies.settle_us) == (Fate.NEXT, 30_000_000)


@pytest.mark.parametrize(
    ("preference", "said"),
    [
        ("{segment: sub.brand}", "'segment' in preference says nothing without 'segments'"),
        ("{segments: {gold: sms}}", "'segments' in preference says nothing without 'segment'"),
    ],
)
def test_a_segment_needs_its_channels(preference: str, said: str) -> None:
    with pytest.raises(RulebaseError, match=said):
        loaded(f"preference: {preference}")


def test_replies_on_a_channel_of_their_own() -> None:
    replies = "replies: {event: reply, text: event.text, WHERE, accepted: [' Yes! ', 是]}"
    by_event = loaded(replies.replace("WHERE", "channel: event.channel")).policies.replies
    always = loaded(replies.replace("WHERE", "on_channel: push")).policies.replies
    assert by_event is not None
    assert always is not None
    assert (by_event.channel, by_event.on_channel) == ("channel", "")
    assert (always.channel, always.on_channel) == (None, "push")
    assert always.accepted == {"yes", "是"}
    assert always.refused == always.opt_out == frozenset()
    with pytest.raises(RulebaseError, match="replies has neither 'channel' nor 'on_channel'"):
        loaded(replies.replace("WHERE, ", ""))


def test_conversions_and_replies_may_come_from_slow_sources() -> None:
    """They trigger nothing, so that a day late is early enough."""
    slow = (
        dedent(FILES["vocabulary.yaml"]) + "sources: {files: {events: [order, reply], max_lateness: 24h}}\n"
    )
    files = FILES | {
        "vocabulary.yaml": slow,
        "policies.yaml": "replies: {event: reply, text: event.text, on_channel: sms}",
        "campaigns/all.yaml": TEMPLATE + "    {campaign: own, like: whole}",
    }
    assert load({path: dedent(text).encode() for path, text in files.items()}).campaigns["own"].conversion
