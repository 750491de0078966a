"""Timers through the pipeline, on a real ledger and a clock moved by hand."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from msgspec import structs
from opportune_service.app import observing
from opportune_service.app.advise import Visit, advise
from opportune_service.app.context import show_subscriber
from opportune_service.app.errors import StoreUnavailableError
from opportune_service.app.records import LogKind
from opportune_service.app.replay import replay
from opportune_service.bootstrap import Application, application
from opportune_service.clocks import ManualClock
from opportune_service.core.decide import encode_verdict
from opportune_service.core.events import MAX_SKEW_US, Due, Event
from opportune_service.core.state import encode_state
from opportune_service.core.verdict import Reason, Verdict
from opportune_service.core.watermarks import GRACE_US, SOURCE_TIMEOUT_US
from opportune_service.settings import Settings
from support.applications import activate, decided, in_loop, running
from support.flaky import Flaky
from support.rebuilt import live_and_rebuilt
from support.rulebases import NOON_US
from support.small_rulebase import SECOND_US, subscribers
from support.timed_rulebase import HOUR_US, MINUTE_US, later, low, plain, timed_rulebase

ANNE, BOB, CARL = subscribers(3)
DUE_US = NOON_US + HOUR_US


@asynccontextmanager
async def timed(
    database: Path | None = None,
    files: dict[str, bytes] | None = None,
    *,
    now_us: int = NOON_US,
    first: bool = True,
) -> AsyncIterator[Application]:
    """A service with the timed rulebase. `first`: its subscribers are not known yet."""
    people = subscribers(5) if first else ()
    async with running(database, files or timed_rulebase(), now_us=now_us, people=people) as app:
        yield app


def offers(verdicts: Sequence[Verdict]) -> list[tuple[str, str, int]]:
    """(subscriber, campaign, when the moment was) of what was decided."""
    return [
        (verdict.key.subscriber_id, decision.campaign, verdict.occurred_at_us)
        for verdict in verdicts
        for decision in verdict.decisions
        if decision.reason is Reason.DECIDED
    ]


async def as_recorded(
    app: Application, people: Sequence[str], *, position: bool = True
) -> dict[str, bytes]:
    """Their live states, encoded; what the record alone gives is the same. `position` False: without that,
    for it differs with the cut into batches."""
    live, rebuilt = await live_and_rebuilt(app, people)
    encoded = {who: encode_state(state) for who, state in live.items()}
    assert encoded == {who: encode_state(state) for who, state in rebuilt.items()}
    if position:
        return encoded
    return {who: encode_state(structs.replace(state, position=0)) for who, state in live.items()}


async def checkpoint(app: Application) -> None:
    """A whole round of snapshots, as there is one every half minute."""
    app.ingest.request_checkpoint()
    while app.ingest._checkpoints.due:  # noqa: ASYNC110 - it takes some turns of the loop, nothing else
        await asyncio.sleep(0)
    await app.ingest._checkpoints.wait()


# -- by the clock -----------------------------------------------------------------------------------


def test_an_absence_fires_once_with_no_further_traffic() -> None:
    async def body() -> None:
        async with timed() as app:
            receipt = await app.ingest.publish("bss", [low(ANNE, "e1", NOON_US)])
            assert receipt.verdicts == []
            assert app.ingest.next_timer_us == DUE_US
            assert await later(app, HOUR_US - 1) == []
            assert await later(app, 1) == [], "the source may still send what came before it"
            assert offers(await later(app, GRACE_US)) == [(ANNE, "credit", DUE_US)]
            assert await later(app, HOUR_US) == []
            assert (app.ingest.timers.fired, app.ingest.timers.dropped.total()) == (1, 0)
            (lease,) = await app.deliveries.lease("sms", 10)
            assert lease.subscriber_id == ANNE

    in_loop(body)


def test_what_was_awaited_keeps_it_from_firing() -> None:
    async def body() -> None:
        async with timed() as app:
            events = [low(ANNE, "e1", NOON_US), low(BOB, "e2", NOON_US)]
            await app.ingest.publish("bss", events)
            assert isinstance(app.clock, ManualClock)
            app.clock.value_us += MINUTE_US
            await app.ingest.publish("bss", [plain("recharge", ANNE, "e3", NOON_US + MINUTE_US)])
            assert offers(await later(app, 2 * HOUR_US)) == []
            assert app.ingest.timers.fired == 1
            (verdict,) = [v async for v in _verdicts(app)]
            assert verdict.key.subscriber_id == BOB

    in_loop(body)


async def _verdicts(app: Application) -> AsyncIterator[Verdict]:
    from opportune_service.app.records import DecisionFilter

    for row in await app.insight.decisions(DecisionFilter(), 0, 100, False):
        yield (await app.insight.explain_decision(row.decision_id)).verdict


def test_an_event_past_it_lets_it_fire_at_once() -> None:
    """Also of another subscriber: watermarks are of sources."""

    async def body() -> None:
        async with timed() as app:
            await app.ingest.publish("bss", [low(ANNE, "e1", NOON_US)])
            assert await later(app, HOUR_US + 2 * SECOND_US) == []
            await app.ingest.publish("bss", [plain("sms_sent", BOB, "e2", DUE_US + SECOND_US)])
            assert offers(await later(app, SECOND_US)) == [(ANNE, "credit", DUE_US)]

    in_loop(body)


def test_a_lagging_source_is_waited_for_and_then_heard() -> None:
    """Its backlog holds the recharge: firing on missing data would have been wrong."""

    async def body() -> None:
        declared = "billing: {label: Billing, events: [recharge], max_lateness: 1h}"
        async with timed(files=timed_rulebase(sources=declared)) as app:
            behind = NOON_US - 20 * MINUTE_US
            await app.ingest.publish("billing", [plain("recharge", BOB, "b1", behind)])
            await app.ingest.publish("bss", [low(ANNE, "e1", NOON_US), low(BOB, "e2", NOON_US)])
            assert await later(app, HOUR_US + 5 * MINUTE_US) == []
            backlog = [
                plain("recharge", ANNE, "b2", NOON_US + 50 * MINUTE_US),
                plain("recharge", "8613800009999", "b3", DUE_US + MINUTE_US),
            ]
            receipt = await app.ingest.publish("billing", backlog)
            assert receipt.accepted == 2
            verdicts = await later(app, SECOND_US)
            assert [verdict.key.subscriber_id for verdict in verdicts] == [BOB]

    in_loop(body)


def test_a_source_that_lags_too_long_has_timers_dropped_and_counted() -> None:
    async def body() -> None:
        declared = "billing: {label: Billing, events: [recharge], max_lateness: 1h}"
        async with timed(files=timed_rulebase(sources=declared)) as app:
            await app.ingest.publish("bss", [low(ANNE, "e1", NOON_US)])
            assert await later(app, HOUR_US + SOURCE_TIMEOUT_US - 1) == []
            assert app.ingest.timers.dropped.total() == 0
            assert await later(app, SECOND_US) == []
            assert app.ingest.timers.dropped == {"silent": 1}
            rows = await app.thread.run(lambda: list(app.ledger.read_log(0)))
            assert [row.kind for row in rows][-1] is LogKind.TIMERS
            assert await later(app, 24 * HOUR_US) == [], "what is dropped does not come back"
            await as_recorded(app, [ANNE])

    in_loop(body)


def test_a_timer_that_waits_does_not_hold_up_another_of_its_subscriber() -> None:
    async def body() -> None:
        files = timed_rulebase(
            sources="billing: {label: Billing, events: [recharge], max_lateness: 1h}",
            patterns="quiet: {after: low_balance, absent: sms_sent, for: 61m}",
        )
        files["campaigns/advice.yaml"] = files["campaigns/advice.yaml"].replace(
            b"twice_silent", b"twice_silent, quiet"
        )
        async with timed(files=files) as app:
            await app.ingest.publish("bss", [low(ANNE, "e1", NOON_US)])
            verdicts = await later(app, 61 * MINUTE_US + GRACE_US)
            assert [verdict.event_type for verdict in verdicts] == ["quiet"]

    in_loop(body)


def test_completed_absences_lead_on_to_other_patterns() -> None:
    async def body() -> None:
        async with timed() as app:
            await app.ingest.publish("bss", [low(ANNE, "e1", NOON_US)])
            first = await later(app, HOUR_US + GRACE_US)
            await app.ingest.publish("bss", [low(ANNE, "e2", app.clock.now_us())])
            second = await later(app, HOUR_US + GRACE_US)
            assert decided(first) == [(ANNE, "credit")]
            assert decided(second) == [(ANNE, "advice"), (ANNE, "credit")]

    in_loop(body)


def test_a_sequence_is_seen_across_batches_and_sources() -> None:
    async def body() -> None:
        async with timed() as app:
            first = await app.ingest.publish("bss", [low(ANNE, "e1", NOON_US)])
            second = await app.ingest.publish("smsc", [plain("sms_sent", ANNE, "e1", NOON_US + 1)])
            assert decided([*first.verdicts, *second.verdicts]) == [(ANNE, "advice")]
            await as_recorded(app, [ANNE])

    in_loop(body)


def test_a_sequence_is_seen_across_a_restart(tmp_path: Path) -> None:
    async def part(first: bool) -> list[tuple[str, str]]:
        async with timed(tmp_path / "o.db", first=first) as app:
            event = low(ANNE, "e1", NOON_US) if first else plain("sms_sent", ANNE, "e2", NOON_US + 1)
            receipt = await app.ingest.publish("bss", [event])
            await as_recorded(app, [ANNE])
            return decided(receipt.verdicts)

    assert in_loop(part, True) == []
    assert in_loop(part, False) == [(ANNE, "advice")]


# -- restart, reload, failure -----------------------------------------------------------------------


def test_a_wait_goes_on_after_a_restart_and_fires_once(tmp_path: Path) -> None:
    async def part(now_us: int, first: bool) -> list[tuple[str, str, int]]:
        async with timed(tmp_path / "o.db", now_us=now_us, first=first) as app:
            if first:
                await app.ingest.publish("bss", [low(ANNE, "e1", NOON_US)])
            told = await later(app, 0)
            assert told == [], "nobody could send while the service was down"
            return offers(await later(app, GRACE_US))

    assert in_loop(part, NOON_US, True) == []
    assert in_loop(part, DUE_US - MINUTE_US, False) == []
    assert in_loop(part, DUE_US, False) == [(ANNE, "credit", DUE_US)]
    assert in_loop(part, DUE_US + 10 * MINUTE_US, False) == []


def test_what_fired_before_a_crash_does_not_fire_again(tmp_path: Path) -> None:
    """The crash comes between the commit and the snapshot: the log alone has it."""

    async def first() -> list[tuple[str, str, int]]:
        async with timed(tmp_path / "o.db") as app:
            await app.ingest.publish("bss", [low(ANNE, "e1", NOON_US)])
            await later(app, HOUR_US // 2)
            await checkpoint(app)
            await app.ingest.publish("bss", [low(BOB, "e2", app.clock.now_us())])
            flaky = Flaky(app.ledger, after=False)
            app.ingest._checkpoints._ledger = flaky
            flaky.failing = True
            return offers(await later(app, HOUR_US // 2 + GRACE_US))

    async def second() -> list[tuple[str, str, int]]:
        async with timed(tmp_path / "o.db", now_us=DUE_US + 2 * MINUTE_US, first=False) as app:
            assert app.ingest.next_timer_us == DUE_US + HOUR_US // 2, "Bob's is still to come"
            await later(app, HOUR_US // 2 - 2 * MINUTE_US)
            return offers(await later(app, GRACE_US))

    assert in_loop(first) == [(ANNE, "credit", DUE_US)]
    assert in_loop(second) == [(BOB, "credit", DUE_US + HOUR_US // 2)]


def test_how_far_sources_came_is_known_after_a_restart(tmp_path: Path) -> None:
    """One that lagged before lags still: it may yet send what was awaited."""

    async def first(age_us: int) -> None:
        async with timed(tmp_path / f"{age_us}.db") as app:
            await app.ingest.publish("billing", [plain("recharge", BOB, "b1", NOON_US - age_us)])
            await app.ingest.publish("bss", [low(ANNE, "e1", NOON_US)])

    async def second(age_us: int) -> list[tuple[str, str, int]]:
        async with timed(tmp_path / f"{age_us}.db", now_us=DUE_US - MINUTE_US, first=False) as app:
            return offers(await later(app, 2 * GRACE_US))

    for age_us, expected in ((20 * MINUTE_US, []), (0, [(ANNE, "credit", DUE_US)])):
        in_loop(first, age_us)
        assert in_loop(second, age_us) == expected


def test_a_reload_keeps_the_wait_of_an_unchanged_pattern() -> None:
    async def body() -> None:
        async with timed() as app:
            await app.ingest.publish("bss", [low(ANNE, "e1", NOON_US)])
            await activate(
                app, timed_rulebase(patterns="other: {count: sms_sent, at_least: 2, within: 1h}")
            )
            assert offers(await later(app, HOUR_US + GRACE_US)) == [(ANNE, "credit", DUE_US)]

    in_loop(body)


def test_a_wait_ends_with_its_pattern() -> None:
    """Also when the pattern comes back before it was due: nobody watched for a while."""

    async def body(back: bool) -> None:
        async with timed() as app:
            await app.ingest.publish("bss", [low(ANNE, "e1", NOON_US)])
            await activate(app, timed_rulebase(silent="none"))
            if back:
                await app.ingest.publish("bss", [plain("recharge", ANNE, "e2", NOON_US)])
                await activate(app, timed_rulebase())
            assert await later(app, HOUR_US + GRACE_US) == []
            assert await later(app, 24 * HOUR_US) == []
            await app.ingest.publish("bss", [low(ANNE, "e3", app.clock.now_us())])
            await as_recorded(app, [ANNE])

    in_loop(body, False)
    in_loop(body, True)


@pytest.mark.parametrize("after", [False, True])
def test_a_failed_commit_with_timers_in_it_is_recovered_from(after: bool) -> None:
    async def body(failing: bool) -> tuple[list[bytes], dict[str, bytes]]:
        async with timed() as app:
            events = [low(who, f"e{n}", NOON_US + n) for n, who in enumerate(subscribers(5))]
            await app.ingest.publish("bss", events)
            assert isinstance(app.clock, ManualClock)
            app.clock.value_us = DUE_US + GRACE_US + SECOND_US
            await checkpoint(app)
            if failing:
                flaky = Flaky(app.ledger, after=after)
                app.ingest._ledger = flaky
                flaky.failing = True
                with pytest.raises(StoreUnavailableError):
                    await app.ingest.settle_timers()
                flaky.failing = False
                await app.ingest.healthy.wait()
            else:
                app.ingest._observer.watermarks.listening_us = app.clock.now_us()
            verdicts = await later(app, GRACE_US)
            return [encode_verdict(v) for v in verdicts], await as_recorded(app, subscribers(5))

    undisturbed = in_loop(body, False)
    assert len(undisturbed[0]) == 5
    assert in_loop(body, True) == undisturbed


# -- many at once -----------------------------------------------------------------------------------


def test_a_hundred_thousand_timers_due_at_once_keep_nobody_waiting() -> None:
    """Counted, not timed: whoever publishes is answered after a few turns of the timers at most."""
    count, batch = 100_000, 2_000
    people = subscribers(count)

    async def body() -> None:
        async with timed(first=False) as app:
            for start in range(0, count, batch):
                events = [low(who, f"e{who}", NOON_US) for who in people[start : start + batch]]
                await app.ingest.publish("bss", events)
            assert isinstance(app.clock, ManualClock)
            app.clock.value_us = DUE_US + 2 * GRACE_US

            async def drain() -> None:
                while True:
                    await app.ingest.settle_timers()

            assert len(app.ingest._observer.timers) == count
            draining = asyncio.create_task(drain())
            for n in range(10):
                before = app.ingest.timers.fired
                await app.ingest.publish("smsc", [plain("sms_sent", ANNE, f"s{n}", app.clock.now_us())])
                assert app.ingest.timers.fired - before <= 3 * observing.TURN
            assert 0 < app.ingest.timers.fired < count
            draining.cancel()

    in_loop(body)


def test_a_crowd_of_timers_is_settled_over_several_turns() -> None:
    people = subscribers(5 * observing.TURN // 2)

    async def body() -> None:
        async with timed(first=False) as app:
            await app.ingest.publish("bss", [low(who, f"e{who}", NOON_US) for who in people])
            assert isinstance(app.clock, ManualClock)
            app.clock.value_us = DUE_US + 2 * GRACE_US
            turns = []
            while app.ingest.next_timer_us <= app.clock.now_us():
                turns.append((await app.ingest.settle_timers()).accepted)
            assert turns == [observing.TURN, observing.TURN, observing.TURN // 2]

    in_loop(body)


def test_advice_is_given_between_timers() -> None:
    """A visit is taken in among the timers of the same customer, and what both come to is rebuilt alike."""

    async def body() -> None:
        files = timed_rulebase()
        files["campaigns/talk.yaml"] = (
            b"campaign: talk\nproduct: advice\non: [counter_visit]\nwhen: metric.low_1h >= 1\n"
            b"mode: manual\nchannels: [counter]\ncontent: {counter: Talk}\n"
        )
        async with timed(files=files) as app:
            events = [low(who, "e1", NOON_US) for who in subscribers(5)]
            await app.ingest.publish("bss", events)
            assert isinstance(app.clock, ManualClock)
            app.clock.value_us = DUE_US + GRACE_US
            await app.ingest.publish("bss", [low(ANNE, "e2", app.clock.now_us())])
            app.clock.value_us += GRACE_US
            timers = asyncio.create_task(app.ingest.settle_timers())
            visit = Visit(ANNE, "counter", "visit-1", "counter_visit")
            advised = await advise(app.live, app.ingest, app.ledger, app.thread, app.clock, visit)
            assert [advice.campaign for advice in advised.advices] == ["talk"]
            assert sorted(decided((await timers).verdicts)) == [(who, "credit") for who in subscribers(5)]
            await as_recorded(app, subscribers(5))

    in_loop(body)


# -- by event time ----------------------------------------------------------------------------------


def traffic(seed: int, count: int) -> list[Event]:
    rng = random.Random(seed)
    at_us, events = NOON_US, []
    for n in range(count):
        at_us += rng.randrange(10 * MINUTE_US)
        who = rng.choice(subscribers(5))
        kind = rng.choice(["low_balance", "low_balance", "recharge", "sms_sent"])
        events.append(
            low(who, f"e{n}", at_us) if kind == "low_balance" else plain(kind, who, f"e{n}", at_us)
        )
    return events


async def outcome(events: Sequence[Event], cuts: Sequence[int]) -> tuple[list[bytes], dict[str, bytes]]:
    """All verdicts, and the states at the end, of events published in pieces that end at `cuts`."""
    async with timed() as app:
        verdicts: list[Verdict] = []
        for begin, end in zip([0, *cuts], [*cuts, len(events)], strict=True):
            verdicts += (await app.ingest.publish("test", events[begin:end], at_event_time=True)).verdicts
        until_us = events[-1].occurred_at_us + 2 * HOUR_US
        while app.ingest.next_timer_us <= until_us:
            verdicts += (await app.ingest.settle_timers(until_us)).verdicts
        return [encode_verdict(v) for v in verdicts], await as_recorded(app, subscribers(5), position=False)


@pytest.mark.parametrize("seed", range(6))
def test_what_comes_of_events_and_timers_does_not_depend_on_the_cut(seed: int) -> None:
    events, rng = traffic(seed, 120), random.Random(seed)
    cuts = sorted(rng.sample(range(1, 120), 10))
    whole = in_loop(outcome, events, [])
    assert any(b"twice_silent" in verdict for verdict in whole[0]), "the traffic shows nothing"
    assert in_loop(outcome, events, cuts) == whole
    assert in_loop(outcome, events, range(1, 120)) == whole


def test_a_replay_gives_each_timer_at_its_place() -> None:
    events = [
        low(ANNE, "e1", NOON_US),
        low(BOB, "e2", NOON_US + 1),
        plain("recharge", ANNE, "e3", DUE_US),
        plain("recharge", BOB, "e4", DUE_US + 2),
        low(ANNE, "e5", DUE_US + HOUR_US),
    ]

    async def body() -> None:
        async with timed() as app:
            verdicts: list[Verdict] = []
            app.ingest._on_verdicts = verdicts.extend
            report = await replay(app.ingest, "test", events, until_us=DUE_US + 2 * HOUR_US)
            assert report.events == 5
            assert report.decided == {"credit": 2}
            assert offers(verdicts) == [
                (BOB, "credit", DUE_US + 1),
                (ANNE, "credit", DUE_US + 2 * HOUR_US),
            ]
            assert all(verdict.decided_at_us == verdict.occurred_at_us for verdict in verdicts)

    in_loop(body)


# -- triggers ---------------------------------------------------------------------------------------


def test_a_trigger_that_is_due_is_decided_once_and_wakes_nobody_else() -> None:
    async def body() -> None:
        async with timed() as app:
            (trigger,) = app.live.current.rulebase.triggers
            dues = [Due(ANNE, trigger, NOON_US), Due("8613800009999", trigger, NOON_US)]
            first = await app.ingest.settle_due(dues)
            assert decided(first.verdicts) == [(ANNE, "renewal")]
            again = await app.ingest.settle_due(dues)
            assert [encode_verdict(v) for v in again.verdicts] == [
                encode_verdict(v) for v in first.verdicts
            ]
            assert len(await app.deliveries.lease("sms", 10)) == 1
            await as_recorded(app, [ANNE])

    in_loop(body)


def test_triggers_of_a_replay_come_after_the_timers_that_were_due_before() -> None:
    async def body() -> None:
        async with timed() as app:
            await app.ingest.publish("test", [low(ANNE, "e1", NOON_US)], at_event_time=True)
            (trigger,) = app.live.current.rulebase.triggers
            dues = [Due(BOB, trigger, DUE_US), Due(CARL, trigger, DUE_US + 1)]
            receipt = await app.ingest.settle_due(dues, at_due_time=True)
            assert offers(receipt.verdicts) == [
                (BOB, "renewal", DUE_US),
                (ANNE, "credit", DUE_US),
                (CARL, "renewal", DUE_US + 1),
            ]

    in_loop(body)


def test_a_trigger_is_decided_once_a_local_day_whoever_moves() -> None:
    """Who moves west in the middle of a day meets its hour a second time. Control: the next day counts."""
    hours = [0, 6 * HOUR_US, 24 * HOUR_US]

    async def body() -> list[int]:
        async with timed() as app:
            (trigger,) = app.live.current.rulebase.triggers
            decided_at = set()
            for hour_us in hours:
                dues = [Due(BOB, trigger, NOON_US + hour_us)]
                for verdict in (await app.ingest.settle_due(dues, at_due_time=True)).verdicts:
                    decided_at.add(verdict.decided_at_us - NOON_US)
            return sorted(decided_at)

    assert in_loop(body) == [0, 24 * HOUR_US]


# -- outage -----------------------------------------------------------------------------------------


def test_after_an_outage_nothing_counts_as_covered_from_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Events may have been lost for good, so a count of none is no proof, and a wait that spans the outage
    comes to nothing. Control: after a short break everything is covered as before, and the wait goes on."""

    async def first(name: str) -> None:
        async with timed(tmp_path / name) as app:
            await app.ingest.publish("bss", [low(ANNE, "e1", NOON_US)])

    async def second(name: str, away_us: int) -> tuple[list[int], list[bool], list[str]]:
        settings = Settings(database=f"sqlite:///{tmp_path / name}", timer_seconds=3600)
        async with application(settings, ManualClock(NOON_US + away_us)) as app:
            revision = app.live.current
            coverage = await app.thread.run(app.ledger.coverage)
            since = sorted({coverage[key] - NOON_US - away_us for key in revision.keys})
            fired = [verdict.event_type for verdict in await later(app, HOUR_US)]
            at_us = app.clock.now_us() - HOUR_US + MINUTE_US
            view = await show_subscriber(app.live, app.states, ANNE, at_us)
            covered = [each.covered for each in view.metrics if each.name == "sms_1h"]
            return since, covered, fired

    in_loop(first, "short.db")
    assert in_loop(second, "short.db", HOUR_US) == ([-HOUR_US], [True], ["silent"])
    assert not caplog.records
    in_loop(first, "long.db")
    since, covered, fired = in_loop(second, "long.db", HOUR_US + MINUTE_US)
    assert since == [MAX_SKEW_US]
    assert covered == [False]
    assert fired == []
    assert "nobody listened for 61 minutes" in caplog.text
