"""Live state as objects in this process's memory."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from opportune_service.core.state import SubscriberState, decode_state, encode_state


class MemoryLiveState:
    """`LiveState` in a dictionary, for the embedded service, replay and tests.

    Restored snapshots stay encoded until somebody asks for them: starting with millions of subscribers
    is quick and most need a tenth of the memory. Non-guarantees: not thread-safe. Whoever was loaded once
    stays in memory. `snapshot` takes a state as it is, with changes that are not saved yet: call it
    between batches.
    """

    def __init__(self) -> None:
        self._states: dict[str, SubscriberState | bytes] = {}
        # A dictionary for its order: the longest dirty come first.
        self._dirty: dict[str, None] = {}

    async def load(self, subscriber_ids: Collection[str]) -> Mapping[str, SubscriberState]:
        return {subscriber_id: self._state(subscriber_id) for subscriber_id in subscriber_ids}

    async def save(self, subscriber_ids: Collection[str]) -> None:
        self._dirty.update(dict.fromkeys(subscriber_ids))

    async def discard(
        self, recovered: Mapping[str, SubscriberState], subscriber_ids: Collection[str]
    ) -> None:
        """Whoever was dirty and is recovered stays dirty: what was saved earlier is not snapshotted yet."""
        for subscriber_id in subscriber_ids:
            self._states.pop(subscriber_id, None)
            if subscriber_id not in recovered:
                self._dirty.pop(subscriber_id, None)
        self._states.update(recovered)

    def restore(self, states: Iterable[tuple[str, bytes]]) -> None:
        self._states.update(states)

    def dirty(self) -> Collection[str]:
        return tuple(self._dirty)

    def snapshot(self, subscriber_ids: Collection[str]) -> list[tuple[str, int, bytes]]:
        """Those that were discarded meanwhile are left out."""
        taken: list[tuple[str, int, bytes]] = []
        for subscriber_id in subscriber_ids:
            self._dirty.pop(subscriber_id, None)
            if subscriber_id in self._states:
                state = self._state(subscriber_id)
                taken.append((subscriber_id, state.position, encode_state(state)))
        return taken

    def _state(self, subscriber_id: str) -> SubscriberState:
        state = self._states.get(subscriber_id)
        if isinstance(state, SubscriberState):
            return state
        decoded = SubscriberState() if state is None else decode_state(state)
        self._states[subscriber_id] = decoded
        return decoded
