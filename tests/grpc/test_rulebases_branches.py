"""Callers for certain branches bring no change that bears on another one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent

import grpc
import pytest
from opportune.v1 import rulebase_service_pb2 as pb
from opportune.v1 import types_pb2 as types
from opportune_rulebase import load
from support.operators import Person, Team, refused, team
from support.server import in_loop
from support.small_rulebase import small_rulebase

DENIED = (grpc.StatusCode.PERMISSION_DENIED, "FORBIDDEN")


def campaign(name: str, branches: str, text: str) -> dict[str, bytes]:
    said = f"""\
        campaign: {name}
        product: mms-bundle
        on: [mms_sent]
        when: event.size_kb > 10
        mode: automatic
        channels: [sms]
        branches: {branches}
        content: {{sms: "{text}"}}
        """
    return {f"campaigns/{name}.yaml": dedent(said).encode()}


def province(*more: Mapping[str, bytes]) -> dict[str, bytes]:
    """The rulebase in force, with these files in place of its own."""
    files = small_rulebase() | campaign("north-sms", "[north]", "Hello north")
    files |= campaign("south-sms", "[south]", "Hello south") | campaign(
        "both-sms", "[north, south]", "Hello"
    )
    files["vocabulary.yaml"] = files["vocabulary.yaml"].replace(
        b"{age: int}", b"{age: int, branch: string}"
    )
    files["tests/north_test.yaml"] = dedent("""\
        now: 2026-11-20T12:00:00+08:00
        cases:
          - name: nobody else
            subscriber: {id: "8613800000001", branch: west}
            events: [{type: sms_sent}]
            expect: []
        """).encode()
    for each in more:
        files |= each
    return files


def without(name: str) -> dict[str, bytes]:
    return {path: text for path, text in province().items() if path != f"campaigns/{name}.yaml"}


CURRENT = load(province()).revision
OWN = [
    province(campaign("north-sms", "[north]", "Another hello")),
    province(campaign("north-mms", "[north]", "A new one")),
    without("north-sms"),
]
OTHERS = {
    "another branch's": province(campaign("south-sms", "[south]", "Bye")),
    "shared with another": province(campaign("both-sms", "[north, south]", "Bye")),
    "of all branches": small_rulebase(text="Bye")
    | {k: v for k, v in province().items() if "bundle" not in k},
    "taken from another": province(campaign("south-sms", "[north]", "Mine")),
    "given to another": province(campaign("north-sms", "[north, south]", "Ours")),
    "given to all": province(campaign("north-sms", "[]", "Everybody's")),
    "another's removed": without("south-sms"),
    "a policy": province(
        {"policies.yaml": province()["policies.yaml"].replace(b"limit: 2", b"limit: 200")}
    ),
    "a definition": province(
        {"behaviours.yaml": province()["behaviours.yaml"].replace(b"mms_30d >= 3", b"mms_30d >= 1")}
    ),
    "the time zone": province({"rulebase.yaml": b"rulebase: small\ntime_zone: Europe/Paris\n"}),
    "own and another": province(
        campaign("north-sms", "[north]", "Another"), campaign("south-sms", "[south]", "Bye")
    ),
}


@in_loop
async def test_the_campaigns_of_ones_own_branch(tmp_path: Path) -> None:
    async with team(tmp_path, province()) as people:
        expected = CURRENT
        for number, files in enumerate(OWN):
            revision = await people.north.upload(files)
            await people.north.test(revision)
            await people.northern.approve(revision)
            await people.northern.activate(revision, expected)
            expected = revision
            if number < len(OWN) - 1:  # so that each is one step from the first
                await people.north.roll_back(revision)
                expected = CURRENT
        assert (await people.victor.get()).rulebase.revision == expected


@pytest.mark.parametrize("what", OTHERS)
def test_nothing_else(what: str, tmp_path: Path) -> None:
    @in_loop
    async def body() -> None:
        async with team(tmp_path, province()) as people:
            said = await refused(people.north.upload(OTHERS[what]))
            assert (said.code, said.reason) == DENIED
            assert "north" in said.message
            listed = (await people.victor.call("ListRulebases", pb.ListRulebasesRequest())).rulebases
            assert [each.revision for each in listed] == [CURRENT], "it was not stored"
            # Somebody for all branches brings it; the branch lets it no further.
            revision = await people.ann.upload(OTHERS[what])
            await people.ann.test(revision)
            await _is_let_no_further(people, people.north, revision)

    body()


async def _is_let_no_further(people: Team, north: Person, revision: str) -> None:
    said = await refused(north.approve(revision))
    assert (said.code, said.reason) == DENIED
    await people.amy.approve(revision)
    said = await refused(north.activate(revision, CURRENT))
    assert (said.code, said.reason) == DENIED
    await people.olga.activate(revision, CURRENT)
    said = await refused(north.roll_back(revision))
    assert (said.code, said.reason) == DENIED
    assert (await people.victor.get()).rulebase.revision == revision


@in_loop
async def test_a_stale_revision_of_ones_own_undoes_nobody_elses_work(tmp_path: Path) -> None:
    """It differs from what was in force when it was uploaded in the own campaign alone; by now it would
    take back what another branch has brought since."""
    async with team(tmp_path, province()) as people:
        stale = await people.north.upload(OWN[0])
        await people.north.test(stale)
        await people.northern.approve(stale)
        south = await people.ann.upload(OTHERS["another branch's"])
        await people.ann.test(south)
        await people.amy.approve(south)
        await people.olga.activate(south, CURRENT)
        said = await refused(people.north.activate(stale, south))
        assert (said.code, said.reason) == DENIED
        # And whoever still expects the old one is told that it is gone.
        assert (await refused(people.north.activate(stale, CURRENT))).reason == "CONFLICT"
        assert (await people.victor.get()).rulebase.revision == south


@in_loop
async def test_the_first_rulebase_is_not_a_branchs(tmp_path: Path) -> None:
    async with team(tmp_path, {}) as people:
        said = await refused(people.north.upload(province()))
        assert (said.code, said.reason) == DENIED


@in_loop
async def test_a_branch_pauses_its_own_campaigns(tmp_path: Path) -> None:
    async with team(tmp_path, province()) as people:
        for name, may in (
            ("north-sms", True),
            ("south-sms", False),
            ("both-sms", False),
            ("mms-bundle", False),
        ):
            pause = people.north.call("PauseCampaign", pb.PauseCampaignRequest(campaign=name, reason="why"))
            if may:
                assert (await pause).campaign.paused
            else:
                said = await refused(pause)
                assert (said.code, said.reason) == DENIED
            await people.olga.call("PauseCampaign", pb.PauseCampaignRequest(campaign=name, reason="why"))
            resume = people.north.call("ResumeCampaign", pb.ResumeCampaignRequest(campaign=name))
            if may:
                assert not (await resume).campaign.paused
            else:
                assert (await refused(resume)).code is grpc.StatusCode.PERMISSION_DENIED
        assert set(await people.service.app.pauses.paused()) == {"south-sms", "both-sms", "mms-bundle"}


@in_loop
async def test_without_the_look_at_branches_it_would_be_stored(tmp_path: Path) -> None:
    """The control."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("opportune_service.app.rulebases.check_scope", lambda *_: None)
        async with team(tmp_path, province()) as people:
            for files in OTHERS.values():
                await people.north.upload(files)


@pytest.mark.parametrize("mode", [types.ACTIVATION_MODE_CANARY, types.ACTIVATION_MODE_SHADOW])
def test_what_another_branch_tries_out_is_ended_by_nobody_else(
    mode: types.ActivationMode.ValueType, tmp_path: Path
) -> None:
    @in_loop
    async def body() -> None:
        share = {"canary_share": 0.5} if mode == types.ACTIVATION_MODE_CANARY else {}
        async with team(tmp_path, province()) as people:
            own = await people.north.upload(OWN[0])
            await people.north.test(own)
            await people.northern.approve(own)
            souths = await people.ann.upload(province(campaign("south-sms", "[south]", "Bye")))
            await people.ann.test(souths)
            await people.amy.approve(souths)
            await people.olga.activate(souths, CURRENT, mode=mode, **share)
            running = (await people.victor.get()).activations
            for revision, fields in ((CURRENT, {}), (own, {}), (own, {"mode": mode, **share})):
                said = await refused(people.north.activate(revision, CURRENT, **fields))
                assert (said.code, said.reason) == DENIED
                assert souths[:12] in said.message
            assert (await people.victor.get()).activations == running
            await people.olga.activate(CURRENT, CURRENT)
            # Their own they may replace, and let decide for all.
            await people.north.activate(own, CURRENT, mode=mode, **share)
            await people.northern.activate(own, CURRENT, mode=mode, **share)
            await people.northern.activate(own, CURRENT)
            assert (await people.victor.get()).rulebase.revision == own

    body()
