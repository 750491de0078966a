"""Moments, decisions and verdicts: what the strict path works on and leaves behind."""

from __future__ import annotations

from enum import StrEnum

import msgspec
from opportune_rulebase.model import Mode, OutcomeKind


class Reason(StrEnum):
    """Why a candidate was or was not decided, from one closed list, in the order of the checks."""

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


class Fate(StrEnum):
    """What happens to a candidate that did not pass. Only DROP is given so far."""

    DROP = "drop"
    DEFER = "defer"
    NEXT = "next"


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


class Candidate(msgspec.Struct, frozen=True):
    """A campaign whose trigger and `when` hold, with every expression that policies need, evaluated.

    `target`: the campaign's target (None: unknown). `terminal_ok`: channel -> whether the handset can
    take the product there. `suppressed_by`: suppressions that hold or are unknown. `propensity` is None
    when unknown. `content`: channel -> rendered text, None where a variable is unknown. `held`: the
    definitions and values that made it match, for people. `prompt_of`: the earlier decision whose open
    prompt this candidate re-decides, empty for a fresh match.
    """

    campaign: str
    target: bool | None
    terminal_ok: dict[str, bool | None]
    suppressed_by: tuple[str, ...]
    propensity: float | None
    content: dict[str, str | None]
    held: dict[str, object]
    prompt_of: str = ""


class Moment(msgspec.Struct, frozen=True):
    """One event with candidates, joined with what is known: all that `decide` needs but the history.

    `now_us` is the decision time: the service's clock when the batch was taken up (in replay, the
    event's own time). `touch_point` is the manual channel at which the subscriber is right now, empty
    outside `advise`.
    """

    key: EventKey
    event_type: str
    occurred_at_us: int
    now_us: int
    profile: Profile
    candidates: tuple[Candidate, ...]
    touch_point: str = ""


class Check(msgspec.Struct, frozen=True):
    """One step of a decision, for people: which policy, whether it let the candidate pass, and why."""

    policy: str
    passed: bool
    detail: str


class Decision(msgspec.Struct, frozen=True):
    """The answer for one candidate. `reason` DECIDED means the offer goes out on `channel`.

    `id` is a stable hash of the event's key and the campaign. `score` is value times propensity.
    `shown`: a manual prompt that is shown to a person at this very moment (it reserves; a prompt that
    waits does not). `expires_at_us`: the offer must not reach the customer after it. `held` and `checks`
    are the trace.
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
    """A reservation against the contact budget. What it counts as is fixed when it is made."""

    decision_id: str
    campaign: str
    product: str
    category: str
    channel: str
    mode: Mode
    at_us: int
    state: ContactState = ContactState.RESERVED


class Outcome(msgspec.Struct, frozen=True):
    """What became of a contact, with what it was about."""

    decision_id: str
    kind: OutcomeKind
    at_us: int
    campaign: str
    product: str
    category: str


class Prompt(msgspec.Struct, frozen=True):
    """A manual decision that waits for a person. It has no reservation until it is shown."""

    decision_id: str
    campaign: str
    channel: str
    expires_at_us: int


class History(msgspec.Struct):
    """What the ledger knows of one subscriber, as far back as any policy of the rulebase looks.

    Released contacts are left out. Mutable: `decide` is called for one event after the other and what
    each reserves is added here, so that the next one sees it.
    """

    contacts: list[Contact] = msgspec.field(default_factory=list)
    outcomes: list[Outcome] = msgspec.field(default_factory=list)
    prompts: list[Prompt] = msgspec.field(default_factory=list)
