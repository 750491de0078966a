"""What is checked before each lease, and what holds over all clients of a channel: on a whole service."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from opportune_client.channel import expired
from opportune_client.leases import Message
from opportune_rulebase.policies import OutcomeKind
from opportune_service.app.callers import Caller
from opportune_service.app.clearance import MAX_ATTEMPTS
from opportune_service.app.deliver import MAX_RETRY_AFTER_US, RETRY_AFTER_US, Deliveries
from opportune_service.app.records import DeliveryState, LogKind, Settlement
from opportune_service.bootstrap import Application
from opportune_service.core.verdict import ContactState
from support.applications import activate, in_loop, running
from support.delivering import (
    DAY_US,
    HOUR_US,
    MINUTE_US,
    NIGHT,
    REFUSAL,
    SECOND_US,
    WHO,
    contacts,
    move,
    offer,
    rulebase,
    settle,
    state,
    tell,
    with_consents,
)
from support.rulebases import NOON_US
from support.small_rulebase import subscribers

# -- checks before each lease ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attributes", "withdrawn"),
    [
        (b'{"consents": {"channel/sms": false}}', True),
        (b'{"consents": {"category/messaging": false}}', True),
        (b'{"do_not_contact": true}', True),
        (b'{"consents": {"channel/mms": false, "category/care": false}}', False),
    ],
)
def test_consent_withdrawn_after_the_decision_is_honoured(attributes: bytes, withdrawn: bool) -> None:
    async def body() -> None:
        async with running(files=with_consents()) as app:
            (decision_id,) = await offer(app, [WHO])
            await tell(app, WHO, attributes)
            leases = await app.deliveries.lease("sms", 10)
            assert bool(leases) != withdrawn
            expected = DeliveryState.WITHDRAWN if withdrawn else DeliveryState.LEASED
            assert await state(app, decision_id) is expected
            assert await contacts(app) == ([] if withdrawn else [ContactState.RESERVED])

    in_loop(body)


def test_consent_withdrawn_between_two_attempts_is_honoured() -> None:
    """The first attempt went to nobody; the second must not be made."""

    async def body() -> None:
        async with running(files=with_consents()) as app:
            (decision_id,) = await offer(app, [WHO])
            (lease,) = await app.deliveries.lease("sms", 10)
            await settle(app, lease, Settlement.RETRY)
            await tell(app, WHO, b'{"consents": {"channel/sms": false}}')
            move(app, HOUR_US)
            assert await app.deliveries.lease("sms", 10) == []
            assert await state(app, decision_id) is DeliveryState.WITHDRAWN
            assert await contacts(app) == []

    in_loop(body)


def test_consent_that_is_recorded_is_seen_by_every_lease_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Consent is withdrawn and leases are asked for at once, with more and more time between the two: no
    lease is recorded after the refusal was."""
    leased_at: list[int] = []
    take = Deliveries._take

    def watched(self: Deliveries, *arguments: Any) -> Any:
        position = self._ledger.last_position()
        taken = take(self, *arguments)
        leased_at.extend([position] * len(taken[0]))
        return taken

    monkeypatch.setattr(Deliveries, "_take", watched)

    async def body() -> None:
        async with running(files=with_consents()) as app:
            withdrawn = 0
            for turns in range(60):
                (decision_id,) = await offer(app, [WHO], tag=f"{turns}-")
                leasing = asyncio.create_task(app.deliveries.lease("sms", 10))
                for _ in range(turns * turns):
                    await asyncio.sleep(0)
                await tell(app, WHO, REFUSAL)
                leases = await leasing
                rows = await app.thread.run(lambda: list(app.ledger.read_log(0)))
                refused_at = [row.position for row in rows if row.kind is LogKind.CONTEXT][-1]
                assert all(position < refused_at for position in leased_at)
                withdrawn += await state(app, decision_id) is DeliveryState.WITHDRAWN
                for lease in leases:
                    await settle(app, lease, Settlement.SENT)
                leased_at.clear()
                move(app, SECOND_US)
                await tell(app, WHO, b'{"consents": {"channel/sms": true}}')
                move(app, SECOND_US)
            assert 0 < withdrawn < 60, "both ways to interleave were tried"

    in_loop(body)


def test_a_late_word_between_the_look_and_the_lease_is_not_overrun() -> None:
    """A lease has run out and is looked at to be given again; just then its client says: sent."""

    async def body() -> None:
        async with running(files=rulebase()) as app:
            await offer(app, [WHO])
            (lease,) = await app.deliveries.lease("sms", 10)
            move(app, MINUTE_US)
            ready = threading.Event()
            app.thread.submit(ready.wait)
            # Both are queued before the ledger's thread goes on; the lease itself is queued after them.
            leasing = asyncio.create_task(app.deliveries.lease("sms", 10))
            await asyncio.sleep(0)
            settling = asyncio.create_task(settle(app, lease, Settlement.SENT))
            await asyncio.sleep(0)
            ready.set()
            assert await settling
            assert await leasing == []
            assert await state(app, lease.decision_id) is DeliveryState.SENT

    in_loop(body)


def test_a_paused_campaign_is_withdrawn() -> None:
    async def body() -> None:
        async with running(files=rulebase()) as app:
            (decision_id,) = await offer(app, [WHO])
            await app.pauses.pause("mms-bundle", Caller("ann"), "wrong price")
            assert await app.deliveries.lease("sms", 10) == []
            assert await state(app, decision_id) is DeliveryState.WITHDRAWN
            assert await contacts(app) == []

    in_loop(body)


def test_a_campaign_that_a_reload_took_away_is_withdrawn() -> None:
    async def body() -> None:
        async with running(files=rulebase()) as app:
            (decision_id,) = await offer(app, [WHO])
            files = rulebase()
            del files["campaigns/mms-bundle.yaml"]
            await activate(app, files)
            assert await app.deliveries.lease("sms", 10) == []
            assert await state(app, decision_id) is DeliveryState.WITHDRAWN

    in_loop(body)


def test_no_lease_is_given_in_quiet_hours_or_reaches_into_them() -> None:
    """Noon to midnight, by the present rulebase: a reload that brings quiet hours holds at once."""

    async def body() -> None:
        async with running(files=rulebase()) as app:
            (decision_id,) = await offer(app, [WHO])
            (lease,) = await app.deliveries.lease("sms", 10)
            await settle(app, lease, Settlement.RETRY)
            await activate(app, rulebase(policies=NIGHT))
            begins_us = NOON_US + 10 * HOUR_US
            now_us = move(app, 10 * HOUR_US - 10 * SECOND_US)
            (lease,) = await app.deliveries.lease("sms", 10)
            assert now_us < lease.lease_until_us == lease.expires_at_us == begins_us
            # Nobody says a word; its lease is over, and quiet hours have begun.
            for _ in range(10):
                assert await app.deliveries.lease("sms", 10) == []
                now_us = move(app, HOUR_US)
            assert await state(app, decision_id) is DeliveryState.PENDING
            assert now_us == NOON_US + 20 * HOUR_US - 10 * SECOND_US
            now_us = move(app, 10 * SECOND_US)
            (lease,) = await app.deliveries.lease("sms", 10)
            assert lease.attempt == 3
            assert lease.expires_at_us == NOON_US + DAY_US, "its own time, which ends before the next night"

    in_loop(body)


def test_what_a_client_holds_into_quiet_hours_waits_for_their_end() -> None:
    """The time of its lease is over, not that of the offer. The client's word is that of the library."""
    message = Message(*("",) * 8, attempt=1, expires_at=datetime.fromtimestamp(0, UTC), test=False)
    word = expired(message)
    assert word is not None
    settlement = Settlement.RETRY if word.retryable else Settlement.FAILED

    async def body() -> None:
        async with running(files=rulebase()) as app:
            await offer(app, [WHO])
            await activate(app, rulebase(policies=NIGHT))
            move(app, 10 * HOUR_US - 10 * SECOND_US)
            (lease,) = await app.deliveries.lease("sms", 10)
            move(app, 10 * SECOND_US)
            assert await settle(app, lease, settlement)
            move(app, HOUR_US)
            assert await app.deliveries.lease("sms", 10) == []
            move(app, 9 * HOUR_US)
            assert len(await app.deliveries.lease("sms", 10)) == 1

    in_loop(body)


def test_nothing_is_leased_after_the_campaigns_last_day() -> None:
    """It was decided when the campaign was to last longer."""

    async def body() -> None:
        async with running(files=rulebase()) as app:
            (decision_id,) = await offer(app, [WHO])
            files = rulebase()
            files["campaigns/mms-bundle.yaml"] += b"valid: {to: 2026-11-20}\n"
            assert NOON_US // DAY_US == 20777, "noon of the 20th in Shanghai"
            await activate(app, files)
            move(app, 12 * HOUR_US - 10 * SECOND_US)
            (lease,) = await app.deliveries.lease("sms", 10)
            assert lease.lease_until_us == lease.expires_at_us == NOON_US + 12 * HOUR_US
            await settle(app, lease, Settlement.RETRY)
            move(app, 10 * SECOND_US)
            assert await app.deliveries.lease("sms", 10) == []
            assert await state(app, decision_id) is DeliveryState.EXPIRED
            assert await contacts(app) == []

    in_loop(body)


def test_what_expires_in_quiet_hours_ends_at_once() -> None:
    async def body() -> None:
        files = rulebase()
        campaign = files["campaigns/mms-bundle.yaml"].replace(b"expires_after: 24h", b"expires_after: 12h")
        files["campaigns/mms-bundle.yaml"] = campaign
        async with running(files=files) as app:
            (decision_id,) = await offer(app, [WHO])
            await activate(app, {**files, "policies.yaml": files["policies.yaml"] + NIGHT})
            move(app, 11 * HOUR_US)
            assert await app.deliveries.lease("sms", 10) == []
            assert await state(app, decision_id) is DeliveryState.EXPIRED
            assert await contacts(app) == []

    in_loop(body)


# -- attempts, order, pace and capacity -----------------------------------------------------------


def test_attempts_are_spaced_further_and_further_and_then_given_up() -> None:
    async def body() -> None:
        async with running(files=rulebase()) as app:
            (decision_id,) = await offer(app, [WHO])
            for attempt in range(1, MAX_ATTEMPTS + 1):
                (lease,) = await app.deliveries.lease("sms", 10)
                assert lease.attempt == attempt
                await settle(app, lease, Settlement.RETRY, "no route")
                backoff_us = min(RETRY_AFTER_US * 2 ** (attempt - 1), MAX_RETRY_AFTER_US)
                move(app, backoff_us - 1)
                assert await app.deliveries.lease("sms", 10) == []
                assert await state(app, decision_id) is DeliveryState.PENDING
                move(app, 1)
            assert await app.deliveries.lease("sms", 10) == []
            (letter,) = await app.dead_letters.page("", "", 0, 10)
            assert (letter.decision_id, letter.attempts, letter.detail) == (decision_id, 5, "no route")
            assert await contacts(app) == []

    in_loop(body)


def test_messages_to_one_subscriber_keep_their_order() -> None:
    """Several clients ask at once and settle in any order; first attempts come in order of decision."""

    async def body() -> None:
        people = subscribers(3)
        async with running(files=rulebase(), people=people) as app:
            decided = [await offer(app, people, tag=f"{n}-") for n in range(4)]
            first: dict[str, list[str]] = {who: [] for who in people}
            while held := await asyncio.gather(*(app.deliveries.lease("sms", 2) for _ in range(3))):
                leases = [lease for each in held for lease in each]
                if not leases:
                    break
                assert len({lease.subscriber_id for lease in leases}) == len(leases)
                for lease in reversed(leases):
                    first[lease.subscriber_id].append(lease.decision_id)
                    await settle(app, lease, Settlement.SENT)
            for place, who in enumerate(people):
                assert first[who] == [each[place] for each in decided]

    in_loop(body)


def test_pace_holds_over_all_clients_and_over_a_restart(tmp_path: Path) -> None:
    async def body() -> None:
        people, files = subscribers(40), rulebase(sms=", per_second: 5")
        given: list[int] = []

        async def ask(app: Application) -> None:
            now_us = app.clock.now_us()
            for leases in await asyncio.gather(*(app.deliveries.lease("sms", 4) for _ in range(3))):
                given.extend([now_us] * len(leases))

        started_us = NOON_US
        for run in range(3):
            async with running(tmp_path / "l.db", files, now_us=started_us, people=people) as app:
                if run == 0:
                    await offer(app, people)
                for _ in range(9):
                    await ask(app)
                    started_us = move(app, SECOND_US // 3)
        for begins_us in given:
            assert sum(begins_us <= at_us < begins_us + SECOND_US for at_us in given) <= 5
        # Of nine seconds the first after each start is lost.
        assert len(given) == 6 * 5

    in_loop(body)


def test_pace_holds_where_the_disk_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases go out when they are durable, a second after they were looked at."""
    take = Deliveries._take
    slow = [True]

    async def body() -> None:
        people = subscribers(20)
        async with running(files=rulebase(sms=", per_second: 5"), people=people) as app:

            def slowly(self: Deliveries, *arguments: Any) -> Any:
                taken = take(self, *arguments)
                if slow:
                    slow.pop()
                    move(app, SECOND_US)
                return taken

            monkeypatch.setattr(Deliveries, "_take", slowly)
            await offer(app, people)
            move(app, SECOND_US)
            assert len(await app.deliveries.lease("sms", 10)) == 5
            assert await app.deliveries.lease("sms", 10) == []
            move(app, SECOND_US)
            assert len(await app.deliveries.lease("sms", 10)) == 5

    in_loop(body)


def test_daily_capacity_holds_for_first_attempts_by_the_operators_day(tmp_path: Path) -> None:
    """Decided on one day, sent on the next: the capacity of the day of sending is what counts."""

    async def body() -> None:
        people, files = subscribers(9), rulebase(sms=", per_day: 4, otherwise: drop")
        path = tmp_path / "l.db"
        async with running(path, files, now_us=NOON_US, people=people) as app:
            assert len(await offer(app, people)) == 4, "decisions obey it as well"
        async with running(path, files, now_us=NOON_US + 13 * HOUR_US, people=people) as app:
            assert len(await offer(app, people[4:])) == 4
            leases = await app.deliveries.lease("sms", 3)
            leases += await app.deliveries.lease("sms", 10)
            assert len(leases) == 4
            for lease in leases:
                await settle(app, lease, Settlement.RETRY)
        async with running(path, files, now_us=NOON_US + 13 * HOUR_US + MINUTE_US, people=people) as app:
            again = await app.deliveries.lease("sms", 10)
            assert [lease.attempt for lease in again] == [2] * 4, "second attempts are no new contacts"
            for lease in again:
                await settle(app, lease, Settlement.SENT)
            assert await app.deliveries.lease("sms", 10) == []
            # The other four were decided today, so they last into the next day.
            move(app, 22 * HOUR_US + 58 * MINUTE_US)
            assert await app.deliveries.lease("sms", 10) == []
            move(app, MINUTE_US)
            assert len(await app.deliveries.lease("sms", 10)) == 4

    in_loop(body)


def test_a_frozen_client_holds_up_nobody_else() -> None:
    """It takes all it may have and says nothing: others are served meanwhile, and then get its messages."""

    async def body() -> None:
        people = subscribers(20)
        async with running(files=rulebase(), people=people) as app:
            await offer(app, people)
            frozen = await app.deliveries.lease("sms", 8)
            served = await app.deliveries.lease("sms", 100)
            assert len(frozen) == 8
            assert len(served) == 12
            for lease in served:
                await settle(app, lease, Settlement.SENT)
            move(app, frozen[0].lease_until_us - app.clock.now_us())
            again = await app.deliveries.lease("sms", 100)
            assert {each.decision_id for each in again} == {each.decision_id for each in frozen}
            assert [await settle(app, each, Settlement.SENT) for each in frozen] == [False] * 8
            assert [await settle(app, each, Settlement.SENT) for each in again] == [True] * 8

    in_loop(body)


def test_what_expires_is_ended_though_no_client_is_attached() -> None:
    async def body() -> None:
        async with running(files=rulebase()) as app:
            (decision_id,) = await offer(app, [WHO])
            move(app, DAY_US)
            await app.deliveries.expire()
            assert await state(app, decision_id) is DeliveryState.EXPIRED
            assert await contacts(app) == []

    in_loop(body)


def test_leases_survive_a_restart_and_are_given_again_when_they_ran_out(tmp_path: Path) -> None:
    async def body() -> None:
        path, people = tmp_path / "l.db", subscribers(2)
        async with running(path, rulebase(), people=people) as app:
            await offer(app, people)
            held, lost = await app.deliveries.lease("sms", 10)
        async with running(path, rulebase(), people=people, now_us=NOON_US + SECOND_US) as app:
            assert await app.deliveries.lease("sms", 10) == []
            assert await settle(app, held, Settlement.SENT), "its client is still there"
            move(app, 30 * SECOND_US)
            (again,) = await app.deliveries.lease("sms", 10)
            assert (again.decision_id, again.attempt, again.token) == (lost.decision_id, 2, lost.token + 1)
            assert not await settle(app, lost, Settlement.SENT)

    in_loop(body)


# -- what channels report -------------------------------------------------------------------------


def test_too_many_complaints_pause_the_campaign() -> None:
    async def body() -> None:
        people = subscribers(5)
        files = rulebase(policies=b"alarm: {complaint_rate: 20%, at_least: 2, within: 24h}\n")
        async with running(files=files, people=people) as app:
            decided = await offer(app, people)
            for lease in await app.deliveries.lease("sms", 10):
                await settle(app, lease, Settlement.SENT)
            complained = OutcomeKind.COMPLAINED
            await app.deliveries.report_outcome(decided[0], complained, NOON_US)
            assert not await app.pauses.paused()
            await app.deliveries.report_outcome(decided[1], complained, NOON_US)
            assert set(await app.pauses.paused()) == {"mms-bundle"}

    in_loop(body)
