"""Live state as objects in this process's memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from itertools import chain, islice

from opportune_service.core.packing import Packing
from opportune_service.core.state import SubscriberState, encode_plain, head_of, pack_plain

_PRIME_AT = frozenset((100, 10_000, 1_000_000))
"""After so many went to rest the packing takes a fresh look at what states are like by then: in the first
minutes they are nearly empty."""
_EXAMPLES = 11

_STRANGER = SubscriberState()


def _leave(_: SubscriberState) -> None:
    """Take nothing out."""


class MemoryLiveState:
    """`LiveState` in two dictionaries, for the embedded service, replay and tests.

    States that were used lately are objects, up to `max_decoded`; all others are bytes, so that millions of
    subscribers fit and starting is quick. What is turned into bytes is the state as it is, saved or not:
    nothing is lost, and `discard` takes it back like any other.

    Non-guarantees: not thread-safe. What `load` gave may be changed until anything is loaded again, by
    whomever; later changes may be lost, for then it may have been turned into bytes. `snapshot` takes a
    state as it is, with changes that are not saved yet: call it between batches.
    """

    def __init__(
        self, max_decoded: int = 200_000, tidy: Callable[[SubscriberState], None] = _leave
    ) -> None:
        """`max_decoded`: subscribers who are kept ready to use. Whoever does something usually does
        something again soon; making a state ready, and bytes again, costs some tenths of a millisecond.
        `tidy`: takes out of a state what is not worth keeping, before it is turned into bytes."""
        self._tidy = tidy
        self._max_decoded = max_decoded
        # Those used since the last turn, and those not used since: these go when room is needed, and when
        # there are none left, it is the next turn. To keep all in the order of their last use would cost
        # every event more than finding its state does.
        self._decoded: dict[str, SubscriberState] = {}
        self._unused: dict[str, SubscriberState] = {}
        self._unused_ids: Iterator[str] = iter(())
        self._encoded: dict[str, bytes] = {}
        self._packing = Packing()
        self._rested = 0
        # A dictionary for its order: the longest dirty come first.
        self._dirty: dict[str, None] = {}

    async def identity(self) -> str:
        """It ends with this process."""
        return ""

    async def load(
        self, subscriber_ids: Collection[str], peers: Collection[str] = ()
    ) -> Mapping[str, SubscriberState]:
        """Nobody is missing: there are no other members, and `peek` knows everybody."""
        ready = self._decoded
        try:  # nearly always they all are
            return {subscriber_id: ready[subscriber_id] for subscriber_id in subscriber_ids}
        except KeyError:
            found = {each: ready[each] for each in subscriber_ids if each in ready}
            self._make_ready(dict.fromkeys(each for each in subscriber_ids if each not in ready), found)
            return found

    def _make_ready(self, others: dict[str, None], found: dict[str, SubscriberState]) -> None:
        """Put these into `found`, which holds all else that was asked for, and among those in use."""
        for subscriber_id in others.keys() & self._unused.keys():
            del others[subscriber_id]
            found[subscriber_id] = self._decoded[subscriber_id] = self._unused.pop(subscriber_id)
        # Before the new ones come in: none of those asked for must go.
        self._make_room(len(others), found)
        for subscriber_id in others:
            data = self._encoded.pop(subscriber_id, None)
            state = SubscriberState() if data is None else self._packing.decode(data)
            found[subscriber_id] = self._decoded[subscriber_id] = state

    async def save(self, subscriber_ids: Collection[str], said: Collection[str] = ()) -> None:
        self._dirty.update(dict.fromkeys(subscriber_ids))

    async def release(self, subscriber_ids: Collection[str]) -> None:
        """There is nobody to give them to."""

    async def take_back(self, subscriber_ids: Collection[str]) -> bool:
        """What they were before is not kept."""
        return False

    def become(self, member: int) -> None:
        """There are no members."""

    async def take_over(self, member: int) -> None:
        """There are no other members."""

    async def leave_be(self, member: int) -> None:
        """There are no other members."""

    @property
    def wanted(self) -> Set[str]:
        """There is nobody who could want them."""
        return frozenset()

    @property
    def careful(self) -> bool:
        """There is nobody to give a warning."""
        return False

    async def ask_for(self, subscriber_ids: Collection[str]) -> None:
        """There is nobody to ask."""

    async def heed(self, seconds: float) -> None:
        """There is nobody who could wish anything."""

    async def forewarn(self, members: Collection[int]) -> None:
        """There are no other members."""

    async def hand_over(self) -> None:
        """There is nobody to give them to."""

    async def due(self, until_us: int, limit: int) -> Sequence[tuple[str, int]]:
        """Who loaded them is this process, which knows."""
        return ()

    async def note_due(self, due: Sequence[tuple[str, int]]) -> None:
        """As `due`."""

    async def discard(
        self, recovered: Mapping[str, SubscriberState], subscriber_ids: Collection[str]
    ) -> Collection[str]:
        """Whoever was dirty and is recovered stays dirty: what was saved earlier is not snapshotted yet."""
        for subscriber_id in subscriber_ids:
            self._decoded.pop(subscriber_id, None)
            self._unused.pop(subscriber_id, None)
            self._encoded.pop(subscriber_id, None)
            if subscriber_id not in recovered:
                self._dirty.pop(subscriber_id, None)
        for subscriber_id, state in recovered.items():
            self._unused.pop(subscriber_id, None)
            self._encoded.pop(subscriber_id, None)
            self._decoded[subscriber_id] = state
        return recovered.keys()

    def peek(self, subscriber_id: str) -> Mapping[str, object] | None:
        state = self._ready(subscriber_id)
        if state is not None:
            return state.context if state.known or state.context else None
        data = self._encoded.get(subscriber_id)
        if data is None:
            return None
        head = head_of(data)
        return head.context if head.known or head.context else None

    async def view(self, subscriber_id: str, peers: Collection[str] = ()) -> SubscriberState:
        state = self._ready(subscriber_id)
        if state is not None:
            return state
        data = self._encoded.get(subscriber_id)
        return SubscriberState() if data is None else self._packing.decode(data)

    def counts(self) -> tuple[int, int]:
        """How many subscribers are ready to use, and how many at rest."""
        return len(self._decoded), len(self._encoded)

    async def subscribers(self) -> list[str]:
        return [*self._decoded, *self._unused, *self._encoded]

    async def contexts(self, subscriber_ids: Collection[str]) -> dict[str, Mapping[str, object]]:
        peeked = ((subscriber_id, self.peek(subscriber_id)) for subscriber_id in subscriber_ids)
        return {subscriber_id: context for subscriber_id, context in peeked if context is not None}

    def restore(self, states: Iterable[tuple[str, bytes]]) -> None:
        self._encoded.update(states)

    def dirty(self) -> Collection[str]:
        return tuple(self._dirty)

    def still_dirty(self, subscriber_ids: Collection[str]) -> None:
        self._dirty.update(dict.fromkeys(subscriber_ids))

    async def snapshot(self, subscriber_ids: Collection[str]) -> list[tuple[str, int, bytes]]:
        """Those that were discarded meanwhile are left out."""
        ready: list[tuple[str, int, tuple[bytes, bytes]]] = []
        at_rest: list[tuple[str, int, bytes]] = []
        for subscriber_id in subscriber_ids:
            self._dirty.pop(subscriber_id, None)
            state = self._ready(subscriber_id)
            if state is not None:
                ready.append((subscriber_id, state.position, encode_plain(state, state.due_us)))
            elif (data := self._encoded.get(subscriber_id)) is not None:
                at_rest.append((subscriber_id, head_of(data).position, self._packing.plain(data)))
        # Packing takes longer than all else; in a thread it keeps nobody waiting.
        return at_rest + await asyncio.to_thread(_packed, ready)

    def _ready(self, subscriber_id: str) -> SubscriberState | None:
        state = self._decoded.get(subscriber_id)
        return self._unused.get(subscriber_id) if state is None else state

    def _make_room(self, coming: int, kept: Mapping[str, SubscriberState]) -> None:
        """Turn those unused for long into bytes; those `kept` stay, whatever the bound says."""
        most = max(self._max_decoded - coming, len(kept))
        while len(self._decoded) + len(self._unused) > most:
            if not self._unused:
                self._unused, self._decoded = self._decoded, dict(kept)
                for subscriber_id in kept:
                    del self._unused[subscriber_id]
                self._unused_ids = iter(list(self._unused))
            subscriber_id = next(self._unused_ids)
            state = self._unused.pop(subscriber_id, _STRANGER)  # it may have been used since
            if state != _STRANGER:
                self._rested += 1
                if self._rested in _PRIME_AT:
                    others = chain(self._unused.values(), self._decoded.values())
                    self._packing.prime([state, *islice(others, _EXAMPLES)])
                self._tidy(state)
                self._encoded[subscriber_id] = self._packing.encode(state)


def _packed(plain: Iterable[tuple[str, int, tuple[bytes, bytes]]]) -> list[tuple[str, int, bytes]]:
    return [(subscriber_id, position, pack_plain(*parts)) for subscriber_id, position, parts in plain]
