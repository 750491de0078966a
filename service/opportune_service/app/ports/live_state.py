"""Live state, for the fast path."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from typing import Protocol

from opportune_service.core.state import SubscriberState


class LiveState(Protocol):
    """Live state of subscribers, for the fast path.

    Guarantees: one writer a subscriber at any moment, over all members. Whoever `load` gives is in use by
    this member until `save`, `release`, `take_back` or `discard`; states may be changed until anything else
    is loaded. After that the member may **keep** the subscriber, as long as no other asks for it: nobody
    else can load it meanwhile. After `save` other loads and views see what was changed, here and in all
    other members.
    Non-guarantees: nothing here is durable; the ledger's log is. A state that was loaded and changed but
    not saved is seen by later loads of the same member; `take_back` or `discard` undo that.
    Raises `StoreUnavailableError` where it is a store of its own that cannot be reached; what it holds is
    then not to be relied upon before `identity` was compared with what the ledger says.
    """

    async def identity(self) -> str:
        """What tells this store from another, and from itself before it may have lost anything; "" if what
        it holds ends with this process."""
        ...

    async def load(
        self, subscriber_ids: Collection[str], peers: Collection[str] = ()
    ) -> Mapping[str, SubscriberState]:
        """A state of each, a new one for a stranger. Whoever is missing in the answer is held by another
        member: `ask_for` them, and load them again a little later. `peers`: whom `peek` will be asked for
        until the next load."""
        ...

    async def save(self, subscriber_ids: Collection[str], said: Collection[str] = ()) -> None:
        """The changed states of these subscribers are now backed by a durable log; others may have them.
        `said`: of whom something was said that is in the context, consent above all. Whoever asks for their
        `contexts` or `peek`s from then on is told so, whoever keeps them."""
        ...

    async def release(self, subscriber_ids: Collection[str]) -> None:
        """These were loaded and not changed; others may have them."""
        ...

    async def discard(
        self, recovered: Mapping[str, SubscriberState], subscriber_ids: Collection[str]
    ) -> Collection[str]:
        """Forget what this member has of these subscribers, saved or not, and put the recovered states in
        their place; those of whom nothing was recovered are strangers again. Gives who of the recovered is
        held now: all but those whom another member holds, which has what was saved of them. A state that
        others have saved since the record was read, as its position shows, stays as it is."""
        ...

    async def take_back(self, subscriber_ids: Collection[str]) -> bool:
        """Undo what was changed of these since they were last saved, and hold them no more; False, and
        nothing is done, if that is not known any more: the caller recovers them from the record. Of all
        who were loaded while this member was `careful`, it is."""
        ...

    # What members wish of each other. None of it is needed for what is right: who does not listen is
    # expelled when it does not live, and what cannot be taken back is recovered.

    async def ask_for(self, subscriber_ids: Collection[str]) -> None:
        """Let those members know that hold these, whom `load` has just left out or who are `wanted`: they
        give them up as soon as they are not in use."""
        ...

    async def heed(self, seconds: float) -> None:
        """Do what other members wish, if any of them wishes something within so many seconds. Call it all
        the time."""
        ...

    @property
    def wanted(self) -> Set[str]:
        """Those whom another member has asked for, in use or given up just now: whoever goes on to use
        them, group after group, never lets the other have them."""
        ...

    async def forewarn(self, members: Collection[int]) -> None:
        """What these members have loaded and not saved, they will have to take back: wait until they are
        `careful`, or for about a second. Raises nothing."""
        ...

    @property
    def careful(self) -> bool:
        """Another member has given this warning some seconds ago. Whoever loads nothing before all is saved
        that was loaded before can take it back."""
        ...

    async def hand_over(self) -> None:
        """Keep nobody any more. To be called last, when all is saved and nothing is loaded any more."""
        ...

    def become(self, member: int) -> None:
        """From now on hold as this member; all that was loaded before is forgotten, saved or not."""
        ...

    async def due(self, until_us: int, limit: int) -> Sequence[tuple[str, int]]:
        """(subscriber id, when its first timer is due) of some of those due before then, whoever loaded
        them; none where this process is the only one, which knows them all. Everybody has a turn, however
        many of those that were given before are still due."""
        ...

    async def note_due(self, due: Sequence[tuple[str, int]]) -> None:
        """(subscriber id, when its first timer is due) as snapshots have it, some thousands at most: they
        are `due` then, or before if that is known, until their first timer is another one."""
        ...

    async def take_over(self, member: int) -> None:
        """From now on whoever this member holds is as if held by nobody: it is expelled, and all that it
        made durable is in the states, or put there by the caller before anything else is loaded."""
        ...

    async def leave_be(self, member: int) -> None:
        """Taking over from this member came to nothing: who is held by it is so again."""
        ...

    def peek(self, subscriber_id: str) -> Mapping[str, object] | None:
        """That subscriber's context as it is, to read only; None if none was ever imported and nothing was
        said about consent, or if `load` was not told. Makes no state."""
        ...

    async def view(self, subscriber_id: str, peers: Collection[str] = ()) -> SubscriberState:
        """The state as it is, held or not, to read only, and the contexts of `peers` for `peek`; makes no
        state."""
        ...

    async def subscribers(self) -> list[str]:
        """The ids of all subscribers of whom there is a state, in no order."""
        ...

    async def contexts(self, subscriber_ids: Collection[str]) -> dict[str, Mapping[str, object]]:
        """The contexts of these as they are, held or not, to read only; without those of whom none was ever
        imported and nothing was said about consent."""
        ...

    def restore(self, states: Iterable[tuple[str, bytes]]) -> None:
        """At start, before any load: snapshots from the ledger."""
        ...

    def dirty(self) -> Collection[str]:
        """Subscribers saved by this member since they were last taken by `snapshot`."""
        ...

    def still_dirty(self, subscriber_ids: Collection[str]) -> None:
        """What `snapshot` gave of these was not kept."""
        ...

    async def snapshot(self, subscriber_ids: Collection[str]) -> list[tuple[str, int, bytes]]:
        """(id, position, encoded state) of these, which are then no longer dirty. If other members may load
        states, what is not saved is not in them: somebody in use may be left out, and stays dirty;
        and all that it gives is what they find then, also if this member dies."""
        ...
