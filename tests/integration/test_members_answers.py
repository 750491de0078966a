"""What members answer about somebody whom another one of them has: advices, views, consents."""

from __future__ import annotations

import pytest
from opportune_service.app.advise import Visit, advise
from opportune_service.core.events import Event
from support.applications import decided, in_loop
from support.members import Stores, members
from support.rulebases import NOON_US
from support.small_rulebase import mms, subscribers

ANNE = subscribers(5)[0]


@pytest.fixture
def stores(postgres_url: str, redis_url: str) -> Stores:
    return Stores(postgres_url, redis_url)


def test_a_prompt_is_shown_where_its_subscriber_has_to_be_asked_for(stores: Stores) -> None:
    """Nothing of the visit can be taken in at first: another member keeps her."""

    async def body() -> None:
        async with members(stores) as (one, other):
            large, sms = mms(ANNE, "e1", NOON_US, size_kb=200), Event("e2", ANNE, "sms_sent", NOON_US + 1)
            receipt = await one.ingest.publish("test", [large, sms])
            assert decided(receipt.verdicts) == [(ANNE, "care-plan")]
            visit = Visit(ANNE, "counter", "visit-1", "counter_visit")
            advised = await advise(other.live, other.ingest, other.ledger, other.thread, other.clock, visit)
            assert [each.campaign for each in advised.advices] == ["care-plan"]

    in_loop(body)
