"""Read what a rehearsal needs of the service's own record, some rows at a time, so that commits keep their
turn. Nothing is written.

What was at an instant in the past is told by what is there now, and by the log:

- Context: the last snapshots, with when each part was said; the log has what was said before.
- Contacts, outcomes, counters: as they stand, without what came since. What was released since counted
  then, and is left out.
- Deferrals: the decisions that deferred something to a later instant.
- All else, metrics and patterns: the events of the log, folded anew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Collection, Sequence
from itertools import islice

from opportune_rulebase.model import Rulebase

from opportune_service.app.ledger_thread import LedgerThread
from opportune_service.app.ports import Ledger
from opportune_service.app.records import DecisionFilter, LogKind, LogRow
from opportune_service.app.recover import LOG_KEY
from opportune_service.app.rehearsal import Input, Past, Person, Recorded, Spent
from opportune_service.core.calendars import DAY_US, local_day
from opportune_service.core.decide import deferral_of
from opportune_service.core.events import MAX_SKEW_US
from opportune_service.core.revision import lookback_us
from opportune_service.core.verdict import (
    Deferral,
    EventKey,
    History,
    Reason,
    Usage,
    UsageKey,
    UsageKind,
    usage_of,
)

_PEOPLE = 200
_ROWS = 16
_DECISIONS = 200
"""Read at a time: each takes some milliseconds."""

_DEFERRING = (
    Reason.QUIET_HOURS,
    Reason.CAPPED,
    Reason.QUOTA,
    Reason.CAPACITY,
    Reason.NO_CHANNEL,
    Reason.SETTLING,
)
_KINDS = (LogKind.EVENTS, LogKind.CONTEXT)


class Record:
    """The record of a service, to be read as of `since_us` for these rulebases."""

    def __init__(
        self, ledger: Ledger, thread: LedgerThread, rulebases: Collection[Rulebase], since_us: int
    ) -> None:
        self._ledger = ledger
        self._thread = thread
        self._rulebases = rulebases
        self._since_us = since_us
        self._lookback_us = max(map(lookback_us, rulebases))
        self._later: Counter[UsageKey] = Counter()

    # -- the log --------------------------------------------------------------------------------------

    async def begins_us(self) -> tuple[int, int]:
        """Since when the log has every event, an instant far away if it has none; and when its first row
        came in, 0 if there were others before it, which were pruned."""
        return await self._thread.run(self._begins_us)

    def _begins_us(self) -> tuple[int, int]:
        first = next(self._ledger.read_log(0), None)
        if first is None:
            return 2**62, 0
        listening_us = self._ledger.coverage().get(LOG_KEY, 0)
        if first.position > 1:
            return max(listening_us, first.now_us + MAX_SKEW_US), 0
        # It goes back to when the service was first told what to listen to.
        return listening_us, first.now_us

    async def recorded(self, from_us: int, until_us: int) -> AsyncIterator[Recorded]:
        """What came in in [from, until), in order, of what is in the log by now."""
        last, after = await self._thread.run(self._range, from_us)
        while after < last and (rows := await self._thread.run(self._rows, after)):
            for row in rows:
                after = row.position
                if after > last or row.now_us >= until_us + MAX_SKEW_US:
                    return
                if row.kind in _KINDS and from_us <= row.now_us < until_us:
                    yield Recorded(row.kind, row.source, row.now_us, row.payload)

    def _range(self, from_us: int) -> tuple[int, int]:
        """The last position, and one before the first row of that time. Clocks may have been set a little:
        it is looked for with room to spare."""
        last = self._ledger.last_position()
        low, high = 0, last
        while low < high:
            middle = (low + high) // 2
            row = next(self._ledger.read_log(middle), None)
            if row is not None and row.now_us < from_us - MAX_SKEW_US:
                low = max(row.position, middle + 1)
            else:
                high = middle
        return last, low

    def _rows(self, after: int) -> list[LogRow]:
        return list(islice(self._ledger.read_log(after), _ROWS))

    # -- what was before ------------------------------------------------------------------------------

    async def before(self) -> AsyncIterator[Input]:
        """Everybody, their past, what they wait for, and what was used up."""
        after = ""
        while ids := await self._thread.run(self._ledger.snapshot_ids, after, _PEOPLE):
            after = ids[-1]
            for each in await self._thread.run(self._people, ids):
                yield each
        async for deferral in self._deferrals():
            yield Past(deferral.subscriber_id, History(deferrals=[deferral]))
        yield Spent(tuple((await self._thread.run(self._usage)).items()))

    def _people(self, ids: Sequence[str]) -> list[Input]:
        since_us = self._since_us
        found: list[Input] = [Person(id_, body) for id_, _, body in self._ledger.load_states(ids)]
        with self._ledger.transaction() as tx:
            histories = tx.histories(ids, since_us - self._lookback_us, since_us)
        for id_, history in histories.items():
            for contact in history.contacts:
                if contact.at_us >= since_us:
                    self._later.update(usage_of(contact))
            contacts = [each for each in history.contacts if each.at_us < since_us]
            outcomes = [each for each in history.outcomes if each.at_us < since_us]
            if contacts or outcomes:
                found.append(Past(id_, History(contacts=contacts, outcomes=outcomes)))
        return found

    async def _deferrals(self) -> AsyncIterator[Deferral]:
        """What was deferred before and fell due later: of a subscriber and campaign the last one."""
        longest_us = max(
            (each.expires_after_us for rulebase in self._rulebases for each in rulebase.campaigns.values()),
            default=0,
        )
        where = DecisionFilter(
            reasons=_DEFERRING, from_us=max(1, self._since_us - longest_us - DAY_US), to_us=self._since_us
        )
        waiting: dict[tuple[str, str], Deferral] = {}
        after = 0
        while found := await self._thread.run(self._deferring, where, after):
            after = found[0]
            waiting |= {(each.subscriber_id, each.campaign): each for each in found[1]}
        for deferral in waiting.values():
            yield deferral

    def _deferring(self, where: DecisionFilter, after: int) -> tuple[int, list[Deferral]] | None:
        rows = self._ledger.decisions(where, after, _DECISIONS, newest_first=False)
        if not rows:
            return None
        wanted = {row.decision_id for row in rows}
        keys: set[EventKey] = {row.key for row in rows}
        with self._ledger.transaction() as tx:
            verdicts = tx.verdicts(keys)
        found = []
        for row in rows:
            verdict = verdicts.get(row.key)
            for decision in verdict.decisions if verdict else ():
                deferral = deferral_of(row.key.subscriber_id, decision)
                if decision.id == row.decision_id and decision.id in wanted and deferral is not None:
                    found.append(deferral)
        due = [each for each in found if each.due_us >= self._since_us]
        return rows[-1].cursor, due

    def _usage(self) -> Usage:
        """The counters as they stand, without what was used since; those of the day and hour of then, and
        those for good."""
        keys: set[UsageKey] = set()
        for rulebase in self._rulebases:
            day = local_day(self._since_us, rulebase.time_zone)
            for name in rulebase.campaigns:
                keys |= {UsageKey(UsageKind.CAMPAIGN_TOTAL, name), UsageKey(UsageKind.CAMPAIGN_COST, name)}
                keys.add(UsageKey(UsageKind.CAMPAIGN_DAY, name, day))
                keys.add(UsageKey(UsageKind.CAMPAIGN_HOUR, name, self._since_us // 3_600_000_000))
            keys |= {UsageKey(UsageKind.CHANNEL_DAY, name, day) for name in rulebase.vocabulary.channels}
        with self._ledger.transaction() as tx:
            usage = tx.usage(keys)
        return {key: max(0, value - self._later[key]) for key, value in usage.items()}
