"""The contract's words and the core's: times, enumerations, and the checks that a request must pass."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TypeVar

from google.protobuf.timestamp_pb2 import Timestamp
from opportune.v1 import types_pb2 as types
from opportune_rulebase.policies import Fate, Mode, OutcomeKind

from opportune_service.app.errors import InvalidRequestError
from opportune_service.app.records import DeliveryState
from opportune_service.core.admit import is_subscriber_id
from opportune_service.core.events import MAX_SKEW_US, Encoding, Rejection, RejectionReason
from opportune_service.core.verdict import Reason

T = TypeVar("T")

_MAX_CURSOR_DIGITS = 18
_FIRST_SECOND, _LAST_SECOND = -62_135_596_800, 253_402_300_799

ENCODINGS: Mapping[int, Encoding] = {
    types.ATTRIBUTES_ENCODING_UNSPECIFIED: Encoding.JSON,
    types.ATTRIBUTES_ENCODING_JSON: Encoding.JSON,
    types.ATTRIBUTES_ENCODING_MSGPACK: Encoding.MSGPACK,
}
_OUTCOME_NUMBERS = {kind: types.OutcomeKind.Value(f"OUTCOME_KIND_{kind.name}") for kind in OutcomeKind}
_REASON_NUMBERS = {reason: types.Reason.Value(f"REASON_{reason.name}") for reason in Reason}
OUTCOMES: Mapping[int, OutcomeKind] = {number: kind for kind, number in _OUTCOME_NUMBERS.items()}
REASONS: Mapping[int, Reason] = {number: reason for reason, number in _REASON_NUMBERS.items()}

_FATE_NUMBERS = {fate: types.Fate.Value(f"FATE_{fate.name}") for fate in Fate}
_MODE_NUMBERS = {mode: types.Mode.Value(f"MODE_{mode.name}") for mode in Mode}
_STATE_NUMBERS = {
    state: types.DeliveryState.Value(f"DELIVERY_STATE_{state.name}") for state in DeliveryState
}
_REJECTION_NUMBERS = {
    reason: types.RejectionReason.Value(f"REJECTION_REASON_{reason.name}") for reason in RejectionReason
}
REJECTIONS: Mapping[int, RejectionReason] = {number: why for why, number in _REJECTION_NUMBERS.items()}
_ENCODING_NUMBERS = {
    encoding: types.AttributesEncoding.Value(f"ATTRIBUTES_ENCODING_{encoding.name}")
    for encoding in Encoding
}


def reason_number(reason: Reason) -> types.Reason.ValueType:
    return _REASON_NUMBERS[reason]


def outcome_number(kind: OutcomeKind) -> types.OutcomeKind.ValueType:
    return _OUTCOME_NUMBERS[kind]


def fate_number(fate: Fate | None) -> types.Fate.ValueType:
    return types.FATE_UNSPECIFIED if fate is None else _FATE_NUMBERS[fate]


def mode_number(mode: Mode | str) -> types.Mode.ValueType:
    return _MODE_NUMBERS[Mode(mode)]


def state_number(state: DeliveryState | None) -> types.DeliveryState.ValueType:
    return types.DELIVERY_STATE_UNSPECIFIED if state is None else _STATE_NUMBERS[state]


def rejection_number(reason: RejectionReason) -> types.RejectionReason.ValueType:
    return _REJECTION_NUMBERS[reason]


def encoding_number(encoding: Encoding) -> types.AttributesEncoding.ValueType:
    return _ENCODING_NUMBERS[encoding]


def rejection(rejected: Rejection, offset: int = 0) -> types.Rejection:
    """As the contract has it; `offset` is the place of its batch in the call."""
    return types.Rejection(
        index=rejected.index + offset,
        id=rejected.id,
        reason=_REJECTION_NUMBERS[rejected.reason],
        message=rejected.message,
    )


def timestamp(instant_us: int) -> Timestamp:
    seconds, micros = divmod(instant_us, 1_000_000)
    return Timestamp(seconds=seconds, nanos=micros * 1_000)


def optional_timestamp(instant_us: int) -> Timestamp | None:
    """None for 0, which is how the core says "never"."""
    return timestamp(instant_us) if instant_us else None


def microseconds(instant: Timestamp) -> int:
    return instant.seconds * 1_000_000 + instant.nanos // 1_000


def json_text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def chosen(table: Mapping[int, T], number: int, field: str) -> T:
    """What an enumeration's value means. Raises `InvalidRequestError` for one that means nothing here."""
    if number not in table:
        known = ", ".join(dict.fromkeys(map(str, table.values())))
        raise InvalidRequestError(field, f"{field} must be one of: {known}")
    return table[number]


def check_length(field: str, text: str, most: int, least: int = 0) -> None:
    """Raises `InvalidRequestError` unless `text` has `least` to `most` characters, none of them NUL, which
    not every store can keep."""
    if "\0" in text:
        raise InvalidRequestError(field, f"{field} must not hold the character NUL")
    if not least <= len(text) <= most:
        bounds = f"{least} to {most}" if least else f"at most {most}"
        raise InvalidRequestError(field, f"{field} must have {bounds} characters")


def check_subscriber(field: str, text: str) -> None:
    if not is_subscriber_id(text):
        raise InvalidRequestError(field, f"{field} must be 5 to 15 digits without a plus sign")


def past_time(field: str, instant: Timestamp, now_us: int) -> int:
    """The instant, which must not lie further in the future than clocks may differ."""
    at_us = microseconds(instant)
    if not 0 <= at_us <= now_us + MAX_SKEW_US:
        raise InvalidRequestError(field, f"{field} must be a time since 1970, at most 5 minutes from now")
    return at_us


def searched_time(field: str, instant: Timestamp) -> int:
    """The instant, which must be one that a `Timestamp` may hold: the store has no others."""
    if not _FIRST_SECOND <= instant.seconds <= _LAST_SECOND:
        raise InvalidRequestError(field, f"{field} must be a time of the years 1 to 9999")
    return microseconds(instant)


def page_size(asked: int, default: int = 50) -> int:
    """How much to list: 1 to 1,000, `default` if not said."""
    if not 0 <= asked <= 1_000:
        raise InvalidRequestError("page_size", f"page_size must be 1 to 1,000, or absent for {default}")
    return asked or default


def cursor(field: str, text: str) -> int:
    """A place in the order of recording, as an earlier answer gave it; 0 for none."""
    if not text:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) <= _MAX_CURSOR_DIGITS):
        raise InvalidRequestError(field, f"{field} must be one that an answer gave")
    return int(text)


def read_cursor(field: str, text: str) -> int:
    """A cursor or page token that an answer gave."""
    if len(text) > _MAX_CURSOR_DIGITS or not (text.isascii() and text.isdigit()):
        raise InvalidRequestError(field, f"{field} must be one that an answer gave")
    return int(text)
