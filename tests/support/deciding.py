"""Random lives of subscribers, decided by the core and by the naive oracle side by side."""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from datetime import date
from typing import Any

from opportune_rulebase.policies import Mode, OutcomeKind, Quota
from opportune_service.core.decide import decide, decision_id, encode_verdict, usage_keys
from opportune_service.core.verdict import (
    Candidate,
    Contact,
    ContactState,
    Decision,
    EventKey,
    History,
    Moment,
    Outcome,
    Profile,
    Trigger,
    Usage,
    usage_of,
)
from support.decision_oracle import Answer, Oracle
from support.naive_policies import (
    Heard,
    Said,
    Waits,
    counts_for,
    effective_limit,
    in_control,
    in_period,
    is_quiet,
    local,
    meant,
    zone_named,
)
from support.random_policies import (
    AUTOMATIC,
    DAY_US,
    HOUR_US,
    MANUAL,
    MINUTE_US,
    STARTS,
    ZONES,
    random_rulebase,
)


class Life:
    """What happens to a few subscribers, one step after the other, in the core and in the oracle.

    `compared`: every answer and what is left behind must be the same in both.
    """

    def __init__(self, seed: int, people: int = 3, *, compared: bool = True) -> None:
        self.rng = rng = random.Random(seed)
        self.now_us = rng.choice(STARTS)
        self.rulebase = random_rulebase(rng, self.now_us)
        self.oracle = Oracle(self.rulebase)
        self.compared = compared
        self.people = {f"86138000000{n:02}": rng.choice(ZONES) for n in range(people)}
        self.histories = {person: History() for person in self.people}
        self.usage: Usage = {}
        self.paused: set[str] = set()
        self.step = 0
        self.decisions: list[Decision] = []
        self.made: list[tuple[str, Contact]] = []  # all contacts, in the order in which they were made

    def live(self, steps: int) -> None:
        for _ in range(steps):
            self.step += 1
            person = self.rng.choice(list(self.people))
            self.now_us = self._later(person)
            happens = [
                (6, self._event),
                (3, self._due),
                (2, self._visit),
                (2, self._outcome),
                (1, self._release),
                (1, self._foreign),
                (0.3, self._pause),
            ]
            weights, steps_ = zip(*happens, strict=True)
            self.rng.choices(steps_, weights)[0](person)

    def _later(self, person: str) -> int:
        """Some time on; now and then the very instant at which a contact leaves the window of a cap; at
        times somewhat back, as clocks go."""
        edges = [
            contact.at_us + cap.rolling_us - self.rng.choice([0, 1])
            for contact in self.histories[person].contacts
            for cap in self.rulebase.policies.caps
            if cap.rolling_us is not None
        ]
        ahead = [edge_us for edge_us in edges if edge_us > self.now_us]
        if ahead and self.rng.random() < 0.2:
            return self.rng.choice(ahead)
        far = [MINUTE_US, 20 * MINUTE_US, HOUR_US, 5 * HOUR_US, DAY_US]
        return self.now_us + self.rng.choice([0, 7, *far, -3 * MINUTE_US])

    # What may happen.

    def _event(self, person: str) -> None:
        fresh = [self._candidate(name) for name in self.rulebase.campaigns if self.rng.random() < 0.7]
        late_us = self.rng.choice([0] * 20 + [6 * MINUTE_US])
        due = self._due_candidates(person)
        self._decide(person, [*fresh, *due], late_us=late_us)

    def _due(self, person: str) -> None:
        deferrals = self.histories[person].deferrals
        if deferrals:
            self.now_us = max(self.now_us, min(each.due_us for each in deferrals))
            self._decide(person, self._due_candidates(person), late_us=DAY_US)

    def _visit(self, person: str) -> None:
        place = self.rng.choice(MANUAL)
        open_there = [
            self._candidate(prompt.campaign, prompt_of=prompt.decision_id)
            for prompt in self.histories[person].prompts
            if prompt.channel == place or self.rng.random() < 0.1
        ]
        fresh = [self._candidate(name) for name in self.rulebase.campaigns if self.rng.random() < 0.5]
        self._decide(person, [*fresh, *open_there], touch_point=place)

    def _outcome(self, person: str) -> None:
        contacts = self.histories[person].contacts
        if contacts:
            contact = self.rng.choice(contacts)
            kind = self.rng.choice([*OutcomeKind, OutcomeKind.COMPLAINED, OutcomeKind.COMPLAINED])
            self.histories[person].outcomes.append(
                Outcome(
                    *(contact.decision_id, kind, self.now_us),
                    *(contact.campaign, contact.product, contact.category),
                )
            )
            self.oracle.outcomes.append(
                Heard(
                    *(contact.decision_id, person, kind.value, self.now_us),
                    *(contact.campaign, contact.product, contact.category),
                )
            )

    def _release(self, person: str) -> None:
        real = [each for each in self.histories[person].contacts if not each.control and not each.origin]
        if real:
            contact = self.rng.choice(real)
            self.histories[person].contacts.remove(contact)
            for key, amount in usage_of(contact).items():
                self.usage[key] -= amount
            for said in self.oracle.contacts:
                said.released = said.released or said.id == contact.decision_id

    def _foreign(self, person: str) -> None:
        channel, id_ = self.rng.choice(["sms", "counter", "letter"]), f"crm-{self.step}"
        at_us = self.now_us - self.rng.choice([0, HOUR_US, 2 * DAY_US])
        open_until_us = self.now_us + self.rng.choice([0, HOUR_US])
        product = self.rng.choice(["music", "games", "loans"])
        mode = Mode.AUTOMATIC if channel == "sms" else Mode.MANUAL
        contact = Contact(
            *(id_, "theirs", product, "fun", channel, mode, at_us, ContactState.COMMITTED),
            origin="crm",
            open_until_us=open_until_us,
        )
        self.histories[person].contacts.append(contact)
        self.made.append((person, contact))
        said = Said(id_, person, "theirs", product, "fun", channel, mode.value, at_us)
        said.foreign, said.open_until_us = True, open_until_us
        self.oracle.contacts.append(said)

    def _pause(self, _: str) -> None:
        some = self.rng.choice(list(self.rulebase.campaigns))
        self.paused = set() if self.paused else {some}

    # How it is decided.

    def _candidate(self, campaign: str, **known: Any) -> Candidate:
        rng, channels = self.rng, self.rulebase.campaigns[campaign].channels
        given: dict[str, Any] = {
            "campaign": campaign,
            "target": rng.choice([True] * 30 + [None, False]),
            "terminal_ok": {name: rng.choice([True] * 20 + [False]) for name in channels},
            "suppressed_by": rng.choice([()] * 18 + [("no-sms",), ("all",)]),
            "propensity": rng.choice([None, 0.1, 0.9]),
            "content": {name: rng.choice(["hello"] * 20 + [None]) for name in channels},
            "held": {},
            "trigger": Trigger("ping", self.now_us),
        }
        return Candidate(**(given | known))

    def _due_candidates(self, person: str) -> list[Candidate]:
        gone = [
            self._candidate(name, deferred_of="gone", attempt=2)
            for name in self.rulebase.campaigns
            if self.rng.random() < 0.02
        ]
        return gone + [
            self._candidate(
                each.campaign,
                deferred_of=each.decision_id,
                attempt=each.attempt + 1,
                expires_us=each.expires_us,
                trigger=each.trigger,
            )
            for each in self.histories[person].deferrals
            if each.due_us <= self.now_us
        ]

    def _decide(
        self, person: str, candidates: Sequence[Candidate], late_us: int = 0, touch_point: str = ""
    ) -> None:
        rng = self.rng
        by_campaign = {candidate.campaign: candidate for candidate in candidates}
        if not by_campaign:
            return
        moment = Moment(
            key=EventKey(person, "test", str(self.step)),
            event_type="ping",
            occurred_at_us=self.now_us - late_us,
            now_us=self.now_us,
            profile=Profile(
                known=rng.random() < 0.95,
                zone=self.people[person],
                status=rng.choice(["active"] * 18 + [None, "suspended"]),
                do_not_contact=rng.choice([None] * 30 + [True]),
                products=rng.choice([("base",)] * 16 + [(), ("base", "games")]),
                consents={
                    purpose: rng.random() < 0.8
                    for purpose in ("channel/sms", "channel/push", "category/net")
                    if rng.random() < 0.3
                },
            ),
            candidates=tuple(by_campaign[name] for name in sorted(by_campaign)),
            touch_point=touch_point,
            channel_scores={name: rng.choice([0.1, 0.5]) for name in AUTOMATIC if rng.random() < 0.5},
            segment=tuple(rng.sample(AUTOMATIC, rng.randrange(3))),
        )
        history = self.histories[person]
        before = len(history.contacts)
        repeated = copy.deepcopy(history), dict(self.usage)
        loaded = {key: self.usage.get(key, 0) for key in sorted(usage_keys(self.rulebase, moment))}
        read = list(loaded)
        verdict = decide(self.rulebase, moment, history, loaded, frozenset(self.paused))
        again = decide(self.rulebase, moment, *repeated, sorted(self.paused))
        assert encode_verdict(verdict) == encode_verdict(again)
        assert history == repeated[0]
        self._keep(person, history.contacts[before:])
        assert {key: loaded[key] for key in read} == {key: self.usage.get(key, 0) for key in read}
        if self.compared:
            expected = self.oracle.decide(moment, self.paused, lambda name: decision_id(moment.key, name))
            assert {decision.campaign: _answer(decision) for decision in verdict.decisions} == expected
            self._same_ledgers(person)
        self.decisions.extend(verdict.decisions)

    def _keep(self, person: str, contacts: Sequence[Contact]) -> None:
        self.made.extend((person, contact) for contact in contacts)
        for contact in contacts:
            for key, amount in usage_of(contact).items():
                self.usage[key] = self.usage.get(key, 0) + amount

    def _same_ledgers(self, person: str) -> None:
        history = self.histories[person]
        theirs = [said for said in self.oracle.contacts if said.subscriber == person and not said.released]
        assert {each.decision_id: each.control for each in history.contacts} == {
            said.id: said.control for said in theirs
        }
        now_us = self.now_us
        assert {
            each.campaign: Waits(each.decision_id, expires_us=each.expires_at_us)
            for each in history.prompts
            if each.expires_at_us > now_us
        } == {
            campaign: waits
            for (whose, campaign), waits in self.oracle.prompts.items()
            if whose == person and waits.expires_us > now_us
        }
        assert {
            each.campaign: Waits(each.decision_id, each.due_us, each.expires_us, each.settling)
            for each in history.deferrals
        } == {
            campaign: waits for (whose, campaign), waits in self.oracle.deferrals.items() if whose == person
        }

    # Whether anything was exceeded, whatever either of them thought.

    def violations(self) -> list[str]:
        """Every contact that some policy should have stopped, counted over those that were not released."""
        standing = {each.decision_id for history in self.histories.values() for each in history.contacts}
        kept = [(person, each) for person, each in self.made if each.decision_id in standing]
        found = []
        for place, (person, contact) in enumerate(kept):
            if contact.origin:
                continue
            found += self._over_caps(person, contact, kept[:place])
            campaign = self.rulebase.campaigns[contact.campaign]
            if contact.control != in_control(self.rulebase, campaign, person):
                found.append(f"{contact.decision_id}: control group")
            zone = zone_named(self.rulebase, self.people[person])
            if is_quiet(self.rulebase, campaign, contact.channel, contact.at_us, zone):
                found.append(f"{contact.decision_id}: quiet hours")
        real = [each for _, each in kept if not each.control and not each.origin]
        return found + self._over_quotas(real)

    def _over_caps(
        self, person: str, contact: Contact, earlier: Sequence[tuple[str, Contact]]
    ) -> list[str]:
        campaign = self.rulebase.campaigns[contact.campaign]
        zone = zone_named(self.rulebase, self.people[person])
        this = _said(person, contact)
        return [
            f"{contact.decision_id}: {cap.name}"
            for cap in self.rulebase.policies.caps
            if cap.name not in campaign.exempt
            and meant(cap.applies_to, this)
            and 1
            + sum(
                whose == person
                and counts_for(cap, _said(person, each), this)
                and in_period(cap, each.at_us, contact.at_us, zone)
                for whose, each in earlier
            )
            > effective_limit(cap, campaign)
        ]

    def _over_quotas(self, real: Sequence[Contact]) -> list[str]:
        def day(contact: Contact) -> date:
            return local(contact.at_us, self.rulebase.time_zone).date()

        found = []
        for campaign in self.rulebase.campaigns.values():
            ours = [each for each in real if each.campaign == campaign.name]
            quota = campaign.quota or Quota()
            days = [day(each) for each in ours]
            costs = sum(self.rulebase.vocabulary.channels[each.channel].cost for each in ours)
            if quota.per_day is not None and any(days.count(each) > quota.per_day for each in days):
                found.append(f"{campaign.name}: per_day")
            if quota.total is not None and len(ours) > quota.total:
                found.append(f"{campaign.name}: total")
            if quota.budget is not None and costs > quota.budget:
                found.append(f"{campaign.name}: budget")
        for channel in self.rulebase.vocabulary.channels.values():
            days = [day(each) for each in real if each.channel == channel.name]
            if channel.per_day is not None and any(days.count(each) > channel.per_day for each in days):
                found.append(f"{channel.name}: capacity")
        return found


def _said(person: str, contact: Contact) -> Said:
    return Said(
        *(contact.decision_id, person, contact.campaign, contact.product, contact.category),
        *(contact.channel, contact.mode.value, contact.at_us),
    )


def _answer(decision: Decision) -> Answer:
    return Answer(
        reason=decision.reason.value,
        fate=decision.fate.value if decision.fate else None,
        channel=decision.channel,
        due_us=decision.due_us,
        expires_us=decision.expires_at_us,
        shown=decision.shown,
        lost_to=decision.lost_to,
        group=decision.group,
    )
