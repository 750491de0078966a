"""Rejected events, kept for a while so that operators can see what a collector sends.

They are written in the transaction of their commit group, so that keeping them costs next to nothing; the
newest are kept, so that a collector at fault cannot fill the disk. They hold people's numbers as they were
sent: nobody writes them to a log.
"""

from __future__ import annotations

from opportune_service.app.records import Quarantined
from opportune_service.core.events import MAX_ATTRIBUTES_BYTES, Event, Rejection

MOST = 10_000
"""Rejected events that are kept: enough to see what is wrong; 160 MB if all are as large as may be."""

_MAX_TEXT = 1_000
"""Characters of an id, type, cell or IMEI that are kept; none that is accepted has more than 200."""

_INT64 = 2**63 - 1


def quarantined(source: str, event: Event, rejection: Rejection, received_us: int) -> Quarantined:
    """The event as it was sent, fit to be kept: attributes that are too large are left out, other text that
    is too long is cut, and what no store can hold is replaced."""
    kept = Event(
        id=_kept(event.id),
        subscriber_id=_kept(event.subscriber_id),
        type=_kept(event.type),
        occurred_at_us=max(-_INT64, min(event.occurred_at_us, _INT64)),
        attributes=event.attributes if len(event.attributes) <= MAX_ATTRIBUTES_BYTES else b"",
        cell_id=_kept(event.cell_id),
        imei=_kept(event.imei),
        encoding=event.encoding,
    )
    return Quarantined(_kept(source), kept, rejection.reason, rejection.message, received_us)


def _kept(text: str) -> str:
    return text[:_MAX_TEXT].encode(errors="replace").decode()
