"""What use cases hand to the ledger and get from it: rows, leases, filters."""

from __future__ import annotations

from enum import StrEnum

import msgspec
from opportune_rulebase.policies import Mode, OutcomeKind

from opportune_service.core.events import Event, RejectionReason
from opportune_service.core.verdict import Contact, EventKey, Outcome, Reason, Touch


class LogKind(StrEnum):
    EVENTS = "events"
    CONTEXT = "context"
    BACKFILL = "backfill"
    TIMERS = "timers"


class LogRow(msgspec.Struct, frozen=True):
    """One accepted batch: the record from which everything else can be rebuilt.

    `position` rises from row to row of every subscriber. `now_us` and `revision` are those the batch was
    processed with. `payload` is opaque to the store (compressed).
    """

    position: int
    kind: LogKind
    source: str
    now_us: int
    revision: str
    payload: bytes


class Member(msgspec.Struct, frozen=True):
    """A process that shares the ledger with others. It said `silent_us` ago that it lives, by the store's
    clock. `checkpoint`: every subscriber that it touched at or before that log position is in the
    snapshots."""

    number: int
    silent_us: int
    checkpoint: int
    expelled: bool


class DeliveryState(StrEnum):
    PENDING = "pending"
    LEASED = "leased"
    SENT = "sent"
    DELIVERED = "delivered"
    FAILED = "failed"
    EXPIRED = "expired"
    DEAD = "dead"
    WITHDRAWN = "withdrawn"


class Lease(msgspec.Struct, frozen=True):
    """An automatic decision handed to a channel client until `lease_until_us`.

    `token` fences: only the newest lease of a delivery may settle it. `attempt` counts from 1. `test`: a
    test send, which is in no ledger.
    """

    decision_id: str
    token: int
    attempt: int
    subscriber_id: str
    channel: str
    campaign: str
    product: str
    content: str
    lease_until_us: int
    expires_at_us: int
    test: bool = False


class Settlement(StrEnum):
    """What a channel client says of a lease. RETRY: not sent, try again. FAILED: never to be sent."""

    SENT = "sent"
    RETRY = "retry"
    FAILED = "failed"


class Waiting(msgspec.Struct, frozen=True):
    """A delivery that could be leased now, as far as the ledger knows. `uncertain`: an earlier lease ran
    out without a word, so the customer may have been contacted."""

    decision_id: str
    subscriber_id: str
    channel: str
    campaign: str
    product: str
    category: str
    mode: Mode
    content: str
    token: int
    attempts: int
    uncertain: bool
    expires_at_us: int


class Backlog(msgspec.Struct, frozen=True):
    """What waits on a channel: `waiting` deliveries are available, the first since `since_us`; `leased` are
    held by clients, and the first of these leases runs out at `leased_until_us`. 0 where there is none."""

    channel: str
    waiting: int
    since_us: int
    leased: int
    leased_until_us: int


class DeadLetter(msgspec.Struct, frozen=True):
    """A delivery that ran out of attempts. `cursor` orders by when it was decided; `detail`: what the
    channel said last."""

    cursor: int
    decision_id: str
    subscriber_id: str
    channel: str
    campaign: str
    content: str
    attempts: int
    detail: str
    dead_at_us: int
    expires_at_us: int


class Redriven(msgspec.Struct, frozen=True):
    """A dead letter that is to be tried again until `expires_at_us`, and the contact that it reserves."""

    subscriber_id: str
    contact: Contact
    expires_at_us: int


class Pause(msgspec.Struct, frozen=True):
    """A campaign that is paused: since when, by whom (`alarm` for itself), and why."""

    campaign: str
    at_us: int
    by: str
    reason: str


class ForeignContact(msgspec.Struct, frozen=True):
    """A contact that another system made. `contact.decision_id` is unique within `contact.origin`."""

    subscriber_id: str
    contact: Contact
    content: str


class ContactRow(msgspec.Struct, frozen=True):
    """A marketing contact for the contact view, with what became of it."""

    subscriber_id: str
    contact: Contact
    content: str
    state: DeliveryState | None
    outcomes: tuple[Outcome, ...]


class ContactChange(msgspec.Struct, frozen=True):
    """One change of one contact, for export. `cursor` orders by time of recording. Exactly one of `state`
    (None: it was made by a control group, another system, or shown to a person) and `outcome` tells what
    changed."""

    cursor: int
    subscriber_id: str
    contact: Contact
    state: DeliveryState | None
    outcome: OutcomeKind | None
    at_us: int


class TouchRow(msgspec.Struct, frozen=True):
    """What the contact view shows of one subscriber apart from marketing, newest first, and contacts
    counted by (channel, type, business) with the newest instant."""

    touches: tuple[Touch, ...]
    counts: dict[tuple[str, str, str], tuple[int, int]]


class CampaignFigures(msgspec.Struct, frozen=True):
    """What a campaign did in one period [start, end): counts, not rates. `lost`: reason -> candidates.
    Decisions taken again (deferrals, prompts that were shown) count once, by their last word.

    `sent`: contacts that went out or were shown; of these, `by_outcome`: with such an outcome, whenever it
    came; `converted`: with an order in the campaign's attribution window; `cost`: what they cost.
    `answered`: contacts with an answer that only a customer gives.

    People, not contacts: `treated` were chosen and not held back, whether or not anything was sent;
    `control` were held back by a control group. They were chosen alike, so uplift compares how many of each
    ordered, `treated_converted` and `control_converted`. Contacts would not do: whose message expires is
    chosen again, and a control group's never expires."""

    campaign: str
    start_us: int
    end_us: int
    events: int
    matched: int
    lost: dict[Reason, int]
    decided: int
    sent: int
    delivered: int
    answered: int
    converted: int
    treated: int
    treated_converted: int
    control: int
    control_converted: int
    by_outcome: dict[OutcomeKind, int]
    cost: int


class ChannelFigures(msgspec.Struct, frozen=True):
    """How busy a channel was: contacts decided in the period, and in its busiest second."""

    channel: str
    start_us: int
    decided: int
    peak_per_second: int


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
    """An uploaded revision: what its upload said."""

    revision: str
    name: str
    uploaded_at_us: int
    uploaded_by: str
    comment: str


class ActivationMode(StrEnum):
    """How a revision takes part."""

    FULL = "full"
    CANARY = "canary"
    SHADOW = "shadow"


class InForce(msgspec.Struct, frozen=True):
    """A revision that takes part, since when, and who made it so. `share`: how many of a million
    subscribers a canary decides for; 0 in other modes."""

    revision: str
    mode: ActivationMode
    share: int
    at_us: int
    by: str
    comment: str


class StepKind(StrEnum):
    """What brought a revision further."""

    DRAFTED = "drafted"
    UPLOADED = "uploaded"
    TESTED = "tested"
    REHEARSED = "rehearsed"
    APPROVED = "approved"
    ACTIVATED = "activated"
    ROLLED_BACK = "rolled-back"


class Step(msgspec.Struct, frozen=True):
    """One step of a revision: who, when, and why. With `mode` and, of a canary, `share` if it came into
    force by it."""

    revision: str
    at_us: int
    by: str
    kind: StepKind
    comment: str
    mode: ActivationMode | None = None
    share: int = 0


class PauseChange(msgspec.Struct, frozen=True):
    """A campaign was paused or resumed: when, by whom, and why."""

    campaign: str
    at_us: int
    by: str
    paused: bool
    reason: str


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


class Kept(StrEnum):
    """What of the ledger goes by one rule when it is old.

    HISTORY: a verdict with all that came of it: decisions, contacts and their changes, deliveries, prompts,
    outcomes. CONTACTS: those that other systems made. USAGE: counters of periods that are over.
    """

    LOG = "log"
    HISTORY = "history"
    CONTACTS = "contacts"
    TOUCHES = "touches"
    EVENT_COUNTS = "event_counts"
    USAGE = "usage"
    QUARANTINE = "quarantine"
    AUDIT = "audit"


class Aged(msgspec.Struct, frozen=True):
    """Something in the ledger that goes as a whole. `at_us`: of when it is; `key` names it among those of
    its kind; `rows`: (table, column -> value) as they stand, each before what refers to it."""

    kind: Kept
    at_us: int
    key: tuple[object, ...]
    rows: tuple[tuple[str, dict[str, object]], ...]


Place = tuple[object, ...]
"""Where to go on reading; () for the beginning."""
