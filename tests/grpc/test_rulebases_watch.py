"""Watching what is in force: each change, whoever made it, and nothing that piles up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from opportune.v1 import rulebase_service_pb2 as pb
from opportune_rulebase import load
from opportune_service.app.records import Pause
from support.rulebases import NOON_US
from support.server import Service, in_loop, refusal, running_service
from support.small_rulebase import small_rulebase
from support.wire import archive, timestamp

GOOD, OTHER = small_rulebase(), small_rulebase(text="Another text")
REVISION, OTHER_REVISION = load(GOOD).revision, load(OTHER).revision
NAME = "mms-bundle"


@asynccontextmanager
async def watching(service: Service) -> AsyncIterator[Any]:
    """The stream, after its first message."""
    stream = service.rulebases.WatchRulebase(pb.WatchRulebaseRequest())
    first = await stream.read()
    assert first.kind == pb.RULEBASE_EVENT_KIND_SNAPSHOT
    try:
        yield stream
    finally:
        stream.cancel()


async def activate(service: Service, revision: str, expected: str) -> Any:
    request = pb.ActivateRulebaseRequest(revision=revision, expected_current_revision=expected)
    return await service.rulebases.ActivateRulebase(request)


@in_loop
async def test_the_first_message_is_what_is_in_force() -> None:
    async with running_service(files={}) as service:
        stream = service.rulebases.WatchRulebase(pb.WatchRulebaseRequest())
        assert await stream.read() == pb.WatchRulebaseResponse(kind=pb.RULEBASE_EVENT_KIND_SNAPSHOT)
        stream.cancel()
    async with running_service(files=GOOD) as service:
        await service.rulebases.PauseCampaign(pb.PauseCampaignRequest(campaign=NAME, reason="why"))
        stream = service.rulebases.WatchRulebase(pb.WatchRulebaseRequest())
        first = await stream.read()
        assert [each.revision for each in first.activations] == [REVISION]
        (paused,) = first.paused_campaigns
        assert (paused.campaign, paused.label, paused.paused_by, paused.pause_reason) == (
            *(NAME, "MMS bundle for heavy senders"),
            *("anonymous", "why"),
        )
        stream.cancel()


@in_loop
async def test_each_change_is_told_in_order() -> None:
    async with running_service(files=GOOD) as service, watching(service) as stream:
        await service.rulebases.UploadRulebase(pb.UploadRulebaseRequest(archive=archive(OTHER)))
        await activate(service, OTHER_REVISION, REVISION)
        told = await stream.read()
        assert told.kind == pb.RULEBASE_EVENT_KIND_ACTIVATED
        assert [each.revision for each in told.activations] == [OTHER_REVISION]
        assert told.attempt == pb.ActivationAttempt(
            revision=OTHER_REVISION, attempted_at=timestamp(NOON_US), succeeded=True
        )
        await service.rulebases.PauseCampaign(pb.PauseCampaignRequest(campaign=NAME, reason="why"))
        told = await stream.read()
        assert (told.kind, told.campaign) == (pb.RULEBASE_EVENT_KIND_PAUSED, NAME)
        assert [each.campaign for each in told.paused_campaigns] == [NAME]
        assert not told.HasField("attempt")
        with pytest.raises(grpc.aio.AioRpcError):
            await activate(service, REVISION, REVISION)
        told = await stream.read()
        assert told.kind == pb.RULEBASE_EVENT_KIND_ACTIVATION_FAILED
        assert [each.revision for each in told.activations] == [OTHER_REVISION]
        assert (told.attempt.revision, told.attempt.succeeded) == (REVISION, False)
        assert OTHER_REVISION in told.attempt.message
        rollback = pb.RollbackRulebaseRequest(expected_current_revision=OTHER_REVISION)
        await service.rulebases.RollbackRulebase(rollback)
        told = await stream.read()
        assert told.kind == pb.RULEBASE_EVENT_KIND_ACTIVATED
        assert [each.revision for each in told.activations] == [REVISION]
        await service.rulebases.ResumeCampaign(pb.ResumeCampaignRequest(campaign=NAME))
        told = await stream.read()
        assert (told.kind, told.campaign) == (pb.RULEBASE_EVENT_KIND_RESUMED, NAME)
        assert not told.paused_campaigns


@in_loop
async def test_what_nobody_asked_for_here_is_told_too() -> None:
    """An alarm, or another process: whatever is in the ledger."""
    async with running_service(files=GOOD) as service, watching(service) as stream:

        def pause() -> None:
            with service.app.ledger.transaction() as tx:
                tx.pause(Pause(NAME, NOON_US, "alarm", "too many"))

        await service.app.thread.run(pause)
        told = await stream.read()
        assert (told.kind, told.campaign) == (pb.RULEBASE_EVENT_KIND_PAUSED, NAME)
        assert [each.paused_by for each in told.paused_campaigns] == ["alarm"]


@in_loop
async def test_whoever_reads_late_is_told_what_is_so_then() -> None:
    """Hundreds of changes that nobody read leave no hundreds of messages."""
    async with running_service(files=GOOD) as service:
        names = [f"campaign-{n:03}" for n in range(200)]

        def turn_over() -> None:
            for number in range(50):
                with service.app.ledger.transaction() as tx:
                    for name in names:
                        if number % 2:
                            tx.resume(name, NOON_US, "li", "")
                        else:
                            tx.pause(Pause(name, NOON_US, "li", str(number)))

        async with watching(service) as stream:
            await service.app.thread.run(turn_over)
            await service.rulebases.PauseCampaign(pb.PauseCampaignRequest(campaign=NAME, reason="last"))
            told = []
            while not told or told[-1].campaign != NAME:
                told.append(await stream.read())
            assert len(told) <= len(names) + 1


@in_loop
async def test_many_watch_for_the_price_of_a_few() -> None:
    looks = 0
    async with running_service(files=GOOD) as service:
        read = service.app.ledger.in_force

        def counted() -> Any:
            nonlocal looks
            looks += 1
            return read()

        service.app.ledger.in_force = counted  # type: ignore[method-assign]
        streams = [service.rulebases.WatchRulebase(pb.WatchRulebaseRequest()) for _ in range(40)]
        for stream in streams:
            await stream.read()
        before = looks
        await service.rulebases.PauseCampaign(pb.PauseCampaignRequest(campaign=NAME, reason="why"))
        for told in await asyncio.gather(*(stream.read() for stream in streams)):
            assert told.campaign == NAME
        assert looks - before < len(streams), "one look serves all who look at about the same time"
        for stream in streams:
            stream.cancel()
    assert looks >= 40, "each begins with a look of its own"


@in_loop
async def test_a_watcher_does_not_keep_the_server_from_ending() -> None:
    async with running_service(files=GOOD) as service:
        stream = service.rulebases.WatchRulebase(pb.WatchRulebaseRequest())
        await stream.read()
        await service.server.drain(600)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.read()
        said = refusal(caught.value)
        assert (said.code, said.reason) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
