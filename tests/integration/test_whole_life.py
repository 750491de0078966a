"""Random lives of a service with one of everything: what recovery makes of the record is what was live, and
where batches are cut does not show."""

from __future__ import annotations

import itertools
import random
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import structs
from opportune_service.app.advise import Visit, advise
from opportune_service.app.context import ImportItem, import_context
from opportune_service.app.errors import StoreUnavailableError
from opportune_service.app.timers import NEVER_US, pending
from opportune_service.bootstrap import Application, application
from opportune_service.clocks import ManualClock
from opportune_service.core.backfill import renew
from opportune_service.core.decide import encode_verdict
from opportune_service.core.events import Encoding, ImportMode
from opportune_service.core.patterns import unmark
from opportune_service.core.state import SubscriberState
from opportune_service.settings import Settings
from support.applications import activate, in_loop, running
from support.flaky import Flaky
from support.rebuilt import live_and_rebuilt
from support.small_rulebase import subscribers
from support.whole_rulebase import MINUTE_US, traffic, whole_rulebase

PEOPLE = subscribers(5)
DAY_US = 1440 * MINUTE_US


def seen(app: Application, states: Mapping[str, SubscriberState]) -> dict[str, SubscriberState]:
    """Without what reloads left behind: it is dropped when the subscriber is next looked at."""
    revision, shown = app.live.current, {}
    for subscriber_id, state in states.items():
        renew(state, revision)
        unmark(state, {mark for noted in state.journal for mark in noted.marks[::2]} - revision.keys)
        shown[subscriber_id] = structs.replace(
            state,
            series={key: each for key, each in state.series.items() if key in revision.keys},
            patterns={key: each for key, each in state.patterns.items() if key in revision.keys},
        )
    return shown


async def outcome(seed: int, cut: int) -> tuple[list[bytes], dict[str, SubscriberState]]:
    """Verdicts and states after a replay; `cut` 0: every batch as long as its source goes on."""
    rng, verdicts = random.Random(cut), []
    events = traffic(seed, 150)
    async with running(files=whole_rulebase(), people=PEOPLE) as app:
        for source, group in itertools.groupby(events, key=lambda each: each[0]):
            batch = [event for _, event in group]
            while batch:
                size = rng.randint(1, len(batch)) if cut else len(batch)
                receipt = await app.ingest.publish(source, batch[:size], at_event_time=True)
                verdicts += receipt.verdicts
                batch = batch[size:]
        until_us = events[-1][1].occurred_at_us + 3 * DAY_US
        while app.ingest.next_timer_us <= until_us:
            verdicts += (await app.ingest.settle_timers(until_us)).verdicts
        live, rebuilt = await live_and_rebuilt(app, PEOPLE)
        assert rebuilt == live
        states = {who: structs.replace(state, position=0) for who, state in live.items()}
        return [encode_verdict(verdict) for verdict in verdicts], states


@pytest.mark.parametrize("seed", range(4))
def test_where_batches_are_cut_does_not_show(seed: int) -> None:
    whole = in_loop(outcome, seed, 0)
    told = b"".join(whole[0])
    for name in (b"burst", b"silent", b"at_airport", b"unheard", b"handset_changed"):
        assert name in told, f"the traffic shows no {name.decode()}"
    assert in_loop(outcome, seed, 1) == whole
    assert in_loop(outcome, seed, 2) == whole


async def started_anew(app: Application, copy: Path) -> None:
    """Compare with what a process that starts on the record as it is now would have."""

    ledger: Any = app.ledger

    def take_copy() -> None:
        target = sqlite3.connect(copy)
        raw = ledger._engine.raw_connection()
        raw.driver_connection.backup(target)
        raw.close()
        target.close()

    await app.thread.run(take_copy)
    settings = Settings(database=f"sqlite:///{copy}", checkpoint_seconds=600, timer_seconds=3600)
    async with application(settings, ManualClock(app.clock.now_us())) as other:
        live = seen(app, await app.states.load(PEOPLE))
        assert seen(other, await other.states.load(PEOPLE)) == live
        timers = other.ingest._observer.timers
        for who, state in live.items():
            first_us = min((due_us for due_us, _ in pending(app.live.current, state)), default=NEVER_US)
            assert timers._at.get(who, NEVER_US) <= first_us
        mine, marks = app.ingest._observer.watermarks.marks(), other.ingest._observer.watermarks.marks()
        assert {name: mark.shown_us for name, mark in marks.items()} == {
            name: mine[name].shown_us for name in marks
        }


async def life(seed: int, folder: Path) -> None:
    rng, events = random.Random(seed), traffic(seed, 250)
    async with running(folder / "o.db", files=whole_rulebase(), people=PEOPLE) as app:
        assert isinstance(app.clock, ManualClock)
        flaky = Flaky(app.ledger, after=rng.random() < 0.5)
        app.ingest._ledger = flaky
        begin = 0
        while begin < len(events):
            source, first = events[begin]
            end = begin + rng.randint(1, 6)
            app.clock.value_us = max(
                app.clock.value_us, first.occurred_at_us + rng.randrange(3 * MINUTE_US)
            )
            batch = [event for each, event in events[begin:end] if each == source]
            rng.shuffle(batch)
            flaky.failing = rng.random() < 0.07
            try:
                await app.ingest.publish(source, batch)
            except StoreUnavailableError:
                flaky.failing = False
                await app.ingest.healthy.wait()
                await app.ingest.publish(source, batch)
            flaky.failing = False
            await something_else(app, flaky, rng, begin)
            if rng.random() < 0.2:
                live, rebuilt = await live_and_rebuilt(app, PEOPLE)
                assert seen(app, rebuilt) == seen(app, live)
            if rng.random() < 0.05:
                await started_anew(app, folder / f"{begin}.db")
            begin = end
        await started_anew(app, folder / "end.db")


async def something_else(app: Application, flaky: Flaky, rng: random.Random, n: int) -> None:
    if rng.random() < 0.5:
        app.ingest.request_checkpoint()
    act = rng.random()
    if act < 0.1:
        known = {
            "brand": rng.choice(["gold", None]),
            "time_zone": rng.choice(["Asia/Shanghai", "America/New_York"]),
            "metric.spent_days": {"2026-11-18": 4.5},
        }
        item = ImportItem(rng.choice(PEOPLE), msgspec.json.encode(known))
        now_us = app.clock.now_us()
        await import_context(app.live, app.ingest, [item], now_us, ImportMode.PATCH, Encoding.JSON)
    elif act < 0.14:
        extra = rng.choice(["", "odd: {count: recharge, at_least: 2, within: 1h}"])
        await activate(app, whole_rulebase(texts=rng.choice([2, 3]), extra=extra))
    elif act < 0.2:
        visit = Visit(rng.choice(PEOPLE), "counter", f"v{n}", "counter_visit")
        await advise(app.live, app.ingest, app.ledger, app.thread, app.clock, visit)
    elif act < 0.7:
        for _ in range(3):
            flaky.failing = rng.random() < 0.1
            try:
                await app.ingest.settle_timers()
            except StoreUnavailableError:
                flaky.failing = False
                await app.ingest.healthy.wait()
        flaky.failing = False


@pytest.mark.parametrize("seed", range(6))
def test_a_crash_at_any_time_leaves_what_was_live(seed: int, tmp_path: Path) -> None:
    """Late events, failing commits, reloads, imports, seeds, visits and timers, in any order."""
    in_loop(life, seed, tmp_path)
