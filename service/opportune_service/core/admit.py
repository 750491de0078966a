"""Step 1: check events and context records against the vocabulary, one by one."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Set
from datetime import datetime
from typing import Annotated, Any, Literal, TypedDict

import msgspec
from opportune_rulebase.model import Attribute, ValueType, Vocabulary

from opportune_service.core.events import (
    MAX_ATTRIBUTES_BYTES,
    MAX_LATENESS_US,
    MAX_SKEW_US,
    Encoding,
    Event,
    Rejection,
    RejectionReason,
)

_INT64 = msgspec.Meta(ge=-(2**63), le=2**63 - 1)
_DIGITS = re.compile(r"\d{5,}")
_ATTRIBUTE_TYPES: Mapping[ValueType, object] = {
    ValueType.INT: Annotated[int, _INT64],
    ValueType.DOUBLE: float,
    ValueType.BOOL: bool,
    ValueType.STRING: str,
    ValueType.TIMESTAMP: Annotated[datetime, msgspec.Meta(tz=True)],
    ValueType.STRINGS: list[str],
    ValueType.INTS: list[Annotated[int, _INT64]],
    ValueType.FLAGS: dict[str, bool],
}
_decode_json = msgspec.json.Decoder(dict[str, Any]).decode
_decode_msgpack = msgspec.msgpack.Decoder(dict[str, Any]).decode

Attributes = dict[str, Any]
"""Declared attributes by name, of their declared types; null and undeclared ones are left out."""


def mask(text: str) -> str:
    """`text` with every run of five or more digits blotted out, so that no number gets into a message."""
    return _DIGITS.sub("*****", text)


def is_subscriber_id(text: str) -> bool:
    """Whether `text` is an MSISDN in the form used throughout: 5 to 15 digits, no plus sign."""
    return 5 <= len(text) <= 15 and text.isascii() and text.isdigit()


def _type_of(attribute: Attribute) -> Any:
    if attribute.values is not None:
        return Literal[attribute.values]
    if attribute.minimum is not None:
        bound = attribute.minimum
        if attribute.type is ValueType.INT:
            return Annotated[int, msgspec.Meta(ge=int(bound), le=2**63 - 1)]
        return Annotated[float, msgspec.Meta(ge=bound)]
    return _ATTRIBUTE_TYPES[attribute.type]


# A TypedDict made from the vocabulary: a type checker can know nothing of it.
_make_typed_dict: Any = TypedDict

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

    Undeclared attributes are left out and counted in `ignored`; nulls are kept only if `keep_null`
    (a patch uses them to erase).
    """

    def __init__(self, name: str, attributes: Mapping[str, Attribute], ignored: IgnoredAttributes) -> None:
        self._name = name
        self._ignored = ignored
        self._declared = frozenset(attributes)
        self._shape = _make_typed_dict(
            name, {a.name: _type_of(a) for a in attributes.values()}, total=False
        )

    def read(self, data: bytes, encoding: Encoding) -> Attributes:
        """The declared attributes. Raises `AttributesError` on garbage or a value of another type."""
        if not data:
            return {}
        try:
            raw = _decode_json(data) if encoding is Encoding.JSON else _decode_msgpack(data)
            return self.check(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise AttributesError(mask(str(error))) from None

    def check(self, raw: Mapping[str, object], *, keep_null: bool = False) -> Attributes:
        """The same for a map that is decoded already."""
        if not raw.keys() <= self._declared:
            self._ignored.add(self._name, raw.keys() - self._declared)
        nulls = [name for name, value in raw.items() if value is None]
        if nulls:
            raw = {name: value for name, value in raw.items() if value is not None}
        try:
            checked: Attributes = msgspec.convert(raw, self._shape)
        except (msgspec.ValidationError, RecursionError) as error:
            raise AttributesError(mask(str(error))) from None
        if keep_null:
            checked.update({name: None for name in nulls if name in self._declared})
        return checked


class Admission:
    """Step 1 for one revision: what may enter, and the attributes as rules will read them."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.ignored = IgnoredAttributes()
        self._readers = {
            name: AttributeReader(name, event_type.attributes, self.ignored)
            for name, event_type in vocabulary.events.items()
        }
        self._context = AttributeReader("subscriber", vocabulary.subscriber, self.ignored)

    def admit(self, event: Event, index: int, now_us: int) -> Attributes | Rejection:
        """The event's attributes, or why it is rejected. Never raises, whatever the event holds."""

        def reject(reason: RejectionReason, message: str) -> Rejection:
            return Rejection(index=index, id=mask(event.id), reason=reason, message=message)

        reader = self._readers.get(event.type)
        if reader is None:
            return reject(
                RejectionReason.UNKNOWN_TYPE,
                f"event type {mask(event.type[:64])!r} is not declared; "
                "declare it in vocabulary.yaml or mend the collector",
            )
        if not is_subscriber_id(event.subscriber_id):
            return reject(
                RejectionReason.BAD_SUBSCRIBER_ID,
                "subscriber_id must be 5 to 15 digits without a plus sign",
            )
        if not event.id or len(event.id) > 200:
            return reject(
                RejectionReason.BAD_EVENT_ID, "id must have 1 to 200 characters, unique in its source"
            )
        if event.imei and not (
            14 <= len(event.imei) <= 16 and event.imei.isascii() and event.imei.isdigit()
        ):
            return reject(RejectionReason.BAD_ATTRIBUTES, "imei must be empty or 14 to 16 digits")
        if len(event.attributes) > MAX_ATTRIBUTES_BYTES:
            return reject(
                RejectionReason.TOO_LARGE,
                f"attributes take more than {MAX_ATTRIBUTES_BYTES} bytes; send less",
            )
        age_us = now_us - event.occurred_at_us
        if age_us > MAX_LATENESS_US:
            return reject(
                RejectionReason.TOO_LATE,
                f"the event is {age_us // 60_000_000} minutes old; the limit is 60",
            )
        if age_us < -MAX_SKEW_US:
            return reject(
                RejectionReason.IN_FUTURE,
                f"the event lies {-age_us // 1_000_000} seconds in the future; check the collector's clock",
            )
        try:
            return reader.read(event.attributes, event.encoding)
        except AttributesError as error:
            return reject(RejectionReason.BAD_ATTRIBUTES, str(error))

    def admit_context(self, data: bytes, encoding: Encoding) -> Attributes:
        """Context attributes of one subscriber, nulls kept. Raises `AttributesError`."""
        if len(data) > MAX_ATTRIBUTES_BYTES:
            raise AttributesError(f"attributes take more than {MAX_ATTRIBUTES_BYTES} bytes; send less")
        try:
            raw = _decode_json(data) if encoding is Encoding.JSON else _decode_msgpack(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise AttributesError(mask(str(error))) from None
        return self._context.check(raw, keep_null=True)
