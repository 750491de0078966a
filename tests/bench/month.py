"""Simulate a month of a small province in minutes and print what `opportune report` says of it:

    python tests/bench/month.py [--people 300] [--days 30] [--seed 4] [--by week]

Every figure is compared with the simulation's own books, and the uplift with what messages truly did. Ends
with 1 if they differ. The pictures of the report are in build/month.svg.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))  # for `support`, which is shared with the tests

from opportune_service.adapters.grpc.server import serving
from opportune_service.app.report import Period, report
from opportune_service.bootstrap import Application
from support.month import LIFT, Month
from support.provinces import MONDAY_US

PICTURE = Path(__file__).parents[2] / "build" / "month.svg"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--people", type=int, default=300)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--seed", type=int, default=4)
    parser.add_argument("--by", default="whole", choices=["whole", "day", "week"])
    sys.exit(asyncio.run(_run(parser.parse_args())))


async def _run(asked: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory() as directory:
        month = Month(asked.seed, asked.people, Path(directory) / "month.db")
        began = time.perf_counter()
        async with month.running() as app:
            end_us = await month.live(app, asked.days)
            print(
                f"{asked.days} days of {asked.people} people in {time.perf_counter() - began:.0f} s",
                flush=True,
            )
            wrong = await _differences(month, app, end_us)
            await _print_report(app, end_us, asked.by)
    for campaign in ("data", "music"):
        print(
            f"{campaign}: messages truly made {100 * month.books.effect(campaign, LIFT):.1f} in 100 order"
        )
    print("\n".join(wrong) or "every figure is what the simulation saw")
    return bool(wrong)


async def _differences(month: Month, app: Application, end_us: int) -> list[str]:
    found = await report(app.live, app.ledger, app.thread, (), MONDAY_US, end_us, Period.WEEK)
    return [
        f"{figures.campaign} since {figures.start_us}: {figures}, the simulation saw {expected}"
        for figures in (each.figures for each in found.campaigns)
        if figures != (expected := month.books.figures(figures.campaign, figures.start_us, figures.end_us))
    ]


async def _print_report(app: Application, end_us: int, by: str) -> None:
    PICTURE.parent.mkdir(exist_ok=True)
    async with serving(app) as server:
        command = [
            *(sys.executable, "-m", "opportune_service.cli", "report", "--by", by, "--svg", str(PICTURE)),
            *("--since", _iso(MONDAY_US), "--until", _iso(end_us), "--target", f"127.0.0.1:{server.port}"),
        ]
        process = await asyncio.create_subprocess_exec(*command)
        if await process.wait():
            raise SystemExit("the report failed; its message is above")


def _iso(at_us: int) -> str:
    return datetime.fromtimestamp(at_us / 1_000_000, UTC).isoformat()


if __name__ == "__main__":
    main()
