"""Rounds of snapshots, waited for."""

from __future__ import annotations

import asyncio

from opportune_service.bootstrap import Application


async def snapshot(app: Application) -> None:
    """Snapshot everything, so that the checkpoint is at the end of the log."""
    app.ingest.request_checkpoint()
    last = await app.thread.run(app.ledger.last_position)
    while await app.thread.run(app.ledger.checkpoint) < last:  # noqa: ASYNC110 - nobody tells of the end
        await asyncio.sleep(0)
