"""Events and context records as they come in, are admitted and are kept in the log."""

from __future__ import annotations

from enum import StrEnum

import msgspec

MAX_SKEW_US = 5 * 60 * 1_000_000
"""An event may lie this far in the future of the service's clock: collectors' clocks differ."""

MAX_LATENESS_US = 60 * 60 * 1_000_000
"""An event older than this is rejected; sliding windows keep that much more history."""

MAX_ATTRIBUTES_BYTES = 16 * 1024
"""A collector that sends more than this for one event has a fault; its event is rejected."""


class Encoding(StrEnum):
    """How the attributes of an event or of a context record are encoded."""

    JSON = "json"
    MSGPACK = "msgpack"


class Event(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Something a subscriber just did, as a collector sent it. This is also its form in the log.

    `id` is unique within its source. `subscriber_id` is the MSISDN: 5 to 15 digits, no plus sign.
    `attributes` is an encoded map of the attributes that the vocabulary declares for `type`.
    `cell_id` and `imei` are empty when the collector does not know them.
    """

    id: str
    subscriber_id: str
    type: str
    occurred_at_us: int
    attributes: bytes = b""
    cell_id: str = ""
    imei: str = ""
    encoding: Encoding = Encoding.JSON


class RejectionReason(StrEnum):
    """Why one event or record was not accepted. The rest of its batch is."""

    UNKNOWN_TYPE = "unknown_type"
    BAD_SUBSCRIBER_ID = "bad_subscriber_id"
    BAD_EVENT_ID = "bad_event_id"
    BAD_ATTRIBUTES = "bad_attributes"
    TOO_LARGE = "too_large"
    TOO_LATE = "too_late"
    IN_FUTURE = "in_future"
    UNKNOWN_NAME = "unknown_name"
    BAD_VALUE = "bad_value"
    INTERNAL = "internal"


class Rejection(msgspec.Struct, frozen=True):
    """`index` is the place in the batch. `message` says what to mend and never holds a number."""

    index: int
    id: str
    reason: RejectionReason
    message: str


class ImportMode(StrEnum):
    """UPSERT replaces the whole context; PATCH changes only the attributes that are given."""

    UPSERT = "upsert"
    PATCH = "patch"


class ContextRecord(msgspec.Struct, frozen=True, array_like=True):
    """Static data of one subscriber from BASS, BOSS or CRM, true as of `as_of_us`.

    `attributes` holds declared attributes only, already checked. A null erases an attribute (PATCH).
    """

    subscriber_id: str
    as_of_us: int
    mode: ImportMode
    attributes: dict[str, object]


class Due(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A timer of a pattern, or a trigger, that is due for one subscriber. This is also its form in the log.

    `name` is the key of the pattern or the name of the trigger. `fired` False: the timer was dropped, for
    data may be missing.
    """

    subscriber_id: str
    name: str
    at_us: int
    fired: bool = True
