"""Random rulebases with contact policies of every kind, as plain values that are written down as YAML.

What is drawn here is also what the oracle counts by: it never asks how the service read it.
"""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime
from typing import Any

Spec = dict[str, Any]

MINUTE_US = 60_000_000
HOUR_US = 60 * MINUTE_US
DAY_US = 24 * HOUR_US
OPERATOR_ZONE = "Asia/Shanghai"
ZONES = ["Asia/Shanghai", "America/New_York", "Australia/Lord_Howe", ""]
AUTOMATIC, MANUAL, BULK = ("sms", "mms", "push"), ("counter",), "outbound"
CATEGORY = {"music": "fun", "games": "fun", "data": "net"}
CAMPAIGNS = [f"c{n}" for n in range(7)]
FATES = ["drop", "defer", "next"]
WEEKDAYS = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]


def _instant(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000_000


STARTS = [
    _instant("2026-11-20T04:00:00"),
    _instant("2026-03-07T23:00:00"),  # New York puts its clocks forward the night after
    _instant("2026-10-31T20:00:00"),  # and back; the month ends too
    _instant("2026-04-04T10:00:00"),  # Lord Howe puts them back, by half an hour
]


def random_spec(rng: random.Random) -> Spec:
    """A rulebase as a value. Several drawn one after the other have the same channels, products and event
    types, but campaigns of one name may differ in all else: so one can be put in the place of another."""
    channels: Spec = {
        name: {
            "mode": "automatic" if name in AUTOMATIC else "manual",
            "cost": rng.choice([0, 1, 3]),
        }
        for name in (*AUTOMATIC, *MANUAL, BULK)
    }
    channels[BULK]["bulk"] = True
    channels["sms"]["per_second"] = rng.choice([1, 2, 50])
    for name in channels:
        if rng.random() < 0.3:
            channels[name] |= {"per_day": rng.choice([2, 4, 8]), "otherwise": rng.choice(FATES)}
    campaigns = {name: _campaign(rng) for name in rng.sample(CAMPAIGNS, rng.randrange(4, 8))}
    return {
        "channels": channels,
        "games_exclude_music": rng.random() < 0.5,
        "campaigns": campaigns,
        "policies": _policies(rng, sorted(campaigns)),
    }


def _campaign(rng: random.Random) -> Spec:
    automatic = rng.random() < 0.7
    names = AUTOMATIC if automatic else (*MANUAL, BULK)
    campaign: Spec = {
        "product": rng.choice(list(CATEGORY)),
        "on": ["ping"] if automatic else ["ping", "visit"],
        "mode": "automatic" if automatic else "manual",
        "channels": rng.sample(names, rng.randrange(1, len(names) + 1)),
        "priority": rng.choice([100, 500, 800]),
        "fresh_for": "1h",
        "expires_after": rng.choice(["2h", "20h", "3d"]),
        "open_for": rng.choice(["10m", "2h", "1d"]),
        "control_group": rng.choice(["0%", "0%", "0%", "30%", "exempt"]),
        "allow_unknown": rng.random() < 0.5,
        "content": {"default": "hello"},
    }
    if rng.random() < 0.3:
        campaign["exclusive_group"] = rng.choice(["one", "two"])
    if rng.random() < 0.4:
        campaign["quota"] = rng.choice(
            [
                {"per_day": rng.choice([1, 2, 4]), "otherwise": rng.choice(FATES)},
                {"total": rng.choice([3, 9]), "otherwise": "next"},
                {"budget": rng.choice([5, 20]), "otherwise": "drop"},
            ]
        )
    if rng.random() < 0.3:
        campaign["conversion"] = {"event": "ordered", "within": "3d"}
    if rng.random() < 0.15:
        campaign["alarm"] = {"complaint_rate": "30%", "at_least": 3, "within": "7d", "per_hour": 8}
    if rng.random() < 0.2:
        campaign["exempt"] = ["cap0"]  # there is always one
    return campaign


def _policies(rng: random.Random, campaigns: list[str]) -> Spec:
    policies: Spec = {
        "caps": {f"cap{n}": _cap(rng, campaigns) for n in range(rng.randrange(1, 4))},
        "quiet_hours": {f"quiet{n}": _window(rng, campaigns) for n in range(rng.choice([0, 1, 1, 2]))},
        "cool_downs": {
            f"rest{n}": {
                "after": rng.sample(["refused", "complained", "accepted", "ordered"], 2),
                "for": rng.choice(["2h", "2d"]),
                "scope": rng.choice(["campaign", "product", "category", "any"]),
            }
            for n in range(rng.randrange(3))
        },
        "consent": {"channels": {"push": rng.choice(["opt_in", "opt_out"])}},
        "arbitration": {
            "max_automatic": rng.choice([1, 1, 2]),
            "max_prompts": rng.choice([1, 2]),
            "no_channel": rng.choice(["drop", "next"]),
        },
        "deferral": {"jitter": rng.choice(["0m", "30m"])},
        "control": {"share": rng.choice(["0%", "0%", "20%"])},
        "fit": rng.choice([{}, {"music": {"sms": "CC", "mms": "AA"}, "games": {"push": "AA"}}]),
        "preference": {"from_contacts": rng.choice([2, 10]), "within": "3d"},
        "replies": {
            "event": "reply",
            "text": "event.text",
            "channel": "event.channel",
            "accepted": ["1"],
            "refused": ["n"],
        },
    }
    if rng.random() < 0.25:
        policies["arbitration"]["settle"] = rng.choice(["5m", "1h"])
    return policies


def _cap(rng: random.Random, campaigns: list[str]) -> Spec:
    limit = rng.choice([1, 2, 2, 3, 5])
    cap: Spec = {
        "limit": limit,
        "period": rng.choice(
            [{"rolling": "1h"}, {"rolling": "1d"}, {"rolling": "3d"}, "day", "week", "month"]
        ),
        "per": rng.sample(
            ["channel", "category", "product", "campaign", "mode"], rng.choice([0, 0, 0, 1, 2])
        ),
        "applies_to": _selector(rng, campaigns),
        "otherwise": rng.choice(["drop", "defer", "defer", "next"]),
    }
    if rng.random() < 0.5:
        cap["counts"] = _selector(rng, campaigns)
    if limit > 1 and rng.random() < 0.3:
        cap["headroom"] = {"last": 1, "priority": 800}
    return cap


def _window(rng: random.Random, campaigns: list[str]) -> Spec:
    start, end = rng.sample(range(0, 1440, 15), 2)
    return {
        "from": f"{start // 60:02d}:{start % 60:02d}",
        "to": f"{end // 60:02d}:{end % 60:02d}",
        "days": rng.choice([WEEKDAYS, WEEKDAYS, rng.sample(WEEKDAYS, 4), ["workday"]]),
        "applies_to": _selector(rng, campaigns),
        "otherwise": rng.choice(FATES),
    }


def _selector(rng: random.Random, campaigns: list[str]) -> Spec:
    narrow = [
        {"channels": ["sms", "counter"]},
        {"categories": ["fun"]},
        {"products": ["music"]},
        {"campaigns": campaigns[:3]},
        {"modes": ["automatic"]},
    ]
    return rng.choice([{}, {}, {}, *narrow])


def files_of(spec: Spec) -> dict[str, bytes]:
    """The rulebase's files. Every mapping is written as JSON, which is YAML too."""
    vocabulary = {
        "events": {
            "ping": {},
            "visit": {},
            "ordered": {},
            "reply": {"attributes": {"text": "string", "channel": "string"}},
        },
        "subscriber": {},
        "channels": spec["channels"],
        "products": {
            name: {"label": name, "category": category}
            | ({"excludes": ["music"]} if name == "games" and spec["games_exclude_music"] else {})
            for name, category in CATEGORY.items()
        },
    }
    written = {
        "rulebase.yaml": {"rulebase": "random", "time_zone": OPERATOR_ZONE},
        "vocabulary.yaml": vocabulary,
        "policies.yaml": spec["policies"],
    }
    for name, campaign in spec["campaigns"].items():
        written[f"campaigns/{name}.yaml"] = {"campaign": name, **campaign}
    return {name: json.dumps(value).encode() for name, value in written.items()}
