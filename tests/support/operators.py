"""People who work on rulebases, each known to the service by a token."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from opportune.v1 import rulebase_service_pb2 as pb
from opportune.v1.rulebase_service_pb2_grpc import RulebaseServiceStub
from support.callers import bearer, caller, token_line, tokens, write_callers
from support.server import Refusal, Service, refusal, running_service
from support.wire import archive

TEAM: dict[str, dict[str, Any]] = {
    "ann": {"roles": ["analyst"]},
    "olga": {"roles": ["operator", "approver"]},
    "amy": {"roles": ["approver", "operator", "analyst"]},
    "victor": {"roles": ["viewer"]},
    "north": {"roles": ["analyst", "operator", "approver"], "branches": ["north"]},
    "northern": {"roles": ["analyst", "operator", "approver"], "branches": ["north"]},
}
"""`north` and `northern` are for one branch, the others for all."""


@dataclass(frozen=True, slots=True)
class Person:
    """One of the team, with the calls that it makes."""

    stub: Any
    metadata: Any

    async def upload(self, files: Mapping[str, bytes], comment: str = "") -> str:
        request = pb.UploadRulebaseRequest(archive=archive(files), comment=comment)
        return str((await self.call("UploadRulebase", request)).rulebase.revision)

    async def test(self, revision: str) -> None:
        assert (await self.call("TestRulebase", pb.TestRulebaseRequest(revision=revision))).passed

    async def approve(self, revision: str, comment: str = "") -> pb.Rulebase:
        request = pb.ApproveRulebaseRequest(revision=revision, comment=comment)
        return (await self.call("ApproveRulebase", request)).rulebase

    async def activate(self, revision: str, expected: str, **fields: Any) -> Any:
        request = pb.ActivateRulebaseRequest(
            revision=revision, expected_current_revision=expected, **fields
        )
        return await self.call("ActivateRulebase", request)

    async def roll_back(self, expected: str, **fields: Any) -> Any:
        request = pb.RollbackRulebaseRequest(expected_current_revision=expected, **fields)
        return await self.call("RollbackRulebase", request)

    async def get(self, revision: str = "", **fields: Any) -> pb.GetRulebaseResponse:
        answer: pb.GetRulebaseResponse = await self.call(
            "GetRulebase", pb.GetRulebaseRequest(revision=revision, **fields)
        )
        return answer

    async def state(self, revision: str) -> str:
        number = (await self.get(revision)).rulebase.state
        return pb.RulebaseState.Name(number).removeprefix("RULEBASE_STATE_")

    def call(self, method: str, request: Any) -> Any:
        return getattr(self.stub, method)(request, metadata=self.metadata)


@dataclass(frozen=True, slots=True)
class Team:
    """A service whose callers are known."""

    service: Service
    tokens: Mapping[str, str] = field(repr=False)

    def __getattr__(self, name: str) -> Person:
        return Person(RulebaseServiceStub(self.service.channel), bearer(self.tokens[name]))


@asynccontextmanager
async def team(
    directory: Path, files: Mapping[str, bytes] | None = None, **settings: Any
) -> AsyncIterator[Team]:
    """A service with the ledger and the list of callers in `directory`, and `files` active (None: the small
    rulebase; empty: none), activated by the machine's own operator."""
    known = tokens(*TEAM)
    lines = [
        caller(name, *TEAM[name]["roles"], tokens=[token_line(token)], **_more(name))
        for name, token in known.items()
    ]
    callers = write_callers(directory / "callers.yaml", lines)
    async with running_service(directory, files, callers=callers, **settings) as service:
        yield Team(service, known)


def _more(name: str) -> dict[str, Any]:
    return {key: value for key, value in TEAM[name].items() if key != "roles"}


async def refused(call: Any) -> Refusal:
    """How the call failed; it must."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return refusal(caught.value)
