"""What is read of the ledger."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from opportune_service.app.ports.transaction import LedgerTransaction
from opportune_service.app.records import (
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
    InForce,
    Kept,
    LogRow,
    Member,
    Pause,
    PauseChange,
    Place,
    Quarantined,
    QuarantineFilter,
    RulebaseRow,
    Step,
    Sweep,
    TouchRow,
)
from opportune_service.core.verdict import (
    Deferral,
    EventKey,
    OpenPrompt,
    Outcome,
    Prompt,
    Verdict,
)
from opportune_service.core.watermarks import SourceMark


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
