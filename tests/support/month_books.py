"""The books of a simulated month: what was seen, and what a report of it should say."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from opportune_rulebase.policies import OutcomeKind
from opportune_service.app.records import CampaignFigures
from opportune_service.core.verdict import Decision, Reason, Verdict
from support.rulebases import DAY_US

WEEKLY = "weekly"
"""The books' name for what a schedule triggers."""

TRIGGERS = {
    **{"data": "web_visit", "data-mass": WEEKLY, "music": "mms_sent"},
    **{"care": "counter_visit", "call": "hotline_inquiry"},
}
"""Campaign -> what triggers it."""

CONVERSIONS = {
    "data": ("data", 3 * DAY_US),
    "data-mass": ("data", 3 * DAY_US),
    "music": ("music", 7 * DAY_US),
}
"""Campaign -> of which product an order counts, and how far back it looks for a contact."""

SAID = (
    *(OutcomeKind.INQUIRED, OutcomeKind.ACCEPTED, OutcomeKind.REFUSED),
    *(OutcomeKind.COMPLAINED, OutcomeKind.LATER),
)
"""What only a customer says."""


@dataclass(slots=True)
class Entry:
    """A contact, or would-be contact, in the simulation's books."""

    decision: Decision
    who: str
    at_us: int
    sent: bool = False
    outcomes: set[OutcomeKind] = field(default_factory=set)


@dataclass(slots=True)
class Books:
    """What the simulation saw. `events`: type and time. `last`: the last word on each candidate, and when
    it was spoken. `made`: contacts by decision. `orders`: who, when, what; and `swayed`: of those that
    nobody would have made without a message, whose message it was."""

    events: list[tuple[str, int]] = field(default_factory=list)
    last: dict[str, tuple[Decision, int]] = field(default_factory=dict)
    made: dict[str, Entry] = field(default_factory=dict)
    orders: list[tuple[str, int, str]] = field(default_factory=list)
    swayed: dict[tuple[str, int, str], str] = field(default_factory=dict)

    def take(self, verdict: Verdict) -> None:
        """Write down a verdict."""
        at_us = verdict.decided_at_us
        for decision in verdict.decisions:
            self.last.pop(decision.deferred_of, None)
            if decision.prompt_of and not decision.reserves:
                continue  # the prompt goes on waiting
            self.last.pop(decision.prompt_of, None)
            self.last[decision.id] = decision, at_us
            if decision.reserves:
                self.made[decision.id] = Entry(decision, verdict.key.subscriber_id, at_us)

    def due_to(self, orders: Iterable[tuple[str, int, str]]) -> set[str]:
        """The decisions that these orders answer: each the newest contact of every campaign that it can be
        due to."""
        contacts: defaultdict[tuple[str, str], list[Entry]] = defaultdict(list)
        for entry in self.made.values():
            contacts[entry.who, entry.decision.campaign].append(entry)
        found = set()
        for who, at_us, product in orders:
            for campaign, (converts, within_us) in CONVERSIONS.items():
                before = [each for each in contacts[who, campaign] if each.at_us < at_us]
                newest = max(before, key=lambda each: each.at_us, default=None)
                if converts == product and newest and newest.at_us >= at_us - within_us:
                    found.add(newest.decision.id)
        return found

    def close(self) -> None:
        """Note which contacts were followed by an order."""
        for decision_id in self.due_to(self.orders):
            self.made[decision_id].outcomes.add(OutcomeKind.ORDERED)

    def effect(self, campaign: str, lift: float) -> float:
        """What the campaign truly did, on the average of all people who were chosen, if each message that
        arrives makes somebody order with the likelihood `lift`: so many order who would not have ordered
        anyway."""
        anyway = self.due_to(order for order in self.orders if self.swayed.get(order) != campaign)
        chosen: defaultdict[str, list[Entry]] = defaultdict(list)
        for entry in self.made.values():
            if entry.decision.campaign == campaign:
                chosen[entry.who].append(entry)
        tried = [each for own in chosen.values() for each in own if each.decision.reason is Reason.DECIDED]
        arrives = sum(each.sent for each in tried) / len(tried)
        swayed = (
            1 - (1 - lift * arrives) ** len(own)
            for own in chosen.values()
            if not any(each.decision.id in anyway for each in own)
        )
        return sum(swayed) / len(chosen)

    def figures(self, campaign: str, start_us: int, end_us: int) -> CampaignFigures:
        """What a report of this time should say."""
        spoken = [
            each.reason
            for each, at_us in self.last.values()
            if each.campaign == campaign and start_us <= at_us < end_us
        ]
        made = [
            each
            for each in self.made.values()
            if each.decision.campaign == campaign and start_us <= each.at_us < end_us
        ]
        treated = [each for each in made if each.decision.reason is Reason.DECIDED]
        control = [each for each in made if each.decision.reason is Reason.CONTROL]
        sent = [each for each in treated if each.sent]
        bought = [each for each in made if OutcomeKind.ORDERED in each.outcomes]
        happened = [kind for kind, at_us in self.events if start_us <= at_us < end_us]
        return CampaignFigures(
            campaign=campaign,
            start_us=start_us,
            end_us=end_us,
            events=happened.count(TRIGGERS[campaign]),
            matched=len(spoken),
            lost=dict(Counter(each for each in spoken if each not in (Reason.DECIDED, Reason.CONTROL))),
            decided=spoken.count(Reason.DECIDED),
            sent=len(sent),
            delivered=sum(OutcomeKind.DELIVERED in each.outcomes for each in sent),
            answered=sum(any(kind in each.outcomes for kind in SAID) for each in treated),
            converted=sum(OutcomeKind.ORDERED in each.outcomes for each in sent),
            treated=len({each.who for each in treated}),
            treated_converted=len({each.who for each in bought if each in treated}),
            control=len({each.who for each in control}),
            control_converted=len({each.who for each in bought if each in control}),
            by_outcome=dict(Counter(kind for each in sent for kind in each.outcomes)),
            cost=sum(each.decision.cost for each in sent),
        )

    def busy(self, channel: str, start_us: int, end_us: int) -> tuple[int, int]:
        """Contacts decided for the channel, and those of its busiest second."""
        times = Counter(
            each.at_us // 1_000_000
            for each in self.made.values()
            if each.decision.reason is Reason.DECIDED
            and each.decision.channel == channel
            and start_us <= each.at_us < end_us
        )
        return times.total(), max(times.values(), default=0)

    def frequencies(self) -> dict[int, int]:
        """Number of contacts -> customers who had so many."""
        real = (each for each in self.made.values() if each.decision.reason is Reason.DECIDED and each.sent)
        return dict(Counter(Counter(each.who for each in real).values()))
