"""Metrics that become live late: filled from the log, as if they had been live from the start."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from textwrap import dedent
from typing import Any

import msgspec
import pytest
from opportune_rulebase.network import NetworkEngine
from opportune_service.app.backfill import Backfill
from opportune_service.app.context import ImportItem, import_context, show_subscriber
from opportune_service.app.errors import StoreUnavailableError
from opportune_service.app.log import events_of
from opportune_service.app.records import LogKind
from opportune_service.bootstrap import Application
from opportune_service.clocks import ManualClock
from opportune_service.core.backfill import Aside, Fill, fills_of
from opportune_service.core.events import MAX_SKEW_US, Encoding, Event, ImportMode
from opportune_service.core.state import SubscriberState
from support.applications import activate, in_loop, running
from support.rebuilt import live_and_rebuilt
from support.rulebases import NOON_US
from support.small_rulebase import subscribers

MINUTE_US = 60_000_000
HOUR_US = 60 * MINUTE_US
DAY_US = 24 * HOUR_US
PEOPLE = subscribers(4)
ANNE, BOB, CAROL, _ = PEOPLE

OLD = "paid_7d: {sum: event.amount, of: charge, days: 7}"
NEW = """\
charges_2d: {count: charge, days: 2}
              charges_24h: {count: charge, last: 24h}
              paid_3d: {sum: event.amount, of: [charge, order], days: 3}
              least_24h: {min: event.amount, of: charge, last: 24h}
              most_3d: {max: event.amount, of: charge, days: 3}
              latest_3d: {latest: event.shop, of: charge, days: 3}
              shops_3d: {distinct: event.shop, of: charge, days: 3}
              grown_up: {count: charge, days: 3, where: sub.age > 30}
              downtown: {count: charge, last: 24h, where: "'mall' in place.categories"}
              old_phone: {count: charge, last: 24h, where: terminal.mms == false}
              quarter: {count: charge, days: 90}"""
"""All kinds of metrics, with filters that read what events before told; the last reaches back too far."""

KNOWN = {ANNE: {"age": 40}, BOB: {"age": 20}, CAROL: {"time_zone": "America/New_York"}}


def files(
    metrics: str, *, order: str = "order: {attributes: {amount: {type: int, min: 0}}}"
) -> dict[str, bytes]:
    texts = {
        "rulebase.yaml": "rulebase: filling\ntime_zone: Asia/Shanghai\n",
        "vocabulary.yaml": f"""\
            events:
              charge: {{attributes: {{amount: {{type: int, min: 0}}, shop: string}}}}
              sms_sent: {{}}
              {order}
            subscriber: {{age: int}}
            sources: {{gn: {{events: [charge]}}, billing: {{events: [charge], max_lateness: 24h}}}}
            channels: {{sms: {{mode: automatic}}}}
            products: {{gift: {{label: Gift, category: care}}}}
            places: {{table: places.csv}}
            terminals: {{table: tac.csv, attributes: {{mms: bool}}}}
            """,
        "behaviours.yaml": f"""\
            metrics:
              {metrics}
            """,
        "campaigns/offer.yaml": """\
            campaign: offer
            product: gift
            on: [sms_sent]
            mode: automatic
            channels: [sms]
            content: {sms: "A gift"}
            """,
        "places.csv": "cell,place,label,categories\nc1,mall,Mall,mall\nc2,park,Park,park\n",
        "tac.csv": "tac,mms\n35000000,false\n35000001,true\n",
    }
    return {name: dedent(text).encode() for name, text in texts.items()}


def history(seed: int, count: int, end_us: int = NOON_US, people: Sequence[str] = PEOPLE) -> list[Event]:
    """Events of four days up to `end_us`, some in wrong order by up to some minutes."""
    rng = random.Random(seed)
    events = []
    for n in range(count):
        at_us = end_us - 4 * DAY_US * (count - n) // count - rng.randrange(10) * MINUTE_US
        kind = rng.choice(["charge", "charge", "order", "sms_sent"])
        attributes: dict[str, object] = {}
        if kind != "sms_sent":
            attributes = {"amount": rng.randrange(100), "shop": rng.choice("abc")}
        cell = rng.choice(["", "", "c1", "c2"])
        imei = rng.choice(["", "", "35000000123456", "35000001123456"])
        body = msgspec.json.encode(attributes)
        events.append(Event(f"e{seed}-{n}", rng.choice(people), kind, at_us, body, cell, imei))
    return events


async def publish(app: Application, events: Sequence[Event], size: int = 1) -> None:
    """Each batch at about its own time."""
    assert isinstance(app.clock, ManualClock)
    for start in range(0, len(events), size):
        batch = events[start : start + size]
        app.clock.value_us = max([app.clock.value_us, *(event.occurred_at_us for event in batch)])
        receipt = await app.ingest.publish("gn", batch)
        assert not receipt.rejections


async def know(app: Application) -> None:
    items = [ImportItem(who, msgspec.json.encode(KNOWN.get(who, {}))) for who in PEOPLE]
    await import_context(app.live, app.ingest, items, 1, ImportMode.PATCH, Encoding.JSON)


async def readings(app: Application, now_us: int) -> dict[str, dict[str, tuple[object, bool]]]:
    """What every metric shows of everybody."""
    found = {}
    for who in PEOPLE:
        view = await show_subscriber(app.live, app.states, who, now_us)
        found[who] = {reading.name: (reading.value, reading.covered) for reading in view.metrics}
    return found


START_US = NOON_US - 5 * DAY_US


async def always(events: Sequence[Event], now_us: int) -> dict[str, dict[str, tuple[object, bool]]]:
    """What all metrics show when they were live from the start."""
    async with running(files=BOTH, people=(), now_us=START_US) as app:
        await know(app)
        await publish(app, events)
        return await readings(app, now_us)


BOTH = files(f"{OLD}\n              {NEW}")


@pytest.mark.parametrize("seed", range(3))
def test_filled_is_what_folding_from_the_start_gives(seed: int) -> None:
    events = history(seed, 200)

    async def body() -> None:
        async with running(files=files(OLD), people=(), now_us=START_US) as app:
            await know(app)
            await publish(app, events)
            await activate(app, BOTH)
            await app.backfill.wait()
            filled = await readings(app, NOON_US)
            assert filled == await always(events, NOON_US)
            covered = {name for name, (_, is_covered) in filled[ANNE].items() if is_covered}
            assert covered == set(filled[ANNE]) - {"quarter", "paid_7d"}
            live, rebuilt = await live_and_rebuilt(app, PEOPLE)
            assert live == rebuilt

    in_loop(body)


def test_before_it_is_filled_a_metric_is_not_covered() -> None:
    """Control: it is the backfill that covers it."""
    events = history(0, 50)

    async def body() -> None:
        async with running(files=files(OLD), people=(), now_us=START_US) as app:
            await publish(app, events)
            await activate(app, BOTH)
            app.backfill.status = None
            await app.backfill.close()
            value, covered = (await readings(app, NOON_US))[ANNE]["charges_2d"]
            assert (value, covered) == (0, False)
            assert await app.thread.run(app.ledger.backfills), "it waits for the next start"

    in_loop(body)


@pytest.mark.parametrize("asked", [False, True])
def test_who_does_not_ask_for_it_gets_none(asked: bool) -> None:
    async def body() -> None:
        async with running(files=files(OLD), people=(), now_us=START_US) as app:
            await know(app)
            await publish(app, history(0, 50))
            rulebase, _ = await app.rulebases.upload(BOTH, "test", "")
            await app.activations.activate(rulebase.revision, None, "test", "", backfill=asked)
            await app.backfill.wait()
            assert (await readings(app, NOON_US))[ANNE]["charges_2d"][1] is asked

    in_loop(body)


def test_events_stream_in_meanwhile() -> None:
    """Those that come before, during and after the swap count once each."""
    before = history(1, 150)
    published: list[Event] = []

    async def stream(app: Application, stop: asyncio.Event) -> None:
        while not stop.is_set():
            n = len(published)
            body = msgspec.json.encode({"amount": n % 9, "shop": "abcd"[n % 4]})
            event = Event(f"x{n}", PEOPLE[n % 3], "charge", NOON_US + n, body, "c1")
            await app.ingest.publish("gn", [event])
            published.append(event)

    async def body() -> None:
        async with running(files=files(OLD), people=(), now_us=START_US) as app:
            await know(app)
            await publish(app, before)
            app.clock.value_us = NOON_US  # type: ignore[attr-defined]  # it is a ManualClock
            stop = asyncio.Event()
            streaming = asyncio.create_task(stream(app, stop))
            await activate(app, BOTH)
            live_at = len(published)
            await app.backfill.wait()
            filled_at = len(published)
            stop.set()
            await streaming
            assert 0 < live_at < filled_at, "control: nothing came in meanwhile"
            now_us = NOON_US + HOUR_US
            assert strip(await readings(app, now_us)) == strip(await always([*before, *published], now_us))
            live, rebuilt = await live_and_rebuilt(app, PEOPLE)
            assert live == rebuilt

    in_loop(body)


@pytest.mark.parametrize("up_to_the_boundary", [True, False])
def test_control_without_the_boundary_events_count_twice(up_to_the_boundary: bool) -> None:
    """What came after the swap was folded live: a fill must not hold it as well."""
    events = [Event(f"e{n}", ANNE, "charge", NOON_US + n, b'{"amount": 1}') for n in range(6)]

    async def body() -> None:
        async with running(files=files(OLD), people=(), now_us=NOON_US) as app:
            await know(app)
            await publish(app, events[:4])
            app.activations._on_activated = lambda: None
            await activate(app, BOTH)
            await publish(app, events[4:])
            live = app.live.current
            metric = live.rulebase.metrics["charges_2d"]
            boundary = live.births[metric.key]
            states: dict[str, SubscriberState] = {}
            aside = Aside(live, [metric], states)
            for row in await app.thread.run(lambda: list(app.ledger.read_log(0))):
                if row.kind is LogKind.EVENTS and (row.position <= boundary or not up_to_the_boundary):
                    aside.fold(row.source, events_of(row), {})
            await app.ingest.fill(fills_of(states, boundary, 10))
            counted = (await readings(app, NOON_US))[ANNE]["charges_2d"][0]
            assert counted == (6 if up_to_the_boundary else 8)

    in_loop(body)


def strip(found: Mapping[str, Mapping[str, tuple[object, bool]]]) -> dict[str, dict[str, object]]:
    """The figures alone."""
    return {who: {name: value for name, (value, _) in each.items()} for who, each in found.items()}


class Halting:
    """Passes on so many pieces of fills, then does something else in their place."""

    def __init__(self, app: Application, pieces: int, then: Callable[[], Any]) -> None:
        self._app = app
        self._left = pieces
        self._then = then
        self.passed = 0

    async def fill(self, fills: Sequence[Fill]) -> None:
        for each in fills:
            if self._left == 0:
                self._left = -1
                await self._then()
            self._left -= 1
            self.passed += 1
            await self._app.ingest.fill([each])

    async def forewarn(self) -> None:
        await self._app.ingest.forewarn()

    async def between(self, call: Callable[[], Awaitable[None]]) -> None:
        await self._app.ingest.between(call)

    def begin_generation(self, generation: int, position: int) -> None:
        self._app.ingest.begin_generation(generation, position)

    def backfill(self) -> Backfill:
        app = self._app
        return Backfill(
            app.live, app.states, app.ledger, app.thread, app.clock, NetworkEngine, self  # type: ignore[arg-type]
        )  # fmt: skip


async def _stop() -> None:
    raise asyncio.CancelledError


@pytest.mark.parametrize("pieces", [0, 1, 2, 3])
def test_what_a_crash_cut_off_is_made_again_once_for_each(tmp_path: Path, pieces: int) -> None:
    events = history(3, 200)

    async def first() -> None:
        async with running(tmp_path / "o.db", files(OLD), people=(), now_us=START_US) as app:
            await know(app)
            await publish(app, events)
            app.backfill.start = lambda: None  # type: ignore[method-assign]  # the test's own is made
            app.activations._on_activated = app.backfill.start
            await activate(app, BOTH)
            halting = Halting(app, pieces, _stop)
            cut = halting.backfill()
            cut.start()
            with pytest.raises(asyncio.CancelledError):
                await cut.wait()
            assert halting.passed == pieces
            live, rebuilt = await live_and_rebuilt(app, PEOPLE)
            assert live == rebuilt
            assert sum(state.filled > 0 for state in live.values()) == pieces

    async def second() -> None:
        async with running(tmp_path / "o.db", BOTH, people=(), now_us=NOON_US) as app:
            await app.backfill.wait()
            assert await readings(app, NOON_US) == await always(events, NOON_US)
            assert not await app.thread.run(app.ledger.backfills)

    in_loop(first)
    in_loop(second)


def test_a_store_that_fails_for_a_while_delays_it_only() -> None:
    events = history(4, 100)

    async def body() -> None:
        async with running(files=files(OLD), people=(), now_us=START_US) as app:
            await know(app)
            await publish(app, events)

            async def fail() -> None:
                raise StoreUnavailableError("the disk is full")

            app.activations._on_activated = lambda: None
            await activate(app, BOTH)
            halting = Halting(app, 2, fail)
            made = halting.backfill()
            made.start()
            await made.wait()
            assert halting.passed > 4, "control: it began anew"
            assert await readings(app, NOON_US) == await always(events, NOON_US)

    in_loop(body)


def test_a_reload_in_the_middle_keeps_what_both_want() -> None:
    """The run for the earlier revision is given up; what was filled of it is not filled again, and what
    became live with the later one is filled too."""
    events = history(5, 200)
    more = "charges_4d: {count: charge, days: 4}"

    async def body() -> None:
        async with running(files=files(OLD), people=(), now_us=START_US) as app:
            await know(app)
            await publish(app, events)
            app.activations._on_activated = lambda: None
            await activate(app, files(f"{OLD}\n              {NEW}"))
            halting = Halting(app, 2, _stop)
            cut = halting.backfill()
            cut.start()
            with pytest.raises(asyncio.CancelledError):
                await cut.wait()
            app.activations._on_activated = app.backfill.start
            await activate(app, files(f"{OLD}\n              {NEW}\n              {more}"))
            await app.backfill.wait()
            filled = await readings(app, NOON_US)
            added = {who: each.pop("charges_4d") for who, each in filled.items()}
            assert filled == await always(events, NOON_US)
            assert sum(count for count, _ in added.values()) > 50
            live, rebuilt = await live_and_rebuilt(app, PEOPLE)
            assert live == rebuilt

    in_loop(body)


def test_what_was_taken_out_and_comes_back_counts_once() -> None:
    """States still hold what was folded the first time; the log has all of it, and the gap."""
    events = history(6, 150)

    async def body() -> None:
        async with running(files=BOTH, people=(), now_us=START_US) as app:
            await know(app)
            await publish(app, events[:70])
            await activate(app, files(OLD))
            await publish(app, events[70:120])
            await activate(app, BOTH)
            await app.backfill.wait()
            await publish(app, events[120:])
            now_us = app.clock.now_us()
            assert strip(await readings(app, now_us)) == strip(await always(events, now_us))
            live, rebuilt = await live_and_rebuilt(app, PEOPLE)
            assert live == rebuilt

    in_loop(body)


def test_what_was_not_declared_is_not_covered_by_the_log() -> None:
    """Orders were rejected under the first revision: counting them from the log would show too few."""
    events = history(7, 100)

    async def body() -> None:
        without = files(OLD, order="refund: {}")
        async with running(files=without, people=(), now_us=START_US) as app:
            await publish(app, [event for event in events if event.type != "order"])
            await activate(app, BOTH)
            await app.backfill.wait()
            found = (await readings(app, NOON_US))[ANNE]
            assert found["charges_2d"][1], "control: charges were declared"
            assert not found["paid_3d"][1]

    in_loop(body)


def test_coverage_reaches_back_to_the_beginning_of_the_log() -> None:
    events = history(8, 40)

    async def body() -> None:
        async with running(files=files(OLD), people=(), now_us=START_US) as app:
            await publish(app, events)
            await activate(app, BOTH)
            await app.backfill.wait()
            metrics = app.live.current.rulebase.metrics
            coverage = await app.thread.run(app.ledger.coverage)
            first_us = events[0].occurred_at_us + MAX_SKEW_US
            assert coverage[metrics["quarter"].key] == first_us
            assert app.live.current.coverage == coverage
            assert coverage[metrics["paid_7d"].key] == START_US

    in_loop(body)


def test_a_slow_source_fills_metrics_in_days_alone() -> None:
    async def body() -> None:
        async with running(files=files(OLD), people=(), now_us=NOON_US) as app:
            await know(app)
            body = b'{"amount": 5, "shop": "a"}'
            late = Event("1", ANNE, "charge", NOON_US - 20 * HOUR_US, body)
            await app.ingest.publish("billing", [late])
            await app.ingest.publish("gn", [Event("1", ANNE, "charge", NOON_US, body)])
            await activate(app, BOTH)
            await app.backfill.wait()
            found = strip(await readings(app, NOON_US))[ANNE]
            assert (found["charges_2d"], found["charges_24h"]) == (2, 1)

    in_loop(body)


def test_what_is_filled_is_in_the_log() -> None:
    async def body() -> None:
        async with running(files=files(OLD), people=(), now_us=START_US) as app:
            await publish(app, history(9, 40))
            await activate(app, BOTH)
            await app.backfill.wait()
            rows = await app.thread.run(lambda: list(app.ledger.read_log(0)))
            assert [row.kind for row in rows][-1] is LogKind.BACKFILL
            await activate(app, files(f"{OLD}\n              {NEW.rpartition('quarter')[0]}".rstrip()))
            await app.backfill.wait()
            assert len(await app.thread.run(lambda: list(app.ledger.read_log(0)))) == len(rows), (
                "nothing new to fill"
            )

    in_loop(body)
