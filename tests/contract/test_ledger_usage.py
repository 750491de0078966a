"""The usage counters are always what the unreleased contacts come to, whatever happened to them.

The oracle counts the contacts of the histories anew after every step, by a formula of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opportune_rulebase.policies import Mode, OutcomeKind
from opportune_service.adapters.sql import SqlLedger, contacts
from opportune_service.app.errors import UnknownDecisionError
from opportune_service.app.ports import Ledger
from opportune_service.app.records import DeliveryState, ForeignContact, Lease, Settlement
from opportune_service.core.verdict import (
    Contact,
    Decision,
    Reason,
    Response,
    Usage,
    UsageKey,
    UsageKind,
    Verdict,
)
from support.verdicts import HOUR_US, NOON_US, decision, shown, verdict, waiting

WHO = ("8613800000001", "8613800000002")
CAMPAIGNS = ("night", "roaming")
CHANNELS = ("sms", "wap", "counter")
DAYS = (19_675, 19_676)
STEPS = 24
STEP_US = HOUR_US // 12
LEASE_US = 3 * STEP_US
HOURS = 3  # that the steps lie in

KEYS = [
    *(UsageKey(UsageKind.CAMPAIGN_TOTAL, name) for name in CAMPAIGNS),
    *(UsageKey(UsageKind.CAMPAIGN_COST, name) for name in CAMPAIGNS),
    *(UsageKey(UsageKind.CAMPAIGN_DAY, name, day) for name in CAMPAIGNS for day in DAYS),
    *(UsageKey(UsageKind.CHANNEL_DAY, name, day) for name in CHANNELS for day in DAYS),
    *(
        UsageKey(UsageKind.CAMPAIGN_HOUR, name, NOON_US // HOUR_US + hour)
        for name in CAMPAIGNS
        for hour in range(HOURS)
    ),
]


def usage(ledger: Ledger, keys: list[UsageKey] = KEYS) -> Usage:
    with ledger.transaction() as tx:
        return {key: value for key, value in tx.usage(keys).items() if value}


def counted_anew(ledger: Ledger) -> Usage:
    with ledger.transaction() as tx:
        histories = tx.histories(WHO, 0, 0)
    counts: Counter[UsageKey] = Counter()
    for history in histories.values():
        for contact in history.contacts:
            if contact.control or contact.origin != "":
                continue
            counts[UsageKey(UsageKind.CAMPAIGN_TOTAL, contact.campaign, 0)] += 1
            counts[UsageKey(UsageKind.CAMPAIGN_COST, contact.campaign, 0)] += contact.cost
            counts[UsageKey(UsageKind.CAMPAIGN_DAY, contact.campaign, contact.day)] += 1
            counts[UsageKey(UsageKind.CHANNEL_DAY, contact.channel, contact.day)] += 1
            hours = contact.at_us // HOUR_US
            counts[UsageKey(UsageKind.CAMPAIGN_HOUR, contact.campaign, hours)] += 1
    return {key: value for key, value in counts.items() if value}


class Life:
    """What happens to a ledger, step by step. One that means nothing as things stand does nothing."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.now_us = NOON_US
        self.decided: list[str] = []
        self.leases: list[Lease] = []

    def pick(self, index: int) -> str:
        return self.decided[index % len(self.decided)]

    def decide(self, drawn: list[tuple[Any, ...]]) -> None:
        verdicts: list[Verdict] = []
        for who, build, campaign, channel, day, cost, reason, bulk in drawn:
            id_ = f"d{len(self.decided)}"
            self.decided.append(id_)
            made: Decision = build(
                id_, campaign=campaign, channel=channel, day=day, cost=cost, reason=reason, bulk=bulk
            )
            verdicts.append(verdict(who, f"e-{id_}", made, at_us=self.now_us))
        with self.ledger.transaction() as tx:
            tx.record_verdicts(verdicts)

    def show(self, index: int) -> None:
        """A prompt, shown."""
        for who in WHO:
            prompts = self.ledger.prompts(who, 0)
            if prompts:
                prompt = prompts[index % len(prompts)]
                made = shown(
                    f"d{len(self.decided)}",
                    prompt_of=prompt.decision_id,
                    campaign=prompt.campaign,
                    day=DAYS[0],
                )
                self.decided.append(made.id)
                with self.ledger.transaction() as tx:
                    tx.record_verdicts([verdict(who, f"e-{made.id}", made, at_us=self.now_us)])
                return

    def outcome(self, index: int, kind: OutcomeKind) -> None:
        try:
            with self.ledger.transaction() as tx:
                tx.record_outcome(self.pick(index), kind, self.now_us)
        except UnknownDecisionError:
            pass

    def lease(self, channel: str, limit: int) -> None:
        with self.ledger.transaction() as tx:
            waiting_ = tx.waiting(channel, limit, self.now_us)
            leases = [
                Lease(
                    decision_id=each.decision_id,
                    token=each.token + 1,
                    attempt=each.attempts + 1,
                    subscriber_id=each.subscriber_id,
                    channel=each.channel,
                    campaign=each.campaign,
                    product=each.product,
                    content=each.content,
                    lease_until_us=self.now_us + LEASE_US,
                    expires_at_us=each.expires_at_us,
                )
                for each in waiting_
            ]
            tx.lease(leases, DAYS[0])
        self.leases += leases

    def settle(self, index: int, settlement: Settlement) -> None:
        if self.leases:
            given = self.leases[index % len(self.leases)]
            with self.ledger.transaction() as tx:
                tx.settle(given.decision_id, given.token, settlement, self.now_us, self.now_us)

    def end(self, index: int, state: DeliveryState) -> None:
        id_ = self.pick(index)
        found = self.ledger.delivery_of(id_)
        if found and found[0] in (DeliveryState.PENDING, DeliveryState.LEASED):
            with self.ledger.transaction() as tx:
                tx.end_deliveries({id_: state}, self.now_us)

    def respond(self, who: str, kind: OutcomeKind, channel: str) -> None:
        campaigns = dict.fromkeys(CAMPAIGNS, HOURS * HOUR_US) if kind is OutcomeKind.ORDERED else {}
        with self.ledger.transaction() as tx:
            tx.respond([Response(who, self.now_us, kind, channel, campaigns)])

    def import_contact(self, index: int, who: str) -> None:
        contact = Contact(
            *(str(index), CAMPAIGNS[0], "product", "category", "sms", Mode.MANUAL, self.now_us),
            origin="crm",
            day=DAYS[0],
            cost=9,
        )
        with self.ledger.transaction() as tx:
            tx.record_contacts([ForeignContact(who, contact, "")])


_index = st.integers(0, 20)
_who = st.sampled_from(WHO)
_decided = st.tuples(
    _who,
    st.sampled_from([decision, decision, shown, waiting]),
    st.sampled_from(CAMPAIGNS),
    st.sampled_from(CHANNELS),
    st.sampled_from(DAYS),
    st.integers(0, 3),
    st.sampled_from([Reason.DECIDED] * 4 + [Reason.CONTROL, Reason.CAPPED]),
    st.booleans(),
)
_steps = st.one_of(
    st.tuples(st.just(Life.decide), st.lists(_decided, min_size=1, max_size=4)),
    st.tuples(st.just(Life.show), _index),
    st.tuples(st.just(Life.outcome), _index, st.sampled_from(OutcomeKind)),
    st.tuples(st.just(Life.outcome), _index, st.just(OutcomeKind.NOT_OFFERED)),
    st.tuples(st.just(Life.lease), st.sampled_from(CHANNELS), st.integers(1, 3)),
    st.tuples(st.just(Life.settle), _index, st.sampled_from(Settlement)),
    st.tuples(
        st.just(Life.end),
        _index,
        st.sampled_from([DeliveryState.EXPIRED, DeliveryState.DEAD, DeliveryState.WITHDRAWN]),
    ),
    st.tuples(
        st.just(Life.respond),
        _who,
        st.sampled_from([OutcomeKind.ORDERED, OutcomeKind.ACCEPTED, OutcomeKind.REFUSED]),
        st.sampled_from(CHANNELS),
    ),
    st.tuples(st.just(Life.import_contact), _index, _who),
)
Step = tuple[Any, ...]


@contextmanager
def opened() -> Iterator[Ledger]:
    ledger = SqlLedger.open("sqlite://")
    try:
        yield ledger
    finally:
        ledger.close()


def live(steps: list[Step]) -> None:
    with opened() as ledger:
        life = Life(ledger)
        life.decide([(WHO[0], decision, CAMPAIGNS[0], "sms", DAYS[0], 2, Reason.DECIDED, False)])
        for step, *drawn in steps:
            step(life, *drawn)
            assert usage(ledger) == counted_anew(ledger)
            life.now_us += STEP_US


@settings(max_examples=60, deadline=None)
@given(st.lists(_steps, max_size=STEPS))
def test_counters_are_what_unreleased_contacts_come_to(steps: list[Step]) -> None:
    live(steps)


@pytest.mark.parametrize("ignored", [-1, 1])
def test_the_law_fails_where_counting_is_left_out(monkeypatch: pytest.MonkeyPatch, ignored: int) -> None:
    count: Callable[..., None] = contacts.count_contacts

    def forgetful(connection: object, changed: Iterator[tuple[Contact, int]]) -> None:
        count(connection, [(contact, times) for contact, times in changed if times != ignored])

    monkeypatch.setattr(contacts, "count_contacts", forgetful)
    with pytest.raises(AssertionError):
        live([(Life.outcome, 0, OutcomeKind.NOT_OFFERED), (Life.outcome, 0, OutcomeKind.ACCEPTED)])


# -- by example, on every store ---------------------------------------------------------------------


def test_usage_adds_up_over_subscribers_and_calls(ledger: Ledger) -> None:
    for n in range(3):
        made = decision(f"d{n}", campaign="night", day=DAYS[0], cost=5)
        with ledger.transaction() as tx:
            tx.record_verdicts([verdict(f"8613800{n:04}", f"e{n}", made, at_us=NOON_US + n * HOUR_US // 2)])
    assert usage(ledger) == {
        UsageKey(UsageKind.CAMPAIGN_TOTAL, "night"): 3,
        UsageKey(UsageKind.CAMPAIGN_COST, "night"): 15,
        UsageKey(UsageKind.CAMPAIGN_DAY, "night", DAYS[0]): 3,
        UsageKey(UsageKind.CHANNEL_DAY, "sms", DAYS[0]): 3,
        UsageKey(UsageKind.CAMPAIGN_HOUR, "night", NOON_US // HOUR_US): 2,
        UsageKey(UsageKind.CAMPAIGN_HOUR, "night", NOON_US // HOUR_US + 1): 1,
    }


def test_evidence_after_a_release_counts_again(ledger: Ledger) -> None:
    total = UsageKey(UsageKind.CAMPAIGN_TOTAL, "night")
    with ledger.transaction() as tx:
        tx.record_verdicts([verdict(WHO[0], "e1", shown("s1", campaign="night"))])
    for kind, expected in (
        (OutcomeKind.NOT_OFFERED, {}),
        (OutcomeKind.ACCEPTED, {total: 1}),
        (OutcomeKind.DELIVERED, {total: 1}),
    ):
        with ledger.transaction() as tx:
            tx.record_outcome("s1", kind, NOON_US)
        assert usage(ledger, [total]) == expected
