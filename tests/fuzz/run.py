"""Hostile bytes to a running service, of every kind and for as long as told.

    make fuzz ARGS="--seed 7 --minutes 10"

Each round is a service in a process of its own, and a minute of attacks side by side. Only documented codes
may come back; afterwards the service must live and take an event in, count no fault, and have no token in
its log. What happens follows from the seed; when exactly it meets the service does not. Ends with 1 at the
first violation, and says how to repeat its round.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.request import urlopen

sys.path.append(str(Path(__file__).parents[1]))  # for `support`, which it shares with the tests

import grpc
from opportune.v1 import event_service_pb2_grpc
from opportune_service.app.callers import ROLES
from support.callers import bearer, one_of_each_role, tokens
from support.commands import serving
from support.hostile_wire import HostileWire, ViolationError
from support.servers import free_port
from support.small_rulebase import small_rulebase
from support.wire import event, publish

AT_ONCE = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--minutes", type=float, default=10, help="no round begins after so long")
    parser.add_argument("--round-seconds", type=float, default=60, help="how long a service is attacked")
    parser.add_argument("--round", type=int, help="only this round, to repeat it")
    asked = parser.parse_args()
    print(f"seed {asked.seed}, {asked.minutes:g} minutes", flush=True)
    seen: Counter[str] = Counter()
    end = time.monotonic() + asked.minutes * 60
    number = asked.round or 0
    while number == (asked.round or 0) or (asked.round is None and time.monotonic() < end):
        seconds = max(1.0, min(asked.round_seconds, end - time.monotonic()))
        print(f"round {number}", end=" ", flush=True)
        try:
            one, memory = attacked(f"{asked.seed}/{number}", seconds)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a violation
            print(f"\n\nVIOLATED: {error}\n", flush=True)
            traceback.print_exc()
            print(f'\nrepeat it with: make fuzz ARGS="--seed {asked.seed} --round {number}"')
            sys.exit(1)
        print(
            f"- {sum(one[each] for each in ('calls', 'cut off', 'raw'))} attacks, {memory} MiB", flush=True
        )
        seen += one
        number += 1
    for what, times in sorted(seen.items()):
        print(f"{what:45} {times:8}")
    print("\nonly documented codes, and every service lived")


def attacked(seed: str, seconds: float) -> tuple[Counter[str], int]:
    """A round: what was done and how it ended, and the memory of the service at the end. Raises
    `ViolationError`."""
    made = tokens(*ROLES)
    with TemporaryDirectory() as directory, attackable(Path(directory), made) as (address, metrics):
        seen, memory = asyncio.run(_attack(seed, seconds, address, metrics, made))
        log = (Path(directory) / "serve.log").read_text(encoding="utf-8")
    if fault := re.search(
        r"^.*\bfault [a-z]{8}\b(?:.*\n){0,40}|^Traceback(?:.*\n){0,40}", log, re.MULTILINE
    ):
        raise ViolationError(f"the service logged a fault:\n{fault[0]}")
    if leaked := [name for name, token in made.items() if token in log]:
        raise ViolationError(f"tokens are in the log: {leaked}")
    return seen, memory


@contextmanager
def attackable(directory: Path, made: dict[str, str]) -> Iterator[tuple[str, str]]:
    """A service with a caller for each role: its address, and that of its metrics."""
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    one_of_each_role(directory / "callers.yaml", made, tomorrow)
    for name, content in small_rulebase().items():
        path = directory / "rules" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    metrics = f"127.0.0.1:{free_port()}"
    (directory / "opportune.toml").write_text(
        f'callers = "callers.yaml"\nmetrics_listen = "{metrics}"\nreflection = true\nrulebase = "rules"\n'
    )
    with serving(["--log-format", "plain"], directory) as address:
        yield address, metrics


async def _attack(
    seed: str, seconds: float, address: str, metrics: str, made: dict[str, str]
) -> tuple[Counter[str], int]:
    end = time.monotonic() + seconds

    async def one(number: int) -> Counter[str]:
        wire = HostileWire(address, made, f"{seed}/{number}")
        try:
            while time.monotonic() < end:
                await wire.once()
        finally:
            await wire.close()
        return Counter(wire.seen)

    seen = sum(await asyncio.gather(*map(one, range(AT_ONCE))), Counter[str]())
    async with grpc.aio.insecure_channel(address) as channel:
        stub = event_service_pb2_grpc.EventServiceStub(channel)
        now_us = time.time_ns() // 1_000
        answer = await stub.PublishEvents(
            publish(event("fine", at_us=now_us)), metadata=bearer(made["collector"]), timeout=10
        )
        if answer.accepted_count != 1:
            raise ViolationError(f"an event was not taken in after all that: {answer}")
    shown = await asyncio.to_thread(_scraped, metrics)
    if faults := re.findall(
        r'^grpc_server_handled_total\{.*grpc_code="(?:INTERNAL|UNKNOWN)".*', shown, re.MULTILINE
    ):
        raise ViolationError(f"the service counted a fault: {faults[0]}")
    [memory] = re.findall(r"^process_resident_memory_bytes (\S+)", shown, re.MULTILINE)
    return seen, int(float(memory)) >> 20


def _scraped(metrics: str) -> str:
    with urlopen(f"http://{metrics}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


if __name__ == "__main__":
    main()
