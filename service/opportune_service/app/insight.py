"""Explain decisions, list them, and list what was rejected. Reads only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from opportune_service.app.errors import NotFoundError, UnknownDecisionError
from opportune_service.app.ledger_thread import LedgerThread
from opportune_service.app.ports import Ledger
from opportune_service.app.records import (
    DecisionFilter,
    DecisionRow,
    DeliveryState,
    Quarantined,
    QuarantineFilter,
)
from opportune_service.core.verdict import EventKey, Outcome, Verdict

_PIECE = 50
# Decisions read from the ledger in one go: more would keep commits waiting.


@dataclass(frozen=True, slots=True)
class Explanation:
    """A verdict with all its candidates; for one decision also its delivery and outcomes so far.

    `delivery` is (state, attempts), None if nothing is delivered for it.
    """

    verdict: Verdict
    decision_id: str
    delivery: tuple[DeliveryState, int] | None
    outcomes: Sequence[Outcome]


class Insight:
    """What operators and analysts ask of the ledger."""

    def __init__(self, ledger: Ledger, thread: LedgerThread) -> None:
        self._ledger = ledger
        self._thread = thread

    async def explain_decision(self, decision_id: str) -> Explanation:
        """Raises `UnknownDecisionError`."""
        return await self._thread.run(self._explain, decision_id)

    def _explain(self, decision_id: str) -> Explanation:
        verdict = self._ledger.verdict_of(decision_id)
        if verdict is None:
            raise UnknownDecisionError("no decision has this id")
        return Explanation(
            verdict,
            decision_id,
            self._ledger.delivery_of(decision_id),
            self._ledger.outcomes_of(decision_id),
        )

    async def explain_event(self, key: EventKey) -> Explanation:
        """Raises `NotFoundError` when the event had no candidates or never came."""
        verdict = await self._thread.run(self._ledger.verdict, key)
        if verdict is None:
            raise NotFoundError("no verdict: the event had no candidates, or never came")
        return Explanation(verdict, "", None, ())

    async def explain_rows(self, rows: Sequence[DecisionRow]) -> list[Explanation]:
        """The explanation of each of these decisions. Commits get their turn in between."""
        explained: list[Explanation] = []
        for start in range(0, len(rows), _PIECE):
            explained += await self._thread.run(self._explain_all, rows[start : start + _PIECE])
        return explained

    def _explain_all(self, rows: Sequence[DecisionRow]) -> list[Explanation]:
        return [self._explain(row.decision_id) for row in rows]

    async def decisions(
        self, where: DecisionFilter, after: int, limit: int, newest_first: bool
    ) -> Sequence[DecisionRow]:
        """A page of the list of decisions beyond cursor `after`; 0 starts at the end that comes first."""
        return await self._thread.run(self._ledger.decisions, where, after, limit, newest_first)

    async def decided_up_to(self) -> int:
        """See `Ledger.decided_up_to`."""
        return await self._thread.run(self._ledger.decided_up_to)

    async def quarantined(
        self, where: QuarantineFilter, before: int, limit: int
    ) -> Sequence[tuple[int, Quarantined]]:
        """A page of rejected events with their cursors, newest first, beyond cursor `before`; 0 begins with
        the newest."""
        return await self._thread.run(self._ledger.quarantined, where, before, limit)
