"""`opportune rulebases` against a service that knows who calls, from upload to rollback."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from opportune_rulebase import load, to_archive
from support.commands import INTERRUPTIBLE, TIMEOUT_SECONDS
from support.server import in_loop
from support.small_rulebase import small_rulebase
from support.staff import Staff, staff

ROLES = {
    "ann": ["analyst"],
    "amy": ["approver", "viewer"],
    "olga": ["operator"],
    "both": ["analyst", "approver"],
}
CASES = b"""\
now: 2026-11-20T12:00:00+08:00
cases:
  - name: a third picture
    subscriber: {age: 30}
    given: {metric.mms_30d: %d}
    events: [{type: mms_sent, size_kb: 80}]
    expect: [{campaign: mms-bundle, channel: sms}]
"""
FIRST = small_rulebase()
SECOND = small_rulebase(weekly_limit=3) | {"tests/mms_test.yaml": CASES % 2}
OLD, NEW = load(FIRST).revision, load(SECOND).revision


def archive(directory: Path, files: Mapping[str, bytes], name: str = "new.zip") -> Path:
    path = directory / name
    path.write_bytes(to_archive(files))
    return path


async def approved(people: Staff, directory: Path) -> None:
    """The second rulebase is stored, tested and approved."""
    await people.run("ann", "rulebases", "upload", archive(directory, SECOND))
    await people.run("ann", "rulebases", "test", NEW[:8])
    await people.run("amy", "rulebases", "approve", NEW[:8], "--comment", "as agreed")


@in_loop
async def test_a_planned_change_by_three_people(tmp_path: Path) -> None:
    async with staff(tmp_path, ROLES, FIRST) as people:
        path = archive(tmp_path, SECOND)
        checked = await people.json("ann", "rulebases", "upload", path, "--dry-run")
        assert (checked["ok"], checked["revision"]) == (True, NEW)
        stored = await people.json("ann", "rulebases", "upload", path, "--comment", "one more a week")
        assert (stored["revision"], stored["state"], stored["author"]) == (NEW, "checked", "ann")

        early = await people.run("amy", "rulebases", "approve", NEW[:8], code=1)
        assert "tests" in early.stderr
        assert "1 of 1 cases pass" in (await people.run("ann", "rulebases", "test", NEW[:8])).stdout
        changes = await people.json("amy", "rulebases", "diff", NEW[:8])
        assert [(each["kind"], each["element"]) for each in changes] == [("changed", "cap")]
        unapproved = await people.run("olga", "rulebases", "activate", NEW[:8], "--yes", code=1)
        assert "approved" in unapproved.stderr
        await people.run("ann", "rulebases", "approve", NEW[:8], code=1)  # no role for it
        await people.run("amy", "rulebases", "approve", NEW[:8], "--comment", "fine")
        await people.run("amy", "rulebases", "activate", NEW[:8], "--yes", code=1)  # no role for it

        asked = await people.run("olga", "rulebases", "activate", NEW[:8], "--comment", "go", answer="y\n")
        assert f"in force: {OLD[:12]}, full" in asked.stderr
        assert f"revision {NEW[:12]} is in force, full; {OLD[:12]} was so before" in asked.stdout
        assert people.service.app.live.id == NEW
        shown = await people.json("amy", "rulebases", "show")
        assert [(each["action"], each["by"], each["comment"]) for each in shown["history"]] == [
            ("activated", "olga", "go"),
            ("approved", "amy", "fine"),
            ("tested", "ann", shown["history"][2]["comment"]),
            ("uploaded", "ann", "one more a week"),
        ]
        listed = (await people.run("amy", "rulebases", "list", "--state", "superseded", "--json")).stdout
        assert [json.loads(line)["revision"] for line in listed.splitlines()] == [OLD]

        back = await people.json("olga", "rulebases", "rollback", "--yes", "--comment", "too many")
        assert (back["activation"]["revision"], back["previous"]) == (OLD, NEW)
        assert people.service.app.live.id == OLD


@in_loop
async def test_nobody_approves_what_is_their_own_whatever_their_roles(tmp_path: Path) -> None:
    async with staff(tmp_path, ROLES, FIRST) as people:
        await people.run("both", "rulebases", "upload", archive(tmp_path, SECOND))
        await people.run("both", "rulebases", "test", NEW[:8])
        own = await people.run("both", "rulebases", "approve", NEW[:8], code=1)
        assert "somebody else" in own.stderr


@in_loop
async def test_a_canary_and_a_shadow_are_shown_and_ended(tmp_path: Path) -> None:
    async with staff(tmp_path, ROLES, FIRST) as people:
        await approved(people, tmp_path)
        activate = ("rulebases", "activate", NEW[:8], "--yes")
        canary = await people.json("olga", *activate, "--canary", "10%")
        assert [(each["mode"], each["share"]) for each in canary["in_force"]] == [
            ("full", None),
            ("canary", 0.1),
        ]
        shown = (await people.run("amy", "rulebases", "show")).stdout
        assert f"{NEW[:12]}, canary for 10 %" in shown
        whole = await people.json("olga", *activate)
        assert [each["mode"] for each in whole["in_force"]] == ["full"]


@in_loop
async def test_an_activation_on_old_beliefs_changes_nothing_and_is_remembered(tmp_path: Path) -> None:
    async with staff(tmp_path, ROLES, FIRST) as people:
        await approved(people, tmp_path)
        late = await people.run("olga", "rulebases", "activate", NEW[:8], "--expect", NEW, "--yes", code=1)
        assert OLD[:12] in late.stderr
        assert people.service.app.live.id == OLD
        attempt = (await people.json("amy", "rulebases", "show"))["last_attempt"]
        assert (attempt["revision"], attempt["succeeded"]) == (NEW, False)
        assert "failed" in (await people.run("amy", "rulebases", "show")).stdout


@in_loop
async def test_tests_that_fail_and_errors_are_told(tmp_path: Path) -> None:
    async with staff(tmp_path, ROLES, FIRST) as people:
        files = SECOND | {"tests/mms_test.yaml": CASES % 1}
        await people.run("ann", "rulebases", "upload", archive(tmp_path, files))
        failed = await people.run("ann", "rulebases", "test", NEW[:8], code=1)
        assert "FAILED  a third picture" in failed.stdout
        assert "0 of 1 cases pass" in failed.stdout
        bad = archive(tmp_path, SECOND | {"campaigns/x.yaml": b"campaign: x\nproduct: nonsense\n"})
        said = await people.run("ann", "rulebases", "upload", bad, code=1)
        assert "campaigns/x.yaml:2:10: error" in said.stderr
        await people.run("amy", "rulebases", "show", "0" * 8, code=1)


@in_loop
async def test_a_work_order_until_its_names_are_bound(tmp_path: Path) -> None:
    async with staff(tmp_path, ROLES, FIRST) as people:
        order = tmp_path / "autumn.yaml"
        order.write_text(
            "campaign: autumn-mms\nlabel: MMS in autumn\nproduct: mms-bundle\non: [mms_sent]\n"
            "when: ${heavy senders}\nmode: automatic\nchannels: [sms]\ncontent: {sms: Autumn prices}\n"
        )
        ordering = ("rulebases", "order", order, "--order-id", "2026-0815")
        draft = await people.run("ann", *ordering)
        assert ": draft" in draft.stdout
        assert "heavy senders" in draft.stderr
        bound = await people.json("ann", *ordering, "--bind", "heavy senders=behaviour.often_sends_mms")
        assert bound["state"] == "checked"
        (change,) = await people.json("amy", "rulebases", "diff", bound["revision"][:8])
        assert (change["kind"], change["name"]) == ("added", "autumn-mms")


@in_loop
async def test_what_is_packed_and_signed_here_is_taken_there_and_nothing_else(tmp_path: Path) -> None:
    def openssl(*words: object) -> None:
        subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)

    key, signers = tmp_path / "release.key", tmp_path / "signers"
    signers.mkdir()
    openssl("genpkey", "-algorithm", "ed25519", "-out", key)
    openssl("pkey", "-in", key, "-pubout", "-out", signers / "release.pem")
    for name, content in SECOND.items():
        path = tmp_path / "rules" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    async with staff(tmp_path, ROLES, FIRST, signers=signers) as people:
        unsigned = await people.run("ann", "rulebases", "upload", tmp_path / "rules", code=1)
        assert "sign" in unsigned.stderr
        packed = tmp_path / "rules.zip"
        await people.run("ann", "pack", tmp_path / "rules", "--out", packed)
        await people.run("ann", "sign", packed, "--key", key)
        signature = tmp_path / "rules.zip.sig"
        checked = ("rulebases", "upload", packed, "--signature", signature)
        assert (await people.json("ann", *checked))["revision"] == NEW
        copy = tmp_path / "copy.zip"
        await people.run("amy", "rulebases", "show", NEW[:8], "--archive", copy)
        assert copy.read_bytes() == packed.read_bytes()
        signature.write_bytes(bytes(64))
        forged = await people.run("ann", *checked, code=1)
        assert "does not let this through" in forged.stderr


def test_watching_shows_what_others_do(tmp_path: Path) -> None:
    async def body() -> None:
        async with asyncio.timeout(TIMEOUT_SECONDS), staff(tmp_path, ROLES, FIRST) as people:
            await approved(people, tmp_path)
            environment = {
                "OPPORTUNE_TARGET": people.service.address,
                "OPPORTUNE_CA": str(tmp_path / "ca.pem"),
                "OPPORTUNE_TOKEN_FILE": str(tmp_path / "amy.token"),
            }
            watching = await asyncio.create_subprocess_exec(
                *INTERRUPTIBLE, "rulebases", "watch", env=os.environ | environment,
                stdout=subprocess.PIPE,
            )  # fmt: skip
            assert watching.stdout is not None
            try:
                assert f"in force: {OLD[:12]} (full)" in (await watching.stdout.readline()).decode()
                await people.run("olga", "pause", "mms-bundle", "--reason", "wrong price")
                assert "paused mms-bundle" in (await watching.stdout.readline()).decode()
                await people.run("olga", "rulebases", "activate", NEW, "--yes")
                assert f"activated {NEW[:12]}" in (await watching.stdout.readline()).decode()
                watching.send_signal(signal.SIGINT)
                assert await watching.wait() == 0
            finally:
                with suppress(ProcessLookupError):
                    watching.kill()

    asyncio.run(body())
