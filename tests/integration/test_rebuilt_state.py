"""What recovery makes of the record is what was live, and late input leaves what sorted input would."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from opportune_service.app import activation
from opportune_service.app import checkpoint as checkpoint_module
from opportune_service.app.checkpoint import CHUNK
from opportune_service.app.context import ImportItem, import_context, show_subscriber
from opportune_service.app.errors import NotFoundError, StoreUnavailableError
from opportune_service.clocks import ManualClock
from opportune_service.core.cells import cell_at
from opportune_service.core.events import MAX_SKEW_US, Encoding, Event, ImportMode
from support.applications import activate, in_loop, know, running
from support.paying_rulebase import paying_rulebase, tell
from support.rebuilt import live_and_rebuilt
from support.rulebases import NOON_US
from support.small_rulebase import SECOND_US, mms, small_rulebase, subscribers

ANNE, BOB = subscribers(2)


def test_two_records_of_one_subscriber_in_one_import_are_both_recovered() -> None:
    async def body() -> None:
        async with running(files=paying_rulebase(), people=()) as app:
            items = [ImportItem(ANNE, b'{"age": 30}'), ImportItem(ANNE, b'{"status": "active"}')]
            await import_context(app.live, app.ingest, items, 1, ImportMode.PATCH, Encoding.JSON)
            live, rebuilt = await live_and_rebuilt(app, [ANNE])
            assert live[ANNE].context == {"age": 30, "status": "active"}
            assert rebuilt == live

    in_loop(body)


def test_an_instant_in_the_context_reads_the_same_after_recovery() -> None:
    """Whatever zone it was written in: the log and the snapshots keep instants, not zones."""

    async def body() -> None:
        async with running(files=paying_rulebase(), people=()) as app:
            await tell(app, ANNE, 1, since="2020-01-01T00:00:00+08:00")
            live, rebuilt = await live_and_rebuilt(app, [ANNE])
            assert str(live[ANNE].context["since"]) == str(rebuilt[ANNE].context["since"])

    in_loop(body)


class FirstSaveFails:
    """A ledger whose first snapshot fails, as on a disk that is full for a moment."""

    def __init__(self, ledger: Any) -> None:
        self._ledger = ledger
        self._failed = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)

    def transaction(self) -> Any:
        if not self._failed:
            self._failed = True
            raise StoreUnavailableError("the disk is full")
        return self._ledger.transaction()


def test_a_round_of_snapshots_with_a_gap_does_not_move_the_checkpoint() -> None:
    """Replay must still begin before whatever was not saved."""
    people = subscribers(2 * CHUNK)

    async def body() -> None:
        async with running(people=()) as app:
            for start in range(0, len(people), 1000):
                await know(app, people[start : start + 1000])
            checkpoints = app.ingest._checkpoints
            checkpoints._ledger = FirstSaveFails(app.ledger)
            app.ingest.request_checkpoint()
            async with asyncio.timeout(30):
                while checkpoints.due:
                    await asyncio.sleep(0)
                    await checkpoints.wait()
            live, rebuilt = await live_and_rebuilt(app, people)
            assert rebuilt == live

    in_loop(body)


def test_a_round_of_snapshots_lets_others_have_their_turn() -> None:
    people = subscribers(4 * CHUNK)

    async def body() -> None:
        async with running(people=()) as app:
            for start in range(0, len(people), 1000):
                await know(app, people[start : start + 1000])
            checkpoints, turns = app.ingest._checkpoints, 0
            app.ingest.request_checkpoint()
            await asyncio.sleep(0)
            while checkpoints.due:
                turns += 1
                await asyncio.sleep(0)
            assert turns >= 3, "all of the round was encoded in one go"

    in_loop(body)


def test_the_end_does_not_wait_for_a_round_that_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MOST_REST_S", "ROUND_S"):
        monkeypatch.setattr(checkpoint_module, name, 1e9)
    people = subscribers(3 * CHUNK)

    async def body() -> None:
        async with running(people=()) as app:
            await know(app, people)
            checkpoints = app.ingest._checkpoints
            app.ingest.request_checkpoint()
            while not checkpoints.resting:  # noqa: ASYNC110 - nothing tells when it begins
                await asyncio.sleep(0)
            await know(app, people[:1])
            assert checkpoints.resting, "others have their turn, the round has not"
            assert len(app.states.dirty()) > CHUNK
        assert not app.states.dirty(), "not all was saved at the end"

    in_loop(body)


def test_what_metrics_of_old_revisions_counted_is_forgotten() -> None:
    """A hundred reloads that each change a metric must not leave a hundred series behind."""

    async def body() -> None:
        async with running() as app:
            for n in range(20):
                files = small_rulebase()
                text = files["behaviours.yaml"].decode().replace("size_kb > 100", f"size_kb > {n}")
                await activate(app, files | {"behaviours.yaml": text.encode()})
                await app.ingest.publish("test", [mms(ANNE, f"e{n}", NOON_US + n)])
            live, rebuilt = await live_and_rebuilt(app, [ANNE])
            assert len(live[ANNE].series) <= 2 * len(app.live.current.rulebase.metrics)
            assert rebuilt == live

    in_loop(body)


def test_a_new_metric_is_not_covered_for_events_that_went_by_before_it() -> None:
    """Collectors' clocks may be ahead: such an event was taken in by the revision before, uncounted."""

    async def body() -> None:
        async with running() as app:
            early = mms(ANNE, "e1", NOON_US + MAX_SKEW_US)
            await app.ingest.publish("test", [early])
            files = small_rulebase()
            text = (
                files["behaviours.yaml"]
                .decode()
                .replace("mms_30d:", "mms_1h: {count: mms_sent, last: 1h}\n  mms_30d:")
            )
            await activate(app, files | {"behaviours.yaml": text.encode()})
            assert isinstance(app.clock, ManualClock)
            for minutes in range(0, 70):
                now_us = early.occurred_at_us + minutes * 60 * SECOND_US
                view = await show_subscriber(app.live, app.states, ANNE, now_us)
                (reading,) = [r for r in view.metrics if r.name == "mms_1h"]
                assert not reading.covered or minutes >= 60, (
                    "the event is missing, yet the window counts as whole"
                )

    in_loop(body)


def test_a_busy_subscriber_is_not_walked_at_each_event() -> None:
    """Forgetting old hashes must not cost a walk over all that are remembered, event by event."""
    from opportune_service.core import observe as observe_module

    async def body() -> int:
        walks = 0
        honest = observe_module.forget

        def counted(*args: Any) -> None:
            nonlocal walks
            walks += 1
            honest(*args)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(observe_module, "forget", counted)
            async with running() as app:
                events = [Event(f"e{n}", ANNE, "sms_sent", NOON_US + n) for n in range(1000)]
                await app.ingest.publish("test", events)
        return walks

    assert in_loop(body) <= 2


def test_a_late_event_leaves_cell_and_handset_as_in_sorted_order() -> None:
    """Also when what came in between did not say where it was."""
    events = [
        Event("e1", ANNE, "sms_sent", NOON_US + 1, cell_id="A", imei="35000000000001"),
        Event("e2", ANNE, "sms_sent", NOON_US + 2),
        Event("e3", ANNE, "sms_sent", NOON_US + 3, cell_id="B"),
        Event("e4", ANNE, "sms_sent", NOON_US + 4, imei="35000000000002"),
        Event("e5", ANNE, "sms_sent", NOON_US + 5),
    ]

    async def body(order: list[int]) -> tuple[str, str]:
        async with running() as app:
            for n in order:
                await app.ingest.publish("test", [events[n]])
            state = (await app.states.load([ANNE]))[ANNE]
            return cell_at(state, NOON_US + 5), state.imei

    for order in ([4, 3, 2, 1, 0], [1, 0, 4, 3, 2], [2, 4, 0, 1, 3]):
        assert in_loop(body, order) == in_loop(body, [0, 1, 2, 3, 4])


def test_an_older_import_does_not_bring_back_what_a_newer_one_left_out() -> None:
    """An UPSERT says all that there is, also of attributes that were never known."""

    async def body(newer_first: bool) -> dict[str, object]:
        async with running(files=paying_rulebase(), people=()) as app:
            calls = [
                (1, ImportMode.PATCH, {"products": ["bonus"]}),
                (2, ImportMode.UPSERT, {"age": 30}),
                (3, ImportMode.PATCH, {"status": "active"}),
            ]
            for as_of_us, mode, known in reversed(calls) if newer_first else calls:
                await tell(app, ANNE, as_of_us, mode, **known)
            live, rebuilt = await live_and_rebuilt(app, [ANNE])
            assert rebuilt == live
            return live[ANNE].context

    assert in_loop(body, False) == in_loop(body, True) == {"age": 30, "status": "active"}


@pytest.mark.parametrize("mode", list(ImportMode))
@pytest.mark.parametrize("opt_out_first", [False, True])
def test_an_opt_out_wins_a_tie(mode: ImportMode, opt_out_first: bool) -> None:
    out = {"consents": {"channel/sms": False, "category/money": True}, "do_not_contact": True}
    back = {"consents": {"channel/sms": True, "category/money": True}, "do_not_contact": False}

    async def body() -> None:
        async with running(files=paying_rulebase(), people=()) as app:
            for known in (out, back) if opt_out_first else (back, out):
                await tell(app, ANNE, 7, mode, **known)
            state = (await app.states.load([ANNE]))[ANNE]
            assert state.context == out
            await tell(app, ANNE, 7, ImportMode.UPSERT, age=30)
            assert state.context["do_not_contact"] is True
            assert state.context["consents"] == out["consents"], "it erases what is older"
            await tell(app, ANNE, 8, mode, **back)
            assert state.context["consents"] == back["consents"]

    in_loop(body)


def test_a_late_event_is_counted_where_it_happened() -> None:
    """Not where the subscriber is by the time it comes."""
    files = small_rulebase()
    vocabulary = files["vocabulary.yaml"] + b"places: {table: places.csv}\n"
    behaviours = files["behaviours.yaml"].replace(
        b"metrics:\n",
        b"metrics:\n  at_station: {count: sms_sent, last: 1h, where: \"'station' in place.categories\"}\n",
    )
    files |= {
        "vocabulary.yaml": vocabulary,
        "behaviours.yaml": behaviours,
        "places.csv": b"cell,place,label,categories\nA,central,Central,station\nB,mall,Mall,shopping\n",
    }
    events = [
        Event("e1", ANNE, "sms_sent", NOON_US + 1, cell_id="A"),
        Event("e2", ANNE, "sms_sent", NOON_US + 2, cell_id="B"),
    ]

    async def body(order: list[Event]) -> dict[str, Any]:
        async with running(files=files) as app:
            await app.ingest.publish("test", order)
            return (await app.states.load([ANNE]))[ANNE].series

    late, sorted_ = in_loop(body, events[::-1]), in_loop(body, events)
    assert late == sorted_
    assert len(late) == 1


def test_a_revision_that_cannot_be_made_ready_is_not_activated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the next start would find it active, and fail."""

    def broken(*_: object) -> None:
        raise ZeroDivisionError("a fault of ours")

    async def body() -> None:
        async with running() as app:
            before = app.live.id
            with monkeypatch.context() as patch:
                patch.setattr(activation, "Revision", broken)
                with pytest.raises(ZeroDivisionError):
                    await activate(app, small_rulebase(threshold=9))
            assert app.live.id == before
            assert await app.thread.run(app.ledger.active_revision) == before

    in_loop(body)


def test_seeds_are_recovered() -> None:
    async def body() -> None:
        async with running() as app:
            await tell(app, ANNE, NOON_US, **{"metric.mms_30d": {"2026-11-18": 4}})
            await app.ingest.publish("test", [mms(ANNE, "e1")])
            live, rebuilt = await live_and_rebuilt(app, [ANNE])
            assert live[ANNE].seeds
            assert rebuilt == live

    in_loop(body)


def test_looking_at_a_stranger_leaves_nothing_behind() -> None:
    async def body() -> None:
        async with running(people=()) as app:
            with pytest.raises(NotFoundError):
                await show_subscriber(app.live, app.states, ANNE, NOON_US)
            assert await app.states.subscribers() == []
            await app.ingest.publish("test", [Event("e1", ANNE, "sms_sent", NOON_US, cell_id="A")])
            assert (await show_subscriber(app.live, app.states, ANNE, NOON_US)).cell_id == "A"

    in_loop(body)
