"""Moments, decisions and verdicts: what the strict path works on and leaves behind."""

from __future__ import annotations

from enum import StrEnum

import msgspec
from opportune_rulebase.model import TouchKind
from opportune_rulebase.policies import Fate, Mode, OutcomeKind


class Reason(StrEnum):
    """Why a candidate was or was not decided, from one closed list, in the order of the checks.

    SETTLING: nothing stands in its way so far; it waits for better ones, as the rulebase's `settle` says.
    """

    STALE = "stale"
    NOT_LIVE = "not_live"
    NO_CONTEXT = "no_context"
    NOT_ELIGIBLE = "not_eligible"
    SUPPRESSED = "suppressed"
    COOLING_OFF = "cooling_off"
    INCONSISTENT = "inconsistent"
    OUTRANKED = "outranked"
    NO_CHANNEL = "no_channel"
    QUIET_HOURS = "quiet_hours"
    CAPPED = "capped"
    QUOTA = "quota"
    CAPACITY = "capacity"
    CONTROL = "control"
    DECIDED = "decided"
    SETTLING = "settling"


class EventKey(msgspec.Struct, frozen=True, order=True):
    """What a verdict is stored under, once."""

    subscriber_id: str
    source: str
    event_id: str


class Profile(msgspec.Struct, frozen=True):
    """The part of the subscriber's context that policies read, as it was at the moment.

    `known` is False for a subscriber without any imported context. `zone` is an IANA name.
    `consents` maps ``channel/NAME`` and ``category/NAME`` to the subscriber's word on it.
    """

    known: bool
    zone: str
    status: str | None = None
    branch: str | None = None
    do_not_contact: bool | None = None
    products: tuple[str, ...] = ()
    consents: dict[str, bool] = msgspec.field(default_factory=dict)


class Trigger(msgspec.Struct, frozen=True):
    """The event, or what was derived of it, that made a campaign a candidate: what its expressions read as
    ``event.*`` and ``place.*``, kept so that they can be evaluated again."""

    type: str
    at_us: int
    attributes: dict[str, object] = msgspec.field(default_factory=dict)
    cell_id: str = ""


class Candidate(msgspec.Struct, frozen=True):
    """A campaign whose trigger and `when` hold, with every expression that policies need, evaluated.

    `target`: the campaign's target (None: unknown). `terminal_ok`: channel -> whether the handset can
    take the product there. `suppressed_by`: suppressions that hold or are unknown. `propensity` is None
    when unknown. `content`: channel -> rendered text, None where a variable is unknown. `held`: the
    definitions and values that made it match, for people. `trigger`: what made it a candidate.
    `prompt_of`: the earlier decision whose open prompt this candidate re-decides, empty for a fresh match.
    `deferred_of`: the same for a deferral; `attempt` is then 2 or more, and `expires_us` when the offer
    lapses, as was settled at the first attempt (0: not settled yet).
    """

    campaign: str
    target: bool | None
    terminal_ok: dict[str, bool | None]
    suppressed_by: tuple[str, ...]
    propensity: float | None
    content: dict[str, str | None]
    held: dict[str, object]
    trigger: Trigger
    prompt_of: str = ""
    deferred_of: str = ""
    attempt: int = 1
    expires_us: int = 0


class Moment(msgspec.Struct, frozen=True):
    """One event with candidates, joined with what is known: all that `decide` needs but the ledger.

    `now_us` is the decision time: the service's clock when the batch was taken up (in replay, the
    event's own time). `touch_point` is the manual channel at which the subscriber is right now, empty
    outside `advise`. `channel_scores` and `segment` are what the rulebase's `Preference` says of this
    subscriber: channel -> score (without those that are unknown), and the segment's channels in order.
    """

    key: EventKey
    event_type: str
    occurred_at_us: int
    now_us: int
    profile: Profile
    candidates: tuple[Candidate, ...]
    touch_point: str = ""
    channel_scores: dict[str, float] = msgspec.field(default_factory=dict)
    segment: tuple[str, ...] = ()


class Check(msgspec.Struct, frozen=True):
    """One step of a decision, for people: which policy, whether it let the candidate pass, and why.

    `channel`: the one that was tried, "" for checks that do not depend on it. `count` and `limit`: contacts
    counted, this one included, and the most that may be; None where nothing is counted. `clear_us`: when
    the policy would let it pass, 0 if it did or that is not known.
    """

    policy: str
    passed: bool
    detail: str
    channel: str = ""
    count: int | None = None
    limit: int | None = None
    clear_us: int = 0


class Decision(msgspec.Struct, frozen=True):
    """The answer for one candidate. `reason` DECIDED means the offer goes out on `channel`.

    `id` is a stable hash of the event's key and the campaign. `score` is `value` times `propensity`.
    `rank`: its place in the arbitration, from 1; 0 if it did not get there. `lost_to`: the campaign that
    took its place; `group`: the exclusive group that settled it.
    `shown`: a manual prompt that is shown to a person at this very moment (it reserves; a prompt that
    waits does not). `expires_at_us`: the offer must not reach the customer after it; 0 unless decided or
    deferred. `open_until_us`: until when the offer stands once made. `due_us`: when what was deferred is
    decided again; 0 unless the fate is DEFER; `trigger` is then kept as well, and with a prompt that waits
    on a bulk channel, where nobody but the service shows it. `day`: the local day number of the decision in
    the rulebase's zone, which quota and capacity count it under. `cost`: of the contact.
    `bulk`: its channel hands contacts over in interface files, so that it gets a delivery even when manual.
    `held` and `checks` are the trace.

    CONTROL has a channel and a cost like DECIDED: those of the contact that was not made.
    """

    id: str
    campaign: str
    product: str
    category: str
    mode: Mode
    reason: Reason
    fate: Fate | None
    channel: str
    content: str
    expires_at_us: int
    priority: int
    score: float
    shown: bool
    prompt_of: str
    held: dict[str, object]
    checks: tuple[Check, ...]
    value: float = 0.0
    propensity: float = 0.0
    rank: int = 0
    lost_to: str = ""
    group: str = ""
    open_until_us: int = 0
    due_us: int = 0
    deferred_of: str = ""
    attempt: int = 1
    trigger: Trigger | None = None
    day: int = 0
    cost: int = 0
    bulk: bool = False

    @property
    def reserves(self) -> bool:
        """Whether it takes its share of caps, quota and capacity: contacts that are made at once, and, in
        the ghost ledger, those that a control group holds back."""
        at_once = self.mode is Mode.AUTOMATIC or self.shown
        return at_once and self.reason in (Reason.DECIDED, Reason.CONTROL)


class Verdict(msgspec.Struct, frozen=True):
    """Everything that was decided on one event, stored once, returned ever after."""

    key: EventKey
    event_type: str
    occurred_at_us: int
    decided_at_us: int
    revision: str
    decisions: tuple[Decision, ...]


class ContactState(StrEnum):
    """A contact counts toward caps unless it is RELEASED."""

    RESERVED = "reserved"
    COMMITTED = "committed"
    RELEASED = "released"


class Contact(msgspec.Struct, frozen=True):
    """A reservation against the contact budget. What it counts as is fixed when it is made.

    `control`: a would-be contact of a control group, which nobody made (the ghost ledger); it counts for
    that subscriber's own caps like any other. `origin`: the system that made it, "" for this service.
    `open_until_us`: until when its offer stands, if nobody answers. `day` and `cost` as in `Decision`.
    """

    decision_id: str
    campaign: str
    product: str
    category: str
    channel: str
    mode: Mode
    at_us: int
    state: ContactState = ContactState.RESERVED
    control: bool = False
    origin: str = ""
    open_until_us: int = 0
    day: int = 0
    cost: int = 0


class Outcome(msgspec.Struct, frozen=True):
    """What became of a contact, with what it was about. `detail`: further words, as reported."""

    decision_id: str
    kind: OutcomeKind
    at_us: int
    campaign: str
    product: str
    category: str
    detail: str = ""


class Response(msgspec.Struct, frozen=True):
    """Something a subscriber did that may answer a contact.

    An order (`kind` ORDERED): it answers, for each of `campaigns` (campaign -> how far back it looks), the
    newest contact or would-be contact within that time, also one that was released: whether somebody bought
    is compared among all who were chosen. A reply: `campaigns` is empty, and it answers the newest offer on
    `channel` that is still open.
    """

    subscriber_id: str
    at_us: int
    kind: OutcomeKind
    channel: str = ""
    campaigns: dict[str, int] = msgspec.field(default_factory=dict)


class Touch(msgspec.Struct, frozen=True):
    """A service, inquiry, complaint or query for the contact view. `said`: attributes by name."""

    subscriber_id: str
    source: str
    event_id: str
    at_us: int
    kind: TouchKind
    said: dict[str, object]


class Deferral(msgspec.Struct, frozen=True):
    """A candidate that waits to be decided again. `decision_id` is the decision that deferred it; `attempt`
    the number of that decision. One subscriber has one of a campaign at most: a newer one replaces it."""

    subscriber_id: str
    decision_id: str
    campaign: str
    attempt: int
    due_us: int
    expires_us: int
    trigger: Trigger
    settling: bool = False


class Prompt(msgspec.Struct, frozen=True):
    """A manual decision that waits for a person. It has no reservation until it is shown."""

    decision_id: str
    campaign: str
    channel: str
    expires_at_us: int


class OpenPrompt(msgspec.Struct, frozen=True):
    """A prompt that waits on a bulk channel, with what made it a candidate, so that it is decided again.
    `trigger` None: it was decided before the channel was a bulk channel; only a person may show it."""

    subscriber_id: str
    decision_id: str
    campaign: str
    decided_at_us: int
    trigger: Trigger | None


class History(msgspec.Struct):
    """What the ledger knows of one subscriber, as far back as any policy of the rulebase looks.

    Released contacts are left out. Mutable: `decide` is called for one event after the other and what
    each reserves or defers is noted here, so that the next one sees it.
    """

    contacts: list[Contact] = msgspec.field(default_factory=list)
    outcomes: list[Outcome] = msgspec.field(default_factory=list)
    prompts: list[Prompt] = msgspec.field(default_factory=list)
    deferrals: list[Deferral] = msgspec.field(default_factory=list)


class UsageKind(StrEnum):
    """What is counted over all subscribers. By campaign: contacts of a day, contacts in all, their cost in
    all, contacts of a clock hour (UTC). By channel: contacts of a day, by when they were decided; leases of
    a day that were a delivery's first, which nothing takes back."""

    CAMPAIGN_DAY = "campaign_day"
    CAMPAIGN_TOTAL = "campaign_total"
    CAMPAIGN_COST = "campaign_cost"
    CAMPAIGN_HOUR = "campaign_hour"
    CHANNEL_DAY = "channel_day"
    CHANNEL_LEASES = "channel_leases"


class UsageKey(msgspec.Struct, frozen=True, order=True):
    """One counter. `name`: of the campaign or channel. `period`: local day number in the rulebase's zone,
    or hours since 1970; 0 for the whole life."""

    kind: UsageKind
    name: str
    period: int = 0


Usage = dict[UsageKey, int]
"""Counter -> unreleased contacts of this service, or their cost; absent is 0. Control groups use nothing.
`decide` adds what it reserves."""


def usage_of(contact: Contact) -> Usage:
    """What a contact adds to the counters, and takes back when it is released."""
    if contact.control or contact.origin:
        return {}
    return {
        UsageKey(UsageKind.CAMPAIGN_DAY, contact.campaign, contact.day): 1,
        UsageKey(UsageKind.CAMPAIGN_TOTAL, contact.campaign): 1,
        UsageKey(UsageKind.CAMPAIGN_COST, contact.campaign): contact.cost,
        UsageKey(UsageKind.CAMPAIGN_HOUR, contact.campaign, contact.at_us // 3_600_000_000): 1,
        UsageKey(UsageKind.CHANNEL_DAY, contact.channel, contact.day): 1,
    }
