"""SIGTERM under load: what was taken in is acknowledged, what is not acknowledged was not taken in, and the
next process goes on from there."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from opportune_service.core.events import Event
from support.collecting import counts, know, publish, truth
from support.installations import NAMES, installation
from support.processes import serving_with, write_rulebase
from support.small_rulebase import mms, small_rulebase, subscribers
from support.unsafe_service import off

PEOPLE = subscribers(4)
BATCHES, SIZE = 200, 5


def made(source: int) -> list[list[Event]]:
    """MMS of a moment ago, none of them twice."""
    now_us = time.time_ns() // 1_000
    return [
        [mms(PEOPLE[source], f"{n}-{m}", now_us - 60_000_000 + n * SIZE + m) for m in range(SIZE)]
        for n in range(BATCHES)
    ]


def run(name: str, directory: Path, without: str = "") -> int:
    """Publish by several streams, end the service in the midst of it, start it again, and publish the rest.
    How many events were sent again that it knew."""
    rulebase = write_rulebase(directory / "rulebase", small_rulebase())
    sent = [made(source) for source in range(len(PEOPLE))]
    acked, known = [0] * len(sent), [0] * len(sent)
    with (
        installation(name, directory) as place,
        serving_with(place.environment | off(without), "--rulebase", str(rulebase)) as service,
    ):
        know(service.target, PEOPLE)

        told = threading.Event()

        def end(acknowledged: int) -> None:
            if acknowledged >= BATCHES // 8 and not told.is_set():
                told.set()
                service.process.send_signal(signal.SIGTERM)

        def stream(source: int) -> None:
            batches = sent[source][acked[source] :]
            taken, known[source] = publish(service.target, f"collector-{source}", batches, end)
            acked[source] += taken

        together(stream, range(len(sent)))
        assert service.process.wait(60) == 0
        assert min(acked) < BATCHES, "all was done before it ended: the test shows nothing"
        service.stop()
        service.start()
        together(stream, range(len(sent)))
        assert acked == [BATCHES] * len(sent)
        assert counts(service.target, PEOPLE) == truth([batch for each in sent for batch in each])
        assert service.stop() == 0
    return sum(known)


def together(call: Callable[[int], None], arguments: Iterable[int]) -> None:
    threads = [threading.Thread(target=call, args=(each,)) for each in arguments]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("name", NAMES)
def test_sigterm_under_load_leaves_nobody_in_doubt(name: str, tmp_path: Path) -> None:
    assert run(name, tmp_path) == 0


def test_control_cut_off_at_once_collectors_do_not_know(tmp_path: Path) -> None:
    """Nothing is lost even then, but what is sent again was partly taken in."""
    assert run("embedded", tmp_path, "drain") > 0
