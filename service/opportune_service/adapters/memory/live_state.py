"""Live state as objects in this process's memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import islice

from opportune_service.core.packing import Packing
from opportune_service.core.state import SubscriberState, encode_state, head_of

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
        self._decoded: OrderedDict[str, SubscriberState] = OrderedDict()  # the longest unused come first
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
        decoded = self._decoded
        found: dict[str, SubscriberState] = {}
        missing: dict[str, None] = {}
        for subscriber_id in subscriber_ids:
            state = decoded.get(subscriber_id)
            if state is None:
                missing[subscriber_id] = None
            else:
                decoded.move_to_end(subscriber_id)
                found[subscriber_id] = state
        # Before the new ones come in, and after those asked for have moved to the end: none of them must
        # go.
        self._make_room(len(missing), keep=len(found))
        for subscriber_id in missing:
            data = self._encoded.pop(subscriber_id, None)
            state = SubscriberState() if data is None else self._packing.decode(data)
            found[subscriber_id] = decoded[subscriber_id] = state
        return found

    async def save(self, subscriber_ids: Collection[str]) -> None:
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

    async def due(self, until_us: int, limit: int) -> Sequence[tuple[str, int]]:
        """Who loaded them is this process, which knows."""
        return ()

    async def discard(
        self, recovered: Mapping[str, SubscriberState], subscriber_ids: Collection[str]
    ) -> None:
        """Whoever was dirty and is recovered stays dirty: what was saved earlier is not snapshotted yet."""
        for subscriber_id in subscriber_ids:
            self._decoded.pop(subscriber_id, None)
            self._encoded.pop(subscriber_id, None)
            if subscriber_id not in recovered:
                self._dirty.pop(subscriber_id, None)
        for subscriber_id, state in recovered.items():
            self._encoded.pop(subscriber_id, None)
            self._decoded[subscriber_id] = state

    def peek(self, subscriber_id: str) -> Mapping[str, object] | None:
        state = self._decoded.get(subscriber_id)
        if state is not None:
            return state.context if state.known or state.context else None
        data = self._encoded.get(subscriber_id)
        if data is None:
            return None
        head = head_of(data)
        return head.context if head.known or head.context else None

    async def view(self, subscriber_id: str, peers: Collection[str] = ()) -> SubscriberState:
        state = self._decoded.get(subscriber_id)
        if state is not None:
            return state
        data = self._encoded.get(subscriber_id)
        return SubscriberState() if data is None else self._packing.decode(data)

    def counts(self) -> tuple[int, int]:
        """How many subscribers are ready to use, and how many at rest."""
        return len(self._decoded), len(self._encoded)

    async def subscribers(self) -> list[str]:
        return [*self._decoded, *self._encoded]

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
        taken: list[tuple[str, int, bytes]] = []
        for subscriber_id in subscriber_ids:
            self._dirty.pop(subscriber_id, None)
            state = self._decoded.get(subscriber_id)
            if state is not None:
                taken.append((subscriber_id, state.position, encode_state(state)))
            elif (data := self._encoded.get(subscriber_id)) is not None:
                taken.append((subscriber_id, head_of(data).position, self._packing.plain(data)))
        return taken

    def _make_room(self, coming: int, keep: int) -> None:
        """Turn the longest unused into bytes; the last `keep` stay, whatever the bound says."""
        too_many = len(self._decoded) + coming - self._max_decoded
        for _ in range(min(too_many, len(self._decoded) - keep)):
            subscriber_id, state = self._decoded.popitem(last=False)
            if state != _STRANGER:
                self._rested += 1
                if self._rested in _PRIME_AT:
                    self._packing.prime([state, *islice(self._decoded.values(), _EXAMPLES)])
                self._tidy(state)
                self._encoded[subscriber_id] = self._packing.encode(state)
