"""A program: some days of a simulated month, and a fingerprint of all that they led to.

    python -m support.month_again SEED PEOPLE DAYS

Prints one line of JSON.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from typing import Any

from support.month import Month
from support.programs import answer_of


async def some_days(seed: int, people: int, days: int) -> dict[str, Any]:
    month = Month(seed, people)
    async with month.running() as app:
        await month.live(app, days)
    fingerprint = hashlib.sha256()
    made = [(entry, sorted(entry.outcomes)) for entry in month.books.made.values()]
    for each in (*month.books.events, *month.books.last.values(), *month.books.orders):
        fingerprint.update(repr(each).encode())
    for entry, outcomes in made:
        told = (entry.who, entry.at_us, entry.decision, entry.sent, outcomes)
        fingerprint.update(repr(told).encode())
    return {"contacts": len(made), "fingerprint": fingerprint.hexdigest()}


def run_days(seed: int, people: int, days: int, hash_seed: int) -> dict[str, Any]:
    """What this program finds, in a process of its own."""
    return answer_of("support.month_again", seed, people, days, hash_seed=hash_seed)


if __name__ == "__main__":
    print(json.dumps(asyncio.run(some_days(*map(int, sys.argv[1:])))))
