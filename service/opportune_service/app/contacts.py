"""Contacts of all systems: recorded, shown in one view, exported."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass

from opportune_rulebase.model import Rulebase
from opportune_rulebase.policies import Mode

from opportune_service.app.errors import PrunedError
from opportune_service.app.ledger_thread import LedgerThread
from opportune_service.app.ports import Ledger, LiveState
from opportune_service.app.records import ContactChange, ContactRow, ForeignContact, TouchRow
from opportune_service.app.revisions import LiveRevision
from opportune_service.core.admit import is_subscriber_id, mask
from opportune_service.core.events import MAX_SKEW_US, Rejection, RejectionReason
from opportune_service.core.verdict import Contact, ContactState

MAX_ID = 200
MAX_CONTENT = 2_000
EXPORT_PIECE = 500
"""Changes that are read in one go: commits wait for some milliseconds at most."""

_Fault = tuple[RejectionReason, str]


@dataclass(frozen=True, slots=True)
class RecordedContact:
    """A contact as another system tells of it. `mode` None: not said; `at_us` None: no time. `category` is
    only needed without a `product`."""

    id: str
    subscriber_id: str
    channel: str
    mode: Mode | None
    at_us: int | None
    campaign: str = ""
    product: str = ""
    category: str = ""
    content: str = ""


@dataclass(frozen=True, slots=True)
class RecordReceipt:
    """What became of the contacts of one call."""

    recorded: int
    duplicates: int
    rejections: list[Rejection]


@dataclass(frozen=True, slots=True)
class ContactView:
    """Everything that the company and the customer said to each other. `context`: what is known of the
    customer now; `marketing` and `other` are newest first."""

    subscriber_id: str
    context: Mapping[str, object]
    marketing: Sequence[ContactRow]
    other: TouchRow


async def record_contacts(
    live: LiveRevision,
    ledger: Ledger,
    thread: LedgerThread,
    source: str,
    reports: Sequence[RecordedContact],
    now_us: int,
) -> RecordReceipt:
    """Keep contacts that the system `source` made, and wait until they are durable: caps count them from
    the next decision on. Each is rejected by itself. The same id of the same source is the same contact.
    Raises `NoRulebaseError`, `StoreUnavailableError`."""
    rulebase = live.current.rulebase
    rejections: list[Rejection] = []
    contacts: list[ForeignContact] = []
    for index, report in enumerate(reports):
        fault = _fault(rulebase, report, now_us)
        if fault is not None:
            rejections.append(Rejection(index, mask(report.id), *fault))
        elif report.mode is not None and report.at_us is not None:
            contacts.append(_contact(rulebase, source, report, report.mode, report.at_us))
    new = sum(await thread.run(_record, ledger, contacts)) if contacts else 0
    return RecordReceipt(new, len(contacts) - new, rejections)


def _record(ledger: Ledger, contacts: Sequence[ForeignContact]) -> list[bool]:
    with ledger.transaction() as tx:
        return tx.record_contacts(contacts)


def _contact(
    rulebase: Rulebase, source: str, report: RecordedContact, mode: Mode, at_us: int
) -> ForeignContact:
    product = rulebase.vocabulary.products.get(report.product)
    contact = Contact(
        decision_id=report.id,
        campaign=report.campaign,
        product=report.product,
        category=product.category if product else report.category,
        channel=report.channel,
        mode=mode,
        at_us=at_us,
        state=ContactState.COMMITTED,
        origin=source,
    )
    return ForeignContact(report.subscriber_id, contact, report.content)


def _fault(rulebase: Rulebase, report: RecordedContact, now_us: int) -> _Fault | None:
    """Why a contact cannot be taken in."""
    why = RejectionReason
    if not is_subscriber_id(report.subscriber_id):
        return why.BAD_SUBSCRIBER_ID, "subscriber_id must be 5 to 15 digits without a plus sign"
    if not 0 < len(report.id) <= MAX_ID:
        return why.BAD_EVENT_ID, f"id must have 1 to {MAX_ID} characters, unique in its source"
    if report.mode is None:
        return why.BAD_VALUE, "mode must be automatic or manual"
    if report.at_us is None:
        return why.TOO_LATE, "occurred_at is needed: when was the contact?"
    if not 0 <= report.at_us <= now_us + MAX_SKEW_US:
        return why.IN_FUTURE, "occurred_at must be a time since 1970, at most 5 minutes from now"
    if len(report.campaign) > MAX_ID:
        return why.BAD_VALUE, f"campaign must have at most {MAX_ID} characters"
    if len(report.content) > MAX_CONTENT:
        return why.TOO_LARGE, f"content must have at most {MAX_CONTENT} characters"
    if "\0" in report.id + report.campaign + report.content:  # not every store can keep it
        return why.BAD_VALUE, "id, campaign and content must not hold the character NUL"
    return _unknown_name(rulebase, report)


def _unknown_name(rulebase: Rulebase, report: RecordedContact) -> _Fault | None:
    vocabulary = rulebase.vocabulary
    if report.channel not in vocabulary.channels:
        return _undeclared("channel", sorted(vocabulary.channels))
    product = vocabulary.products.get(report.product)
    categories = {each.category for each in vocabulary.products.values()}
    if report.product and product is None:
        return _undeclared("product", ())
    if report.category and report.category not in categories:
        return _undeclared("category", sorted(categories))
    if product is not None and report.category not in ("", product.category):
        message = f"category must be that of the product, {product.category!r}, or empty"
        return RejectionReason.BAD_VALUE, message
    return None


def _undeclared(what: str, names: Sequence[str]) -> _Fault:
    listed = f": use one of {', '.join(names)}" if names else ""
    return RejectionReason.UNKNOWN_NAME, f"{what} is not declared in the active rulebase{listed}"


async def contact_view(
    states: LiveState,
    ledger: Ledger,
    thread: LedgerThread,
    subscriber_id: str,
    from_us: int,
    to_us: int,
    limit: int,
) -> ContactView:
    """The contact view for the time [from_us, to_us), at most `limit` entries of each kind; empty for a
    stranger. Raises `StoreUnavailableError`."""

    def read() -> tuple[Sequence[ContactRow], TouchRow]:
        return (
            ledger.contacts_of(subscriber_id, from_us, to_us, limit),
            ledger.touches_of(subscriber_id, from_us, to_us, limit),
        )

    marketing, other = await thread.run(read)
    context = (await states.contexts([subscriber_id])).get(subscriber_id, {})
    return ContactView(subscriber_id, dict(context), marketing, other)


async def export_contacts(
    ledger: Ledger, thread: LedgerThread, after: int, campaigns: Collection[str]
) -> AsyncIterator[Sequence[ContactChange]]:
    """What happened to contacts beyond cursor `after`, in order of recording, piece by piece, up to what is
    recorded when the last piece is read. Raises `StoreUnavailableError`, and `PrunedError` if some of them
    are not kept any more."""
    while changes := await thread.run(_changes, ledger, after, campaigns):
        yield changes
        after = changes[-1].cursor
        if len(changes) < EXPORT_PIECE:
            return


def _changes(ledger: Ledger, after: int, campaigns: Collection[str]) -> Sequence[ContactChange]:
    """In the ledger's thread."""
    if 0 < after < ledger.changes_pruned():
        raise PrunedError(
            "what follows the cursor has been pruned: begin without one, and take what is missing from the"
            " archive"
        )
    return ledger.contact_changes(after, EXPORT_PIECE, campaigns)
