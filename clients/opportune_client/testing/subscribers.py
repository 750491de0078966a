# ruff: noqa: N802 - methods have the names of the contract
"""The fake's side of the service for business systems."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from opportune.v1 import subscriber_service_pb2 as subscriber_pb
from opportune.v1 import types_pb2
from opportune.v1.subscriber_service_pb2_grpc import SubscriberServiceServicer

from opportune_client.testing.state import Failure, State, abort


class Subscribers(SubscriberServiceServicer):
    """Keeps imported records, consents and contacts of other systems; shows the views and exports what
    the test laid out."""

    def __init__(self, state: State) -> None:
        self._state = state

    def ImportSubscribers(
        self, request_iterator: Any, context: Any
    ) -> subscriber_pb.ImportSubscribersResponse:
        state = self._state
        state.enter("ImportSubscribers", context)
        response = subscriber_pb.ImportSubscribersResponse()
        for request in request_iterator:
            with state.changed:
                if request.HasField("header"):
                    state.import_headers.append(request.header)
                for record in request.batch.subscribers:
                    state.subscribers[record.subscriber_id] = record
                    response.imported_count += 1
        return response

    def GetSubscriber(
        self, request: subscriber_pb.GetSubscriberRequest, context: Any
    ) -> subscriber_pb.GetSubscriberResponse:
        self._state.enter("GetSubscriber", context)
        with self._state.changed:
            record = self._state.subscribers.get(request.subscriber_id)
        if record is None:
            abort(context, Failure("NOT_FOUND", "nothing is known of the subscriber", "NOT_FOUND"))
        return subscriber_pb.GetSubscriberResponse(
            subscriber=subscriber_pb.Subscriber(
                subscriber_id=record.subscriber_id, attributes=record.attributes, consents=record.consents
            )
        )

    def SetConsent(
        self, request: subscriber_pb.SetConsentRequest, context: Any
    ) -> subscriber_pb.SetConsentResponse:
        state = self._state
        state.enter("SetConsent", context)
        said = types_pb2.Consent()
        said.CopyFrom(request.consent)
        if not said.HasField("as_of"):
            said.as_of.GetCurrentTime()
        with state.changed:
            before = state.consents.get((request.subscriber_id, said.scope))
            applied = before is None or _weight(before) <= _weight(said)
            if applied:
                state.consents[request.subscriber_id, said.scope] = said
            in_force = state.consents[request.subscriber_id, said.scope]
        return subscriber_pb.SetConsentResponse(consent=in_force, applied=applied)

    def RecordContacts(
        self, request: subscriber_pb.RecordContactsRequest, context: Any
    ) -> subscriber_pb.RecordContactsResponse:
        state = self._state
        state.enter("RecordContacts", context)
        response = subscriber_pb.RecordContactsResponse()
        with state.changed:
            for contact in request.contacts:
                if (request.source, contact.id) in state.contacts:
                    response.duplicate_count += 1
                else:
                    state.contacts[request.source, contact.id] = contact
                    response.recorded_count += 1
        return response

    def GetContactView(
        self, request: subscriber_pb.GetContactViewRequest, context: Any
    ) -> subscriber_pb.GetContactViewResponse:
        state = self._state
        state.enter("GetContactView", context)
        with state.changed:
            view = state.views.get(request.subscriber_id)
        empty = subscriber_pb.ContactView(subscriber_id=request.subscriber_id)
        return subscriber_pb.GetContactViewResponse(view=view or empty)

    def ExportContacts(
        self, request: subscriber_pb.ExportContactsRequest, context: Any
    ) -> Iterator[subscriber_pb.ExportContactsResponse]:
        state = self._state
        state.enter("ExportContacts", context)
        with state.changed:
            entries = list(state.exports)
        for number, entry in enumerate(entries, 1):
            if number > int(request.cursor or 0) and (
                not request.campaigns or entry.campaign in request.campaigns
            ):
                yield subscriber_pb.ExportContactsResponse(contacts=[entry], cursor=str(number))

    def DeleteSubscriber(
        self, request: subscriber_pb.DeleteSubscriberRequest, context: Any
    ) -> subscriber_pb.DeleteSubscriberResponse:
        state = self._state
        state.enter("DeleteSubscriber", context)
        number = request.subscriber_id
        with state.changed:
            known = [state.subscribers.pop(number, None), state.views.pop(number, None)]
            state.consents = {key: each for key, each in state.consents.items() if key[0] != number}
            state.contacts = {k: each for k, each in state.contacts.items() if each.subscriber_id != number}
            state.exports[:] = [each for each in state.exports if each.subscriber_id != number]
        response = subscriber_pb.DeleteSubscriberResponse(existed=any(each is not None for each in known))
        response.deleted_at.GetCurrentTime()
        return response


def _weight(consent: types_pb2.Consent) -> tuple[int, int, bool]:
    """Of two, the heavier one is in force: the newer, at a tie the refusal."""
    refused = consent.state == types_pb2.CONSENT_STATE_REFUSED
    return consent.as_of.seconds, consent.as_of.nanos, refused
