"""The service with one of its safeties switched off, for controls: a check that does not notice it is none.

SAFETY_OFF=caps python -m support.unsafe_service serve ...
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Collection
from typing import Any

SAFETY = "SAFETY_OFF"


def off(safety: str) -> dict[str, str]:
    """The environment of a service without it; ``""``: of a safe one."""
    return {SAFETY: safety} if safety else {}


def without_caps() -> None:
    """Nobody was ever contacted."""
    from opportune_service.app import commit
    from opportune_service.core.decide import decide
    from opportune_service.core.verdict import History

    def blind(rulebase: Any, moment: Any, _: History, *others: Any) -> Any:
        return decide(rulebase, moment, History(), *others)

    commit.decide = blind  # type: ignore[attr-defined]


def without_log() -> None:
    """What was accepted is acknowledged and not written down."""
    from opportune_service.adapters.sql.transaction import SqlTransaction

    def append_log(*_: object) -> None: ...

    SqlTransaction.append_log = append_log  # type: ignore[method-assign]


def without_drain() -> None:
    """Calls under way are cut off when the service is told to end."""
    from opportune_service.adapters.grpc.server import Server

    async def drain(self: Server, _: float) -> None:
        await self.grpc.stop(0)

    Server.drain = drain  # type: ignore[method-assign]


def without_life() -> None:
    """It dies when it has committed its first group and would save what that changed."""
    from opportune_service.adapters.redis.live_state import RedisLiveState

    save = RedisLiveState.save

    async def saved_or_dead(
        self: RedisLiveState, subscriber_ids: Collection[str], said: Collection[str] = ()
    ) -> None:
        if subscriber_ids:
            os.kill(os.getpid(), signal.SIGKILL)
        await save(self, subscriber_ids, said)

    RedisLiveState.save = saved_or_dead  # type: ignore[method-assign]


SAFETIES: dict[str, Callable[[], None]] = {
    "caps": without_caps,
    "log": without_log,
    "drain": without_drain,
    "life": without_life,
}


def main() -> None:
    from opportune_service.cli import main as serve

    SAFETIES[os.environ.pop(SAFETY)]()
    serve()


if __name__ == "__main__":
    main()
