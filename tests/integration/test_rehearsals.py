"""Rehearsals of a running service on its own record: they say what it did, and change nothing of it."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from opportune_rulebase.policies import OutcomeKind
from opportune_service.adapters.sql import schema
from opportune_service.adapters.sql.ledger import SqlLedger
from opportune_service.app.context import ImportItem, import_context
from opportune_service.app.defer import decide_due
from opportune_service.app.errors import InvalidRequestError, NotReadyError, UnknownRevisionError
from opportune_service.app.rehearsal import Input, Opening, Output, Progress, Report
from opportune_service.app.rehearsals import Rehearsal
from opportune_service.bootstrap import Application
from opportune_service.clocks import ManualClock
from opportune_service.core.events import Encoding, Event, ImportMode
from opportune_service.core.verdict import Verdict
from opportune_service.rehearsing import rehearse_in
from support.applications import activate, in_loop, know, running
from support.members import Stores, members, publish
from support.rehearsals import decided, listen, rehearsals_with, rehearse_service, without_end
from support.rulebases import NOON_US
from support.small_rulebase import mms, small_rulebase, subscribers, traffic
from support.timed_rulebase import timed_rulebase

SECOND_US = 1_000_000
MINUTE_US = 60 * SECOND_US
HOUR_US = 60 * MINUTE_US
SMALL = small_rulebase()
OTHER = small_rulebase(threshold=2)


async def report_of(app: Application, revision: str, since_us: int, **rest: Any) -> Report:
    """In this process."""
    asked = Rehearsal(revision, since_us, **rest)
    outputs = [output async for output in rehearsals_with(app, rehearse_in).rehearse(asked, "test")]
    assert isinstance(outputs[-1], Report)
    return outputs[-1]


async def live_through(app: Application, events: list[Event], until_us: int) -> list[Verdict]:
    """The service takes these in as they come, a second later, and looks at what is due as it does."""
    clock, heard, rest = app.clock, [], list(events)
    assert isinstance(clock, ManualClock)
    listen(app, heard)
    while clock.value_us < until_us:
        clock.value_us += SECOND_US
        now: list[Event] = []
        while rest and rest[0].occurred_at_us < clock.value_us:
            now.append(rest.pop(0))
        for source in ("a", "b"):
            own = [event for n, event in enumerate(now) if "ab"[n % 2] == source]
            if own:
                await app.ingest.publish(source, own)
        while app.ingest.next_timer_us <= clock.value_us:
            await app.ingest.settle_timers()
        await decide_due(app.ingest, clock.value_us)
        if clock.value_us % MINUTE_US == 0:
            await app.schedule.turn()
    return heard


def a_life(seed: int, people: int) -> list[Event]:
    """Balances that run low, and are or are not filled up, within half an hour. All at whole seconds: so
    are the looks of the service at what is due, as those of a rehearsal."""
    rng = random.Random(seed)
    made = [
        Event(
            f"t{n}",
            rng.choice(subscribers(people)),
            rng.choice(["low_balance", "low_balance", "recharge", "sms_sent"]),
            NOON_US + rng.randrange(10, 1_800) * SECOND_US,
            b"",
        )
        for n in range(400)
    ]
    return sorted(
        (
            msgspec.structs.replace(event, attributes=b'{"left": 3}')
            if event.type == "low_balance"
            else event
            for event in made
        ),
        key=lambda event: event.occurred_at_us,
    )


@pytest.mark.parametrize("seed", [1, 2])
def test_what_is_active_decides_in_rehearsal_what_it_decided_live(seed: int) -> None:
    """Timers, deferrals and triggers by schedule included."""
    files = timed_rulebase(silent="{after: low_balance, absent: recharge, for: 10m}")
    files["policies.yaml"] = (
        b"caps:\n  hourly: {limit: 1, period: {rolling: 20m}, otherwise: defer}\ncontrol: {share: 10%}\n"
    )
    files["campaigns/daily.yaml"] = (
        b"campaign: daily\nproduct: renewal\non: {schedule: daily, at: '12:20'}\nmode: automatic\n"
        b"channels: [sms]\npriority: 900\nfresh_for: 1h\ncontent: {sms: 'Renew'}\n"
    )

    async def body() -> None:
        async with running(files=files, people=subscribers(60)) as app:
            heard = await live_through(app, a_life(seed, 60), NOON_US + HOUR_US)
            await _snapshotted(app)
            report = await report_of(app, app.live.id, NOON_US + 1)
            live = decided(heard)
            volumes: dict[str, int] = {}
            for volume in report.volumes:
                if volume.decided:
                    volumes[volume.campaign] = volumes.get(volume.campaign, 0) + volume.decided
            expected: dict[str, int] = {}
            for _, _, campaign in live:
                expected[campaign] = expected.get(campaign, 0) + 1
            assert volumes == expected
            assert {"credit", "daily"} <= volumes.keys()
            assert not report.differences

    in_loop(body)


async def everything(app: Application) -> dict[str, list[str]]:
    """All rows of the ledger, and everybody's state."""
    ledger = app.ledger
    assert isinstance(ledger, SqlLedger)

    def rows() -> dict[str, list[str]]:
        with ledger._reading() as connection:
            return {
                table.name: sorted(repr(tuple(row)) for row in connection.execute(sa.select(table)))
                for table in schema.metadata.sorted_tables
            }

    states = {who: repr(await app.states.view(who)) for who in sorted(await app.states.subscribers())}
    return await app.thread.run(rows) | {"live": [f"{who} {state}" for who, state in states.items()]}


def test_a_rehearsal_changes_nothing_of_the_service(tmp_path: Path) -> None:
    async def body() -> None:
        async with running(tmp_path / "opportune.db") as app:
            for event in traffic(4, 200):
                await app.ingest.publish("a", [event])
            _set(app, NOON_US + HOUR_US)
            rulebase, _ = await app.rulebases.upload(OTHER, "test", "")
            before = await everything(app)
            report = await rehearse_service(app, Rehearsal(rulebase.revision, NOON_US - 1))
            assert report.events == 200 - _repeated(traffic(4, 200))
            assert report.differences
            assert await everything(app) == before
            # The control: one message more, and it shows.
            await app.ingest.publish("a", [mms(subscribers(1)[0], "one more", NOON_US + HOUR_US)])
            assert await everything(app) != before

    in_loop(body)


def _repeated(events: Any) -> int:
    ids = [event.id for event in events]
    return len(ids) - len(set(ids))


def _set(app: Application, at_us: int) -> None:
    assert isinstance(app.clock, ManualClock)
    app.clock.value_us = at_us


def test_earlier_contacts_and_refusals_count() -> None:
    """Two contacts a week: who had one before the beginning gets one more, who refused none."""

    async def body() -> None:
        one, two = subscribers(2)
        async with running(people=(one, two)) as app:
            for who in (one, two):
                receipts = [
                    await app.ingest.publish("a", [mms(who, f"{who}-{n}", NOON_US + n)]) for n in range(3)
                ]
                (contact,) = [d for r in receipts for v in r.verdicts for d in v.decisions]
            await app.deliveries.report_outcome(contact.id, OutcomeKind.REFUSED, NOON_US + 10)
            app.ingest.request_checkpoint()
            since_us = NOON_US + 2 * HOUR_US
            _set(app, since_us)
            for n in range(3, 6):
                for who in (one, two):
                    await app.ingest.publish("a", [mms(who, f"{who}-{n}", since_us + n)])
            _set(app, since_us + HOUR_US)
            await _snapshotted(app)
            report = await report_of(app, app.live.id, since_us)
            assert report.contacts == 1
            losses = {(loss.reason.value, loss.count) for loss in report.losses}
            assert losses == {("capped", 2), ("cooling_off", 3)}
            # The control: without what was before, each gets two.
            asked = Rehearsal(app.live.id, since_us)
            forgotten = rehearsals_with(app, _without_past).rehearse(asked, "test")
            last = [output async for output in forgotten][-1]
            assert isinstance(last, Report)
            assert last.contacts == 4

    in_loop(body)


async def _without_past(opening: Opening, inputs: AsyncIterator[Input]) -> Any:
    async def fewer() -> AsyncIterator[Input]:
        async for each in inputs:
            if type(each).__name__ != "Past":
                yield each

    async for output in rehearse_in(opening, fewer()):
        yield output


async def _snapshotted(app: Application) -> None:
    """Everything is in the snapshots."""
    while app.states.dirty():
        app.ingest.request_checkpoint()
        await asyncio.sleep(0.01)
    await app.ingest.between(_nothing)


async def _nothing() -> None:
    """Only the place in the queue matters."""


def test_context_is_as_it_was_then() -> None:
    """Who refuses everything after the rehearsed time is contacted in the rehearsal."""

    async def body() -> None:
        who = subscribers(1)[0]
        async with running(people=()) as app:
            await _tell(app, who, NOON_US - HOUR_US, {"age": 30})
            for n in range(3):
                await app.ingest.publish("a", [mms(who, f"e{n}", NOON_US + n)])
            _set(app, NOON_US + HOUR_US)
            await _tell(app, who, NOON_US + HOUR_US, {"do_not_contact": True})
            await _snapshotted(app)
            _set(app, NOON_US + 2 * HOUR_US)
            before = {"since_us": NOON_US - MINUTE_US, "until_us": NOON_US + HOUR_US - 1}
            report = await report_of(app, app.live.id, **before)
            assert (report.events, report.contacts) == (3, 1)
            assert not any("imported since" in warning for warning in report.warnings)
            # The log no longer tells that nothing was said of it before: then it is taken as it is now.
            await app.thread.run(_prune_first_row, app)
            report = await report_of(app, app.live.id, **before)
            assert (report.events, report.contacts) == (3, 0)
            assert any("imported since" in warning for warning in report.warnings)

    in_loop(body)


def _prune_first_row(app: Application) -> None:
    ledger = app.ledger
    assert isinstance(ledger, SqlLedger)
    with ledger._writer.begin() as connection:
        connection.execute(schema.log.delete().where(schema.log.c.position == 1))


async def _tell(app: Application, who: str, as_of_us: int, known: dict[str, object]) -> None:
    item = ImportItem(who, msgspec.json.encode(known))
    receipt = await import_context(app.live, app.ingest, [item], as_of_us, ImportMode.PATCH, Encoding.JSON)
    assert not receipt.rejections


def test_whoever_goes_away_ends_it(tmp_path: Path) -> None:
    """The process is gone, its files are, and the next one may begin."""

    async def body() -> None:
        async with running(tmp_path / "opportune.db") as app:
            for event in traffic(4, 50):
                await app.ingest.publish("a", [event])
            _set(app, NOON_US + HOUR_US)
            asked = Rehearsal(app.live.id, NOON_US - 1)
            children = _children()
            rehearsals = rehearsals_with(app, without_end)
            async with aclosing(rehearsals.rehearse(asked, "one")) as outputs:
                assert isinstance(await anext(outputs), Progress)
                assert len(_children() - children) == 1
                with pytest.raises(NotReadyError, match="one rehearses"):
                    await anext(rehearsals.rehearse(asked, "two"))
            assert _children() == children
            assert (await rehearse_service(app, asked)).contacts

    in_loop(body)


def _children() -> set[int]:
    listed = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text()
    return set(map(int, listed.split()))


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"since_us": NOON_US + HOUR_US}, "since"),
        ({"since_us": 0}, "since"),
        ({"until_us": NOON_US - HOUR_US}, "until"),
        ({"folded_since_us": NOON_US}, "folded_since"),
        ({"sample_size": 1_001}, "sample_size"),
        ({"sample_size": -1}, "sample_size"),
    ],
)
def test_what_makes_no_sense_is_refused(asked: dict[str, int], field: str) -> None:
    async def body() -> None:
        async with running() as app:
            given = {"since_us": NOON_US - MINUTE_US} | asked
            with pytest.raises(InvalidRequestError) as caught:
                await anext(app.rehearsals.rehearse(Rehearsal(app.live.id, **given), "test"))
            assert caught.value.field == field

    in_loop(body)


def test_what_is_not_there_is_said() -> None:
    async def body() -> None:
        async with running() as app:
            since_us = NOON_US - MINUTE_US
            for asked in (
                Rehearsal("0" * 64, since_us),
                Rehearsal(app.live.id, since_us, baseline="1" * 64),
            ):
                with pytest.raises(UnknownRevisionError):
                    await anext(app.rehearsals.rehearse(asked, "test"))
            with pytest.raises(NotReadyError, match="log has no events"):
                await anext(
                    app.rehearsals.rehearse(Rehearsal(app.live.id, since_us - HOUR_US, "", since_us), "")
                )

    in_loop(body)


def test_a_process_that_dies_is_told_of(tmp_path: Path) -> None:
    async def body() -> None:
        async with running(tmp_path / "opportune.db") as app:
            for event in traffic(4, 50):
                await app.ingest.publish("a", [event])
            _set(app, NOON_US + HOUR_US)
            children = _children()
            rehearsals = rehearsals_with(app, without_end)
            outputs = rehearsals.rehearse(Rehearsal(app.live.id, NOON_US - 1), "one")
            said: Output = await anext(outputs)
            assert isinstance(said, Progress)
            (child,) = _children() - children
            os.kill(child, 9)
            with pytest.raises(NotReadyError, match="ended before its time"):
                async for _ in outputs:
                    pass
            # The service goes on, and so do rehearsals.
            await activate(app, OTHER)
            await know(app, subscribers(6)[5:])
            assert (await rehearse_service(app, Rehearsal(app.live.id, NOON_US - 1))).contacts

    in_loop(body)


def test_members_rehearse_what_any_of_them_took_in(postgres_url: str, redis_url: str) -> None:
    """On PostgreSQL and Redis, in a process of its own: events that two members took in, once each."""

    async def body() -> None:
        stores = Stores(postgres_url, redis_url)
        async with members(stores, 2) as (one, two):
            sent = list(traffic(4, 60))
            for number, event in enumerate(sent):
                await publish((one, two)[number % 2], [event], "a")
            _set(one, NOON_US + HOUR_US)  # the clock of both
            rulebase, _ = await two.rulebases.upload(OTHER, "test", "")
            decided_live = stores.rows("SELECT count(*) FROM contacts")
            report = await rehearse_service(two, Rehearsal(rulebase.revision, NOON_US - 1))
            assert report.events == len({event.id for event in sent})
            assert report.differences
            assert stores.rows("SELECT count(*) FROM contacts") == decided_live

    in_loop(body)
