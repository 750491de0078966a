"""The messages of consent and contacts."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Final, cast
from uuid import uuid4

from opportune.v1 import subscriber_service_pb2 as pb
from opportune.v1 import types_pb2

from opportune_client.times import to_timestamp
from opportune_client.words import Mode

CONTACTS_AT_ONCE: Final = 1_000
"""What the service takes in one call."""

_STATES: Final = {
    None: types_pb2.CONSENT_STATE_UNSPECIFIED,
    True: types_pb2.CONSENT_STATE_ALLOWED,
    False: types_pb2.CONSENT_STATE_REFUSED,
}


@dataclass(frozen=True, slots=True)
class RecordedContact:
    """A contact that another system made.

    `id` is unique within the system: the same id again is the same contact again. `channel` and `product`
    are those that the rulebase declares; without a product, caps by product do not count it, and without
    a `category`, caps by category. `occurred_at` needs a time zone. `content` is what was said, for the
    contact view. Its `repr` shows nobody's number.
    """

    id: str
    subscriber_id: str = field(repr=False)
    channel: str
    mode: Mode
    occurred_at: datetime
    product: str = ""
    category: str = ""
    campaign: str = ""
    content: str = field(default="", repr=False)


def consent_request(
    subscriber_id: str, scope: str, allowed: bool | None, as_of: datetime | None, origin: str
) -> pb.SetConsentRequest:
    """The message of one consent, with a name of its own, by which the service knows it again."""
    consent = types_pb2.Consent(
        scope=scope,
        state=_STATES[allowed],
        as_of=None if as_of is None else to_timestamp(as_of),
        origin=origin,
    )
    return pb.SetConsentRequest(subscriber_id=subscriber_id, consent=consent, request_id=uuid4().hex)


def contact_requests(
    source: str, contacts: Iterable[RecordedContact]
) -> Iterator[pb.RecordContactsRequest]:
    """The messages of contacts, as many to each as the service takes."""
    rest = iter(contacts)
    while some := list(islice(rest, CONTACTS_AT_ONCE)):
        yield pb.RecordContactsRequest(source=source, contacts=[_contact(each) for each in some])


def add_answer(total: pb.RecordContactsResponse, answer: pb.RecordContactsResponse, sent: int) -> None:
    """Add what became of a call to what became of those before it, of which `sent` contacts were sent."""
    total.recorded_count += answer.recorded_count
    total.duplicate_count += answer.duplicate_count
    for rejection in answer.rejections:
        total.rejections.add().CopyFrom(rejection)
        total.rejections[-1].index += sent


def view_request(
    subscriber_id: str, since: datetime | None, until: datetime | None, page_size: int
) -> pb.GetContactViewRequest:
    """The message that asks for a contact view."""
    return pb.GetContactViewRequest(
        subscriber_id=subscriber_id,
        since=None if since is None else to_timestamp(since),
        until=None if until is None else to_timestamp(until),
        page_size=page_size,
    )


def export_request(cursor: str, campaigns: Collection[str]) -> pb.ExportContactsRequest:
    """The message that asks for an export."""
    return pb.ExportContactsRequest(cursor=cursor, campaigns=campaigns)


def _contact(contact: RecordedContact) -> pb.RecordedContact:
    return pb.RecordedContact(
        id=contact.id,
        subscriber_id=contact.subscriber_id,
        channel=contact.channel,
        category=contact.category,
        product=contact.product,
        campaign=contact.campaign,
        mode=cast("types_pb2.Mode.ValueType", int(contact.mode)),
        occurred_at=to_timestamp(contact.occurred_at),
        content=contact.content,
    )
