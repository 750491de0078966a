"""Members of one service: applications on one PostgreSQL and one Redis, each connected by itself."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from opportune_service.app.errors import StoreUnavailableError
from opportune_service.app.works import Receipt
from opportune_service.bootstrap import Application, application
from opportune_service.clocks import ManualClock
from opportune_service.core.events import Event
from opportune_service.core.state import encode_state
from opportune_service.settings import Settings
from support.applications import activate, know
from support.rulebases import NOON_US
from support.small_rulebase import small_rulebase, subscribers

PATIENCE_SECONDS = 60
_LOOK_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Stores:
    """What members share."""

    ledger: str
    live_state: str

    def settings(self) -> Settings:
        return Settings(
            database=self.ledger, live_state=self.live_state, checkpoint_seconds=600, timer_seconds=3600
        )

    def rows(self, query: str, **values: object) -> list[tuple[Any, ...]]:
        """What is in the ledger, by a connection of its own."""
        engine = sa.create_engine(self.ledger, poolclass=sa.NullPool)
        with engine.connect() as connection:
            return [tuple(row) for row in connection.execute(sa.text(query), values)]


@asynccontextmanager
async def members(
    stores: Stores,
    count: int = 2,
    files: Mapping[str, bytes] | None = None,
    *,
    clock: ManualClock | None = None,
    people: Sequence[str] = tuple(subscribers(5)),
) -> AsyncIterator[list[Application]]:
    """So many members, of one clock, with `files` active at all of them and `people` known."""
    clock = clock or ManualClock(NOON_US)
    async with AsyncExitStack() as stack:
        found = [
            await stack.enter_async_context(application(stores.settings(), clock)) for _ in range(count)
        ]
        revision = await activate(found[0], small_rulebase() if files is None else files)
        await until(lambda: all(each.live.id == revision for each in found), "all have the revision")
        if people:
            await know(found[0], people)
        yield found


async def until(condition: Callable[[], bool | Awaitable[bool]], what: str) -> None:
    """Wait for something that announces itself by nothing but the answer to a question."""
    for _ in range(int(PATIENCE_SECONDS / _LOOK_SECONDS)):
        answer = condition()
        if answer if isinstance(answer, bool) else await answer:
            return
        await asyncio.sleep(_LOOK_SECONDS)
    raise AssertionError(f"it did not come about: {what}")


async def leading(found: Sequence[Application]) -> Application:
    """The member that does what is to be done once, as soon as one does."""
    await until(lambda: any(each.leads() for each in found), "a member leads")
    return next(each for each in found if each.leads())


async def publish(app: Application, events: Sequence[Event], source: str = "test") -> Receipt:
    """As a careful collector does it: again, until it is acknowledged."""
    for _ in range(int(PATIENCE_SECONDS / _LOOK_SECONDS)):
        try:
            return await app.ingest.publish(source, events)
        except StoreUnavailableError:
            await asyncio.sleep(_LOOK_SECONDS)
    raise AssertionError("it was never acknowledged")


async def known(app: Application, people: Sequence[str]) -> dict[str, bytes]:
    """All that is known of these, but for the log positions, which differ from one history to the next."""
    return {
        each: encode_state(msgspec.structs.replace(await app.states.view(each), position=0))
        for each in people
    }


class HeldCommit:
    """Commits of a member wait in the ledger's thread until they are let go."""

    def __init__(self, app: Application, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self._go = threading.Event(), threading.Event()
        commit = app.ingest._commit

        def held(group: object) -> object:
            self.reached.set()
            assert self._go.wait(PATIENCE_SECONDS)
            return commit(group)  # type: ignore[arg-type]

        monkeypatch.setattr(app.ingest, "_commit", held)

    def let_go(self) -> None:
        self._go.set()


class Gate:
    """Calls of a function wait from when it is shut until it is open again; with it another gate."""

    def __init__(
        self, owner: object, name: str, monkeypatch: pytest.MonkeyPatch, other: Gate | None = None
    ) -> None:
        self._open = asyncio.Event()
        self._open.set()
        self._other = other
        self.waiting = asyncio.Event()
        call = getattr(owner, name)

        async def gated(*args: Any, **kwargs: Any) -> Any:
            if not self._open.is_set():
                self.waiting.set()
                await self._open.wait()
            return await call(*args, **kwargs)

        monkeypatch.setattr(owner, name, gated)

    def shut(self) -> None:
        self._open.clear()
        if self._other is not None:
            self._other.shut()

    def open(self) -> None:
        self._open.set()
        if self._other is not None:
            self._other.open()
