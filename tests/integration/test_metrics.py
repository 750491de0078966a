"""Metrics: each figure against a count of its own, probes, and that no figure names anybody."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from pathlib import Path

import grpc
import pytest
from opportune_service.adapters.metrics import server as metrics_server
from opportune_service.adapters.metrics.catalogue import FIGURES, Kind
from opportune_service.adapters.metrics.server import CannotListenError, Monitor, monitoring
from opportune_service.app.errors import StoreUnavailableError
from opportune_service.app.figures import UNDECLARED
from opportune_service.clocks import ManualClock, WallClock
from opportune_service.core.events import Event, RejectionReason
from support.applications import know, running
from support.canaries import PHONE, call_everything, live_a_life, named
from support.rulebases import NOON_US
from support.server import in_loop
from support.small_rulebase import SECOND_US, mms, traffic
from support.watching import get, scrape, value, watched_service
from support.wire import SOMEBODY, event, publish


def odd(events: list[Event]) -> list[Event]:
    """Bad ones among them: an unknown type, one from the future, no subscriber."""
    bad = [
        Event("x1", "8613800000001", "made_up_8613912345678", NOON_US, b""),
        mms("8613800000001", "x2", NOON_US + 86_400 * SECOND_US),
        Event("x3", "nobody", "sms_sent", NOON_US, b""),
    ]
    return [*events[:7], *bad, *events[7:], *events[:3]]


def test_events_are_counted_as_one_by_one_they_are_answered() -> None:
    events = odd(list(traffic(3, 120)))
    results: Counter[tuple[str, str]] = Counter()
    reasons: Counter[tuple[str, str]] = Counter()

    async def naive() -> None:
        async with running(now_us=NOON_US + 120 * SECOND_US) as app:
            for each in events:
                receipt = await app.ingest.publish("t", [each])
                known = each.type if each.type in ("mms_sent", "sms_sent") else UNDECLARED
                results[known, "accepted"] += receipt.accepted
                results[known, "duplicate"] += receipt.duplicates
                for rejection in receipt.rejections:
                    results[known, "rejected"] += 1
                    reasons[known, rejection.reason.value] += 1

    async def at_once() -> None:
        async with running(now_us=NOON_US + 120 * SECOND_US) as app:
            await asyncio.gather(
                *(app.ingest.publish("t", events[n : n + 40]) for n in range(0, len(events), 40))
            )
            assert app.ingest.figures.events == +results
            assert app.ingest.figures.rejections == reasons

    asyncio.run(naive())
    assert {result for _, result in +results} == {"accepted", "duplicate", "rejected"}
    assert reasons[UNDECLARED, RejectionReason.UNKNOWN_TYPE.value] == 1
    asyncio.run(at_once())


def test_decisions_are_counted_once_however_often_they_are_answered() -> None:
    async def body() -> None:
        async with running() as app:
            events = [mms("8613800000001", f"e{n}") for n in range(5)]
            expected: Counter[tuple[str, str, str]] = Counter()
            for each in [*events, *events]:
                for verdict in (await app.ingest.publish("t", [each])).verdicts:
                    for decision in verdict.decisions:
                        fate = decision.fate.value if decision.fate else ""
                        expected[decision.campaign, decision.reason.value, fate] += 1
            assert expected
            assert app.ingest.figures.decisions == expected

    asyncio.run(body())


def test_what_was_not_committed_is_not_counted() -> None:
    async def body() -> None:
        async with running() as app:
            commit = app.ingest._commit

            def refused(group: object) -> None:
                app.ingest._commit = commit  # type: ignore[method-assign]
                app.ingest._commit_failed = True
                raise StoreUnavailableError("the disk is gone")

            app.ingest._commit = refused  # type: ignore[assignment, method-assign]
            with pytest.raises(StoreUnavailableError):
                await app.ingest.publish("t", [mms("8613800000001", "e1")])
            await app.ingest.healthy.wait()
            assert (app.ingest.figures.failed_commits, +app.ingest.figures.events) == (1, Counter())
            await app.ingest.publish("t", [mms("8613800000001", "e1")])
            assert app.ingest.figures.events == {("mms_sent", "accepted"): 1}

    asyncio.run(body())


@in_loop
async def test_every_metric_is_shown_with_its_labels(tmp_path: Path) -> None:
    clock = ManualClock(NOON_US + 3 * SECOND_US)
    async with watched_service(tmp_path, clock=clock) as (service, monitor):
        await know(service.app, [SOMEBODY])
        before = await scrape(monitor)
        assert value(before, "grpc_server_handled_total", **method("PublishEvents"), grpc_code="OK") == 0
        sent = [event(str(n), attributes={"size_kb": 200}) for n in range(4)]
        await service.events.PublishEvents(publish(*sent, sent[0], event("x", type="none")))
        with pytest.raises(grpc.aio.AioRpcError):
            await service.events.PublishEvents(publish(source=""))
        service.app.ingest.timers.dropped["silence"] += 2
        samples = await scrape(monitor)
        assert value(samples, "opportune_events_total", type="mms_sent", result="accepted") == 4
        assert value(samples, "opportune_events_total", type="mms_sent", result="duplicate") == 1
        assert (
            value(samples, "opportune_events_rejected_total", type=UNDECLARED, reason="unknown_type") == 1
        )
        assert value(samples, "grpc_server_started_total", **method("PublishEvents")) == 2
        for code in ("OK", "INVALID_ARGUMENT"):
            assert (
                value(samples, "grpc_server_handled_total", **method("PublishEvents"), grpc_code=code) == 1
            )
        assert value(samples, "grpc_server_handling_seconds_count", **method("PublishEvents")) == 2
        assert value(samples, "opportune_event_lag_seconds_sum") == 3
        assert value(samples, "opportune_event_lag_seconds_bucket", le="2.5") == 0
        assert value(samples, "opportune_event_lag_seconds_bucket", le="5.0") == 1
        assert value(samples, "opportune_commit_size_sum") == 7
        assert value(samples, "opportune_commit_seconds_count") == value(
            samples, "opportune_commit_seconds_bucket", le="+Inf"
        )
        revision = service.app.live.id
        assert value(samples, "opportune_rulebase_info", revision=revision, rulebase="small") == 1
        assert value(samples, "opportune_deliveries_waiting", channel="sms") == 2
        assert value(samples, "opportune_deliveries_oldest_waiting_seconds", channel="sms") == 0
        assert value(samples, "opportune_timers_dropped_total", pattern="silence") == 2
        assert value(samples, "opportune_subscribers", state="ready") == 1
        assert value(samples, "opportune_checkpoint_age_seconds") == 0
        assert value(samples, "opportune_ingest_queued_events") == 0
        assert value(samples, "opportune_store_up") == value(samples, "opportune_ready") == 1
        assert value(samples, "opportune_leads") == 1
        assert samples["process_resident_memory_bytes", frozenset()] > 0
        clock.value_us = clock.now_us() + 2 * SECOND_US
        [lease] = await service.app.deliveries.lease("sms", 1)
        clock.value_us = clock.now_us() + 7 * SECOND_US
        samples = await scrape(monitor)
        assert value(samples, "opportune_deliveries_waiting", channel="sms") == 1
        assert value(samples, "opportune_deliveries_leased", channel="sms") == 1
        assert value(samples, "opportune_lease_oldest_seconds", channel="sms") == 7
        assert value(samples, "opportune_checkpoint_age_seconds") == 9
        assert lease.channel == "sms"


def method(name: str, service: str = "opportune.v1.EventService") -> dict[str, str]:
    return {"grpc_service": service, "grpc_method": name}


def test_a_process_among_others_shows_the_same(postgres_ledger_url: str, redis_url: str) -> None:
    shared = {"database": postgres_ledger_url, "live_state": redis_url}

    @in_loop
    async def body() -> None:
        async with (
            watched_service(clock=WallClock(), **shared) as (service, monitor),
            watched_service(clock=WallClock(), files={}, **shared) as (_, other),
        ):
            now_us = service.app.clock.now_us()
            await know(service.app, [SOMEBODY])
            for n in range(3):
                await service.events.PublishEvents(publish(event(str(n), at_us=now_us)))
            first, second = await scrape(monitor), await scrape(other)
            assert value(first, "opportune_events_total", type="mms_sent", result="accepted") == 3
            assert value(second, "opportune_events_total", type="mms_sent", result="accepted") is None
            for samples in (first, second):
                assert value(samples, "opportune_deliveries_waiting", channel="sms") == 1
                assert value(samples, "opportune_ready") == 1
            # A new member waits some beats before it may lead.
            while {value(await scrape(each), "opportune_leads") for each in (monitor, other)} != {0, 1}:
                pass

    body()


@in_loop
async def test_what_left_a_campaign_unknown_is_counted() -> None:
    async with watched_service() as (service, monitor):
        for n in range(3):
            await service.events.PublishEvents(publish(event(str(n))))
        unknowns = dict(service.app.live.current.engine.unknowns())
        shown = {
            dict(labels)["definition"]: count
            for (name, labels), count in (await scrape(monitor)).items()
            if name == "opportune_unknown_evaluations_total"
        }
        assert unknowns == shown


def test_the_catalogue_keeps_the_conventions() -> None:
    names = [figure.name for figure in FIGURES]
    assert len(set(names)) == len(names)
    for figure in FIGURES:
        assert (figure.kind is Kind.COUNTER) == figure.name.endswith("_total"), figure.name
        assert figure.help.endswith("."), figure.name
        assert not {"subscriber", "subscriber_id", "msisdn", "imsi", "imei", "event_id"} & {*figure.labels}


@in_loop
async def test_readiness_follows_the_service_and_liveness_the_process() -> None:
    async with monitoring("127.0.0.1:0") as early:
        assert await get(early, "/healthz") == (200, "ok\n")
        assert (await get(early, "/readyz"))[0] == 503
        assert (await get(early, "/else"))[0] == 404
        assert not [name for name, _ in await scrape(early) if name.startswith("opportune_")]
    async with watched_service() as (service, monitor):
        assert await get(monitor, "/readyz") == (200, "ok\n")
        service.app.ingest.healthy.clear()
        assert await get(monitor, "/readyz") == (503, "the store is unavailable\n")
        assert value(await scrape(monitor), "opportune_ready") == 0
        service.app.ingest.healthy.set()
        await service.server.leave(0)
        assert await get(monitor, "/readyz") == (503, "the service is shutting down\n")
        assert await get(monitor, "/healthz") == (200, "ok\n")
        monitor.forget()
        assert (await get(monitor, "/readyz"))[0] == 503


@in_loop
async def test_a_process_that_is_stuck_is_not_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_server, "_ALIVE_SECONDS", 0.05)
    async with monitoring("127.0.0.1:0") as monitor:
        answered = threading.Event()
        said: list[tuple[int, str]] = []

        def ask() -> None:
            said.append(asyncio.run(get(monitor, "/healthz")))
            answered.set()

        thread = threading.Thread(target=ask)
        thread.start()
        answered.wait(30)  # on purpose not awaited: the event loop does nothing else
        thread.join()
        assert said == [(503, "the event loop does not answer\n")]
        assert await get(monitor, "/healthz") == (200, "ok\n")


@in_loop
async def test_a_ledger_that_does_not_answer_leaves_out_its_figures_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with watched_service() as (service, monitor):
        await know(service.app, [SOMEBODY])
        await service.events.PublishEvents(publish(*(event(str(n)) for n in range(4))))
        assert value(await scrape(monitor), "opportune_deliveries_waiting", channel="sms")

        def gone(*_: object) -> None:
            raise StoreUnavailableError("gone")

        monkeypatch.setattr(type(service.app.ledger), "backlogs", gone)
        samples = await scrape(monitor)
        assert value(samples, "opportune_store_up") == 1
        assert not [name for name, _ in samples if name.startswith("opportune_deliveries")]


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:99999", "127.0.0.1:x", "192.0.2.1:9464"])
def test_an_address_that_will_not_do_is_said_at_start(address: str) -> None:
    @in_loop
    async def body() -> None:
        with pytest.raises(CannotListenError, match="metrics_listen must be HOST:PORT"):
            async with monitoring(address):
                pass

    body()


@in_loop
async def test_nobody_is_named_in_any_metric() -> None:
    async with watched_service() as (service, monitor):
        await live_a_life(service)
        await call_everything(service)
        _, text = await get(monitor, "/metrics")
        assert f'type="{UNDECLARED}"' in text
        assert named(text) == []
        # The control: one that is named would be seen.
        service.app.ingest.figures.events[PHONE, "accepted"] += 1
        _, text = await get(monitor, "/metrics")
        assert named(text) == [PHONE]


def test_a_monitor_that_watches_nobody_has_no_port() -> None:
    @in_loop
    async def body() -> None:
        async with monitoring("") as monitor:
            assert isinstance(monitor, Monitor)
            assert monitor.port == 0

    body()
