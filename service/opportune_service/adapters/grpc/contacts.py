"""Contacts of all systems, as the contract shows them."""

from __future__ import annotations

from collections.abc import Iterable

from opportune.v1 import subscriber_service_pb2 as pb
from opportune.v1 import types_pb2 as types
from opportune_rulebase import Rulebase
from opportune_rulebase.model import TouchKind
from opportune_rulebase.policies import Mode

from opportune_service.adapters.grpc.words import (
    microseconds,
    mode_number,
    outcome_number,
    state_number,
    timestamp,
)
from opportune_service.app.contacts import ContactView, RecordedContact
from opportune_service.app.records import ContactChange, ContactRow
from opportune_service.core.verdict import Outcome, Touch

_MODES = {mode_number(mode): mode for mode in Mode}


def report_of(sent: pb.RecordedContact) -> RecordedContact:
    """A contact as it was sent; what is wrong with it is found later."""
    return RecordedContact(
        id=sent.id,
        subscriber_id=sent.subscriber_id,
        channel=sent.channel,
        mode=_MODES.get(sent.mode),
        at_us=microseconds(sent.occurred_at) if sent.HasField("occurred_at") else None,
        campaign=sent.campaign,
        product=sent.product,
        category=sent.category,
        content=sent.content,
    )


def view_message(view: ContactView, rulebase: Rulebase | None) -> pb.ContactView:
    """The contact view. Without a `rulebase` campaigns have no labels."""
    message = pb.ContactView(
        subscriber_id=view.subscriber_id,
        customer_name=_known(view, "customer_name"),
        customer_manager=_known(view, "customer_manager"),
        counts=[
            pb.ContactCount(
                channel=channel, type=type_, business=business, count=count, last_at=timestamp(last_us)
            )
            for (channel, type_, business), (count, last_us) in sorted(view.other.counts.items())
        ],
        marketing=[_marketing(row, rulebase) for row in view.marketing],
    )
    for touch in view.other.touches:
        _add(message, touch)
    return message


def _known(view: ContactView, name: str) -> str:
    value = view.context.get(name)
    return value if isinstance(value, str) else ""


def _add(message: pb.ContactView, touch: Touch) -> None:
    at = timestamp(touch.at_us)
    said = {name: value for name, value in touch.said.items() if isinstance(value, str)}
    channel = said.get("channel", "")
    match touch.kind:
        case TouchKind.SERVICE:
            succeeded = touch.said.get("succeeded")
            message.services.add(
                occurred_at=at,
                channel=channel,
                business=said.get("business", ""),
                succeeded=succeeded if isinstance(succeeded, bool) else None,
            )
        case TouchKind.INQUIRY:
            message.inquiries.add(occurred_at=at, channel=channel, topic=said.get("topic", ""))
        case TouchKind.QUERY:
            message.queries.add(occurred_at=at, channel=channel, topic=said.get("topic", ""))
        case TouchKind.COMPLAINT:
            message.complaints.add(
                occurred_at=at,
                channel=channel,
                department=said.get("department", ""),
                type=said.get("complaint_type", ""),
                content=said.get("content", ""),
                handling=said.get("handling", ""),
                level=said.get("level", ""),
                satisfaction=said.get("satisfaction", ""),
            )


def _marketing(row: ContactRow, rulebase: Rulebase | None) -> pb.MarketingContact:
    contact = row.contact
    # The campaign of another system may happen to have the name of one of ours.
    campaign = None if rulebase is None or contact.origin else rulebase.campaigns.get(contact.campaign)
    return pb.MarketingContact(
        decision_id="" if contact.origin else contact.decision_id,
        origin=contact.origin,
        occurred_at=timestamp(contact.at_us),
        channel=contact.channel,
        campaign=contact.campaign,
        campaign_label=campaign.label if campaign else "",
        product=contact.product,
        content=row.content,
        delivery_state=state_number(row.state),
        outcomes=[outcome_message(outcome) for outcome in row.outcomes],
    )


def outcome_message(outcome: Outcome) -> types.Outcome:
    """An outcome as it was reported."""
    return types.Outcome(
        kind=outcome_number(outcome.kind), occurred_at=timestamp(outcome.at_us), detail=outcome.detail
    )


def export_message(changes: Iterable[ContactChange]) -> pb.ExportContactsResponse:
    """One piece of an export; the cursor is that of its last entry."""
    message = pb.ExportContactsResponse()
    for change in changes:
        message.contacts.append(_exported(change))
        message.cursor = str(change.cursor)
    return message


def _exported(change: ContactChange) -> pb.ExportedContact:
    contact = change.contact
    exported = pb.ExportedContact(
        decision_id="" if contact.origin else contact.decision_id,
        origin=contact.origin,
        subscriber_id=change.subscriber_id,
        campaign=contact.campaign,
        product=contact.product,
        category=contact.category,
        channel=contact.channel,
        mode=mode_number(contact.mode),
        control=contact.control,
        decided_at=timestamp(contact.at_us),
        delivery_state=state_number(change.state),
    )
    if change.outcome is not None:
        exported.outcome.kind = outcome_number(change.outcome)
        exported.outcome.occurred_at.CopyFrom(timestamp(change.at_us))
    return exported
