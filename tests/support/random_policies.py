"""Random rulebases with policies of every kind, a few of each, tight enough to matter."""

from __future__ import annotations

import random
from datetime import UTC, date, datetime
from typing import Any

from opportune_rulebase.errors import Position
from opportune_rulebase.expressions import Expression
from opportune_rulebase.model import Calendar, Channel, Product, Rulebase
from opportune_rulebase.policies import (
    CalendarPeriod,
    Cap,
    Control,
    CoolDown,
    CoolDownScope,
    DayKind,
    Dimension,
    Fate,
    Fit,
    Mode,
    OutcomeKind,
    Policies,
    Preference,
    QuietHours,
    Quota,
    Selector,
    Suppression,
)
from support.rulebases import make_rulebase, make_scope

MINUTE_US = 60_000_000
HOUR_US = 60 * MINUTE_US
DAY_US = 24 * HOUR_US
ZONES = ["Asia/Shanghai", "America/New_York", "Australia/Lord_Howe", "UTC", ""]
AUTOMATIC, MANUAL = ("sms", "mms", "push"), ("counter", "hotline")


def _instant(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000_000


STARTS = [
    _instant("2026-11-20T04:00:00"),
    _instant("2026-03-07T23:00:00"),  # New York puts its clocks forward the night after
    _instant("2026-10-31T20:00:00"),  # and back; the month ends too
    _instant("2026-04-04T10:00:00"),  # Lord Howe puts them back, by half an hour
    _instant("2028-02-28T12:00:00"),
    _instant("2026-12-31T10:00:00"),  # the end of what the calendar knows
]


def random_rulebase(rng: random.Random, start_us: int) -> Rulebase:
    """A rulebase for lives that begin at `start_us`."""
    channels = {
        name: Channel(
            name,
            name,
            Mode.AUTOMATIC if name in AUTOMATIC else Mode.MANUAL,
            per_day=rng.choice([None, None, None, None, 1, 3, rng.choice([0, 2])]),
            otherwise=rng.choice(list(Fate)),
            cost=rng.choice([0, 1, 3]),
            bulk=rng.random() < 0.2,
        )
        for name in (*AUTOMATIC, *MANUAL)
    }
    products = {
        "music": Product("music", "", "fun", excludes=("games",) if rng.random() < 0.5 else ()),
        "games": Product("games", "", "fun"),
        "data": Product("data", "", "net", requires=("base",) if rng.random() < 0.3 else ()),
    }
    campaigns = {f"c{n}": _random_campaign(rng, start_us) for n in range(rng.randrange(1, 7))}
    return make_rulebase(
        events={"ping": {}},
        channels=channels,
        products=products,
        campaigns=campaigns,
        policies=_random_policies(rng),
        calendar=rng.choice(
            [Calendar(), Calendar(country="CN", first=date(2026, 1, 1), last=date(2026, 12, 31))]
        ),
        time_zone=rng.choice(["Asia/Shanghai", "America/New_York"]),
    )


def _random_campaign(rng: random.Random, start_us: int) -> dict[str, Any]:
    mode = rng.choice([Mode.AUTOMATIC, Mode.AUTOMATIC, Mode.MANUAL])
    names = AUTOMATIC if mode is Mode.AUTOMATIC else MANUAL
    quota = Quota(
        per_day=rng.choice([None, 0, 1, 2]),
        total=rng.choice([None, 1, 4]),
        budget=rng.choice([None, 2, 6]),
        otherwise=rng.choice(list(Fate)),
    )
    return {
        "mode": mode,
        "product": rng.choice(["music", "games", "data"]),
        "channels": tuple(rng.sample(names, rng.randrange(1, len(names) + 1))),
        "priority": rng.randrange(3),
        "value": rng.choice([1.0, 2.0]),
        "valid_to_us": rng.choice([None] * 7 + [start_us + 30 * HOUR_US + 1]),
        "fresh_for_us": 5 * MINUTE_US,
        "expires_after_us": rng.choice([2 * HOUR_US, 3 * DAY_US, 3 * DAY_US]),
        "allow_unknown": rng.random() < 0.5,
        "exempt": frozenset({"cap0"} if rng.random() < 0.2 else ()),
        "group": rng.choice(["", "", "one", "two"]),
        "control_share": rng.choice([0, 0, 0, 3_000]),
        "control_exempt": rng.random() < 0.2,
        "quota": rng.choice([None, None, quota]),
        "open_for_us": rng.choice([0, 0, 2 * HOUR_US, 2 * DAY_US]),
    }


def _random_policies(rng: random.Random) -> Policies:
    plain = make_rulebase(events={"ping": {}})
    return Policies(
        caps=tuple(_random_cap(rng, n) for n in range(rng.randrange(4))),
        quiet_hours=tuple(_random_window(rng, n) for n in range(rng.randrange(3))),
        cool_downs=tuple(
            CoolDown(
                f"rest{n}",
                "",
                frozenset(
                    rng.sample([OutcomeKind.REFUSED, OutcomeKind.COMPLAINED, OutcomeKind.ACCEPTED], 2)
                ),
                rng.choice([2 * HOUR_US, 2 * DAY_US]),
                rng.choice(list(CoolDownScope)),
            )
            for n in range(rng.randrange(3))
        ),
        suppressions=(
            Suppression("all", "", _true(plain), Selector()),
            Suppression("no-sms", "", _true(plain), Selector(channels=frozenset({"sms"}))),
        ),
        opt_in=frozenset(rng.choice([(), (), ("channel/push",), ("category/net",)])),
        max_automatic=rng.choice([1, 1, 2]),
        max_prompts=rng.choice([0, 1, 2]),
        default_propensity=0.3,
        settle_us=rng.choice([0, 0, 0, 0, 0, 5 * MINUTE_US, HOUR_US]),
        jitter_us=rng.choice([0, 30 * MINUTE_US]),
        no_channel=rng.choice([Fate.DROP, Fate.NEXT]),
        control=Control(rng.choice([0, 0, 2_000]), rng.choice(["", "salt"])),
        fit={"music": {"sms": Fit.CC, "mms": Fit.AA}, "games": {"push": Fit.AA, "hotline": Fit.BB}}
        if rng.random() < 0.5
        else {},
        preference=Preference(from_contacts=rng.choice([0, 2, 10]), within_us=3 * DAY_US),
    )


def _true(plain: Rulebase) -> Expression:
    return make_scope(plain).compile("true", Position("policies.yaml", 1, 1))


def _random_selector(rng: random.Random) -> Selector:
    return rng.choice(
        [
            Selector(),
            Selector(),
            Selector(channels=frozenset({"sms", "counter"})),
            Selector(categories=frozenset({"fun"})),
            Selector(products=frozenset({"music"})),
            Selector(campaigns=frozenset({"c0", "c1"})),
            Selector(modes=frozenset({Mode.AUTOMATIC})),
        ]
    )


def _random_cap(rng: random.Random, n: int) -> Cap:
    rolling = rng.random() < 0.5
    return Cap(
        name=f"cap{n}",
        label="",
        limit=rng.choice([1, 1, 2, 2, 3, rng.choice([0, 5])]),
        rolling_us=rng.choice([HOUR_US, DAY_US, 3 * DAY_US]) if rolling else None,
        calendar=None if rolling else rng.choice(list(CalendarPeriod)),
        per=frozenset(rng.sample(list(Dimension), rng.choice([0, 0, 1, 2]))),
        applies_to=_random_selector(rng),
        counts=_random_selector(rng),
        headroom=rng.choice([0, 0, 1]),
        headroom_priority=2,
        otherwise=rng.choice([*Fate, Fate.DEFER, Fate.DEFER]),
    )


def _random_window(rng: random.Random, n: int) -> QuietHours:
    start, end = rng.sample(range(0, 1440, 15), 2)
    return QuietHours(
        name=f"quiet{n}",
        label="",
        start_minute=start,
        end_minute=1440 if end == 0 else end,
        weekdays=frozenset(rng.sample(range(7), rng.choice([0, 3, 7]))),
        applies_to=_random_selector(rng),
        kinds=frozenset(rng.choice([(), (DayKind.WORKDAY,), (DayKind.HOLIDAY,)])),
        otherwise=rng.choice(list(Fate)),
    )
