"""The pipeline on a real ledger: decide once, lose nothing, survive restarts and failed commits."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from opportune_rulebase.model import Rulebase
from opportune_rulebase.network import NetworkEngine
from opportune_rulebase.policies import OutcomeKind
from opportune_service.app import activation
from opportune_service.app.advise import ADVICE_SOURCE, Advice, Visit, advise
from opportune_service.app.errors import (
    NoRulebaseError,
    RulebaseRefusedError,
    StoreConflictError,
    StoreUnavailableError,
)
from opportune_service.app.records import DecisionFilter
from opportune_service.app.work_queue import GROUP_EVENTS
from opportune_service.app.works import Draft
from opportune_service.bootstrap import Application, application
from opportune_service.clocks import ManualClock
from opportune_service.core import admit
from opportune_service.core.decide import encode_verdict
from opportune_service.core.events import Event, RejectionReason
from opportune_service.core.observe import Observed
from opportune_service.core.state import encode_state
from opportune_service.core.verdict import EventKey, Reason, Verdict
from opportune_service.settings import Settings
from support.applications import activate, decided, in_loop, running
from support.flaky import Flaky
from support.rulebases import NOON_US
from support.small_rulebase import SECOND_US, mms, small_rulebase, subscribers, traffic

ANNE, BOB = subscribers(2)


def batches(events: Sequence[Event], size: int) -> list[Sequence[Event]]:
    return [events[n : n + size] for n in range(0, len(events), size)]


async def publish_all(app: Application, events: Sequence[Event], size: int) -> list[Verdict]:
    """Publish in batches, at event time; the verdicts in order."""
    verdicts: list[Verdict] = []
    for batch in batches(events, size):
        verdicts += (await app.ingest.publish("test", batch, at_event_time=True)).verdicts
    return verdicts


async def dynamic_state(app: Application) -> dict[str, bytes]:
    states = await app.states.load(subscribers(5))
    kept = {}
    for subscriber_id, state in states.items():
        # The position differs with the cut into batches, and is not meant to be equal.
        kept[subscriber_id] = encode_state(msgspec.structs.replace(state, position=0))
    return kept


def test_the_third_mms_is_the_moment() -> None:
    async def body() -> None:
        async with running() as app:
            receipt = await app.ingest.publish("test", [mms(ANNE, f"e{n}", NOON_US + n) for n in range(3)])
            assert (receipt.accepted, receipt.duplicates, receipt.rejections) == (3, 0, [])
            assert decided(receipt.verdicts) == [(ANNE, "mms-bundle")]
            (lease,) = await app.deliveries.lease("sms", 10)
            assert (lease.subscriber_id, lease.content) == (ANNE, "MMS for less: MMS bundle")

    in_loop(body)


def test_bad_events_are_rejected_alone() -> None:
    async def body() -> None:
        async with running() as app:
            bad = [
                (RejectionReason.UNKNOWN_TYPE, Event("1", ANNE, "nonsense", NOON_US)),
                (RejectionReason.BAD_SUBSCRIBER_ID, Event("2", "+86138", "sms_sent", NOON_US)),
                (RejectionReason.BAD_EVENT_ID, Event("", ANNE, "sms_sent", NOON_US)),
                (
                    RejectionReason.BAD_ATTRIBUTES,
                    Event("3", ANNE, "mms_sent", NOON_US, b'{"size_kb": ""}'),
                ),
                (RejectionReason.BAD_ATTRIBUTES, Event("4", ANNE, "mms_sent", NOON_US, b'{"size_kb": -1}')),
                (RejectionReason.BAD_ATTRIBUTES, Event("5", ANNE, "mms_sent", NOON_US, b"\xff\x00")),
                (RejectionReason.BAD_ATTRIBUTES, Event("6", ANNE, "mms_sent", NOON_US, imei="12")),
                (RejectionReason.TOO_LARGE, Event("7", ANNE, "mms_sent", NOON_US, b" " * 20_000)),
                (RejectionReason.TOO_LATE, Event("8", ANNE, "sms_sent", NOON_US - 3601 * SECOND_US)),
                (RejectionReason.IN_FUTURE, Event("9", ANNE, "sms_sent", NOON_US + 301 * SECOND_US)),
            ]
            mixed = [event for _, event in bad] + [mms(BOB, "good")]
            receipt = await app.ingest.publish("test", mixed)
            assert receipt.accepted == 1
            assert [(r.index, r.reason) for r in receipt.rejections] == list(
                enumerate(reason for reason, _ in bad)
            )
            assert not any(ANNE in r.message or ANNE in r.id for r in receipt.rejections)

    in_loop(body)


def test_undeclared_attributes_are_ignored_and_counted() -> None:
    async def body() -> None:
        async with running() as app:
            event = Event("1", ANNE, "mms_sent", NOON_US, b'{"size_kb": 1, "colour": "red", "x": [1]}')
            receipt = await app.ingest.publish("test", [event])
            assert (receipt.accepted, receipt.ignored_attributes) == (1, 2)

    in_loop(body)


def test_without_a_rulebase_nothing_is_accepted() -> None:
    async def body() -> None:
        async with application(Settings(database="sqlite://"), ManualClock(NOON_US)) as app:
            with pytest.raises(NoRulebaseError):
                await app.ingest.publish("test", [mms(ANNE, "1")])

    in_loop(body)


def test_a_duplicate_changes_nothing_before_and_after_a_restart(tmp_path: Path) -> None:
    async def first() -> None:
        async with running(tmp_path / "o.db") as app:
            events = [mms(ANNE, f"e{n}", NOON_US + n) for n in range(3)]
            await app.ingest.publish("test", events)
            again = await app.ingest.publish("test", events)
            assert (again.accepted, again.duplicates, again.verdicts) == (0, 3, [])

    async def second() -> None:
        async with running(tmp_path / "o.db", people=()) as app:
            again = await app.ingest.publish("test", [mms(ANNE, f"e{n}", NOON_US + n) for n in range(3)])
            assert (again.accepted, again.duplicates) == (0, 3)
            other = await app.ingest.publish("elsewhere", [mms(ANNE, "e1", NOON_US + 9)])
            assert other.accepted == 1, "an event id is unique within its source only"

    in_loop(first)
    in_loop(second)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_results_do_not_depend_on_the_cut_into_batches(size: int) -> None:
    events = list(traffic(seed=3, count=200))

    async def body(cut: int) -> tuple[list[bytes], dict[str, bytes]]:
        async with running() as app:
            verdicts = await publish_all(app, events, cut)
            return [encode_verdict(v) for v in verdicts], await dynamic_state(app)

    assert in_loop(body, size) == in_loop(body, 50)


@pytest.mark.parametrize("checkpoint", [False, True])
def test_a_restart_goes_on_where_it_stopped(tmp_path: Path, checkpoint: bool) -> None:
    """With and without a snapshot on the way, the end is that of one run."""
    events = list(traffic(seed=5, count=300))

    async def whole() -> tuple[list[bytes], dict[str, bytes]]:
        async with running() as app:
            verdicts = await publish_all(app, events, 20)
            return [encode_verdict(v) for v in verdicts], await dynamic_state(app)

    async def part(events: Sequence[Event], first: bool) -> tuple[list[bytes], dict[str, bytes]]:
        async with running(tmp_path / "o.db", people=subscribers(5) if first else ()) as app:
            verdicts = []
            for batch in batches(events, 20):
                verdicts += (await app.ingest.publish("test", batch, at_event_time=True)).verdicts
                if checkpoint:
                    app.ingest.request_checkpoint()
            return [encode_verdict(v) for v in verdicts], await dynamic_state(app)

    one, _ = in_loop(part, events[:140], True)
    two, state = in_loop(part, events[140:], False)
    assert (one + two, state) == in_loop(whole)


@pytest.mark.parametrize("after", [False, True])
def test_a_failed_commit_acks_nothing_and_is_recovered_from(after: bool) -> None:
    """Sent again after the failure, everything is decided as in a run without one."""
    events = list(traffic(seed=7, count=120))

    async def disturbed() -> tuple[list[bytes], dict[str, bytes]]:
        async with running() as app:
            flaky = Flaky(app.ledger, after=after)
            app.ingest._ledger = flaky
            verdicts: list[Verdict] = []
            for number, batch in enumerate(batches(events, 10)):
                if number in (3, 4, 9):
                    flaky.failing = True
                    calls = [app.ingest.publish("test", batch, at_event_time=True) for _ in range(3)]
                    failed = await asyncio.gather(*calls, return_exceptions=True)
                    assert all(isinstance(f, StoreUnavailableError) for f in failed)
                    assert not app.ingest.healthy.is_set()
                    flaky.failing = False
                    await app.ingest.healthy.wait()
                verdicts += (await app.ingest.publish("test", batch, at_event_time=True)).verdicts
            return [encode_verdict(v) for v in verdicts], await dynamic_state(app)

    assert in_loop(disturbed) == in_loop(body_without_fault, events)


def test_a_fault_in_one_batch_leaves_no_half_changed_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes wrong while a batch is observed, what it touched is rebuilt from the record."""
    events = list(traffic(seed=9, count=60))
    honest, broken = Draft.note, {"now": False}

    def faulty(draft: Draft, observed: Observed) -> None:
        if broken["now"]:
            raise ZeroDivisionError("a fault of ours")
        honest(draft, observed)

    async def body() -> tuple[list[bytes], dict[str, bytes]]:
        async with running() as app:
            verdicts = []
            for number, batch in enumerate(batches(events, 10)):
                if number == 3:
                    broken["now"] = True
                    with pytest.raises(StoreUnavailableError):
                        await app.ingest.publish("test", batch, at_event_time=True)
                    broken["now"] = False
                    await app.ingest.healthy.wait()
                verdicts += (await app.ingest.publish("test", batch, at_event_time=True)).verdicts
            return [encode_verdict(v) for v in verdicts], await dynamic_state(app)

    undisturbed = in_loop(body_without_fault, events)
    monkeypatch.setattr(Draft, "note", faulty)
    assert in_loop(body) == undisturbed


async def body_without_fault(events: Sequence[Event]) -> tuple[list[bytes], dict[str, bytes]]:
    async with running() as app:
        return [encode_verdict(v) for v in await publish_all(app, events, 10)], await dynamic_state(app)


def test_a_snapshot_that_fails_costs_nothing(tmp_path: Path) -> None:
    """Its subscribers stay dirty, the log is replayed from further back, and nothing is lost."""
    events = list(traffic(seed=13, count=200))

    async def first() -> dict[str, bytes]:
        async with running(tmp_path / "o.db") as app:
            checkpoints = app.ingest._checkpoints
            flaky = Flaky(app.ledger, after=True)
            checkpoints._ledger = flaky
            for number, batch in enumerate(batches(events, 10)):
                flaky.failing = number % 2 == 0
                await app.ingest.publish("test", batch, at_event_time=True)
                app.ingest.request_checkpoint()
            flaky.failing = True
            return await dynamic_state(app)

    async def second() -> dict[str, bytes]:
        async with running(tmp_path / "o.db", people=()) as app:
            return await dynamic_state(app)

    assert in_loop(first) == in_loop(second)


def test_caps_hold_for_batches_that_arrive_together() -> None:
    async def body() -> None:
        async with running(files=small_rulebase(weekly_limit=3, threshold=1)) as app:
            calls = [
                app.ingest.publish(f"collector-{stream}", [mms(ANNE, f"{stream}-{n}") for n in range(20)])
                for stream in range(8)
            ]
            receipts = await asyncio.gather(*calls)
            assert sum(len(decided(r.verdicts)) for r in receipts) == 3
            capped = [d.reason for r in receipts for v in r.verdicts for d in v.decisions]
            assert capped.count(Reason.CAPPED) == 160 - 3

    in_loop(body)


def test_a_call_does_not_wait_for_all_that_a_stream_sent_ahead() -> None:
    async def body() -> None:
        async with running() as app:
            events = [mms(ANNE, f"s{n}", NOON_US + n) for n in range(4 * GROUP_EVENTS)]
            ahead = [
                await app.ingest.offer("stream", batch) for batch in batches(events, GROUP_EVENTS // 4)
            ]
            receipt = await app.ingest.publish("call", [mms(BOB, "e", NOON_US)])
            assert receipt.accepted == 1
            assert not ahead[-1].done()
            assert sum([(await each).accepted for each in ahead]) == len(events)

    in_loop(body)


def test_whoever_comes_while_a_group_commits_needs_one_more_commit() -> None:
    """Three calls, two of them while the first commits: there are two commits, not three."""

    async def body() -> None:
        async with running() as app:
            commits = sum(app.ingest.figures.commit_seconds.counts)
            go_on = threading.Event()
            held = app.thread.submit(go_on.wait)
            calls = []
            for number in range(3):
                event = mms(BOB, f"e{number}", NOON_US)
                calls.append(asyncio.create_task(app.ingest.publish("call", [event])))
                for _ in range(20):  # some turns of the loop: it is observed, if it is going to be
                    await asyncio.sleep(0)
            go_on.set()
            await held
            assert [(await call).accepted for call in calls] == [1, 1, 1]
            assert sum(app.ingest.figures.commit_seconds.counts) == commits + 2

    in_loop(body)


def test_reload_in_mid_stream_every_verdict_names_one_revision() -> None:
    async def body() -> None:
        async with running(files=small_rulebase(threshold=1, weekly_limit=10_000)) as app:
            revisions = {app.live.id}
            verdicts: list[Verdict] = []

            async def stream() -> None:
                for n in range(60):
                    receipt = await app.ingest.publish("test", [mms(ANNE, f"{n}-{k}") for k in range(5)])
                    assert {v.revision for v in receipt.verdicts} <= {receipt.revision}
                    verdicts.extend(receipt.verdicts)

            streaming = asyncio.create_task(stream())
            for n in range(10):
                files = small_rulebase(threshold=1, weekly_limit=10_000, text=f"number {n}")
                revisions.add(await activate(app, files))
            await streaming
            assert len(decided(verdicts)) == 300, "an unchanged metric survives a reload"
            texts = {v.revision: {d.content for d in v.decisions} for v in verdicts}
            assert set(texts) <= revisions
            assert all(len(contents) == 1 for contents in texts.values())
            assert len(texts) > 1, "no reload fell into the stream: the test shows nothing"

    in_loop(body)


def test_a_bad_rulebase_changes_nothing_and_the_call_says_so() -> None:
    async def body() -> None:
        async with running() as app:
            before = app.live.id
            files = small_rulebase() | {
                "behaviours.yaml": b"metrics: {mms_30d: {count: mms_snt, days: 30}}"
            }
            with pytest.raises(RulebaseRefusedError) as refused:
                await app.rulebases.upload(files, "test", "")
            assert any("mms_sent" in problem.hint for problem in refused.value.problems)
            good, _ = await app.rulebases.upload(small_rulebase(threshold=9), "test", "")
            with pytest.raises(StoreConflictError):
                await app.activations.activate(good.revision, "0" * 64, "test", "")
            assert app.live.id == before

    in_loop(body)


def test_what_was_just_uploaded_is_not_loaded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Callers wait less. What nobody has looked at for a while is read from what is stored."""

    def load_again(_: object) -> None:
        raise AssertionError("it was loaded")

    async def body() -> None:
        async with running() as app:
            rulebase, _ = await app.rulebases.upload(small_rulebase(threshold=7), "test", "")
            monkeypatch.setattr(activation, "load", load_again)
            await app.activations.activate(rulebase.revision, None, "test", "")
            assert app.live.id == rulebase.revision
            old, _ = await app.rulebases.upload(small_rulebase(threshold=8), "test", "")
            for threshold in range(10, 15):
                await app.rulebases.upload(small_rulebase(threshold=threshold), "test", "")
            with pytest.raises(AssertionError, match="it was loaded"):
                await app.activations.activate(old.revision, None, "test", "")

    in_loop(body)


def test_what_was_just_uploaded_or_replaced_is_not_compiled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Callers wait less. An upload compiles, beside what serves; what was replaced is kept ready."""
    made: list[str] = []
    compile_ = NetworkEngine.__init__

    def counted(engine: NetworkEngine, rulebase: Rulebase) -> None:
        made.append(rulebase.revision)
        compile_(engine, rulebase)

    async def body() -> None:
        async with running() as app:
            before = app.live.id
            monkeypatch.setattr(NetworkEngine, "__init__", counted)
            rulebase, _ = await app.rulebases.upload(small_rulebase(threshold=7), "test", "")
            assert made == [rulebase.revision]
            await app.activations.activate(rulebase.revision, None, "test", "")
            await app.activations.activate(before, None, "test", "")
            await app.activations.activate(rulebase.revision, None, "test", "")
            assert made == [rulebase.revision]

    in_loop(body)


def test_reloads_share_the_decoders_of_what_did_not_change() -> None:
    """Each is a class, which takes kilobytes until the garbage collector comes round."""

    async def body() -> None:
        async with running() as app:
            made = admit._shape.cache_info().misses
            await activate(app, small_rulebase(threshold=21))
            await activate(app, small_rulebase(threshold=22))
            assert admit._shape.cache_info().misses == made

    in_loop(body)


def test_while_the_store_is_away_callers_are_told_before_anything_is_queued() -> None:
    async def body() -> None:
        async with running() as app:
            app.ingest.healthy.clear()
            with pytest.raises(StoreUnavailableError):
                await app.ingest.publish("mmsc", [mms(subscribers(1)[0], "e1")])
            with pytest.raises(StoreUnavailableError):
                await app.ingest.offer("mmsc", [mms(subscribers(1)[0], "e1")])
            assert app.ingest.queued == 0
            app.ingest.healthy.set()

    in_loop(body)


def test_a_metric_that_was_away_begins_uncovered() -> None:
    """What a revision in between did not fold must not count as known."""

    async def body() -> None:
        async with running() as app:
            clock = app.clock
            assert isinstance(clock, ManualClock)
            keys = {m.name: m.key for m in app.live.current.rulebase.metrics.values()}
            clock.value_us += 60 * SECOND_US
            without = small_rulebase()
            without["behaviours.yaml"] = (
                b"metrics: {large_24h: {count: mms_sent, last: 24h, where: event.size_kb > 100}}"
            )
            del without["campaigns/mms-bundle.yaml"]
            await activate(app, without)
            assert keys["mms_30d"] not in app.live.current.coverage
            clock.value_us += 60 * SECOND_US
            await activate(app, small_rulebase())
            coverage = app.live.current.coverage
            assert coverage[keys["mms_30d"]] > clock.value_us
            assert coverage[keys["large_24h"]] == NOON_US

    in_loop(body)


async def ask(app: Application, visit: Visit) -> list[Advice]:
    advised = await advise(app.live, app.ingest, app.ledger, app.thread, app.clock, visit)
    return list(advised.advices)


def test_advise_shows_what_waits_and_answers_the_same_again() -> None:
    async def body() -> None:
        async with running() as app:
            large = mms(ANNE, "e1", NOON_US, size_kb=200)
            sms = Event("e2", ANNE, "sms_sent", NOON_US + 1)
            receipt = await app.ingest.publish("test", [large, sms])
            assert decided(receipt.verdicts) == [(ANNE, "care-plan")]
            visit = Visit(ANNE, "counter", "visit-1", "counter_visit")
            (advice,) = await ask(app, visit)
            assert await ask(app, visit) == [advice]
            assert (advice.campaign, advice.say) == ("care-plan", "Offer the care plan.")
            assert "metric.large_24h = 1" in advice.reasons
            rows = await app.insight.decisions(DecisionFilter(subscriber_id=ANNE), 0, 10, False)
            assert [row.key.source for row in rows] == ["test", ADVICE_SOURCE]
            assert await app.deliveries.report_outcome(advice.decision_id, OutcomeKind.REFUSED, NOON_US)
            later = Visit(ANNE, "counter", "visit-2", "counter_visit")
            assert await ask(app, later) == []
            why = await app.insight.explain_event(EventKey(ANNE, ADVICE_SOURCE, "visit-2"))
            assert [d.reason for d in why.verdict.decisions] == [Reason.COOLING_OFF]

    in_loop(body)
