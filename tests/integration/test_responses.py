"""What customers answer: replies and orders find the contact that they answer, and opt-outs are heeded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from opportune_rulebase.model import TouchKind
from opportune_rulebase.policies import OutcomeKind
from opportune_service.app.consent import Consent, set_consent
from opportune_service.bootstrap import Application
from opportune_service.core.events import Event
from opportune_service.core.verdict import Decision, Reason, Verdict
from support.applications import in_loop, running
from support.guarded_rulebase import HOUR_US, MINUTE_US, call, guarded_rulebase, order, reply, top_up
from support.rebuilt import live_and_rebuilt
from support.rulebases import NOON_US
from support.small_rulebase import SECOND_US, subscribers

ANNE, BOB = subscribers(2)
DAY_US = 24 * HOUR_US


async def tell(app: Application, *events: Event) -> list[Verdict]:
    """At their own time, so that a test may span days."""
    receipt = await app.ingest.publish("test", events, at_event_time=True)
    assert not receipt.rejections
    return receipt.verdicts


async def contact(app: Application, who: str = ANNE, at_us: int = NOON_US) -> Decision:
    """One that was made, or would have been."""
    (verdict,) = await tell(app, call(who, f"c{at_us}", at_us))
    (decision,) = verdict.decisions
    assert decision.reason in (Reason.DECIDED, Reason.CONTROL)
    return decision


async def outcomes(app: Application, decision: Decision) -> list[tuple[OutcomeKind, int]]:
    found = await app.thread.run(app.ledger.outcomes_of, decision.id)
    return [(each.kind, each.at_us) for each in found]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("1", OutcomeKind.ACCEPTED),
        (" YES! ", OutcomeKind.ACCEPTED),
        ("１", OutcomeKind.ACCEPTED),
        ("N.", OutcomeKind.REFUSED),
        ("no idea", None),
        ("", None),
    ],
)
def test_a_reply_answers_the_offer_that_is_open_on_its_channel(text: str, kind: OutcomeKind | None) -> None:
    async def body() -> None:
        async with running(files=guarded_rulebase()) as app:
            made = await contact(app)
            at_us = NOON_US + MINUTE_US
            await tell(app, reply(ANNE, "other", at_us, text, channel="push"))
            assert await outcomes(app, made) == [], "nothing was offered on that channel"
            await tell(app, reply(ANNE, "r1", at_us, text), reply(BOB, "r2", at_us, text))
            assert await outcomes(app, made) == ([(kind, at_us)] if kind else [])

    in_loop(body)


def test_a_reply_that_comes_when_the_offer_is_over_answers_nothing() -> None:
    async def body() -> None:
        async with running(files=guarded_rulebase()) as app:
            made = await contact(app)
            await tell(app, reply(ANNE, "r1", NOON_US + 2 * HOUR_US, "1"))
            assert await outcomes(app, made) == []

    in_loop(body)


def test_a_refusal_holds_for_the_next_event_however_the_batch_is_cut() -> None:
    events = [
        call(ANNE, "e1"),
        reply(ANNE, "r1", NOON_US + 1, "n"),
        *(call(ANNE, f"e{n}", NOON_US + n * DAY_US) for n in (2, 31)),
    ]

    async def body(batches: Sequence[Sequence[Event]]) -> list[Reason]:
        async with running(files=guarded_rulebase()) as app:
            verdicts = [verdict for batch in batches for verdict in await tell(app, *batch)]
            return [each.reason for verdict in verdicts for each in verdict.decisions]

    whole = in_loop(body, [events])
    assert whole == [Reason.DECIDED, Reason.COOLING_OFF, Reason.DECIDED]
    assert in_loop(body, [[event] for event in events]) == whole


async def refused(app: Application, who: str = ANNE) -> dict[str, bool]:
    state = (await app.states.load([who]))[who]
    consents = state.context.get("consents", {})
    assert isinstance(consents, dict)
    return consents


@pytest.mark.parametrize("text", ["TD", "ｔｄ", " Stop. ", "退订", "【退订】", "T"])
def test_an_opt_out_closes_its_channel_and_stays_after_a_restart(text: str, tmp_path: Path) -> None:
    database = tmp_path / "ledger.db"

    async def body() -> None:
        async with running(database, files=guarded_rulebase()) as app:
            await tell(app, reply(ANNE, "r1", NOON_US, text))
            assert await refused(app) == {"channel/sms": False}
            live, rebuilt = await live_and_rebuilt(app, [ANNE])
            assert rebuilt[ANNE].context == live[ANNE].context
            assert rebuilt[ANNE].as_of_us == live[ANNE].as_of_us
            (verdict,) = await tell(app, call(ANNE, "e1", NOON_US + 1))
            assert [each.reason for each in verdict.decisions] == [Reason.NO_CHANNEL]
        async with running(database, files=guarded_rulebase()) as app:
            assert await refused(app) == {"channel/sms": False}

    in_loop(body)


def test_an_opt_out_is_heeded_by_what_it_was_sent_with() -> None:
    """The event right behind it in the batch, and a delivery that waits already."""

    async def body() -> None:
        async with running(files=guarded_rulebase(), now_us=NOON_US + 2 * SECOND_US) as app:
            await contact(app)
            verdicts = await tell(
                app, reply(ANNE, "r1", NOON_US + 1, "stop"), top_up(ANNE, "e1", NOON_US + 2)
            )
            assert [each.reason for each in verdicts[0].decisions] == [Reason.NO_CHANNEL]
            assert await app.deliveries.lease("sms", 10) == []

    in_loop(body)


@pytest.mark.parametrize("said_us", [NOON_US - 25 * HOUR_US, NOON_US + HOUR_US])
def test_an_opt_out_is_heeded_though_its_event_is_rejected(said_us: int, tmp_path: Path) -> None:
    """Too late, after an outage of the message centre; or by a clock that is wrong."""
    database = tmp_path / "ledger.db"

    async def before() -> None:
        async with running(database, files=guarded_rulebase()) as app:
            await contact(app)
            events = [
                reply(ANNE, "r1", said_us, "stop"),
                call(BOB, "e1"),
                reply(BOB, "r2", said_us, "hello"),
            ]
            for _ in range(2):  # whoever sends it sends it again
                receipt = await app.ingest.publish("test", events)
                assert [rejection.index for rejection in receipt.rejections] == [0, 2]
                assert receipt.accepted + receipt.duplicates == 1
            assert await refused(app) == {"channel/sms": False}
            assert await refused(app, BOB) == {}
            live, rebuilt = await live_and_rebuilt(app, [ANNE, BOB])
            assert rebuilt == live
            assert [lease.subscriber_id for lease in await app.deliveries.lease("sms", 10)] == [BOB]

    async def after() -> None:
        async with running(database, files=guarded_rulebase(), people=()) as app:
            assert await refused(app) == {"channel/sms": False}
            (verdict,) = await tell(app, call(ANNE, "e9", NOON_US))
            assert [each.reason for each in verdict.decisions] != [Reason.DECIDED]

    in_loop(before)
    in_loop(after)


def test_an_opt_out_that_does_not_say_where_closes_every_automatic_channel() -> None:
    async def body() -> None:
        async with running(files=guarded_rulebase()) as app:
            text = msgspec.json.encode({"text": "stop"})
            await tell(app, Event("r1", ANNE, "reply_received", NOON_US, text))
            assert await refused(app) == {"channel/push": False, "channel/sms": False}

    in_loop(body)


@pytest.mark.parametrize(("said_us", "stands"), [(-1, False), (0, False), (1, True)])
def test_the_newest_word_on_a_channel_stands_and_an_opt_out_wins_a_tie(said_us: int, stands: bool) -> None:
    async def body() -> None:
        async with running(files=guarded_rulebase()) as app:
            said = Consent("channel/sms", True, NOON_US + said_us)
            await set_consent(app.live, app.states, app.ingest, ANNE, said, "crm")
            await tell(app, reply(ANNE, "r1", NOON_US, "stop"))
            assert (await refused(app))["channel/sms"] is stands

    in_loop(body)


def control_of(share: str) -> dict[str, bytes]:
    return guarded_rulebase(policies=f'control: {{share: {share}, salt: "x"}}')


@pytest.mark.parametrize(("share", "reason"), [("0%", Reason.DECIDED), ("100%", Reason.CONTROL)])
def test_an_order_is_attributed_to_the_contact_or_to_the_one_that_was_not_made(
    share: str, reason: Reason
) -> None:
    async def body() -> None:
        async with running(files=control_of(share)) as app:
            made = await contact(app)
            assert made.reason is reason
            at_us = NOON_US + 7 * DAY_US
            await tell(app, order(ANNE, "o1", at_us, product="data"), order(BOB, "o2", at_us))
            assert await outcomes(app, made) == [], "what was ordered is something else"
            await tell(app, order(ANNE, "o3", at_us))
            assert await outcomes(app, made) == [(OutcomeKind.ORDERED, at_us)]

    in_loop(body)


def test_an_order_after_the_window_is_no_conversion() -> None:
    async def body() -> None:
        async with running(files=guarded_rulebase()) as app:
            made = await contact(app)
            await tell(app, order(ANNE, "o1", NOON_US + 7 * DAY_US + 1))
            assert await outcomes(app, made) == []

    in_loop(body)


def test_a_complaint_is_kept_for_the_contact_view_once() -> None:
    """With what the view shows of it, and nothing else that it tells."""

    async def body() -> None:
        async with running(files=guarded_rulebase()) as app:
            told = msgspec.json.encode({"content": "too many messages", "level": "high", "staff": "7"})
            event = Event("h1", ANNE, "hotline_complaint", NOON_US, told)
            await tell(app, event)
            await tell(app, event)
            rows = await app.thread.run(app.ledger.touches_of, ANNE, 0, 2**62, 10)
            (touch,) = rows.touches
            assert (touch.kind, touch.source, touch.event_id) == (TouchKind.COMPLAINT, "test", "h1")
            assert touch.said == {"content": "too many messages", "level": "high"}

    in_loop(body)


def test_events_are_counted_by_type_and_hour_derived_ones_too() -> None:
    files = guarded_rulebase()
    files["behaviours.yaml"] = b"patterns: {often: {count: call_made, at_least: 3, within: 3h}}\n"
    calls = [call(ANNE, f"e{n}", NOON_US + n * HOUR_US // 2) for n in range(3)]

    async def body() -> None:
        async with running(files=files) as app:
            await tell(app, *calls)
            await tell(app, *calls, order(BOB, "o1", NOON_US))

            async def count(type_: str, hour: int) -> int:
                begin_us = NOON_US + hour * HOUR_US
                triggers = {"gift": [type_]}
                (figures,) = await app.thread.run(
                    app.ledger.campaign_figures, begin_us, begin_us + HOUR_US, triggers
                )
                return figures.events

            assert [await count("call_made", hour) for hour in (-1, 0, 1, 2)] == [0, 2, 1, 0]
            assert [await count("often", hour) for hour in (0, 1)] == [0, 1]
            assert await count("ordered", 0) == 1

    in_loop(body)


def test_what_a_slow_source_tells_counts_though_it_triggers_nothing() -> None:
    """Orders and opt-outs of yesterday are still orders and opt-outs."""
    files = guarded_rulebase()
    files["vocabulary.yaml"] += (
        b"sources: {billing: {events: [ordered, reply_received, hotline_complaint], max_lateness: 24h}}\n"
    )
    late_us = NOON_US + 20 * HOUR_US

    async def body() -> None:
        async with running(files=files, now_us=late_us) as app:
            made = await contact(app)
            events = [
                order(ANNE, "o1", NOON_US + 1),
                reply(ANNE, "r1", NOON_US + 2, "stop"),
                Event("h1", ANNE, "hotline_complaint", NOON_US + 3),
            ]
            assert (await app.ingest.publish("billing", events)).accepted == 3
            assert await outcomes(app, made) == [(OutcomeKind.ORDERED, NOON_US + 1)]
            assert await refused(app) == {"channel/sms": False}
            live, rebuilt = await live_and_rebuilt(app, [ANNE])
            assert rebuilt[ANNE].context == live[ANNE].context
            rows = await app.thread.run(app.ledger.touches_of, ANNE, 0, 2**62, 10)
            assert [touch.event_id for touch in rows.touches] == ["h1"]

    in_loop(body)
