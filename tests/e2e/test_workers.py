"""`opportune serve --workers`: several processes on one port, and the one that looks after them."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from support.collecting import deliver, know, outcome, truth
from support.installations import Installation, installation
from support.processes import Served, serving_with, write_rulebase
from support.servers import free_port, until
from support.small_rulebase import small_rulebase, subscribers, traffic

PEOPLE = subscribers(5)
WORKERS = 3
STEP_US = 100_000


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """The stores of one service, which is started again by each test."""
    with installation("shared", tmp_path_factory.mktemp("place")) as found:
        yield found


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def service(place: Installation, tmp_path: Path, log: Path, metrics_port: int) -> Iterator[Served]:
    rulebase = write_rulebase(tmp_path / "rulebase", small_rulebase())
    options = ("--workers", str(WORKERS), "--metrics-listen", f"127.0.0.1:{metrics_port}")
    with serving_with(place.environment, "--rulebase", str(rulebase), *options, log=log) as served:
        yield served


@pytest.fixture
def metrics_port() -> int:
    return free_port()


def workers(service: Served) -> list[int]:
    """Their process ids."""
    children = Path(f"/proc/{service.process.pid}/task/{service.process.pid}/children").read_text()
    return sorted(map(int, children.split()))


def lives(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def ready(log: Path) -> int:
    """How often a worker became ready."""
    return len(re.findall(r"worker \d+ is ready", log.read_text()))


def test_a_worker_that_is_killed_is_replaced_and_all_end_in_good_order(
    service: Served, log: Path, metrics_port: int
) -> None:
    events = list(traffic(3, 1_200, len(PEOPLE), time.time_ns() // 1_000 - 1_200 * STEP_US, STEP_US))
    batches = [events[n : n + 10] for n in range(0, len(events), 10)]
    assert ready(log) == len(workers(service)) == WORKERS
    know(service.target, PEOPLE)
    before = workers(service)
    victims = list(before)

    def crash(acked: int) -> None:
        # Whichever has the stream is among them; the last one is left to take it.
        if victims[1:] and acked > (WORKERS - len(victims) + 1) * len(batches) // (WORKERS + 1):
            os.kill(victims.pop(), signal.SIGKILL)

    deliver(lambda: service.target, "collector", batches, crash)
    assert len(victims) == 1
    until(lambda: ready(log) == 2 * WORKERS - 1, "those that were killed are replaced")
    after = workers(service)
    assert len(after) == WORKERS
    assert set(after) & set(before) == set(victims)
    found = outcome(service.target, PEOPLE)
    assert found.counted == truth(batches)
    assert found.decided
    assert max(found.verdicts.values()) == 1
    for worker in range(WORKERS):
        page = f"http://127.0.0.1:{metrics_port + worker}/readyz"
        assert urllib.request.urlopen(page, timeout=30).status == 200
    assert service.stop() == 0
    assert not any(map(lives, after))
    for worker in range(WORKERS):
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        own = [line["message"] for line in lines if line.get("worker") == worker]
        assert sum(message.startswith("shutting down") for message in own) == 1


def test_no_worker_outlives_a_supervisor_that_is_killed(service: Served) -> None:
    pids = workers(service)
    service.kill()
    until(lambda: not any(map(lives, pids)), "the workers end, too")


def failing(environment: dict[str, str], *options: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "opportune_service.cli", "serve", *options]
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60, check=False
    )
    assert "listening" not in done.stdout
    return done.returncode, done.stderr


def test_several_workers_need_stores_that_they_can_share(tmp_path: Path) -> None:
    environment = {"OPPORTUNE_DATABASE": f"sqlite:///{tmp_path}/o.db"}
    code, said = failing(environment, "--workers", "2", "--listen", "127.0.0.1:0")
    assert code == 1
    assert "PostgreSQL" in said
    assert "live_state" in said
    assert not list(tmp_path.iterdir())


def test_workers_that_cannot_start_end_the_supervisor(place: Installation, tmp_path: Path) -> None:
    """It must not start again and again what cannot work."""
    wrong = write_rulebase(tmp_path / "wrong", {"rulebase.yaml": b"rulebase: [\n"})
    code, said = failing(
        dict(place.environment), "--workers", "2", "--listen", "127.0.0.1:0", "--rulebase", str(wrong)
    )
    assert code == 1
    assert "The rulebase has errors" in said


def test_a_port_that_is_taken_is_said() -> None:
    stores = {"OPPORTUNE_DATABASE": "postgresql://nowhere/x", "OPPORTUNE_LIVE_STATE": "redis://nowhere"}
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        code, said = failing(stores, "--workers", "2", "--listen", address)
    assert code == 1
    assert "free" in said
