"""One write to the ledger: each method is a function of the module that knows its tables."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import sqlalchemy as sa
from opportune_rulebase.policies import OutcomeKind

from opportune_service.adapters.sql import (
    audit,
    contact_view,
    counters,
    deliveries,
    erase,
    heartbeat,
    histories,
    locks,
    log,
    members,
    outcomes,
    pauses,
    prune,
    quarantine,
    responses,
    rulebases,
    states,
    sweeps,
    verdicts,
)
from opportune_service.adapters.sql.unit import begin_unit
from opportune_service.app.records import (
    ActivationMode,
    Aged,
    DeliveryState,
    ForeignContact,
    Lease,
    LogRow,
    Pause,
    Quarantined,
    Redriven,
    RulebaseRow,
    Settlement,
    Step,
    StepKind,
    Sweep,
    Waiting,
)
from opportune_service.core.erase import Erasing
from opportune_service.core.verdict import (
    EventKey,
    History,
    Outcome,
    Response,
    Touch,
    Usage,
    UsageKey,
    Verdict,
)
from opportune_service.core.watermarks import SourceMark


class SqlTransaction:
    """`LedgerTransaction` on one connection. After an error leave the block: it must be rolled back.
    `erased`: whether somebody was."""

    def __init__(self, connection: sa.Connection) -> None:
        begin_unit(connection)
        self._connection = connection
        self.erased = False

    def finish(self) -> None:
        """The last thing in the block, if nothing was raised."""
        counters.put_down(self._connection)

    def join(self, position: int) -> int:
        return members.join(self._connection, position)

    def beat(self, member: int) -> None:
        members.beat(self._connection, member)

    def expel(self, member: int) -> None:
        members.expel(self._connection, member)

    def leave(self, member: int) -> None:
        members.leave(self._connection, member)

    def outlast(self, member: int) -> None:
        members.outlast(self._connection, member)

    def guard(self, member: int, generation: int) -> None:
        members.guard(self._connection, member, generation)

    def advance(self) -> int:
        return members.advance(self._connection)

    def lock(
        self,
        subscriber_ids: Collection[str],
        names: Collection[str] = (),
        decision_ids: Collection[str] = (),
    ) -> None:
        locks.hold(self._connection, subscriber_ids, names, decision_ids)

    def save_live_state_id(self, id_: str) -> None:
        members.save_live_state_id(self._connection, id_)

    def append_log(self, rows: Sequence[LogRow]) -> None:
        log.append_log(self._connection, rows)

    def verdicts(self, keys: Collection[EventKey]) -> dict[EventKey, Verdict]:
        return verdicts.verdicts_of(self._connection, keys)

    def histories(self, subscriber_ids: Collection[str], since_us: int, now_us: int) -> dict[str, History]:
        return histories.histories_of(self._connection, subscriber_ids, since_us, now_us)

    def usage(self, keys: Collection[UsageKey]) -> Usage:
        return counters.usage_at(self._connection, keys)

    def paused(self) -> frozenset[str]:
        return frozenset(each.campaign for each in pauses.pauses(self._connection))

    def pause(self, pause: Pause) -> bool:
        return pauses.pause(self._connection, pause)

    def resume(self, campaign: str, at_us: int, by: str, reason: str) -> bool:
        return pauses.resume(self._connection, campaign, at_us, by, reason)

    def record_verdicts(self, decided: Sequence[Verdict]) -> None:
        verdicts.record_verdicts(self._connection, decided)

    def record_outcome(self, decision_id: str, kind: OutcomeKind, at_us: int, detail: str = "") -> bool:
        return outcomes.record_outcome(self._connection, decision_id, kind, at_us, detail)

    def respond(self, responded: Sequence[Response]) -> list[Outcome]:
        return responses.respond(self._connection, responded)

    def record_touches(self, touches: Sequence[Touch]) -> None:
        contact_view.record_touches(self._connection, touches)

    def count_events(self, counts: Mapping[tuple[str, int], int]) -> None:
        counters.count_events(self._connection, counts)

    def record_contacts(self, contacts: Sequence[ForeignContact]) -> list[bool]:
        return contact_view.record_contacts(self._connection, contacts)

    def complaint_rate(self, campaign: str, since_us: int) -> tuple[int, int]:
        return outcomes.complaint_rate(self._connection, campaign, since_us)

    def waiting(self, channel: str, limit: int, now_us: int) -> Sequence[Waiting]:
        return deliveries.waiting(self._connection, channel, limit, now_us)

    def lease(self, leases: Sequence[Lease], day: int) -> None:
        deliveries.lease(self._connection, leases, day)

    def postpone(self, decision_ids: Collection[str], until_us: int) -> None:
        deliveries.postpone(self._connection, decision_ids, until_us)

    def end_deliveries(self, ended: Mapping[str, DeliveryState], now_us: int, detail: str = "") -> None:
        deliveries.end_deliveries(self._connection, ended, now_us, detail)

    def expire(self, now_us: int, limit: int) -> int:
        return deliveries.expire(self._connection, now_us, limit)

    def settle(
        self,
        decision_id: str,
        token: int,
        settlement: Settlement,
        now_us: int,
        retry_at_us: int,
        detail: str = "",
    ) -> bool:
        return deliveries.settle(
            self._connection, decision_id, token, settlement, now_us, retry_at_us, detail
        )

    def redrive(self, redriven: Sequence[Redriven], now_us: int, by: str, reason: str) -> None:
        deliveries.redrive(self._connection, redriven, now_us)
        about = [each.contact.decision_id for each in redriven]
        audit.note_action(self._connection, now_us, by, "redrive", about, reason)

    def erase(self, erasing: Erasing, at_us: int, by: str, reason: str) -> bool:
        self.erased = True
        return erase.erase(self._connection, erasing, at_us, by, reason)

    def blot_out(self, erasing: Erasing, others: Collection[str]) -> None:
        erase.blot_out(self._connection, erasing, others)

    def replace_log(self, rows: Sequence[LogRow]) -> None:
        log.replace_log(self._connection, rows)

    def save_rulebase(
        self, row: RulebaseRow, archive: bytes, signature: bytes = b"", *, replace: bool = False
    ) -> bool:
        return rulebases.save_rulebase(self._connection, row, archive, signature, replace)

    def activate(
        self,
        revision: str,
        expected: str,
        at_us: int,
        by: str,
        comment: str,
        coverage: Mapping[str, int],
        backfill: Collection[str] = (),
        mode: ActivationMode = ActivationMode.FULL,
        share: int = 0,
        kind: StepKind = StepKind.ACTIVATED,
    ) -> None:
        step = Step(revision, at_us, by, kind, comment, mode, share)
        rulebases.activate(self._connection, step, expected, coverage, backfill)

    def note_step(self, step: Step) -> None:
        rulebases.note_step(self._connection, step)

    def finish_backfill(self, keys: Collection[str], since_us: Mapping[str, int]) -> None:
        rulebases.finish_backfill(self._connection, keys, since_us)

    def finish_sweeps(self, done: Collection[Sweep], forget_before_us: int) -> None:
        sweeps.finish_sweeps(self._connection, done, forget_before_us)

    def quarantine(self, rejected: Sequence[Quarantined], most: int) -> None:
        quarantine.quarantine(self._connection, rejected, most)

    def save_states(self, saved: Iterable[tuple[str, int, bytes]]) -> None:
        states.save_states(self._connection, saved)

    def save_checkpoint(self, position: int, member: int = 0) -> None:
        members.save_checkpoint(self._connection, position, member)

    def save_heartbeat(self, alive_us: int, sources: Mapping[str, SourceMark]) -> None:
        heartbeat.save_heartbeat(self._connection, alive_us, sources)

    def reset_coverage(self, keys: Collection[str], since_us: int) -> None:
        rulebases.reset_coverage(self._connection, keys, since_us)

    # -- housekeeping -----------------------------------------------------------------------------

    def prune(self, aged: Sequence[Aged]) -> int:
        return prune.prune(self._connection, aged)
