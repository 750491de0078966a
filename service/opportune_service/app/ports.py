"""What the use cases need of the outside world. Each port states its guarantees and non-guarantees.

One contract suite (tests/contract) runs against every adapter of a port.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from enum import StrEnum
from typing import Protocol

import msgspec
from opportune_rulebase.model import OutcomeKind

from opportune_service.core.events import Event, RejectionReason
from opportune_service.core.state import SubscriberState
from opportune_service.core.verdict import EventKey, History, Outcome, Prompt, Reason, Verdict
from opportune_service.core.watermarks import SourceMark


class Clock(Protocol):
    """Where `now` comes from. Wall time in service, a virtual clock in replay and demonstration."""

    def now_us(self) -> int:
        """Microseconds since 1970-01-01T00:00Z. May jump; callers never assume that it is monotonic."""
        ...


class LogKind(StrEnum):
    EVENTS = "events"
    CONTEXT = "context"
    BACKFILL = "backfill"
    TIMERS = "timers"


class LogRow(msgspec.Struct, frozen=True):
    """One accepted batch: the record from which everything else can be rebuilt.

    `position` counts up by one a row, without gaps. `now_us` and `revision` are those the batch was
    processed with. `payload` is opaque to the store (compressed).
    """

    position: int
    kind: LogKind
    source: str
    now_us: int
    revision: str
    payload: bytes


class DeliveryState(StrEnum):
    PENDING = "pending"
    LEASED = "leased"
    SENT = "sent"
    DELIVERED = "delivered"
    FAILED = "failed"
    EXPIRED = "expired"
    DEAD = "dead"


class Lease(msgspec.Struct, frozen=True):
    """An automatic decision handed to a channel client until `lease_until_us`.

    `token` fences: only the newest lease of a delivery may settle it. `attempt` counts from 1.
    """

    decision_id: str
    token: int
    attempt: int
    subscriber_id: str
    channel: str
    campaign: str
    content: str
    lease_until_us: int
    expires_at_us: int


class Settlement(StrEnum):
    """What a channel client says of a lease. RETRY: not sent, try again. FAILED: never to be sent."""

    SENT = "sent"
    RETRY = "retry"
    FAILED = "failed"


class DecisionRow(msgspec.Struct, frozen=True):
    """One line of the list of decisions. `cursor` orders by time of recording."""

    cursor: int
    decision_id: str
    key: EventKey
    decided_at_us: int
    campaign: str
    reason: Reason
    channel: str
    mode: str
    revision: str


class DecisionFilter(msgspec.Struct, frozen=True):
    """Empty fields do not filter. Times of decision: `from_us` included, `to_us` not."""

    subscriber_id: str = ""
    campaign: str = ""
    reasons: tuple[Reason, ...] = ()
    from_us: int = 0
    to_us: int = 0


class RulebaseRow(msgspec.Struct, frozen=True):
    """An uploaded revision. `activated_at_us` is the latest activation, 0 if never."""

    revision: str
    name: str
    uploaded_at_us: int
    uploaded_by: str
    comment: str
    activated_at_us: int = 0


class Sweep(msgspec.Struct, frozen=True):
    """All subscribers of a time zone that a trigger was due for at an instant, as one task."""

    trigger: str
    zone: str
    due_us: int


class Quarantined(msgspec.Struct, frozen=True):
    """A rejected event as it was sent, but for what is too long to keep."""

    source: str
    event: Event
    reason: RejectionReason
    message: str
    received_us: int


class QuarantineFilter(msgspec.Struct, frozen=True):
    """Empty fields do not filter. Times of receipt: `from_us` included, `to_us` not."""

    source: str = ""
    reasons: tuple[RejectionReason, ...] = ()
    from_us: int = 0
    to_us: int = 0


class LedgerTransaction(Protocol):
    """One atomic, durable write to the ledger.

    Guarantees: everything done through it becomes visible and durable together when the `with` block
    of `Ledger.transaction` ends, or not at all when that raises. Transactions are serialised: what one
    reads cannot be changed by another before it ends.
    Non-guarantees: no order among the rows of one call; objects are unusable after the block.
    """

    def append_log(self, rows: Sequence[LogRow]) -> None:
        """Append batches. Raises `StoreConflictError` if a position is taken."""
        ...

    def verdicts(self, keys: Collection[EventKey]) -> dict[EventKey, Verdict]:
        """Those of `keys` that were decided before."""
        ...

    def histories(self, subscriber_ids: Collection[str], since_us: int, now_us: int) -> dict[str, History]:
        """History of each subscriber (an empty one if there is none): unreleased contacts and outcomes
        at or after `since_us`, prompts not expired at `now_us` and neither shown nor answered."""
        ...

    def record_verdicts(self, verdicts: Sequence[Verdict]) -> None:
        """Store verdicts with all that follows from them: for every DECIDED decision a list entry and,
        by its kind, a reserved contact and a pending delivery (automatic), a reserved contact (a prompt
        shown now; the prompt it re-decides, `prompt_of`, is closed), or a waiting prompt (manual, not
        shown). Other reasons get a list entry only. Raises `StoreConflictError` if a key has a verdict.
        """
        ...

    def record_outcome(self, decision_id: str, kind: OutcomeKind, at_us: int) -> bool:
        """Note what became of a decided contact; False if it is known already (nothing changes). An instant
        before the decision is taken for that of the decision.

        ACCEPTED, REFUSED, LATER, DELIVERED and the like commit the reservation, NOT_OFFERED releases it
        unless it is committed. DELIVERED moves a delivery on; what reached the customer is not leased
        again. A waiting prompt is closed, and counts as a contact at `at_us` unless it was NOT_OFFERED.
        Raises `UnknownDecisionError`, also for a decision that let no offer out.
        """
        ...

    def lease(
        self, channel: str, limit: int, now_us: int, lease_for_us: int, max_attempts: int
    ) -> list[Lease]:
        """Up to `limit` deliveries of the channel that are pending, or whose lease has run out, oldest
        first. A delivery past its `expires_at_us` becomes EXPIRED, one out of attempts DEAD. Either
        releases its reservation if it is certain that nothing was sent: if every lease it had was settled
        with RETRY. If one ran out without a word, its outcome is unknown: it counts. A lease never reaches
        past `expires_at_us`."""
        ...

    def settle(
        self, decision_id: str, token: int, settlement: Settlement, now_us: int, retry_at_us: int
    ) -> bool:
        """Apply a client's word on its lease; False if the token is not the newest lease's or it is settled
        already. SENT commits the reservation, FAILED releases it (unless an earlier lease ran out without
        a word: that one counts), RETRY makes it pending again from `retry_at_us`. A lease that ran out may
        still be settled until `lease` has given the delivery to another or ended it.
        Raises `UnknownDecisionError`."""
        ...

    def save_rulebase(self, row: RulebaseRow, archive: bytes) -> None:
        """Keep an uploaded revision; keeping the same revision again changes nothing."""
        ...

    def activate(
        self,
        revision: str,
        expected: str,
        at_us: int,
        by: str,
        comment: str,
        coverage: Mapping[str, int],
        backfill: Collection[str] = (),
    ) -> None:
        """Make `revision` the active one, if `expected` is what is active now ("" for none). Metric keys
        that were active already keep the instant since when they are folded, new ones get that of
        `coverage`, and those not in it are forgotten: what comes back later was not folded in between.
        New keys in `backfill` wait for their backfill from then on, unless nothing was active before.
        Raises `StoreConflictError` if another revision is active, `UnknownRevisionError`."""
        ...

    def finish_backfill(self, keys: Collection[str], since_us: Mapping[str, int]) -> None:
        """These keys wait for no backfill any more. Those still covered are covered since the instants of
        `since_us`, if that is earlier than before."""
        ...

    def finish_sweeps(self, done: Collection[Sweep], forget_before_us: int) -> None:
        """Note that these are done, also if they were before; forget those that were due before then."""
        ...

    def quarantine(self, rejected: Sequence[Quarantined], most: int) -> None:
        """Keep rejected events, given in order of receipt, and of all that are kept the newest `most`."""
        ...

    def save_states(self, states: Iterable[tuple[str, int, bytes]]) -> None:
        """Snapshot subscribers: (subscriber id, log position included, encoded state)."""
        ...

    def save_checkpoint(self, position: int) -> None:
        """Every subscriber touched at or before `position` has been saved with it: replay begins there."""
        ...

    def save_heartbeat(self, alive_us: int, sources: Mapping[str, SourceMark]) -> None:
        """The service listens at `alive_us`; `sources` replace what was kept of them."""
        ...

    def reset_coverage(self, keys: Collection[str], since_us: int) -> None:
        """None of these is covered since earlier than `since_us` any more: events may have been lost."""
        ...


class Ledger(Protocol):
    """The durable record: log, verdicts, contacts, deliveries, rulebases, snapshots.

    Guarantees: reads see the last finished transaction; inside a transaction's block they see what it
    wrote so far. A store that cannot be reached or written raises `StoreUnavailableError` and never loses
    what a finished transaction wrote.
    Non-guarantees: calls block (they are made from the ledger's own thread); not thread-safe.
    """

    def transaction(self) -> AbstractContextManager[LedgerTransaction]: ...

    def read_log(self, after: int) -> Iterator[LogRow]:
        """Rows with position > `after`, in order, fetched in pieces."""
        ...

    def last_position(self) -> int: ...

    def checkpoint(self) -> int: ...

    def heartbeat(self) -> tuple[int, Mapping[str, SourceMark]]:
        """The last one that was saved; (0, none) if there was none."""
        ...

    def load_states(
        self, subscriber_ids: Collection[str] | None = None
    ) -> Iterator[tuple[str, int, bytes]]:
        """Snapshots of these subscribers, or of all."""
        ...

    def verdict_of(self, decision_id: str) -> Verdict | None: ...

    def verdict(self, key: EventKey) -> Verdict | None: ...

    def outcomes_of(self, decision_id: str) -> Sequence[Outcome]: ...

    def delivery_of(self, decision_id: str) -> tuple[DeliveryState, int] | None:
        """State and attempts of a delivery; None if the decision has none."""
        ...

    def prompts(self, subscriber_id: str, now_us: int) -> Sequence[Prompt]:
        """Open prompts, oldest first."""
        ...

    def decisions(
        self, where: DecisionFilter, after: int, limit: int, newest_first: bool
    ) -> Sequence[DecisionRow]:
        """A page of decisions beyond cursor `after` (0 for the beginning, whichever end that is)."""
        ...

    def rulebases(self) -> Sequence[RulebaseRow]:
        """All uploads, newest first."""
        ...

    def rulebase_archive(self, revision: str) -> bytes | None: ...

    def active_revision(self) -> str:
        """ "" when none was ever activated."""
        ...

    def coverage(self) -> Mapping[str, int]:
        """Metric key -> the instant since when it has been folded."""
        ...

    def births(self) -> Mapping[str, int]:
        """Metric key -> the last log position before it became live: all after it was folded into it."""
        ...

    def backfills(self) -> set[str]:
        """Keys that wait for their backfill."""
        ...

    def sweeps(self) -> set[Sweep]:
        """Those that are done, as far back as they are kept."""
        ...

    def quarantined(
        self, where: QuarantineFilter, before: int, limit: int
    ) -> Sequence[tuple[int, Quarantined]]:
        """A page of rejected events with their cursors, newest first, beyond cursor `before` (0 for the
        beginning)."""
        ...

    def close(self) -> None: ...


class LiveState(Protocol):
    """Live state of subscribers, for the fast path.

    Guarantees: `load` gives for every id a state (a new one for a stranger) that the caller may change,
    until anything else is loaded; after `save` other loads see it. One writer a subscriber at any moment.
    Non-guarantees: nothing here is durable; the ledger's log is. Embedded: a state that was loaded and
    changed but not saved is seen by later loads too; `discard` is how the caller takes that back.
    """

    async def load(self, subscriber_ids: Collection[str]) -> Mapping[str, SubscriberState]: ...

    async def save(self, subscriber_ids: Collection[str]) -> None:
        """The changed states of these subscribers are now backed by a durable log."""
        ...

    async def discard(
        self, recovered: Mapping[str, SubscriberState], subscriber_ids: Collection[str]
    ) -> None:
        """Forget these subscribers' states and put the recovered ones in their place."""
        ...

    def peek(self, subscriber_id: str) -> Mapping[str, object] | None:
        """That subscriber's context as it is, to read only; None if none was ever imported. Makes no
        state."""
        ...

    def subscribers(self) -> list[str]:
        """The ids of all subscribers of whom there is a state, in no order."""
        ...

    def contexts(self, subscriber_ids: Iterable[str]) -> list[tuple[str, Mapping[str, object]]]:
        """What `peek` gives of each, for scans; those of whom it gives nothing are left out."""
        ...

    def restore(self, states: Iterable[tuple[str, bytes]]) -> None:
        """At start, before any load: snapshots from the ledger."""
        ...

    def dirty(self) -> Collection[str]:
        """Subscribers saved since they were last taken by `snapshot`."""
        ...

    def snapshot(self, subscriber_ids: Collection[str]) -> list[tuple[str, int, bytes]]:
        """(id, position, encoded state) of these, which are then no longer dirty."""
        ...
