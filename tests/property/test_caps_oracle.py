"""Nothing is ever exceeded: random policies and traffic, many streams, offers that are deferred.

What was decided is read back from the ledger's list and counted again by a naive oracle that shares no
code with the policies: caps and quiet hours over contacts and would-be contacts, quota and capacity over
those that were made, and nobody of a control group among these. The controls switch off what subscribers or
commits share, and the same count goes red.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, date, datetime
from textwrap import dedent
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from opportune_rulebase.model import Rulebase
from opportune_rulebase.policies import CalendarPeriod, Cap
from opportune_service.adapters.sql.ledger import SqlTransaction
from opportune_service.app.defer import decide_due
from opportune_service.app.records import DecisionFilter, DecisionRow
from opportune_service.bootstrap import Application
from opportune_service.clocks import ManualClock
from opportune_service.core.events import Event
from opportune_service.core.observe import DEFERRAL
from opportune_service.core.verdict import History, Reason, Usage, UsageKey
from support.applications import in_loop, running
from support.naive_policies import in_control
from support.rulebases import NOON_US
from support.small_rulebase import subscribers

HOUR_US = 3_600_000_000
ZONE = ZoneInfo("Asia/Shanghai")
CHANNELS = ["sms", "mms"]
CATEGORIES = ["music", "data"]
PERIODS = ["{rolling: 1h}", "{rolling: 24h}", "{rolling: 7d}", "day", "week", "month"]


def random_rulebase(rng: random.Random) -> dict[str, bytes]:
    """Campaigns that always match, under caps of every kind, and a night of quiet hours."""
    fates = ["drop", "defer", "next"]
    caps = "".join(
        f"  cap{n}: {{limit: {rng.randrange(1, 5)}, period: {rng.choice(PERIODS)}, "
        f"otherwise: {rng.choice(fates)}, "
        f"per: {rng.choice(['[]', '[channel]', '[category]', '[campaign]', '[product, channel]'])}, "
        f"applies_to: {rng.choice(['{}', '{channels: [sms]}', '{categories: [music]}'])}, "
        f"counts: {rng.choice(['{}', '{}', '{channels: [sms]}', '{categories: [music]}'])}}}\n"
        for n in range(rng.randrange(1, 4))
    )
    files = {
        "rulebase.yaml": "rulebase: random\ntime_zone: Asia/Shanghai\n",
        "vocabulary.yaml": """\
            events: {ping: {}}
            subscriber: {}
            channels: {sms: {mode: automatic}, mms: {mode: automatic, per_day: 6}}
            products:
              music-club: {label: M, category: music}
              data-pack: {label: D, category: data}
            """,
        "policies.yaml": f"caps:\n{caps}quiet_hours:\n"
        f"  night: {{from: '22:00', to: '07:30', applies_to: {{channels: [sms]}}, "
        f"otherwise: {rng.choice(fates)}}}\n"
        f"arbitration: {{max_automatic: 2{rng.choice(['', ', settle: 5m'])}}}\n"
        f"control: {{share: {rng.choice(['1%', '20%'])}}}\n",
    }
    for n in range(4):
        channels = rng.choice(["[sms]", "[mms]", "[sms, mms]", "[mms, sms]"])
        files[f"campaigns/c{n}.yaml"] = f"""\
            campaign: c{n}
            label: C{n}
            product: {rng.choice(["music-club", "data-pack"])}
            on: [ping]
            mode: automatic
            channels: {channels}
            content: {{default: hello}}
            priority: {rng.randrange(3)}
            expires_after: 30h
            open_for: {rng.choice(["1h", "20h"])}
            control_group: {rng.choice(["1%", "30%"])}
            quota: {{per_day: {rng.randrange(1, 6)}, otherwise: {rng.choice(fates)}}}
            """
    return {name: dedent(text).encode() for name, text in files.items()}


async def run_traffic(app: Application, rng: random.Random) -> None:
    """Bursts from several streams at once, hours apart, over some days; before every other one what was
    deferred falls due."""
    clock = app.clock
    assert isinstance(clock, ManualClock)
    people = subscribers(3)
    for burst in range(25):
        clock.value_us += rng.choice([1, HOUR_US // 7, HOUR_US, 5 * HOUR_US, 26 * HOUR_US])
        if burst % 2:  # else what was deferred is decided with the events, which come at the same time
            await decide_due(app.ingest, clock.value_us)
        calls = [
            app.ingest.publish(
                f"stream-{stream}",
                [Event(f"{burst}-{n}", rng.choice(people), "ping", clock.value_us) for n in range(4)],
            )
            for stream in range(4)
        ]
        await asyncio.gather(*calls, decide_due(app.ingest, clock.value_us))


async def decided_rows(app: Application) -> Sequence[DecisionRow]:
    return await app.insight.decisions(
        DecisionFilter(reasons=(Reason.DECIDED, Reason.CONTROL)), 0, 10_000, False
    )


def violations(app: Application, rows: Sequence[DecisionRow]) -> list[str]:
    """Every decision that some policy should have stopped, counted naively."""
    rulebase = app.live.current.rulebase
    found = over_quotas(rulebase, [row for row in rows if row.reason is Reason.DECIDED])
    facts = [
        (row, rulebase.campaigns[row.campaign], datetime.fromtimestamp(row.decided_at_us / 1_000_000, UTC))
        for row in rows
    ]
    for place, (row, campaign, at) in enumerate(facts):
        local = at.astimezone(ZONE)
        held_back = in_control(rulebase, campaign, row.key.subscriber_id)
        if held_back is not (row.reason is Reason.CONTROL):
            found.append(f"{row.decision_id} and its control group")
        if row.channel == "sms" and not 7.5 <= local.hour + local.minute / 60 < 22:
            found.append(f"{row.decision_id} at night")
        for cap in rulebase.policies.caps:
            mine = properties(row, campaign)
            if not meant(cap.applies_to, mine):
                continue
            counted = [
                other
                for other, its, when in facts[: place + 1]
                if other.key.subscriber_id == row.key.subscriber_id
                and (other is row or meant(cap.counts, properties(other, its)))
                and all(properties(other, its)[d.value] == mine[d.value] for d in cap.per)
                and in_period(cap, when, at)
            ]
            if len(counted) > cap.limit:
                found.append(f"{row.decision_id}: {len(counted)} in {cap.name}, limit {cap.limit}")
    return found


def over_quotas(rulebase: Rulebase, rows: Sequence[DecisionRow]) -> list[str]:
    """Campaigns and channels with more contacts in a day than they may have."""

    def days(rows: Iterable[DecisionRow]) -> Counter[date]:
        local = (
            datetime.fromtimestamp(row.decided_at_us / 1_000_000, UTC).astimezone(ZONE) for row in rows
        )
        return Counter(each.date() for each in local)

    most = {name: each.quota.per_day for name, each in rulebase.campaigns.items() if each.quota}
    found = [
        f"{name}: {count} on {day}"
        for name, limit in most.items()
        for day, count in days(row for row in rows if row.campaign == name).items()
        if limit is not None and count > limit
    ]
    busy = days(row for row in rows if row.channel == "mms")
    return found + [f"mms: {count} on {day}" for day, count in busy.items() if count > 6]


def properties(row: DecisionRow, campaign: Any) -> dict[str, str]:
    return {
        "campaign": row.campaign,
        "product": campaign.product,
        "category": campaign.category,
        "channel": row.channel,
        "mode": row.mode,
    }


def meant(selector: Any, mine: dict[str, str]) -> bool:
    chosen = {"channel": selector.channels, "category": selector.categories}
    return all(not wanted or mine[name] in wanted for name, wanted in chosen.items())


def in_period(cap: Cap, when: datetime, at: datetime) -> bool:
    if cap.rolling_us is not None:
        return (at - when).total_seconds() * 1_000_000 < cap.rolling_us
    one, other = when.astimezone(ZONE).date(), at.astimezone(ZONE).date()
    if cap.calendar is CalendarPeriod.DAY:
        return one == other
    if cap.calendar is CalendarPeriod.WEEK:
        return one.isocalendar()[:2] == other.isocalendar()[:2]
    return (one.year, one.month) == (other.year, other.month)


@pytest.mark.parametrize("seed", range(12))
def test_nothing_is_ever_exceeded(seed: int) -> None:
    async def body() -> None:
        rng = random.Random(seed)
        async with running(files=random_rulebase(rng), people=subscribers(3)) as app:
            await run_traffic(app, rng)
            assert violations(app, await decided_rows(app)) == []

    in_loop(body)


def test_the_scenarios_decide_something() -> None:
    """Otherwise the test above would show nothing."""

    async def body(seed: int) -> Sequence[DecisionRow]:
        rng = random.Random(seed)
        async with running(files=random_rulebase(rng), people=subscribers(3), now_us=NOON_US) as app:
            await run_traffic(app, rng)
            return await app.insight.decisions(DecisionFilter(), 0, 10_000, False)

    lives = [in_loop(body, seed) for seed in range(4)]
    reasons = [Counter(row.reason for row in rows) for rows in lives]
    assert all(each[Reason.DECIDED] > 10 for each in reasons)
    stops = {Reason.CONTROL, Reason.CAPPED, Reason.QUIET_HOURS, Reason.QUOTA, Reason.CAPACITY}
    assert stops <= {reason for each in reasons for reason in each}
    assert any(row.key.source == DEFERRAL for rows in lives for row in rows)


def test_control_without_the_shared_history_caps_are_exceeded(monkeypatch: pytest.MonkeyPatch) -> None:
    def blind(self: object, ids: Sequence[str], since_us: int, now_us: int) -> dict[str, History]:
        return {subscriber_id: History() for subscriber_id in ids}

    monkeypatch.setattr(SqlTransaction, "histories", blind)

    async def body(seed: int) -> int:
        rng = random.Random(seed)
        async with running(files=random_rulebase(rng), people=subscribers(3)) as app:
            await run_traffic(app, rng)
            return len(violations(app, await decided_rows(app)))

    assert sum(in_loop(body, seed) for seed in range(4)) > 0


def test_control_without_the_shared_counters_quotas_are_exceeded(monkeypatch: pytest.MonkeyPatch) -> None:
    def blind(self: object, keys: Collection[UsageKey]) -> Usage:
        return {}

    monkeypatch.setattr(SqlTransaction, "usage", blind)

    async def body(seed: int) -> list[str]:
        rng = random.Random(seed)
        async with running(files=random_rulebase(rng), people=subscribers(3)) as app:
            await run_traffic(app, rng)
            return violations(app, await decided_rows(app))

    found = [each for seed in range(4) for each in in_loop(body, seed)]
    assert found
    assert all(" on " in each for each in found), "nothing but quotas and capacity"
