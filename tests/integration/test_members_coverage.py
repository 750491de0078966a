"""What members know of each other's activations, backfills and withdrawn consents: as if they were one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any

import pytest
from opportune_service.app.context import ImportItem, import_context
from opportune_service.app.membership import Membership
from opportune_service.bootstrap import Application
from opportune_service.clocks import ManualClock
from opportune_service.core.events import Encoding, ImportMode
from opportune_service.core.verdict import Reason
from support.applications import activate, in_loop, running
from support.members import Gate, Stores, leading, members, publish, until
from support.rulebases import NOON_US
from support.small_rulebase import SECOND_US, mms, small_rulebase, subscribers

HOUR_US = 3600 * SECOND_US
DAY_US = 24 * HOUR_US
PEOPLE = subscribers(5)
ANNE = PEOPLE[0]

MORE = "mms_2d: {count: mms_sent, days: 2}"


@pytest.fixture
def stores(postgres_url: str, redis_url: str) -> Stores:
    return Stores(postgres_url, redis_url)


def with_metric(line: str = MORE) -> dict[str, bytes]:
    """The small rulebase with one metric more."""
    files = small_rulebase()
    files["behaviours.yaml"] = files["behaviours.yaml"].replace(
        b"behaviours:", b"  %s\nbehaviours:" % line.encode(), 1
    )
    return files


def without_large() -> dict[str, bytes]:
    """The small rulebase without the metric ``large_24h``."""
    files = small_rulebase()
    kept = [line for line in files["behaviours.yaml"].splitlines() if b"large_24h" not in line]
    files["behaviours.yaml"] = b"\n".join(kept)
    files["campaigns/care-plan.yaml"] = files["campaigns/care-plan.yaml"].replace(
        b"metric.large_24h >= 1", b"metric.mms_30d >= 1"
    )
    return files


def membership_of(app: Application) -> Membership:
    assert app.membership is not None
    return app.membership


def known_since(app: Application, metric: str) -> tuple[int, int]:
    """(since when it is covered, the last position before), as this member has it."""
    revision = app.live.current
    key = revision.rulebase.metrics[metric].key
    return revision.coverage[key], revision.births[key]


# -- activations and backfills ------------------------------------------------------------------------


def test_a_revision_that_went_and_came_back_between_two_beats_is_not_taken_for_the_same(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body() -> None:
        clock = ManualClock(NOON_US)
        async with members(stores, clock=clock) as (first, second):
            back = first.live.id
            await publish(second, [mms(ANNE, "e1", NOON_US, size_kb=200)])
            born = known_since(second, "large_24h")
            beats = Gate(membership_of(second), "beat", monkeypatch)
            beats.shut()
            await beats.waiting.wait()
            await activate(first, without_large())
            clock.value_us += HOUR_US
            await publish(first, [mms(ANNE, "e2", clock.value_us, size_kb=200)])
            await first.activations.activate(back, None, "test", "", backfill=False)
            assert known_since(first, "large_24h") > born, "control: it is folded anew"
            assert second.live.id == back
            # It adopts what is new when its commit fails; nobody has told it before.
            await publish(second, [mms(ANNE, "e3", clock.value_us, size_kb=200)])
            assert known_since(second, "large_24h") == known_since(first, "large_24h")
            beats.open()

    in_loop(body)


def test_what_one_member_has_filled_is_covered_at_all(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body() -> None:
        clock = ManualClock(NOON_US)
        async with members(stores, clock=clock) as (first, second):
            await publish(first, [mms(ANNE, "e1", NOON_US)])
            clock.value_us += 3 * DAY_US
            await publish(first, [mms(ANNE, "e2", clock.value_us)])
            bringing = Gate(first.backfill, "_bring", monkeypatch)
            bringing.shut()
            revision = await activate(first, with_metric())
            await bringing.waiting.wait()
            await until(lambda: second.live.id == revision, "the other has it, not filled yet")
            bringing.open()
            await first.backfill.wait()
            since_us, _ = filled = known_since(first, "mms_2d")
            assert since_us < clock.value_us - 2 * DAY_US, "control: it reaches back"
            # Whatever is acknowledged from now on was decided in the knowledge of it.
            await publish(second, [mms(ANNE, "e3", clock.value_us)])
            assert known_since(second, "mms_2d") == filled
            assert membership_of(second).generation == membership_of(first).generation

    in_loop(body)


def test_a_backfill_that_another_activation_overtakes_says_nothing_of_what_came_back(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One member fills a metric; before it is done, another takes the metric out and brings it back,
    without a backfill. What the first has read is not what has been folded since."""

    async def body() -> None:
        clock = ManualClock(NOON_US)
        async with members(stores, clock=clock) as (first, second):
            await publish(first, [mms(ANNE, "e1", NOON_US)])
            clock.value_us += 3 * DAY_US
            finishing = Gate(first.backfill, "_finish", monkeypatch)
            finishing.shut()
            again = await activate(first, with_metric())
            await finishing.waiting.wait()
            await until(lambda: second.live.id == again, "the other has it too")
            await activate(second, small_rulebase())
            await publish(second, [mms(ANNE, "e2", clock.value_us)])
            await second.activations.activate(again, None, "test", "", backfill=False)
            finishing.open()
            await first.backfill.wait()
            await publish(first, [mms(ANNE, "e3", clock.value_us)])
            for app in (first, second):
                assert known_since(app, "mms_2d")[0] >= clock.value_us

    in_loop(body)


def test_a_backfill_is_resumed_by_another_and_one_that_runs_goes_on(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body() -> None:
        clock = ManualClock(NOON_US)
        async with members(stores, clock=clock) as apps:
            await leading(apps)
            first, second = apps
            await publish(first, [mms(ANNE, "e1", NOON_US)])
            clock.value_us += 3 * DAY_US
            hung = Gate(first.backfill, "_bring", monkeypatch)
            hung.shut()
            revision = await activate(first, with_metric())
            await hung.waiting.wait()
            await until(lambda: second.live.id == revision, "the other has it too")
            running = first.backfill._task
            first.backfill.resume()
            assert first.backfill._task is running
            await first.backfill.close()  # as if it had died
            second.backfill.resume()
            await second.backfill.wait()
            assert stores.rows("SELECT 1 FROM backfills") == []
            since_us, _ = known_since(second, "mms_2d")
            assert since_us < clock.value_us - 2 * DAY_US
            generation = membership_of(second).generation
            second.backfill.resume()
            await second.backfill.wait()
            assert membership_of(second).generation == generation, "nothing waited, so nothing was done"

    in_loop(body)


# -- consent --------------------------------------------------------------------------------------------

REFUSAL = b'{"do_not_contact": true}'


def contacting() -> dict[str, bytes]:
    """Whoever sends an MMS is sent an SMS, if they may be contacted."""
    files = small_rulebase(threshold=1, weekly_limit=1_000)
    files["vocabulary.yaml"] = files["vocabulary.yaml"].replace(
        b"subscriber: {age: int}", b"subscriber: {age: int, do_not_contact: bool}"
    )
    return files


async def refuse(app: Application, who: str) -> None:
    """It is acknowledged when this returns."""
    items = [ImportItem(who, REFUSAL)]
    await import_context(app.live, app.ingest, items, app.clock.now_us(), ImportMode.PATCH, Encoding.JSON)


def at_contexts(
    app: Application,
    monkeypatch: pytest.MonkeyPatch,
    *,
    before: Callable[[int], Awaitable[None]] | None = None,
    after: Callable[[int], Awaitable[None]] | None = None,
) -> None:
    """Has something happen before or after the contexts are read for the n-th time."""
    read, calls = app.states.contexts, 0

    async def contexts(subscriber_ids: Collection[str]) -> dict[str, Mapping[str, object]]:
        nonlocal calls
        calls += 1
        number = calls
        if before is not None:
            await before(number)
        found = await read(subscriber_ids)
        if after is not None:
            await after(number)
        return dict(found)

    monkeypatch.setattr(app.states, "contexts", contexts)


def test_nothing_goes_out_after_a_refusal_was_acknowledged_by_another_member(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Just when one has read what is known of the subscriber, for the lease."""

    async def body() -> None:
        clock = ManualClock(NOON_US)
        async with members(stores, files=contacting(), clock=clock) as (first, second):
            people = PEOPLE[:3]
            receipt = await publish(first, [mms(who, "e", NOON_US) for who in people])
            decisions = [each for verdict in receipt.verdicts for each in verdict.decisions]
            assert [each.reason for each in decisions] == [Reason.DECIDED] * 3

            async def refused(call: int) -> None:
                if call == 1:
                    await refuse(second, ANNE)

            at_contexts(first, monkeypatch, after=refused)
            leases = await first.deliveries.lease("sms", 10)
            assert sorted(each.subscriber_id for each in leases) == sorted(set(people) - {ANNE})
        found = stores.rows("SELECT subscriber_id, state FROM deliveries")
        expected = dict.fromkeys(people, "leased") | {ANNE: "withdrawn"}
        assert dict(found) == expected  # type: ignore[arg-type]
        counted = stores.rows("SELECT state FROM contacts WHERE subscriber_id = :who", who=ANNE)
        assert counted == [("released",)]

    in_loop(body)


def test_nothing_goes_out_after_a_refusal_that_came_while_more_was_leased(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In one process alone: between the first page of deliveries and the second."""
    people = subscribers(102)
    (_, second, *_) = people

    async def body() -> None:
        async with running(files=contacting(), people=people) as app:
            await app.ingest.publish("mmsc", [mms(who, "e", NOON_US) for who in people])
            await refuse(app, ANNE)  # so that one of the first page is not leased, and there is a second

            async def refused(call: int) -> None:
                if call == 2:
                    await refuse(app, second)

            at_contexts(app, monkeypatch, before=refused)
            leases = await app.deliveries.lease("sms", 100)
            leased = {each.subscriber_id for each in leases}
            assert len(leased) == len(leases) >= 99
            assert not leased & {ANNE, second}

            def counting() -> list[Any]:
                with app.ledger.transaction() as tx:
                    return list(tx.histories([second], 0, NOON_US)[second].contacts)

            assert await app.thread.run(counting) == []

    in_loop(body)


# -- pace -----------------------------------------------------------------------------------------------


def test_a_pace_below_the_number_of_members_goes_round(stores: Stores) -> None:
    """Each gets its turns, and in no second, whenever it begins, is there more than the pace."""

    async def body() -> None:
        clock = ManualClock(NOON_US)
        files = contacting()
        files["vocabulary.yaml"] = files["vocabulary.yaml"].replace(
            b"{mode: automatic}", b"{mode: automatic, per_second: 1}"
        )
        people = subscribers(60)
        async with members(stores, 2, files, people=people, clock=clock) as apps:
            await publish(apps[0], [mms(who, "e", NOON_US) for who in people])
            await until(lambda: all(each.share(2) for each in map(membership_of, apps)), "all have a part")
            given: list[tuple[int, int]] = []
            for _ in range(240):
                clock.value_us += SECOND_US // 4
                leases = await asyncio.gather(*(app.deliveries.lease("sms", 10) for app in apps))
                given += [(n, clock.value_us) for n, each in enumerate(leases) for _ in each]
        for _, begins_us in given:
            assert sum(begins_us <= at_us < begins_us + SECOND_US for _, at_us in given) <= 1
        counts = [sum(who == n for who, _ in given) for n in range(2)]
        assert min(counts) > 0, counts
        assert sum(counts) >= 30, counts

    in_loop(body)
