"""Members that share live state in Redis, against a plain dictionary and a plain list of who holds whom."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from opportune_service.adapters.redis import RedisLiveState
from opportune_service.adapters.redis.store import Entry
from opportune_service.core.state import PatternState, SubscriberState, decode_state
from support.live_states import Members
from support.servers import RedisServer

EVERYBODY = [f"8613800000{n:03}" for n in range(4)]
FOREVER_US = 2**50

SOME = st.lists(st.sampled_from(EVERYBODY), unique=True, max_size=len(EVERYBODY))
WHICH = st.integers(0, 2)


class Store:
    """One Redis, and three members who get new numbers for each example."""

    def __init__(self, server: RedisServer, make: Callable[..., RedisLiveState]) -> None:
        self.redis = server.connect()
        self.redis.flushall()
        self.members = Members(server.url, count=3, make=make)
        self.members.all[2]._max_decoded = 2
        self.numbers = [1, 2, 3]

    def begin(self) -> None:
        if keys := [
            key for like in ("s:*", "held", "due") for key in self.redis.keys(f"opportune:*:{like}")
        ]:
            self.redis.delete(*keys)
        self.members.snapshots.blobs.clear()
        self.redis.delete(*self.redis.keys("opportune:*:w:*"), "none")
        for which in range(3):
            self.renumber(which)

    def renumber(self, which: int) -> None:
        number, self.numbers[which] = self.numbers[which], max(self.numbers) + 1
        self.members.all[which].become(self.numbers[which])
        for member in self.members:
            self.members.run(member.take_over(number))

    def close(self) -> None:
        self.members.close()
        self.redis.close()


class Sharing(RuleBasedStateMachine):
    """Of each subscriber, `saved` is the number saved last; all else of a state follows from it."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        store.begin()
        self.store = store
        self.redis = store.redis
        self.members = store.members
        self.saved: dict[str, int] = {}
        self.holder: dict[str, int] = {}
        self.changed: dict[str, int] = {}
        self.last = 0
        self.saver: dict[str, int] = {}
        """By whom each was saved last, as long as it may still keep them."""

    def now(self, who: str) -> int:
        return self.changed.get(who, self.saved.get(who, 0))

    def mine(self, which: int, some: Collection[str]) -> list[str]:
        return [who for who in some if self.holder.get(who) == which]

    def give_up(self, some: Collection[str]) -> None:
        for who in some:
            self.holder.pop(who, None)
            self.changed.pop(who, None)

    @rule(which=WHICH, some=SOME, peers=SOME)
    def load(self, which: int, some: list[str], peers: list[str]) -> None:
        member = self.members.all[which]
        self.members.load(member, *some)
        states = self.members.run(member.load(some, peers))
        assert states.keys() == {who for who in some if self.holder.get(who, which) == which}
        for who, state in states.items():
            assert state == state_of(self.now(who)), who
            self.holder[who] = which
        for who in peers:
            expected = self.now(who) if self.holder.get(who) == which else self.saved.get(who, 0)
            assert member.peek(who) == context_of(expected), who

    @rule(which=WHICH, some=SOME)
    def change(self, which: int, some: list[str]) -> None:
        mine = self.mine(which, some)
        for who, state in self.members.load(self.members.all[which], *mine).items():
            self.last += 1
            become(state, self.last)
            self.changed[who] = self.last

    @rule(which=WHICH, some=SOME)
    def save(self, which: int, some: list[str]) -> None:
        mine = self.mine(which, some)
        self.members.save(self.members.all[which], *mine, said=mine)
        self.saved |= {who: self.now(who) for who in mine}
        self.saver |= dict.fromkeys(mine, which)
        self.give_up(mine)

    @rule(which=WHICH, some=SOME)
    def batch(self, which: int, some: list[str]) -> None:
        self.load(which, some, [])
        self.change(which, some)
        self.save(which, some)

    @rule(which=WHICH)
    def batch_of_all(self, which: int) -> None:
        self.batch(which, EVERYBODY)

    @rule(which=WHICH, some=SOME)
    def release(self, which: int, some: list[str]) -> None:
        mine = [who for who in self.mine(which, some) if who not in self.changed]
        self.members.run(self.members.all[which].release(mine))
        self.give_up(mine)

    @rule(which=WHICH, some=SOME)
    def take_back(self, which: int, some: list[str]) -> None:
        mine = self.mine(which, some)
        if self.members.run(self.members.all[which].take_back(mine)):
            self.give_up(mine)

    @rule(which=WHICH, some=SOME, ago=st.integers(0, 2))
    def recover(self, which: int, some: list[str], ago: int) -> None:
        """From a record that was read some time ago, whoever holds them."""
        # What a member saved itself was in the record before.
        states = {
            who: state_of(max(self.saved[who] - ago * (self.saver[who] != which), 0))
            for who in some
            if self.is_kept(who)
        }
        self.ask_others(which, states)
        held = self.members.run(self.members.all[which].discard(states, states.keys()))
        mine = {who for who in states if self.holder.get(who, which) == which}
        assert set(held) == mine
        self.give_up(mine)
        self.holder |= dict.fromkeys(mine, which)

    def is_kept(self, who: str) -> bool:
        return who in self.saved and bool(self.redis.keys(f"opportune:*:s:{who}"))

    @rule(which=WHICH, recovered=SOME, gone=SOME)
    def discard(self, which: int, recovered: list[str], gone: list[str]) -> None:
        recovered, gone = (
            [who for who in some if self.holder.get(who, which) == which] for some in (recovered, gone)
        )
        self.ask_others(which, [*recovered, *gone])
        gone = [who for who in gone if who not in recovered]
        states: dict[str, SubscriberState] = {}
        for who in recovered:
            self.last += 1
            states[who] = state_of(self.last)
        for who in gone:  # as erasure does it
            self.members.snapshots.blobs.pop(who, None)
        self.members.run(self.members.all[which].discard(states, [*recovered, *gone]))
        self.give_up([*recovered, *gone])
        for who in gone:
            self.saved.pop(who, None)
        self.saved |= {who: state.position for who, state in states.items()}
        self.saver |= dict.fromkeys(states, which)
        self.holder |= dict.fromkeys(states, which)

    def ask_others(self, which: int, some: Collection[str]) -> None:
        """To give up whom they keep: this one loads them, and releases them."""
        free = [who for who in some if who not in self.holder]
        member = self.members.all[which]
        self.members.load(member, *free)
        self.members.run(member.release(free))

    @rule(which=WHICH)
    def expel(self, which: int) -> None:
        # Whatever it made durable is put into the states by whoever takes over: as if it had been written.
        self.members.run(self.members.all[which].snapshot(EVERYBODY))
        self.store.renumber(which)
        self.give_up(self.mine(which, EVERYBODY))

    @rule(who=st.sampled_from(EVERYBODY))
    def forget(self, who: str) -> None:
        """Nothing happened for so long that Redis keeps the state no more; the ledger has it."""
        if who in self.saved and who not in self.holder:
            self.members.snapshots.keep(who, state_of(self.saved[who]))
            for key in self.redis.keys(f"opportune:*:s:{who}"):
                self.redis.delete(key)

    @rule(which=WHICH, who=st.sampled_from(EVERYBODY))
    def view(self, which: int, who: str) -> None:
        holder = self.holder.get(who)
        if holder in (None, which):  # in use by another: it waits until it is not
            assert self.members.view(self.members.all[which], who) == state_of(self.now(who))

    @rule(which=WHICH)
    def snapshot(self, which: int) -> None:
        kept = self.members.run(self.members.all[which].snapshot(EVERYBODY))
        for who, position, blob in kept:
            if self.saver[who] == which:
                assert position == self.saved[who]
            assert decode_state(blob) == state_of(position)

    @rule(which=WHICH)
    def due(self, which: int) -> None:
        for member in self.members:
            self.members.run(member.due(0, 1))
        due = self.members.run(self.members.all[which].due(FOREVER_US, 100))
        # Of those in use, it is not told before they are not.
        expected = {who: due_of(number) for who, number in self.saved.items() if who not in self.holder}
        told = {who: due_us for who, due_us in due if who not in self.holder}
        assert told == {who: due_us for who, due_us in expected.items() if due_us}


def become(state: SubscriberState, number: int) -> None:
    wanted = state_of(number)
    for name in SubscriberState.__struct_fields__:
        setattr(state, name, getattr(wanted, name))


def state_of(number: int) -> SubscriberState:
    if number == 0:
        return SubscriberState()
    context = context_of(number)
    state = SubscriberState(position=number, known=context is not None, context=dict(context or {}))
    if due_of(number):
        state.patterns = {"p": PatternState(due_us=due_of(number))}
    return state


def context_of(number: int) -> Mapping[str, object] | None:
    return {"arpu": number} if number % 3 else None


def due_of(number: int) -> int:
    return number % 2 and 1_000 + number


def check(
    server: RedisServer, make: Callable[..., RedisLiveState], examples: int, phases: Collection[Phase]
) -> None:
    store = Store(server, make)
    try:
        run_state_machine_as_test(  # type: ignore[no-untyped-call]
            lambda: Sharing(store),
            settings=settings(max_examples=examples, stateful_step_count=30, deadline=None, phases=phases),
        )
    finally:
        store.close()


def test_members_agree_with_a_dictionary(redis_server: RedisServer) -> None:
    check(redis_server, RedisLiveState, 60, [Phase.generate, Phase.shrink])


class IgnoresVersions(RedisLiveState):
    """A control: what it has in its cache is right, whatever version Redis has."""

    def _take_in(self, answers: Iterable[tuple[list[Entry], bytes]], missing: list[Entry]) -> list[Entry]:
        cached = {entry: entry.state for entry in self._cache.values()}
        taken = super()._take_in(answers, missing)
        for entry, state in cached.items():
            entry.state = state
        return taken


class TakesFromEverybody(RedisLiveState):
    """A control: it takes everybody for free, whoever holds them."""

    def become(self, member: int) -> None:
        super().become(member)
        self._gone |= {b"%d" % number for number in range(1, 100)}


class GoesBack(RedisLiveState):
    """A control: it believes a record that was read before others saved something."""

    async def discard(
        self, recovered: Mapping[str, SubscriberState], subscriber_ids: Collection[str]
    ) -> Collection[str]:
        held = await super().discard(recovered, subscriber_ids)
        for who in held:
            self._held[who].state = recovered[who]
        return held


@pytest.mark.parametrize("broken", [IgnoresVersions, TakesFromEverybody, GoesBack])
def test_control_broken_stores_are_noticed(redis_server: RedisServer, broken: type[RedisLiveState]) -> None:
    with pytest.raises(AssertionError):
        check(redis_server, broken, 300, [Phase.generate])
