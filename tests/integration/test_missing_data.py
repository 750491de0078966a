"""A wait comes to nothing where what it awaits may be missing: never an offer for want of data."""

from __future__ import annotations

import pytest
from msgspec import structs
from opportune_service.clocks import ManualClock
from opportune_service.core.events import Event, RejectionReason
from opportune_service.core.verdict import Verdict
from opportune_service.core.watermarks import GRACE_US
from support.applications import activate, decided, in_loop, running
from support.rebuilt import live_and_rebuilt
from support.rulebases import NOON_US
from support.small_rulebase import subscribers
from support.timed_rulebase import HOUR_US, MINUTE_US, later, low, plain, timed_rulebase

ANNE, BOB = subscribers(2)


def watched(on: str, **given: str) -> dict[str, bytes]:
    """The timed rulebase with one campaign more, on an event type of `on`; see `timed_rulebase`."""
    files = timed_rulebase(**given)
    files["campaigns/watch.yaml"] = (
        f"campaign: watch\nproduct: renewal\non: [{on}]\nmode: automatic\nchannels: [sms]\n"
        "fresh_for: 1h\ncontent: {sms: Hi}\n"
    ).encode()
    return files


def types(verdicts: list[Verdict], subscriber_id: str = ANNE) -> list[str]:
    return [each.event_type for each in verdicts if each.key.subscriber_id == subscriber_id]


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize(
    ("rejected", "expected"),
    [
        (plain("recharge", ANNE, "r", NOON_US + HOUR_US), []),
        (plain("recharge", ANNE, "r", NOON_US - 1), ["silent"]),
        (plain("recharge", BOB, "r", NOON_US + HOUR_US), ["silent"]),
        (low(ANNE, "r", NOON_US + HOUR_US), ["silent"]),
        (structs.replace(plain("recharge", ANNE, "r", NOON_US + 4 * HOUR_US), attributes=b"[]"), []),
    ],
    ids=["too late", "from before", "another's", "another type", "bad"],
)
def test_what_was_rejected_may_have_ended_the_wait(rejected: Event, expected: list[str], cut: bool) -> None:
    """It tells that something happened, and is not folded. The others are controls."""
    files = watched("silent", silent="{after: low_balance, absent: recharge, for: 5h}")

    async def body() -> None:
        async with running(files=files) as app:
            await app.ingest.publish("bss", [low(ANNE, "e1", NOON_US)])
            assert isinstance(app.clock, ManualClock)
            app.clock.value_us += 4 * HOUR_US
            current = plain("sms_sent", ANNE, "s", app.clock.now_us())
            batches = [[current], [rejected]] if cut else [[current, rejected]]
            receipts = [await app.ingest.publish("bss", batch) for batch in batches]
            (rejection,) = [each for receipt in receipts for each in receipt.rejections]
            assert rejection.reason in (RejectionReason.TOO_LATE, RejectionReason.BAD_ATTRIBUTES)
            assert types(await later(app, HOUR_US + GRACE_US)) == expected
            live, rebuilt = await live_and_rebuilt(app, [ANNE, BOB])
            assert rebuilt == live

    in_loop(body)


def test_a_bad_event_ends_a_wait_that_began_in_its_batch() -> None:
    """Also in replay, and wherever the batch is cut."""
    bad = structs.replace(plain("recharge", ANNE, "r", NOON_US + 1), attributes=b"[]")
    events = [low(ANNE, "e1", NOON_US), bad, low(BOB, "e2", NOON_US + 2 * HOUR_US)]

    async def body(cuts: list[list[Event]]) -> list[str]:
        async with running(files=watched("silent")) as app:
            receipts = [await app.ingest.publish("bss", batch, at_event_time=True) for batch in cuts]
            return [name for receipt in receipts for name in types(receipt.verdicts)]

    assert in_loop(body, [events]) == in_loop(body, [[each] for each in events]) == []
    assert in_loop(body, [[events[0], events[2]]]) == ["silent"], "the control shows nothing"


@pytest.mark.parametrize("late", [False, True])
def test_a_wait_that_began_before_its_pattern_was_live_does_not_fire(late: bool) -> None:
    """The recharge came before the reload, and no pattern saw it."""

    async def body() -> None:
        async with running(files=timed_rulebase(silent="none")) as app:
            assert isinstance(app.clock, ManualClock)
            app.clock.value_us += 40 * MINUTE_US
            await app.ingest.publish("bss", [plain("recharge", ANNE, "r", NOON_US + 35 * MINUTE_US)])
            await activate(app, timed_rulebase())
            app.clock.value_us += 10 * MINUTE_US
            opening_us = NOON_US + 30 * MINUTE_US if late else app.clock.now_us()
            events = [low(ANNE, "e1", opening_us), plain("sms_sent", BOB, "e2", app.clock.now_us())]
            await app.ingest.publish("bss", events)
            verdicts = await later(app, opening_us + HOUR_US + GRACE_US - app.clock.now_us())
            assert decided(verdicts) == ([] if late else [(ANNE, "credit")])

    in_loop(body)


def test_an_awaited_pattern_must_have_been_live_for_as_long_as_it_takes() -> None:
    """Two texts within an hour, of which one may have come before the reload."""
    patterns = "pair: {count: sms_sent, at_least: 2, within: 1h}"
    quiet = patterns + "\n              quiet: {after: low_balance, absent: pair, for: 30m}"

    async def body(wait_us: int) -> list[str]:
        async with running(files=timed_rulebase()) as app:
            await app.ingest.publish("bss", [plain("sms_sent", ANNE, "s1", NOON_US)])
            await activate(app, watched("quiet", patterns=quiet))
            await later(app, wait_us)
            begin_us = app.clock.now_us()
            events = [low(ANNE, "e1", begin_us), plain("sms_sent", ANNE, "s2", begin_us + 1)]
            await app.ingest.publish("bss", events)
            return types(await later(app, 30 * MINUTE_US + GRACE_US))

    assert in_loop(body, 20 * MINUTE_US) == []
    assert in_loop(body, 2 * HOUR_US) == ["quiet"]


def test_a_wait_for_a_pattern_whose_timer_was_dropped_is_dropped_too() -> None:
    sources = "billing: {label: B, events: [recharge]}, bss: {label: C, events: [low_balance]}"
    really = "really: {after: low_balance, absent: silent, for: 100m}"

    async def body(lags: bool) -> list[str]:
        async with running(files=watched("really", sources=sources, patterns=really)) as app:
            assert isinstance(app.clock, ManualClock)
            app.clock.value_us += 3 * HOUR_US  # so long have the patterns been live
            await app.ingest.publish("bss", [low(ANNE, "e1", app.clock.now_us())])
            app.clock.value_us += 50 * MINUTE_US
            behind_us = app.clock.now_us() - (40 * MINUTE_US if lags else 0)
            await app.ingest.publish("billing", [plain("recharge", BOB, "r1", behind_us)])
            if not lags:
                await app.ingest.publish("billing", [plain("recharge", ANNE, "r2", behind_us)])
            await later(app, 30 * MINUTE_US)
            assert app.ingest.timers.dropped["silent"] == lags
            now_us = app.clock.now_us()
            await app.ingest.publish("billing", [plain("recharge", BOB, "r3", now_us)])
            await app.ingest.publish("bss", [low(BOB, "e2", now_us)])
            verdicts = types(await later(app, 30 * MINUTE_US))
            live, rebuilt = await live_and_rebuilt(app, [ANNE])
            assert rebuilt == live
            return verdicts

    assert in_loop(body, True) == []
    assert in_loop(body, False) == ["really"], "silent never came, and all is known"


@pytest.mark.parametrize("by_event_time", [False, True])
def test_of_two_timers_due_at_once_the_awaited_one_comes_first(by_event_time: bool) -> None:
    """What happens at the due time counts as within. Several, for the order must not be that of hashes."""
    lines = [
        f"really{n}: {{after: low_balance, absent: silent{n}, for: {n}m}}\n"
        f"              silent{n}: {{after: low_balance, absent: recharge, for: {n}m}}"
        for n in range(10, 15)
    ]
    patterns = "\n              ".join(lines)
    names = ", ".join(f"really{n}, silent{n}" for n in range(10, 15))

    async def body() -> list[str]:
        async with running(files=watched(names, patterns=patterns)) as app:
            assert isinstance(app.clock, ManualClock)
            app.clock.value_us += 3 * HOUR_US  # so long have the patterns been live
            opening = low(ANNE, "e1", app.clock.now_us())
            await app.ingest.publish("bss", [opening], at_event_time=by_event_time)
            if by_event_time:
                until_us = app.clock.now_us() + 30 * MINUTE_US
                return types((await app.ingest.settle_timers(until_us)).verdicts)
            return types(await later(app, 30 * MINUTE_US))

    assert sorted(in_loop(body)) == [f"silent{n}" for n in range(10, 15)]


def test_whoever_tells_a_handset_may_tell_of_a_new_one() -> None:
    """Not only a network that sends such events itself: here another lags, and has the change."""

    async def body() -> None:
        files = watched(
            "same_phone", patterns="same_phone: {after: low_balance, absent: handset_changed, for: 1h}"
        )
        async with running(files=files) as app:
            assert isinstance(app.clock, ManualClock)
            app.clock.value_us += 2 * MINUTE_US
            now_us = app.clock.now_us()
            await app.ingest.publish("hlr", [plain("handset_changed", BOB, "h", now_us)])
            behind = Event("m", ANNE, "sms_sent", now_us - 20 * MINUTE_US, imei="35000000000001")
            await app.ingest.publish("msc", [behind])
            await app.ingest.publish("bss", [low(ANNE, "e1", now_us)])
            assert types(await later(app, HOUR_US + 2 * MINUTE_US)) == []

    in_loop(body)


def test_no_number_in_the_name_of_a_source_gets_into_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        async with running(files=timed_rulebase()) as app:
            behind = plain("recharge", BOB, "r", NOON_US - 30 * MINUTE_US)
            await app.ingest.publish("msc-8613812345678", [behind])
            await app.ingest.publish("bss", [low(ANNE, "e1", NOON_US)])
            await later(app, 2 * HOUR_US)

    in_loop(body)
    assert "furthest behind: msc-*****" in caplog.text
    assert "8613812345678" not in caplog.text
