"""The kinds of rounds of a torture run. Each makes a new installation, does its worst, and raises what it
finds."""

from __future__ import annotations

import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from figures import Figures
from opportune_service.core.events import Event
from support.collecting import know, settled_counts
from support.installations import installation
from support.outages import go_through, strikes, struck
from support.processes import Served, serving_with, write_rulebase
from support.simulated_day import run_day
from support.small_rulebase import mms, small_rulebase, subscribers
from support.storm import Storm, storm

HANGS_SECONDS = 12
"""The longest that anything hangs: longer than it takes to be given up by the others."""
RELOADS = 1_000
SOAK_SECONDS = 60
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Round:
    """One round: its kind, on which installation, and the chance that it draws from."""

    kind: str
    name: str
    rng: random.Random


def a_storm(round_: Round, _: Figures) -> str:
    """Several collectors, several members, and troubles at random, one after the other."""
    rng = round_.rng
    with tempfile.TemporaryDirectory() as folder, installation(round_.name, Path(folder)) as place:
        members = rng.randint(1, 3) if place.servers else 1
        for wire in place.wires.values():
            wire.delay(rng.choice((0, 0, 0.001, 0.005)))
        with storm(place, rng.randrange(10**6), members, log=Path(folder) / "log") as blowing:
            troubles = rng.choices(blowing.troubles(), k=rng.randint(2, 6))
            waiting = iter(troubles)
            print(f"x{members}: {', '.join(troubles)}", end=" ", flush=True)

            def disturb(storm_: Storm) -> None:
                storm_.make(next(waiting), rng.choice((0.05, 0.3, 1, 3, HANGS_SECONDS)))

            try:
                collectors = rng.randint(2, 6)
                blowing.blow("storm", collectors, rng.randint(20, 100), disturb, len(troubles))
                blowing.check_counts()
                for member in blowing.members:
                    assert member.stop() == 0, "a member did not end in good order"
                blowing.check_ledger()
            except BaseException:
                print(f"\n{_last_lines(Path(folder) / 'log')}")
                raise
            return f"{sum(map(len, blowing.delivered))} events"


def an_outage(round_: Round, figures: Figures) -> str:
    """The store goes away in one way after the other, and comes back; how long everything takes."""
    sent: list[Event] = []
    who = subscribers(1)[0]

    def happening() -> Iterator[Event]:
        while True:
            sent.append(mms(who, f"e{len(sent)}", time.time_ns() // 1_000))
            yield sent[-1]

    with tempfile.TemporaryDirectory() as folder, installation(round_.name, Path(folder)) as place:
        rulebase = write_rulebase(Path(folder) / "rulebase", small_rulebase())
        log = Path(folder) / "log"
        with serving_with(place.environment, "--rulebase", str(rulebase), log=log) as service:
            know(service.target, [who])
            tried = strikes(place)
            round_.rng.shuffle(tried)
            for strike in tried:
                stack = ExitStack()
                strike_it = struck(place, service, strike)

                def begin(stack: ExitStack = stack, how: object = strike_it) -> None:
                    stack.enter_context(how)  # type: ignore[arg-type]

                found = go_through(service, "mmsc", happening(), begin, stack.close)
                figures.note(f"refused, s: {strike}", found.refused, 1, 5)
                figures.note(f"not serving, s: {strike}", found.not_serving, 2, 10)
                figures.note(f"recovered, s: {strike}", found.recovered, 5, 20)
                figures.note(f"serving, s: {strike}", found.serving, 5, 20)
            real = {who: len(sent)}
            found_at_last = settled_counts(service.target, [who], real)
            assert found_at_last == real, f"{found_at_last} counted of {real} after the outages"
            assert service.stop() == 0
    return f"{len(tried)} outages"


def reloads(round_: Round, figures: Figures) -> str:
    """A thousand activations while events stream, from the first to the last."""
    with (
        tempfile.TemporaryDirectory() as folder,
        installation(round_.name, Path(folder)) as place,
    ):
        with storm(place, round_.rng.randrange(10**6), log=Path(folder) / "log") as blowing:
            service = blowing.members[0]
            used: list[int] = []
            turns: SimpleQueue[int | None] = SimpleQueue()
            with ThreadPoolExecutor(1) as pool:
                streaming = pool.submit(_blow_at, turns, blowing)
                try:
                    while len(used) < RELOADS and not streaming.done():
                        turns.put(len(used))
                        blowing.reload()
                        used.append(memory(service))
                finally:
                    turns.put(None)
                streaming.result()
            assert blowing.tries == 2 * len(used), "a call failed"
            blowing.check_counts()
            assert service.stop() == 0
        blowing.check_ledger()
    figures.note_growth("memory, last quarter of 1,000 reloads / second", used)
    events = sum(map(len, blowing.delivered))
    return f"{len(used)} activations, {events} events, {used[-1] // MIB} MiB"


def _blow_at(turns: SimpleQueue[int | None], blowing: Storm) -> None:
    """With each turn two collectors deliver two batches each: as many for each reload, so that what is kept
    of events grows no faster than their number lets it."""
    while (turn := turns.get()) is not None:
        blowing.blow(f"stream-{turn}", 2, 2, lambda _: None, 0)


def a_soak(round_: Round, figures: Figures) -> str:
    """Nothing but traffic, for a while."""
    with (
        tempfile.TemporaryDirectory() as folder,
        installation(round_.name, Path(folder)) as place,
        storm(place, round_.rng.randrange(10**6), log=Path(folder) / "log") as blowing,
    ):
        service, used, over = blowing.members[0], list[int](), threading.Event()

        def watch() -> None:
            while not over.wait(0.5):
                used.append(memory(service))

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            end, n = time.monotonic() + SOAK_SECONDS, 0
            while time.monotonic() < end:
                blowing.blow(f"soak-{n}", 3, 100, lambda _: None, 0)
                n += 1
        finally:
            over.set()
            watcher.join()
        blowing.check_counts()
        assert service.stop() == 0
    figures.note_growth("memory, last quarter of a soak / second", used)
    return f"{sum(map(len, blowing.delivered))} events, {used[-1] // MIB} MiB"


def a_day(round_: Round, _: Figures) -> str:
    """A simulated day, twice, by processes that differ in all that must not matter."""
    seed = round_.rng.randrange(10**6)
    found = [run_day(seed, hash_seed, batch) for hash_seed, batch in ((1, 1_000), (2, 37))]
    assert found[0] == found[1], f"day {seed}: {found}"
    return f"day {seed}: {found[0]['events']} events, {found[0]['decided']} decided"


def memory(service: Served) -> int:
    """Bytes of memory that the process has now."""
    status = Path(f"/proc/{service.process.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) * 1024


def _last_lines(log: Path) -> str:
    return "\n".join(line[:600] for line in log.read_text().splitlines()[-25:])


ROUNDS: dict[str, Callable[[Round, Figures], str]] = {
    "storm": a_storm,
    "outages": an_outage,
    "reloads": reloads,
    "soak": a_soak,
    "day": a_day,
}
"""Kind -> what does it; it says what it did."""
