"""Prompts on manual bulk channels: the service itself shows them when a client has room."""

from __future__ import annotations

import pytest
from opportune_rulebase.policies import Mode
from opportune_service.app.advise import Visit, advise
from opportune_service.app.context import ImportItem, import_context
from opportune_service.app.deliver import Settled
from opportune_service.app.errors import InvalidRequestError
from opportune_service.app.records import DecisionFilter, ForeignContact, Lease, Settlement
from opportune_service.bootstrap import Application
from opportune_service.clocks import ManualClock
from opportune_service.core.events import Encoding, Event, ImportMode
from opportune_service.core.verdict import Contact, ContactState, Reason
from support.applications import activate, in_loop, running
from support.rulebases import NOON_US
from support.small_rulebase import mms, small_rulebase, subscribers

HOUR_US = 3_600_000_000
PEOPLE = subscribers(3)
NIGHT = b"""
quiet_hours:
  night: {from: "22:00", to: "08:00", otherwise: drop}
"""


def rulebase(*, policies: bytes = b"", limit: int = 9) -> dict[str, bytes]:
    """Whoever sent a large MMS and then an SMS is called, or offered it at the counter."""
    files = small_rulebase(threshold=1_000, weekly_limit=limit)
    files["vocabulary.yaml"] = files["vocabulary.yaml"].replace(
        b"counter: {mode: manual}", b"counter: {mode: manual}, outbound: {mode: manual, bulk: true}"
    )
    files["campaigns/care-plan.yaml"] = (
        files["campaigns/care-plan.yaml"]
        .replace(b"channels: [counter]", b"channels: [outbound, counter]\nexpires_after: 3d")
        .replace(
            b'content: {counter: "Offer the care plan."}',
            b'content: {counter: "Offer the care plan.", outbound: "Call about the care plan."}',
        )
    )
    files["policies.yaml"] += policies
    return files


async def prompt(app: Application, *people: str) -> list[str]:
    """Have each of them a prompt that waits; the decisions."""
    now_us = app.clock.now_us()
    events = [mms(who, f"m{who}{now_us}", now_us, 300) for who in people]
    events += [Event(f"s{who}{now_us}", who, "sms_sent", now_us) for who in people]
    receipt = await app.ingest.publish("smsc", events)
    return [each.id for verdict in receipt.verdicts for each in verdict.decisions if each.channel]


async def contacts(app: Application, who: str) -> list[Contact]:
    def read() -> list[Contact]:
        with app.ledger.transaction() as tx:
            return tx.histories([who], 0, NOON_US)[who].contacts

    return await app.thread.run(read)


async def reasons(app: Application, who: str) -> list[Reason]:
    listed = await app.insight.decisions(DecisionFilter(subscriber_id=who), 0, 100, newest_first=False)
    return [each.reason for each in listed]


async def waiting_of(app: Application, who: str) -> list[str]:
    """The decisions of the prompts that wait."""
    prompts = await app.thread.run(app.ledger.prompts, who, app.clock.now_us())
    return [each.decision_id for each in prompts]


def record(app: Application, contact: ForeignContact) -> None:
    with app.ledger.transaction() as tx:
        tx.record_contacts([contact])


def move(app: Application, by_us: int) -> None:
    assert isinstance(app.clock, ManualClock)
    app.clock.value_us += by_us


async def send(app: Application, lease: Lease) -> None:
    said = Settled(lease.decision_id, lease.token, lease.attempt, Settlement.SENT)
    assert await app.deliveries.settle([said]) == [True]


def test_no_more_are_shown_than_the_pace_lets_go_out() -> None:
    """What is shown is reserved, so it must not wait in a line."""

    async def body() -> None:
        files = rulebase()
        files["vocabulary.yaml"] = files["vocabulary.yaml"].replace(
            b"bulk: true}", b"bulk: true, per_second: 1}"
        )
        people = subscribers(9)
        async with running(files=files, people=people) as app:
            await prompt(app, *people)
            for leased in range(1, 4):
                move(app, 1_000_000)
                assert len(await app.deliveries.lease("outbound", 5)) == 1
                assert sum([bool(await contacts(app, who)) for who in people]) == leased

    in_loop(body)


def test_prompts_reserve_nothing_until_a_client_has_room_and_are_then_leased() -> None:
    async def body() -> None:
        async with running(files=rulebase(), people=PEOPLE) as app:
            for who in PEOPLE:
                assert len(await prompt(app, who)) == 1
                move(app, 1)
            assert not any([await contacts(app, who) for who in PEOPLE])
            leases = await app.deliveries.lease("outbound", 2)
            assert [each.subscriber_id for each in leases] == PEOPLE[:2]
            assert {each.content for each in leases} == {"Call about the care plan."}
            assert [len(await contacts(app, who)) for who in PEOPLE] == [1, 1, 0]
            assert (await contacts(app, PEOPLE[0]))[0].channel == "outbound"
            for lease in leases:
                await send(app, lease)
            (third,) = await app.deliveries.lease("outbound", 9)
            assert third.subscriber_id == PEOPLE[2]
            await send(app, third)
            assert await app.deliveries.lease("outbound", 9) == []
            assert not any([await waiting_of(app, who) for who in PEOPLE])

    in_loop(body)


def test_a_prompt_that_is_shown_at_the_counter_first_is_not_called_about() -> None:
    async def body() -> None:
        async with running(files=rulebase(), people=PEOPLE) as app:
            (waiting,) = await prompt(app, PEOPLE[0])
            visit = Event("v1", PEOPLE[0], "counter_visit", NOON_US)
            await app.ingest.publish(
                "advise", [visit], touch_point="counter", prompts={"care-plan": waiting}
            )
            assert [each.channel for each in await contacts(app, PEOPLE[0])] == ["counter"]
            assert await app.deliveries.lease("outbound", 9) == []

    in_loop(body)


def test_a_prompt_that_a_cap_refuses_waits_and_is_not_asked_about_again_and_again() -> None:
    async def body() -> None:
        async with running(files=rulebase(), people=PEOPLE) as app:
            who = PEOPLE[0]
            (waiting,) = await prompt(app, who)
            await activate(app, rulebase(limit=0))
            for _ in range(5):
                assert await app.deliveries.lease("outbound", 9) == []
                move(app, 1_000_000)
            assert (await reasons(app, who)).count(Reason.CAPPED) == 1
            assert await waiting_of(app, who) == [waiting]
            move(app, HOUR_US)
            assert await app.deliveries.lease("outbound", 9) == []
            assert (await reasons(app, who)).count(Reason.CAPPED) == 2
            assert await contacts(app, who) == []

    in_loop(body)


def test_a_prompt_is_asked_about_again_when_its_cap_frees_or_on_the_next_day() -> None:
    """A week's cap that is full: one verdict a day, not one an hour."""

    async def body() -> None:
        async with running(files=rulebase(), people=PEOPLE) as app:
            who = PEOPLE[0]
            await prompt(app, who)
            theirs = Contact(
                *("c1", "theirs", "care-plan", "care", "counter", Mode.MANUAL, app.clock.now_us()),
                state=ContactState.COMMITTED,
                origin="crm",
            )
            await app.thread.run(record, app, ForeignContact(who, theirs, ""))
            await activate(app, rulebase(limit=1))
            for hour in range(71):
                assert await app.deliveries.lease("outbound", 9) == []
                assert (await reasons(app, who)).count(Reason.CAPPED) == hour // 24 + 1
                move(app, HOUR_US)

    in_loop(body)


def test_nothing_is_shown_in_quiet_hours_and_all_at_their_end() -> None:
    async def body() -> None:
        async with running(files=rulebase(policies=NIGHT), people=PEOPLE) as app:
            await prompt(app, PEOPLE[0])
            before = await reasons(app, PEOPLE[0])
            move(app, 10 * HOUR_US)
            for _ in range(10):
                assert await app.deliveries.lease("outbound", 9) == []
                move(app, HOUR_US)
            assert await reasons(app, PEOPLE[0]) == before
            assert len(await app.deliveries.lease("outbound", 9)) == 1

    in_loop(body)


def test_prompts_that_are_refused_do_not_hide_those_behind_them() -> None:
    """More than a page of them."""

    async def body() -> None:
        people = subscribers(131)
        files = rulebase()
        files["campaigns/care-plan.yaml"] += b"target: sub.age > 20\n"
        async with running(files=files, people=people) as app:
            await tell_ages(app, people, 30)
            await prompt(app, *people[:130])
            move(app, 1)
            await prompt(app, people[130])
            await tell_ages(app, people[:130], 10)
            leases = []
            for _ in range(8):
                leases += await app.deliveries.lease("outbound", 100)
            assert [each.subscriber_id for each in leases] == people[130:]

    in_loop(body)


async def tell_ages(app: Application, people: list[str], age: int) -> None:
    items = [ImportItem(who, b'{"age": %d}' % age) for who in people]
    await import_context(app.live, app.ingest, items, app.clock.now_us(), ImportMode.PATCH, Encoding.JSON)


def test_a_bulk_channel_is_no_place_to_ask_at() -> None:
    """Its offers are handed over as deliveries: shown to a person as well, they would be made twice."""

    async def body() -> None:
        async with running(files=rulebase(), people=PEOPLE) as app:
            await prompt(app, PEOPLE[0])
            visit = Visit(PEOPLE[0], "outbound", "v1", "mms_sent")
            with pytest.raises(InvalidRequestError, match=r"must be one of: counter$"):
                await advise(app.live, app.ingest, app.ledger, app.thread, app.clock, visit)
            assert not await contacts(app, PEOPLE[0])

    in_loop(body)
