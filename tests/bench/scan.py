"""A sweep over a whole subscriber base, with events coming in meanwhile.

Rows, for a million subscribers with a birthday each, of whom one in 365 has it today:
`scan/1000000/seconds` until the sweep is through, with everybody who is due decided and durable; `gap` is
the longest time for which the event loop was kept, `cpu` the same in time of the processor (on a busy
machine the two differ); `ack` is the time to an answer, 99th percentile, of batches of 100 events that one
collector sends one after the other all the while. `quiet/...` are the same without a sweep. Who was decided
is compared with the birthdays: only right answers count.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from statistics import quantiles
from time import perf_counter, thread_time

from harness import Row, console
from rich.table import Table

__all__ = ["rows"]

PEOPLE = 1_000_000
BATCH = 100
NINE_US = 1_795_136_400_000_000
"""2026-11-20T09:00 in Shanghai."""

FILES = {
    "rulebase.yaml": b"rulebase: birthdays\ntime_zone: Asia/Shanghai\n",
    "vocabulary.yaml": b"""\
events: {sms_sent: {}}
subscriber: {birthday: date, brand: string, arpu: int}
channels: {sms: {mode: automatic}}
products: {gift: {label: Gift, category: care}}
""",
    "campaigns/gift.yaml": b"""\
campaign: gift
product: gift
on: [{date: sub.birthday, every: year, at: "09:00"}]
mode: automatic
channels: [sms]
content: {sms: "A gift"}
""",
}


def rows(only: str = "") -> Iterator[Row]:
    """Run it. All rows come of one run, whichever of them is wanted."""
    from opportune_service.bootstrap import run_process

    with tempfile.TemporaryDirectory() as place:
        figures, right = run_process(_measure(Path(place)))
    table = Table(title=f"a sweep over {PEOPLE:,} subscribers, while events come in")
    table.add_column("what")
    table.add_column("seconds", justify="right")
    for name, seconds in figures.items():
        table.add_row(name, f"{seconds:.3f}")
        row = Row(f"scan/{PEOPLE}/{name}", round(seconds, 4) if right else None, "s")
        if row.name.startswith(only):
            yield row
    console.print(table if right else "scan: the wrong people were decided")


async def _measure(place: Path) -> tuple[dict[str, float], bool]:
    from opportune_service.app.records import DecisionFilter
    from opportune_service.bootstrap import application
    from opportune_service.clocks import ManualClock
    from opportune_service.core.state import SubscriberState, encode_state
    from opportune_service.settings import Settings
    from support.applications import activate

    clock = ManualClock(NINE_US - 3_600_000_000)
    settings = Settings(database=f"sqlite:///{place}/o.db", checkpoint_seconds=600, timer_seconds=3600)
    async with application(settings, clock) as app:
        await activate(app, FILES)
        rng = random.Random(20261120)
        first, due, born = date(1950, 1, 1), set(), {}
        for n in range(PEOPLE):
            born[f"86138{n:08d}"] = first + timedelta(days=rng.randrange(55 * 365))
        due = {who for who, day in born.items() if (day.month, day.day) == (11, 20)}
        app.states.restore(
            (
                who,
                encode_state(
                    SubscriberState(
                        known=True,
                        context={"birthday": day.isoformat(), "brand": "gotone", "arpu": 4200},
                        as_of_us=dict.fromkeys(("birthday", "brand", "arpu"), NINE_US - 10**12),
                    )
                ),
            )
            for who, day in born.items()
        )
        await app.schedule.turn()  # which time zones there are
        acks: list[float] = []
        stop = asyncio.Event()
        streaming = asyncio.create_task(_stream(app, list(born), acks, stop))
        gaps = [0.0, 0.0]
        beating = asyncio.create_task(_beat(gaps, stop))
        await asyncio.sleep(5)
        quiet_gaps, quiet_acks = gaps.copy(), len(acks)
        gaps[:] = [0.0, 0.0]
        clock.value_us = NINE_US
        began = perf_counter()
        await app.schedule.turn()
        taken = perf_counter() - began
        busy_gaps, busy_acks = gaps.copy(), acks[quiet_acks:]
        stop.set()
        await asyncio.gather(streaming, beating)
        listed = await app.insight.decisions(DecisionFilter(campaign="gift"), 0, PEOPLE, newest_first=False)
        right = sorted(row.key.subscriber_id for row in listed) == sorted(due)
    return {
        "seconds": taken,
        "gap": busy_gaps[0],
        "cpu": busy_gaps[1],
        "ack": quantiles(busy_acks, n=100)[98],
        "quiet/gap": quiet_gaps[0],
        "quiet/cpu": quiet_gaps[1],
        "quiet/ack": quantiles(acks[:quiet_acks], n=100)[98],
    }, right


async def _stream(app, people, acks, stop) -> None:  # type: ignore[no-untyped-def]
    """Batches one after the other."""
    from opportune_service.core.events import Event

    number = 0
    while not stop.is_set():
        now_us = app.clock.now_us()
        batch = [
            Event(f"e{number + n}", people[(number + n) * 7919 % PEOPLE], "sms_sent", now_us)
            for n in range(BATCH)
        ]
        number += BATCH
        began = perf_counter()
        await app.ingest.publish("bench", batch)
        acks.append(perf_counter() - began)


async def _beat(gaps, stop) -> None:  # type: ignore[no-untyped-def]
    """How long the loop was kept at a time, at most: by the clock, and by what its thread used."""
    while not stop.is_set():
        began, used = perf_counter(), thread_time()
        await asyncio.sleep(0)
        gaps[:] = [max(gaps[0], perf_counter() - began), max(gaps[1], thread_time() - used)]
