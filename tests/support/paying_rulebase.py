"""A rulebase of sums, with an instant in the context that a campaign reads; events and context for it."""

from __future__ import annotations

from textwrap import dedent

import msgspec
from opportune_service.app.context import ImportItem, import_context
from opportune_service.bootstrap import Application
from opportune_service.core.events import Encoding, Event, ImportMode
from support.rulebases import NOON_US

CAMPAIGN = """\
    campaign: bonus
    label: Bonus
    product: bonus
    on: [top_up]
    when: metric.paid_30d > 0 && metric.paid_24h > 0 && sub.since < now
    mode: automatic
    channels: [sms]
    content: {sms: "A bonus."}
    """


def paying_rulebase() -> dict[str, bytes]:
    """A rulebase of sums, with a timestamp in the context that an offer mentions."""
    files = {
        "rulebase.yaml": "rulebase: paying\ntime_zone: Asia/Shanghai\n",
        "vocabulary.yaml": """\
            events:
              top_up: {attributes: {amount: {type: int, min: 0}, at: timestamp, rate: double}}
            subscriber: {age: int, since: timestamp}
            channels: {sms: {mode: automatic}}
            products: {bonus: {label: Bonus, category: money}}
            """,
        "behaviours.yaml": """\
            metrics:
              paid_30d: {sum: event.amount, of: top_up, days: 30}
              paid_24h: {sum: event.amount, of: top_up, last: 24h}
              rates_30d: {sum: event.rate, of: top_up, days: 30}
            """,
        "campaigns/bonus.yaml": CAMPAIGN,
        "policies.yaml": "caps: {weekly: {limit: 1000, period: {rolling: 7d}}}\n",
    }
    return {name: dedent(text).encode() for name, text in files.items()}


def top_up(subscriber_id: str, event_id: str, at_us: int = NOON_US, **attributes: object) -> Event:
    return Event(event_id, subscriber_id, "top_up", at_us, msgspec.json.encode(attributes))


async def tell(
    app: Application,
    subscriber_id: str,
    as_of_us: int,
    mode: ImportMode = ImportMode.PATCH,
    **known: object,
) -> None:
    """Import context of one subscriber."""
    item = ImportItem(subscriber_id, msgspec.json.encode(known))
    await import_context(app.live, app.ingest, [item], as_of_us, mode, Encoding.JSON)
