"""Step 1: check events and context records against the vocabulary, one by one."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Set
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import Annotated, Any, Literal, TypedDict

import msgspec
from opportune_rulebase.model import Attribute, Bound, EventType, Metric, ValueType, Vocabulary

from opportune_service.core.events import (
    MAX_ATTRIBUTES_BYTES,
    MAX_LATENESS_US,
    MAX_SKEW_US,
    Encoding,
    Event,
    Rejection,
    RejectionReason,
)
from opportune_service.core.fold import seedable

_INT64 = msgspec.Meta(ge=-(2**63), le=2**63 - 1)
_MAX_DOUBLE = sys.float_info.max
"""What is beyond it is infinite or no number at all, and one of those would spoil every sum."""

_FIRST, _LAST = datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)
"""Instants between them have a date in every time zone."""

_TOO_LARGE = f"attributes take more than {MAX_ATTRIBUTES_BYTES} bytes; send less"
_LAST_US = 221_845_392_000_000_000
"""The year 9000: far enough, and no time zone leads out of what the calendar of Python holds."""

_DIGITS = re.compile(r"\d{5,}")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_SENDABLE = frozenset({"handset_changed"})
"""Derived event types that collectors may send too: some networks tell of a new handset themselves."""
_ATTRIBUTE_TYPES: Mapping[ValueType, object] = {
    ValueType.INT: Annotated[int, _INT64],
    ValueType.DOUBLE: Annotated[float, msgspec.Meta(ge=-_MAX_DOUBLE, le=_MAX_DOUBLE)],
    ValueType.BOOL: bool,
    ValueType.STRING: str,
    ValueType.DATE: str,
    ValueType.SUBSCRIBER: str,
    ValueType.TIMESTAMP: Annotated[datetime, msgspec.Meta(tz=True)],
    ValueType.STRINGS: list[str],
    ValueType.INTS: list[Annotated[int, _INT64]],
    ValueType.FLAGS: dict[str, bool],
}
_JSON = Encoding.JSON  # looked up once: of an enumeration it takes as long as to read an attribute
_decode_json = msgspec.json.Decoder(dict[str, Any]).decode
_decode_msgpack = msgspec.msgpack.Decoder(dict[str, Any]).decode
_names_json = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_names_msgpack = msgspec.msgpack.Decoder(dict[str, msgspec.Raw]).decode

Attributes = dict[str, Any]
"""Declared attributes by name, of their declared types; null and undeclared ones are left out."""


def mask(text: str) -> str:
    """`text` with every run of five or more digits blotted out, so that no number gets into a message."""
    return _DIGITS.sub("*****", text)


def is_subscriber_id(text: str) -> bool:
    """Whether `text` is an MSISDN in the form used throughout: 5 to 15 digits, no plus sign."""
    return 5 <= len(text) <= 15 and text.isascii() and text.isdigit()


def is_date(text: str) -> bool:
    """Whether `text` is a date as DATE attributes have it: YYYY-MM-DD, and in the calendar."""
    try:
        return _DATE.fullmatch(text) is not None and date.fromisoformat(text) is not None
    except ValueError:
        return False


def _type_of(attribute: Attribute) -> Any:
    if attribute.values is not None:
        return Literal[attribute.values]
    if attribute.minimum is not None:
        bound = attribute.minimum
        if attribute.type is ValueType.INT:
            return Annotated[int, msgspec.Meta(ge=int(bound), le=2**63 - 1)]
        return Annotated[float, msgspec.Meta(ge=bound, le=_MAX_DOUBLE)]
    return _ATTRIBUTE_TYPES[attribute.type]


# A TypedDict made from the vocabulary: a type checker can know nothing of it.
_make_typed_dict: Any = TypedDict


@lru_cache(maxsize=4_096)
def _shape(name: str, types: tuple[tuple[str, Any], ...]) -> Any:
    """A class goes in circles and takes kilobytes: reloads share those of what did not change."""
    return _make_typed_dict(name, dict(types), total=False)


MAX_IGNORED_NAMES = 1_000
"""Distinct undeclared names that are counted one by one; a sender cannot make the service grow by more."""


class IgnoredAttributes:
    """Counts of undeclared attributes, by ``event_type.name`` or ``subscriber.name``, and in all."""

    def __init__(self) -> None:
        self.total = 0
        self.by_name: Counter[str] = Counter()

    def add(self, kind: str, names: Set[str]) -> None:
        self.total += len(names)
        for name in names:
            full = f"{kind}.{mask(name[:64])}"
            if full in self.by_name or len(self.by_name) < MAX_IGNORED_NAMES:
                self.by_name[full] += 1


class AttributesError(ValueError):
    """Attributes that do not fit the vocabulary; the message holds no numbers of people."""


class AttributeReader:
    """Decodes and checks a map of attributes against their declarations.

    Undeclared attributes are left out and counted in `ignored`; a null is the same as absent.
    """

    def __init__(self, name: str, attributes: Mapping[str, Attribute], ignored: IgnoredAttributes) -> None:
        self._name = name
        self._ignored = ignored
        self._declared = frozenset(attributes)
        self._special = [a for a in attributes.values() if a.type in _CHECKS]
        # Decoding straight into the shape is seven times as fast as checking a decoded map.
        self._shape = _shape(name, tuple((a.name, _type_of(a)) for a in attributes.values()))
        self._read_json = msgspec.json.Decoder(self._shape).decode
        self._read_msgpack = msgspec.msgpack.Decoder(self._shape).decode

    def read(self, data: bytes, encoding: Encoding) -> Attributes:
        """The declared attributes. Raises `AttributesError` on garbage or a value of another type."""
        if not data:
            return {}
        is_json = encoding is _JSON
        try:
            attributes: Attributes = self._read_json(data) if is_json else self._read_msgpack(data)
            # No more colons than attributes, as nearly always: there are no other names.
            if not (is_json and data.count(b":") == len(attributes)):
                names = _names_json(data) if is_json else _names_msgpack(data)
                if len(names) != len(attributes):
                    self._ignored.add(self._name, names.keys() - self._declared)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            # Perhaps a null only; the slow way tells, and says what is wrong otherwise.
            return self.check(decode_attributes(data, encoding))
        return self._special_checked(attributes) if self._special else attributes

    def check(self, raw: Mapping[str, object], *, keep_null: bool = False) -> Attributes:
        """The same for a map that is decoded already; `keep_null` for a patch, which erases by nulls."""
        self._ignored.add(self._name, raw.keys() - self._declared)
        given = {name: value for name, value in raw.items() if value is not None}
        try:
            checked: Attributes = msgspec.convert(given, self._shape)
        except (msgspec.ValidationError, RecursionError) as error:
            raise AttributesError(mask(str(error))) from None
        if keep_null:
            checked |= {name: None for name in raw.keys() & self._declared if raw[name] is None}
        return self._special_checked(checked)

    def _special_checked(self, attributes: Attributes) -> Attributes:
        """Those whose values a type alone does not tell, as the log and the snapshots give them back."""
        for attribute in self._special:
            value = attributes.get(attribute.name)
            if value is not None:
                attributes[attribute.name] = _CHECKS[attribute.type](attribute.name, value)
        return attributes


def _instant(name: str, value: datetime) -> datetime:
    if not _FIRST <= value <= _LAST:
        raise AttributesError(f"{name} must lie between 0001-01-02 and 9999-12-30")
    return value.astimezone(UTC)  # in whatever zone it was written


def _date(name: str, value: str) -> str:
    if not is_date(value):
        raise AttributesError(f"{name} must be a date written as YYYY-MM-DD")
    return value


def _subscriber(name: str, value: str) -> str:
    if not is_subscriber_id(value):
        raise AttributesError(f"{name} must be 5 to 15 digits without a plus sign")
    return value


_CHECKS: Mapping[ValueType, Callable[[str, Any], object]] = {
    ValueType.TIMESTAMP: _instant,
    ValueType.DATE: _date,
    ValueType.SUBSCRIBER: _subscriber,
}


def decode_attributes(data: bytes, encoding: Encoding) -> dict[str, Any]:
    """Any map of attributes. Raises `AttributesError` on garbage."""
    try:
        return _decode_json(data) if encoding is _JSON else _decode_msgpack(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise AttributesError(mask(str(error))) from None


class Admission:
    """Step 1 for one revision: what may enter, and the attributes as rules will read them.

    `metrics`: those of the revision, by name. Imports may seed some of them, as ``metric.NAME``.
    """

    def __init__(self, vocabulary: Vocabulary, metrics: Mapping[str, Metric] | None = None) -> None:
        self.ignored = IgnoredAttributes()
        self._events = vocabulary.events
        self._readers = {
            name: AttributeReader(name, event_type.attributes, self.ignored)
            for name, event_type in vocabulary.events.items()
            if not event_type.derived or name in _SENDABLE
        }
        self._metrics = {f"metric.{name}": metric for name, metric in (metrics or {}).items()}
        self._context = AttributeReader("subscriber", vocabulary.subscriber, self.ignored)

    def admit(
        self, event: Event, index: int, now_us: int, lateness_us: int = MAX_LATENESS_US
    ) -> Attributes | Rejection:
        """The event's attributes, or why it is rejected. `lateness_us`: how old an event of its source may
        be. Never raises, whatever the event holds."""
        reader = self._readers.get(event.type)
        fault = _fault(event, now_us, lateness_us)
        if reader is None or fault is not None:
            reason, message = fault or _unknown_type(event.type, self._events)
            return Rejection(index, mask(event.id), reason, message)
        try:
            return reader.read(event.attributes, event.encoding)
        except AttributesError as error:
            return Rejection(index, mask(event.id), RejectionReason.BAD_ATTRIBUTES, str(error))

    def admit_context(
        self, data: bytes, encoding: Encoding, more: Mapping[str, object] | None = None
    ) -> Attributes:
        """Context attributes of one subscriber, nulls kept; imported behaviours as ``behaviour.NAME``, and
        seeds of metrics as ``metric.NAME``, each a map from local dates to figures. `more`: such that are
        not among the encoded ones, which they outdo. Raises `AttributesError`."""
        if len(data) > MAX_ATTRIBUTES_BYTES:
            raise AttributesError(_TOO_LARGE)
        raw = (decode_attributes(data, encoding) if data else {}) | dict(more or {})
        seeds = {name: raw.pop(name) for name in raw.keys() & self._metrics.keys()}
        checked = self._context.check(raw, keep_null=True)
        for name, seed in seeds.items():
            checked[name] = None if seed is None else _seed(name, seed, self._metrics[name])
        return checked


def _unknown_type(name: str, declared: Mapping[str, EventType]) -> tuple[RejectionReason, str]:
    if name in declared:
        return (
            RejectionReason.UNKNOWN_TYPE,
            f"the service itself makes events of type {name!r}, of a pattern or a trigger; "
            "send the events that they are made of",
        )
    return (
        RejectionReason.UNKNOWN_TYPE,
        f"event type {mask(name[:64])!r} is not declared; "
        "declare it in vocabulary.yaml or mend the collector",
    )


def _seed(name: str, seed: object, metric: Metric) -> dict[str, int | float]:
    """What an import says that days of a metric came to, checked. Raises `AttributesError`."""
    if not seedable(metric):
        raise AttributesError(f"{name} cannot be seeded: only counts and sums over days can")
    if not isinstance(seed, dict) or not all(isinstance(day, str) and is_date(day) for day in seed):
        raise AttributesError(f"{name} must map dates written as YYYY-MM-DD to figures")
    lowest = 0 if metric.bound is Bound.LOWER else -_MAX_DOUBLE
    shape = float if metric.type == "double" else Annotated[int, _INT64]
    try:
        figures = msgspec.convert(seed, dict[str, shape])  # type: ignore[valid-type]  # made at run time
    except msgspec.ValidationError as error:
        raise AttributesError(mask(f"{name}: {error}")) from None
    if not all(lowest <= figure <= _MAX_DOUBLE for figure in figures.values()):
        raise AttributesError(f"{name} must have figures that are not negative and not infinite")
    return figures


def _fault(event: Event, now_us: int, lateness_us: int) -> tuple[RejectionReason, str] | None:
    """What is wrong with an event, whatever its type."""
    if not is_subscriber_id(event.subscriber_id):
        return RejectionReason.BAD_SUBSCRIBER_ID, "subscriber_id must be 5 to 15 digits without a plus sign"
    if not 0 < len(event.id) <= 200:
        return RejectionReason.BAD_EVENT_ID, "id must have 1 to 200 characters, unique in its source"
    if "\0" in event.id:  # not every store can keep it
        return RejectionReason.BAD_EVENT_ID, "id must not hold the character NUL"
    imei = event.imei
    if imei and not (14 <= len(imei) <= 16 and imei.isascii() and imei.isdigit()):
        return RejectionReason.BAD_ATTRIBUTES, "imei must be empty or 14 to 16 digits"
    if len(event.cell_id) > 64:
        return RejectionReason.BAD_ATTRIBUTES, "cell_id must have at most 64 characters"
    if len(event.attributes) > MAX_ATTRIBUTES_BYTES:
        return (
            RejectionReason.TOO_LARGE,
            f"attributes take more than {MAX_ATTRIBUTES_BYTES} bytes; send less",
        )
    if not 0 <= event.occurred_at_us < _LAST_US:
        return RejectionReason.BAD_ATTRIBUTES, "occurred_at must lie between the years 1970 and 9000"
    age_us = now_us - event.occurred_at_us
    if age_us > lateness_us:
        limit, age = lateness_us // 60_000_000, age_us // 60_000_000
        return (
            RejectionReason.TOO_LATE,
            f"the event is {age} minutes old; the limit of its source is {limit}",
        )
    if age_us < -MAX_SKEW_US:
        return (
            RejectionReason.IN_FUTURE,
            f"the event lies {-age_us // 1_000_000} seconds in the future; check the collector's clock",
        )
    return None
