# ruff: noqa: ASYNC109 - a timeout here is the call's deadline, which the service is told
"""What business systems do: bring context, ask for advice, report what came of it."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, Final, cast

import grpc
import msgspec
from grpc import aio
from opportune.v1 import advice_service_pb2 as advice_pb
from opportune.v1 import subscriber_service_pb2 as pb
from opportune.v1 import types_pb2
from opportune.v1.advice_service_pb2_grpc import AdviceServiceStub
from opportune.v1.subscriber_service_pb2_grpc import SubscriberServiceStub

from opportune_client.errors import translated
from opportune_client.events import ON_THE_WIRE, encode_attributes
from opportune_client.times import to_timestamp
from opportune_client.words import Encoding, ImportMode, OutcomeKind

BATCH_SIZE: Final = 500
IMPORT_SECONDS: Final = 3600.0
"""Deadline of an import unless told otherwise: millions of records take a while, hanging helps nobody."""


@dataclass(frozen=True, slots=True)
class SubscriberRecord:
    """What a business system knows of one subscriber.

    `attributes` are those that the rulebase declares under `subscriber`. `consents`: scope
    (`channel/NAME`, `category/NAME`, or `all`) -> whether contact is allowed. `behaviours`: name ->
    whether data mining found it to hold. `metrics`: name -> local day -> the day's figure, from before
    the metric was counted by the service. Its `repr` shows nobody's number.
    """

    subscriber_id: str = field(repr=False)
    attributes: Mapping[str, Any] = field(default_factory=dict, repr=False)
    consents: Mapping[str, bool] = field(default_factory=dict)
    behaviours: Mapping[str, bool] = field(default_factory=dict)
    metrics: Mapping[str, Mapping[date, Any]] = field(default_factory=dict, repr=False)


class CrmClient:
    """Context, advice and outcomes over one channel. Thread-safe. Errors: `OpportuneError`."""

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
        requests = _until_failure(import_requests(records, as_of, mode, origin), failures)
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
                    async for request in _async_import_requests(records, as_of, mode, origin):
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


def import_requests(
    records: Iterable[SubscriberRecord], as_of: datetime, mode: ImportMode, origin: str
) -> Iterator[pb.ImportSubscribersRequest]:
    """The messages of an import: the header, then batches."""
    yield _header(as_of, mode, origin)
    batch: list[pb.SubscriberRecord] = []
    for record in records:
        batch.append(_record(record))
        if len(batch) == BATCH_SIZE:
            yield _batch(batch)
            batch = []
    if batch:
        yield _batch(batch)


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


async def _async_import_requests(
    records: Iterable[SubscriberRecord] | AsyncIterable[SubscriberRecord],
    as_of: datetime,
    mode: ImportMode,
    origin: str,
) -> AsyncIterator[pb.ImportSubscribersRequest]:
    if not isinstance(records, AsyncIterable):
        for request in import_requests(records, as_of, mode, origin):
            yield request
        return
    yield _header(as_of, mode, origin)
    batch: list[pb.SubscriberRecord] = []
    async for record in records:
        batch.append(_record(record))
        if len(batch) == BATCH_SIZE:
            yield _batch(batch)
            batch = []
    if batch:
        yield _batch(batch)


def _header(as_of: datetime, mode: ImportMode, origin: str) -> pb.ImportSubscribersRequest:
    header = pb.ImportHeader(
        as_of=to_timestamp(as_of),
        mode=cast("pb.ImportMode.ValueType", int(mode)),
        attributes_encoding=ON_THE_WIRE[Encoding.JSON],
        origin=origin,
    )
    return pb.ImportSubscribersRequest(header=header)


def _batch(records: list[pb.SubscriberRecord]) -> pb.ImportSubscribersRequest:
    return pb.ImportSubscribersRequest(batch=pb.SubscriberBatch(subscribers=records))


def _record(record: SubscriberRecord) -> pb.SubscriberRecord:
    return pb.SubscriberRecord(
        subscriber_id=record.subscriber_id,
        attributes=encode_attributes(record.attributes, Encoding.JSON),
        consents=[
            types_pb2.Consent(
                scope=scope,
                state=types_pb2.CONSENT_STATE_ALLOWED if allowed else types_pb2.CONSENT_STATE_REFUSED,
            )
            for scope, allowed in record.consents.items()
        ],
        behaviours=[
            pb.ImportedBehaviour(name=name, holds=holds) for name, holds in record.behaviours.items()
        ],
        metrics=[
            pb.MetricSeed(
                name=name,
                days=[
                    pb.MetricSeedDay(date=day.isoformat(), value_json=msgspec.json.encode(value).decode())
                    for day, value in days.items()
                ],
            )
            for name, days in record.metrics.items()
        ],
    )


def _until_failure(
    requests: Iterator[pb.ImportSubscribersRequest], failures: list[Exception]
) -> Iterator[pb.ImportSubscribersRequest]:
    """The messages up to the first failure, which is kept: gRPC, whose thread this is, would hide it."""
    try:
        yield from requests
    except Exception as error:  # noqa: BLE001 - kept for the caller, who raises it
        failures.append(error)
