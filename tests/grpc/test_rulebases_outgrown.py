"""Revisions that an earlier release stored and this one does not take: shown, and kept out of force."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest
from opportune.v1 import rulebase_service_pb2 as pb
from opportune_rulebase import load, to_archive
from opportune_service.app.errors import UnloadableRevisionError
from opportune_service.app.ports import Ledger
from opportune_service.app.records import RulebaseRow, Step, StepKind
from opportune_service.bootstrap import application
from opportune_service.clocks import ManualClock
from opportune_service.settings import Settings
from support.flaky import Flaky
from support.operators import refused
from support.rulebases import NOON_US
from support.server import Service, in_loop, running_service
from support.small_rulebase import small_rulebase

FILES = small_rulebase()
CURRENT = load(FILES).revision
OUTGROWN = "0123456789ab" + "0" * 52


def keep_outgrown(ledger: Ledger) -> None:
    """As a release did in which another file had a place."""
    with ledger.transaction() as tx:
        archive = to_archive(FILES | {"old.yaml": b"x: 1\n"})
        tx.save_rulebase(RulebaseRow(OUTGROWN, "small", NOON_US + 1, "li", "long ago"), archive)
        tx.note_step(Step(OUTGROWN, NOON_US + 1, "li", StepKind.UPLOADED, "long ago"))


@in_loop
async def test_it_is_shown_with_what_is_wrong_with_it() -> None:
    async with running_service(files=FILES) as service:
        await service.app.thread.run(keep_outgrown, service.app.ledger)
        found = await service.rulebases.GetRulebase(pb.GetRulebaseRequest(revision=OUTGROWN))
        assert (found.rulebase.author, found.rulebase.comment) == ("li", "long ago")
        assert [each.action for each in found.history] == ["uploaded"]
        (wrong,) = found.rulebase.warnings
        assert (wrong.file, wrong.severity) == ("old.yaml", pb.PROBLEM_SEVERITY_ERROR)
        listed = (await service.rulebases.ListRulebases(pb.ListRulebasesRequest())).rulebases
        assert [each.revision for each in listed] == [OUTGROWN, CURRENT]


@in_loop
async def test_it_does_not_come_into_force() -> None:
    async with running_service(files=FILES) as service:
        await service.app.thread.run(keep_outgrown, service.app.ledger)
        for fields in ({}, {"mode": 2, "canary_share": 0.1}, {"mode": 3}):
            said = await _refused_activation(service, **fields)
            assert (said.code, said.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "NOT_READY")
            assert "no longer takes revision 0123456789ab" in said.message
        current = await service.rulebases.GetRulebase(pb.GetRulebaseRequest())
        assert current.rulebase.revision == service.app.live.id == CURRENT
        assert (current.last_attempt.revision, current.last_attempt.succeeded) == (OUTGROWN, False)
        assert [each.file for each in current.last_attempt.problems] == ["old.yaml"]
        diff = pb.DiffRulebasesRequest(to_revision=OUTGROWN)
        assert (await refused(service.rulebases.DiffRulebases(diff))).reason == "NOT_READY"
        tested = await service.rulebases.TestRulebase(pb.TestRulebaseRequest(revision=OUTGROWN))
        assert (tested.passed, [each.file for each in tested.problems]) == (False, ["old.yaml"])


async def _refused_activation(service: Service, **fields: Any) -> Any:
    request = pb.ActivateRulebaseRequest(revision=OUTGROWN, expected_current_revision=CURRENT, **fields)
    return await refused(service.rulebases.ActivateRulebase(request))


@in_loop
async def test_nothing_starts_without_what_is_in_force(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/opportune.db"
    async with running_service(tmp_path, FILES) as service:

        def bring_into_force(ledger: Ledger) -> None:
            keep_outgrown(ledger)
            with ledger.transaction() as tx:
                tx.activate(OUTGROWN, CURRENT, NOON_US + 2, "li", "", {})

        await service.app.thread.run(bring_into_force, service.app.ledger)
    with pytest.raises(UnloadableRevisionError, match=r"old\.yaml.*Start the release before"):
        async with application(Settings(database=url), ManualClock(NOON_US)):
            pass


@in_loop
async def test_an_activation_that_the_store_does_not_take_changes_nothing(tmp_path: Path) -> None:
    """And says so, to the caller and to whoever asks afterwards."""
    other = small_rulebase(text="Another")
    async with running_service(tmp_path, FILES) as service:
        rulebase, _ = await service.app.rulebases.upload(other, "li", "")
        stream = service.rulebases.WatchRulebase(pb.WatchRulebaseRequest())
        await stream.read()
        flaky = Flaky(service.app.ledger, after=True)
        service.app.activations._ledger = flaky  # type: ignore[assignment]
        flaky.failing = True
        request = pb.ActivateRulebaseRequest(revision=rulebase.revision, expected_current_revision=CURRENT)
        said = await refused(service.rulebases.ActivateRulebase(request))
        assert (said.code, said.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
        assert service.app.live.id == CURRENT
        told = await stream.read()
        assert told.kind == pb.RULEBASE_EVENT_KIND_ACTIVATION_FAILED
        assert told.attempt.revision == rulebase.revision
        assert [each.revision for each in told.activations] == [CURRENT]
        stream.cancel()
        flaky.failing = False
        await service.rulebases.ActivateRulebase(request)
        assert service.app.live.id == rulebase.revision
