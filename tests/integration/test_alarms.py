"""Campaigns that pause themselves, and campaigns that people pause: the next decision sees it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from opportune_rulebase.policies import OutcomeKind
from opportune_service.app.callers import Caller
from opportune_service.app.defer import decide_due
from opportune_service.bootstrap import Application
from opportune_service.clocks import ManualClock
from opportune_service.core.verdict import Decision, Reason, Verdict
from support.applications import in_loop, running
from support.guarded_rulebase import HOUR_US, MINUTE_US, MORNING_US, NIGHT_US, call, guarded_rulebase
from support.rulebases import NOON_US
from support.small_rulebase import SECOND_US, subscribers

PEOPLE = subscribers(12)
COMPLAINTS = guarded_rulebase(gift="alarm: {complaint_rate: 20%, at_least: 5, within: 1h}")
VOLUME = guarded_rulebase(policies="alarm: {per_hour: 5}")


async def calls(
    app: Application, people: Sequence[str], at_us: int = NOON_US, *, at_once: bool = True
) -> list[Decision]:
    """Each of these calls; what was decided of it."""
    events = [call(who, f"e{at_us}", at_us) for who in people]
    batches = [events] if at_once else [[event] for event in events]
    verdicts: list[Verdict] = []
    for batch in batches:
        verdicts += (await app.ingest.publish("test", batch)).verdicts
    return [each for verdict in verdicts for each in verdict.decisions]


def reasons(decisions: Sequence[Decision]) -> list[Reason]:
    return [decision.reason for decision in decisions]


async def complain(app: Application, decisions: Sequence[Decision], at_us: int = NOON_US) -> None:
    for decision in decisions:
        await app.deliveries.report_outcome(decision.id, OutcomeKind.COMPLAINED, at_us)


async def paused(app: Application) -> dict[str, str]:
    """Campaign -> who paused it."""
    return {campaign: pause.by for campaign, pause in (await app.pauses.paused()).items()}


def test_a_campaign_that_is_complained_of_pauses_itself(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        async with running(files=COMPLAINTS, people=PEOPLE) as app:
            made = await calls(app, PEOPLE[:10])
            await complain(app, made[:2])
            assert await paused(app) == {}, "20 % is not more than 20 %"
            await complain(app, made[1:3])
            assert await paused(app) == {"gift": "alarm"}
            assert "30.0% of 10 contacts" in caplog.text
            late = await calls(app, PEOPLE[10:], NOON_US + 1)
            assert reasons(late) == [Reason.NOT_LIVE, Reason.NOT_LIVE]

    in_loop(body)


def test_too_few_contacts_make_no_rate() -> None:
    async def body() -> None:
        async with running(files=COMPLAINTS, people=PEOPLE) as app:
            await complain(app, await calls(app, PEOPLE[:4]))
            assert await paused(app) == {}

    in_loop(body)


def test_contacts_of_long_ago_are_no_part_of_the_rate() -> None:
    async def body() -> None:
        async with running(files=COMPLAINTS, people=PEOPLE) as app:
            old = await calls(app, PEOPLE[:5])
            later_us = NOON_US + HOUR_US + SECOND_US
            set_clock(app, later_us)
            await calls(app, PEOPLE[5:], later_us)
            await complain(app, old, later_us)
            assert await paused(app) == {}

    in_loop(body)


def set_clock(app: Application, now_us: int) -> None:
    assert isinstance(app.clock, ManualClock)
    app.clock.value_us = now_us


@pytest.mark.parametrize("at_once", [True, False])
def test_a_campaign_that_contacts_too_many_pauses_itself_at_once(
    at_once: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Also in the middle of a batch: what comes of it does not depend on where it is cut."""

    async def body() -> None:
        async with running(files=VOLUME, people=PEOPLE) as app:
            made = await calls(app, PEOPLE, at_once=at_once)
            assert reasons(made) == [Reason.DECIDED] * 6 + [Reason.NOT_LIVE] * 6
            assert await paused(app) == {"gift": "alarm"}
            assert caplog.text.count("has paused itself") == 1

    in_loop(body)


def test_a_new_hour_counts_anew() -> None:
    async def body() -> None:
        async with running(files=VOLUME, people=PEOPLE) as app:
            assert reasons(await calls(app, PEOPLE[:5])) == [Reason.DECIDED] * 5
            set_clock(app, NOON_US + HOUR_US)
            assert reasons(await calls(app, PEOPLE[5:10], NOON_US + HOUR_US)) == [Reason.DECIDED] * 5
            assert await paused(app) == {}

    in_loop(body)


def test_a_pause_is_seen_by_the_next_decision_and_by_what_was_deferred() -> None:
    async def body() -> None:
        async with running(files=guarded_rulebase(), people=PEOPLE) as app:
            set_clock(app, NIGHT_US)
            assert reasons(await calls(app, PEOPLE[:1], NIGHT_US)) == [Reason.QUIET_HOURS]
            await app.pauses.pause("gift", Caller("operator"), "wrong price")
            assert reasons(await calls(app, PEOPLE[1:2], NIGHT_US)) == [Reason.NOT_LIVE]
            set_clock(app, MORNING_US)
            await decide_due(app.ingest, MORNING_US)
            assert await app.deliveries.lease("sms", 10) == []
            await app.pauses.resume("gift", Caller("operator"), "mended")
            assert reasons(await calls(app, PEOPLE[:2], MORNING_US + MINUTE_US)) == [Reason.DECIDED] * 2

    in_loop(body)
