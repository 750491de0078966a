"""A small rulebase with one of everything that the pipeline touches, and events for it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from textwrap import dedent

import msgspec
from opportune_service.core.events import Event
from support.rulebases import NOON_US

SECOND_US = 1_000_000
_CONTENT = "MMS for less: {{product.label}}"


def small_rulebase(*, weekly_limit: int = 2, threshold: int = 3, text: str = "") -> dict[str, bytes]:
    """Files of a rulebase: heavy MMS senders get an SMS, counter visitors a prompt."""
    files = {
        "rulebase.yaml": "rulebase: small\ntime_zone: Asia/Shanghai\n",
        "vocabulary.yaml": """\
            events:
              mms_sent: {attributes: {size_kb: {type: int, min: 0}}}
              sms_sent: {}
              counter_visit: {}
            subscriber: {age: int}
            channels: {sms: {mode: automatic}, counter: {mode: manual}}
            products:
              mms-bundle: {label: MMS bundle, category: messaging}
              care-plan: {label: Care plan, category: care}
            """,
        "behaviours.yaml": f"""\
            metrics:
              mms_30d: {{count: mms_sent, days: 30}}
              large_24h: {{count: mms_sent, last: 24h, where: event.size_kb > 100}}
            behaviours:
              often_sends_mms: {{label: often sends MMS, when: metric.mms_30d >= {threshold}}}
            """,
        "campaigns/mms-bundle.yaml": f"""\
            campaign: mms-bundle
            label: MMS bundle for heavy senders
            product: mms-bundle
            on: [mms_sent]
            when: behaviour.often_sends_mms
            mode: automatic
            channels: [sms]
            fresh_for: 1h
            content: {{sms: "{text or _CONTENT}"}}
            """,
        "campaigns/care-plan.yaml": """\
            campaign: care-plan
            label: Care plan at the counter
            product: care-plan
            on: [counter_visit, sms_sent]
            when: metric.large_24h >= 1
            mode: manual
            channels: [counter]
            content: {counter: "Offer the care plan."}
            """,
        "policies.yaml": f"""\
            caps:
              weekly: {{limit: {weekly_limit}, period: {{rolling: 7d}}}}
            cool_downs:
              refused: {{after: [refused], for: 90d, scope: product}}
            """,
    }
    return {name: dedent(content).encode() for name, content in files.items()}


def mms(subscriber_id: str, event_id: str, at_us: int = NOON_US, size_kb: int = 80) -> Event:
    return Event(event_id, subscriber_id, "mms_sent", at_us, msgspec.json.encode({"size_kb": size_kb}))


def subscribers(count: int) -> list[str]:
    return [f"86138000{n:05d}" for n in range(count)]


def traffic(
    seed: int, count: int, people: int = 5, start_us: int = NOON_US, step_us: int = SECOND_US
) -> Iterator[Event]:
    """Events of a few busy subscribers, `step_us` apart, with a duplicate now and then."""
    rng = random.Random(seed)
    sent: list[Event] = []
    for n in range(count):
        if sent and rng.random() < 0.1:
            yield rng.choice(sent[-20:])
            continue
        subscriber_id = rng.choice(subscribers(people))
        kind = rng.choice(["mms_sent", "mms_sent", "sms_sent"])
        attributes = msgspec.json.encode({"size_kb": rng.randrange(300)}) if kind == "mms_sent" else b""
        event = Event(f"e{n}", subscriber_id, kind, start_us + n * step_us, attributes)
        sent.append(event)
        yield event
