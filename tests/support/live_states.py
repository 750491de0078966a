"""Live states that the contract is checked on, and members that share one in Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from opportune_service.adapters.memory import MemoryLiveState
from opportune_service.adapters.redis import RedisLiveState
from opportune_service.adapters.redis.contested import Contested
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
        """As the pipeline does it: those whom others keep are asked for, and loaded when these have given
        them up."""
        return self.run(self._load(member, subscriber_ids))

    async def _load(
        self, member: RedisLiveState, subscriber_ids: Collection[str]
    ) -> dict[str, SubscriberState]:
        found = dict(await member.load(subscriber_ids))
        missing = set(subscriber_ids) - found.keys()
        if missing:
            await self.ask(member, missing)
            found |= await member.load(missing)
        return found

    async def ask(self, member: RedisLiveState, subscriber_ids: Collection[str]) -> None:
        """For those whom it was told to be held by others; these have done what it wishes when it is
        over."""
        member._asked.clear()  # in a test, nothing takes long
        await member.ask_for(subscriber_ids)
        await self.heed(member)

    async def heed(self, but: RedisLiveState) -> None:
        """All but one do what they were asked to."""
        for other in self.all:
            if other is not but:
                await other.heed(0)

    def view(self, member: RedisLiveState, subscriber_id: str) -> SubscriberState:
        async def viewed() -> SubscriberState:
            viewing = asyncio.create_task(member.view(subscriber_id))
            while not viewing.done():
                await self.heed(member)
                await asyncio.sleep(0)
            return await viewing

        return self.run(viewed())

    def save(self, member: RedisLiveState, *subscriber_ids: str, said: Collection[str] = ()) -> None:
        self.run(member.save(subscriber_ids, said))

    def change(self, member: RedisLiveState, subscriber_id: str, position: int) -> None:
        self.load(member, subscriber_id)[subscriber_id].position = position
        self.save(member, subscriber_id)

    def close(self) -> None:
        for member in self.all:
            self.run(member.close())
        super().close()


class AllContested(Contested):
    """Everybody is."""

    def __bool__(self) -> bool:
        return True

    def among(self, subscriber_ids: Mapping[str, None]) -> set[str]:
        return set(subscriber_ids)


class KeepsNobody(RedisLiveState):
    """It writes with each commit, and gives up: as it is with whomever several members use in turn."""

    def become(self, member: int) -> None:
        super().become(member)
        self._contested = AllContested(0)


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
