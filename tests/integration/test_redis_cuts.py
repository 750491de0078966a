"""Members whose connections to Redis are cut, halved and refused at any moment.

Nobody ever sees a state that lacks what is durable, or has what is not.

What a member made durable is a number here, which stands for the ledger's log. After an error a member does
as the service does: whom it cannot take back it recovers from the record.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from opportune_service.adapters.redis import RedisLiveState
from opportune_service.app.errors import StoreUnavailableError
from opportune_service.core.state import SubscriberState
from support.live_states import KeepsNobody, Loop, Snapshots
from support.proxy import Proxy, Way, proxy
from support.servers import RedisServer, redis

EVERYBODY = [f"86138{n:08}" for n in range(12)]
STEPS = 150
TIMEOUT_SECONDS = 5.0


class Member:
    """One of the service's processes, as far as live state goes, behind a wire of its own."""

    def __init__(
        self,
        store: RedisLiveState,
        loop: Loop,
        wire: Proxy,
        durable: dict[str, int],
        rnd: random.Random,
    ) -> None:
        self.store = store
        self.loop = loop
        self.wire = wire
        self.durable = durable
        self.rnd = rnd
        self.astray: set[str] = set()
        self.record: dict[str, SubscriberState] = {}
        self.saved = self.failed = 0

    def harm(self) -> None:
        harm = self.rnd.random()
        if harm < 0.1:
            self.wire.cut()
        elif harm < 0.2:
            self.wire.halve(self.rnd.choice(list(Way)))
        elif harm < 0.25:
            self.wire.refuse()

    def step(self) -> None:
        try:
            self.loop.run(self.store.heed(0))
            if self.astray:
                self.recover()
            else:
                self.batch()
        except StoreUnavailableError:
            self.failed += 1

    def batch(self) -> None:
        some = self.rnd.sample(EVERYBODY, self.rnd.randint(1, 6))
        self.astray |= set(some)
        self.harm()
        states = self.loop.run(self.store.load(some))
        if missing := set(some) - states.keys():
            self.loop.run(self.store.ask_for(missing))
        for who, state in states.items():
            assert state.position == self.durable[who], who
            state.position += 1
        if self.rnd.random() < 0.2:  # the commit fails
            if not self.loop.run(self.store.take_back(states)):
                return  # they are recovered
        else:
            for who in states:
                self.durable[who] += 1
            self.harm()
            self.loop.run(self.store.save(states))
            self.saved += len(states)
        self.astray.clear()

    def recover(self) -> None:
        """In two steps: others are at work between reading the record and doing as it says."""
        if not self.record:
            if self.rnd.random() < 0.5 and self.loop.run(self.store.take_back(self.astray)):
                self.astray.clear()
                return
            self.record = {who: SubscriberState(position=self.durable[who]) for who in self.astray}
            return
        record, self.record = self.record, {}
        self.harm()
        self.loop.run(self.store.save(self.loop.run(self.store.discard(record, record))))
        self.astray.clear()


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with redis() as made:
        yield made


def live(
    server: RedisServer, seed: int, make: Callable[..., RedisLiveState] = RedisLiveState
) -> list[Member]:
    with server.connect() as client:
        client.flushall()
    rnd = random.Random(seed)
    loop, durable = Loop(), dict.fromkeys(EVERYBODY, 0)
    with ExitStack() as stack:
        stack.callback(loop.close)
        members: list[Member] = []
        for number in (1, 2, 3):
            wire = stack.enter_context(proxy(server.port))
            url = f"redis://127.0.0.1:{wire.port}/0"
            store = make(url, Snapshots().fetch, member=number, timeout_seconds=TIMEOUT_SECONDS)
            stack.callback(lambda store: loop.run(store.close()), store)
            members.append(Member(store, loop, wire, durable, rnd))
        for _ in range(STEPS):
            member = rnd.choice(members)
            member.step()
            if rnd.random() < 0.3:
                member.wire.heal()
        for member in members:
            member.wire.heal()
            member.harm = lambda: None  # type: ignore[method-assign]
        for _ in range(20):
            for member in members:
                member.step()
        assert not any(member.astray for member in members), "all have recovered"
        for member in members:
            loop.run(member.store.hand_over())
        for member in members:
            states = loop.run(member.store.load(EVERYBODY))
            assert {who: state.position for who, state in states.items()} == durable
            loop.run(member.store.release(EVERYBODY))
        return members


@pytest.mark.parametrize("make", [RedisLiveState, KeepsNobody])
@pytest.mark.parametrize("seed", range(8))
def test_what_is_durable_is_in_the_states(
    server: RedisServer, seed: int, make: Callable[..., RedisLiveState]
) -> None:
    members = live(server, seed, make)
    assert min(member.failed for member in members) > 0, "it was not harmed"
    assert min(member.saved for member in members) > 0


class BelievesItWasNot(KeepsNobody):
    """A control: what a failed save was about is given up, as if nothing had been durable."""

    async def save(self, subscriber_ids, said=()):  # type: ignore[no-untyped-def]
        try:
            await super().save(subscriber_ids, said)
        except StoreUnavailableError:
            self._doubtful.clear()
            raise


def test_control_a_store_that_gives_up_whom_it_could_not_save_is_noticed(server: RedisServer) -> None:
    def all_of_them() -> None:
        for seed in range(8):
            live(server, seed, BelievesItWasNot)

    with pytest.raises(AssertionError):
        all_of_them()
