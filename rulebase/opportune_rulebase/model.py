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
from datetime import date
from enum import StrEnum
from zoneinfo import ZoneInfo

from opportune_rulebase.errors import Position, Problem
from opportune_rulebase.expressions import Expression
from opportune_rulebase.policies import Alarm, Conversion, Fate, Mode, Policies, Quota


class ValueType(StrEnum):
    """The types that an attribute may be declared with; the values are the words of the language.

    A DATE is text like ``2026-11-20``. A SUBSCRIBER is the id of another subscriber (the called party),
    whose context expressions read as ``peer.*``. To expressions both are strings.
    """

    INT = "int"
    DOUBLE = "double"
    BOOL = "bool"
    STRING = "string"
    DATE = "date"
    SUBSCRIBER = "subscriber"
    TIMESTAMP = "timestamp"
    STRINGS = "list<string>"
    INTS = "list<int>"
    FLAGS = "map<string, bool>"

    @property
    def in_expressions(self) -> str:
        """The name of the type that expressions see."""
        return "string" if self in (ValueType.DATE, ValueType.SUBSCRIBER) else self.value


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


TOUCH_ATTRIBUTES = (
    *("channel", "business", "succeeded", "topic"),
    *("department", "complaint_type", "content", "handling", "level", "satisfaction"),
)
"""Attributes of events that the contact view shows."""


class TouchKind(StrEnum):
    """What an event is in the contact view: something that the customer and the company said to each other
    apart from marketing."""

    SERVICE = "service"
    INQUIRY = "inquiry"
    COMPLAINT = "complaint"
    QUERY = "query"


@dataclass(frozen=True, slots=True)
class EventType:
    """A kind of event; one attribute name has one type in a rulebase.

    `derived`: the service alone makes such events, of a completed pattern or a trigger that is due;
    collectors cannot send them. They trigger campaigns and feed metrics and patterns like any other.
    `touch`: what it is in the contact view; None: nothing. The view takes the attributes that it knows by
    their names (`TOUCH_ATTRIBUTES`).
    """

    name: str
    label: str
    attributes: Mapping[str, Attribute]
    derived: bool = False
    touch: TouchKind | None = None

    @property
    def peer(self) -> str | None:
        """The attribute that names another subscriber; there is one at most."""
        return next((a.name for a in self.attributes.values() if a.type is ValueType.SUBSCRIBER), None)


@dataclass(frozen=True, slots=True)
class Source:
    """A declared source of data. `events` and `subscriber`: what it sends, by name.

    `max_lateness_us`: how old its events may be when they come in. A source with more than the usual hour
    is **slow**: its events feed metrics in `days` alone; they trigger nothing and take part in no pattern.
    """

    name: str
    label: str
    events: frozenset[str]
    subscriber: frozenset[str]
    max_lateness_us: int


@dataclass(frozen=True, slots=True)
class Channel:
    """A touch point. `needs` is a condition on the terminal (`terminal.mms`); None means any.

    `max_segments`: how many SMS a text may take (GSM 03.38 or UCS-2); None means that it is not counted.
    `per_second` (pace) and `per_day` (capacity, days of the rulebase's zone) hold over all its clients;
    None: no bound. `otherwise`: the fate of what finds no capacity. `cost`: of one contact, in whole units
    of money. `bulk`: its contacts are handed over in interface files, many at a time.
    """

    name: str
    label: str
    mode: Mode
    needs: Expression | None = None
    max_segments: int | None = None
    per_second: int | None = None
    per_day: int | None = None
    otherwise: Fate = Fate.DROP
    cost: int = 0
    bulk: bool = False


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
    sources: Mapping[str, Source] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Tables:
    """Reference tables. `cells`: cell id -> place. `terminals`: 8-digit TAC -> capabilities."""

    cells: Mapping[str, Place]
    terminals: Mapping[str, Mapping[str, object]]


class MetricKind(StrEnum):
    COUNT = "count"
    SUM = "sum"
    MIN = "min"
    MAX = "max"
    LATEST = "latest"
    DISTINCT = "distinct"


class Bound(StrEnum):
    """What the figure of a metric tells while its window is not covered: the true one is at least this,
    at most this, or nothing is known of it."""

    LOWER = "lower"
    UPPER = "upper"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure folded from events. Exactly one of `last_us` and `days` is set.

    `last_us`: exact sliding window over event time, (t - last, t], the current event included.
    `days`: calendar days in the subscriber's time zone, today included.
    `value` is the event attribute (a plain name) that is summed, compared, taken or told apart; None for
    counts. An event without it does not take part. `where` filters events.
    COUNT, SUM and DISTINCT of nothing are 0; MIN, MAX and LATEST of nothing are missing. LATEST is by event
    time. `type` is the CEL type of the figure.
    `bound`: LOWER for counts, distinct counts, maxima and sums of what cannot be negative (declared
    `min: 0`), UPPER for minima. A LATEST that was seen is exact, whatever the coverage.
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
    bound: Bound
    type: str


@dataclass(frozen=True, slots=True)
class Fact:
    """A remembered fact, read as ``fact.NAME``: true for `for_us` after an event of a type in `on` for
    which `when` (None: always) held. Else false, or unknown while that long is not covered.

    `when` reads the event, its place, handset, subscriber and time, and definitions made of these alone,
    so that what is remembered does not depend on the order in which events come. `key` as for metrics.
    """

    name: str
    key: str
    label: str
    on: tuple[str, ...]
    when: Expression | None
    for_us: int


@dataclass(frozen=True, slots=True)
class Step:
    """Events of one of these types for which `where` (None: always) holds.

    `where` reads the event, its place, handset and subscriber, and is evaluated once, when the event comes.
    `link`, in the later steps of a sequence, compares with earlier steps: it reads ``event.*`` of this one,
    ``first.*`` of the event that made the first step, ``previous.*`` of the one before, and nothing else.
    """

    of: tuple[str, ...]
    where: Expression | None = None
    link: Expression | None = None


@dataclass(frozen=True, slots=True)
class CountPattern:
    """The `at_least`-th event of `step` within `within_us`: events at t with t > now - within. With
    `distinct`, that many different values of the attribute. After a completion it starts afresh."""

    name: str
    key: str
    label: str
    step: Step
    distinct: str | None
    at_least: int
    within_us: int


@dataclass(frozen=True, slots=True)
class SequencePattern:
    """All `steps` in order, other events between allowed (relaxed contiguity), from the first to the last
    within `within_us` (t_last - t_first <= within), and no event of `without` between. After a completion
    it starts afresh. `kept`: the event attributes that links read, of this or an earlier step."""

    name: str
    key: str
    label: str
    steps: tuple[Step, ...]
    without: Step | None
    within_us: int
    kept: frozenset[str]


@dataclass(frozen=True, slots=True)
class AbsencePattern:
    """An event of `after`, and then none of `absent` for `for_us`. The first `after` opens the wait; others
    during a wait do not prolong it. A timer completes it."""

    name: str
    key: str
    label: str
    after: Step
    absent: Step
    for_us: int


@dataclass(frozen=True, slots=True)
class DwellPattern:
    """In places of one `category` for `for_us` without being seen elsewhere. Completes once a stay, by a
    timer. Events without a cell say nothing."""

    name: str
    key: str
    label: str
    category: str
    for_us: int


@dataclass(frozen=True, slots=True)
class ChangePattern:
    """The figure of a period of `days` calendar days against the period before it.

    The figure is the number of events of `step`, or the sum of `value`. `rises_to` (>= 1): completes at the
    event that brings this period, today included, to that many times the period before. `falls_to`
    (< 1): completes at the beginning of a day, by a timer, when the period that ended with yesterday came
    to at most that share of the one before. Exactly one of them is set. The earlier figure must be at least
    `at_least` (> 0), and both periods covered. After a completion it rests for `days` days.
    """

    name: str
    key: str
    label: str
    step: Step
    value: str | None
    days: int
    rises_to: float | None
    falls_to: float | None
    at_least: float


Pattern = CountPattern | SequencePattern | AbsencePattern | DwellPattern | ChangePattern
"""What is recognised over time, within one subscriber, by event time. Each completion gives exactly one
derived event, whose type has the pattern's name. `key` as for metrics."""


@dataclass(frozen=True, slots=True)
class DateTrigger:
    """Due on the day `offset_days` after (negative: before) the date in `sub.<attribute>`, at `at_minute`
    of the subscriber's local day. `yearly`: on that day of every year; 29 February counts as the 28th in
    other years. `name` is that of the event type it gives."""

    name: str
    attribute: str
    offset_days: int
    yearly: bool
    at_minute: int


@dataclass(frozen=True, slots=True)
class ScheduleTrigger:
    """Due at `at_minute` of every local day that fits: `weekdays` (0 = Monday), `month_days` (1 to 31; a
    day that a month does not have counts as its last), `on_date`; what is empty does not restrict."""

    name: str
    weekdays: frozenset[int]
    month_days: frozenset[int]
    on_date: date | None
    at_minute: int


Trigger = DateTrigger | ScheduleTrigger


@dataclass(frozen=True, slots=True)
class Calendar:
    """Workdays and holidays. Without a country: Monday to Friday are workdays, and there are no holidays.

    `holidays`: days off with their names. `workdays`: days at weekends that are worked (make-up days).
    Known from `first` to `last`, both included; outside, what the calendar says is unknown. None: no limit.
    """

    country: str = ""
    holidays: Mapping[date, str] = field(default_factory=dict)
    workdays: frozenset[date] = frozenset()
    first: date | None = None
    last: date | None = None

    def is_holiday(self, day: date) -> bool | None:
        """None outside the years that are known."""
        return day in self.holidays if self._knows(day) else None

    def is_workday(self, day: date) -> bool | None:
        """None outside the years that are known."""
        if not self._knows(day):
            return None
        return day in self.workdays or (day.weekday() < 5 and day not in self.holidays)

    def _knows(self, day: date) -> bool:
        return (self.first is None or day >= self.first) and (self.last is None or day <= self.last)


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
class ImportedBehaviour:
    """A static behaviour that was found elsewhere, by data mining: imported as the context attribute
    ``behaviour.NAME`` (a bool). `valid_for_us` after its as-of time it is unknown again. `name` is
    qualified."""

    name: str
    label: str
    valid_for_us: int


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

    `on`: event types that trigger it, those of patterns and triggers among them. `when`: the moment (None:
    any). `target`: who may get it, part of eligibility (None: anyone). `value` and `propensity` order
    campaigns of equal `priority`.
    `valid_to_us` is exclusive. `content` has a template for each channel of the campaign.
    `branches`: values of `sub.branch` it serves; empty means all. `exempt`: names of caps that do not
    bind it.
    `group`: of an exclusive group only one campaign is decided at a time; "" for none. `control_share` of
    `SHARES` subscribers are its own control group; `control_exempt`: no control group holds it back, as
    for service messages. `open_for_us`: how long its offer stands after the contact (one story meanwhile).
    `baseline`: the campaign that offers the same by plain mass sending, to compare with; "" for none.
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
    group: str = ""
    control_share: int = 0
    control_exempt: bool = False
    quota: Quota | None = None
    conversion: Conversion | None = None
    alarm: Alarm | None = None
    open_for_us: int = 0
    baseline: str = ""


@dataclass(frozen=True, slots=True)
class Rulebase:
    """One immutable revision of the trigger rule base.

    `revision` is the SHA-256 (hex) of the files it was loaded from, so equal text is an equal
    revision. `definitions` is in dependency order, keyed by qualified name; so is `patterns`, keyed by
    plain name: each comes after those whose events it takes in.
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
    facts: Mapping[str, Fact] = field(default_factory=dict)
    imported: Mapping[str, ImportedBehaviour] = field(default_factory=dict)
    patterns: Mapping[str, Pattern] = field(default_factory=dict)
    triggers: Mapping[str, Trigger] = field(default_factory=dict)
    calendar: Calendar = field(default_factory=Calendar)
    warnings: tuple[Problem, ...] = ()
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)
