"""What every `Ledger` must report, against figures that are counted one contact after the other.

A history is a list of stories, each that of one candidate from its first decision to whatever came of it. A
story says by itself what it adds to a report; the oracle adds that up and never looks into the ledger.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opportune_rulebase.policies import Fate, Mode, OutcomeKind
from opportune_service.adapters.sql import SqlLedger, verdicts
from opportune_service.app.ports import Ledger
from opportune_service.app.records import (
    CampaignFigures,
    ChannelFigures,
    DeliveryState,
    ForeignContact,
    Lease,
    Settlement,
)
from opportune_service.core.verdict import Contact, Decision, Reason, Response, Trigger
from support.verdicts import HOUR_US, NOON_US, SECOND_US, decision, shown, verdict, waiting

WHO = ("8613800000001", "8613800000002", "8613800000003")
CAMPAIGNS = ("night", "roaming", "other")
TRIGGERS = {"night": ["data_session", "power_on"], "roaming": ["power_on"]}
"""Those that are asked for; nobody asks for the third."""
BEGIN_US = NOON_US // HOUR_US * HOUR_US
QUARTER_US = HOUR_US // 4
TRIGGER = Trigger("data_session", NOON_US)
ANSWERS = {
    *(OutcomeKind.INQUIRED, OutcomeKind.ACCEPTED, OutcomeKind.REFUSED),
    *(OutcomeKind.COMPLAINED, OutcomeKind.LATER),
}


@dataclass(frozen=True)
class Story:
    """`first`: how the candidate was decided at first, at `at`: for good (`at_once`), deferred, or as a
    prompt that waits. `then`, `gap` quarters of an hour later: what came of it: `nothing` (it still waits),
    `lost`, `contact`, `control`, and for prompts `left` (decided again and still waiting) or `answered`
    (without being shown). `by`: how a contact is made; `sending`: what became of its delivery. `outcomes`:
    (kind, quarters later). `ordered`: somebody bought, which the order event told."""

    who: str = WHO[0]
    campaign: str = "night"
    at: int = 0
    first: str = "at_once"
    then: str = "contact"
    gap: int = 1
    by: str = "message"
    sending: str = "sent"
    outcomes: tuple[tuple[OutcomeKind, int], ...] = ()
    ordered: bool = False
    cost: int = 3


@dataclass(frozen=True)
class Word:
    """The last word on a candidate."""

    campaign: str
    at_us: int
    reason: Reason


@dataclass(frozen=True)
class Made:
    """A contact of a story."""

    who: str
    campaign: str
    channel: str
    at_us: int
    control: bool
    sent: bool
    released: bool
    kinds: frozenset[OutcomeKind]
    cost: int


def made_of(story: Story, number: int) -> tuple[Word, Made | None]:
    """What a story adds, by what its words mean."""
    at_us = BEGIN_US + story.at * QUARTER_US + 10 * number
    then_us = at_us if story.first == "at_once" else at_us + story.gap * QUARTER_US
    if story.first == "deferred" and story.then == "nothing":
        return Word(story.campaign, at_us, Reason.QUIET_HOURS), None
    if story.then in ("nothing", "left"):
        return Word(story.campaign, at_us, Reason.DECIDED), None
    if story.then == "lost":
        return Word(story.campaign, then_us, Reason.CAPPED), None
    kinds = {kind for kind, _ in story.outcomes}
    evidence = bool(kinds - {OutcomeKind.NOT_OFFERED})
    if story.then == "answered":
        talk = Made(
            *(story.who, story.campaign, "counter", then_us, False, True, False),
            *(frozenset(kinds), story.cost),
        )
        return Word(story.campaign, at_us, Reason.DECIDED), talk if evidence else None
    control = story.then == "control"
    delivered = story.by != "person" and not control
    if control:
        sent, released, kinds = True, False, set()
    else:
        went = story.sending == "sent" if delivered else OutcomeKind.NOT_OFFERED not in kinds
        failed = story.sending in ("failed", "withdrawn") if delivered else False
        sent = evidence or went
        released = not sent and (failed or OutcomeKind.NOT_OFFERED in kinds)
    if story.ordered:
        kinds.add(OutcomeKind.ORDERED)
    made = Made(
        *(story.who, story.campaign, channel_of(story), then_us, control, sent, released),
        *(frozenset(kinds), story.cost),
    )
    return Word(story.campaign, then_us, Reason.CONTROL if control else Reason.DECIDED), made


def channel_of(story: Story) -> str:
    return {"message": "sms", "person": "counter", "file": "outbound"}[story.by]


# -- the oracle ---------------------------------------------------------------------------------------


def counted(
    stories: Sequence[Story], events: Sequence[tuple[str, int]], start_us: int, end_us: int
) -> tuple[list[CampaignFigures], list[ChannelFigures], dict[int, int]]:
    """What is to be reported on `TRIGGERS` in [start, end). `events`: (type, hour from the beginning)."""
    told = [made_of(story, number) for number, story in enumerate(stories)]
    words = [word for word, _ in told if start_us <= word.at_us < end_us]
    contacts = [made for _, made in told if made is not None and start_us <= made.at_us < end_us]
    figures = []
    for name, types in TRIGGERS.items():
        own = [word.reason for word in words if word.campaign == name]
        treated = [each for each in contacts if each.campaign == name and not each.control]
        control = [each for each in contacts if each.campaign == name and each.control]
        sent = [each for each in treated if each.sent]
        by_outcome = Counter(kind for each in sent for kind in each.kinds)
        lost = Counter(reason for reason in own if reason not in (Reason.DECIDED, Reason.CONTROL))
        figures.append(
            CampaignFigures(
                campaign=name,
                start_us=start_us,
                end_us=end_us,
                events=sum(
                    type_ in types
                    and BEGIN_US + (hour + 1) * HOUR_US > start_us
                    and BEGIN_US + hour * HOUR_US < end_us
                    for type_, hour in events
                ),
                matched=len(own),
                lost=dict(lost),
                decided=own.count(Reason.DECIDED),
                sent=len(sent),
                delivered=by_outcome[OutcomeKind.DELIVERED],
                answered=sum(not ANSWERS.isdisjoint(each.kinds) for each in treated),
                converted=by_outcome[OutcomeKind.ORDERED],
                treated=len({each.who for each in treated}),
                treated_converted=len({each.who for each in treated if OutcomeKind.ORDERED in each.kinds}),
                control=len({each.who for each in control}),
                control_converted=len({each.who for each in control if OutcomeKind.ORDERED in each.kinds}),
                by_outcome=dict(by_outcome),
                cost=sum(each.cost for each in sent),
            )
        )
    real = [each for each in contacts if not each.control]
    loads = []
    for channel in sorted({each.channel for each in real}):
        seconds = Counter(each.at_us // SECOND_US for each in real if each.channel == channel)
        loads.append(ChannelFigures(channel, start_us, seconds.total(), max(seconds.values())))
    often = Counter(Counter(each.who for each in real if not each.released).values())
    return figures, loads, dict(often)


# -- the same to a ledger -----------------------------------------------------------------------------


class Teller:
    """Has a ledger live through stories."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    def tell(self, story: Story, number: int) -> None:
        at_us = BEGIN_US + story.at * QUARTER_US + 10 * number
        then_us = at_us if story.first == "at_once" else at_us + story.gap * QUARTER_US
        about: dict[str, Any] = {"campaign": story.campaign, "cost": story.cost, "day": 0}
        first, last = f"first-{number}", f"last-{number}"
        if story.first == "deferred":
            fate = {"reason": Reason.QUIET_HOURS, "fate": Fate.DEFER, "trigger": TRIGGER}
            self.record(story, at_us, decision(first, due_us=then_us, **fate, **about))
            about["deferred_of"] = first
        elif story.first == "prompt":
            self.record(story, at_us, waiting(first, **about))
            if story.then != "answered":
                about["prompt_of"] = first
        if story.then == "nothing":
            return
        if story.then == "answered":
            self.outcomes(story, first, then_us, apart=False)
            return
        if story.then in ("lost", "left"):
            lost = {"reason": Reason.CAPPED, "fate": Fate.DROP, "channel": ""}
            self.record(story, then_us, decision(last, **lost, **about))
            return
        build = decision if story.by == "message" else shown
        about |= {"channel": channel_of(story), "bulk": story.by == "file"}
        about["reason"] = Reason.CONTROL if story.then == "control" else Reason.DECIDED
        self.record(story, then_us, build(last, **about))
        if story.then == "contact":
            if story.by != "person":
                self.send(story, last, then_us)
            self.outcomes(story, last, then_us)
        if story.ordered:
            order = Response(story.who, then_us + 5, OutcomeKind.ORDERED, campaigns={story.campaign: 5})
            with self.ledger.transaction() as tx:
                assert {each.decision_id for each in tx.respond([order])} <= {last}

    def record(self, story: Story, at_us: int, made: Decision) -> None:
        with self.ledger.transaction() as tx:
            tx.record_verdicts([verdict(story.who, f"of {made.id}", made, at_us=at_us)])

    def send(self, story: Story, id_: str, at_us: int) -> None:
        lease = Lease(
            *(id_, 1, 1, story.who, channel_of(story), story.campaign, "night-pack", ""),
            *(at_us + SECOND_US, at_us + HOUR_US),
        )
        with self.ledger.transaction() as tx:
            if story.sending in ("sent", "failed", "unknown"):
                tx.lease([lease], 0)
            if story.sending in ("sent", "failed"):
                assert tx.settle(id_, 1, Settlement(story.sending), at_us, at_us)
            elif story.sending == "unknown":
                tx.end_deliveries({id_: DeliveryState.EXPIRED}, at_us + HOUR_US)
            elif story.sending == "withdrawn":
                tx.end_deliveries({id_: DeliveryState.WITHDRAWN}, at_us)

    def outcomes(self, story: Story, id_: str, at_us: int, *, apart: bool = True) -> None:
        for kind, after in story.outcomes:
            with self.ledger.transaction() as tx:
                tx.record_outcome(id_, kind, at_us + apart * after * QUARTER_US)

    def foreign(self, who: str, campaign: str, number: int) -> None:
        contact = Contact(
            *(str(number), campaign, "product", "category", "sms", Mode.MANUAL, BEGIN_US + number),
            origin="crm",
            cost=9,
        )
        with self.ledger.transaction() as tx:
            tx.record_contacts([ForeignContact(who, contact, "")])


def agree(
    ledger: Ledger, stories: Sequence[Story], events: Sequence[tuple[str, int]], start: int, length: int
) -> None:
    teller = Teller(ledger)
    for number, story in enumerate(stories):
        teller.tell(story, number)
    for number, who in enumerate(WHO):
        teller.foreign(who, "night", number)
    with ledger.transaction() as tx:
        for type_, hour in events:
            tx.count_events({(type_, BEGIN_US // HOUR_US + hour): 1})
    start_us, end_us = BEGIN_US + start * QUARTER_US, BEGIN_US + (start + length) * QUARTER_US
    figures, loads, often = counted(stories, events, start_us, end_us)
    assert ledger.campaign_figures(start_us, end_us, TRIGGERS) == figures
    assert ledger.channel_figures(start_us, end_us) == loads
    assert ledger.contact_frequencies(start_us, end_us) == often


@contextmanager
def opened() -> Iterator[Ledger]:
    ledger = SqlLedger.open("sqlite://")
    try:
        yield ledger
    finally:
        ledger.close()


_outcomes = st.lists(
    st.tuples(st.sampled_from(OutcomeKind), st.integers(0, 3_000)),  # up to a month later
    max_size=3,
    unique_by=lambda each: each[0],
).map(tuple)


def _sensible(story: Story) -> Story:
    """What a prompt or a control group cannot come to becomes what it can."""
    if story.first == "at_once" and story.then in ("nothing", "left", "answered"):
        story = replace(story, then="contact")
    if story.first == "deferred" and story.then in ("left", "answered"):
        story = replace(story, then="lost")
    if story.first == "prompt" and story.then == "lost":
        story = replace(story, then="left")
    if story.first == "prompt" and story.by == "message":
        story = replace(story, by="person")
    return story


_stories = st.builds(
    Story,
    who=st.sampled_from(WHO),
    campaign=st.sampled_from(CAMPAIGNS),
    at=st.integers(0, 12),
    first=st.sampled_from(["at_once", "at_once", "deferred", "prompt"]),
    then=st.sampled_from(["contact", "contact", "control", "lost", "nothing", "left", "answered"]),
    gap=st.integers(1, 6),
    by=st.sampled_from(["message", "person", "file"]),
    sending=st.sampled_from(["sent", "failed", "withdrawn", "unknown", "waits"]),
    outcomes=_outcomes,
    ordered=st.booleans(),
    cost=st.integers(0, 5),
).map(_sensible)
_events = st.lists(st.tuples(st.sampled_from(["data_session", "power_on", "sms_sent"]), st.integers(-1, 5)))


@settings(max_examples=150, deadline=None)
@given(st.lists(_stories, max_size=12), _events, st.integers(-2, 12), st.integers(1, 16))
def test_figures_are_what_counting_comes_to(
    stories: list[Story], events: list[tuple[str, int]], start: int, length: int
) -> None:
    with opened() as ledger:
        agree(ledger, stories, events, start, length)


# -- by example, on every store -----------------------------------------------------------------------

BY_EXAMPLE = {
    "nothing": [],
    "a deferral that was decided again counts where it was decided again": [
        Story(first="deferred", then="contact", gap=40),
        Story(first="deferred", then="contact", gap=1),
        Story(first="deferred", then="nothing"),
    ],
    "a prompt that was shown counts once, one that was left waiting as well": [
        Story(first="prompt", then="contact", by="person"),
        Story(first="prompt", then="left"),
        Story(first="prompt", then="nothing"),
    ],
    "what was released was chosen all the same": [
        Story(sending="failed", ordered=True),
        Story(sending="withdrawn"),
        Story(by="person", outcomes=((OutcomeKind.NOT_OFFERED, 1),)),
    ],
    "a file that is not written was not sent": [Story(by="file", sending="waits")],
    "a control group is sent nothing": [Story(then="control", ordered=True), Story(then="control")],
    "what comes after the period is of the contact": [
        Story(outcomes=((OutcomeKind.DELIVERED, 1), (OutcomeKind.COMPLAINED, 2_900)), ordered=True)
    ],
    "the busiest second": [*([Story()] * 3), Story(at=1), Story(who=WHO[1], campaign="other")],
}


@pytest.mark.parametrize("name", BY_EXAMPLE)
def test_figures_by_example(ledger: Ledger, name: str) -> None:
    agree(ledger, BY_EXAMPLE[name], [("power_on", 0), ("power_on", 0), ("data_session", 1)], 0, 8)


def test_campaigns_come_in_the_order_that_is_asked_for(ledger: Ledger) -> None:
    for names in (["b", "a"], ["a", "b"], []):
        found = ledger.campaign_figures(0, 1, dict.fromkeys(names, ()))
        assert [each.campaign for each in found] == names


@pytest.mark.parametrize("superseded", [True, False])
def test_the_law_fails_where_the_first_word_is_counted_too(
    monkeypatch: pytest.MonkeyPatch, superseded: bool
) -> None:
    forgetful = verdicts._supersede.values(superseded=superseded)
    monkeypatch.setattr(verdicts, "_supersede", forgetful)
    story = Story(first="deferred", then="lost")
    with opened() as ledger:
        if superseded:
            agree(ledger, [story], [], 0, 8)
        else:
            with pytest.raises(AssertionError):
                agree(ledger, [story], [], 0, 8)


def test_the_law_fails_where_other_systems_count(monkeypatch: pytest.MonkeyPatch) -> None:
    with opened() as ledger:
        monkeypatch.setattr(Teller, "foreign", _as_own)
        with pytest.raises(AssertionError):
            agree(ledger, [Story()], [], 0, 8)


def _as_own(teller: Teller, who: str, campaign: str, number: int) -> None:
    made = shown(f"crm-{number}", campaign=campaign)
    with teller.ledger.transaction() as tx:
        tx.record_verdicts([verdict(who, f"crm-{number}", made, at_us=BEGIN_US)])
