"""The live state next to what the record alone gives: what a crash would put in its place."""

from __future__ import annotations

from collections.abc import Collection

from opportune_rulebase.network import NetworkEngine
from opportune_service.app.recover import recover_some
from opportune_service.bootstrap import Application
from opportune_service.core.state import SubscriberState


async def live_and_rebuilt(
    app: Application, subscriber_ids: Collection[str]
) -> tuple[dict[str, SubscriberState], dict[str, SubscriberState]]:
    """States as they are, and as recovery makes them from the ledger."""
    rebuilt, _ = await app.thread.run(recover_some, app.ledger, NetworkEngine, subscriber_ids)
    return dict(await app.states.load(subscriber_ids)), rebuilt
