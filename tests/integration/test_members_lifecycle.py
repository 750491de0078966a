"""What operators do at one member, all members answer and tell."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest
from opportune_service.app.callers import Caller
from opportune_service.app.errors import ConflictError
from opportune_service.app.promotions import Asked
from opportune_service.app.records import ActivationMode
from opportune_service.app.watching import Seen
from support.applications import in_loop
from support.members import Stores, members, until
from support.small_rulebase import small_rulebase

ANN, LI = Caller("ann"), Caller("li")
CASE = b"""\
now: 2026-11-20T12:00:00+08:00
cases:
  - {name: nothing, subscriber: {id: "8613800000001"}, events: [{type: sms_sent}], expect: []}
"""


@pytest.fixture
def stores(postgres_url: str, redis_url: str) -> Stores:
    return Stores(postgres_url, redis_url)


def test_steps_at_one_member_are_told_and_answered_by_the_other(stores: Stores) -> None:
    async def body() -> None:
        async with members(stores, people=()) as (first, second), aclosing(second.watching.watch()) as told:
            before = (await anext(told)).now.in_force
            assert [each.mode for each in before] == [ActivationMode.FULL]
            current = before[0].revision
            files = small_rulebase(text="Another") | {"tests/a_test.yaml": CASE}
            revision = (await first.rulebases.upload(files, ANN.name, ""))[0].revision
            assert (await second.promotions.test(revision, LI)).passed
            await second.promotions.approve(revision, LI, "reads well")
            done = await first.promotions.activate(Asked(revision, current, "go"), ANN)
            seen = await anext(told)
            assert (seen.kind, list(seen.now.in_force)) == (Seen.ACTIVATED, done.in_force)
            assert seen.attempt is None, "the other member made it"
            await until(lambda: second.live.id == revision, "it decides here too")
            # Both were asked to at once, and expect the same.
            backs = await asyncio.gather(
                *(each.promotions.roll_back("", revision, ANN, "", "") for each in (first, second)),
                return_exceptions=True,
            )
            (lost,) = [each for each in backs if isinstance(each, BaseException)]
            assert isinstance(lost, ConflictError)
            assert (await anext(told)).now.in_force[0].revision == current
            await first.pauses.pause("mms-bundle", ANN, "wrong price")
            seen = await anext(told)
            while seen.kind is Seen.ACTIVATION_FAILED:  # the second was the one that lost
                seen = await anext(told)
            assert (seen.kind, seen.campaign) == (Seen.PAUSED, "mms-bundle")
            stored = await second.rulebases.find(revision)
            assert [(step.kind.value, step.by) for step in stored.steps] == [
                ("uploaded", "ann"),
                ("tested", "li"),
                ("approved", "li"),
                ("activated", "ann"),
            ]

    in_loop(body)
