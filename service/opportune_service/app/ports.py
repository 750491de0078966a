"""What the use cases need of the outside world. Each port states its guarantees and non-guarantees.

One contract suite (tests/contract) runs against every adapter of a port.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from opportune_rulebase.policies import OutcomeKind

from opportune_service.app.records import (
    ActivationMode,
    Aged,
    Backlog,
    CampaignFigures,
    ChannelFigures,
    ContactChange,
    ContactRow,
    DeadLetter,
    DecisionFilter,
    DecisionRow,
    DeliveryState,
    ForeignContact,
    InForce,
    Kept,
    Lease,
    LogRow,
    Member,
    Pause,
    PauseChange,
    Place,
    Quarantined,
    QuarantineFilter,
    Redriven,
    RulebaseRow,
    Settlement,
    Step,
    StepKind,
    Sweep,
    TouchRow,
    Waiting,
)
from opportune_service.core.erase import Erasing
from opportune_service.core.state import SubscriberState
from opportune_service.core.verdict import (
    Deferral,
    EventKey,
    History,
    OpenPrompt,
    Outcome,
    Prompt,
    Response,
    Touch,
    Usage,
    UsageKey,
    Verdict,
)
from opportune_service.core.watermarks import SourceMark


class Clock(Protocol):
    """Where `now` comes from. Wall time in service, a virtual clock in replay and demonstration."""

    def now_us(self) -> int:
        """Microseconds since 1970-01-01T00:00Z. May jump; callers never assume that it is monotonic."""
        ...


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


class Ledger(Protocol):
    """The durable record: log, verdicts, contacts, deliveries, rulebases, snapshots.

    Guarantees: reads see the last finished transaction; inside a transaction's block they see what it
    wrote so far. A store that cannot be reached or written raises `StoreUnavailableError` and never loses
    what a finished transaction wrote.
    Non-guarantees: calls block (they are made from the ledger's own thread); not thread-safe.
    """

    def keep_to_this_thread(self) -> None:
        """From now on every use by another thread, but `back_up` and `close`, raises `RuntimeError`: it
        fails each time, and not only when both happen to use it at once."""
        ...

    def transaction(self) -> AbstractContextManager[LedgerTransaction]: ...

    def read_log(self, after: int) -> Iterator[LogRow]:
        """Rows with position > `after`, in order, fetched in pieces."""
        ...

    def last_position(self) -> int: ...

    def checkpoint(self) -> int:
        """Where replay begins: the least of what members saved, or what was saved if there are none."""
        ...

    def generation(self) -> int:
        """Of what all members work under: it advances with the active revision, and when live state is
        rebuilt. 0 at first."""
        ...

    def members(self) -> Sequence[Member]:
        """By number; those that are expelled and not taken over yet included."""
        ...

    def live_state_id(self) -> str:
        """ "" when none was ever saved."""
        ...

    def heartbeat(self) -> tuple[int, Mapping[str, SourceMark]]:
        """The last one that was saved; (0, none) if there was none."""
        ...

    def load_states(
        self, subscriber_ids: Collection[str] | None = None
    ) -> Iterator[tuple[str, int, bytes]]:
        """Snapshots of these subscribers, or of all."""
        ...

    def snapshot_ids(self, after: str, limit: int) -> Sequence[str]:
        """A page of the subscribers who have a snapshot, by id."""
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
        """A page of decisions beyond cursor `after` (0 for the beginning, whichever end that is). Oldest
        first it ends before what may still be recorded with a lower cursor; newest first it does not."""
        ...

    def decided_up_to(self) -> int:
        """The cursor beyond which all comes that is recorded from now on."""
        ...

    def due_deferrals(self, until_us: int, limit: int) -> Sequence[Deferral]:
        """Deferrals due up to then, the earliest first; with one of a subscriber all that are due of it."""
        ...

    def prompts_on(
        self, channel: str, now_us: int, after: tuple[int, str], limit: int
    ) -> Sequence[OpenPrompt]:
        """Open prompts of a bulk channel, oldest first, beyond those decided at `after`: an instant and a
        decision id, (0, "") for the beginning."""
        ...

    def pauses(self) -> Sequence[Pause]:
        """Campaigns that are paused, by name."""
        ...

    def contacts_of(self, subscriber_id: str, from_us: int, to_us: int, limit: int) -> Sequence[ContactRow]:
        """Marketing contacts of a subscriber, those of other systems included, those of control groups and
        released ones not; newest first."""
        ...

    def touches_of(self, subscriber_id: str, from_us: int, to_us: int, limit: int) -> TouchRow:
        """What else they said to each other, at most `limit` of each kind, and counts of all, marketing
        included."""
        ...

    def contact_changes(
        self, after: int, limit: int, campaigns: Collection[str]
    ) -> Sequence[ContactChange]:
        """What happened to contacts beyond cursor `after`, in order of recording, as far as nothing may
        still be recorded with a lower cursor. No campaigns: of all."""
        ...

    def backlogs(self, now_us: int) -> Sequence[Backlog]:
        """What waits for channel clients and what they hold, by channel; those without any are left out."""
        ...

    def dead_letters(self, channel: str, campaign: str, before: int, limit: int) -> Sequence[DeadLetter]:
        """A page of them, the newest decision first, beyond cursor `before` (0 for the beginning). "":
        any."""
        ...

    def dead_letters_of(self, decision_ids: Collection[str]) -> Sequence[DeadLetter]:
        """Those of these decisions that are dead letters."""
        ...

    def campaign_figures(
        self, start_us: int, end_us: int, triggers: Mapping[str, Collection[str]]
    ) -> Sequence[CampaignFigures]:
        """What campaigns did in [start, end), by decision time; events by whole hours. `triggers`: the
        campaigns asked for, each with its event types; in that order."""
        ...

    def channel_figures(self, start_us: int, end_us: int) -> Sequence[ChannelFigures]:
        """How busy each channel was in [start, end), by name; without channels that were not used."""
        ...

    def contact_frequencies(self, start_us: int, end_us: int) -> Mapping[int, int]:
        """Number of contacts by this service in [start, end), without released ones -> subscribers who had
        so many."""
        ...

    def rulebases(
        self, after: RulebaseRow | None = None, limit: int | None = None
    ) -> Sequence[RulebaseRow]:
        """Uploads, newest first: a page of them beyond `after`, or all."""
        ...

    def rulebase(self, revision: str) -> RulebaseRow | None: ...

    def rulebase_archive(self, revision: str) -> bytes | None: ...

    def rulebase_signature(self, revision: str) -> bytes:
        """Of the archive; empty if it has none."""
        ...

    def active_revision(self) -> str:
        """The one in full force; "" when none was ever activated."""
        ...

    def in_force(self) -> Sequence[InForce]:
        """The revisions that take part: the one in full force first, then canary, then shadow."""
        ...

    def full_before(self, revision: str) -> str:
        """The one that was in full force before this one came to be, the last time that it did; "" if
        none was, or it never did."""
        ...

    def pause_changes(self, campaigns: Collection[str], since_us: int, limit: int) -> Sequence[PauseChange]:
        """The newest of what happened to these at or after `since_us`, in order of recording, as far back
        as the audit is kept."""
        ...

    def steps(self, revisions: Collection[str] | None = None) -> Sequence[Step]:
        """The history of these revisions, or of all, in order of recording."""
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

    # -- housekeeping -----------------------------------------------------------------------------

    def aged(
        self, kind: Kept, before_us: int, after: Place, limit: int
    ) -> tuple[Sequence[Aged], Place | None]:
        """What is older than that and nothing holds, the oldest first, beyond `after`; and where to go on,
        None at the end. At most `limit`, and fewer, even none, before the end as well.

        Held are: of the log, what a restart would fold, all of it while a backfill waits, and whatever
        comes behind a row that is not old; of the history, what has a contact, an open offer, an outcome or
        a delivery that is not old, or is not at its end. One that several pages touch may be in each.
        """
        ...

    def changes_pruned(self) -> int:
        """The greatest cursor of a contact change that was pruned; 0 if none was."""
        ...


class Archive(Protocol):
    """Where what is pruned is kept, outside of the ledger.

    Guarantees: when `put` has returned, all of it is durable, and complete for whoever reads; what is put
    again, whole and alike, is there once. Non-guarantees: it is blocking; what was put may, after a crash,
    be put again in part, in another piece.
    """

    def put(self, kind: Kept, day: int, aged: Sequence[Aged]) -> None:
        """Keep these, all of one day (counted in UTC since 1970). Raises OSError: then nothing is kept."""
        ...


class BackedUp(Protocol):
    """A ledger that can copy itself while it works. PostgreSQL has tools of its own for that."""

    def back_up(self, path: Path, stopped: Callable[[], bool]) -> None:
        """Write a copy as of some instant during the call, with all that was committed before it; in place
        of what is at `path`, when the copy is complete and checked.

        Blocking, for as long as the copy takes; from any thread, while the ledger's own goes on. Ends
        without a copy once `stopped` says so, which must be before `close`. Raises `StoreUnavailableError`.
        """
        ...


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
        """Let those members know that hold these, whom `load` has just left out: they give them up as soon
        as they are not in use."""
        ...

    async def heed(self, seconds: float) -> None:
        """Do what other members wish, if any of them wishes something within so many seconds. Call it all
        the time."""
        ...

    @property
    def wanted(self) -> Set[str]:
        """Those in use that another member has asked for: whoever goes on to use them, group after group,
        never gives them up."""
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
