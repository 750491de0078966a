"""The ingest benchmarks' workload: 200 campaigns, 50,000 subscribers, 1 event in 100 with a candidate.

One more campaign is for customers at a counter, who are advised."""

from __future__ import annotations

import random
from collections.abc import Iterator

import msgspec
from opportune_service.core.events import Event

TYPES = 20
CAMPAIGNS = 200
SUBSCRIBERS = 50_000
KINDS = 4
SPAN = 10_000
"""Amounts are below this."""

WIDTH = 64
"""Amounts that a campaign wants: with the kind (1 in 4) and the age (5 in 8), 1 event in 100 of its type
has one of the type's 10 campaigns as a candidate."""

TOUCH_POINT = "counter"


def rulebase_files(version: str = "") -> dict[str, bytes]:
    """Each campaign has five conditions: two on an amount, a kind, an age by a behaviour, and a metric.
    `version` is a word of every message: each makes another revision that decides the same."""
    events = "\n".join(
        f"  e{n}: {{attributes: {{amount: {{type: int, min: 0}}, kind: string}}}}" for n in range(TYPES)
    )
    metrics = "\n".join(
        f"  m{n}_7d: {{count: e{n}, days: 7}}\n  s{n}_1h: {{sum: event.amount, of: e{n}, last: 1h}}"
        for n in range(TYPES // 2)
    )
    files = {
        "rulebase.yaml": "rulebase: bench\ntime_zone: Asia/Shanghai\n",
        "vocabulary.yaml": f"events:\n{events}\n  {TOUCH_POINT}_visit: {{}}\n"
        "subscriber: {age: int, brand: string}\n"
        "channels:\n  sms: {mode: automatic}\n  mms: {mode: automatic}\n"
        f"  {TOUCH_POINT}: {{mode: manual}}\n"
        "products: {p0: {label: P0, category: c0}, p1: {label: P1, category: c1}}\n",
        "behaviours.yaml": f"metrics:\n{metrics}\nbehaviours:\n"
        "  grown: {label: grown, when: sub.age >= 30}\n  busy: {label: busy, when: metric.m0_7d >= 2}\n",
        "policies.yaml": "caps:\n  weekly: {limit: 3, period: {rolling: 7d}}\n"
        "  daily: {limit: 1, period: day}\n"
        "quiet_hours:\n  night: {from: '04:00', to: '04:01'}\n",
        "campaigns/visit.yaml": f"campaign: visit\nproduct: p0\non: [{TOUCH_POINT}_visit]\nmode: manual\n"
        f"channels: [{TOUCH_POINT}]\ncontent: {{default: 'Offer {{{{product.label}}}}'}}\n",
    }
    for n in range(CAMPAIGNS):
        low = _low(n)
        metric = f"metric.m{n % 10}_7d >= 0"
        files[f"campaigns/c{n:03d}.yaml"] = (
            f"campaign: c{n:03d}\nlabel: Campaign {n}\nproduct: p{n % 2}\non: [e{n % TYPES}]\n"
            f"when: event.amount >= {low} && event.amount < {low + WIDTH} && event.kind == 'k{n % KINDS}' "
            f"&& behaviour.grown && {metric}\n"
            f"mode: automatic\nchannels: [sms, mms]\npriority: {n}\n"
            f"content: {{default: 'Offer {n}{version} for {{{{product.label}}}}'}}\n"
        )
    return {name: text.encode() for name, text in files.items()}


def subscriber_id(n: int) -> str:
    return f"8613{n:09d}"


def young(n: int) -> str:
    """A subscriber, another each time, whom only the campaign at the counter wants."""
    return subscriber_id(8 * n % SUBSCRIBERS)


def contexts() -> Iterator[tuple[str, dict[str, object]]]:
    """Static data of every subscriber; five in eight are grown."""
    for n in range(SUBSCRIBERS):
        yield subscriber_id(n), {"age": 10 + n % 8 * 8, "brand": f"b{n % 3}"}


def events(seed: int, count: int, at_us: int, prefix: str) -> list[Event]:
    """Events of random subscribers, a microsecond apart, ids unique by `prefix`."""
    rng = random.Random(seed)
    encode = msgspec.json.Encoder().encode
    return [
        Event(
            id=f"{prefix}-{n:012d}",
            subscriber_id=subscriber_id(rng.randrange(SUBSCRIBERS)),
            type=f"e{rng.randrange(TYPES)}",
            occurred_at_us=at_us + n,
            attributes=encode({"amount": rng.randrange(SPAN), "kind": f"k{rng.randrange(KINDS)}"}),
            cell_id=f"460-00-{rng.randrange(5000)}",
            imei="",
        )
        for n in range(count)
    ]


def matches(event: Event) -> bool:
    """Whether the event has a candidate: the campaigns' conditions over again, in plain Python."""
    attributes = msgspec.json.decode(event.attributes)
    if 10 + int(event.subscriber_id[4:]) % 8 * 8 < 30:
        return False
    return any(
        event.type == f"e{n % TYPES}"
        and _low(n) <= attributes["amount"] < _low(n) + WIDTH
        and attributes["kind"] == f"k{n % KINDS}"
        for n in range(int(event.type[1:]), CAMPAIGNS, TYPES)
    )


def matching_event(n: int, at_us: int, prefix: str) -> Event:
    """An event that has a candidate, of another subscriber each time."""
    attributes = {"amount": _low(n % CAMPAIGNS), "kind": f"k{n % CAMPAIGNS % KINDS}"}
    grown = 8 * n + 7
    return Event(
        id=f"{prefix}-{n}",
        subscriber_id=subscriber_id(grown % SUBSCRIBERS),
        type=f"e{n % CAMPAIGNS % TYPES}",
        occurred_at_us=at_us,
        attributes=msgspec.json.encode(attributes),
    )


def _low(campaign: int) -> int:
    """The least amount that a campaign wants."""
    return (campaign // TYPES) * (SPAN // 10) + 100
