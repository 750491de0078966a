"""Import static data of subscribers and show what is known of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from opportune_service.app.consent import Consent, consent_record, unknown_scope
from opportune_service.app.errors import InvalidRequestError, NotFoundError
from opportune_service.app.ingest import Ingest
from opportune_service.app.ports import LiveState
from opportune_service.app.revisions import LiveRevision
from opportune_service.core.admit import AttributesError, is_subscriber_id
from opportune_service.core.cells import cell_at
from opportune_service.core.events import ContextRecord, Encoding, ImportMode, Rejection, RejectionReason
from opportune_service.core.fold import read_metric, remembered_until
from opportune_service.core.state import SubscriberState


@dataclass(frozen=True, slots=True)
class ImportItem:
    """Context of one subscriber as it was sent: an encoded map of attributes, what was sent apart from it
    (``behaviour.NAME``, ``metric.NAME``), and consents. `fault`: what is wrong with it, if anything is."""

    subscriber_id: str
    attributes: bytes
    more: Mapping[str, object] = field(default_factory=dict)
    consents: tuple[Consent, ...] = ()
    fault: str = ""


@dataclass(frozen=True, slots=True)
class ImportReceipt:
    """`outdated` records were older than what is known and changed nothing; they are not in `accepted`.
    `ignored` counts undeclared attributes by name."""

    accepted: int
    outdated: int
    rejections: list[Rejection]
    ignored: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class MetricReading:
    """`covered` False: `value` is only a bound (the metric's `bound` says which), or nothing (None)."""

    name: str
    value: object
    covered: bool


@dataclass(frozen=True, slots=True)
class SubscriberView:
    """What is known of a subscriber now. `facts`: those remembered -> when they will be forgotten."""

    subscriber_id: str
    context: dict[str, object]
    as_of_us: dict[str, int]
    metrics: list[MetricReading]
    facts: dict[str, int]
    cell_id: str
    imei: str
    latest_event_us: int


async def import_context(
    live: LiveRevision,
    ingest: Ingest,
    items: Sequence[ImportItem],
    as_of_us: int,
    mode: ImportMode,
    encoding: Encoding,
    origin: str = "import",
) -> ImportReceipt:
    """Take in static data as it was at `as_of_us`, then consents, each as of its own time, and wait until
    all is durable. Bad items are rejected one by one. `origin` is kept in the log. Raises
    `NoRulebaseError`, `StoreUnavailableError`."""
    admission = live.current.admission
    ignored_before = admission.ignored.by_name.copy()
    rulebase = live.current.rulebase
    records: list[ContextRecord] = []
    words: list[ContextRecord] = []
    rejections: list[Rejection] = []
    for index, item in enumerate(items):
        if not is_subscriber_id(item.subscriber_id):
            message = "id must be 5 to 15 digits without a plus sign"
            rejections.append(Rejection(index, "", RejectionReason.BAD_SUBSCRIBER_ID, message))
            continue
        if item.fault:
            rejections.append(Rejection(index, "", RejectionReason.BAD_VALUE, item.fault))
            continue
        try:
            attributes = admission.admit_context(item.attributes, encoding, item.more)
        except AttributesError as error:
            rejections.append(Rejection(index, "", RejectionReason.BAD_ATTRIBUTES, str(error)))
            continue
        fault = next(filter(None, (unknown_scope(rulebase, each.scope) for each in item.consents)), "")
        if fault:
            rejections.append(Rejection(index, "", RejectionReason.UNKNOWN_NAME, fault))
            continue
        words += [consent_record(item.subscriber_id, each) for each in item.consents]
        if attributes or mode is ImportMode.UPSERT or not item.consents:
            # Consents alone are no context: they do not make a stranger known.
            records.append(ContextRecord(item.subscriber_id, as_of_us, mode, attributes))
    ignored = admission.ignored.by_name - ignored_before
    outdated = (await ingest.import_context(origin, records)).outdated if records else 0
    if words:
        await ingest.import_context(origin, words)
    names = {name.removeprefix("subscriber."): count for name, count in ignored.items()}
    accepted = len(items) - len(rejections) - outdated
    return ImportReceipt(accepted, outdated, rejections, names)


async def show_subscriber(
    live: LiveRevision, states: LiveState, subscriber_id: str, now_us: int
) -> SubscriberView:
    """Context, metrics and facts of one subscriber as of `now_us`. Raises `NotFoundError` for a
    stranger."""
    if not is_subscriber_id(subscriber_id):
        raise InvalidRequestError(
            "subscriber_id", "subscriber_id must be 5 to 15 digits without a plus sign"
        )
    revision = live.current
    state = await states.view(subscriber_id)
    if state == SubscriberState():
        raise NotFoundError("nothing is known of this subscriber")
    zone = revision.zone_of(state.context)
    readings = []
    for metric in revision.rulebase.metrics.values():
        value, covered = read_metric(metric, revision.coverage.get(metric.key), state, now_us, zone)
        readings.append(MetricReading(metric.name, value, covered))
    return SubscriberView(
        subscriber_id=subscriber_id,
        context=dict(state.context),
        as_of_us=dict(state.as_of_us),
        metrics=readings,
        facts={
            fact.name: until_us
            for fact in revision.rulebase.facts.values()
            if (until_us := remembered_until(fact, state, now_us)) is not None
        },
        cell_id=cell_at(state, now_us),
        imei=state.imei,
        latest_event_us=state.latest_us,
    )
