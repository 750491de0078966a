"""Prompts: shown once, to whom they are for, and closed when they are over."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from opportune_rulebase.policies import OutcomeKind
from opportune_service.app.advise import ADVICE_SOURCE, Advice, Visit, advise
from opportune_service.app.records import DecisionFilter
from opportune_service.bootstrap import Application
from opportune_service.core.decide import encode_verdict
from opportune_service.core.events import Event
from opportune_service.core.verdict import Reason
from support.applications import activate, decided, in_loop, running
from support.rulebases import NOON_US
from support.small_rulebase import mms, small_rulebase, subscribers

ANNE, BOB = subscribers(2)
HOUR_US = 3_600_000_000


async def prompted(app: Application) -> None:
    """Anne has an open prompt of the care plan."""
    events = [mms(ANNE, "e1", NOON_US, size_kb=200), Event("e2", ANNE, "sms_sent", NOON_US + 1)]
    receipt = await app.ingest.publish("test", events)
    assert decided(receipt.verdicts) == [(ANNE, "care-plan")]


async def ask(app: Application, request_id: str) -> list[Advice]:
    visit = Visit(ANNE, "counter", request_id, "counter_visit")
    return (await advise(app.live, app.ingest, app.ledger, app.thread, app.clock, visit)).advices


def changed(campaign: str, *, old: str, new: str) -> dict[str, bytes]:
    files = small_rulebase()
    name = f"campaigns/{campaign}.yaml"
    text = files[name].decode()
    assert old in text
    return files | {name: text.replace(old, new).encode()}


def quiet_visits() -> dict[str, bytes]:
    """Visits trigger nothing by themselves: what is shown is what waited."""
    return changed("care-plan", old="[counter_visit, sms_sent]", new="[sms_sent]")


def test_a_prompt_is_shown_to_one_of_two_that_ask_at_once() -> None:
    async def body() -> None:
        async with running(files=quiet_visits()) as app:
            await prompted(app)
            answers = await asyncio.gather(ask(app, "v1"), ask(app, "v2"))
            assert sorted(map(len, answers)) == [0, 1]
            rows = await app.insight.decisions(DecisionFilter(subscriber_id=ANNE), 0, 10, False)
            told = [row.reason for row in rows if row.key.source == ADVICE_SOURCE]
            assert sorted(told) == [Reason.DECIDED, Reason.INCONSISTENT]

    in_loop(body)


def test_a_prompt_that_was_answered_meanwhile_is_not_shown() -> None:
    """Between the look at the open prompts and the decision, another clerk has talked about it."""

    async def body() -> None:
        async with running(files=quiet_visits()) as app:
            await prompted(app)
            (prompt,) = await app.thread.run(app.ledger.prompts, ANNE, NOON_US)
            asking = asyncio.create_task(ask(app, "v1"))
            answer = app.deliveries.report_outcome(prompt.decision_id, OutcomeKind.LATER, NOON_US + 1)
            _, advices = await asyncio.gather(answer, asking)
            assert advices == []

    in_loop(body)


def test_a_prompt_stays_with_people_when_a_reload_falls_in_between() -> None:
    """A campaign that became automatic, or left the place, is not carried out because of an old prompt."""
    became = changed(
        "care-plan", old="mode: manual\nchannels: [counter]", new="mode: automatic\nchannels: [sms]"
    )
    became["campaigns/care-plan.yaml"] = (
        became["campaigns/care-plan.yaml"].replace(b"{counter:", b"{sms:").replace(b"counter_visit, ", b"")
    )

    async def body() -> None:
        async with running(files=quiet_visits()) as app:
            await prompted(app)
            before = app.live.current
            honest = app.thread.run

            async def slow(call: object, *args: object) -> object:
                found = await honest(call, *args)  # type: ignore[arg-type]  # any call of the ledger
                app.thread.run = honest  # type: ignore[method-assign]  # once
                await activate(app, became)
                return found

            app.thread.run = slow  # type: ignore[method-assign]  # a reload right after the look
            assert await ask(app, "v1") == []
            assert app.live.current is not before
            assert await app.deliveries.lease("sms", 10) == []

    in_loop(body)


def test_whether_a_prompt_is_still_open_does_not_depend_on_the_cut_into_batches() -> None:
    """In replay one group may span more time than a prompt lasts."""
    files = changed("care-plan", old="mode: manual\n", new="mode: manual\nexpires_after: 1h\n")
    events = [
        mms(ANNE, "e1", NOON_US, size_kb=200),
        *(Event(f"s{n}", ANNE, "sms_sent", NOON_US + n * HOUR_US // 2) for n in range(1, 12)),
    ]

    async def body(batches: Sequence[Sequence[Event]]) -> list[bytes]:
        async with running(files=files) as app:
            verdicts = []
            for batch in batches:
                verdicts += (await app.ingest.publish("test", batch, at_event_time=True)).verdicts
            assert len(decided(verdicts)) > 1
            return [encode_verdict(verdict) for verdict in verdicts]

    assert in_loop(body, [events]) == in_loop(body, [[event] for event in events])


def test_a_member_of_the_control_group_is_shown_nothing_and_counts_all_the_same() -> None:
    """Also not when somebody asks again: what would have been shown was shown, as far as caps go."""
    files = quiet_visits()
    files["policies.yaml"] += b'control: {share: 100%, salt: "x"}\n'

    async def body() -> None:
        async with running(files=files) as app:
            await prompted(app)
            assert await ask(app, "v1") == []
            rows = await app.insight.decisions(DecisionFilter(subscriber_id=ANNE), 0, 10, False)
            told = [row.reason for row in rows if row.key.source == ADVICE_SOURCE]
            assert told == [Reason.CONTROL]
            assert await app.thread.run(app.ledger.prompts, ANNE, NOON_US) == []
            assert await ask(app, "v2") == []

    in_loop(body)


def test_nothing_is_shown_to_who_has_gone_before_the_question_was_taken_up() -> None:
    """A caller whose deadline is over: its prompt is still open for the next one that asks."""

    async def body() -> None:
        async with running(files=quiet_visits()) as app:
            await prompted(app)
            go_on = asyncio.Event()
            busy = asyncio.create_task(app.ingest.between(lambda: wait_for(go_on)))
            asking = asyncio.create_task(ask(app, "v1"))
            while not app.ingest._queue.events:  # noqa: ASYNC110 - some turns of the loop, nothing else
                await asyncio.sleep(0)
            asking.cancel()
            await asyncio.wait([asking])
            go_on.set()
            await busy
            assert len(await ask(app, "v2")) == 1

    in_loop(body)


async def wait_for(event: asyncio.Event) -> None:
    await event.wait()
