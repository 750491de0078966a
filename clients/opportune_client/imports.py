"""The messages of an import."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, Final, cast

import msgspec
from opportune.v1 import subscriber_service_pb2 as pb
from opportune.v1 import types_pb2

from opportune_client.events import ON_THE_WIRE, encode_attributes
from opportune_client.times import to_timestamp
from opportune_client.words import Encoding, ImportMode

BATCH_SIZE: Final = 500


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


async def async_import_requests(
    records: Iterable[SubscriberRecord] | AsyncIterable[SubscriberRecord],
    as_of: datetime,
    mode: ImportMode,
    origin: str,
) -> AsyncIterator[pb.ImportSubscribersRequest]:
    """The same for records that may come one by one."""
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


def until_failure(
    requests: Iterator[pb.ImportSubscribersRequest], failures: list[Exception]
) -> Iterator[pb.ImportSubscribersRequest]:
    """The messages up to the first failure, which is kept: gRPC, whose thread this is, would hide it."""
    try:
        yield from requests
    except Exception as error:  # noqa: BLE001 - kept for the caller, who raises it
        failures.append(error)


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
