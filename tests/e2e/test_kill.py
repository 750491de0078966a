"""Ack means durable: kill -9 of the service or of a store in mid-stream, again and again, and events sent
again up to five times over: nothing is lost, nothing counted twice, nothing decided twice."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest
from support.collecting import Batches, Outcome, deliver, know, outcome, truth
from support.installations import NAMES, Installation, installation
from support.processes import Served, serving_with, write_rulebase
from support.servers import Server
from support.small_rulebase import small_rulebase, subscribers, traffic

PEOPLE = subscribers(5)
BATCH = 10
EVENTS = 1_000
REPEATS = 5
VICTIMS = {
    "embedded": ["service", "service", "service"],
    "shared": ["service", "live state", "ledger", "service", "live state"],
}

STEP_US = 50_000


@cache
def start_us() -> int:
    """So far in the past that all of it has happened, and fresh enough to be decided, now and in the runs
    that follow."""
    return time.time_ns() // 1_000 - EVENTS * STEP_US


def made() -> Batches:
    """The same traffic in every run of this test process, just now."""
    events = list(traffic(11, EVENTS, len(PEOPLE), start_us(), STEP_US))
    return [events[n : n + BATCH] for n in range(0, len(events), BATCH)]


@pytest.fixture(scope="module")
def rulebase(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rulebase(tmp_path_factory.mktemp("rulebase"), small_rulebase())


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory, rulebase: Path) -> Outcome:
    """What comes of it when nothing happens, on the simplest installation: the same as on any other."""
    with (
        installation("embedded", tmp_path_factory.mktemp("clean")) as place,
        serving_with(place.environment, "--rulebase", str(rulebase)) as service,
    ):
        know(service.target, PEOPLE)
        deliver(lambda: service.target, "collector", made())
        return outcome(service.target, PEOPLE, truth(made()))


def killed_run(
    place: Installation,
    rulebase: Path,
    victims: Sequence[str],
    real: dict[str, int] | None,
    source: str = "collector",
) -> Outcome:
    """Stream everything while these are killed one after the other, with batches in flight, and send up to
    `REPEATS` batches that were acknowledged before again after each. `real`: as for `outcome`."""
    batches, rng = made(), random.Random(5)
    # Well before the end: else all that is left may be acknowledged before the kill has come about.
    at = sorted(rng.sample(range(5, len(batches) // 2), len(victims)))
    crashes = list(zip(at, victims, strict=True))
    environment = {**place.environment, "OPPORTUNE_CHECKPOINT_SECONDS": "0.2"}
    with serving_with(environment, "--rulebase", str(rulebase)) as service:
        fallible: dict[str, Server | Served] = {"service": service, **place.servers}

        def crash(acked: int) -> None:
            while crashes and acked >= crashes[0][0]:
                _, victim = crashes.pop(0)
                fallible[victim].kill()
                fallible[victim].start()

        know(service.target, PEOPLE)
        deliver(lambda: service.target, source, batches, crash, lambda: rng.randint(1, REPEATS))
        assert not crashes
        result = outcome(service.target, PEOPLE, real)
        assert service.stop() == 0
    return result


@pytest.mark.parametrize("name", NAMES)
def test_kill_9_loses_nothing_and_decides_nothing_twice(
    name: str, tmp_path: Path, rulebase: Path, clean: Outcome
) -> None:
    assert clean.counted == truth(made())
    assert clean.decided, "nothing was decided: the test shows nothing"
    with installation(name, tmp_path) as place:
        crashed = killed_run(place, rulebase, VICTIMS[name], clean.counted)
    assert crashed == clean
    assert max(crashed.verdicts.values()) == 1


def test_control_without_deduplication_the_same_crashes_count_twice(tmp_path: Path, rulebase: Path) -> None:
    """Under another source name an event sent again is another event: the check above would notice."""
    with installation("embedded", tmp_path) as place:
        crashed = killed_run(place, rulebase, ["service"], None, "collector-{}")
    assert crashed.counted != truth(made())
