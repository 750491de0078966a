"""A whole service in process, without the wire: what tests of the pipeline run against."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from opportune_service.app.context import ImportItem, import_context
from opportune_service.bootstrap import Application, application
from opportune_service.clocks import ManualClock
from opportune_service.core.events import Encoding, ImportMode
from opportune_service.core.verdict import Reason, Verdict
from opportune_service.settings import Settings
from support.rulebases import NOON_US
from support.small_rulebase import small_rulebase, subscribers

T = TypeVar("T")


@asynccontextmanager
async def running(
    database: Path | None = None,
    files: Mapping[str, bytes] | None = None,
    *,
    now_us: int = NOON_US,
    engine: str = "network",
    people: Sequence[str] = tuple(subscribers(5)),
) -> AsyncIterator[Application]:
    """A service on `database` (None: in memory) with `files` active and `people` known."""
    url = f"sqlite:///{database}" if database else "sqlite://"
    settings = Settings(database=url, engine=engine, checkpoint_seconds=600, timer_seconds=3600)
    async with application(settings, ManualClock(now_us)) as app:
        await activate(app, small_rulebase() if files is None else files)
        if people:
            await know(app, people)
        yield app


async def activate(app: Application, files: Mapping[str, bytes]) -> str:
    """Upload and activate; the revision."""
    rulebase, _ = await app.rulebases.upload(files, "test", "")
    if rulebase.revision != app.live.id:
        await app.activations.activate(rulebase.revision, app.live.id, "test", "")
    return rulebase.revision


async def know(app: Application, people: Sequence[str]) -> None:
    """Import an empty context, so that the subscribers are known."""
    items = [ImportItem(subscriber_id, b"{}") for subscriber_id in people]
    receipt = await import_context(app.live, app.ingest, items, 1, ImportMode.PATCH, Encoding.JSON)
    assert not receipt.rejections


def in_loop(test: Callable[..., Awaitable[T]], *args: object) -> T:
    """Run one asynchronous body, with whatever it leaves behind reported."""

    async def body() -> T:
        return await test(*args)

    return asyncio.run(body())


def decided(verdicts: Sequence[Verdict]) -> list[tuple[str, str]]:
    """(subscriber id, campaign) of everything that was decided, in order."""
    return [
        (verdict.key.subscriber_id, decision.campaign)
        for verdict in verdicts
        for decision in verdict.decisions
        if decision.reason is Reason.DECIDED
    ]
