"""Triggers by date and by schedule, on a whole service: everybody who is due, once, at the time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from textwrap import dedent
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from opportune_service.app import schedule
from opportune_service.app.context import ImportItem, import_context
from opportune_service.app.errors import StoreUnavailableError
from opportune_service.app.records import DecisionFilter
from opportune_service.app.schedule import BATCH, CHUNK, Schedule
from opportune_service.bootstrap import Application
from opportune_service.clocks import ManualClock
from opportune_service.core.events import Due, Encoding, Event, ImportMode
from opportune_service.core.verdict import Reason
from support.applications import activate, decided, in_loop, running
from support.small_rulebase import subscribers

HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US
ANNE, BOB, CAROL = subscribers(3)


def at(text: str, zone: str = "Asia/Shanghai") -> int:
    """The instant of a local wall clock time."""
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()) * 1_000_000


def files(on: str, *, fresh_for: str = "12h", label: str = "", when: str = "sub.wants") -> dict[str, bytes]:
    """A rulebase with one campaign, for those who want it."""
    texts = {
        "rulebase.yaml": f'rulebase: scheduled\nlabel: "{label}"\ntime_zone: Asia/Shanghai\n',
        "vocabulary.yaml": """\
            events: {sms_sent: {}}
            subscriber:
              wants: {type: bool, default: true}
              birthday: date
              contract_end: date
              points_expire: timestamp
            channels: {sms: {mode: automatic}}
            products: {gift: {label: Gift, category: care}}
            """,
        "campaigns/offer.yaml": f"""\
            campaign: offer
            product: gift
            on: {on}
            when: {when}
            mode: automatic
            channels: [sms]
            fresh_for: {fresh_for}
            content: {{sms: "A gift"}}
            """,
    }
    return {name: dedent(text).encode() for name, text in texts.items()}


BIRTHDAY = '[{date: sub.birthday, every: year, at: "09:00"}]'
DAILY = '[{schedule: daily, at: "10:00"}]'


async def know(app: Application, people: Mapping[str, Mapping[str, object]]) -> None:
    items = [ImportItem(who, msgspec.json.encode(context)) for who, context in people.items()]
    as_of_us = app.clock.now_us()
    receipt = await import_context(app.live, app.ingest, items, as_of_us, ImportMode.PATCH, Encoding.JSON)
    assert not receipt.rejections


def set_clock(app: Application, now_us: int) -> None:
    assert isinstance(app.clock, ManualClock)
    app.clock.value_us = now_us


async def offered(app: Application) -> list[tuple[str, str]]:
    """(subscriber, reason) of everything recorded, in order."""
    rows = await app.insight.decisions(DecisionFilter(), 0, 1000, newest_first=False)
    return [(row.key.subscriber_id, row.reason.value) for row in rows]


async def sweep_at(app: Application, *instants: int) -> list[list[str]]:
    """Set the clock to each instant in turn and sweep; who was offered something at each, sorted."""
    found = []
    for now_us in instants:
        seen = len(await offered(app))
        set_clock(app, now_us)
        await app.schedule.turn()
        found.append(sorted(who for who, reason in (await offered(app))[seen:] if reason == "decided"))
    return found


@pytest.mark.parametrize(
    ("on", "people", "looks", "who"),
    [
        pytest.param(
            BIRTHDAY,
            {ANNE: {"birthday": "1990-11-21"}, BOB: {"birthday": "1985-11-22"}, CAROL: {}},
            ["2026-11-21T08:59", "2026-11-21T09:00", "2026-11-21T23:00", "2026-11-22T09:00"],
            [[], [ANNE], [], [BOB]],
            id="birthday",
        ),
        pytest.param(
            '[{date: sub.contract_end, before: 30d, at: "10:00"}]',
            {ANNE: {"contract_end": "2026-12-21"}, BOB: {"contract_end": "2026-12-22"}},
            ["2026-11-21T10:00", "2026-11-22T10:00", "2026-11-23T10:00"],
            [[ANNE], [BOB], []],
            id="contract end",
        ),
        pytest.param(
            '[{date: sub.points_expire, before: 7d, at: "18:30"}]',
            # In Shanghai it is the 29th already.
            {ANNE: {"points_expire": "2026-11-28T17:00:00Z"}},
            ["2026-11-21T18:30", "2026-11-22T18:29", "2026-11-22T18:30"],
            [[], [], [ANNE]],
            id="points",
        ),
        pytest.param(
            '[{schedule: weekly, days: [mon], at: "10:00"}]',
            {ANNE: {}, BOB: {"wants": False}},
            ["2026-11-22T10:00", "2026-11-23T10:00", "2026-11-24T10:00", "2026-11-30T10:00"],
            [[], [ANNE], [], [ANNE]],
            id="weekly",
        ),
        pytest.param(
            '[{schedule: monthly, days: [31], at: "10:00"}]',
            {ANNE: {}},
            ["2026-11-29T10:00", "2026-11-30T10:00", "2026-12-30T10:00", "2026-12-31T10:00"],
            [[], [ANNE], [], [ANNE]],
            id="monthly",
        ),
        pytest.param(
            '[{schedule: once, date: 2026-12-01, at: "10:00"}]',
            {ANNE: {}},
            ["2026-11-30T12:00", "2026-12-01T10:00", "2026-12-02T10:00", "2027-12-01T10:00"],
            [[], [ANNE], [], []],
            id="once",
        ),
    ],
)
def test_everybody_who_is_due_at_the_time(
    on: str, people: dict[str, dict[str, object]], looks: Sequence[str], who: list[list[str]]
) -> None:
    async def body() -> None:
        async with running(files=files(on), people=(), now_us=at("2026-11-20T12:00")) as app:
            await know(app, people)
            assert await sweep_at(app, *map(at, looks)) == who

    in_loop(body)


def test_every_zone_has_its_own_ten_o_clock() -> None:
    async def body() -> None:
        async with running(files=files(DAILY), people=(), now_us=at("2026-11-20T12:00")) as app:
            await know(
                app, {ANNE: {}, BOB: {"time_zone": "Europe/Berlin"}, CAROL: {"time_zone": "nowhere"}}
            )
            ten = at("2026-11-21T10:00"), at("2026-11-21T10:00", "Europe/Berlin")
            assert await sweep_at(app, *ten) == [[ANNE, CAROL], [BOB]]

    in_loop(body)


def test_the_clocks_are_changed() -> None:
    """02:30 does not exist on the day: due once, somewhat earlier; the day after at 02:30 again."""

    async def body() -> None:
        on = '[{schedule: daily, at: "02:30"}]'
        new_york = "America/New_York"
        async with running(files=files(on), people=(), now_us=at("2027-03-13T12:00", new_york)) as app:
            await know(app, {ANNE: {"time_zone": new_york}})
            looks = ["2027-03-14T01:29", "2027-03-14T01:30", "2027-03-14T05:00", "2027-03-15T02:30"]
            instants = [at(look, new_york) for look in looks]
            assert await sweep_at(app, *instants) == [[], [ANNE], [], [ANNE]]

    in_loop(body)


def test_what_was_missed_in_the_last_day_is_made_up_and_no_more(tmp_path: Path) -> None:
    async def before() -> None:
        async with running(
            tmp_path / "o.db", files(DAILY), people=(), now_us=at("2026-11-20T12:00")
        ) as app:
            await know(app, {ANNE: {}})

    async def after() -> None:
        async with running(
            tmp_path / "o.db", files(DAILY), people=(), now_us=at("2026-11-23T15:00")
        ) as app:
            await app.schedule.turn()
            assert await offered(app) == [(ANNE, "decided")], "of three sweeps the last"
            await app.schedule.turn()
            assert len(await offered(app)) == 1

    in_loop(before)
    in_loop(after)


def test_a_campaign_turns_away_what_comes_too_late_for_it() -> None:
    async def body() -> None:
        start_us = at("2026-11-20T12:00")
        async with running(files=files(DAILY, fresh_for="1h"), people=(), now_us=start_us) as app:
            await know(app, {ANNE: {}})
            set_clock(app, at("2026-11-21T15:00"))
            await app.schedule.turn()
            assert await offered(app) == [(ANNE, Reason.STALE.value)]

    in_loop(body)


def test_a_new_trigger_makes_nothing_up() -> None:
    async def body() -> None:
        async with running(files=files("[sms_sent]"), people=(), now_us=at("2026-11-20T08:00")) as app:
            await know(app, {ANNE: {}})
            set_clock(app, at("2026-11-20T11:00"))
            await activate(app, files(DAILY))
            assert await sweep_at(app, at("2026-11-20T12:00"), at("2026-11-21T10:00")) == [[], [ANNE]]

    in_loop(body)


def test_a_reload_keeps_what_was_swept() -> None:
    async def body() -> None:
        async with running(files=files(DAILY), people=(), now_us=at("2026-11-20T08:00")) as app:
            await know(app, {ANNE: {}})
            assert await sweep_at(app, at("2026-11-20T10:00")) == [[ANNE]]
            await activate(app, files(DAILY, label="another"))
            assert await sweep_at(app, at("2026-11-20T11:00"), at("2026-11-21T10:00")) == [[], [ANNE]]
            # What is swept for meanwhile under another revision is made up by neither.
            await activate(app, files("[sms_sent]"))
            assert await sweep_at(app, at("2026-11-22T11:00")) == [[]]
            await activate(app, files(DAILY))
            assert await sweep_at(app, at("2026-11-22T12:00")) == [[]]

    in_loop(body)


class Halting:
    """Hands on so many batches of what is due, then fails as a store does, or does something else."""

    def __init__(self, app: Application, batches: int, then: Any = None) -> None:
        self._app = app
        self._left = batches
        self._then = then
        self.dues: list[Due] = []

    async def __call__(self, dues: Sequence[Due]) -> None:
        if self._left == 0:
            if self._then is None:
                raise StoreUnavailableError("the disk is full")
            self._left = -1
            await self._then()
        self._left -= 1
        self.dues += dues
        await self._app.ingest.settle_due(dues)

    def schedule(self) -> Schedule:
        app = self._app
        return Schedule(app.live, app.states, app.ledger, app.thread, app.clock, self)


MANY = subscribers(2 * BATCH + 100)


def test_a_sweep_that_was_cut_off_is_made_again_and_nobody_is_decided_twice(tmp_path: Path) -> None:
    async def first() -> None:
        async with running(
            tmp_path / "o.db", files(DAILY), people=MANY, now_us=at("2026-11-20T08:00")
        ) as app:
            set_clock(app, at("2026-11-20T10:00"))
            halting = Halting(app, 1)
            with pytest.raises(StoreUnavailableError):
                await halting.schedule().turn()
            assert len(await offered(app)) == len(halting.dues) == BATCH

    async def second() -> None:
        async with running(
            tmp_path / "o.db", files(DAILY), people=(), now_us=at("2026-11-20T10:30")
        ) as app:
            again = Halting(app, -1)
            await app.schedule.turn()
            rows = await app.insight.decisions(DecisionFilter(), 0, 5000, newest_first=False)
            assert sorted(row.key.subscriber_id for row in rows) == sorted(MANY)
            assert {row.reason for row in rows} == {Reason.DECIDED}
            await again.schedule().turn()
            assert not again.dues, "control: it is noted as done"

    in_loop(first)
    in_loop(second)


def test_lots_are_drawn_for_who_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not as live state keeps them, or who is within a quota would depend on the process that sweeps; nor
    by their numbers, or it would be the same people every day."""
    monkeypatch.setattr(schedule, "_RUN", 7)
    people = subscribers(2 * CHUNK + 1)
    days = range(20, 24)

    def drawn(known: Sequence[str]) -> list[list[str]]:
        found = []

        async def body() -> None:
            async with running(files=files(DAILY), people=(), now_us=at("2026-11-20T08:00")) as app:
                for who in known:
                    await know(app, {who: {}})
                assert await app.states.subscribers() == known, "control: it is their order"
                for day in days:
                    set_clock(app, at(f"2026-11-{day}T10:00"))
                    halting = Halting(app, -1)
                    await halting.schedule().turn()
                    found.append([due.subscriber_id for due in halting.dues])

        in_loop(body)
        return found

    orders = drawn(people)
    assert orders == drawn(people[::-1])
    assert [sorted(order) for order in orders] == [people] * len(days)
    firsts = [set(order[: len(people) // 4]) for order in orders]
    assert len({frozenset(first) for first in firsts}) == len(days), "another day, others"
    lower = set(people[: len(people) // 2])
    assert 0.4 < sum(len(first & lower) for first in firsts) / sum(map(len, firsts)) < 0.6


def test_a_reload_in_the_middle_leaves_nobody_out() -> None:
    async def body() -> None:
        async with running(files=files(DAILY), people=MANY, now_us=at("2026-11-20T08:00")) as app:

            async def reload() -> None:
                await activate(app, files(DAILY, label="another"))

            set_clock(app, at("2026-11-20T10:00"))
            halting = Halting(app, 1, reload)
            schedule = halting.schedule()
            await schedule.turn()
            assert len(set(halting.dues)) < len(MANY), "control: the reload cut it off"
            await schedule.turn()
            rows = await app.insight.decisions(DecisionFilter(), 0, 5000, newest_first=False)
            assert sorted(row.key.subscriber_id for row in rows) == sorted(MANY)

    in_loop(body)


def test_events_are_taken_in_while_it_sweeps() -> None:
    """What is published in the middle is answered before the sweep is through."""

    async def body() -> None:
        async with running(files=files(DAILY), people=MANY, now_us=at("2026-11-20T08:00")) as app:
            set_clock(app, at("2026-11-20T10:00"))
            published: list[asyncio.Task[object]] = []
            answered: list[int] = []

            async def settle(dues: Sequence[Due]) -> None:
                if not published:
                    event = Event("e1", ANNE, "sms_sent", app.clock.now_us())
                    published.append(asyncio.create_task(app.ingest.publish("test", [event])))
                await app.ingest.settle_due(dues)
                answered.append(sum(task.done() for task in published))

            await Schedule(app.live, app.states, app.ledger, app.thread, app.clock, settle).turn()
            assert len(answered) == 3
            assert answered[1] == 1

    in_loop(body)


def test_finished_sweeps_are_forgotten_in_the_end() -> None:
    async def body() -> None:
        async with running(files=files(DAILY), people=(ANNE,), now_us=at("2026-11-20T08:00")) as app:
            instants = [at("2026-11-20T10:00") + day * DAY_US for day in range(10)]
            assert await sweep_at(app, *instants) == [[ANNE]] * 10
            kept = await app.thread.run(app.ledger.sweeps)
            assert {sweep.due_us for sweep in kept} == set(instants[-3:])

    in_loop(body)


def test_a_trigger_and_an_event_make_one_campaign_fire_each() -> None:
    """Control: what is due is a moment of its own."""

    async def body() -> None:
        async with running(files=files(DAILY), people=(ANNE,), now_us=at("2026-11-20T10:00")) as app:
            receipt = await app.ingest.settle_due(
                [Due(ANNE, "schedule/daily@10:00", at("2026-11-20T10:00"))]
            )
            assert decided(receipt.verdicts) == [(ANNE, "offer")]
            assert [verdict.key.source for verdict in receipt.verdicts] == ["clock"]

    in_loop(body)
