"""What every `Ledger` must say of what waits for channel clients."""

from __future__ import annotations

import random
from collections import defaultdict

from opportune_service.app.ports import Ledger
from opportune_service.app.records import Backlog, DeliveryState, Lease, Settlement
from support.verdicts import HOUR_US, NOON_US, SECOND_US, decision, verdict

LEASE_US = 30 * SECOND_US


def record(ledger: Ledger, n: int, channel: str, at_us: int = NOON_US) -> None:
    made = decision(f"d{n}", channel=channel, expires_at_us=NOON_US + 24 * HOUR_US)
    with ledger.transaction() as tx:
        tx.record_verdicts([verdict(f"86138{n:08}", f"event-{n}", made, at_us=at_us)])


def lease(ledger: Ledger, channel: str, limit: int, now_us: int) -> list[Lease]:
    with ledger.transaction() as tx:
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
                lease_until_us=now_us + LEASE_US,
                expires_at_us=each.expires_at_us,
            )
            for each in tx.waiting(channel, limit, now_us)
        ]
        tx.lease(leases, 20_000)
    return leases


def test_nothing_waits_at_first(ledger: Ledger) -> None:
    assert list(ledger.backlogs(NOON_US)) == []


def test_what_waits_and_what_is_held_is_told_apart(ledger: Ledger) -> None:
    for n, channel in enumerate(["sms", "sms", "sms", "app"]):
        record(ledger, n, channel, NOON_US + n * SECOND_US)
    now_us = NOON_US + 10 * SECOND_US
    app = Backlog("app", 1, NOON_US + 3 * SECOND_US, 0, 0)
    assert list(ledger.backlogs(now_us)) == [app, Backlog("sms", 3, NOON_US, 0, 0)]
    [first] = lease(ledger, "sms", 1, now_us)
    assert list(ledger.backlogs(now_us)) == [
        app,
        Backlog("sms", 2, NOON_US + SECOND_US, 1, now_us + LEASE_US),
    ]
    # A lease that ran out is there for others.
    assert list(ledger.backlogs(now_us + LEASE_US))[1] == Backlog("sms", 3, NOON_US + SECOND_US, 0, 0)
    with ledger.transaction() as tx:
        tx.settle(first.decision_id, first.token, Settlement.RETRY, now_us, now_us + HOUR_US)
    assert list(ledger.backlogs(now_us))[1] == Backlog("sms", 2, NOON_US + SECOND_US, 0, 0)
    with ledger.transaction() as tx:
        tx.end_deliveries({f"d{n}": DeliveryState.WITHDRAWN for n in range(4)}, now_us)
    assert list(ledger.backlogs(now_us + 2 * HOUR_US)) == []


def test_it_is_what_a_count_of_the_deliveries_says(ledger: Ledger) -> None:
    rng = random.Random(5)
    available: dict[str, tuple[str, int]] = {}
    held: dict[str, tuple[str, int]] = {}
    for n in range(60):
        channel, at_us = rng.choice(["sms", "app", "mail"]), NOON_US + rng.randrange(100) * SECOND_US
        record(ledger, n, channel, at_us)
        available[f"d{n}"] = channel, at_us
    now_us = NOON_US + 200 * SECOND_US
    for _ in range(12):
        now_us += rng.randrange(20) * SECOND_US
        for id_, (channel, until_us) in list(held.items()):
            if until_us <= now_us:
                available[id_] = channel, until_us
                del held[id_]
        for each in lease(ledger, rng.choice(["sms", "app", "mail"]), rng.randrange(6), now_us):
            channel, _ = available.pop(each.decision_id)
            held[each.decision_id] = channel, now_us + LEASE_US
        expected: defaultdict[str, list[list[int]]] = defaultdict(lambda: [[], []])
        for channel, at_us in available.values():
            expected[channel][0].append(at_us)
        for channel, at_us in held.values():
            expected[channel][1].append(at_us)
        assert list(ledger.backlogs(now_us)) == [
            Backlog(channel, len(free), min(free, default=0), len(leased), min(leased, default=0))
            for channel, (free, leased) in sorted(expected.items())
        ]
