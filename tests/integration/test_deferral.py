"""What is deferred is decided again when it is due: once, together, with what is known by then."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from opportune_rulebase.policies import Fate
from opportune_service import bootstrap
from opportune_service.app import replay as replay_module
from opportune_service.app.defer import decide_due
from opportune_service.app.errors import StoreUnavailableError
from opportune_service.app.records import DecisionFilter
from opportune_service.app.replay import replay
from opportune_service.bootstrap import Application
from opportune_service.clocks import ManualClock
from opportune_service.core import decide as decide_module
from opportune_service.core.events import Event
from opportune_service.core.observe import DEFERRAL
from opportune_service.core.verdict import Reason, Verdict
from opportune_service.settings import Settings
from support.applications import activate, decided, in_loop, running
from support.flaky import Flaky
from support.guarded_rulebase import (
    HOUR_US,
    MINUTE_US,
    MORNING_US,
    NIGHT_US,
    call,
    guarded_rulebase,
    reply,
    top_up,
)
from support.rulebases import NOON_US
from support.small_rulebase import SECOND_US, subscribers

ANNE, BOB = subscribers(2)


def at(app: Application, now_us: int) -> None:
    """It is so late now."""
    assert isinstance(app.clock, ManualClock)
    app.clock.value_us = now_us


async def tell(app: Application, *events: Event) -> list[Verdict]:
    receipt = await app.ingest.publish("test", events)
    assert not receipt.rejections
    return receipt.verdicts


async def due_now(app: Application) -> list[tuple[str, str, Reason]]:
    """Have everything decided that is due; (subscriber id, campaign, reason) of what was decided again."""
    before = await decisions(app)
    await decide_due(app.ingest, app.clock.now_us())
    return (await decisions(app))[len(before) :]


async def decisions(app: Application) -> list[tuple[str, str, Reason]]:
    rows = await app.insight.decisions(DecisionFilter(), 0, 1_000, False)
    return [(row.key.subscriber_id, row.campaign, row.reason) for row in rows]


async def waiting(app: Application) -> list[str]:
    """The campaigns of all deferrals that the ledger has."""
    found = await app.thread.run(app.ledger.due_deferrals, 2**62, 1_000)
    return sorted(each.campaign for each in found)


async def at_night(app: Application) -> None:
    """Anne calls and tops up at 23:00; both offers wait for the morning."""
    at(app, NIGHT_US)
    verdicts = await tell(app, call(ANNE, "e1", NIGHT_US), top_up(ANNE, "e2", NIGHT_US + 1))
    deferred = [each for verdict in verdicts for each in verdict.decisions]
    assert [each.reason for each in deferred] == [Reason.QUIET_HOURS, Reason.QUIET_HOURS]
    assert [each.fate for each in deferred] == [Fate.DEFER, Fate.DEFER]
    assert await waiting(app) == ["data", "gift"]


def test_offers_of_a_night_are_arbitrated_together_in_the_morning() -> None:
    async def body() -> None:
        async with running(files=guarded_rulebase()) as app:
            await at_night(app)
            at(app, MORNING_US - 1)
            assert await due_now(app) == []
            at(app, MORNING_US)
            assert await due_now(app) == [(ANNE, "data", Reason.DECIDED), (ANNE, "gift", Reason.OUTRANKED)]
            (lease,) = await app.deliveries.lease("sms", 10)
            assert lease.content == "Your top-up of 5 brings data.", "of the event that triggered it"
            assert await waiting(app) == []
            at(app, MORNING_US + HOUR_US)
            assert await due_now(app) == []

    in_loop(body)


def test_jitter_spreads_subscribers_but_keeps_the_offers_of_each_together() -> None:
    people = subscribers(40)

    async def body() -> None:
        async with running(files=guarded_rulebase(deferral="{jitter: 30m}"), people=people) as app:
            at(app, NIGHT_US)
            for who in people:
                await tell(app, call(who, "e1", NIGHT_US), top_up(who, "e2", NIGHT_US))
            found = await app.thread.run(app.ledger.due_deferrals, 2**62, 1_000)
            due = {who: {each.due_us for each in found if each.subscriber_id == who} for who in people}
            assert all(len(instants) == 1 for instants in due.values())
            assert len({*map(frozenset, due.values())}) > 30
            for minutes in range(0, 31, 10):
                at(app, MORNING_US + minutes * MINUTE_US)
                await decide_due(app.ingest, app.clock.now_us())
            reasons = [reason for _, _, reason in (await decisions(app))[2 * len(people) :]]
            assert reasons.count(Reason.DECIDED) == reasons.count(Reason.OUTRANKED) == len(people)

    in_loop(body)


def test_it_is_decided_with_what_is_known_in_the_morning() -> None:
    """A customer who has opted out since is left alone."""

    async def body() -> None:
        async with running(files=guarded_rulebase()) as app:
            await at_night(app)
            await tell(app, reply(ANNE, "r1", NIGHT_US + 1, "TD"))
            at(app, MORNING_US)
            assert await due_now(app) == [
                (ANNE, "data", Reason.NO_CHANNEL),
                (ANNE, "gift", Reason.OUTRANKED),
            ]
            assert await waiting(app) == []

    in_loop(body)


def test_a_late_event_does_not_take_the_place_of_what_was_deferred() -> None:
    """Its own moment has passed: it neither changes what is said nor makes the offer live longer."""
    files = guarded_rulebase()
    files["campaigns/data.yaml"] = files["campaigns/data.yaml"].replace(b"fresh_for: 1h", b"fresh_for: 5m")

    async def body() -> None:
        async with running(files=files) as app:
            fresh_for_us = app.live.current.rulebase.campaigns["data"].fresh_for_us
            at(app, NIGHT_US)
            await tell(app, top_up(ANNE, "e1", NIGHT_US))
            (deferred,) = await app.thread.run(app.ledger.due_deferrals, 2**62, 10)
            at(app, MORNING_US)
            await app.ingest.read_deferrals(MORNING_US + 1)
            late = top_up(ANNE, "e2", MORNING_US - fresh_for_us - 1, amount=99)
            (verdict,) = await tell(app, late)
            (decision,) = verdict.decisions
            assert (decision.reason, decision.deferred_of) == (Reason.DECIDED, deferred.decision_id)
            assert decision.content == "Your top-up of 5 brings data."
            assert decision.expires_at_us <= deferred.expires_us

    in_loop(body)


def test_a_clock_that_is_set_back_does_not_keep_the_pipeline_busy() -> None:
    async def body() -> None:
        async with running(files=guarded_rulebase()) as app:
            await at_night(app)
            at(app, MORNING_US - MINUTE_US)  # it was later a moment ago
            async with asyncio.timeout(10):
                await decide_due(app.ingest, MORNING_US)
            assert await waiting(app) == ["data", "gift"]
            at(app, MORNING_US)
            assert await due_now(app) == [(ANNE, "data", Reason.DECIDED), (ANNE, "gift", Reason.OUTRANKED)]

    in_loop(body)


def test_what_is_deferred_survives_a_restart(tmp_path: Path) -> None:
    database = tmp_path / "ledger.db"

    async def body() -> None:
        async with running(database, files=guarded_rulebase()) as app:
            await at_night(app)
        async with running(database, files=guarded_rulebase(), now_us=MORNING_US) as app:
            assert await due_now(app) == [(ANNE, "data", Reason.DECIDED), (ANNE, "gift", Reason.OUTRANKED)]
        async with running(database, files=guarded_rulebase(), now_us=MORNING_US + 1) as app:
            assert await due_now(app) == []

    in_loop(body)


@pytest.mark.parametrize("after", [False, True])
def test_a_failed_commit_leaves_it_due(after: bool) -> None:
    async def body() -> None:
        async with running(files=guarded_rulebase()) as app:
            await at_night(app)
            at(app, MORNING_US)
            flaky = Flaky(app.ledger, after=after)
            app.ingest._ledger = flaky
            flaky.failing = True
            with pytest.raises(StoreUnavailableError):
                await decide_due(app.ingest, MORNING_US)
            flaky.failing = False
            await app.ingest.healthy.wait()
            assert await due_now(app) == [(ANNE, "data", Reason.DECIDED), (ANNE, "gift", Reason.OUTRANKED)]

    in_loop(body)


def test_an_event_takes_what_is_due_into_its_moment() -> None:
    """No stampede: the fresh offer and the one of the night are two of which one is made."""

    async def body() -> None:
        async with running(files=guarded_rulebase()) as app:
            at(app, NIGHT_US)
            await tell(app, call(ANNE, "e1", NIGHT_US))
            at(app, MORNING_US - 1)
            assert await due_now(app) == [], "but it has been read that something will be due"
            at(app, MORNING_US)
            (verdict,) = await tell(app, top_up(ANNE, "e2", MORNING_US))
            assert verdict.key.source == "test"
            assert [(each.campaign, each.reason) for each in verdict.decisions] == [
                ("data", Reason.DECIDED),
                ("gift", Reason.OUTRANKED),
            ]
            assert await waiting(app) == []
            assert await due_now(app) == []

    in_loop(body)


def test_a_fresh_offer_takes_the_place_of_the_deferred_one_of_its_campaign() -> None:
    async def body() -> None:
        async with running(files=guarded_rulebase()) as app:
            at(app, NIGHT_US)
            await tell(app, top_up(ANNE, "e1", NIGHT_US, amount=5))
            at(app, MORNING_US - 1)
            await decide_due(app.ingest, app.clock.now_us())
            at(app, MORNING_US)
            (verdict,) = await tell(app, top_up(ANNE, "e2", MORNING_US, amount=9))
            (decision,) = verdict.decisions
            assert decision.content == "Your top-up of 9 brings data."
            assert (decision.attempt, bool(decision.deferred_of)) == (2, True)
            assert await waiting(app) == []

    in_loop(body)


def test_a_campaign_that_is_gone_ends_its_deferral() -> None:
    async def body() -> None:
        async with running(files=guarded_rulebase()) as app:
            await at_night(app)
            await activate(app, guarded_rulebase(without="data"))
            at(app, MORNING_US)
            assert await due_now(app) == [(ANNE, "data", Reason.NOT_LIVE), (ANNE, "gift", Reason.DECIDED)]
            assert await waiting(app) == []

    in_loop(body)


def test_an_offer_that_has_lapsed_is_not_made() -> None:
    """Nobody was there to decide it when it was due."""

    async def body() -> None:
        async with running(files=guarded_rulebase()) as app:
            await at_night(app)
            at(app, NIGHT_US + 25 * HOUR_US)
            assert {reason for _, _, reason in await due_now(app)} == {Reason.STALE}
            assert await waiting(app) == []

    in_loop(body)


def test_what_settles_waits_for_better_offers() -> None:
    async def body() -> None:
        async with running(files=guarded_rulebase(policies="arbitration: {settle: 5m}")) as app:
            (first,) = await tell(app, call(ANNE, "e1"))
            assert [each.reason for each in first.decisions] == [Reason.SETTLING]
            at(app, NOON_US + 4 * MINUTE_US)
            assert await due_now(app) == []
            (better,) = await tell(app, top_up(ANNE, "e2", NOON_US + 4 * MINUTE_US))
            assert [each.reason for each in better.decisions] == [Reason.SETTLING]
            at(app, NOON_US + 5 * MINUTE_US)
            assert await due_now(app) == [(ANNE, "data", Reason.DECIDED), (ANNE, "gift", Reason.OUTRANKED)]
            assert await waiting(app) == []

    in_loop(body)


def test_more_that_is_due_than_is_read_at_once_is_all_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("opportune_service.app.deferrals.MOST", 3)
    monkeypatch.setattr("opportune_service.app.ingest.MOST_DEFERRALS", 3)
    people = subscribers(10)

    async def body() -> None:
        async with running(files=guarded_rulebase(), people=people) as app:
            at(app, NIGHT_US)
            for who in people:
                await tell(app, call(who, "e1", NIGHT_US), top_up(who, "e2", NIGHT_US))
            at(app, MORNING_US)
            found = await due_now(app)
            assert sorted(who for who, _, reason in found if reason is Reason.DECIDED) == sorted(people)
            assert await waiting(app) == []

    in_loop(body)


def test_a_poll_while_the_moment_is_being_committed_decides_it_once() -> None:
    """Whoever has taken what is due has it; the other finds nothing."""

    async def body() -> None:
        async with running(files=guarded_rulebase()) as app:
            await at_night(app)
            at(app, MORNING_US)
            await asyncio.gather(*(decide_due(app.ingest, MORNING_US) for _ in range(4)))
            found = (await decisions(app))[2:]
            assert found == [(ANNE, "data", Reason.DECIDED), (ANNE, "gift", Reason.OUTRANKED)]

    in_loop(body)


@pytest.mark.parametrize("settle", ["", "arbitration: {settle: 5m}"])
def test_a_replay_decides_again_at_the_time_when_it_is_due(
    settle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However the events are cut into batches."""
    events = sorted(
        (
            make(who, f"e{n}", NIGHT_US + n * 37 * MINUTE_US + offset)
            for n in range(30)
            for who, offset in ((ANNE, 0), (BOB, 13 * SECOND_US))
            for make in ((call, top_up)[n % 2],)
        ),
        key=lambda event: event.occurred_at_us,
    )

    async def body(size: int) -> list[tuple[Any, ...]]:
        monkeypatch.setattr(replay_module, "BATCH", size)
        async with running(files=guarded_rulebase(policies=settle, deferral="{jitter: 30m}")) as app:
            await replay(app.ingest, "test", events, until_us=NIGHT_US + 40 * HOUR_US)
            rows = await app.insight.decisions(DecisionFilter(), 0, 1_000, False)
            assert any(row.key.source == DEFERRAL for row in rows)
            assert any(row.reason is Reason.DECIDED for row in rows)
            assert await waiting(app) == []
            return sorted(
                (row.decided_at_us, row.key.subscriber_id, row.key.event_id, row.campaign, row.reason)
                for row in rows
            )

    assert in_loop(body, 1_000) == in_loop(body, 1) == in_loop(body, 7)


def test_when_nothing_deferred_is_decided_any_more_somebody_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def unreadable(*_: object) -> None:
        raise ValueError("no such deferral")

    monkeypatch.setattr(bootstrap, "decide_due", unreadable)

    async def body() -> None:
        settings = Settings(database="sqlite://", timer_seconds=0.001)
        async with bootstrap.application(settings, ManualClock(NOON_US)) as app:
            (helper,) = (task for task in asyncio.all_tasks() if task.get_name() == "what was deferred")
            await activate(app, guarded_rulebase())
            await asyncio.wait([helper])
            assert "restart it: what was deferred" in caplog.text
            assert await tell(app, call(ANNE, "e1")) != [], "all else goes on"

    in_loop(body)


@pytest.mark.parametrize("batch", [1, 2, 1_000])
def test_a_replay_does_not_depend_on_its_batches_when_a_cap_frees(
    monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    """A cap frees seconds after it has stopped an offer, and before the next event."""
    files = guarded_rulebase()
    daily = b"{daily: {limit: 1, period: day}}"
    assert daily in files["policies.yaml"]
    rolling = b"{hourly: {limit: 1, period: {rolling: 1h}, otherwise: defer}}"
    files["policies.yaml"] = files["policies.yaml"].replace(daily, rolling)
    events = [
        call(ANNE, "e1", NOON_US + 10 * SECOND_US),
        top_up(ANNE, "e2", NOON_US + HOUR_US),
        call(ANNE, "e3", NOON_US + HOUR_US + 20 * SECOND_US),
    ]
    monkeypatch.setattr(replay_module, "BATCH", batch)

    async def body() -> None:
        async with running(files=files) as app:
            await replay(app.ingest, "test", events, until_us=NOON_US + 2 * HOUR_US)
            rows = await app.insight.decisions(DecisionFilter(), 0, 100, False)
            assert [
                ((row.decided_at_us - NOON_US) // SECOND_US, row.campaign, row.reason) for row in rows
            ] == [
                (10, "gift", Reason.DECIDED),
                (3_600, "data", Reason.CAPPED),
                (3_620, "gift", Reason.DECIDED),
                (3_660, "data", Reason.CAPPED),
            ]

    in_loop(body)


async def burst(app: Application) -> int:
    """500 qualifying events of one subscriber in one second, from eight callers at once; how many contacts
    come of it."""
    events = [call(ANNE, f"e{n}", NOON_US + n * SECOND_US // 500) for n in range(500)]
    at(app, NOON_US + SECOND_US)

    async def caller(own: Sequence[Event]) -> list[Verdict]:
        verdicts = []
        for event in own:
            verdicts += (await app.ingest.publish("test", [event])).verdicts
        return verdicts

    found = await asyncio.gather(*(caller(events[n::8]) for n in range(8)))
    return len(decided([verdict for each in found for verdict in each]))


def test_a_burst_over_eight_callers_gives_exactly_the_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> int:
        async with running(files=guarded_rulebase()) as app:
            return await burst(app)

    assert in_loop(body) == 1
    honest = decide_module.decide

    def uncapped(rulebase: Any, moment: Any, history: Any, *rest: Any) -> Verdict:
        history.contacts = []
        return honest(rulebase, moment, history, *rest)

    monkeypatch.setattr("opportune_service.app.commit.decide", uncapped)
    assert in_loop(body) > 1, "the control: without what was reserved before, the cap is exceeded"
