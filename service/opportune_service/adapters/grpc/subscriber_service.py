"""What business systems bring and ask."""

from __future__ import annotations

import json
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

from opportune.v1 import subscriber_service_pb2 as pb
from opportune.v1 import types_pb2 as types
from opportune_rulebase.model import Bound

from opportune_service.adapters.grpc.contacts import export_message, report_of, view_message
from opportune_service.adapters.grpc.errors import UnsupportedError
from opportune_service.adapters.grpc.handlers import Context
from opportune_service.adapters.grpc.roles import caller_name
from opportune_service.adapters.grpc.use_cases import UseCases
from opportune_service.adapters.grpc.words import (
    ENCODINGS,
    check_length,
    check_subscriber,
    chosen,
    cursor,
    json_text,
    optional_timestamp,
    page_size,
    past_time,
    rejection,
    searched_time,
    timestamp,
)
from opportune_service.app.consent import Consent, consents_in, set_consent
from opportune_service.app.contacts import contact_view, export_contacts, record_contacts
from opportune_service.app.context import (
    ImportItem,
    MetricReading,
    SubscriberView,
    import_context,
    show_subscriber,
)
from opportune_service.app.errors import InvalidRequestError
from opportune_service.core.events import MAX_SKEW_US, Encoding, ImportMode
from opportune_service.core.revision import Revision

MAX_BATCH_RECORDS = 1_000
_MAX_REJECTIONS = 1_000
_MAX_IGNORED_NAMES = 100
_MAX_CAMPAIGNS = 1_000
_MODES: Mapping[int, ImportMode] = {
    pb.IMPORT_MODE_UPSERT: ImportMode.UPSERT,
    pb.IMPORT_MODE_PATCH: ImportMode.PATCH,
}
_CONSENT_STATES = {
    None: types.CONSENT_STATE_UNSPECIFIED,
    True: types.CONSENT_STATE_ALLOWED,
    False: types.CONSENT_STATE_REFUSED,
}
_ALLOWED: Mapping[int, bool | None] = {number: allowed for allowed, number in _CONSENT_STATES.items()}
_VIEW_ENTRIES = 100
_MAX_HEARD = 10_000


@dataclass(frozen=True, slots=True)
class _Header:
    as_of_us: int
    mode: ImportMode
    encoding: Encoding
    origin: str


class SubscriberService:
    """See the contract."""

    def __init__(self, app: UseCases) -> None:
        self._app = app
        self._heard: OrderedDict[int, int] = OrderedDict()

    async def ImportSubscribers(  # noqa: N802
        self, requests: AsyncIterator[pb.ImportSubscribersRequest], _: Context
    ) -> pb.ImportSubscribersResponse:
        first = await anext(requests, None)
        if first is None or first.WhichOneof("message") != "header":
            raise InvalidRequestError("header", "the first message of an import must be the header")
        header = self._header(first.header)
        answer = pb.ImportSubscribersResponse()
        ignored: Counter[str] = Counter()
        sent = 0
        async for message in requests:
            if message.WhichOneof("message") != "batch":
                raise InvalidRequestError("batch", "every message but the first must be a batch")
            items = _items(message.batch, header.as_of_us, self._app.clock.now_us())
            receipt = await import_context(
                self._app.live,
                self._app.ingest,
                items,
                header.as_of_us,
                header.mode,
                header.encoding,
                header.origin,
            )
            answer.imported_count += receipt.accepted
            answer.outdated_count += receipt.outdated
            answer.rejected_count += len(receipt.rejections)
            room = _MAX_REJECTIONS - len(answer.rejections)
            answer.rejections.extend(rejection(each, sent) for each in receipt.rejections[:room])
            for name, count in receipt.ignored.items():
                if name in ignored or len(ignored) < _MAX_IGNORED_NAMES:
                    ignored[name] += count
            sent += len(items)
        answer.ignored_attribute_counts.update(ignored)
        return answer

    def _header(self, header: pb.ImportHeader) -> _Header:
        if not header.HasField("as_of"):
            raise InvalidRequestError("header.as_of", "header.as_of is needed: when was the data true?")
        check_length("header.origin", header.origin, 64)
        return _Header(
            as_of_us=past_time("header.as_of", header.as_of, self._app.clock.now_us()),
            mode=chosen(_MODES, header.mode, "header.mode"),
            encoding=chosen(ENCODINGS, header.attributes_encoding, "header.attributes_encoding"),
            origin=header.origin or "import",
        )

    async def GetSubscriber(  # noqa: N802
        self, request: pb.GetSubscriberRequest, _: Context
    ) -> pb.GetSubscriberResponse:
        check_subscriber("subscriber_id", request.subscriber_id)
        revision = self._app.live.current
        self._app.ingest.check_whole()
        view = await show_subscriber(
            self._app.live, self._app.states, request.subscriber_id, self._app.clock.now_us()
        )
        return pb.GetSubscriberResponse(subscriber=_subscriber(view, revision))

    async def DeleteSubscriber(  # noqa: N802
        self, request: pb.DeleteSubscriberRequest, context: Context
    ) -> pb.DeleteSubscriberResponse:
        check_subscriber("subscriber_id", request.subscriber_id)
        check_length("reason", request.reason, 500, least=1)
        check_length("request_id", request.request_id, 64)
        erased = await self._app.erasures.erase(request.subscriber_id, caller_name(context), request.reason)
        return pb.DeleteSubscriberResponse(existed=erased.existed, deleted_at=timestamp(erased.at_us))

    async def GetContactView(  # noqa: N802
        self, request: pb.GetContactViewRequest, _: Context
    ) -> pb.GetContactViewResponse:
        app = self._app
        check_subscriber("subscriber_id", request.subscriber_id)
        # Clocks of other systems may be ahead: what they have told of is not left out.
        until_us = app.clock.now_us() + MAX_SKEW_US + 1
        app.ingest.check_sound()
        view = await contact_view(
            app.states,
            app.ledger,
            app.thread,
            request.subscriber_id,
            searched_time("since", request.since) if request.HasField("since") else 0,
            searched_time("until", request.until) if request.HasField("until") else until_us,
            page_size(request.page_size, _VIEW_ENTRIES),
        )
        rulebase = app.live.of(request.subscriber_id).rulebase if app.live.id else None
        return pb.GetContactViewResponse(view=view_message(view, rulebase))

    async def SetConsent(  # noqa: N802
        self, request: pb.SetConsentRequest, _: Context
    ) -> pb.SetConsentResponse:
        app, consent = self._app, request.consent
        check_subscriber("subscriber_id", request.subscriber_id)
        check_length("consent.origin", consent.origin, 64)
        check_length("request_id", request.request_id, 64)
        now_us = app.clock.now_us()
        said = _said(consent, self._first_heard(request, now_us), now_us)
        in_force, applied = await set_consent(
            app.live, app.states, app.ingest, request.subscriber_id, said, consent.origin or "consent"
        )
        return pb.SetConsentResponse(
            consent=_consent(in_force, consent.origin if applied else ""), applied=applied
        )

    def _first_heard(self, request: pb.SetConsentRequest, now_us: int) -> int:
        """When a consent without a time was said: one that is sent again must not become newer than what
        was said since. Kept as hashes, which name nobody."""
        if not request.request_id:
            return now_us
        first_us = self._heard.setdefault(hash((request.subscriber_id, request.request_id)), now_us)
        if len(self._heard) > _MAX_HEARD:
            self._heard.popitem(last=False)
        return first_us

    async def RecordContacts(  # noqa: N802
        self, request: pb.RecordContactsRequest, _: Context
    ) -> pb.RecordContactsResponse:
        app = self._app
        check_length("source", request.source, 64, least=1)
        check_length("request_id", request.request_id, 64)
        if not 0 < len(request.contacts) <= MAX_BATCH_RECORDS:
            raise InvalidRequestError(
                "contacts", f"a call has 1 to {MAX_BATCH_RECORDS} contacts; send several"
            )
        reports = [report_of(each) for each in request.contacts]
        receipt = await record_contacts(
            app.live, app.ledger, app.thread, request.source, reports, app.clock.now_us()
        )
        return pb.RecordContactsResponse(
            recorded_count=receipt.recorded,
            duplicate_count=receipt.duplicates,
            rejections=[rejection(each) for each in receipt.rejections],
        )

    async def ExportContacts(  # noqa: N802
        self, request: pb.ExportContactsRequest, _: Context
    ) -> AsyncIterator[pb.ExportContactsResponse]:
        after = cursor("cursor", request.cursor)
        if len(request.campaigns) > _MAX_CAMPAIGNS:
            raise InvalidRequestError(
                "campaigns", f"a call names at most {_MAX_CAMPAIGNS} campaigns, or none for all"
            )
        campaigns = frozenset(request.campaigns)
        async for changes in export_contacts(self._app.ledger, self._app.thread, after, campaigns):
            yield export_message(changes)


def _consent(consent: Consent, origin: str = "") -> types.Consent:
    return types.Consent(
        scope=consent.scope,
        state=_CONSENT_STATES[consent.allowed],
        as_of=optional_timestamp(consent.as_of_us),
        origin=origin,
    )


def _items(batch: pb.SubscriberBatch, as_of_us: int, now_us: int) -> list[ImportItem]:
    if len(batch.subscribers) > MAX_BATCH_RECORDS:
        raise InvalidRequestError(
            "batch.subscribers", f"a batch has at most {MAX_BATCH_RECORDS} records; send several"
        )
    return [_item(record, as_of_us, now_us) for record in batch.subscribers]


def _item(record: pb.SubscriberRecord, as_of_us: int, now_us: int) -> ImportItem:
    more = _behaviours_and_seeds(record)
    try:
        consents = tuple(_said(consent, as_of_us, now_us) for consent in record.consents)
    except InvalidRequestError as error:  # one wrong record must not end an import of millions
        return ImportItem(record.subscriber_id, record.attributes, more, fault=str(error))
    return ImportItem(record.subscriber_id, record.attributes, more, consents)


def _said(consent: types.Consent, as_of_us: int, now_us: int) -> Consent:
    """A consent as it was sent; `as_of_us` where it has no time of its own."""
    if consent.HasField("as_of"):
        as_of_us = past_time("consent.as_of", consent.as_of, now_us)
    if consent.state not in _ALLOWED:
        raise InvalidRequestError(
            "consent.state", "consent.state must be allowed or refused, or absent to take the word back"
        )
    return Consent(consent.scope, _ALLOWED[consent.state], as_of_us)


def _behaviours_and_seeds(record: pb.SubscriberRecord) -> dict[str, object]:
    more: dict[str, object] = {}
    for behaviour in record.behaviours:
        if behaviour.HasField("valid_until"):
            raise UnsupportedError("ImportedBehaviour.valid_until")
        more[f"behaviour.{behaviour.name}"] = behaviour.holds
    for seed in record.metrics:
        more[f"metric.{seed.name}"] = {day.date: _figure(day) for day in seed.days}
    return more


def _figure(day: pb.MetricSeedDay) -> object:
    """What is no JSON is refused with the record, like any figure that does not fit."""
    try:
        figure: object = json.loads(day.value_json)
    except (ValueError, RecursionError):
        return None
    return figure


def _subscriber(view: SubscriberView, revision: Revision) -> pb.Subscriber:
    tables = revision.rulebase.tables
    terminal = tables.terminals.get(view.imei[:8]) if view.imei else None
    place = tables.cells.get(view.cell_id)
    attributes = {name: value for name, value in view.context.items() if "." not in name}
    return pb.Subscriber(
        subscriber_id=view.subscriber_id,
        attributes=json_text(attributes).encode() if attributes else b"",
        as_of=optional_timestamp(max(view.as_of_us.values(), default=0)),
        consents=[_consent(each) for each in consents_in(view.context, view.as_of_us)],
        metrics=[_metric(reading, revision) for reading in view.metrics],
        behaviours=[
            pb.ImportedBehaviour(
                name=name.removeprefix("behaviour."),
                holds=view.context[name] is True,
                valid_until=timestamp(view.as_of_us.get(name, 0) + behaviour.valid_for_us),
            )
            for name, behaviour in revision.rulebase.imported.items()
            if name in view.context
        ],
        facts=[
            pb.RememberedFact(name=name, expires_at=timestamp(until_us))
            for name, until_us in sorted(view.facts.items())
        ],
        imei=view.imei,
        terminal=json_text(dict(terminal)).encode() if terminal else b"",
        cell_id=view.cell_id,
        place=place.name if place else "",
        last_event_at=optional_timestamp(view.latest_event_us),
        revision=revision.id,
    )


def _metric(reading: MetricReading, revision: Revision) -> pb.MetricValue:
    metric = revision.rulebase.metrics[reading.name]
    if reading.covered:
        coverage = types.COVERAGE_COVERED
    else:
        at_least = metric.bound is Bound.LOWER
        coverage = types.COVERAGE_AT_LEAST if at_least else types.COVERAGE_AT_MOST
        if reading.value is None:
            coverage = types.COVERAGE_UNKNOWN
    return pb.MetricValue(
        name=reading.name,
        label=metric.label,
        value_json=None if reading.value is None else json_text(reading.value),
        coverage=coverage,
        covered_since=optional_timestamp(revision.coverage.get(metric.key, 0)),
    )
