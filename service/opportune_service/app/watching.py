"""Tell those who watch what is in force, and each change of it, whichever process made it.

A watcher is told the differences between what it was told last and what is so now. So one who reads slowly
is told of fewer, and needs no more memory than one who reads at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from opportune_service.app.activation import Attempt
from opportune_service.app.errors import StoreUnavailableError
from opportune_service.app.ledger_thread import LedgerThread
from opportune_service.app.ports import Ledger
from opportune_service.app.records import InForce, Pause

LOOK_SECONDS = 0.3
"""A watcher is to know within a second what any process did."""


class Seen(StrEnum):
    """Why a watcher is told."""

    SNAPSHOT = "snapshot"
    ACTIVATED = "activated"
    ACTIVATION_FAILED = "activation_failed"
    PAUSED = "paused"
    RESUMED = "resumed"


@dataclass(frozen=True, slots=True)
class Sight:
    """What is in force at one moment: revisions, full first, and paused campaigns by name. `attempt`: the
    last one to activate that this process made."""

    in_force: tuple[InForce, ...] = ()
    paused: Mapping[str, Pause] = field(default_factory=dict)
    attempt: Attempt | None = None


@dataclass(frozen=True, slots=True)
class Told:
    """What a watcher is told, with what is so by then. `attempt` and `campaign` are what it is about."""

    kind: Seen
    now: Sight
    attempt: Attempt | None = None
    campaign: str = ""


class Watching:
    """What watchers are told. `last_attempt`: the last one to activate, as this process knows."""

    def __init__(
        self, ledger: Ledger, thread: LedgerThread, last_attempt: Callable[[], Attempt | None]
    ) -> None:
        self._ledger = ledger
        self._thread = thread
        self._last_attempt = last_attempt
        self._looking = asyncio.Lock()
        self._looked_at = float("-inf")
        self._sight = Sight()

    async def watch(self) -> AsyncIterator[Told]:
        """What is in force, and then each change. Without end. Raises `StoreUnavailableError` if the ledger
        cannot be read at the beginning; later it waits for it."""
        known = await self._look(anew=True)
        yield Told(Seen.SNAPSHOT, known)
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                now = await self._look()
            except StoreUnavailableError:
                # Why an activation failed just then is known all the same.
                now = replace(known, attempt=self._last_attempt())
            for each in differences(known, now):
                yield each
            known = now

    async def _look(self, *, anew: bool = False) -> Sight:
        """What is so now, or was when another watcher looked just before."""
        async with self._looking:
            clock = asyncio.get_running_loop().time
            if anew or clock() - self._looked_at > LOOK_SECONDS / 2:
                self._sight = await self._thread.run(self._read)
                self._looked_at = clock()
            return self._sight

    def _read(self) -> Sight:
        attempt = self._last_attempt()
        paused = {each.campaign: each for each in self._ledger.pauses()}
        return Sight(tuple(self._ledger.in_force()), paused, attempt)


def differences(before: Sight, now: Sight) -> Iterator[Told]:
    """What has happened in between, as far as it still shows. Pure."""
    attempt = now.attempt if now.attempt is not before.attempt else None
    if now.in_force != before.in_force:
        yield Told(Seen.ACTIVATED, now, attempt if attempt and not attempt.message else None)
    for campaign in sorted(now.paused.keys() | before.paused.keys()):
        if now.paused.get(campaign) != before.paused.get(campaign):
            kind = Seen.PAUSED if campaign in now.paused else Seen.RESUMED
            yield Told(kind, now, campaign=campaign)
    if attempt is not None and attempt.message:
        yield Told(Seen.ACTIVATION_FAILED, now, attempt)
