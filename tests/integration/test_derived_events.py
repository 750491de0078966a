"""Derived events: their order among others of the same instant, and figures that are made of them."""

from __future__ import annotations

import pytest
from opportune_service.app.context import MetricReading, show_subscriber
from opportune_service.bootstrap import Application
from opportune_service.clocks import ManualClock
from opportune_service.core import fold
from support.applications import activate, decided, in_loop, running
from support.rulebases import NOON_US
from support.small_rulebase import subscribers
from support.timed_rulebase import HOUR_US, MINUTE_US, low, plain, timed_rulebase

(ANNE,) = subscribers(1)


async def figure(app: Application, name: str) -> MetricReading:
    view = await show_subscriber(app.live, app.states, ANNE, app.clock.now_us())
    return next(each for each in view.metrics if each.name == name)


def forward(app: Application, duration_us: int) -> None:
    assert isinstance(app.clock, ManualClock)
    app.clock.value_us += duration_us


@pytest.mark.parametrize(("steps", "expected"), [("[pair, sms_sent]", 0), ("[sms_sent, pair]", 40)])
def test_an_event_comes_before_what_is_derived_of_it(steps: str, expected: int) -> None:
    """They occur at one instant. Many subscribers: were it left to hashes, about half would differ."""
    patterns = "pair: {count: sms_sent, at_least: 2, within: 1h}"
    files = timed_rulebase(patterns=f"{patterns}\n              both: {{sequence: {steps}, within: 1h}}")
    files["campaigns/both.yaml"] = (
        b"campaign: both\nproduct: renewal\non: [both]\nmode: automatic\nchannels: [sms]\n"
        b"content: {sms: Hi}\n"
    )
    people = subscribers(40)

    async def body() -> int:
        async with running(files=files, people=people) as app:
            texts = [
                [plain("sms_sent", who, f"{n}-{who}", NOON_US + n) for who in people] for n in range(2)
            ]
            receipts = [await app.ingest.publish("bss", batch) for batch in texts]
            return sum(len(decided(receipt.verdicts)) for receipt in receipts)

    assert in_loop(body) == expected


def test_a_figure_of_derived_events_is_covered_when_their_beginnings_were_seen() -> None:
    files = timed_rulebase(silent="{after: low_balance, absent: recharge, for: 10h}")
    metrics = b"metrics:\n  silences: {count: silent, last: 1h}\n"
    files["behaviours.yaml"] = files["behaviours.yaml"].replace(b"metrics:\n", metrics)

    async def body() -> list[bool]:
        async with running(files=timed_rulebase(silent="none")) as app:
            forward(app, HOUR_US)
            # A wait that nobody looked for: it would be over ten hours from now.
            await app.ingest.publish("bss", [low(ANNE, "e1", app.clock.now_us())])
            await activate(app, files)
            covered = []
            for hours in (10, 2):
                forward(app, hours * HOUR_US + 5 * MINUTE_US)
                covered.append((await figure(app, "silences")).covered)
            return covered

    assert in_loop(body) == [False, True]


def test_a_window_with_more_than_is_kept_is_not_covered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fold, "MAX_RETAINED", 10)

    async def body() -> list[MetricReading]:
        async with running(files=timed_rulebase()) as app:
            forward(app, 2 * HOUR_US)
            now_us = app.clock.now_us()
            texts = [plain("sms_sent", ANNE, f"s{n}", now_us - 20 + n) for n in range(20)]
            found = []
            for batch in (texts[:9], texts[9:]):
                await app.ingest.publish("bss", batch)
                found.append(await figure(app, "sms_1h"))
            return found

    few, many = in_loop(body)
    assert (few.value, few.covered) == (9, True)
    assert (many.value, many.covered) == (10, False)
