"""What is written to the ledger."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Protocol

from opportune_rulebase.policies import OutcomeKind

from opportune_service.app.records import (
    ActivationMode,
    Aged,
    DeliveryState,
    ForeignContact,
    Lease,
    LogRow,
    Pause,
    Quarantined,
    Redriven,
    RulebaseRow,
    Settlement,
    Step,
    StepKind,
    Sweep,
    Waiting,
)
from opportune_service.core.erase import Erasing
from opportune_service.core.verdict import (
    EventKey,
    History,
    Outcome,
    Response,
    Touch,
    Usage,
    UsageKey,
    Verdict,
)
from opportune_service.core.watermarks import SourceMark


class LedgerTransaction(Protocol):
    """One atomic, durable write to the ledger.

    Guarantees: everything done through it becomes visible and durable together when the `with` block
    of `Ledger.transaction` ends, or not at all when that raises. What one reads of subscribers and counters
    that it holds (`lock`) cannot be changed by another before it ends.
    Non-guarantees: no order among the rows of one call; objects are unusable after the block.
    """

    # -- members: the processes that share a ledger (`app/membership.py`) ----------------------------

    def join(self, position: int) -> int:
        """Be a member from now on: its number, which no member had before. Its checkpoint is `position`."""
        ...

    def beat(self, member: int) -> None:
        """The member lives, by the store's own clock."""
        ...

    def expel(self, member: int) -> None:
        """Wait until no transaction guarded for this member is under way; from the end of this one on, its
        guards fail. Its row stays until `leave`, for whoever takes over what it left."""
        ...

    def leave(self, member: int) -> None:
        """Forget a member of whom nothing is left to take over. The checkpoint of the last one becomes that
        of the ledger."""
        ...

    def outlast(self, member: int) -> None:
        """Wait until no guarded transaction of this member is under way, also none that it has given up."""
        ...

    def guard(self, member: int, generation: int) -> None:
        """Until this transaction ends, the member is not expelled and no other generation begins.

        Raises `ExpelledError`, or `SupersededError` if `generation` is not the present one. Call it first.
        """
        ...

    def advance(self) -> int:
        """Wait until no guarded transaction is under way, then begin the next generation: its number. To
        those who are guarded it begins when this transaction ends."""
        ...

    def lock(
        self,
        subscriber_ids: Collection[str],
        names: Collection[str] = (),
        decision_ids: Collection[str] = (),
    ) -> None:
        """Wait until no other transaction holds any of these subscribers, those whom these decisions are
        about, or these names; they are held until this transaction ends. Once in a transaction, before what
        is read under it: two that take them one after the other may wait for each other, and then one
        fails. What changes contacts takes their subscribers by itself, and so does `waiting`, which leaves
        out whoever is held. Where transactions run one after the other anyway, as on SQLite, it does
        nothing."""
        ...

    def save_live_state_id(self, id_: str) -> None:
        """Which store of live state goes with this ledger (`LiveState.identity`)."""
        ...

    # -- the record ---------------------------------------------------------------------------------

    def append_log(self, rows: Sequence[LogRow]) -> None:
        """Append batches. Raises `StoreConflictError` if a position is taken."""
        ...

    def verdicts(self, keys: Collection[EventKey]) -> dict[EventKey, Verdict]:
        """Those of `keys` that were decided before."""
        ...

    def histories(self, subscriber_ids: Collection[str], since_us: int, now_us: int) -> dict[str, History]:
        """History of each subscriber (an empty one if there is none): unreleased contacts and outcomes
        at or after `since_us`, and contacts whose offer is open after `now_us` however old; prompts not
        expired at `now_us` and neither shown nor answered; all deferrals."""
        ...

    def usage(self, keys: Collection[UsageKey]) -> Usage:
        """These counters as they stand; those that are 0 may be left out."""
        ...

    def paused(self) -> frozenset[str]:
        """Campaigns that are paused."""
        ...

    def pause(self, pause: Pause) -> bool:
        """Pause a campaign; False if it was, and nothing changes. Audited."""
        ...

    def resume(self, campaign: str, at_us: int, by: str, reason: str) -> bool:
        """Resume a campaign; False if it was not paused. Audited."""
        ...

    def record_verdicts(self, verdicts: Sequence[Verdict]) -> None:
        """Store verdicts with all that follows from them, and a list entry for every decision.

        A decision that reserves (`Decision.reserves`): a contact; with DECIDED it is reserved, adds to the
        counters (`usage_of`) and, if automatic or on a bulk channel, gets a pending delivery; with CONTROL
        it is a committed contact of the ghost ledger. A manual one that is not shown: a waiting prompt.
        The fate DEFER: a deferral, in place of an earlier one of the same subscriber and campaign.
        `prompt_of` closes that prompt if the decision reserves, `deferred_of` ends that deferral in any
        case. Raises `StoreConflictError` if a key has a verdict.
        """
        ...

    def record_outcome(self, decision_id: str, kind: OutcomeKind, at_us: int, detail: str = "") -> bool:
        """Note what became of a decided contact; False if it is known already (nothing changes). An instant
        before the decision is taken for that of the decision. For a decision of a control group only
        ORDERED can be noted.

        ACCEPTED, REFUSED, LATER, DELIVERED and the like commit the reservation, NOT_OFFERED releases it
        unless it is committed. DELIVERED moves a delivery on; what reached the customer is not leased
        again. A waiting prompt is closed, and counts as a contact at `at_us` unless it was NOT_OFFERED.
        What is released is taken back from the counters, wherever that happens.
        Raises `UnknownDecisionError`, also for a decision that let no offer out.
        """
        ...

    def respond(self, responses: Sequence[Response]) -> list[Outcome]:
        """Find what each of these answers and note it as an outcome; those that were new. One that answers
        nothing leaves nothing."""
        ...

    def record_touches(self, touches: Sequence[Touch]) -> None:
        """Keep these for the contact view; one that is known (by source and event id) changes nothing."""
        ...

    def count_events(self, counts: Mapping[tuple[str, int], int]) -> None:
        """Add to the number of events, for reports: (event type, hour since 1970) -> events, by when they
        occurred."""
        ...

    def record_contacts(self, contacts: Sequence[ForeignContact]) -> list[bool]:
        """Keep contacts that other systems made, as committed; False for each that is known already."""
        ...

    def complaint_rate(self, campaign: str, since_us: int) -> tuple[int, int]:
        """(contacts made by the campaign since then, those of them with a complaint)."""
        ...

    def waiting(self, channel: str, limit: int, now_us: int) -> Sequence[Waiting]:
        """Up to `limit` deliveries of the channel that are pending and available, or whose lease has run
        out, oldest first. Those past `expires_at_us` are among them. One whose subscriber has an earlier
        delivery on the channel that is leased for the first time is left out: first attempts keep their
        order."""
        ...

    def lease(self, leases: Sequence[Lease], day: int) -> None:
        """Give out these, each waiting as of this transaction; `token` and `attempt` are one more than
        before. One whose earlier lease ran out without a word is uncertain from now on. First attempts add
        to the counter of their channel's `CHANNEL_LEASES` of that day."""
        ...

    def postpone(self, decision_ids: Collection[str], until_us: int) -> None:
        """These are pending, and not available before then, or before their expiry if that is earlier."""
        ...

    def end_deliveries(self, ended: Mapping[str, DeliveryState], now_us: int, detail: str = "") -> None:
        """These deliveries come to an end without being sent: EXPIRED, DEAD or WITHDRAWN. Each releases its
        reservation if it is certain that nothing was sent: if every lease it had was settled with RETRY. If
        one ran out without a word, its outcome is unknown: it counts."""
        ...

    def expire(self, now_us: int, limit: int) -> int:
        """End up to `limit` deliveries, of any channel, whose time is over, as `end_deliveries` does, and
        up to `limit` open prompts; how many there were of the one or of the other, whichever is more."""
        ...

    def settle(
        self,
        decision_id: str,
        token: int,
        settlement: Settlement,
        now_us: int,
        retry_at_us: int,
        detail: str = "",
    ) -> bool:
        """Apply a client's word on its lease; False if the token is not the newest lease's or it is settled
        already. SENT commits the reservation, FAILED releases it (unless an earlier lease ran out without
        a word: that one counts), RETRY makes it pending again from `retry_at_us`. A lease that ran out may
        still be settled until it was given to another or ended.
        Raises `UnknownDecisionError`."""
        ...

    def redrive(self, redriven: Sequence[Redriven], now_us: int, by: str, reason: str) -> None:
        """Make dead letters (as of this transaction) pending again, available at once, with their attempts
        counted from the start; each reserves its `contact` in place of the one that it had. Audited."""
        ...

    def erase(self, erasing: Erasing, at_us: int, by: str, reason: str) -> bool:
        """Remove the subscriber whose number it is from every table but the log, and put the stand-in in
        its place where people or other systems named it in words about others; audited without the number.
        False if nothing was known."""
        ...

    def blot_out(self, erasing: Erasing, others: Collection[str]) -> None:
        """Put the stand-in in the place of the number in what events and imports of these others led to."""
        ...

    def replace_log(self, rows: Sequence[LogRow]) -> None:
        """Put these in place of the rows at their positions (erasure)."""
        ...

    def save_rulebase(
        self, row: RulebaseRow, archive: bytes, signature: bytes = b"", *, replace: bool = False
    ) -> bool:
        """Keep an uploaded revision, with the signature of its archive if it has one. A revision that is
        kept stays as it is, unless `replace` says so and archive or signature are others: then they
        become these. Whether anything changed."""
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
        mode: ActivationMode = ActivationMode.FULL,
        share: int = 0,
        kind: StepKind = StepKind.ACTIVATED,
    ) -> None:
        """Let `revision` take part, and note a step of this kind, if `expected` is in full force now (""
        for none). In full, it takes the place of all that are in force; as canary or shadow, of the one in
        that mode. Keys that were folded already keep the instant since when they are, new ones get that of
        `coverage`, and those not in it are forgotten: what comes back later was not folded in between. New
        keys in `backfill` wait for their backfill from then on, unless nothing was active before.
        Raises `StoreConflictError` if another revision is in full force, `UnknownRevisionError`."""
        ...

    def note_step(self, step: Step) -> None:
        """Add to the history of a revision. Raises `UnknownRevisionError`."""
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
        """Snapshot subscribers: (subscriber id, log position included, encoded state). One that includes
        less than what is kept already changes nothing."""
        ...

    def save_checkpoint(self, position: int, member: int = 0) -> None:
        """Every subscriber touched at or before `position`, by the member if one is named, has been saved
        with it: replay begins there."""
        ...

    def save_heartbeat(self, alive_us: int, sources: Mapping[str, SourceMark]) -> None:
        """The service listens at `alive_us`. What is kept of each of `sources` becomes this, its instants
        only if they are later."""
        ...

    def reset_coverage(self, keys: Collection[str], since_us: int) -> None:
        """None of these is covered since earlier than `since_us` any more: events may have been lost."""
        ...

    # -- housekeeping -----------------------------------------------------------------------------

    def prune(self, aged: Sequence[Aged]) -> int:
        """Delete those of these, all of one kind, that are still exactly as they were read; how many. Of
        the log only the first ones, up to one that is not; none while a backfill waits."""
        ...
