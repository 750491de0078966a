"""Decisions with their traces, as the contract shows them."""

from __future__ import annotations

from collections.abc import Sequence

from opportune.v1 import types_pb2 as types
from opportune_rulebase import Rulebase

from opportune_service.adapters.grpc.words import (
    fate_number,
    json_text,
    mode_number,
    optional_timestamp,
    outcome_number,
    reason_number,
    state_number,
    timestamp,
)
from opportune_service.app.records import DeliveryState
from opportune_service.core.verdict import Check, Decision, Outcome, Reason, Verdict

# The reason with which each step of a decision ends a candidate.
_STEPS = {
    "fresh_for": Reason.STALE,
    "live": Reason.NOT_LIVE,
    "context": Reason.NO_CONTEXT,
    "eligible": Reason.NOT_ELIGIBLE,
    "do_not_contact": Reason.SUPPRESSED,
    "consent": Reason.SUPPRESSED,
    "suppress": Reason.SUPPRESSED,
    "cool_down": Reason.COOLING_OFF,
    "one_story": Reason.INCONSISTENT,
    "settle": Reason.SETTLING,
    "arbitration": Reason.OUTRANKED,
    "channel": Reason.NO_CHANNEL,
    "quiet_hours": Reason.QUIET_HOURS,
    "cap": Reason.CAPPED,
    "quota": Reason.QUOTA,
    "capacity": Reason.CAPACITY,
    "control": Reason.CONTROL,
}


def decision_message(
    verdict: Verdict,
    decision: Decision,
    rulebase: Rulebase | None,
    delivery: DeliveryState | None,
    outcomes: Sequence[Outcome],
    *,
    trace: bool,
) -> types.Decision:
    """One decision of a verdict. `rulebase` is that of the verdict's revision; without it there are no
    labels and expressions."""
    campaign = rulebase.campaigns.get(decision.campaign) if rulebase else None
    product = rulebase.vocabulary.products.get(decision.product) if rulebase else None
    return types.Decision(
        decision_id=decision.id,
        subscriber_id=verdict.key.subscriber_id,
        source=verdict.key.source,
        event_id=verdict.key.event_id,
        event_type=verdict.event_type,
        campaign=decision.campaign,
        campaign_label=campaign.label if campaign else "",
        product=decision.product,
        product_label=product.label if product else "",
        category=decision.category,
        mode=mode_number(decision.mode),
        reason=reason_number(decision.reason),
        fate=fate_number(decision.fate),
        channel=decision.channel,
        content=decision.content,
        occurred_at=timestamp(verdict.occurred_at_us),
        decided_at=timestamp(verdict.decided_at_us),
        expires_at=optional_timestamp(decision.expires_at_us),
        due_at=optional_timestamp(decision.due_us),
        attempt=decision.attempt,
        revision=verdict.revision,
        activation_mode=types.ACTIVATION_MODE_FULL,
        shown=decision.shown,
        prompt_of=decision.prompt_of,
        delivery_state=state_number(delivery),
        outcomes=[
            types.Outcome(
                kind=outcome_number(each.kind), occurred_at=timestamp(each.at_us), detail=each.detail
            )
            for each in outcomes
        ],
        trace=_trace(decision, rulebase) if trace else None,
    )


def verdict_message(verdict: Verdict, decisions: Sequence[types.Decision]) -> types.Verdict:
    """A verdict with its decisions, best first."""
    return types.Verdict(
        subscriber_id=verdict.key.subscriber_id,
        source=verdict.key.source,
        event_id=verdict.key.event_id,
        event_type=verdict.event_type,
        occurred_at=timestamp(verdict.occurred_at_us),
        decided_at=timestamp(verdict.decided_at_us),
        revision=verdict.revision,
        decisions=decisions,
    )


def best_first(decisions: Sequence[Decision]) -> list[Decision]:
    """What was decided, then the rest, each in the order of arbitration."""
    return sorted(
        decisions, key=lambda d: (d.reason is not Reason.DECIDED, -d.priority, -d.score, d.campaign)
    )


def _trace(decision: Decision, rulebase: Rulebase | None) -> types.Trace:
    trace = types.Trace(
        findings=[_finding(name, value, rulebase) for name, value in decision.held.items()],
        checks=[_check(check) for check in decision.checks],
    )
    if decision.rank:
        trace.arbitration.CopyFrom(
            types.Arbitration(
                priority=decision.priority,
                value=decision.value,
                propensity=decision.propensity,
                score=decision.score,
                rank=decision.rank,
                lost_to=decision.lost_to,
                group=decision.group,
            )
        )
    return trace


def _finding(name: str, value: object, rulebase: Rulebase | None) -> types.Finding:
    definition = rulebase.definitions.get(name) if rulebase else None
    return types.Finding(
        name=name,
        label=definition.label if definition else "",
        expression=definition.when.text if definition else "",
        value_json=None if value is None else json_text(value),
    )


def _check(check: Check) -> types.PolicyCheck:
    reason = _STEPS.get(check.policy)
    return types.PolicyCheck(
        reason=types.REASON_UNSPECIFIED if reason is None else reason_number(reason),
        policy=check.policy,
        channel=check.channel,
        passed=check.passed,
        detail=check.detail,
        count=check.count,
        limit=check.limit,
        clear_at=optional_timestamp(check.clear_us),
    )
