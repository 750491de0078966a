"""A rulebase in which policies defer, answers count and campaigns can pause themselves; its events."""

from __future__ import annotations

from textwrap import dedent

import msgspec
from opportune_service.core.events import Event
from support.rulebases import NOON_US

MINUTE_US = 60_000_000
HOUR_US = 60 * MINUTE_US
NIGHT_US = NOON_US + 11 * HOUR_US
"""23:00 where the subscribers are: in the quiet hours."""
MORNING_US = NOON_US + 20 * HOUR_US
"""08:00 of the next day, when they end."""


def guarded_rulebase(
    *,
    policies: str = "",
    deferral: str = "{jitter: 0m}",
    gift: str = "",
    data: str = "",
    without: str = "",
) -> dict[str, bytes]:
    """Calls bring a gift, top-ups data, which goes before it; one message a day, none at night. `policies`,
    `gift` and `data` are more keys of the policies and of the two campaigns; `without` is a campaign to
    leave out."""
    files = {
        "rulebase.yaml": "rulebase: guarded\ntime_zone: Asia/Shanghai\n",
        "vocabulary.yaml": """\
            events:
              call_made: {}
              top_up: {attributes: {amount: {type: int, min: 0}}}
              ordered: {attributes: {product: string}}
              reply_received: {attributes: {text: string, channel: string}}
              hotline_complaint:
                {touch: complaint, attributes: {content: string, level: string, staff: string}}
            subscriber: {age: int}
            channels: {sms: {mode: automatic}, push: {mode: automatic}, counter: {mode: manual}}
            products:
              gift: {label: Gift, category: loyalty}
              data: {label: Data, category: data}
            """,
        "campaigns/gift.yaml": f"""\
            campaign: gift
            label: A gift
            product: gift
            on: [call_made]
            mode: automatic
            channels: [sms]
            fresh_for: 1h
            expires_after: 24h
            open_for: 1h
            priority: 10
            content: {{sms: "A gift for you."}}
            conversion: {{event: ordered, when: event.product == "gift", within: 7d}}
            {gift}
            """,
        "campaigns/data.yaml": f"""\
            campaign: data
            label: More data
            product: data
            on: [top_up]
            mode: automatic
            channels: [sms]
            fresh_for: 1h
            expires_after: 24h
            open_for: 1h
            priority: 20
            content: {{sms: "Your top-up of {{{{event.amount}}}} brings data."}}
            {data}
            """,
        "policies.yaml": f"""\
            caps: {{daily: {{limit: 1, period: day}}}}
            quiet_hours: {{night: {{from: "21:00", to: "08:00", otherwise: defer}}}}
            cool_downs: {{refused: {{after: [refused], for: 30d, scope: any}}}}
            deferral: {deferral}
            replies:
              event: reply_received
              text: event.text
              channel: event.channel
              accepted: ["1", "yes"]
              refused: ["n"]
            {policies}
            """,
    }
    files.pop(f"campaigns/{without}.yaml", None)
    return {name: dedent(content).encode() for name, content in files.items()}


def call(subscriber_id: str, event_id: str, at_us: int = NOON_US) -> Event:
    return Event(event_id, subscriber_id, "call_made", at_us)


def top_up(subscriber_id: str, event_id: str, at_us: int = NOON_US, amount: int = 5) -> Event:
    return Event(event_id, subscriber_id, "top_up", at_us, msgspec.json.encode({"amount": amount}))


def order(subscriber_id: str, event_id: str, at_us: int, product: str = "gift") -> Event:
    return Event(event_id, subscriber_id, "ordered", at_us, msgspec.json.encode({"product": product}))


def reply(subscriber_id: str, event_id: str, at_us: int, text: str, channel: str = "sms") -> Event:
    said = msgspec.json.encode({"text": text, "channel": channel})
    return Event(event_id, subscriber_id, "reply_received", at_us, said)
