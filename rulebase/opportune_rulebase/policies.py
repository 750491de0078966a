"""The contact policies of a rulebase: what protects the customer, as values.

What they do to a decision is in the service's decision core; here is only what they say. Units as in
`model`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from opportune_rulebase.expressions import Expression


class Mode(StrEnum):
    """Who carries an offer: a channel client at once, or a person who is prompted."""

    AUTOMATIC = "automatic"
    MANUAL = "manual"


class Fate(StrEnum):
    """What happens to a candidate that a policy stops.

    DROP: it ends here. DEFER: it is decided again when the policy lets it pass. NEXT: it ends here and the
    next candidate of the arbitration moves up into its place.
    """

    DROP = "drop"
    DEFER = "defer"
    NEXT = "next"


@dataclass(frozen=True, slots=True)
class Selector:
    """Which contacts a policy means. An empty set means "any"; all given sets must match."""

    campaigns: frozenset[str] = frozenset()
    products: frozenset[str] = frozenset()
    categories: frozenset[str] = frozenset()
    channels: frozenset[str] = frozenset()
    modes: frozenset[Mode] = frozenset()

    def selects(
        self, *, campaign: str, product: str, category: str, channel: str, mode: Mode | str
    ) -> bool:
        """Whether a contact with these properties is meant."""
        return (
            (not self.campaigns or campaign in self.campaigns)
            and (not self.products or product in self.products)
            and (not self.categories or category in self.categories)
            and (not self.channels or channel in self.channels)
            and (not self.modes or mode in self.modes)
        )


class CalendarPeriod(StrEnum):
    """A calendar period in the subscriber's time zone; a week starts on Monday."""

    DAY = "day"
    WEEK = "week"
    MONTH = "month"


class Dimension(StrEnum):
    """What a cap may count separately, besides the subscriber (always counted separately)."""

    CHANNEL = "channel"
    CATEGORY = "category"
    PRODUCT = "product"
    CAMPAIGN = "campaign"
    MODE = "mode"


@dataclass(frozen=True, slots=True)
class Cap:
    """At most `limit` contacts of a subscriber in a period; the decision at hand is included.

    Exactly one of `rolling_us` and `calendar` is set. `per` splits the count: `{CHANNEL}` means "on
    the same channel as this decision". `applies_to` says which decisions obey the cap, `counts` which
    contacts count toward it. `limit` 0 blocks. The last `headroom` contacts are only for campaigns of
    priority `headroom_priority` or more. `otherwise`: the fate of what it stops.
    """

    name: str
    label: str
    limit: int
    rolling_us: int | None
    calendar: CalendarPeriod | None
    per: frozenset[Dimension]
    applies_to: Selector
    counts: Selector
    headroom: int = 0
    headroom_priority: int = 0
    otherwise: Fate = Fate.DROP


class DayKind(StrEnum):
    """What the rulebase's calendar says of a day. A workday is also a weekday that is no holiday, or a
    weekend day that is worked; a holiday is a day with a name in the calendar."""

    WORKDAY = "workday"
    HOLIDAY = "holiday"


@dataclass(frozen=True, slots=True)
class QuietHours:
    """No contact between `start_minute` and `end_minute` of the subscriber's local day.

    Minutes since local midnight; the end is exclusive; start > end crosses midnight and then belongs
    to the day on which it starts. It starts on `weekdays` (0 = Monday) and on days of these `kinds`; a day
    of which the calendar does not know the kind counts as one (in doubt, it is quiet). `otherwise`: the
    fate of what it stops.
    """

    name: str
    label: str
    start_minute: int
    end_minute: int
    weekdays: frozenset[int]
    applies_to: Selector
    kinds: frozenset[DayKind] = frozenset()
    otherwise: Fate = Fate.DROP


class OutcomeKind(StrEnum):
    """What became of a contact, as channels and people report it."""

    DELIVERED = "delivered"
    OPENED = "opened"
    INQUIRED = "inquired"
    ACCEPTED = "accepted"
    REFUSED = "refused"
    COMPLAINED = "complained"
    ORDERED = "ordered"
    LATER = "later"
    NOT_OFFERED = "not_offered"


class CoolDownScope(StrEnum):
    """What to stay away from after the outcome: the same campaign, product, category, or everything."""

    CAMPAIGN = "campaign"
    PRODUCT = "product"
    CATEGORY = "category"
    ANY = "any"


@dataclass(frozen=True, slots=True)
class CoolDown:
    """After one of `outcomes`, stay away for `for_us`."""

    name: str
    label: str
    outcomes: frozenset[OutcomeKind]
    for_us: int
    scope: CoolDownScope


@dataclass(frozen=True, slots=True)
class Suppression:
    """Whom to leave alone. `when` true **or unknown** suppresses (fail closed)."""

    name: str
    label: str
    when: Expression
    applies_to: Selector


class Fit(StrEnum):
    """How well a channel suits a product: preferred, fits, does not fit."""

    AA = "AA"
    BB = "BB"
    CC = "CC"


@dataclass(frozen=True, slots=True)
class Quota:
    """How much of a campaign there may be, over all subscribers. None: no bound.

    `per_day`: contacts a day of the rulebase's time zone. `total`: contacts in its whole life. `budget`:
    what its contacts may cost together, in the unit of `Channel.cost`. Control groups use none of it.
    """

    per_day: int | None = None
    total: int | None = None
    budget: int | None = None
    otherwise: Fate = Fate.DROP


@dataclass(frozen=True, slots=True)
class Alarm:
    """When a campaign pauses itself; an operator resumes it. None: never for that reason.

    `complaint_rate`: more than this share of its contacts of the last `within_us` were answered by a
    complaint, of at least `at_least` contacts. `per_hour`: more contacts than that were decided in one
    clock hour.
    """

    complaint_rate: float | None = None
    at_least: int = 50
    within_us: int = 86_400_000_000
    per_hour: int | None = None


@dataclass(frozen=True, slots=True)
class Conversion:
    """What counts as success: an event of type `event` for which `when` (None: always) holds, at most
    `within_us` after the contact; for the control group, after the would-be contact."""

    event: str
    when: Expression | None
    within_us: int


SHARES = 10_000
"""Shares of subscribers are whole numbers of so many."""


@dataclass(frozen=True, slots=True)
class Control:
    """The global control group: `share` of `SHARES` subscribers, whom no campaign contacts that is not
    `control_exempt`. `salt` makes the draw; another salt draws others, for the groups of campaigns too."""

    share: int = 0
    salt: str = ""


@dataclass(frozen=True, slots=True)
class Preference:
    """Which channel a subscriber likes better, among those that fit equally well.

    With `from_contacts` or more contacts in the last `within_us`: the channel with the greatest share of
    them first, those that were complained of last. Else by `scores` (channel -> expression, higher is
    better, unknown is none). What these leave open: the order of the subscriber's segment, which is what
    the expression `segment` gives; then that of the campaign.
    """

    from_contacts: int = 10
    within_us: int = 180 * 86_400_000_000
    scores: Mapping[str, Expression] = field(default_factory=dict)
    segment: Expression | None = None
    segments: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


OPT_OUT_WORDS = frozenset({"stop", "td", "t", "退订", "unsubscribe", "0000"})
"""Words by which a customer opts out whatever the rulebase says. Compared as `Replies` says."""


MAX_REPLY = 500
"""Characters of an answer that may be a word. Longer ones are letters to somebody, and slow to look at."""

_UNSEEN = frozenset("\u034f\u115f\u1160\u17b4\u17b5").union(
    map(chr, (*range(0x180B, 0x1810), *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)))
)
"""Letters and marks that nobody sees, such as the selector after the heart in "STOP \u2764\ufe0f"."""


def reply_word(text: str) -> str:
    """What a customer's answer is compared by: without case, width, punctuation, symbols and extra space.
    Of one that is longer than MAX_REPLY, nothing. The words of `Replies` and `OPT_OUT_WORDS` are such;
    taking it of one again changes nothing."""
    if len(text) > MAX_REPLY:
        return ""
    plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    # What is neither letter, digit, mark nor space may stand anywhere: "T.D.", "STOP!", an emoji after it.
    kept = "".join(each for each in plain if each.isspace() or _is_said(each))
    # A letter and its mark that something stood between are one now.
    word = " ".join(unicodedata.normalize("NFC", kept).split())
    return word if len(word) <= MAX_REPLY else ""


def _is_said(each: str) -> bool:
    category = unicodedata.category(each)
    # Me: what is drawn around a digit to make a key of it.
    return category[0] in "LMN" and category != "Me" and each not in _UNSEEN


@dataclass(frozen=True, slots=True)
class Replies:
    """What customers' answers mean: events of type `event`, whose attribute `text` is what they wrote and
    `channel` (None: every such event is about `on_channel`) where.

    Texts are compared whole, by their `reply_word`, which all words here are. `opt_out` is taken
    besides `OPT_OUT_WORDS`. `accepted` and `refused` answer the newest open offer on the channel. An
    opt-out refuses the channel for good.
    """

    event: str
    text: str
    channel: str | None
    on_channel: str
    accepted: frozenset[str]
    refused: frozenset[str]
    opt_out: frozenset[str]


@dataclass(frozen=True, slots=True)
class Policies:
    """The contact policies of a rulebase.

    `opt_in` names channels and categories for which absent consent means "no" (as
    ``channel/NAME`` or ``category/NAME``); for all others absent means "yes".
    `settle_us`: how long automatic candidates wait for better ones before they are arbitrated; 0: not.
    `jitter_us`: over how long what is deferred to the end of quiet hours, or to another day, is spread.
    `no_channel`: the fate (DROP or NEXT) of a winner that no channel may carry. `fit`: product -> channel
    -> fit; BB where nothing is said. `alarm`: that of campaigns without one of their own.
    """

    caps: tuple[Cap, ...] = ()
    quiet_hours: tuple[QuietHours, ...] = ()
    cool_downs: tuple[CoolDown, ...] = ()
    suppressions: tuple[Suppression, ...] = ()
    opt_in: frozenset[str] = frozenset()
    max_automatic: int = 1
    max_prompts: int = 3
    default_propensity: float = 0.1
    normal_status: frozenset[str] = frozenset({"active"})
    settle_us: int = 0
    jitter_us: int = 30 * 60_000_000
    no_channel: Fate = Fate.DROP
    control: Control = Control()
    fit: Mapping[str, Mapping[str, Fit]] = field(default_factory=dict)
    preference: Preference = Preference()
    alarm: Alarm = Alarm()
    replies: Replies | None = None
