"""What metrics are read from: the parts of a running service, seen at one instant."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Protocol, runtime_checkable

from opportune_service.app.access import Access
from opportune_service.app.calls import Calls
from opportune_service.app.errors import StoreUnavailableError
from opportune_service.app.figures import PipelineFigures
from opportune_service.app.ledger_thread import LedgerThread
from opportune_service.app.observing import TimerStatus
from opportune_service.app.ports import Clock
from opportune_service.app.records import Backlog
from opportune_service.app.revisions import LiveRevision

LEDGER_SECONDS = 3.0
"""How long the ledger may take over its figures; after that they are left out of this scrape."""


class WatchedSettings(Protocol):
    @property
    def lease_seconds(self) -> float: ...


class WatchedIngest(Protocol):
    @property
    def healthy(self) -> asyncio.Event: ...
    @property
    def figures(self) -> PipelineFigures: ...
    @property
    def queued(self) -> int: ...
    @property
    def timers(self) -> TimerStatus: ...
    @property
    def next_timer_us(self) -> int: ...
    @property
    def snapshotted_us(self) -> int: ...


class WatchedLedger(Protocol):
    """What is asked of the ledger at each scrape, in its own thread."""

    def backlogs(self, now_us: int) -> Sequence[Backlog]:
        """See `Ledger.backlogs`."""
        ...


@runtime_checkable
class Counting(Protocol):
    """Live state that knows how many subscribers it holds."""

    def counts(self) -> tuple[int, int]:
        """(ready to use, at rest)."""
        ...


class WatchedShadow(Protocol):
    """What became of the moments of a shadow since the start: decided, or lost."""

    @property
    def decided(self) -> int: ...
    @property
    def lost(self) -> int: ...


class Watched(Protocol):
    """The part of the running service that metrics are read from."""

    @property
    def settings(self) -> WatchedSettings: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def live(self) -> LiveRevision: ...
    @property
    def states(self) -> object: ...
    @property
    def ledger(self) -> WatchedLedger: ...
    @property
    def thread(self) -> LedgerThread: ...
    @property
    def ingest(self) -> WatchedIngest: ...
    @property
    def access(self) -> Access | None: ...
    @property
    def shadow(self) -> WatchedShadow: ...
    def leads(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Seen:
    """A service at one instant. `not_ready`: why it wants no calls, "" if it does. `held`: subscribers
    ready and at rest; None if the live state is elsewhere. No `backlogs`: there are none, or the ledger did
    not say. `access`: who may call; None if nobody is asked."""

    version: str
    now_us: int
    lease_us: int
    live: LiveRevision
    ingest: WatchedIngest
    figures: PipelineFigures
    calls: Calls
    not_ready: str
    leads: bool
    held: tuple[int, int] | None
    backlogs: Sequence[Backlog]
    access: Access | None
    shadow: WatchedShadow


async def look(app: Watched, calls: Calls, not_ready: Callable[[], str]) -> Seen:
    """The service as it is now; call it in the service's event loop. Never waits long for the ledger."""
    now_us = app.clock.now_us()
    backlogs: Sequence[Backlog] = ()
    try:
        async with asyncio.timeout(LEDGER_SECONDS):
            backlogs = await app.thread.run(app.ledger.backlogs, now_us)
    except (StoreUnavailableError, TimeoutError):
        pass  # the figure of the store's health says so
    return Seen(
        version=_version(),
        now_us=now_us,
        lease_us=int(app.settings.lease_seconds * 1_000_000),
        live=app.live,
        ingest=app.ingest,
        figures=app.ingest.figures,
        calls=calls,
        not_ready=not_ready(),
        leads=app.leads(),
        held=app.states.counts() if isinstance(app.states, Counting) else None,
        backlogs=backlogs,
        access=app.access,
        shadow=app.shadow,
    )


def _version() -> str:
    try:
        return version("opportune")
    except PackageNotFoundError:  # run from the source tree
        return "unknown"
