"""Live states that the contract is checked on, and members that share one in Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from opportune_service.adapters.memory import MemoryLiveState
from opportune_service.adapters.redis import RedisLiveState
from opportune_service.app.ports import LiveState
from opportune_service.core.state import SubscriberState, encode_state

T = TypeVar("T")


@dataclass
class Snapshots:
    """What a ledger has of subscribers."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def keep(self, subscriber_id: str, state: SubscriberState) -> None:
        self.blobs[subscriber_id] = encode_state(state)

    async def fetch(self, subscriber_ids: Collection[str]) -> Mapping[str, bytes]:
        self.asked += subscriber_ids
        return {each: self.blobs[each] for each in subscriber_ids if each in self.blobs}


class Loop:
    """One event loop for all of a test: connections belong to it."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(call)

    def close(self) -> None:
        self._runner.close()


class Live(Loop):
    """A live state, and the snapshots that it starts from."""

    def __init__(self, make: Callable[[Snapshots], LiveState]) -> None:
        super().__init__()
        self.snapshots = Snapshots()
        self.store = make(self.snapshots)

    def restore(self, states: Mapping[str, SubscriberState]) -> None:
        """As at start: they are in the ledger, and given to the store."""
        for subscriber_id, state in states.items():
            self.snapshots.keep(subscriber_id, state)
        self.store.restore(iter(self.snapshots.blobs.items()))

    def load(self, subscriber_id: str) -> SubscriberState:
        return self.run(self.store.load([subscriber_id]))[subscriber_id]

    def change(self, subscriber_id: str, position: int) -> None:
        self.load(subscriber_id).position = position
        self.run(self.store.save([subscriber_id]))

    def close(self) -> None:
        if isinstance(self.store, RedisLiveState):
            self.run(self.store.close())
        super().close()


class Members(Loop):
    """Members 1, 2, ... that share a Redis and a ledger."""

    def __init__(
        self,
        url: str,
        *,
        cluster: bool = False,
        count: int = 2,
        make: Callable[..., RedisLiveState] = RedisLiveState,
        **options: Any,
    ) -> None:
        super().__init__()
        self.snapshots = Snapshots()
        self.all = [
            make(url, self.snapshots.fetch, cluster=cluster, member=number + 1, **options)
            for number in range(count)
        ]

    def __iter__(self) -> Iterator[RedisLiveState]:
        return iter(self.all)

    def load(self, member: RedisLiveState, *subscriber_ids: str) -> dict[str, SubscriberState]:
        return dict(self.run(member.load(subscriber_ids)))

    def save(self, member: RedisLiveState, *subscriber_ids: str) -> None:
        self.run(member.save(subscriber_ids))

    def change(self, member: RedisLiveState, subscriber_id: str, position: int) -> None:
        self.load(member, subscriber_id)[subscriber_id].position = position
        self.save(member, subscriber_id)

    def close(self) -> None:
        for member in self.all:
            self.run(member.close())
        super().close()


@contextmanager
def members(url: str, **options: Any) -> Iterator[Members]:
    made = Members(url, **options)
    try:
        yield made
    finally:
        made.close()


@contextmanager
def live_state(kind: str, url: str) -> Iterator[Live]:
    """`kind`: one of `KINDS`; `url`: of Redis, if it is one that needs it."""
    live = Live(lambda snapshots: KINDS[kind](url, snapshots))
    try:
        yield live
    finally:
        live.close()


KINDS: dict[str, Callable[[str, Snapshots], LiveState]] = {
    "memory": lambda _, __: MemoryLiveState(),
    "memory, short of room": lambda _, __: MemoryLiveState(max_decoded=1),
    "memory, with room for some": lambda _, __: MemoryLiveState(max_decoded=10),
    "redis": lambda url, snapshots: RedisLiveState(url, snapshots.fetch, member=1),
    "redis, short of room": lambda url, snapshots: RedisLiveState(
        url, snapshots.fetch, member=1, max_decoded=1
    ),
    "redis cluster": lambda url, snapshots: RedisLiveState(url, snapshots.fetch, member=1, cluster=True),
}
