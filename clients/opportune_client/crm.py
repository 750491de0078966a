# ruff: noqa: ASYNC109 - a timeout here is the call's deadline, which the service is told
"""What business systems do: bring context and consent, ask for advice, report what came of it, tell of
their own contacts, and look at all of them."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any, Final, cast

import grpc
from grpc import aio
from opportune.v1 import advice_service_pb2 as advice_pb
from opportune.v1 import subscriber_service_pb2 as pb
from opportune.v1 import types_pb2
from opportune.v1.advice_service_pb2_grpc import AdviceServiceStub
from opportune.v1.subscriber_service_pb2_grpc import SubscriberServiceStub

from opportune_client.contacts import (
    RecordedContact,
    add_answer,
    consent_request,
    contact_requests,
    export_request,
    view_request,
)
from opportune_client.errors import translated
from opportune_client.events import ON_THE_WIRE, encode_attributes
from opportune_client.imports import (
    SubscriberRecord,
    async_import_requests,
    import_requests,
    until_failure,
)
from opportune_client.times import to_timestamp
from opportune_client.words import Encoding, ImportMode, OutcomeKind

IMPORT_SECONDS: Final = 3600.0
"""Deadline of an import unless told otherwise: millions of records take a while, hanging helps nobody."""


class CrmClient:
    """Context, consent, advice, outcomes and contacts over one channel. Thread-safe. Errors:
    `OpportuneError`."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._subscribers = SubscriberServiceStub(channel)
        self._advice = AdviceServiceStub(channel)

    def import_subscribers(
        self,
        records: Iterable[SubscriberRecord],
        as_of: datetime,
        mode: ImportMode,
        *,
        origin: str = "",
        timeout: float = IMPORT_SECONDS,
    ) -> pb.ImportSubscribersResponse:
        """Imports context that was true at `as_of`; the counts, and the first 1,000 rejections.

        Batches are committed one by one and this call is not repeated by itself. If it fails, call it
        again with all records and the same `as_of`: what is stored already does not change. What
        `records` raises is raised, and the batches before it stay in place.
        """
        failures: list[Exception] = []
        requests = until_failure(import_requests(records, as_of, mode, origin), failures)
        with translated():
            response = self._subscribers.ImportSubscribers(requests, timeout=timeout)
        if failures:
            raise failures[0]
        return response

    def get_subscriber(self, subscriber_id: str, *, timeout: float | None = None) -> pb.Subscriber:
        """What is known of a subscriber at this moment. NotFoundError: nothing is."""
        with translated():
            request = pb.GetSubscriberRequest(subscriber_id=subscriber_id)
            return self._subscribers.GetSubscriber(request, timeout=timeout).subscriber

    def advise(
        self,
        subscriber_id: str,
        touch_point: str,
        *,
        request_id: str,
        event_type: str = "",
        attributes: Mapping[str, Any] | None = None,
        cell_id: str = "",
        imei: str = "",
        agent: str = "",
        timeout: float | None = None,
    ) -> advice_pb.AdviseResponse:
        """Records that the customer is at the touch point; what may be offered, best first.

        `request_id` names the visit: the same id again records nothing and gives the same answer, so
        repeat a failed call with it. No advice means: leave the customer alone. What was advised counts
        as a contact unless `OutcomeKind.NOT_OFFERED` is reported.
        """
        request = advise_request(
            subscriber_id, touch_point, request_id, event_type, attributes, cell_id, imei, agent
        )
        with translated():
            return self._advice.Advise(request, timeout=timeout)

    def report_outcome(
        self,
        decision_id: str,
        kind: OutcomeKind,
        *,
        occurred_at: datetime | None = None,
        detail: str = "",
        agent: str = "",
        request_id: str = "",
        timeout: float | None = None,
    ) -> bool:
        """Reports what came of an advice, now unless `occurred_at` is given. False: it was known already,
        and nothing changed. NotFoundError: no such decision."""
        request = outcome_request(decision_id, kind, occurred_at, detail, agent, request_id)
        with translated():
            return not self._advice.ReportOutcome(request, timeout=timeout).already_known

    def set_consent(
        self,
        subscriber_id: str,
        scope: str,
        allowed: bool | None,
        *,
        as_of: datetime | None = None,
        origin: str = "",
        timeout: float | None = None,
    ) -> pb.SetConsentResponse:
        """Records what a subscriber said about being contacted; in force for every decision after that, and
        for every message that is not handed out yet.

        `scope` is `channel/NAME`, `category/NAME`, or `all` for the do-not-contact list. `allowed` None
        takes the word back, so that the rulebase's default holds. `as_of` is when it was said, now if
        absent: the newest wins, a refusal wins a tie. The answer tells what is in force, and whether that
        is what was said (`applied`). `origin` names the system or touch point, for the audit.
        """
        request = consent_request(subscriber_id, scope, allowed, as_of, origin)
        with translated():
            return self._subscribers.SetConsent(request, timeout=timeout)

    def record_contacts(
        self, source: str, contacts: Iterable[RecordedContact], *, timeout: float | None = None
    ) -> pb.RecordContactsResponse:
        """Records contacts that the system `source` made, so that caps count them from then on.

        1,000 at a time, each time within `timeout`; the index of a rejection counts all of them. If it
        fails, call it again with all: those that are known already are counted as duplicates.
        """
        total, sent = pb.RecordContactsResponse(), 0
        for request in contact_requests(source, contacts):
            with translated():
                answer = self._subscribers.RecordContacts(request, timeout=timeout)
            add_answer(total, answer, sent)
            sent += len(request.contacts)
        return total

    def get_contact_view(
        self,
        subscriber_id: str,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        page_size: int = 100,
        timeout: float | None = None,
    ) -> pb.ContactView:
        """Everything that the company and the customer said to each other, newest first: at most
        `page_size` entries of each kind from [since, until). That of a stranger is empty."""
        request = view_request(subscriber_id, since, until, page_size)
        with translated():
            return self._subscribers.GetContactView(request, timeout=timeout).view

    def export_contacts(
        self, cursor: str = "", *, campaigns: Collection[str] = (), timeout: float | None = None
    ) -> Iterator[pb.ExportContactsResponse]:
        """What happened to contacts after `cursor`, in order of recording, piece by piece; ends when it has
        caught up. Keep a piece's `cursor` once its entries are safe: go on from there next time, or after
        an error. `timeout` is that of the whole export; without it there is none."""
        with translated():
            yield from self._subscribers.ExportContacts(export_request(cursor, campaigns), timeout=timeout)

    def delete_subscriber(
        self, subscriber_id: str, reason: str, *, timeout: float | None = None
    ) -> pb.DeleteSubscriberResponse:
        """Erases a subscriber: context, state, contacts, and the number wherever it stands.

        It reads the whole log, so it may take minutes; it goes on if this call is given up, and calling it
        again waits for it. `reason` is for the audit, and must not hold the number.
        """
        request = pb.DeleteSubscriberRequest(subscriber_id=subscriber_id, reason=reason)
        with translated():
            return self._subscribers.DeleteSubscriber(request, timeout=timeout)


class AsyncCrmClient:
    """As `CrmClient`, for one event loop."""

    def __init__(self, channel: aio.Channel) -> None:
        self._subscribers = SubscriberServiceStub(channel)
        self._advice = AdviceServiceStub(channel)

    async def import_subscribers(
        self,
        records: Iterable[SubscriberRecord] | AsyncIterable[SubscriberRecord],
        as_of: datetime,
        mode: ImportMode,
        *,
        origin: str = "",
        timeout: float = IMPORT_SECONDS,
    ) -> pb.ImportSubscribersResponse:
        """As `CrmClient.import_subscribers`; reading `records` is paced by the service."""
        with translated():
            call = self._subscribers.ImportSubscribers(None, timeout=timeout)
            try:
                # A call that has ended refuses to be written to; awaiting it says why.
                with suppress(aio.UsageError, grpc.RpcError):
                    async for request in async_import_requests(records, as_of, mode, origin):
                        await call.write(request)
                    await call.done_writing()
                return await call
            finally:
                call.cancel()

    async def get_subscriber(self, subscriber_id: str, *, timeout: float | None = None) -> pb.Subscriber:
        """As `CrmClient.get_subscriber`."""
        with translated():
            request = pb.GetSubscriberRequest(subscriber_id=subscriber_id)
            return (await self._subscribers.GetSubscriber(request, timeout=timeout)).subscriber

    async def advise(
        self,
        subscriber_id: str,
        touch_point: str,
        *,
        request_id: str,
        event_type: str = "",
        attributes: Mapping[str, Any] | None = None,
        cell_id: str = "",
        imei: str = "",
        agent: str = "",
        timeout: float | None = None,
    ) -> advice_pb.AdviseResponse:
        """As `CrmClient.advise`."""
        request = advise_request(
            subscriber_id, touch_point, request_id, event_type, attributes, cell_id, imei, agent
        )
        with translated():
            return await self._advice.Advise(request, timeout=timeout)

    async def report_outcome(
        self,
        decision_id: str,
        kind: OutcomeKind,
        *,
        occurred_at: datetime | None = None,
        detail: str = "",
        agent: str = "",
        request_id: str = "",
        timeout: float | None = None,
    ) -> bool:
        """As `CrmClient.report_outcome`."""
        request = outcome_request(decision_id, kind, occurred_at, detail, agent, request_id)
        with translated():
            return not (await self._advice.ReportOutcome(request, timeout=timeout)).already_known

    async def set_consent(
        self,
        subscriber_id: str,
        scope: str,
        allowed: bool | None,
        *,
        as_of: datetime | None = None,
        origin: str = "",
        timeout: float | None = None,
    ) -> pb.SetConsentResponse:
        """As `CrmClient.set_consent`."""
        request = consent_request(subscriber_id, scope, allowed, as_of, origin)
        with translated():
            return await self._subscribers.SetConsent(request, timeout=timeout)

    async def record_contacts(
        self, source: str, contacts: Iterable[RecordedContact], *, timeout: float | None = None
    ) -> pb.RecordContactsResponse:
        """As `CrmClient.record_contacts`."""
        total, sent = pb.RecordContactsResponse(), 0
        for request in contact_requests(source, contacts):
            with translated():
                answer = await self._subscribers.RecordContacts(request, timeout=timeout)
            add_answer(total, answer, sent)
            sent += len(request.contacts)
        return total

    async def get_contact_view(
        self,
        subscriber_id: str,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        page_size: int = 100,
        timeout: float | None = None,
    ) -> pb.ContactView:
        """As `CrmClient.get_contact_view`."""
        request = view_request(subscriber_id, since, until, page_size)
        with translated():
            return (await self._subscribers.GetContactView(request, timeout=timeout)).view

    async def export_contacts(
        self, cursor: str = "", *, campaigns: Collection[str] = (), timeout: float | None = None
    ) -> AsyncIterator[pb.ExportContactsResponse]:
        """As `CrmClient.export_contacts`."""
        with translated():
            request = export_request(cursor, campaigns)
            async for piece in self._subscribers.ExportContacts(request, timeout=timeout):
                yield piece

    async def delete_subscriber(
        self, subscriber_id: str, reason: str, *, timeout: float | None = None
    ) -> pb.DeleteSubscriberResponse:
        """As `CrmClient.delete_subscriber`."""
        request = pb.DeleteSubscriberRequest(subscriber_id=subscriber_id, reason=reason)
        with translated():
            return await self._subscribers.DeleteSubscriber(request, timeout=timeout)


def advise_request(
    subscriber_id: str,
    touch_point: str,
    request_id: str,
    event_type: str,
    attributes: Mapping[str, Any] | None,
    cell_id: str,
    imei: str,
    agent: str,
) -> advice_pb.AdviseRequest:
    """The message of a request for advice."""
    return advice_pb.AdviseRequest(
        request_id=request_id,
        subscriber_id=subscriber_id,
        touch_point=touch_point,
        event_type=event_type,
        attributes=encode_attributes(attributes or {}, Encoding.JSON),
        attributes_encoding=ON_THE_WIRE[Encoding.JSON],
        cell_id=cell_id,
        imei=imei,
        agent=agent,
    )


def outcome_request(
    decision_id: str,
    kind: OutcomeKind,
    occurred_at: datetime | None,
    detail: str,
    agent: str,
    request_id: str,
) -> advice_pb.ReportOutcomeRequest:
    """The message of an outcome."""
    return advice_pb.ReportOutcomeRequest(
        decision_id=decision_id,
        kind=cast("types_pb2.OutcomeKind.ValueType", int(kind)),
        occurred_at=None if occurred_at is None else to_timestamp(occurred_at),
        detail=detail,
        agent=agent,
        request_id=request_id,
    )
