"""The immutable rulebase: what a loaded revision says, and nothing about how it is matched.

Every class here is a frozen value. A `Rulebase` is built by `load` (which reports every error at
once and never returns half a rulebase), is shared freely between threads, and never changes; a hot
reload makes another one.

Units, everywhere in Opportune: an instant is an ``int`` of microseconds since 1970-01-01T00:00Z and
its name ends in ``_us``; so is a duration. Counts and money are ``int``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from zoneinfo import ZoneInfo

from opportune_rulebase.errors import Position, Problem
from opportune_rulebase.expressions import Expression


class ValueType(StrEnum):
    """The types that an attribute may be declared with; the values are the words of the language."""

    INT = "int"
    DOUBLE = "double"
    BOOL = "bool"
    STRING = "string"
    TIMESTAMP = "timestamp"
    STRINGS = "list<string>"
    INTS = "list<int>"
    FLAGS = "map<string, bool>"


@dataclass(frozen=True, slots=True)
class Attribute:
    """A declared attribute of an event type or of the subscriber context.

    `values` closes a string attribute to a list; `minimum` bounds a number from below (a value
    outside is bad input). `default` stands in for an absent context value; None means absent stays
    unknown.
    """

    name: str
    type: ValueType
    label: str = ""
    values: tuple[str, ...] | None = None
    minimum: int | float | None = None
    default: object = None


@dataclass(frozen=True, slots=True)
class EventType:
    """A kind of event that collectors may send; one attribute name has one type in a rulebase."""

    name: str
    label: str
    attributes: Mapping[str, Attribute]


class Mode(StrEnum):
    """Who carries an offer: a channel client at once, or a person who is prompted."""

    AUTOMATIC = "automatic"
    MANUAL = "manual"


@dataclass(frozen=True, slots=True)
class Channel:
    """A touch point. `needs` is a condition on the terminal (`terminal.mms`); None means any."""

    name: str
    label: str
    mode: Mode
    needs: Expression | None = None


@dataclass(frozen=True, slots=True)
class Product:
    """What is offered. `requires` / `excludes` name products that must / must not be held already."""

    name: str
    label: str
    category: str
    needs: Expression | None = None
    requires: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Place:
    """Where a cell is: a name for people and categories for rules (station, airport, mall ...)."""

    name: str
    label: str
    categories: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """All that can be talked about, typed. `terminal` are the columns of the terminal table."""

    events: Mapping[str, EventType]
    subscriber: Mapping[str, Attribute]
    terminal: Mapping[str, Attribute]
    channels: Mapping[str, Channel]
    products: Mapping[str, Product]


@dataclass(frozen=True, slots=True)
class Tables:
    """Reference tables. `cells`: cell id -> place. `terminals`: 8-digit TAC -> capabilities."""

    cells: Mapping[str, Place]
    terminals: Mapping[str, Mapping[str, object]]


class MetricKind(StrEnum):
    COUNT = "count"
    SUM = "sum"


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure folded from events. Exactly one of `last_us` and `days` is set.

    `last_us`: exact sliding window over event time, (t - last, t], the current event included.
    `days`: calendar days in the subscriber's time zone, today included.
    `value` is the summed event attribute (a plain name), None for counts. `where` filters events.
    `non_negative`: every summed value is known to be >= 0 (the attribute is declared `min: 0`, or
    this is a count), so that a partly covered window still gives a lower bound.
    `key` is a hash of the definition's content: state is kept under it, so that a reload keeps the
    state of an unchanged definition and a changed definition starts uncovered.
    """

    name: str
    key: str
    label: str
    kind: MetricKind
    of: tuple[str, ...]
    value: str | None
    where: Expression | None
    last_us: int | None
    days: int | None
    non_negative: bool


class DefinitionKind(StrEnum):
    BEHAVIOUR = "behaviour"
    SCENE = "scene"


@dataclass(frozen=True, slots=True)
class Definition:
    """A named condition: a static behaviour or a scene. `name` is qualified (`scene.idle_evening`).

    Definitions may read each other but not in a circle; `Rulebase.definitions` lists each one after
    all that it reads.
    """

    name: str
    kind: DefinitionKind
    label: str
    when: Expression


@dataclass(frozen=True, slots=True)
class Template:
    """Content with checked variables: literal text and qualified names, in order.

    `parts` alternates freely: a `str` is literal text, an `Expression` is a variable.
    """

    text: str
    position: Position
    parts: tuple[str | Expression, ...]


@dataclass(frozen=True, slots=True)
class Campaign:
    """Product + trigger + target + content + channels + limits.

    `on`: event types that trigger it. `when`: the moment (None: any). `target`: who may get it, part
    of eligibility (None: anyone). `value` and `propensity` order campaigns of equal `priority`.
    `valid_to_us` is exclusive. `content` has a template for each channel of the campaign.
    `branches`: values of `sub.branch` it serves; empty means all. `exempt`: names of caps that do not
    bind it.
    """

    name: str
    label: str
    product: str
    category: str
    on: tuple[str, ...]
    when: Expression | None
    target: Expression | None
    mode: Mode
    channels: tuple[str, ...]
    content: Mapping[str, Template]
    priority: int
    value: float
    propensity: Expression | None
    valid_from_us: int | None
    valid_to_us: int | None
    fresh_for_us: int
    expires_after_us: int
    allow_unknown: bool
    exempt: frozenset[str]
    branches: frozenset[str]
    position: Position


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
    contacts count toward it. `limit` 0 blocks.
    """

    name: str
    label: str
    limit: int
    rolling_us: int | None
    calendar: CalendarPeriod | None
    per: frozenset[Dimension]
    applies_to: Selector
    counts: Selector


@dataclass(frozen=True, slots=True)
class QuietHours:
    """No contact between `start_minute` and `end_minute` of the subscriber's local day.

    Minutes since local midnight; the end is exclusive; start > end crosses midnight and then belongs
    to the day on which it starts. `weekdays` (0 = Monday) are the days on which a window starts.
    """

    name: str
    label: str
    start_minute: int
    end_minute: int
    weekdays: frozenset[int]
    applies_to: Selector


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


@dataclass(frozen=True, slots=True)
class Policies:
    """The contact policies of a rulebase.

    `opt_in` names channels and categories for which absent consent means "no" (as
    ``channel/NAME`` or ``category/NAME``); for all others absent means "yes".
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


@dataclass(frozen=True, slots=True)
class Rulebase:
    """One immutable revision of the trigger rule base.

    `revision` is the SHA-256 (hex) of the files it was loaded from, so equal text is an equal
    revision. `definitions` is in dependency order, keyed by qualified name.
    """

    name: str
    label: str
    revision: str
    time_zone: ZoneInfo
    vocabulary: Vocabulary
    tables: Tables
    metrics: Mapping[str, Metric]
    definitions: Mapping[str, Definition]
    campaigns: Mapping[str, Campaign]
    policies: Policies
    warnings: tuple[Problem, ...] = ()
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)
