"""Dead letters, and what holds when they are redriven: on a whole service."""

from __future__ import annotations

from opportune_rulebase.policies import OutcomeKind
from opportune_service.app.callers import Caller
from opportune_service.app.clearance import MAX_ATTEMPTS
from opportune_service.app.dead_letters import Redrive
from opportune_service.app.deliver import RETRY_AFTER_US
from opportune_service.app.records import DeliveryState, Settlement
from opportune_service.bootstrap import Application
from opportune_service.core.verdict import ContactState
from support.applications import activate, in_loop, running
from support.delivering import (
    DAY_US,
    HOUR_US,
    MINUTE_US,
    WHO,
    contacts,
    move,
    offer,
    rulebase,
    settle,
    state,
    tell,
    with_consents,
)
from support.small_rulebase import subscribers


async def kill(app: Application, who: str, tag: str = "") -> str:
    """Have a message to somebody given up."""
    (decision_id,) = await offer(app, [who], tag)
    for attempt in range(MAX_ATTEMPTS):
        (lease,) = [each for each in await app.deliveries.lease("sms", 10) if each.subscriber_id == who]
        await settle(app, lease, Settlement.RETRY)
        move(app, RETRY_AFTER_US * 2**attempt)
    assert await app.deliveries.lease("sms", 10) == []
    assert await state(app, decision_id) is DeliveryState.DEAD
    return decision_id


NOW = Redrive(Caller("ann"), "gateway is back", None)


def test_a_dead_letter_that_is_redriven_is_sent() -> None:
    async def body() -> None:
        async with running(files=rulebase()) as app:
            decision_id = await kill(app, WHO)
            assert await app.dead_letters.redrive([decision_id, "nothing"], NOW) == [decision_id]
            assert await contacts(app) == [ContactState.RESERVED]
            assert await app.dead_letters.redrive([decision_id], NOW) == []
            (lease,) = await app.deliveries.lease("sms", 10)
            assert lease.attempt == 1
            assert await settle(app, lease, Settlement.SENT)
            assert await contacts(app) == [ContactState.COMMITTED]

    in_loop(body)


def test_an_operator_of_a_branch_redrives_for_its_campaigns_alone() -> None:
    async def body() -> None:
        files = rulebase()
        async with running(files=files) as app:
            decision_id = await kill(app, WHO)
            hangzhou, ningbo = (
                Redrive(Caller(name, branches=frozenset({name})), "", None)
                for name in ("hangzhou", "ningbo")
            )
            assert await app.dead_letters.redrive([decision_id], hangzhou) == [], "it serves all branches"
            files["campaigns/mms-bundle.yaml"] += b"branches: [hangzhou]\n"
            await activate(app, files)
            assert await app.dead_letters.redrive([decision_id], ningbo) == []
            assert await app.dead_letters.redrive_all("sms", "", ningbo) == []
            assert await app.dead_letters.redrive_all("sms", "", hangzhou) == [decision_id]

    in_loop(body)


def test_redriving_never_exceeds_a_cap() -> None:
    """The dead one gave its slot back, another took it: there is none left for it until that is free."""

    async def body() -> None:
        async with running(files=rulebase(weekly_limit=1)) as app:
            decision_id = await kill(app, WHO)
            await offer(app, [WHO], "other")
            (lease,) = await app.deliveries.lease("sms", 10)
            await settle(app, lease, Settlement.SENT)
            lasting = Redrive(Caller("ann"), "", 30 * DAY_US)
            assert await app.dead_letters.redrive([decision_id], lasting) == []
            assert await state(app, decision_id) is DeliveryState.DEAD
            assert await contacts(app) == [ContactState.COMMITTED]
            move(app, 7 * DAY_US)
            assert await app.dead_letters.redrive([decision_id], lasting) == [decision_id]

    in_loop(body)


def test_redriving_all_takes_no_more_of_one_subscriber_than_the_cap() -> None:
    async def body() -> None:
        async with running(files=rulebase(weekly_limit=2)) as app:
            dead = [await kill(app, WHO, f"{n}-") for n in range(4)]
            other = await kill(app, subscribers(2)[1], "x")
            redriven = await app.dead_letters.redrive_all("sms", "", NOW)
            assert sorted(redriven) == sorted([*dead[:2], other])
            assert await app.dead_letters.redrive_all("sms", "mms-bundle", NOW) == []
            assert await app.dead_letters.redrive_all("wap", "", NOW) == []

    in_loop(body)


def test_what_reached_the_customer_after_all_is_not_redriven() -> None:
    """Every lease ran out without a word, and yet the customer refuses the offer."""

    async def body() -> None:
        async with running(files=rulebase()) as app:
            (decision_id,) = await offer(app, [WHO])
            for _ in range(MAX_ATTEMPTS):
                assert await app.deliveries.lease("sms", 10)
                move(app, MINUTE_US)
            assert await app.deliveries.lease("sms", 10) == []
            assert await state(app, decision_id) is DeliveryState.DEAD
            await app.deliveries.report_outcome(decision_id, OutcomeKind.OPENED, app.clock.now_us())
            assert await state(app, decision_id) is DeliveryState.SENT
            assert await app.dead_letters.redrive([decision_id], NOW) == []
            assert await contacts(app) == [ContactState.COMMITTED]

    in_loop(body)


def test_redriving_keeps_to_cool_downs() -> None:
    """Another message about the product came through, and was refused."""

    async def body() -> None:
        async with running(files=rulebase()) as app:
            dead = await kill(app, WHO)
            (refused,) = await offer(app, [WHO], "other")
            (lease,) = await app.deliveries.lease("sms", 10)
            await settle(app, lease, Settlement.SENT)
            await app.deliveries.report_outcome(refused, OutcomeKind.REFUSED, app.clock.now_us())
            lasting = Redrive(Caller("ann"), "", 365 * DAY_US)
            assert await app.dead_letters.redrive([dead], lasting) == []
            move(app, 90 * DAY_US)
            assert await app.dead_letters.redrive([dead], lasting) == [dead]

    in_loop(body)


def test_redriving_tells_one_story() -> None:
    """Another campaign has an open offer of the product by now."""

    async def body() -> None:
        files = rulebase()
        other = files["campaigns/mms-bundle.yaml"].replace(b"campaign: mms-bundle", b"campaign: better")
        async with running(files=files) as app:
            dead = await kill(app, WHO)
            await activate(app, {**files, "campaigns/better.yaml": other + b"priority: 900\n"})
            assert len(await offer(app, [WHO], "other")) == 1
            lasting = Redrive(Caller("ann"), "", 365 * DAY_US)
            assert await app.dead_letters.redrive([dead], lasting) == []
            move(app, DAY_US)
            assert await app.dead_letters.redrive([dead], lasting) == [dead]

    in_loop(body)


def test_redriving_keeps_to_the_quota_of_the_campaign() -> None:
    async def body() -> None:
        files = rulebase()
        files["campaigns/mms-bundle.yaml"] += b"quota: {total: 1}\n"
        async with running(files=files) as app:
            dead = await kill(app, WHO)
            other = await kill(app, subscribers(2)[1])
            assert await app.dead_letters.redrive([dead, other], NOW) == [dead]

    in_loop(body)


def test_what_is_out_of_time_is_redriven_only_with_more() -> None:
    async def body() -> None:
        async with running(files=rulebase()) as app:
            decision_id = await kill(app, WHO)
            now_us = move(app, DAY_US)
            assert await app.dead_letters.redrive([decision_id], NOW) == []
            more = Redrive(Caller("ann"), "", HOUR_US)
            assert await app.dead_letters.redrive([decision_id], more) == [decision_id]
            (lease,) = await app.deliveries.lease("sms", 10)
            assert lease.expires_at_us == now_us + HOUR_US

    in_loop(body)


def test_what_is_redriven_is_checked_like_everything_else() -> None:
    async def body() -> None:
        async with running(files=with_consents()) as app:
            decision_id = await kill(app, WHO)
            await app.dead_letters.redrive([decision_id], NOW)
            await tell(app, WHO, b'{"consents": {"channel/sms": false}}')
            assert await app.deliveries.lease("sms", 10) == []
            assert await state(app, decision_id) is DeliveryState.WITHDRAWN
            assert await contacts(app) == []

    in_loop(body)
