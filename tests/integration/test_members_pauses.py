"""A pause holds at every member from the moment that the call has returned, whatever they are doing."""

from __future__ import annotations

import asyncio

import pytest
from opportune_service.adapters.sql.transaction import SqlTransaction
from opportune_service.app.callers import Caller
from opportune_service.bootstrap import Application
from opportune_service.core.events import Event
from support.applications import decided, in_loop
from support.members import Stores, members, publish, until
from support.rulebases import NOON_US
from support.small_rulebase import mms, small_rulebase, subscribers

PEOPLE = subscribers(120)
EAGER = small_rulebase(threshold=1, weekly_limit=1_000)
OPERATOR = Caller("operator")


@pytest.fixture
def stores(postgres_url: str, redis_url: str) -> Stores:
    return Stores(postgres_url, redis_url)


def batches(n: int) -> list[list[Event]]:
    """The n-th event of everybody, in many batches."""
    events = [mms(who, f"{n}-{who}", NOON_US + n) for who in PEOPLE]
    return [events[begin : begin + 10] for begin in range(0, len(events), 10)]


async def decisions(app: Application, n: int) -> int:
    """Takes the n-th events in at a member; how many of them were decided."""
    receipts = await asyncio.gather(*(publish(app, batch) for batch in batches(n)))
    return sum(len(decided(receipt.verdicts)) for receipt in receipts)


def paused_at_work(stores: Stores) -> tuple[int, int, int]:
    """Pause at one member while the other decides. How many messages the other handed out, and how many
    decisions both made, in calls that began after it had returned; and how many once it was resumed."""

    async def body() -> tuple[int, int, int]:
        async with members(stores, files=EAGER, people=PEOPLE) as (first, second):

            async def handed_out() -> int:
                return len(await second.deliveries.lease("sms", 1_000))

            async def has_begun() -> bool:
                return bool(await second.deliveries.lease("sms", 1))

            under_way = asyncio.create_task(decisions(second, 1))
            await until(has_begun, "the second member decides")
            await first.pauses.pause("mms-bundle", OPERATOR, "wrong price")
            messages, elsewhere = await asyncio.gather(handed_out(), decisions(second, 2))
            here = await decisions(first, 3)
            assert await under_way > 0
            messages += await handed_out()
            await first.pauses.resume("mms-bundle", OPERATOR, "")
            return messages, here + elsewhere, await decisions(second, 4)

    return in_loop(body)


def test_nothing_that_begins_after_a_pause_is_decided_or_handed_out_anywhere(stores: Stores) -> None:
    assert paused_at_work(stores) == (0, 0, len(PEOPLE))


def test_control_without_a_look_at_the_pauses_all_of_it_would_go_out(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SqlTransaction, "paused", lambda _: frozenset())
    messages, decided_on, _ = paused_at_work(stores)
    assert messages > 0
    assert decided_on == 2 * len(PEOPLE)
