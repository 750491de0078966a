"""By event time, what comes of events does not depend on which of them are taken in together: timers that
fall due among them, late events, and waits that a late event starts and that are over already."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opportune_service.app import observing
from opportune_service.bootstrap import Application
from opportune_service.core.events import Event
from opportune_service.core.verdict import Verdict
from support.applications import in_loop, running
from support.rehearsals import listen
from support.rulebases import NOON_US
from support.small_rulebase import subscribers
from support.timed_rulebase import MINUTE_US, timed_rulebase

PEOPLE = subscribers(3)
FILES = timed_rulebase(silent="{after: low_balance, absent: recharge, for: 10m}")

# (who, what, minutes since the one before: at times some back)
steps = st.lists(
    st.tuples(
        st.sampled_from(PEOPLE),
        st.sampled_from(["low_balance", "low_balance", "recharge", "sms_sent"]),
        st.sampled_from([0, 1, 1, 2, 5, 9, 11, -3, -12]),
    ),
    min_size=1,
    max_size=40,
)


def events_of(made: list[tuple[str, str, int]]) -> list[Event]:
    at_us, found = NOON_US + 60 * MINUTE_US, []
    for number, (who, kind, minutes) in enumerate(made):
        at_us += minutes * MINUTE_US
        attributes = b'{"left": 3}' if kind == "low_balance" else b""
        found.append(Event(f"e{number}", who, kind, at_us, attributes))
    return found


async def outcome(cut: int, events: list[Event]) -> tuple[list[Verdict], list[str]]:
    async with running(files=FILES, people=PEOPLE) as app:
        heard: list[Verdict] = []
        listen(app, heard)
        for start in range(0, len(events), cut):
            await app.ingest.publish("a", events[start : start + cut], at_event_time=True)
        await app.ingest.settle_timers(events[-1].occurred_at_us + 30 * MINUTE_US)
        return heard, [await _state(app, who) for who in PEOPLE]


async def _state(app: Application, who: str) -> str:
    """Without the log positions, which depend on the cuts."""
    state = await app.states.view(who)
    return repr((state.series, state.patterns, state.journal, state.latest_us))


@settings(max_examples=30, deadline=None)
@given(steps)
def test_together_or_one_by_one(made: list[tuple[str, str, int]]) -> None:
    async def body() -> None:
        events = events_of(made)
        assert await outcome(len(events), events) == await outcome(1, events)

    in_loop(body)


def test_the_control_takes_in_too_many_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody falls silent ten minutes after the first event, before somebody else does the last one."""
    one, other = PEOPLE[:2]
    events = events_of([(one, "low_balance", 0), (other, "low_balance", 1), (other, "sms_sent", 9)])
    events[-1] = msgspec.structs.replace(
        events[-1], occurred_at_us=events[-1].occurred_at_us + MINUTE_US // 2
    )

    async def body() -> None:
        one_by_one = await outcome(1, events)
        assert await outcome(3, events) == one_by_one
        monkeypatch.setattr(observing, "_first_due_us", lambda _, __: 2**62)
        assert await outcome(3, events) != one_by_one

    in_loop(body)


def test_a_fall_is_due_at_the_next_midnight_at_the_latest() -> None:
    """Noon is 12:00 in Shanghai; a fall may be due at 00:00 in any zone, so at any quarter of an hour."""
    falls = timed_rulebase(
        patterns="fades: {change: count, of: sms_sent, days: 1, falls_to: 0.5, at_least: 1}"
    )

    async def first_due(files: dict[str, bytes], minutes: int) -> int:
        async with running(files=files, people=PEOPLE) as app:
            return observing._first_due_us(app.live.current, NOON_US + minutes * MINUTE_US) - NOON_US

    async def body() -> None:
        assert await first_due(falls, 0) == 15 * MINUTE_US
        assert await first_due(falls, 14) == 15 * MINUTE_US
        assert await first_due(timed_rulebase(), 14) == (60 + 14) * MINUTE_US

    in_loop(body)
