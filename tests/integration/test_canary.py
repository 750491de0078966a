"""A canary beside the revision in full force: who is decided by which, what is folded, and how it ends."""

from __future__ import annotations

from pathlib import Path

import pytest
from opportune_rulebase.engine import Engine
from opportune_rulebase.policies import Fate
from opportune_service.app.advise import Visit, advise
from opportune_service.app.errors import NotReadyError, StoreConflictError
from opportune_service.app.why_not import why_not
from opportune_service.bootstrap import Application
from opportune_service.clocks import ManualClock
from opportune_service.core.events import Event
from opportune_service.core.revision import PARTS
from opportune_service.core.state import SubscriberState
from opportune_service.core.verdict import Reason
from support.applications import in_loop, running
from support.in_force import (
    ANY,
    CANARY,
    FULL,
    PEOPLE,
    SHADOW,
    THIRD,
    by_revision,
    let,
    publish,
    senders,
    small,
    upload,
)
from support.rebuilt import live_and_rebuilt
from support.rulebases import NOON_US
from support.small_rulebase import mms
from support.timed_rulebase import MINUTE_US, later, low, timed_rulebase


def test_a_share_is_decided_by_the_canary_and_nobody_twice() -> None:
    async def body() -> None:
        async with running(files=small(3), people=PEOPLE) as app:
            full = app.live.id
            canary = await let(app, small(2), CANARY, THIRD)
            verdicts = await publish(app, senders(PEOPLE, 3))
            found = by_revision(verdicts)
            inside = {each for each in PEOPLE if app.live.of(each).id == canary}
            assert found == {full: set(PEOPLE) - inside, canary: inside}
            assert 4 < len(inside) < 20
            # The canary asks for two, so its own are decided at the second and at the third.
            assert sorted(v.key.event_id for v in verdicts if v.key.subscriber_id == min(inside)) == [
                "e1",
                "e2",
            ]
            assert len({verdict.key for verdict in verdicts}) == len(verdicts)
            assert [(each.revision, each.mode) for each in await app.thread.run(app.ledger.in_force)] == [
                (full, FULL),
                (canary, CANARY),
            ]

    in_loop(body)


def test_a_growing_share_keeps_those_who_are_in() -> None:
    async def body() -> None:
        async with running(files=small(3), people=PEOPLE) as app:
            inside: set[str] = set()
            for share in (100_000, THIRD, 900_000):
                canary = await let(app, small(2), CANARY, share)
                now = {each for each in PEOPLE if app.live.of(each).id == canary}
                assert now > inside
                inside = now

    in_loop(body)


def test_what_becomes_full_is_covered_since_it_was_a_canary() -> None:
    """Also for those for whom it decided nothing; and full force ends what ran beside."""

    async def body() -> None:
        async with running(files=small(3), people=PEOPLE) as app:
            clock = app.clock
            assert isinstance(clock, ManualClock)
            changed = small(3)
            changed["behaviours.yaml"] = changed["behaviours.yaml"].replace(
                b"size_kb > 100", b"size_kb > 50"
            )
            await let(app, changed, CANARY, THIRD)
            key = app.live.current.beside[0].revision.rulebase.metrics["large_24h"].key
            since_us = (await app.thread.run(app.ledger.coverage))[key]
            born = (await app.thread.run(app.ledger.births))[key]
            await publish(app, [mms(who, "one", clock.value_us, 80) for who in PEOPLE])
            clock.value_us += MINUTE_US
            await let(app, changed, FULL)
            assert app.live.current.beside == ()
            assert [each.mode for each in await app.thread.run(app.ledger.in_force)] == [FULL]
            assert (await app.thread.run(app.ledger.coverage))[key] == since_us
            assert (await app.thread.run(app.ledger.births))[key] == born
            for who in PEOPLE:
                assert len((await app.states.view(who)).series[key].at) == 1

    in_loop(body)


def test_what_ends_is_forgotten() -> None:
    async def body() -> None:
        async with running(files=small(3), people=PEOPLE) as app:
            full = app.live.id
            changed = small(3)
            changed["behaviours.yaml"] = changed["behaviours.yaml"].replace(
                b"size_kb > 100", b"size_kb > 50"
            )
            await let(app, changed, CANARY, THIRD)
            gone = app.live.current.keys
            await app.activations.activate(full, full, "test", "no good")
            gone -= app.live.current.keys
            assert gone
            assert not gone & (await app.thread.run(app.ledger.coverage)).keys()
            assert app.live.current.beside == ()

    in_loop(body)


def test_after_a_restart_all_is_as_it_was(tmp_path: Path) -> None:
    """The same take part, and states that are folded again from the log are the same."""

    async def body() -> None:
        database = tmp_path / "ledger.db"
        files = timed_rulebase()
        changed = timed_rulebase(
            silent="{after: low_balance, absent: recharge, for: 30m}",
            patterns="loud: {sequence: [low_balance, low_balance], within: 10m}",
        )
        async with running(database, files, people=PEOPLE) as app:
            full = app.live.id
            canary = await let(app, changed, CANARY, THIRD)
            await later(app, 10 * MINUTE_US)
            begun_us = app.clock.now_us()
            await publish(
                app, [low(who, f"e{n}", begun_us + n * MINUTE_US) for n in range(3) for who in PEOPLE]
            )
            await later(app, 50 * MINUTE_US)
            rows = await app.thread.run(lambda: list(app.ledger.read_log(0)))
            stamps = {row.revision for row in rows if row.position > 2}
            assert f"{full}+{canary}" in stamps
            live, rebuilt = await live_and_rebuilt(app, PEOPLE)
            assert live == rebuilt
            before = await states(app)
            assert any(state.due_us for state in before.values())
        async with running(database, files, people=(), now_us=NOON_US + 61 * MINUTE_US) as app:
            assert [each.id for each in app.live.current.side_by_side] == [full, canary]
            assert app.live.current.beside[0].share == THIRD
            assert await states(app) == before
            verdicts = await later(app, 20 * MINUTE_US)
            assert by_revision(verdicts).keys() == {full}  # those of the canary were due before
            assert {v.key.subscriber_id for v in verdicts} == {
                each for each in PEOPLE if app.live.of(each).id == full
            }

    in_loop(body)


async def states(app: Application) -> dict[str, SubscriberState]:
    return {who: await app.states.view(who) for who in PEOPLE}


def test_timers_of_both_fire_for_whom_each_decides() -> None:
    async def body() -> None:
        files = timed_rulebase()
        changed = timed_rulebase(silent="{after: low_balance, absent: recharge, for: 30m}")
        async with running(files=files, people=PEOPLE) as app:
            full = app.live.id
            canary = await let(app, changed, CANARY, THIRD)
            await later(app, 10 * MINUTE_US)  # what began before is not known to be whole
            await publish(app, [low(who, "e", app.clock.now_us()) for who in PEOPLE])
            inside = {each for each in PEOPLE if app.live.of(each).id == canary}
            assert by_revision(await later(app, 32 * MINUTE_US)) == {canary: inside}
            assert by_revision(await later(app, 30 * MINUTE_US)) == {full: set(PEOPLE) - inside}

    in_loop(body)


def test_a_trigger_of_the_canary_is_due_for_whom_it_decides() -> None:
    async def body() -> None:
        files = timed_rulebase()
        changed = dict(files)
        changed["campaigns/renewal.yaml"] = files["campaigns/renewal.yaml"].replace(
            b'on: [{date: sub.contract_end, before: 30d, at: "10:00"}]',
            b'on: [{schedule: daily, at: "13:00"}]',
        )
        async with running(files=files, people=PEOPLE) as app:
            canary = await let(app, changed, CANARY, THIRD)
            clock = app.clock
            assert isinstance(clock, ManualClock)
            await app.schedule.turn()
            clock.value_us += 61 * MINUTE_US
            await app.schedule.turn()
            found = await app.insight.decisions(ANY, 0, 1000, False)
            assert {row.key.subscriber_id for row in found} == {
                each for each in PEOPLE if app.live.of(each).id == canary
            }
            assert {row.revision for row in found} == {canary}

    in_loop(body)


def test_why_not_asks_the_one_that_decides() -> None:
    async def body() -> None:
        async with running(files=small(3), people=PEOPLE) as app:
            full = app.live.id
            canary = await let(app, small(1), CANARY, THIRD)
            for who in PEOPLE:
                answer = await why_not(
                    *(app.live, app.states, app.ledger, app.thread, app.clock, who, "mms-bundle", None)
                )
                decides = app.live.of(who).id
                assert answer.revision == decides
                assert answer.answers[0].matched is (decides == canary)
            assert full

    in_loop(body)


def test_deferrals_are_decided_by_whichever_decides_by_then() -> None:
    """Quiet hours defer; when they end, another revision decides for the subscriber."""

    async def body() -> None:
        files = small(1)
        files["policies.yaml"] += b"""
quiet_hours:
  night: {from: "11:00", to: "14:00", otherwise: defer}
"""
        files["campaigns/mms-bundle.yaml"] += b"expires_after: 12h\n"
        async with running(files=files, people=PEOPLE) as app:
            clock = app.clock
            assert isinstance(clock, ManualClock)
            deferred = await publish(app, senders(PEOPLE, 1))
            assert {each.decisions[0].fate for each in deferred} == {Fate.DEFER}
            changed = dict(files)
            changed["campaigns/mms-bundle.yaml"] = files["campaigns/mms-bundle.yaml"].replace(
                b"MMS for less", b"MMS for even less"
            )
            canary = await let(app, changed, CANARY, THIRD)
            clock.value_us += 300 * MINUTE_US
            await app.ingest.read_deferrals(clock.value_us + 1)
            verdicts = (await app.ingest.settle_deferred()).verdicts
            assert {each.decisions[0].reason for each in verdicts} == {Reason.DECIDED}
            assert by_revision(verdicts) == {
                revision: {each for each in PEOPLE if app.live.of(each).id == revision}
                for revision in (app.live.id, canary)
            }

    in_loop(body)


def test_what_cannot_run_beside_is_refused() -> None:
    async def body() -> None:
        async with running(files=small(3), people=PEOPLE) as app:
            full = app.live.id
            other = small(2)
            other["vocabulary.yaml"] = (
                other["vocabulary.yaml"]
                .replace(b"sms_sent: {}", b"sms_sent: {}\n  call_made: {}")
                .replace(b"{age: int}", b"{age: string}")
                .replace(b"size_kb: {type: int, min: 0}", b"size_kb: {type: int}")
            )
            other["rulebase.yaml"] = other["rulebase.yaml"].replace(b"Shanghai", b"Tokyo")
            with pytest.raises(NotReadyError) as error:
                await let(app, other, CANARY, THIRD)
            for words in (
                "time zones",
                "'call_made' is not declared",
                "sub.age is declared",
                "'size_kb' is",
            ):
                assert words in str(error.value)
            assert app.activations.last_attempt is not None
            assert app.activations.last_attempt.message == str(error.value)
            assert [each.id for each in app.live.current.side_by_side] == [full]
            assert len(await app.thread.run(app.ledger.in_force)) == 1

    in_loop(body)


def test_a_canary_needs_the_expected_revision_in_full_force() -> None:
    async def body() -> None:
        async with running(files=small(3), people=PEOPLE) as app:
            revision = await upload(app, small(2))
            with pytest.raises(StoreConflictError):
                await app.activations.activate(revision, revision, "test", "", mode=CANARY, share=THIRD)
            assert app.live.current.beside == ()

    in_loop(body)


def test_a_canary_takes_the_place_of_the_one_before() -> None:
    async def body() -> None:
        async with running(files=small(4), people=PEOPLE) as app:
            full = app.live.id
            first = await let(app, small(3), CANARY, THIRD)
            engine = app.live.current.beside[0].revision.engine
            revision = await upload(app, small(2))
            replaced = await app.activations.activate(
                revision, full, "test", "", mode=CANARY, share=PARTS - 1
            )
            assert replaced == first
            assert [each.id for each in app.live.current.side_by_side] == [full, revision]
            assert app.live.current.beside[0].revision.engine is not engine
            assert by_revision(await publish(app, senders(PEOPLE, 2))).keys() == {revision}

    in_loop(body)


def test_what_it_adds_is_filled_from_the_log() -> None:
    """Of a canary and of a shadow, while that of the canary may be under way."""

    async def body() -> None:
        async with running(files=small(3), people=PEOPLE) as app:
            clock = app.clock
            assert isinstance(clock, ManualClock)
            await publish(app, senders(PEOPLE, 2))
            clock.value_us += 10 * MINUTE_US
            added = []
            for line, mode, share in (
                (b"  mms_2d: {count: mms_sent, days: 2}\n", CANARY, THIRD),
                (b"  mms_3d: {sum: event.size_kb, of: mms_sent, days: 3}\n", SHADOW, 0),
            ):
                changed = small(3)
                changed["behaviours.yaml"] = changed["behaviours.yaml"].replace(
                    b"behaviours:\n", line + b"behaviours:\n"
                )
                await let(app, changed, mode, share)
                added.append(next(iter(app.live.current.beside[-1].revision.own_keys)))
            await app.backfill.wait()
            assert await app.thread.run(app.ledger.backfills) == set()
            coverage = await app.thread.run(app.ledger.coverage)
            assert all(coverage[key] < clock.value_us for key in added)
            for who in PEOPLE:
                series = (await app.states.view(who)).series
                assert [series[key].amount for key in added] == [[2], [160]]
            live, rebuilt = await live_and_rebuilt(app, PEOPLE)
            assert live == rebuilt

    in_loop(body)


def test_engines_that_take_part_no_more_are_closed() -> None:
    async def body() -> None:
        closed: list[str] = []
        async with running(files=small(3), people=PEOPLE) as app:
            taken = []
            for number, (threshold, mode, share) in enumerate(
                [(2, CANARY, THIRD), (1, SHADOW, 0), (2, CANARY, 2 * THIRD), (4, SHADOW, 0), (2, FULL, 0)]
            ):
                for each in app.live.current.side_by_side:
                    if each.engine not in taken:
                        taken.append(each.engine)
                        watch(each.engine, f"{number} {each.id[:4]}", closed)
                await let(app, small(threshold), mode, share)
            left = [each.engine for each in app.live.current.side_by_side]
            assert len(left) == 1
            # The first one in full force is closed with the last activation; of those beside it each, once.
            assert len(closed) == len(set(closed)) == len(taken)

    in_loop(body)


def watch(engine: Engine, name: str, closed: list[str]) -> None:
    """Note when the engine is closed."""
    close = engine.close

    def noted() -> None:
        closed.append(name)
        close()

    engine.close = noted  # type: ignore[method-assign]


def test_a_visit_is_answered_by_the_one_that_decides() -> None:
    """Also with prompts that the other one made."""

    async def body() -> None:
        async with running(files=small(9), people=PEOPLE) as app:
            await publish(app, [mms(who, "large", NOON_US, 300) for who in PEOPLE])
            await publish(app, [Event("text", who, "sms_sent", NOON_US + 1) for who in PEOPLE])
            changed = small(9)
            changed["campaigns/care-plan.yaml"] = changed["campaigns/care-plan.yaml"].replace(
                b"Offer the care plan.", b"Offer it with a smile."
            )
            canary = await let(app, changed, CANARY, THIRD)
            for who in PEOPLE:
                visit = Visit(who, "counter", f"visit {who}", "counter_visit")
                told = await advise(app.live, app.ingest, app.ledger, app.thread, app.clock, visit)
                decides = app.live.of(who).id
                assert told.revision == decides
                words = "Offer it with a smile." if decides == canary else "Offer the care plan."
                assert [each.say for each in told.advices] == [words]

    in_loop(body)
