"""Messages of the contract for the small rulebase."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from opportune.v1 import event_service_pb2 as events
from opportune.v1 import rulebase_service_pb2 as rulebases
from opportune.v1 import subscriber_service_pb2 as subscribers
from opportune_rulebase import to_archive
from support.rulebases import NOON_US

SOMEBODY = "8613800000001"


def timestamp(instant_us: int) -> Timestamp:
    made = Timestamp()
    made.FromMicroseconds(instant_us)
    return made


def event(id_: str, subscriber_id: str = SOMEBODY, **changes: Any) -> events.Event:
    """An MMS at noon, with `changes`; `attributes` may be a mapping."""
    fields = {"type": "mms_sent", "at_us": NOON_US, "attributes": {"size_kb": 80}} | changes
    at_us, attributes = fields.pop("at_us"), fields.pop("attributes")
    if isinstance(attributes, Mapping):
        attributes = json.dumps(attributes).encode()
    return events.Event(
        id=id_, subscriber_id=subscriber_id, occurred_at=timestamp(at_us), attributes=attributes, **fields
    )


def publish(*sent: events.Event, source: str = "smsc", **fields: Any) -> events.PublishEventsRequest:
    return events.PublishEventsRequest(source=source, events=sent, **fields)


def hello(source: str = "smsc") -> events.StreamEventsRequest:
    return events.StreamEventsRequest(hello=events.EventStreamHello(source=source))


def batch(number: int, *sent: events.Event) -> events.StreamEventsRequest:
    return events.StreamEventsRequest(batch=events.EventBatch(number=number, events=sent))


def archive(files: Mapping[str, bytes]) -> rulebases.RulebaseArchive:
    return rulebases.RulebaseArchive(data=to_archive(files))


def import_header(as_of_us: int = NOON_US, **fields: Any) -> subscribers.ImportSubscribersRequest:
    fields = {"mode": subscribers.IMPORT_MODE_UPSERT} | fields
    return subscribers.ImportSubscribersRequest(
        header=subscribers.ImportHeader(as_of=timestamp(as_of_us), **fields)
    )


def import_batch(records: Mapping[str, Mapping[str, Any]]) -> subscribers.ImportSubscribersRequest:
    """A batch of subscriber id -> attributes."""
    return subscribers.ImportSubscribersRequest(
        batch=subscribers.SubscriberBatch(
            subscribers=[
                subscribers.SubscriberRecord(subscriber_id=id_, attributes=json.dumps(attributes).encode())
                for id_, attributes in records.items()
            ]
        )
    )
