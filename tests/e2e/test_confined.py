"""The service as its image runs it: as a user without rights, with nothing to write to but its volume.
There is no container engine here: the root filesystem is made read-only by other means
(`support.confined`)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from opportune.v1 import rulebase_service_pb2 as pb
from opportune.v1.rulebase_service_pb2_grpc import RulebaseServiceStub
from opportune_rulebase import to_archive
from support.collecting import channel_to, deliver, know, settled_counts
from support.confined import UID, VOLUME, impossible, within
from support.small_rulebase import mms, small_rulebase, subscribers


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """A directory of the service's user."""
    (tmp_path / "root").mkdir()
    made = tmp_path / "volume"
    made.mkdir()
    if reason := impossible(tmp_path / "root", made):
        print(reason)
        pytest.skip(reason)
    os.chown(made, UID, UID)
    return made


def started(tmp_path: Path, volume: Path, *, writable: bool = True) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "opportune_service.cli", "serve", "--listen", "127.0.0.1:0"]
    environment = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "PYTHONPATH": os.pathsep.join(sys.path),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
    }
    return subprocess.Popen(
        [*within(tmp_path / "root", volume, writable=writable), *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def test_it_serves_without_rights_and_writes_to_its_volume_only(tmp_path: Path, volume: Path) -> None:
    with started(tmp_path, volume) as process:
        try:
            assert process.stdout is not None
            found = (re.search(r"listening on (\S+)", line) for line in process.stdout)
            target = next(each[1] for each in found if each)
            status = Path(f"/proc/{process.pid}/status").read_text()
            mounts = Path(f"/proc/{process.pid}/mounts").read_text()
            [who] = subscribers(1)
            with channel_to(target) as channel:
                stub = RulebaseServiceStub(channel)
                archive = pb.RulebaseArchive(data=to_archive(small_rulebase()))
                revision = stub.UploadRulebase(pb.UploadRulebaseRequest(archive=archive)).rulebase.revision
                stub.ActivateRulebase(pb.ActivateRulebaseRequest(revision=revision))
            know(target, [who])
            deliver(lambda: target, "mmsc", [[mms(who, "e1", time.time_ns() // 1_000)]])
            assert settled_counts(target, [who], {who: 1}) == {who: 1}
        finally:
            process.terminate()
        assert process.wait(60) == 0
    assert re.search(rf"^Uid:\s+{UID}\s+{UID}\s+{UID}\s+{UID}$", status, re.MULTILINE)
    assert re.findall(r"^Cap(?:Inh|Prm|Eff|Bnd|Amb):\s+(\w+)$", status, re.MULTILINE) == ["0" * 16] * 5
    assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE)
    places = [line.split()[1:4] for line in mounts.splitlines()]
    writable = {at for at, kind, options in places if options.startswith("rw") and kind != "proc"}
    assert writable == {VOLUME}
    written = {str(path.relative_to(volume)) for path in volume.rglob("*") if path.is_file()}
    assert {path.removesuffix("-wal").removesuffix("-shm") for path in written} == {"var/opportune.db"}


def test_control_without_a_volume_to_write_to_it_does_not_start(tmp_path: Path, volume: Path) -> None:
    with started(tmp_path, volume, writable=False) as process:
        out, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "listening" not in out
    assert "Traceback" not in errors
    assert "cannot make the directory var" in errors
