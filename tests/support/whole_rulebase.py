"""A rulebase with one of everything that live state keeps, and random traffic for it."""

from __future__ import annotations

import random
from textwrap import dedent

import msgspec
from msgspec import structs
from opportune_service.core.events import Event
from support.rulebases import NOON_US
from support.small_rulebase import subscribers

MINUTE_US = 60_000_000
CELLS = ("A", "B", "C", "")
IMEIS = ("35000000000001", "35000000000002", "", "")


def whole_rulebase(*, texts: int = 3, extra: str = "") -> dict[str, bytes]:
    """Files. `texts`: how many SMS make a burst, a definition to change in a reload. `extra`: one more line
    of patterns."""
    files = {
        "rulebase.yaml": "rulebase: whole\ntime_zone: Asia/Shanghai\n",
        "vocabulary.yaml": """\
            events:
              call_made: {attributes: {callee: subscriber, seconds: {type: int, min: 0}}}
              call_missed: {attributes: {caller: subscriber}}
              low_balance: {attributes: {left: {type: double, min: 0}}}
              recharge: {attributes: {amount: {type: double, min: 0}}}
              sms_sent: {}
              counter_visit: {}
            subscriber: {brand: string, birthday: date}
            sources:
              billing: {events: [recharge, low_balance], max_lateness: 1h}
              cdr: {events: [sms_sent], max_lateness: 24h}
              msc: {events: [sms_sent, call_made, call_missed]}
            channels: {sms: {mode: automatic}, counter: {mode: manual}}
            products:
              p1: {label: One, category: money}
              p2: {label: Two, category: care}
            places: {table: places.csv}
            """,
        "places.csv": """\
            cell,place,label,categories
            A,central,Central,airport
            B,east,East,airport
            C,mall,Mall,shop
            """,
        "behaviours.yaml": f"""\
            metrics:
              spent: {{sum: event.amount, of: recharge, last: 6h}}
              spent_days: {{sum: event.amount, of: recharge, days: 7}}
              longest: {{max: event.seconds, of: call_made, last: 2h}}
              shortest: {{min: event.seconds, of: call_made, days: 2}}
              last_left: {{latest: event.left, of: low_balance, last: 12h}}
              called: {{distinct: event.callee, of: call_made, days: 3}}
              bursts: {{count: burst, last: 3h}}
              silences: {{count: silent, days: 2}}
              airport_texts: {{count: sms_sent, days: 3, where: "'airport' in place.categories"}}
              handsets: {{count: handset_changed, last: 24h}}
            patterns:
              burst: {{count: sms_sent, at_least: {texts}, within: 30m}}
              talks_to_many: {{count: call_made, distinct: event.callee, at_least: 3, within: 1h}}
              call_back:
                sequence: [{{event: call_missed}}, {{event: call_made, link: event.callee == first.caller}}]
                within: 1h
              low_then_burst: {{sequence: [low_balance, burst], within: 2h, without: recharge}}
              new_phone_texts: {{sequence: [handset_changed, sms_sent], within: 1h}}
              silent: {{after: low_balance, absent: recharge, for: 1h}}
              unheard: {{after: [sms_sent, silent], absent: [call_made, burst], for: 40m}}
              twice_silent: {{count: [silent, unheard], at_least: 2, within: 7d}}
              at_airport: {{dwell: airport, for: 20m}}
              surge: {{change: event.amount, of: recharge, days: 1, rises_to: 2.0, at_least: 1}}
              slump: {{change: count, of: call_made, days: 1, falls_to: 0.5, at_least: 1}}
              {extra}
            facts:
              traveller:
                label: Travels
                on: [at_airport, sms_sent]
                when: event.type == "at_airport" || "shop" in place.categories
                for: 2h
            """,
        "campaigns/one.yaml": """\
            campaign: one
            product: p1
            on: [burst, call_back, silent, twice_silent, at_airport, slump, surge, unheard,
                 new_phone_texts, handset_changed]
            when: metric.bursts + metric.silences >= 0 || fact.traveller || peer.brand == "gold"
            mode: automatic
            channels: [sms]
            fresh_for: 1h
            content: {sms: "One"}
            """,
        "campaigns/two.yaml": """\
            campaign: two
            product: p2
            on: [call_made, low_then_burst, talks_to_many, counter_visit]
            when: peer.brand == "gold" || metric.called >= 2
            mode: automatic
            channels: [sms]
            fresh_for: 1h
            content: {sms: "Two"}
            """,
        "policies.yaml": "arbitration: {max_automatic: 2}\n",
    }
    return {name: dedent(text).encode() for name, text in files.items()}


def traffic(
    seed: int, count: int, *, people: int = 5, step_us: int = 6 * MINUTE_US
) -> list[tuple[str, Event]]:
    """(source, event), in order of time."""
    rng = random.Random(seed)
    at_us, sent = NOON_US, []
    known = subscribers(5)
    for n in range(count):
        at_us += rng.choice([0, 1, rng.randrange(6 * MINUTE_US)])
        kind = rng.choice(["call_made", "call_missed", "low_balance", "recharge", "sms_sent", "sms_sent"])
        attributes: dict[str, object] = {}
        if kind == "call_made":
            attributes = {"callee": rng.choice(known), "seconds": rng.randrange(100)}
        elif kind == "call_missed":
            attributes = {"caller": rng.choice(known)}
        elif kind == "low_balance":
            attributes = {"left": rng.choice([0.1, 0.2, 5.0])}
        elif kind == "recharge":
            attributes = {"amount": rng.choice([0.1, 0.3, 20.0, 1e16])}
        if kind == "recharge" and rng.random() < 0.6:
            kind, attributes = "sms_sent", {}
        source = "billing" if kind in ("recharge", "low_balance") else rng.choice(["msc", "msc", "cdr"])
        if source == "cdr" and kind != "sms_sent":
            source = "msc"
        event = Event(
            f"e{n}",
            rng.choice(known),
            kind,
            at_us,
            msgspec.json.encode(attributes),
            cell_id=rng.choice(CELLS),
            imei=rng.choice(IMEIS) if rng.random() < 0.3 else "",
        )
        if rng.random() < 0.05:
            event = structs.replace(event, attributes=b"[]")
        sent.append((source, event))
    return sent
