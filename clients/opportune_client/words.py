"""Closed lists of the contract, as enumerations with its numbers."""

from __future__ import annotations

from enum import IntEnum


class Encoding(IntEnum):
    """How attributes travel. Any service understands both; MessagePack is smaller and faster."""

    JSON = 1
    MSGPACK = 2


class ImportMode(IntEnum):
    """What an import does to attributes that a record does not name."""

    UPSERT = 1
    """The record is the whole context: they become unknown."""
    PATCH = 2
    """They stay as they are; None makes one unknown."""


class Mode(IntEnum):
    """Who carries an offer."""

    AUTOMATIC = 1
    """A channel client sends it."""
    MANUAL = 2
    """A person may offer it."""


class OutcomeKind(IntEnum):
    """What became of a contact."""

    DELIVERED = 1
    """Reached the terminal."""
    OPENED = 2
    INQUIRED = 3
    ACCEPTED = 4
    REFUSED = 5
    COMPLAINED = 6
    ORDERED = 7
    LATER = 8
    """The customer wants to be asked another time."""
    NOT_OFFERED = 9
    """The person at the touch point did not bring it up: certainly no contact."""


class ActivationMode(IntEnum):
    """How a revision takes part."""

    FULL = 1
    """Decides for every subscriber that no canary takes."""
    CANARY = 2
    """Decides for a share of subscribers, chosen by a stable hash."""
    SHADOW = 3
    """Decides into a ledger of its own and contacts nobody."""


class RulebaseState(IntEnum):
    """How far a revision has come."""

    DRAFT = 1
    """Not yet whole: a work order in which names still have to be bound."""
    CHECKED = 2
    TESTED = 3
    REHEARSED = 4
    APPROVED = 5
    ACTIVE = 6
    SUPERSEDED = 7
    """It decided once."""


class RulebaseEvent(IntEnum):
    """What a watcher is told of."""

    SNAPSHOT = 1
    """Nothing changed: the first message."""
    ACTIVATED = 2
    ACTIVATION_FAILED = 3
    """What was in force still is."""
    PAUSED = 4
    RESUMED = 5


class Reason(IntEnum):
    """How a candidate ended."""

    DECIDED = 1
    STALE = 2
    NOT_LIVE = 3
    NO_CONTEXT = 4
    NOT_ELIGIBLE = 5
    SUPPRESSED = 6
    COOLING_OFF = 7
    INCONSISTENT = 8
    OUTRANKED = 9
    NO_CHANNEL = 10
    QUIET_HOURS = 11
    CAPPED = 12
    QUOTA = 13
    CAPACITY = 14
    CONTROL = 15
    SETTLING = 16


class RejectionReason(IntEnum):
    """Why one event or record of a batch was not taken in."""

    UNSPECIFIED = 0
    """The service is newer than this client and has a reason that the client does not know."""
    UNKNOWN_TYPE = 1
    BAD_SUBSCRIBER_ID = 2
    BAD_EVENT_ID = 3
    BAD_ATTRIBUTES = 4
    TOO_LARGE = 5
    TOO_LATE = 6
    IN_FUTURE = 7
    UNKNOWN_NAME = 8
    BAD_VALUE = 9
    INTERNAL = 10

    @classmethod
    def _missing_(cls, value: object) -> RejectionReason:
        return cls.UNSPECIFIED
