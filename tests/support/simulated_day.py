"""A program: hours of a simulated province through the sample rulebase, and a fingerprint of all it led to.

    python -m support.simulated_day SEED BATCH

`BATCH`: how many events are taken in at once. Prints one line of JSON.
"""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec
from opportune_rulebase import load
from opportune_service.adapters.files.rulebase_dir import read_rulebase
from opportune_service.app import replay as replays
from opportune_service.app.context import ImportItem, import_context
from opportune_service.bootstrap import application
from opportune_service.clocks import ManualClock
from opportune_service.core.events import Encoding, ImportMode
from opportune_service.settings import Settings
from opportune_service.simulator import Province
from support.applications import activate
from support.programs import answer_of
from support.rulebases import NOON_US

PACK = Path(__file__).parents[2] / "rulebase" / "packs" / "gprs-precision"
PEOPLE = 40
HOURS = 8
SOURCE = "province"
TABLES = ("verdicts", "decisions", "contacts", "outcomes", "usage", "deferrals", "prompts", "deliveries")


async def day(seed: int, folder: Path) -> dict[str, Any]:
    files = read_rulebase(PACK)
    rulebase = load(files)
    tables = rulebase.tables
    province = Province(seed, PEOPLE, NOON_US, rulebase.time_zone, tables.cells, tables.terminals)
    settings = Settings(database=f"sqlite:///{folder}/day.db", checkpoint_seconds=600, timer_seconds=3600)
    until_us = NOON_US + HOURS * 3_600_000_000
    async with application(settings, ManualClock(NOON_US)) as app:
        await activate(app, files)
        people = [ImportItem(who, msgspec.json.encode(known)) for who, known in province.context()]
        await import_context(app.live, app.ingest, people, NOON_US, ImportMode.PATCH, Encoding.JSON)
        report = await replays.replay(app.ingest, SOURCE, province.events(until_us), until_us=until_us)
    fingerprint = hashlib.sha256()
    with sqlite3.connect(folder / "day.db") as connection:
        for table in TABLES:
            columns = [name for _, name, *_ in connection.execute(f"PRAGMA table_info({table})")]
            listed = ", ".join(name for name in columns if name not in ("cursor", "seq"))
            rows = connection.execute(f"SELECT {listed} FROM {table}")  # noqa: S608 - names of ours
            for row in sorted(map(repr, rows)):
                fingerprint.update(f"{table} {row}\n".encode())
    connection.close()
    return {
        "events": report.events,
        "decided": sum(report.decided.values()),
        "lost": sum(report.lost.values()),
        "fingerprint": fingerprint.hexdigest(),
    }


def run_day(seed: int, hash_seed: int, batch: int, **environment: str) -> dict[str, Any]:
    """What this program finds, in a process of its own."""
    return answer_of("support.simulated_day", seed, batch, hash_seed=hash_seed, **environment)


def main() -> None:
    seed, batch = map(int, sys.argv[1:])
    replays.BATCH = batch
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(day(seed, Path(folder)))
    print(msgspec.json.encode(found).decode())


if __name__ == "__main__":
    main()
