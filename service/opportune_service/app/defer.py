"""Have what was deferred decided again when it falls due: by the clock, and in replay."""

from __future__ import annotations

from opportune_service.app.ingest import Ingest
from opportune_service.core.calendars import DAY_US
from opportune_service.core.verdict import Verdict

AHEAD_US = 60_000_000
"""So far ahead is read what will be due."""
AHEAD_AMONG_MEMBERS_US = 2_000_000
"""The same where other processes defer too."""


async def decide_deferred(ingest: Ingest, until_us: int) -> list[Verdict]:
    """Replay: have everything decided again that is due by then, each at its own time, after all timers
    that are due before it. Raises `NoRulebaseError`, and `StoreUnavailableError`: what was not decided is
    still due."""
    verdicts: list[Verdict] = []
    while await look_ahead(ingest, until_us, DAY_US):
        verdicts += (await ingest.settle_deferred(until_us)).verdicts
    return verdicts


async def decide_due(ingest: Ingest, now_us: int, ahead_us: int = AHEAD_US) -> None:
    """The same by the clock, which shows `now_us`: all that is due of a subscriber together. Those whom
    other members hold are left to the next call."""
    while await look_ahead(ingest, now_us, ahead_us):
        if not (await ingest.settle_deferred()).verdicts:
            return  # those left are held by others; or the clock was set back: nothing is due any more


async def look_ahead(ingest: Ingest, until_us: int, ahead_us: int) -> bool:
    """Whether anything is due by then. What is due until so much later is read as well, if anything has to
    be read."""
    known = ingest.deferrals
    if known.read_us <= until_us or known.next_us() > until_us >= known.until_us:
        await ingest.read_deferrals(until_us + ahead_us)
    return known.next_us() <= until_us
