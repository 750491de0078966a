"""What events tell besides what rules make of them."""

from __future__ import annotations

import pytest
from opportune_rulebase import load
from opportune_rulebase.policies import OutcomeKind
from opportune_service.core.responses import Reply, Words, reply_in, told_by
from support.guarded_rulebase import guarded_rulebase


def words(**changes: str) -> Words:
    text = guarded_rulebase()["policies.yaml"].decode()
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    told = told_by(load(guarded_rulebase() | {"policies.yaml": text.encode()}))
    found = told["reply_received"].words
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("text", "reply"),
    [
        ("yes", Reply("sms", OutcomeKind.ACCEPTED, ())),
        ("n", Reply("sms", OutcomeKind.REFUSED, ())),
        ("unsubscribe", Reply("sms", None, ("sms",))),
        ("stop 🙏", Reply("sms", None, ("sms",))),
        ("0000", Reply("sms", None, ("sms",))),
        ("do not stop", Reply("sms", None, ())),
        ("!!!", Reply("sms", None, ())),
    ],
)
def test_a_text_is_compared_whole(text: str, reply: Reply) -> None:
    assert reply_in(words(), {"text": text, "channel": "sms"}) == reply


def test_a_channel_that_nobody_declared_answers_nothing_but_an_opt_out_is_heeded_everywhere() -> None:
    assert reply_in(words(), {"text": "yes", "channel": "fax"}) == Reply("", None, ())
    assert reply_in(words(), {"text": "stop", "channel": "fax"}) == Reply("", None, ("sms", "push"))
    assert reply_in(words(), {"channel": "sms"}) == Reply("sms", None, ())


def test_a_word_that_refuses_and_opts_out_does_both() -> None:
    both = words(**{'refused: ["n"]': 'refused: ["n", "stop"]'})
    assert reply_in(both, {"text": "stop", "channel": "sms"}) == Reply("sms", OutcomeKind.REFUSED, ("sms",))


def test_replies_of_one_channel_need_not_name_it() -> None:
    one = words(**{"channel: event.channel": "on_channel: push"})
    assert reply_in(one, {"text": "stop"}) == Reply("push", None, ("push",))


def test_only_events_that_tell_something_are_looked_at() -> None:
    told = told_by(load(guarded_rulebase()))
    assert {name: [c.name for c in each.orders] for name, each in told.items()} == {
        "ordered": ["gift"],
        "reply_received": [],
        "hotline_complaint": [],
    }
