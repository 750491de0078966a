"""Events as a collector's author writes them, and their form on the wire."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import msgspec
from opportune.v1 import event_service_pb2, types_pb2

from opportune_client.times import to_timestamp
from opportune_client.words import Encoding

MAX_EVENT_BYTES: Final = 32 << 10
"""Twice what the contract allows for attributes: larger ones are the service's to reject one by one,
but nothing so large may go out that it breaks the stream for all others."""

ON_THE_WIRE: Final = {
    Encoding.JSON: types_pb2.ATTRIBUTES_ENCODING_JSON,
    Encoding.MSGPACK: types_pb2.ATTRIBUTES_ENCODING_MSGPACK,
}


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"an attribute cannot be a {type(value).__name__}; use text, numbers, lists and maps")


_JSON: Final = msgspec.json.Encoder(enc_hook=_plain)


@dataclass(frozen=True, slots=True)
class Event:
    """Something a subscriber did.

    `id` is unique within the source: the same id again is the same event again, which is what makes
    sending twice harmless. `subscriber_id` is the digits of the E.164 number without "+".
    `occurred_at` needs a time zone. `attributes` are those that the rulebase declares for `type`;
    datetimes among them travel as RFC 3339 text. Its `repr` shows nobody's number.
    """

    id: str
    subscriber_id: str = field(repr=False)
    type: str
    occurred_at: datetime
    attributes: Mapping[str, Any] = field(default_factory=dict, repr=False)
    cell_id: str = ""
    imei: str = field(default="", repr=False)


def encode_attributes(attributes: Mapping[str, Any], encoding: Encoding) -> bytes:
    """The bytes of an attribute map; empty for an empty one. TypeError: a value has no such form."""
    if not attributes:
        return b""
    if encoding is Encoding.JSON:
        return _JSON.encode(attributes)
    # The contract has instants as text in both encodings; MessagePack alone would make them binary.
    return msgspec.msgpack.encode(msgspec.to_builtins(attributes, enc_hook=_plain))


def encode_event(event: Event, encoding: Encoding) -> event_service_pb2.Event:
    """The event on the wire.

    ValueError: the instant has no time zone, a text is not valid Unicode, or the event is far too
    large. TypeError: an attribute cannot be encoded.
    """
    message = event_service_pb2.Event(
        id=event.id,
        subscriber_id=event.subscriber_id,
        type=event.type,
        occurred_at=to_timestamp(event.occurred_at),
        cell_id=event.cell_id,
        imei=event.imei,
        attributes=encode_attributes(event.attributes, encoding),
    )
    if message.ByteSize() > MAX_EVENT_BYTES:
        raise ValueError(
            f"event {event.type!r} has more than {MAX_EVENT_BYTES} bytes; its attributes may have 16 KiB"
        )
    return message
