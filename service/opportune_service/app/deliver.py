"""Hand contacts to channel clients: leases out, settlements and outcomes in.

Every lease is checked anew (`clearance.py`), and once more when it is durable, just before it is handed
out: the ledger takes its time, and meanwhile another call, or another process, may have acknowledged that a
consent is withdrawn. Nothing goes out after that.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from opportune_rulebase.model import Channel
from opportune_rulebase.policies import Mode, OutcomeKind

from opportune_service.app.alarms import pause_complained_of, tell
from opportune_service.app.bulk import BulkPrompts
from opportune_service.app.clearance import Ended, Postponed, Step, next_step
from opportune_service.app.commit import names_of
from opportune_service.app.errors import InvalidRequestError, StoreUnavailableError, UnknownDecisionError
from opportune_service.app.ledger_thread import LedgerThread
from opportune_service.app.pace import Pace
from opportune_service.app.ports import Clock, Ledger, LedgerTransaction, LiveState
from opportune_service.app.records import DeliveryState, Lease, Pause, Settlement, Waiting
from opportune_service.app.revisions import LiveRevision
from opportune_service.app.test_sends import TestSends, is_test
from opportune_service.core.calendars import day_begins_us, local_day
from opportune_service.core.revision import Revision
from opportune_service.core.verdict import Decision, Outcome, Reason, UsageKey, UsageKind, Verdict

T = TypeVar("T")

RETRY_AFTER_US = 5_000_000
"""Backoff before the second attempt; it doubles with each attempt, up to `MAX_RETRY_AFTER_US`."""
MAX_RETRY_AFTER_US = 60_000_000

_PAGE = 100
"""Deliveries looked at in one go, or more if so many may be leased: those that must not be leased now stand
among those that may."""

_EXPIRE_AT_ONCE = 200
"""In one transaction: commits wait for some tens of milliseconds."""
_SAID_AT_ONCE = 50
"""Acks or receipts in one transaction, likewise: each is several statements."""
_EXPIRE_EVERY_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Settled:
    """What a channel client says of one lease."""

    decision_id: str
    token: int
    attempt: int
    settlement: Settlement
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Reported:
    """What a channel client says of one contact, later."""

    decision_id: str
    kind: OutcomeKind
    at_us: int
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Standing:
    """Where the delivery of a decision stands, and how often it was leased."""

    channel: str
    state: DeliveryState
    attempts: int


class Deliveries:
    """The outbox as channel clients see it. At least once: a lease that runs out is given again.

    `lease_for_us`: how long a client may take before its lease is given to another. `share`: what part of a
    channel's pace is for the clients of this process (`Membership.share`). `check_sound`: that of `Ingest`.
    """

    def __init__(
        self,
        live: LiveRevision,
        states: LiveState,
        ledger: Ledger,
        thread: LedgerThread,
        clock: Clock,
        lease_for_us: int,
        prompts: BulkPrompts,
        share: Callable[[int], int] = int,
        check_sound: Callable[[], None] = lambda: None,
    ) -> None:
        self._live = live
        self._share = share
        self._check_sound = check_sound
        self._states = states
        self._ledger = ledger
        self._thread = thread
        self._clock = clock
        self._lease_for_us = lease_for_us
        self._prompts = prompts
        self._news: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.tests = TestSends(clock, self.wake)
        started_us = clock.now_us()
        self._paces: defaultdict[str, Pace] = defaultdict(lambda: Pace(started_us))

    def check_channel(self, channel: str) -> None:
        """Raises `InvalidRequestError` unless clients carry contacts on it: automatic and bulk channels."""
        known = self._live.current.channels
        if channel not in known or not _has_clients(known[channel]):
            carried = sorted(c.name for c in known.values() if _has_clients(c))
            raise InvalidRequestError("channel", f"channel must be one of: {', '.join(carried)}")

    # -- waiting for something to lease -----------------------------------------------------------

    def announce(self, verdicts: Sequence[Verdict]) -> None:
        """Wake the clients of every channel that has something new. Called after a commit."""
        for verdict in verdicts:
            for decision in verdict.decisions:
                if decision.reason is Reason.DECIDED:
                    self._news[decision.channel].set()

    def wake(self, channels: Collection[str]) -> None:
        """Wake the clients of these channels."""
        for channel in channels:
            self._news[channel].set()

    async def news(self, channel: str, timeout_seconds: float) -> None:
        """Wait until the channel may have something to lease, or the time is over: leases run out and
        retries fall due without an announcement, and the pace allows more."""
        event = self._news[channel]
        wait_us = self._paces[channel].frees_us() - self._clock.now_us()
        if wait_us > 0:
            timeout_seconds = min(timeout_seconds, wait_us / 1_000_000)
        try:
            async with asyncio.timeout(timeout_seconds):
                await event.wait()
        except TimeoutError:
            return
        event.clear()

    # -- leasing ----------------------------------------------------------------------------------

    async def lease(self, channel: str, limit: int) -> list[Lease]:
        """Up to `limit` deliveries for a client with so much credit left. May be empty.

        The clients of a channel take turns, so that its pace and capacity hold over all of them; a turn
        waits for nobody but the ledger. Prompts of a bulk channel are shown first, no more than its pace
        lets go out now.
        """
        if tests := self.tests.take(channel, limit):
            self._news[channel].set()  # what else there is, is there still
            return tests
        leases: list[Lease] = []
        looked_at: dict[str, Waiting] = {}
        async with self._turns[channel]:
            await self._prompts.show(channel, min(limit, self._free(channel, self._clock.now_us())))
            page = max(limit, _PAGE)
            while len(leases) < limit:
                found = await self._thread.run(self._look, channel, page)
                self._check_sound()  # or a consent that was taken back might be there again
                contexts = await self._states.contexts({waiting.subscriber_id for waiting in found})
                now_us = self._clock.now_us()
                revision, free = self._live.current, self._free(channel, now_us)
                steps = self._steps(revision, found, contexts, now_us, min(limit - len(leases), free))
                given, moved = await self._thread.run(self._take, revision, channel, page, steps, now_us)
                # They go out now: the disk may have been slow.
                self._paces[channel].take(len(given), self._clock.now_us())
                leases += given
                looked_at |= {waiting.decision_id: waiting for waiting in steps}
                if len(found) < page or not moved:
                    break
        if len(leases) == limit:
            self._news[channel].set()  # there may be more for another client
        return await self._still_clear([(looked_at[lease.decision_id], lease) for lease in leases])

    async def _still_clear(self, given: Sequence[tuple[Waiting, Lease]]) -> list[Lease]:
        """Those of these, just made durable, that may be handed out at this moment; the others are taken
        back, as if they had never been given."""
        while given:
            self._check_sound()
            contexts = await self._states.contexts({lease.subscriber_id for _, lease in given})
            revision, now_us = self._live.current, self._clock.now_us()
            clear: list[tuple[Waiting, Lease]] = []
            refused: list[tuple[Lease, Step]] = []
            for waiting, lease in given:
                context = contexts.get(waiting.subscriber_id)
                decides = revision.of(waiting.subscriber_id)
                step = next_step(decides, waiting, context, now_us, self._lease_for_us)
                if isinstance(step, Lease):
                    clear.append((waiting, lease))
                else:
                    refused.append((lease, step))
            given = clear
            if not refused:
                break
            # It takes its time too, so the others are asked about again.
            await self._thread.run(self._take_back, refused, now_us)
        return [lease for _, lease in given]

    def _free(self, channel: str, now_us: int) -> int:
        """How many the channel's pace leaves room for."""
        declared = self._live.current.channels.get(channel)
        per_second = declared.per_second if declared else None
        if per_second is not None:
            per_second = self._share(per_second)
        return self._paces[channel].free(per_second, now_us)

    def _look(self, channel: str, page: int) -> Sequence[Waiting]:
        with self._ledger.transaction() as tx:
            return tx.waiting(channel, page, self._clock.now_us())

    def _steps(
        self,
        revision: Revision,
        found: Sequence[Waiting],
        contexts: Mapping[str, Mapping[str, object]],
        now_us: int,
        most: int,
    ) -> dict[Waiting, Step]:
        """What is to become of each, up to the last that may be leased."""
        steps: dict[Waiting, Step] = {}
        for waiting in found:
            context = contexts.get(waiting.subscriber_id)
            decides = revision.of(waiting.subscriber_id)
            step = next_step(decides, waiting, context, now_us, self._lease_for_us)
            if isinstance(step, Lease):
                if most <= 0:
                    continue
                most -= 1
            steps[waiting] = step
        return steps

    def _take(
        self, revision: Revision, channel: str, page: int, steps: Mapping[Waiting, Step], now_us: int
    ) -> tuple[list[Lease], bool]:
        """Carry the steps out, for what is still as it was when it was looked at; the leases, and whether
        anything came of it. Pauses and the day's capacity are checked in the same transaction."""
        leases: list[Lease] = []
        postponed: defaultdict[int, list[str]] = defaultdict(list)
        ended: dict[Ended, list[str]] = defaultdict(list)
        with self._ledger.transaction() as tx:
            tx.lock((), names_of([UsageKey(UsageKind.CHANNEL_LEASES, channel, 0)]))
            paused = tx.paused()
            room = _Room(tx, revision, channel, now_us)
            still = [waiting for waiting in tx.waiting(channel, page, now_us) if waiting in steps]
            for waiting in still:
                step = steps[waiting]
                if waiting.campaign in paused and not isinstance(step, Ended):
                    step = Ended(DeliveryState.WITHDRAWN, "the campaign is paused")
                if isinstance(step, Lease) and step.attempt == 1 and not room.take():
                    step = Postponed(room.again_us)
                    if step.until_us >= waiting.expires_at_us:
                        step = Ended(DeliveryState.EXPIRED, "the channel had no capacity left")
                match step:
                    case Lease():
                        leases.append(step)
                    case Postponed():
                        postponed[step.until_us].append(waiting.decision_id)
                    case Ended():
                        ended[step].append(waiting.decision_id)
            if leases:
                tx.lease(leases, room.day)
            for until_us, decision_ids in postponed.items():
                tx.postpone(decision_ids, until_us)
            for end, decision_ids in ended.items():
                tx.end_deliveries(dict.fromkeys(decision_ids, end.state), now_us, end.detail)
        return leases, bool(still)

    def _take_back(self, refused: Sequence[tuple[Lease, Step]], now_us: int) -> None:
        """Nothing of these leases went out, so nothing of them is uncertain."""
        with self._ledger.transaction() as tx:
            tx.lock((), (), [lease.decision_id for lease, _ in refused])
            for lease, step in refused:
                again_us = step.until_us if isinstance(step, Postponed) else now_us
                try:
                    own = tx.settle(lease.decision_id, lease.token, Settlement.RETRY, now_us, again_us)
                except UnknownDecisionError:
                    continue  # the subscriber was erased meanwhile
                if own and isinstance(step, Ended):
                    tx.end_deliveries({lease.decision_id: step.state}, now_us, step.detail)

    async def run(self, leads: Callable[[], bool]) -> None:
        """While this process leads, end what has expired every now and then, also where no client is
        attached, so that no reservation outlives its offer, and no prompt stays open that nobody may be
        shown."""
        while True:
            await asyncio.sleep(_EXPIRE_EVERY_SECONDS)
            with contextlib.suppress(StoreUnavailableError):  # the next round does it
                if leads():
                    await self.expire()

    async def expire(self) -> None:
        """End all deliveries and prompts whose time is over."""
        while await self._thread.run(self._expire) == _EXPIRE_AT_ONCE:
            pass

    def _expire(self) -> int:
        with self._ledger.transaction() as tx:
            return tx.expire(self._clock.now_us(), _EXPIRE_AT_ONCE)

    # -- what clients say -------------------------------------------------------------------------

    async def settle(self, settled: Sequence[Settled]) -> list[bool]:
        """Apply what a client says of its leases, a piece in one transaction. False: the lease was not the
        newest any more (it ran out and was given again), so its word does not count; or no such
        delivery."""
        answers: list[bool] = []
        for piece in _pieces([each for each in settled if not is_test(each.decision_id)]):
            answers += await self._thread.run(self._settle, piece)
        real = iter(answers)
        return [
            self.tests.settle(each.decision_id, each.settlement)
            if is_test(each.decision_id)
            else next(real)
            for each in settled
        ]

    def _settle(self, settled: Sequence[Settled]) -> list[bool]:
        now_us = self._clock.now_us()
        answers = []
        with self._ledger.transaction() as tx:
            tx.lock((), (), [item.decision_id for item in settled])
            for item in settled:
                backoff_us = min(RETRY_AFTER_US * 2 ** (max(item.attempt, 1) - 1), MAX_RETRY_AFTER_US)
                retry_at_us = now_us + backoff_us
                try:
                    answers.append(
                        tx.settle(
                            item.decision_id,
                            item.token,
                            item.settlement,
                            now_us,
                            retry_at_us,
                            item.detail,
                        )
                    )
                except UnknownDecisionError:
                    answers.append(False)
        return answers

    async def standings(self, decision_ids: Collection[str]) -> dict[str, Standing]:
        """Where these deliveries stand; without those that do not exist."""
        tests = {id_: self.tests.standing(id_) for id_ in decision_ids if is_test(id_)}
        found = await self._thread.run(self._standings, [id_ for id_ in decision_ids if id_ not in tests])
        return found | {id_: Standing(*test, 1) for id_, test in tests.items() if test is not None}

    def _standings(self, decision_ids: Collection[str]) -> dict[str, Standing]:
        found = {}
        for decision_id in decision_ids:
            delivery, decision = self._ledger.delivery_of(decision_id), self._decision(decision_id)
            if delivery is not None and decision is not None:
                found[decision_id] = Standing(decision.channel, *delivery)
        return found

    async def report_receipts(self, channel: str, reported: Sequence[Reported]) -> list[bool | None]:
        """Note what became of contacts on a channel, a piece in one transaction. False: it was known; None:
        the channel made no such contact."""
        answers: list[bool | None] = []
        for piece in _pieces([each for each in reported if not is_test(each.decision_id)]):
            answers += await self._thread.run(self._report_receipts, channel, piece)
        real = iter(answers)
        return [True if is_test(each.decision_id) else next(real) for each in reported]

    def _report_receipts(self, channel: str, reported: Sequence[Reported]) -> list[bool | None]:
        answers: list[bool | None] = []
        new: list[Reported] = []
        with self._ledger.transaction() as tx:
            tx.lock((), (), [item.decision_id for item in reported])
            for item in reported:
                decision = self._decision(item.decision_id)
                answer = None
                if decision is not None and decision.channel == channel:
                    with contextlib.suppress(UnknownDecisionError):
                        answer = tx.record_outcome(item.decision_id, item.kind, item.at_us, item.detail)
                answers.append(answer)
                if answer:
                    new.append(item)
            pauses = self._alarms(tx, new)
        tell(pauses)
        return answers

    async def report_outcome(
        self, decision_id: str, kind: OutcomeKind, at_us: int, detail: str = ""
    ) -> bool:
        """Note what became of a contact; False if it was known. Raises `UnknownDecisionError`."""
        return await self._thread.run(self._report_outcome, Reported(decision_id, kind, at_us, detail))

    def _report_outcome(self, item: Reported) -> bool:
        with self._ledger.transaction() as tx:
            new = tx.record_outcome(item.decision_id, item.kind, item.at_us, item.detail)
            pauses = self._alarms(tx, [item] if new else [])
        tell(pauses)
        return new

    def _alarms(self, tx: LedgerTransaction, new: Sequence[Reported]) -> Sequence[Pause]:
        """Pause the campaigns that are complained of too much by now."""
        complaints = [item for item in new if item.kind is OutcomeKind.COMPLAINED]
        if not complaints or not self._live.id:
            return ()
        pauses: list[Pause] = []
        for item in complaints:
            verdict, about = self._verdict(item.decision_id)
            if verdict is None or about is None:
                continue
            outcome = Outcome(
                *(item.decision_id, item.kind, item.at_us, about.campaign, about.product, about.category)
            )
            rulebase = self._live.of(verdict.key.subscriber_id).rulebase
            pauses += pause_complained_of(tx, rulebase, [outcome], self._clock.now_us())
        return pauses

    def _decision(self, decision_id: str) -> Decision | None:
        return self._verdict(decision_id)[1]

    def _verdict(self, decision_id: str) -> tuple[Verdict | None, Decision | None]:
        verdict = self._ledger.verdict_of(decision_id)
        decisions = verdict.decisions if verdict else ()
        return verdict, next((each for each in decisions if each.id == decision_id), None)


class _Room:
    """The capacity that a channel has left today: first leases, counted in the ledger by the operator's
    days. `again_us`: when it has room again."""

    def __init__(self, tx: LedgerTransaction, revision: Revision, channel: str, now_us: int) -> None:
        zone = revision.rulebase.time_zone
        declared = revision.channels.get(channel)
        self._left = declared.per_day if declared else None
        self.day = local_day(now_us, zone)
        self.again_us = day_begins_us(self.day + 1, zone)
        if self._left is not None:
            key = UsageKey(UsageKind.CHANNEL_LEASES, channel, self.day)
            self._left -= tx.usage([key]).get(key, 0)

    def take(self) -> bool:
        """Take one, if there is one left."""
        if self._left is None:
            return True
        self._left -= 1
        return self._left >= 0


def _has_clients(channel: Channel) -> bool:
    return channel.mode is Mode.AUTOMATIC or channel.bulk


def _pieces(said: Sequence[T]) -> Iterator[Sequence[T]]:
    return (said[start : start + _SAID_AT_ONCE] for start in range(0, len(said), _SAID_AT_ONCE))
