"""Hand automatic decisions to channel clients: leases out, settlements and outcomes in."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from opportune_rulebase.policies import Mode, OutcomeKind

from opportune_service.app.errors import InvalidRequestError, UnknownDecisionError
from opportune_service.app.ledger_thread import LedgerThread
from opportune_service.app.ports import Clock, Ledger
from opportune_service.app.records import DeliveryState, Lease, Settlement
from opportune_service.app.revisions import LiveRevision
from opportune_service.core.verdict import Reason, Verdict

MAX_ATTEMPTS = 5
RETRY_AFTER_US = 5_000_000
"""Backoff before the second attempt; it doubles with each attempt."""


@dataclass(frozen=True, slots=True)
class Settled:
    """What a channel client says of one lease."""

    decision_id: str
    token: int
    attempt: int
    settlement: Settlement


@dataclass(frozen=True, slots=True)
class Reported:
    """What a channel client says of one contact, later."""

    decision_id: str
    kind: OutcomeKind
    at_us: int


@dataclass(frozen=True, slots=True)
class Standing:
    """Where the delivery of a decision stands, and how often it was leased."""

    channel: str
    state: DeliveryState
    attempts: int


class Deliveries:
    """The outbox as channel clients see it. At least once: a lease that runs out is given again.

    `lease_for_us`: how long a client may take before its lease is given to another.
    """

    def __init__(
        self, live: LiveRevision, ledger: Ledger, thread: LedgerThread, clock: Clock, lease_for_us: int
    ) -> None:
        self._live = live
        self._ledger = ledger
        self._thread = thread
        self._clock = clock
        self._lease_for_us = lease_for_us
        self._news: dict[str, asyncio.Event] = {}

    def check_channel(self, channel: str) -> None:
        """Raises `InvalidRequestError` unless it is a declared automatic channel."""
        known = self._live.current.rulebase.vocabulary.channels
        if channel not in known or known[channel].mode is not Mode.AUTOMATIC:
            automatic = sorted(c.name for c in known.values() if c.mode is Mode.AUTOMATIC)
            raise InvalidRequestError("channel", f"channel must be one of: {', '.join(automatic)}")

    def announce(self, verdicts: Sequence[Verdict]) -> None:
        """Wake the clients of every channel that has something new. Called after a commit."""
        for verdict in verdicts:
            for decision in verdict.decisions:
                if decision.reason is Reason.DECIDED and decision.mode is Mode.AUTOMATIC:
                    self._channel_news(decision.channel).set()

    def _channel_news(self, channel: str) -> asyncio.Event:
        return self._news.setdefault(channel, asyncio.Event())

    async def news(self, channel: str, timeout_seconds: float) -> None:
        """Wait until the channel may have something to lease, or the time is over: leases run out and
        retries fall due without an announcement."""
        event = self._channel_news(channel)
        try:
            await asyncio.wait_for(event.wait(), timeout_seconds)
        except TimeoutError:
            return
        event.clear()

    async def lease(self, channel: str, limit: int) -> list[Lease]:
        """Up to `limit` deliveries for a client with so much credit left. May be empty."""
        leases = await self._thread.run(self._lease, channel, limit)
        if len(leases) == limit:
            self._channel_news(channel).set()  # there may be more for another client
        return leases

    def _lease(self, channel: str, limit: int) -> list[Lease]:
        with self._ledger.transaction() as tx:
            return tx.lease(channel, limit, self._clock.now_us(), self._lease_for_us, MAX_ATTEMPTS)

    async def settle(self, settled: Sequence[Settled]) -> list[bool]:
        """Apply what a client says of its leases, in one transaction. False: the lease was not the newest
        any more (it ran out and was given again), so its word does not count; or no such delivery."""
        return await self._thread.run(self._settle, settled)

    def _settle(self, settled: Sequence[Settled]) -> list[bool]:
        now_us = self._clock.now_us()
        answers = []
        with self._ledger.transaction() as tx:
            for item in settled:
                retry_at_us = now_us + RETRY_AFTER_US * 2 ** (max(item.attempt, 1) - 1)
                try:
                    answers.append(
                        tx.settle(item.decision_id, item.token, item.settlement, now_us, retry_at_us)
                    )
                except UnknownDecisionError:
                    answers.append(False)
        return answers

    async def standings(self, decision_ids: Collection[str]) -> dict[str, Standing]:
        """Where these deliveries stand; without those that do not exist."""
        return await self._thread.run(self._standings, decision_ids)

    def _standings(self, decision_ids: Collection[str]) -> dict[str, Standing]:
        found = {}
        for decision_id in decision_ids:
            delivery = self._ledger.delivery_of(decision_id)
            if delivery is not None:
                found[decision_id] = Standing(self._channel_of(decision_id), *delivery)
        return found

    def _channel_of(self, decision_id: str) -> str:
        verdict = self._ledger.verdict_of(decision_id)
        return next((d.channel for d in verdict.decisions if d.id == decision_id), "") if verdict else ""

    async def report_receipts(self, channel: str, reported: Sequence[Reported]) -> list[bool | None]:
        """Note what became of contacts on a channel, in one transaction. False: it was known; None: the
        channel made no such contact."""
        return await self._thread.run(self._report_receipts, channel, reported)

    def _report_receipts(self, channel: str, reported: Sequence[Reported]) -> list[bool | None]:
        answers: list[bool | None] = []
        with self._ledger.transaction() as tx:
            for item in reported:
                try:
                    known = self._channel_of(item.decision_id) == channel
                    answers.append(
                        tx.record_outcome(item.decision_id, item.kind, item.at_us) if known else None
                    )
                except UnknownDecisionError:
                    answers.append(None)
        return answers

    async def report_outcome(self, decision_id: str, kind: OutcomeKind, at_us: int) -> bool:
        """Note what became of a contact; False if it was known. Raises `UnknownDecisionError`."""
        return await self._thread.run(self._report_outcome, decision_id, kind, at_us)

    def _report_outcome(self, decision_id: str, kind: OutcomeKind, at_us: int) -> bool:
        with self._ledger.transaction() as tx:
            return tx.record_outcome(decision_id, kind, at_us)
