"""Members that die or hang, as processes: others finish what they left, nothing is lost or done twice."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from support.collecting import Batches, deliver, know, outcome, truth
from support.installations import Installation, installation
from support.processes import Served, serving_with, write_rulebase
from support.servers import until
from support.small_rulebase import small_rulebase, subscribers, traffic
from support.unsafe_service import off

PEOPLE = subscribers(5)
STEP_US = 50_000


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Installation]:
    with installation("shared", tmp_path) as found:
        yield found


@pytest.fixture
def rulebase(tmp_path: Path) -> str:
    return str(write_rulebase(tmp_path / "rulebase", small_rulebase()))


def made(seed: int) -> Batches:
    """MMS and SMS of everybody, until just now."""
    start_us = time.time_ns() // 1_000 - 800 * STEP_US
    events = list(traffic(seed, 800, len(PEOPLE), start_us, STEP_US))
    return [events[n : n + 10] for n in range(0, len(events), 10)]


def members(place: Installation) -> list[int]:
    engine = sa.create_engine(place.ledger_url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        return list(connection.scalars(sa.text("SELECT number FROM members ORDER BY number")))


def check(asked: Served, *sent: tuple[str, Batches]) -> None:
    """All that these sources sent is counted, and decided once. Event ids are the same in all sources."""
    found = outcome(asked.target, PEOPLE)
    real = [truth(batches) for _, batches in sent]
    assert found.counted == {who: sum(each.get(who, 0) for each in real) for who in PEOPLE}
    assert found.decided
    assert max(found.verdicts.values()) == 1


def test_what_a_killed_member_committed_and_did_not_save_is_not_lost(
    place: Installation, rulebase: str
) -> None:
    batches = made(1)
    with (
        serving_with({**place.environment, **off("life")}, "--rulebase", rulebase) as mortal,
        serving_with(place.environment, "--rulebase", rulebase) as other,
    ):
        know(other.target, PEOPLE)
        deliver(
            lambda: other.target if mortal.process.poll() is not None else mortal.target, "bss", batches
        )
        assert mortal.process.poll() is not None, "it did not die: the test shows nothing"
        check(other, ("bss", batches))
        until(lambda: len(members(place)) == 1, "the dead member is taken over")
        assert other.stop() == 0


def test_a_member_that_was_only_stopped_does_no_harm_and_joins_anew(
    place: Installation, rulebase: str
) -> None:
    """It is stopped in the middle of a stream until it is expelled, while another stream is about the same
    people."""
    slow_batches, other_batches = made(2), made(3)
    with (
        serving_with(place.environment, "--rulebase", rulebase) as slow,
        serving_with(place.environment, "--rulebase", rulebase) as other,
    ):
        know(other.target, PEOPLE)
        before = members(place)
        stopped = threading.Event()

        def stop(acked: int) -> None:
            if acked >= len(slow_batches) // 3 and not stopped.is_set():
                slow.freeze()
                stopped.set()

        failures: list[BaseException] = []

        def collector() -> None:
            try:
                deliver(lambda: slow.target, "slow", slow_batches, stop)
            except BaseException as error:  # noqa: BLE001 - raised again below
                failures.append(error)

        sending = threading.Thread(target=collector)
        sending.start()
        assert stopped.wait(60)
        until(lambda: len(members(place)) == 1, "the stopped member is expelled")
        deliver(lambda: other.target, "other", other_batches)
        slow.thaw()
        sending.join()
        assert failures == []
        assert len(members(place)) == 2
        assert max(members(place)) > max(before)
        for each in (slow, other):
            check(each, ("slow", slow_batches), ("other", other_batches))
        assert slow.stop() == other.stop() == 0
