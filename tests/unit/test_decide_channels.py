"""The channel of a winner: fit, then preference, then segment, then the campaign's order."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from opportune_rulebase.model import Channel, Rulebase
from opportune_rulebase.policies import Fit, Mode, OutcomeKind, Preference
from opportune_service.core.decide import decide
from opportune_service.core.verdict import Decision, History, Moment
from support.moments import DAY_US, contact, moment, outcome, rulebase
from support.rulebases import NOON_US

THREE = {"channels": ("sms", "mms", "push")}
PUSH = {"push": Channel("push", "push", Mode.AUTOMATIC)}


def offering(**policies: Any) -> Rulebase:
    return rulebase({"offer": THREE}, channels=PUSH, **policies)


def order(base: Rulebase, history: History | None = None, **known: Any) -> list[str]:
    """The channels in the order in which they are tried: each refuses in turn."""
    tried: list[str] = []
    while True:
        content = {name: None if name in tried else "hello" for name in THREE["channels"]}
        at: Moment = moment(base, candidates={"offer": {"content": content}})
        at = msgspec.structs.replace(at, **known)
        past = History() if history is None else History(list(history.contacts), list(history.outcomes))
        decision: Decision = decide(base, at, past, {}).decisions[0]
        if not decision.channel:
            return tried
        tried.append(decision.channel)


def heard(base: Rulebase, *channels: str, at_us: int = NOON_US - DAY_US) -> History:
    """A history of contacts on these channels."""
    return History(
        contacts=[contact(base.campaigns["offer"], at_us + n, name) for n, name in enumerate(channels)]
    )


def test_without_anything_known_the_campaigns_order_holds() -> None:
    assert order(offering()) == ["sms", "mms", "push"]


def test_the_best_fit_comes_first_and_what_does_not_fit_is_out() -> None:
    fit = {"product": {"push": Fit.AA, "mms": Fit.BB, "sms": Fit.CC}, "other": {"sms": Fit.AA}}
    assert order(offering(fit=fit)) == ["push", "mms"]


def test_scores_then_the_segment_then_the_campaign() -> None:
    base = offering()
    assert order(base, channel_scores={"mms": 0.2, "push": 0.4}) == ["push", "mms", "sms"]
    assert order(base, segment=("push",)) == ["push", "sms", "mms"]
    equal = {"mms": 0.2, "push": 0.2}
    assert order(base, channel_scores=equal, segment=("push", "mms")) == ["push", "mms", "sms"]
    assert order(base, channel_scores=equal) == ["mms", "push", "sms"]


FREQUENT = Preference(from_contacts=3, within_us=30 * DAY_US)


def test_enough_contacts_tell_more_than_scores() -> None:
    base = offering(preference=FREQUENT)
    scores = {"sms": 0.9}
    assert order(base, heard(base, "push", "push", "mms"), channel_scores=scores) == ["push", "mms", "sms"]
    assert order(base, heard(base, "push", "push"), channel_scores=scores) == ["sms", "mms", "push"]
    assert order(base, heard(base, "push", "mms", "sms"), segment=("mms",)) == ["mms", "sms", "push"]


def test_fit_comes_before_preference() -> None:
    base = offering(preference=FREQUENT, fit={"product": {"sms": Fit.AA}})
    assert order(base, heard(base, "push", "push", "mms")) == ["sms", "push", "mms"]


def test_contacts_of_other_systems_count_and_those_that_were_not_made_do_not() -> None:
    base = offering(preference=FREQUENT)
    history = heard(base, "push", "push", "push")
    theirs = [msgspec.structs.replace(each, origin="crm") for each in history.contacts]
    assert order(base, History(contacts=theirs)) == ["push", "sms", "mms"]
    ghosts = [msgspec.structs.replace(each, control=True) for each in history.contacts]
    assert order(base, History(contacts=ghosts)) == ["sms", "mms", "push"]


def test_old_contacts_tell_nothing() -> None:
    base = offering(preference=FREQUENT)
    since = NOON_US - 30 * DAY_US
    assert order(base, heard(base, "push", "push", "push", at_us=since - 2)) == ["sms", "mms", "push"]
    assert order(base, heard(base, "push", "push", "push", at_us=since + 1)) == ["push", "sms", "mms"]


@pytest.mark.parametrize("kind", [OutcomeKind.COMPLAINED, OutcomeKind.REFUSED])
def test_what_was_complained_of_comes_last(kind: OutcomeKind) -> None:
    base = offering(preference=FREQUENT)
    history = heard(base, "push", "push", "mms")
    answer = outcome(base.campaigns["offer"], kind, history.contacts[0].at_us)
    history.outcomes.append(answer)
    last = "push" if kind is OutcomeKind.COMPLAINED else "sms"
    assert order(base, history)[-1] == last


def test_the_channels_that_were_tried_are_told_with_the_reason() -> None:
    base = offering(fit={"product": {"sms": Fit.CC}})
    at = moment(base, profile={"consents": {"channel/mms": False}})
    (decision,) = decide(base, at, History(), {}).decisions
    told = [(c.channel, c.passed) for c in decision.checks if c.policy == "channel"]
    assert told == [("sms", False), ("mms", False), ("push", True)]
