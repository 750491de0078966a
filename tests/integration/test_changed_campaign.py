"""A message that waits while its campaign changes: what it is about stays as it was decided, what it costs
is what it costs when it is tried again."""

from __future__ import annotations

from textwrap import dedent

import pytest
from opportune_service.app.callers import Caller
from opportune_service.app.dead_letters import Redrive
from opportune_service.app.deliver import Settled
from opportune_service.app.records import Settlement
from opportune_service.bootstrap import Application
from opportune_service.clocks import ManualClock
from opportune_service.core.events import Event
from opportune_service.core.verdict import UsageKey, UsageKind
from support.applications import activate, decided, in_loop, running
from support.guarded_rulebase import HOUR_US
from support.rulebases import NOON_US
from support.small_rulebase import subscribers

ANNE, BOB = subscribers(2)
SPENT = UsageKey(UsageKind.CAMPAIGN_COST, "offer")


def offering(
    product: str = "gift", *, cost: int = 3, quota: str = "", policies: str = "{}"
) -> dict[str, bytes]:
    files = {
        "rulebase.yaml": "rulebase: changing\ntime_zone: Asia/Shanghai\n",
        "vocabulary.yaml": f"""\
            events: {{ping: {{}}}}
            channels: {{sms: {{mode: automatic, cost: {cost}}}}}
            products: {{gift: {{label: G, category: c}}, data: {{label: D, category: c}}}}
            """,
        "campaigns/offer.yaml": f"""\
            campaign: offer
            product: {product}
            on: [ping]
            mode: automatic
            channels: [sms]
            expires_after: 3d
            content: {{sms: "For you."}}
            {quota}
            """,
        "policies.yaml": policies,
    }
    return {name: dedent(text).encode() for name, text in files.items()}


async def offer_to(app: Application, *people: str) -> None:
    receipt = await app.ingest.publish("test", [Event(f"e-{who}", who, "ping", NOON_US) for who in people])
    assert decided(receipt.verdicts) == [(who, "offer") for who in people]


@pytest.mark.parametrize(("quiet_for", "leased"), [("gift", 0), ("data", 1)])
def test_quiet_hours_ask_what_the_message_is_about_not_what_its_campaign_offers_now(
    quiet_for: str, leased: int
) -> None:
    quiet = (
        f"quiet_hours: {{lunch: {{from: '11:00', to: '14:00', applies_to: {{products: [{quiet_for}]}}}}}}"
    )

    async def body() -> None:
        async with running(files=offering("gift")) as app:
            await offer_to(app, ANNE)
            await activate(app, offering("data", policies=quiet))
            assert len(await app.deliveries.lease("sms", 10)) == leased

    in_loop(body)


@pytest.mark.parametrize(("cost_now", "tried_again", "spent"), [(3, False, 3), (1, True, 4)])
def test_what_is_tried_again_costs_what_it_costs_now(cost_now: int, tried_again: bool, spent: int) -> None:
    """Of a budget of 5, three are spent."""

    async def body() -> None:
        async with running(files=offering()) as app:
            await offer_to(app, ANNE, BOB)
            await never_arrives(app, BOB)
            await activate(app, offering(cost=cost_now, quota="quota: {budget: 5}"))
            redriven = await app.dead_letters.redrive_all("", "", Redrive(Caller("test"), "", None))
            assert bool(redriven) is tried_again
            assert await app.thread.run(spent_by, app) == {SPENT: spent}

    in_loop(body)


def spent_by(app: Application) -> dict[UsageKey, int]:
    with app.ledger.transaction() as tx:
        return tx.usage([SPENT])


async def never_arrives(app: Application, who: str) -> None:
    """All attempts to send to this customer fail; the other message is sent."""
    assert isinstance(app.clock, ManualClock)
    for _ in range(6):
        for lease in await app.deliveries.lease("sms", 10):
            word = Settlement.RETRY if lease.subscriber_id == who else Settlement.SENT
            settled = Settled(lease.decision_id, lease.token, lease.attempt, word)
            assert await app.deliveries.settle([settled]) == [True]
        app.clock.value_us += HOUR_US
    (letter,) = await app.dead_letters.page("", "", 0, 10)
    assert letter.subscriber_id == who
